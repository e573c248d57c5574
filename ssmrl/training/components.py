"""The registries a run is put together from, handed in rather than imported.

Training sits below agents and environments in the import order, so the command line receives what
it may choose from. `ssmrl.experiment` fills this with the library's own registries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Components:
    """Named agents, memories and environments, and how to make one of each.

    Every ``list_*`` and ``*_config`` is called only when it is needed: ``--help`` must not pay for
    importing what it does not show.
    """

    list_agents: Callable[[], Sequence[str]]
    agent_config: Callable[[str], type]
    """name -> dataclass with at least ``name`` and ``num_envs``."""

    list_memories: Callable[[], Sequence[str]]
    memory_config: Callable[[str], type]
    """name -> dataclass with at least ``name``."""

    list_envs: Callable[[], Sequence[str]]
    canonical_name: Callable[[str], str]
    """Any accepted spelling -> the registry's; ValueError with the near match otherwise."""

    make_vector: Callable[..., Any]
    """(name, num_envs, *, previous_action, previous_reward, first_flag, **kwargs) -> VectorEnv.

    What `ssmrl.training.config.obscuring` gives of a configuration is among the others.
    """

    make_agent: Callable[..., Any]
    """(agent config, memory config, VectorEnv, *, total_steps, skip_nonfinite) -> Agent."""

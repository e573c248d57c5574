"""Agents by name. This module is cheap to import; an agent's own file is imported on first use."""

import difflib
from importlib import import_module
from typing import Any

_AGENTS = {
    "dreamer": ("ssmrl.agents.dreamer", "DreamerConfig", "make_dreamer"),
    "dreamerv3": ("ssmrl.agents.dreamer", "DreamerV3Config", "make_dreamer"),
    "ppo": ("ssmrl.agents.ppo", "PPOConfig", "make_ppo"),
    "pqn": ("ssmrl.agents.pqn", "PQNConfig", "make_pqn"),
    "r2i": ("ssmrl.agents.dreamer", "R2IConfig", "make_dreamer"),
}


class UnknownAgentError(ValueError):
    """No agent is registered under that name."""


def list_agents() -> list[str]:
    """The names that `make_agent` knows."""
    return sorted(_AGENTS)


def register(name: str, module: str, config: str, factory: str) -> None:
    """Make an agent available as `agent=<name>`.

    Args:
        name: lower-case name, not yet taken.
        module: import path of the module that holds it.
        config: name of its configuration dataclass there.
        factory: name of the function that builds it, called as `make_agent` describes.

    Raises:
        ValueError: where the name is taken.
    """
    if name in _AGENTS:
        raise ValueError(f"agent {name!r} is registered already")
    _AGENTS[name] = (module, config, factory)


def agent_config(name: str) -> type:
    """The configuration dataclass of the named agent."""
    module, config, _ = _lookup(name)
    return getattr(import_module(module), config)


def make_agent(
    agent_cfg: Any, memory_cfg: Any, venv: Any, *, total_steps: int, skip_nonfinite: bool = False
) -> Any:
    """Build an agent (see `ssmrl.training.agent.Agent`).

    Args:
        agent_cfg: an instance of `agent_config(name)`; its `name` chooses the agent.
        memory_cfg: an instance of `ssmrl.memory.memory_config(name)`.
        venv: the batched environment to train in.
        total_steps: environment steps of the whole training, for schedules.
        skip_nonfinite: leave out updates whose gradients are not finite.

    Raises:
        UnknownAgentError: for an unknown name.
        ValueError: where configuration and environment do not fit.
    """
    module, _, factory = _lookup(agent_cfg.name)
    build = getattr(import_module(module), factory)
    return build(
        agent_cfg, memory_cfg, venv, total_steps=total_steps, skip_nonfinite=skip_nonfinite
    )


def _lookup(name: str) -> tuple[str, str, str]:
    if name not in _AGENTS:
        match = difflib.get_close_matches(name, _AGENTS, n=1)
        hint = f"; did you mean {match[0]!r}?" if match else ""
        raise UnknownAgentError(f"unknown agent {name!r}{hint}; available: {list_agents()}")
    return _AGENTS[name]

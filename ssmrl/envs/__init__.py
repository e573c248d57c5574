"""Environments: JAX-native ones, and adapters that make others look the same.

``make(name)`` gives one environment with gymnax 1.x's contract, ``make_vector(name, num_envs)`` a
batch with auto-reset, which is what agents take; ``list_envs()`` lists the names:

- ``popgym/…``: POPGym in JAX, rule for rule;
- ``bsuite/…``: bsuite's memory and credit assignment experiments in JAX;
- ``memory_maze/…``: Memory Maze in JAX, and its variants;
- ``meta/…``: episodes of several trials in one task, for in-context reinforcement learning;
- ``worlds/…``: small worlds for world models that must remember;
- ``gymnax/…``, ``brax/…`` and ``xland/…`` (XLand-MiniGrid): the environments of those packages;
- ``gymnasium/<id>``, ``popgym_original/…`` and ``memory_maze_original/…``: Python environments,
  stepped on the host.

``make_vector(..., observe="positions", flicker=0.5)`` and the like leave less to know of any of
them: :func:`obscure`.

Importing this package imports none of those packages: each is imported when one of its environments
is made.
"""

from __future__ import annotations

from ssmrl.envs import spaces
from ssmrl.envs.batching import any_across_batch
from ssmrl.envs.contract import EnvironmentFault
from ssmrl.envs.environment import Environment
from ssmrl.envs.partial_observability import obscure
from ssmrl.envs.registry import (
    UnknownEnvironmentError,
    canonical_name,
    list_envs,
    make,
    make_vector,
    register,
    register_suite,
)
from ssmrl.envs.suites import register_all as _register_all
from ssmrl.envs.vector import JaxVectorEnv, VectorEnv, VectorState
from ssmrl.envs.wrappers import EpisodeStatistics, ObservationExtras, VectorWrapper

__all__ = [
    "Environment",
    "EnvironmentFault",
    "EpisodeStatistics",
    "JaxVectorEnv",
    "ObservationExtras",
    "UnknownEnvironmentError",
    "VectorEnv",
    "VectorState",
    "VectorWrapper",
    "any_across_batch",
    "canonical_name",
    "list_envs",
    "make",
    "make_vector",
    "obscure",
    "register",
    "register_suite",
    "spaces",
]

_register_all()

"""brax's environments (Freeman et al., 2021) as ours.

brax's own auto-reset returns to the episode's first state and loses the observation that ended it;
its wrappers are not used. ``done`` of brax is termination here, and the time limit truncation. The
numbers in ``metrics`` of brax's state are ``info`` here.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, PRNGKeyArray

from ssmrl.envs.adapters import require
from ssmrl.envs.adapters._types import cast, stable_types
from ssmrl.envs.batching import select
from ssmrl.envs.environment import Environment, Leaf, Transition
from ssmrl.envs.spaces import Box, Dict, Space

ENVIRONMENTS = {
    "ant": "ant",
    "fast": "fast",
    "half_cheetah": "halfcheetah",
    "hopper": "hopper",
    "humanoid": "humanoid",
    "humanoid_standup": "humanoidstandup",
    "inverted_double_pendulum": "inverted_double_pendulum",
    "inverted_pendulum": "inverted_pendulum",
    "pusher": "pusher",
    "reacher": "reacher",
    "walker2d": "walker2d",
}
"""Canonical id to brax's, which is accepted too."""

UNAVAILABLE = {
    "swimmer": "brax's model of fluids calls jnp.clip(a_min=…), which today's jax no longer takes",
}
"""What brax has and cannot run itself, and why."""


@struct.dataclass
class EnvParams:
    """``episode_length`` in steps of the physics, of which each action lasts ``action_repeat``."""

    episode_length: Leaf = 1000
    action_repeat: int = struct.field(pytree_node=False, default=1)


@struct.dataclass
class EnvState:
    """brax's state and the steps of the physics since the episode began."""

    inner: Any
    time: Leaf


def make_brax(
    brax_id: str, *, episode_length: int = 1000, action_repeat: int = 1, **kwargs: Any
) -> tuple[Environment, EnvParams]:
    """A brax environment and its parameters.

    Args:
        brax_id: one of the values of :data:`ENVIRONMENTS`.
        episode_length: steps of the physics after which an episode is truncated.
        action_repeat: steps of the physics that an action lasts; the reward is their sum.
        **kwargs: arguments of the environment's class, ``backend`` above all: ``"generalized"``,
            ``"spring"``, ``"positional"`` or ``"mjx"``.

    Raises:
        ImportError: if brax is not installed.
        ValueError: for unknown options and lengths below 1.
    """
    if episode_length < 1 or action_repeat < 1:
        raise ValueError(
            f"episode_length and action_repeat must be positive, "
            f"got {episode_length} and {action_repeat}"
        )
    envs = require("brax.envs", "brax")
    try:
        inner = envs.get_environment(brax_id, **kwargs)
    except TypeError as error:
        raise ValueError(f"brax/{brax_id}: {error}") from error
    params = EnvParams(episode_length=episode_length, action_repeat=action_repeat)
    return BraxEnvironment(inner, brax_id, params), params


class BraxEnvironment(Environment[EnvState, EnvParams]):
    """A brax environment under our contract. Actions: ``Box(-1, 1)``.

    Args:
        env: the brax environment, without wrappers.
        brax_id: its name.
        params: parameters to take as the default ones.
    """

    def __init__(self, env: Any, brax_id: str, params: EnvParams):
        self._env = env
        self._id = brax_id
        self._params = params
        zeros = jnp.zeros(env.action_size)
        self._types, first = stable_types(env.reset, lambda key, state: self._move(state, zeros))
        self._observation_space = _space_of(first.obs)

    @property
    def name(self) -> str:
        return self._id

    @property
    def default_params(self) -> EnvParams:
        return self._params

    def observation_space(self, params: EnvParams) -> Space:
        return self._observation_space

    def action_space(self, params: EnvParams) -> Box:
        return Box(-1.0, 1.0, (self._env.action_size,), np.float32)

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Any, EnvState]:
        inner = cast(self._env.reset(key), self._types)
        return inner.obs, EnvState(inner=inner, time=jnp.int32(0))

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        def once(carry: Any, _: None) -> tuple[Any, Array]:
            inner, over = carry
            after = cast(self._move(inner, action), self._types)
            # Nothing moves and nothing is paid once the episode is over within an action's repeats.
            inner = select(over, inner, after)
            reward = jnp.where(over, 0.0, after.reward).astype(jnp.float32)
            return (inner, over | (inner.done > 0.5)), reward

        start = (state.inner, jnp.asarray(False))
        if params.action_repeat == 1:
            (inner, over), reward = once(start, None)
        else:
            (inner, over), rewards = jax.lax.scan(once, start, None, params.action_repeat)
            reward = rewards.sum()
        time = state.time + params.action_repeat
        truncated = time >= params.episode_length
        info = {name: x for name, x in inner.metrics.items() if jnp.shape(x) == ()}
        return inner.obs, EnvState(inner=inner, time=time), reward, over, truncated, info

    def _move(self, state: Any, action: Any) -> Any:
        """brax's step. Some of its environments write into the metrics of the state they are given:
        theirs is a copy, or the state before would show what comes after."""
        return self._env.step(jax.tree.map(lambda x: x, state), action)


def _space_of(obs: Any) -> Space:
    if isinstance(obs, dict):
        return Dict({name: _space_of(part) for name, part in obs.items()})
    return Box(-np.inf, np.inf, obs.shape, obs.dtype)

"""gymnax's environments (Lange, 2022) as ours.

Their ``reset_env``, ``step_env`` and ``is_truncated`` are called directly: gymnax's own ``step``
draws a new episode at every step. Spaces are converted, and dtypes that wander between reset and
step, or that disagree with the space, are settled here.
"""

from __future__ import annotations

import inspect
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from ssmrl.envs.adapters import require
from ssmrl.envs.adapters._types import cast, stable_types
from ssmrl.envs.adapters.gymnax_pictures import PICTURES
from ssmrl.envs.environment import Environment, Transition
from ssmrl.envs.spaces import Box, Space, from_gymnax

ENVIRONMENTS = {
    "acrobot": "Acrobot-v1",
    "asterix": "Asterix-MinAtar",
    "bernoulli_bandit": "BernoulliBandit-misc",
    "breakout": "Breakout-MinAtar",
    "cartpole": "CartPole-v1",
    "catch": "Catch-bsuite",
    "deep_sea": "DeepSea-bsuite",
    "discounting_chain": "DiscountingChain-bsuite",
    "four_rooms": "FourRooms-misc",
    "freeway": "Freeway-MinAtar",
    "frozen_lake": "FrozenLake-misc",
    "gaussian_bandit": "GaussianBandit-misc",
    "memory_chain": "MemoryChain-bsuite",
    "meta_maze": "MetaMaze-misc",
    "mnist_bandit": "MNISTBandit-bsuite",
    "mountain_car": "MountainCar-v0",
    "mountain_car_continuous": "MountainCarContinuous-v0",
    "pendulum": "Pendulum-v1",
    "point_robot": "PointRobot-misc",
    "pong": "Pong-misc",
    "reacher": "Reacher-misc",
    "seaquest": "Seaquest-MinAtar",
    "simple_bandit": "SimpleBandit-bsuite",
    "space_invaders": "SpaceInvaders-MinAtar",
    "swimmer": "Swimmer-misc",
    "umbrella_chain": "UmbrellaChain-bsuite",
}
"""Canonical id to gymnax's, which is accepted too."""


def make_gymnax(gymnax_id: str, **kwargs: Any) -> tuple[Environment, Any]:
    """A gymnax environment and its parameters.

    Args:
        gymnax_id: one of the values of :data:`ENVIRONMENTS`.
        **kwargs: arguments of the environment's class, or fields of its parameters.

    Raises:
        ImportError: if gymnax is not installed.
        RuntimeError: if the environment has to download something and cannot.
        ValueError: for unknown options.
    """
    gymnax = require("gymnax", "gymnax")
    try:
        inner, _ = gymnax.make(gymnax_id)
        accepted = set(inspect.signature(type(inner).__init__).parameters)
        arguments = {name: kwargs.pop(name) for name in list(kwargs) if name in accepted}
        if arguments:
            inner, _ = gymnax.make(gymnax_id, **arguments)
    except OSError as error:
        raise RuntimeError(
            f"{gymnax_id} downloads its data when it is made, and that failed: {error}"
        ) from error
    params = GymnaxEnvironment(inner, inner.default_params).make_params(**kwargs)
    env = GymnaxEnvironment(inner, params)
    return env, params


class GymnaxEnvironment(Environment[Any, Any]):
    """A gymnax environment with our ``step_env``.

    Args:
        env: the gymnax environment.
        params: parameters to take as the default ones.

    Attributes:
        inner: the gymnax environment.
    """

    def __init__(self, env: Any, params: Any):
        self.inner = env
        self._params = params
        action = from_gymnax(env.action_space(params))
        self._action_dtype = action.dtype
        self._types, _ = stable_types(lambda key: env.reset_env(key, params), self._probe(action))
        # Once, here: gymnax builds its spaces with jax.numpy, which under jit gives no bounds.
        observation = self.observation_space(params)
        self._obs_dtype = observation.dtype

    def _probe(self, action_space: Space) -> Any:
        def step(key: PRNGKeyArray, first: Any) -> Any:
            action = action_space.sample(key)
            return self.inner.step_env(key, first[1], action, self._params)[:2]

        return step

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def default_params(self) -> Any:
        return self._params

    def observation_space(self, params: Any) -> Space:
        """gymnax's own, with the dtype that also holds the observations it really gives."""
        space = from_gymnax(self.inner.observation_space(params))
        if isinstance(space, Box):
            dtype = jnp.promote_types(space.dtype, self._types[0])
            return Box(*_true_bounds(self.name, space), space.shape, dtype)
        return space

    def action_space(self, params: Any) -> Space:
        return from_gymnax(self.inner.action_space(params))

    def reset_env(self, key: PRNGKeyArray, params: Any) -> tuple[Array, Any]:
        obs, state = cast(self.inner.reset_env(key, params), self._types)
        return cast(obs, self._obs_dtype), state

    def step_env(self, key: PRNGKeyArray, state: Any, action: Any, params: Any) -> Transition:
        action = jax.lax.convert_element_type(action, self._action_dtype)
        obs, state, reward, terminated, info = self.inner.step_env(key, state, action, params)
        truncated = jnp.asarray(self.inner.is_truncated(state, params), bool)
        obs, state = cast((obs, state), self._types)
        reward, terminated = jnp.asarray(reward, jnp.float32), jnp.asarray(terminated, bool)
        return cast(obs, self._obs_dtype), state, reward, terminated, truncated, info

    def render(self, state: Any, params: Any) -> Array:
        """A picture of a classic control task; see `PICTURES`."""
        if self.name not in PICTURES:
            return super().render(state, params)
        return PICTURES[self.name](state, params)


def _true_bounds(name: str, space: Box) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the observations, where gymnax's own space does not hold them all."""
    low, high = np.array(space.low), np.array(space.high)
    if name == "GaussianBandit-misc":
        # [last reward, two actions, time]: the reward is a Gaussian, the time starts at -1.
        low[0], high[0], low[3] = -np.inf, np.inf, -1.0
    elif name == "MemoryChain-bsuite":
        # [time left, query, context bits]: 1 - t / T may be rounded to less than 0 in the end; the
        # bits are -1 or 1.
        low[0], low[2:] = -1e-6, -1.0
    elif name == "UmbrellaChain-bsuite":
        # [needed, had, time left, distractors]: likewise.
        low[2] = -1e-6
    return low, high

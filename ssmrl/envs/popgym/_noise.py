"""Gaussian noise on what is observed, shared by the noisy families."""

from __future__ import annotations

import abc
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray

from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.popgym._base import PopGymEnv

NOISE_SIGMA = {"easy": 0.1, "medium": 0.2, "hard": 0.3}
"""Published standard deviations of the noise, of both families."""


@struct.dataclass
class NoisyState:
    """``hidden`` is the state of the family without noise, ``obs`` what the agent sees of it."""

    hidden: Leaf
    obs: Leaf


class NoisyObservations(PopGymEnv[Any, Any]):
    """Mixed in before a family whose observations are in a Box: noise on each, then clipped to it.

    The family's parameters need a ``noise_sigma``, the standard deviation of every entry's noise.
    """

    def check_params(self, params: Any) -> None:
        super().check_params(params)
        if params.noise_sigma < 0:
            raise ValueError(f"{self.name} needs noise_sigma >= 0, got {params}")

    @abc.abstractmethod
    def observation_bound(self, params: Any) -> Float[Array, "N"]:
        """The largest observation, in numbers that may be traced as ``params`` may."""

    def noise(self, key: PRNGKeyArray, params: Any) -> Float[Array, "N"]:
        """What is added to an observation, before it is clipped."""
        shape = self.observation_space(self.default_params).shape
        return params.noise_sigma * jax.random.normal(key, shape, jnp.float32)

    def reset_env(self, key: PRNGKeyArray, params: Any) -> tuple[Array, Any]:
        key_reset, key_noise = jax.random.split(key)
        obs, hidden = super().reset_env(key_reset, params)  # type: ignore[safe-super]
        obs = self._disturb(key_noise, obs, params)
        return obs, NoisyState(hidden, obs)

    def step_env(self, key: PRNGKeyArray, state: Any, action: Any, params: Any) -> Transition:
        # The families draw nothing as they step, so that the whole key is the noise's.
        transition = super().step_env(key, state.hidden, action, params)  # type: ignore[safe-super]
        obs, hidden, reward, terminated, truncated, info = transition
        obs = self._disturb(key, obs, params)
        return obs, NoisyState(hidden, obs), reward, terminated, truncated, info

    def _disturb(self, key: PRNGKeyArray, obs: Any, params: Any) -> Array:
        bound = self.observation_bound(params)
        return jnp.clip(obs + self.noise(key, params), -bound, bound)

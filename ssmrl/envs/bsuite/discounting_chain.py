"""discounting_chain: choose at the first step among rewards that come sooner or later.

The first action chooses one of five chains; those that follow do nothing. The chains pay 1 after 1,
3, 10, 30 or 100 steps, and one of them, which the parameters say, pays 1.1. The episode terminates
after 100 steps.

Source: Osband et al., Behaviour Suite for Reinforcement Learning (ICLR 2020); the rules are those
of the ``bsuite`` package, of whose observations ``[1, n]`` the leading axis is dropped.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import gauges, side_by_side
from ssmrl.envs.environment import Environment, Leaf, Transition
from ssmrl.envs.spaces import Box, Discrete

EPISODE_LENGTH = 100
REWARD_TIMES = np.array([1, 3, 10, 30, 100])


@struct.dataclass
class EnvParams:
    """The chain ``mapping_seed % 5`` pays 1.1."""

    mapping_seed: Leaf = 0


@struct.dataclass
class EnvState:
    """``context`` is the chain chosen, -1 at first."""

    context: Leaf
    time: Leaf


class DiscountingChain(Environment[EnvState, EnvParams]):
    """Observation: ``[chain chosen (-1 at first), share of the episode]``. Action: a chain."""

    @property
    def name(self) -> str:
        return "discounting_chain"

    @property
    def default_params(self) -> EnvParams:
        return EnvParams()

    def check_params(self, params: EnvParams) -> None:
        if params.mapping_seed < 0:
            raise ValueError(f"{self.name} needs a mapping_seed of at least 0, got {params}")

    def observation_space(self, params: EnvParams) -> Box:
        return Box(np.array([-1.0, 0.0]), np.array([4.0, 1.0]), (2,))

    def action_space(self, params: EnvParams) -> Discrete:
        return Discrete(len(REWARD_TIMES))

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Array, EnvState]:
        state = EnvState(context=jnp.int32(-1), time=jnp.int32(0))
        return observe(state), state

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        context = jnp.where(state.time == 0, jnp.asarray(action, jnp.int32), state.context)
        state = EnvState(context, state.time + 1)
        amount = jnp.where(context == params.mapping_seed % len(REWARD_TIMES), 1.1, 1.0)
        reward = jnp.where(state.time == jnp.asarray(REWARD_TIMES)[context], amount, 0.0)
        reward = reward.astype(jnp.float32)
        is_last = state.time >= EPISODE_LENGTH
        return observe(state), state, reward, is_last, jnp.zeros_like(is_last), {}

    def render(self, state: EnvState, params: EnvParams) -> UInt8[Array, "64 W 3"]:
        """The observation beside what each chain will still pay."""
        amounts = jnp.ones(len(REWARD_TIMES)).at[params.mapping_seed % len(REWARD_TIMES)].set(1.1)
        view = gauges(observe(state), jnp.array([4.0, 1.0]), 64, 16)
        return side_by_side(view, gauges(amounts * (state.time < REWARD_TIMES), 1.2, 64, 40))


def observe(state: EnvState) -> Float[Array, "2"]:
    """``[chain chosen, share of the episode]`` in float32."""
    context = state.context.astype(jnp.float32)
    return jnp.stack([context, state.time.astype(jnp.float32) / EPISODE_LENGTH])

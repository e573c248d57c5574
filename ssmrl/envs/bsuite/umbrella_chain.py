"""umbrella_length: take an umbrella or not; much later, it rains or it does not.

The observation says whether an umbrella will be needed. The first action takes it (1) or leaves it
(0), those that follow do nothing and pay 1 or cost 1 at random. The last of ``chain_length`` steps
pays 1 if the umbrella was taken just when needed, and costs 1 if not; the episode terminates.

Source: Osband et al., Behaviour Suite for Reinforcement Learning (ICLR 2020); the rules are those
of the ``bsuite`` package, of whose observations ``[1, n]`` the leading axis is dropped.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import gauges, side_by_side
from ssmrl.envs.environment import Environment, Leaf, Transition
from ssmrl.envs.spaces import Box, Discrete


@struct.dataclass
class EnvParams:
    """``chain_length`` steps; ``n_distractor`` random bits in every observation."""

    chain_length: Leaf = 10
    n_distractor: int = struct.field(pytree_node=False, default=20)


@struct.dataclass
class EnvState:
    """``need_umbrella``, ``has_umbrella`` i32[] (random until the first action), distractors."""

    need_umbrella: Leaf
    has_umbrella: Leaf
    distractors: Leaf
    time: Leaf


class UmbrellaChain(Environment[EnvState, EnvParams]):
    """Observation: ``[needed, had, time left, distractors]``, float32. Action: take it (1) or not.

    The time left falls from 1 to 0. ``info["regret"]`` is 2 at the end of an episode with the wrong
    choice, else 0.
    """

    @property
    def name(self) -> str:
        return "umbrella_length"

    @property
    def default_params(self) -> EnvParams:
        return EnvParams()

    def check_params(self, params: EnvParams) -> None:
        if params.chain_length < 1 or params.n_distractor < 0:
            raise ValueError(
                f"{self.name} needs at least one step and no negative n_distractor, got {params}"
            )

    def observation_space(self, params: EnvParams) -> Box:
        return Box(0.0, 1.0, (3 + params.n_distractor,))

    def action_space(self, params: EnvParams) -> Discrete:
        return Discrete(2)

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Array, EnvState]:
        bits = jax.random.bernoulli(key, 0.5, (2 + params.n_distractor,))
        need, has = bits[:2].astype(jnp.int32)
        state = EnvState(need, has, bits[2:].astype(jnp.float32), time=jnp.int32(0))
        return self.observe(state, params), state

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        bits = jax.random.bernoulli(key, 0.5, (1 + params.n_distractor,)).astype(jnp.float32)
        has = jnp.where(state.time == 0, jnp.asarray(action, jnp.int32), state.has_umbrella)
        state = EnvState(state.need_umbrella, has, bits[1:], state.time + 1)
        is_last = state.time >= params.chain_length
        is_right = has == state.need_umbrella
        reward = 2.0 * jnp.where(is_last, is_right.astype(jnp.float32), bits[0]) - 1.0
        info = {"regret": jnp.where(is_last & ~is_right, jnp.float32(2.0), jnp.float32(0.0))}
        return self.observe(state, params), state, reward, is_last, jnp.zeros_like(is_last), info

    def observe(self, state: EnvState, params: EnvParams) -> Float[Array, "N"]:
        """``[needed, had, time left, distractors]`` in float32."""
        # Not 1 - time / length, which compilers may round to less than 0 at the end.
        time_left = (params.chain_length - state.time) / params.chain_length
        head = jnp.stack([state.need_umbrella, state.has_umbrella, time_left]).astype(jnp.float32)
        return jnp.concatenate([head, state.distractors])

    def render(self, state: EnvState, params: EnvParams) -> UInt8[Array, "64 W 3"]:
        """The observation beside the reward that will come of the choice."""
        obs = self.observe(state, params)
        outcome = jnp.where(state.has_umbrella == state.need_umbrella, 1.0, -1.0)
        return side_by_side(gauges(obs, 1.0, 64, 4 * obs.size), gauges(outcome[None], 1.0, 64, 8))

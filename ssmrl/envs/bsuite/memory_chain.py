"""memory_len and memory_size: see some bits, wait, and say the one that is asked for.

The first observation shows ``num_bits`` random bits. For ``memory_length`` steps actions do nothing
and pay nothing; the observation after the last of them asks for one of the bits. The next action
pays 1 if it is that bit and costs 1 if not, and the episode terminates. memory_len varies the wait
and has one bit; memory_size varies the number of bits and waits two steps.

Kept from the package: the observation after the first step is the first one again, so that the bits
are seen twice; and an episode's steps are ``memory_length + 1``.

Source: Osband et al., Behaviour Suite for Reinforcement Learning (ICLR 2020); the rules are those
of the ``bsuite`` package, of whose observations ``[1, n]`` the leading axis is dropped.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import gauges, side_by_side
from ssmrl.envs.environment import Environment, Leaf, Transition
from ssmrl.envs.spaces import Box, Discrete


@struct.dataclass
class EnvParams:
    """``num_bits`` are shown, and one of them is asked for ``memory_length`` steps later."""

    memory_length: Leaf = 10
    num_bits: int = struct.field(pytree_node=False, default=1)


@struct.dataclass
class EnvState:
    """``context`` i32[num_bits] of 0 and 1; ``query`` says which is asked for."""

    context: Leaf
    query: Leaf
    time: Leaf


class MemoryChain(Environment[EnvState, EnvParams]):
    """Observation: ``[time left, query, bits]``, float32 ``[num_bits + 2]``. Action: a bit.

    The time left falls from 1 to 0; the query is 0 except where it is asked, and bits are -1 or 1
    at first and 0 afterwards. ``info["regret"]`` is 2 where an answer was wrong, else 0.

    Args:
        name: of the experiment.
        params: the default parameters.
    """

    def __init__(self, name: str = "memory_len", params: EnvParams | None = None):
        self._name = name
        self._params = EnvParams() if params is None else params

    @property
    def name(self) -> str:
        return self._name

    @property
    def default_params(self) -> EnvParams:
        return self._params

    def check_params(self, params: EnvParams) -> None:
        if params.memory_length < 1 or params.num_bits < 1:
            raise ValueError(f"{self.name} needs at least one step and one bit, got {params}")

    def observation_space(self, params: EnvParams) -> Box:
        bits = np.ones(params.num_bits)
        return Box(np.r_[0.0, 0.0, -bits], np.r_[1.0, params.num_bits - 1.0, bits])

    def action_space(self, params: EnvParams) -> Discrete:
        return Discrete(2)

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Array, EnvState]:
        key_context, key_query = jax.random.split(key)
        context = jax.random.bernoulli(key_context, 0.5, (params.num_bits,)).astype(jnp.int32)
        query = jax.random.randint(key_query, (), 0, params.num_bits)
        state = EnvState(context=context, query=query, time=jnp.int32(0))
        return self.observe(state, params), state

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        obs = self.observe(state, params)  # before the step, as in the package
        is_last = state.time >= params.memory_length
        is_right = jnp.asarray(action == state.context[state.query])
        reward = jnp.where(is_last, jnp.where(is_right, 1.0, -1.0), 0.0).astype(jnp.float32)
        info = {"regret": jnp.where(is_last & ~is_right, jnp.float32(2.0), jnp.float32(0.0))}
        state = EnvState(state.context, state.query, state.time + 1)
        return obs, state, reward, is_last, jnp.zeros_like(is_last), info

    def observe(self, state: EnvState, params: EnvParams) -> Float[Array, "N"]:
        """What is shown at ``state.time``."""
        # Not 1 - time / length, which compilers may round to less than 0 at the end.
        time_left = (params.memory_length - state.time) / params.memory_length
        query = jnp.where(state.time == params.memory_length - 1, state.query, 0)
        bits = jnp.where(state.time == 0, 2 * state.context - 1, 0)
        head = jnp.stack([time_left, query.astype(jnp.float32)]).astype(jnp.float32)
        return jnp.concatenate([head, bits.astype(jnp.float32)])

    def render(self, state: EnvState, params: EnvParams) -> UInt8[Array, "64 W 3"]:
        """The last observation beside the bits."""
        before = EnvState(state.context, state.query, jnp.maximum(state.time - 1, 0))
        obs = self.observe(before, params)
        view = gauges(obs, jnp.ones_like(obs).at[1].set(params.num_bits), 64, 4 * obs.size)
        truth = gauges(2.0 * state.context - 1.0, 1.0, 64, 4 * params.num_bits)
        return side_by_side(view, truth)

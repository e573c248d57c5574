"""Rooms: a ring of coloured rooms that are still the same when the agent comes round again.

Every room has one of ``colours``, drawn for each episode; the agent sees the colour of the room
that it is in, and goes left or right. There is no reward. The episode is cut off after
``episode_length`` steps. Whoever has been everywhere can foresee everything.

After the long-term imagination of Deng, Park, Ahn (2023) (two, four and ten rooms); the
rules here are our own.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import side_by_side
from ssmrl.envs.environment import Environment, Leaf, Transition
from ssmrl.envs.spaces import Discrete
from ssmrl.envs.worlds._pictures import PALETTE, corridor, patch

LEFT, RIGHT = range(2)


@struct.dataclass
class EnvParams:
    """``rooms`` in the ring, each in one of ``colours``."""

    episode_length: Leaf = 128
    rooms: int = struct.field(pytree_node=False, default=6)
    colours: int = struct.field(pytree_node=False, default=4)


@struct.dataclass
class EnvState:
    """``rooms`` i32[rooms]: their colours."""

    rooms: Leaf
    position: Leaf
    time: Leaf


class Rooms(Environment[EnvState, EnvParams]):
    """Observation: the colour here, one of ``colours``. Actions: left, right."""

    @property
    def name(self) -> str:
        return "rooms"

    @property
    def default_params(self) -> EnvParams:
        return EnvParams()

    def check_params(self, params: EnvParams) -> None:
        fits = params.rooms >= 1 and 2 <= params.colours <= len(PALETTE)
        if not fits or params.episode_length < 1:
            raise ValueError(
                f"{self.name} needs a room, 2 to {len(PALETTE)} colours and a step, got {params}"
            )

    def observation_space(self, params: EnvParams) -> Discrete:
        return Discrete(params.colours)

    def action_space(self, params: EnvParams) -> Discrete:
        return Discrete(2)

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Array, EnvState]:
        rooms = jax.random.randint(key, (params.rooms,), 0, params.colours)
        state = EnvState(rooms, position=jnp.int32(0), time=jnp.int32(0))
        return self.observe(state), state

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        move = 2 * jnp.asarray(action, jnp.int32) - 1
        state = EnvState(state.rooms, (state.position + move) % params.rooms, state.time + 1)
        truncated = state.time >= params.episode_length
        reward = jnp.zeros((), jnp.float32)
        return self.observe(state), state, reward, jnp.zeros_like(truncated), truncated, {}

    def observe(self, state: EnvState) -> Int[Array, ""]:
        """The colour of the agent's room."""
        return state.rooms[state.position]

    def render(self, state: EnvState, params: EnvParams) -> UInt8[Array, "64 W 3"]:
        """The room's colour beside the ring."""
        colours = jnp.asarray(PALETTE)[state.rooms]
        nothing = jnp.zeros(params.rooms, bool)
        view = patch(colours[state.position], jnp.zeros((), bool))
        return side_by_side(view, corridor(colours, nothing, state.position))

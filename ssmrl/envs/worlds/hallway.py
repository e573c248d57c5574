"""Hallway: a sign at one end says which of two goals pays at the other.

Place 0 is the room with the sign; places 1 to ``width`` are the hallway, where the agent sees a
tile whose colour, one of ``colours``, is drawn at every step; place ``width + 1`` is the fork. From
there the agent enters the upper or the lower goal, and the episode terminates: it pays 1 if the
sign showed that goal and costs 1 if not. That takes ``width + 2`` steps at least; after four times
as many the episode is cut off.

After the reward prediction of Deng, Park, Ahn (2023), where the agent sees pictures of hallways of
width 100, 200 and 400; the rules here are our own.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import BLACK, GREY, side_by_side
from ssmrl.envs.environment import Environment, Leaf, Transition
from ssmrl.envs.spaces import Discrete
from ssmrl.envs.worlds._pictures import PALETTE, corridor, patch

BACK, FORWARD, UPPER, LOWER = range(4)
COLOURS = 4
SIGN, TILE, FORK, GOAL, OBSERVATIONS = 0, 2, 2 + COLOURS, 3 + COLOURS, 5 + COLOURS
"""Where each kind of observation begins: signs, tiles, the fork, and goals (upper, lower)."""


@struct.dataclass
class EnvParams:
    """``width``: places between the sign and the fork; ``colours``: of tiles, which distract."""

    width: Leaf = 50
    colours: Leaf = 4


@struct.dataclass
class EnvState:
    """``paying`` i32[]: 0 for the upper goal, 1 for the lower; ``entered``: likewise, or -1."""

    paying: Leaf
    entered: Leaf
    position: Leaf
    tile: Leaf
    time: Leaf


class Hallway(Environment[EnvState, EnvParams]):
    """Observation: one of 9: two signs, up to four colours of tiles, the fork, two goals.

    Actions: back, forward, into the upper goal, into the lower one; what is impossible at a place
    does nothing.
    """

    @property
    def name(self) -> str:
        return "hallway"

    @property
    def default_params(self) -> EnvParams:
        return EnvParams()

    def check_params(self, params: EnvParams) -> None:
        if params.width < 1 or not 1 <= params.colours <= COLOURS:
            raise ValueError(
                f"{self.name} needs a width of at least 1 and 1 to {COLOURS} colours, got {params}"
            )

    def observation_space(self, params: EnvParams) -> Discrete:
        return Discrete(OBSERVATIONS)

    def action_space(self, params: EnvParams) -> Discrete:
        return Discrete(4)

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Array, EnvState]:
        paying = jax.random.bernoulli(key).astype(jnp.int32)
        zero = jnp.int32(0)
        state = EnvState(paying, entered=jnp.int32(-1), position=zero, tile=zero, time=zero)
        return self.observe(state, params), state

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        action = jnp.asarray(action, jnp.int32)
        enters = (state.position == params.width + 1) & (action >= UPPER)
        move = (action == FORWARD).astype(jnp.int32) - (action == BACK)
        state = EnvState(
            paying=state.paying,
            entered=jnp.where(enters, action - UPPER, -1),
            position=jnp.clip(state.position + move, 0, params.width + 1),
            tile=jax.random.randint(key, (), 0, params.colours),
            time=state.time + 1,
        )
        right = state.entered == state.paying
        reward = jnp.where(enters, jnp.where(right, 1.0, -1.0), 0.0).astype(jnp.float32)
        truncated = ~enters & (state.time >= 4 * (params.width + 2))
        return self.observe(state, params), state, reward, enters, truncated, {}

    def observe(self, state: EnvState, params: EnvParams) -> Int[Array, ""]:
        """What is seen at the agent's place."""
        seen = jnp.where(state.position == 0, SIGN + state.paying, TILE + state.tile)
        seen = jnp.where(state.position == params.width + 1, FORK, seen)
        return jnp.where(state.entered >= 0, GOAL + state.entered, seen).astype(jnp.int32)

    def render(self, state: EnvState, params: EnvParams) -> UInt8[Array, "64 W 3"]:
        """What is seen, beside the hallway drawn with ten places and the goal that pays."""
        goals, signs = np.array([GREY, GREY], np.uint8), PALETTE[4:6]
        seen = jnp.asarray(
            np.concatenate([signs, PALETTE[:COLOURS], np.array([BLACK], np.uint8), goals])
        )
        view = patch(seen[self.observe(state, params)], state.entered == state.paying)
        place = 1 + (state.position - 1) * 10 // params.width
        place = jnp.where(state.position == 0, 0, jnp.clip(place, 1, 10))
        place = jnp.where(state.position == params.width + 1, 11, place)
        hall = np.full((10, 3), 220, np.uint8)
        sign = jnp.asarray(signs)[state.paying][None]
        colours = jnp.concatenate([sign, jnp.asarray(hall), jnp.asarray([BLACK], jnp.uint8)])
        return side_by_side(view, corridor(colours, jnp.zeros(12, bool), place))

"""Doors and keys: what the agent took and opened stays taken and open, wherever it goes meanwhile.

A ring of ``2 * keys`` places holds a key and a door of every colour, in an order drawn anew for
each episode. The agent sees its own place alone. A key can be taken where it lies, which leaves an
empty place; a door can be opened, which pays 1, once the key of its colour was taken, and stays
open. What the agent carries is not shown. The episode is cut off after ``episode_length`` steps.

After the memory-based reasoning of Deng, Park, Ahn (2023) ("multi doors keys"); the
rules here are our own.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import side_by_side
from ssmrl.envs.environment import Environment, Leaf, Transition
from ssmrl.envs.spaces import Box, Discrete
from ssmrl.envs.worlds._pictures import PALETTE, corridor, patch

LEFT, RIGHT, USE, WAIT = range(4)


@struct.dataclass
class EnvParams:
    """``keys``: number of colours, each with a key and a door."""

    episode_length: Leaf = 48
    keys: int = struct.field(pytree_node=False, default=3)


@struct.dataclass
class EnvState:
    """``objects`` i32[2 keys]: what each place holds, key i as i and door i as ``keys + i``.
    ``taken``, ``opened``: bool[keys], by colour."""

    objects: Leaf
    taken: Leaf
    opened: Leaf
    position: Leaf
    time: Leaf


class DoorsKeys(Environment[EnvState, EnvParams]):
    """Observation: float32 ``[2 keys + 1]``: the object here, one-hot, or zeros where a key was
    taken; then 1 at an open door, else 0.

    Actions: left, right, use what is here (take a key, open a door), wait.
    """

    @property
    def name(self) -> str:
        return "doors_keys"

    @property
    def default_params(self) -> EnvParams:
        return EnvParams()

    def check_params(self, params: EnvParams) -> None:
        if not 1 <= params.keys <= len(PALETTE) or params.episode_length < 1:
            raise ValueError(
                f"{self.name} needs 1 to {len(PALETTE)} keys and at least one step, got {params}"
            )

    def observation_space(self, params: EnvParams) -> Box:
        return Box(0.0, 1.0, (2 * params.keys + 1,))

    def action_space(self, params: EnvParams) -> Discrete:
        return Discrete(4)

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Array, EnvState]:
        none = jnp.zeros(params.keys, bool)
        objects = jax.random.permutation(key, 2 * params.keys).astype(jnp.int32)
        state = EnvState(objects, none, none, position=jnp.int32(0), time=jnp.int32(0))
        return self.observe(state, params), state

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        action = jnp.asarray(action, jnp.int32)
        here = state.objects[state.position]
        colour, is_door = here % params.keys, here >= params.keys
        used = action == USE
        takes = used & ~is_door
        opens = used & is_door & state.taken[colour] & ~state.opened[colour]
        move = (action == RIGHT).astype(jnp.int32) - (action == LEFT)
        state = EnvState(
            objects=state.objects,
            taken=state.taken.at[colour].max(takes),
            opened=state.opened.at[colour].max(opens),
            position=(state.position + move) % (2 * params.keys),
            time=state.time + 1,
        )
        truncated = state.time >= params.episode_length
        observation, reward = self.observe(state, params), opens.astype(jnp.float32)
        return observation, state, reward, jnp.zeros_like(truncated), truncated, {}

    def observe(self, state: EnvState, params: EnvParams) -> Float[Array, "N"]:
        """What is seen at the agent's place."""
        here = state.objects[state.position]
        colour, is_door = here % params.keys, here >= params.keys
        is_there = is_door | ~state.taken[colour]
        shown = jax.nn.one_hot(here, 2 * params.keys) * is_there
        return jnp.append(shown, (is_door & state.opened[colour]).astype(jnp.float32))

    def render(self, state: EnvState, params: EnvParams) -> UInt8[Array, "64 W 3"]:
        """What is seen, beside the ring: keys are marked while they lie there, doors once open."""
        colour, is_door = state.objects % params.keys, state.objects >= params.keys
        marks = jnp.where(is_door, state.opened[colour], ~state.taken[colour])
        fills = jnp.where(is_door[:, None], jnp.asarray(PALETTE)[colour], jnp.uint8(120))
        # A key is a place of its colour, faded, with a mark; an empty place is grey.
        faded = 128 + jnp.asarray(PALETTE)[colour] // 2
        fills = jnp.where((~is_door & marks)[:, None], faded, fills)
        view = patch(fills[state.position], marks[state.position])
        return side_by_side(view, corridor(fills, marks, state.position))

"""Policies that play the worlds without learning: they see the hidden state, and draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PRNGKeyArray

from ssmrl.envs.worlds import doors_keys, hallway, rooms

Policy = Callable[[PRNGKeyArray, Any, Any], Int[Array, ""]]
"""``policy(key, state, params)`` is an action, for one environment."""

RIGHTWARDS = 0.8
"""Probability of a step to the right on a ring: the agent comes round, and goes back at times."""

LOOKS = 5
"""Observations of a hallway's sign before the agent leaves it."""


def walk_hallway(
    key: PRNGKeyArray, state: hallway.EnvState, params: hallway.EnvParams
) -> Int[Array, ""]:
    """Look at the sign, go straight to the fork, and enter the upper goal, whatever the sign said.

    What that pays is the sign's bit. With both goals it would be whether sign and goal agree, which
    correlates with neither of them and takes a model much longer to find.
    """
    move = jnp.where(state.position == params.width + 1, hallway.UPPER, hallway.FORWARD)
    return jnp.where(state.time < LOOKS - 1, hallway.BACK, move)


def use_and_walk(
    key: PRNGKeyArray, state: doors_keys.EnvState, params: doors_keys.EnvParams
) -> Int[Array, ""]:
    """In turn: use what is here, or wait, with even odds; then a step, mostly to the right."""
    use_key, move_key = jax.random.split(key)
    use = jnp.where(jax.random.bernoulli(use_key), doors_keys.USE, doors_keys.WAIT)
    return jnp.where(state.time % 2 == 0, use, _mostly_right(move_key))


def walk_rooms(key: PRNGKeyArray, state: rooms.EnvState, params: rooms.EnvParams) -> Int[Array, ""]:
    """A step, mostly to the right."""
    return _mostly_right(key)


def _mostly_right(key: PRNGKeyArray) -> Int[Array, ""]:
    return jax.random.bernoulli(key, RIGHTWARDS).astype(jnp.int32)


POLICIES: dict[str, Policy] = {
    "doors_keys": use_and_walk,
    "hallway": walk_hallway,
    "rooms": walk_rooms,
}

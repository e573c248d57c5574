"""The actions of a finite space, numbered."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.envs.spaces import Discrete, MultiDiscrete, Space, as_tree

LARGEST_COUNT = 4096
"""So many combinations of parts can have a network's output each."""


def count_actions(space: Space) -> int:
    """How many actions a space has: all combinations of its parts.

    Raises:
        ValueError: it is not finite, or has more than `LARGEST_COUNT`.
    """
    for part in jax.tree.leaves(as_tree(space)):
        if not isinstance(part, Discrete | MultiDiscrete):
            raise ValueError(
                f"cannot number the actions of {space!r}: they must be Discrete, MultiDiscrete, or "
                "a Tuple or Dict of those"
            )
    count = math.prod(_sizes(space))
    if count > LARGEST_COUNT:
        raise ValueError(
            f"cannot number the actions of {space!r}: its parts have {count} combinations, more "
            f"than {LARGEST_COUNT}"
        )
    return count


def numbered_action(space: Space, number: Array) -> jax.Array | dict | tuple:
    """The actions `[*leading, ...]` of numbers `[*leading]` below `count_actions(space)`.

    Numbers count as digits do: the last entry of the last part changes first.
    """
    digits = jnp.unravel_index(number, _sizes(space))
    parts, structure = jax.tree.flatten(as_tree(space))
    actions, first = [], 0
    for part in parts:
        last = first + math.prod(part.shape)
        entries = jnp.stack(digits[first:last], axis=-1).astype(jnp.int32)
        actions.append(entries.reshape(*number.shape, *part.shape))
        first = last
    return jax.tree.unflatten(structure, actions)


def _sizes(space: Space) -> tuple[int, ...]:
    """How many values each entry of each part has, in order."""
    parts = jax.tree.leaves(as_tree(space))
    return tuple(
        int(size)
        for part in parts
        for size in ([part.n] if isinstance(part, Discrete) else np.ravel(part.nvec))
    )

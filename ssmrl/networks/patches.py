"""Pictures cut into patches that do not overlap, and joined again; how small pictures become."""

import math

import jax.numpy as jnp
from jax import Array

SMALLEST = 4
"""Pictures are halved until their shorter side is about so many pixels."""
_LARGEST_PATCH = 8


def halvings(height: int, width: int) -> int:
    """How often a picture is halved until its shorter side is about 4 pixels; at least once."""
    return max(1, round(math.log2(min(height, width) / SMALLEST)))


def patch_sides(height: int, width: int) -> list[int]:
    """Sides of the patches of each layer: a large one first, then 2, all halvings together."""
    count = halvings(height, width)
    first = min(max(count - 1, 1), round(math.log2(_LARGEST_PATCH)))
    return [2**first] + [2] * (count - first)


def cut_patches(picture: Array, side: int) -> Array:
    """`[*leading, height, width, channels]` → `[*leading, rows, columns, side * side * channels]`.

    Patches do not overlap; the last row and column are filled up by repeating the picture's edge.
    """
    *leading, height, width, channels = picture.shape
    rows, columns = -(-height // side), -(-width // side)
    missing = [(0, rows * side - height), (0, columns * side - width)]
    if any(missing[0] + missing[1]):
        picture = jnp.pad(picture, [(0, 0)] * len(leading) + [*missing, (0, 0)], mode="edge")
    x = picture.reshape(*leading, rows, side, columns, side, channels)
    return jnp.swapaxes(x, -4, -3).reshape(*leading, rows, columns, side * side * channels)


def join_patches(patches: Array, side: int) -> Array:
    """`[*leading, rows, columns, side * side * channels]` → `[*leading, rows * side, …, channels]`.

    The inverse of `cut_patches` where nothing had to be filled up.
    """
    *leading, rows, columns, size = patches.shape
    x = patches.reshape(*leading, rows, columns, side, side, size // side**2)
    return jnp.swapaxes(x, -4, -3).reshape(*leading, rows * side, columns * side, -1)

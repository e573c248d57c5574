"""Positions in the episode, and rotary embeddings of them."""

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmrl.memory.base import STATE_DTYPE


def positions(first: Array, reset: Array) -> Array:
    """The number of steps since the episode began, uint32 `[T, *batch]`.

    Args:
        first: the position of the first step if it does not begin an episode, uint32 `[*batch]`.
        reset: bool `[T, *batch]`.
    """
    time = jnp.arange(reset.shape[0], dtype=jnp.int32).reshape(-1, *(1,) * (reset.ndim - 1))
    begun = lax.cummax(jnp.where(reset, time, -1))
    unbroken = first + time.astype(jnp.uint32)
    return jnp.where(begun < 0, unbroken, (time - begun).astype(jnp.uint32))


def rotary_angles(position: Array, size: int, base: float = 10_000.0) -> Array:
    """Angles `[..., size / 2]` of integer positions (Su et al., "RoFormer", 2021, equation 15).

    The frequencies are rounded to 2⁻³² turns a step: then products with an integer wrap around
    exactly, and the millionth step has an angle as precise as the first.
    """
    frequencies = base ** (-np.arange(0, size, 2) / size)
    turns = np.round(frequencies / (2 * np.pi) * 2**32).astype(np.uint32)
    wrapped = position.astype(jnp.uint32)[..., None] * turns
    return wrapped.astype(STATE_DTYPE) * (2 * np.pi / 2**32)


def rotate(x: Array, angles: Array) -> Array:
    """`x` `[..., K]` with the pairs (x[i], x[i + K/2]) turned by `angles` `[..., K/2]`."""
    re, im = jnp.split(x, 2, axis=-1)
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    return jnp.concatenate([re * cos - im * sin, re * sin + im * cos], axis=-1)

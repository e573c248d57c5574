"""Boxes as networks see them: pictures are told from vectors and brought into one layout, and what
has bounds into one range. Both agents' encoders and the world model's decoder ask here.

Pictures come as `[height, width, channels]`, as `[channels, height, width]`, without channels, and
as stacks of these. Height and width are two neighbouring axes of at least 8 pixels; where several
pairs are, the one that is a square, then the one with more pixels, then the first. All other axes
are channels.
"""

import math
from typing import TypeGuard

import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.envs.spaces import Box, Space

SMALLEST_SIDE = 8
"""Of a picture, in pixels. What is smaller is a vector."""


# ------------------------------------------------------------------------------------ layout


def is_picture(space: Space) -> TypeGuard[Box]:
    """Whether a space holds pictures, in any layout.

    A box of two axes does where one finite range holds for all of it: otherwise it is as likely a
    table.
    """
    return isinstance(space, Box) and _height_axis(space) is not None


def picture_shape(space: Box) -> tuple[int, int, int]:
    """Height, width and channels of the pictures in a box."""
    axis = _height_axis(space)
    assert axis is not None, space
    height, width = space.shape[axis : axis + 2]
    return height, width, int(np.prod(space.shape)) // (height * width)


def arrange_picture(space: Box, picture: Array) -> Array:
    """`[*leading, *space.shape]` → `[*leading, height, width, channels]`."""
    axis = _height_axis(space)
    assert axis is not None, space
    first = picture.ndim - len(space.shape)
    picture = jnp.moveaxis(picture, (first + axis, first + axis + 1), (first, first + 1))
    return picture.reshape(*picture.shape[:first], *picture_shape(space))


def _height_axis(space: Box) -> int | None:
    """Which axis of a picture is its height, the next one being its width."""
    shape = space.shape
    if not math.prod(shape):
        return None  # Nothing to see: a vector of no numbers.
    places = [i for i in range(len(shape) - 1) if min(shape[i : i + 2]) >= SMALLEST_SIDE]
    if not places or len(shape) > 4 or (len(shape) == 2 and not has_one_range(space)):
        return None

    def likelihood(i: int) -> tuple[bool, int]:
        return shape[i] == shape[i + 1], shape[i] * shape[i + 1]

    best = max(places, key=likelihood)
    if len(shape) == 4 and [likelihood(i) for i in places].count(likelihood(best)) > 1:
        return None  # Nothing tells a stack of pictures from a volume or a table.
    return best


# ------------------------------------------------------------------------------------- range


def scaled_entries(space: Box) -> np.ndarray:
    """Which entries `[*space.shape]` of a box are scaled by their bounds.

    Bounded integers and truth values are, and pictures that are bounded everywhere. Other floats
    are taken as they are, and so are integers that nothing but their type bounds: the range of such
    a counter says nothing.
    """
    bounded = _bounded_entries(space)
    if is_picture(space):
        return np.full(space.shape, bounded.all())
    return np.zeros(space.shape, bool) if _is_float(space.dtype) else bounded


def is_scaled(space: Box) -> bool:
    """Whether all entries of a box are scaled by their bounds."""
    return bool(scaled_entries(space).all())


def to_unit(space: Box, value: Array) -> Array:
    """`[*leading, *space.shape]` as float32: scaled entries from 0, at their low, to 1."""
    low, span, _ = _range(space)
    if _is_float(value.dtype) or not is_scaled(space) or np.max(span, initial=0) >= 2**31:
        difference = value.astype(jnp.float32) - low.astype(np.float32)
    else:
        # Exact, where bounds are close to each other and far from 0.
        integer = np.int64 if value.dtype.itemsize > 4 else np.int32
        difference = value.astype(integer) - low.astype(integer)
    return difference.astype(jnp.float32) / span.astype(np.float32)


def to_centred(space: Box, value: Array) -> Array:
    """`[*leading, *space.shape]` as float32: scaled entries from -0.5, at their low, to 0.5."""
    return to_unit(space, value) - _range(space)[2]


def from_centred(space: Box, centred: Array) -> Array:
    """The inverse of `to_centred`, in float32."""
    low, span, middle = _range(space)
    return (centred + middle) * span.astype(np.float32) + low.astype(np.float32)


def _bounded_entries(space: Box) -> np.ndarray:
    """Which entries have bounds of their own on both sides, `[*space.shape]`."""
    low, high = space.low, space.high
    if _is_float(space.dtype):
        limit = np.finfo(np.float32).max  # what some write for "no bound"
        return np.asarray((np.abs(low) < limit) & (np.abs(high) < limit))
    if space.dtype.itemsize <= 2:
        return np.ones(space.shape, bool)
    limits = np.iinfo(space.dtype)
    return np.asarray((high < limits.max) & ((low > limits.min) | (limits.min == 0)))


def has_one_range(space: Box) -> bool:
    """Whether all entries of a box have the same bounds; `to_centred` then takes any shape."""
    return bool(
        space.low.size
        and _bounded_entries(space).all()
        and (space.low == space.low.flat[0]).all()
        and (space.high == space.high.flat[0]).all()
    )


def _range(space: Box) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Low, span and middle: (x - low) / span - middle is centred. 0, 1 and 0 where not scaled.

    Each is of the box's shape, or without axes if it is the same everywhere, so that no program
    holds arrays of equal numbers.
    """
    scaled = scaled_entries(space)
    low = np.where(scaled, space.low, np.zeros_like(space.low))
    span = np.where(scaled, space.high.astype(np.float64) - space.low.astype(np.float64), 1.0)
    span = np.where(span > 0, span, 1.0)  # An entry that is always the same becomes -0.5.
    middle = np.where(scaled, np.float32(0.5), np.float32(0.0))
    return _simplest(low), _simplest(span), _simplest(middle)


def _simplest(array: np.ndarray) -> np.ndarray:
    same = array.size > 0 and (array == array.flat[0]).all()
    return array.ravel()[:1].reshape(()) if same else array


def _is_float(dtype: np.dtype) -> bool:
    return jnp.issubdtype(dtype, jnp.floating)

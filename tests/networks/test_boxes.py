"""Which boxes are pictures, in which layout, and what their bounds make of their values."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.envs import spaces
from ssmrl.networks.boxes import (
    arrange_picture,
    from_centred,
    is_picture,
    picture_shape,
    scaled_entries,
    to_centred,
    to_unit,
)
from tests.compiling import shipped_jit

# ------------------------------------------------------------------------------------ layout

PICTURES = {
    # As they are.
    (64, 64, 3): (64, 64, 3),
    (10, 10, 4): (10, 10, 4),
    (8, 20, 1): (8, 20, 1),
    (9, 9, 11): (9, 9, 11),
    (16, 12, 10): (16, 12, 10),
    (10, 10, 10): (10, 10, 10),
    # Channels first.
    (1, 24, 24): (24, 24, 1),
    (4, 84, 84): (84, 84, 4),
    (3, 48, 64): (48, 64, 3),
    (12, 84, 84): (84, 84, 12),
    (119, 8, 8): (8, 8, 119),
    (9, 48, 64): (48, 64, 9),
    # No channels.
    (24, 24): (24, 24, 1),
    (9, 30): (9, 30, 1),
    # Stacks.
    (4, 84, 84, 1): (84, 84, 4),
    (4, 84, 84, 3): (84, 84, 12),
    (4, 3, 84, 84): (84, 84, 12),
    (84, 84, 3, 4): (84, 84, 12),
    (8, 48, 64, 3): (48, 64, 24),
}
VECTORS = [(), (3,), (64,), (7, 24), (7, 10, 4), (5, 5, 5), (9, 9, 9, 9), (1, 1, 8, 8, 1), (0, 8)]


@pytest.mark.parametrize("shape", PICTURES)
def test_pictures_of_any_layout(shape):
    """Every pixel keeps its place in its channel, behind any leading axes."""
    space = spaces.Box(0, 255, shape, np.uint8)
    assert is_picture(space)
    assert picture_shape(space) == PICTURES[shape]
    height, width, channels = PICTURES[shape]
    axis = next(i for i in range(len(shape)) if shape[i : i + 2] == (height, width))
    values = np.arange(6 * np.prod(shape)).reshape(2, 3, *shape)
    arranged = np.asarray(arrange_picture(space, jnp.asarray(values)))
    assert arranged.shape == (2, 3, height, width, channels)
    for pixel in np.random.default_rng(0).integers(0, (height, width), (5, 2)):
        index = (slice(None),) * (2 + axis)
        there = values[(*index, *pixel)].reshape(2, 3, channels)
        np.testing.assert_array_equal(arranged[:, :, *pixel], there)


@pytest.mark.parametrize("shape", VECTORS)
def test_vectors(shape):
    assert not is_picture(spaces.Box(0, 255, shape, np.uint8))


def test_tables_are_no_pictures():
    """Two axes are a picture where one range holds for all of it, whatever its type."""
    assert is_picture(spaces.Box(0.0, 1.0, (24, 24)))
    assert is_picture(spaces.Box(0, 1, (24, 24), np.bool_))
    assert not is_picture(spaces.Box(-np.inf, np.inf, (24, 24)))
    assert not is_picture(spaces.Box(0, np.inf, (24, 24)))
    assert not is_picture(spaces.Box(0, np.arange(24), (24, 24), np.uint8))
    assert not is_picture(spaces.MultiDiscrete(np.full((10, 10, 4), 2)))


# ------------------------------------------------------------------------------------- range


def centred(space, value):
    return np.asarray(jax.jit(lambda x: to_centred(space, x))(np.asarray(value, space.dtype)))


@pytest.mark.parametrize(
    ("low", "high", "dtype", "value", "expected"),
    [
        (0, 255, np.uint8, [0, 51, 255], [-0.5, -0.3, 0.5]),
        (0, 1, np.uint8, [0, 1], [-0.5, 0.5]),
        (0, 1, np.bool_, [False, True], [-0.5, 0.5]),
        (-4, 4, np.int8, [-4, 0, 2], [-0.5, 0.0, 0.25]),
        ([0, -10], [10, 10], np.int32, [5, 5], [0.0, 0.25]),
        (7, 7, np.int32, [7], [-0.5]),
        # All of 16 bits are a range; all of 32 bits, of a counter, are none.
        (-(2**15), 2**15 - 1, np.int16, [-(2**15), 2**15 - 1], [-0.5, 0.5]),
        (-(2**31), 2**31 - 1, np.int32, [-3, 70000], [-3, 70000]),
        (0, 2**31 - 1, np.int32, [3], [3]),
        (0, 2**32 - 1, np.uint32, [3 * 2**30], [3 * 2**30]),
        ([0, -(2**31)], [4, 2**31 - 1], np.int32, [1, 70000], [-0.25, 70000]),
        # Float32 alone could not tell these numbers from each other, nor int32 their distance.
        (2**30, 2**30 + 4, np.int32, [2**30 + 1], [-0.25]),
        (2**31, 2**31 + 4, np.uint32, [2**31 + 1], [-0.25]),
        (-(2**31) + 1, 2**31 - 2, np.int32, [2**30], [0.25]),
        # Vectors of floats are taken as they are.
        (0.0, 10.0, np.float32, [2.5], [2.5]),
    ],
)
def test_values_between_their_bounds(low, high, dtype, value, expected):
    space = spaces.Box(np.array(low, dtype), np.array(high, dtype), np.shape(value), dtype)
    got = centred(space, value)
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, np.float32(expected), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(from_centred(space, jnp.asarray(got)), value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("low", "high", "scaled"),
    [(0, 1, True), (-5, 10, True), (0, np.inf, False), (-3.4028235e38, 3.4028235e38, False)],
)
def test_float_pictures_are_scaled_by_finite_bounds(low, high, scaled):
    space = spaces.Box(low, high, (8, 8, 1))
    assert scaled_entries(space).all() == scaled_entries(space).any() == scaled
    value = np.float32([0.0, 1.0, 0.25]).repeat(64).reshape(3, 8, 8, 1)
    expected = (value - low) / (high - low) - 0.5 if scaled else value
    np.testing.assert_allclose(centred(space, value), expected, rtol=1e-6)


def test_one_pixel_without_bounds_leaves_the_picture_as_it_is():
    """Else its pixels would be in different units."""
    high = np.full((8, 8, 1), 10.0)
    high[3, 4] = np.inf
    assert not scaled_entries(spaces.Box(0, high)).any()


def test_bytes_are_divided_by_255_to_the_bit():
    """What runs have learned from before."""
    space = spaces.Box(0, 255, (16, 16, 1), np.uint8)
    bytes_ = jnp.arange(256, dtype=jnp.uint8).reshape(16, 16, 1)
    for jit in (jax.jit, shipped_jit):
        unit, middle = jit(lambda x: (to_unit(space, x), to_centred(space, x)))(bytes_)
        before = jit(lambda x: (x.astype(jnp.float32) / 255, x.astype(jnp.float32) / 255 - 0.5))
        np.testing.assert_array_equal(unit, before(bytes_)[0])
        np.testing.assert_array_equal(middle, before(bytes_)[1])

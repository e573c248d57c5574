"""Networks of normalised layers, and pictures in and out."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.networks.encoders import PICTURE_ENCODERS
from ssmrl.networks.normed import NormedMLP
from ssmrl.networks.pictures import (
    PICTURE_NETWORKS,
    PatchDecoder,
    PatchEncoder,
    PictureDecoder,
    channel_counts,
)


@pytest.mark.parametrize(
    ("height", "width", "counts"),
    [
        (64, 64, [4, 6, 8, 8]),  # 32, 16, 8, 4 pixels
        (84, 84, [4, 6, 8, 8]),
        (128, 160, [4, 6, 8, 8, 8]),
        (9, 12, [4]),
    ],
)
def test_channels_of_each_halving(height, width, counts):
    assert channel_counts(height, width, 2) == counts


def test_there_is_a_pair_for_every_name():
    assert tuple(PICTURE_NETWORKS) == PICTURE_ENCODERS


@pytest.mark.parametrize("name", PICTURE_ENCODERS)
@pytest.mark.parametrize("shape", [(9, 12, 1), pytest.param((16, 16, 3), marks=pytest.mark.slow)])
def test_pictures_keep_their_shape(shape, name):
    """Odd sizes too, with any leading axes; values stay between 0 and 1."""
    encoder, decoder = PICTURE_NETWORKS[name]
    encoder, decoder = encoder(2), decoder(shape, 2, 8)
    pictures = jax.random.uniform(jax.random.key(0), (2, 3, *shape))

    @jax.jit
    def both(key):
        code, _ = encoder.init_with_output(key, pictures)
        return code, decoder.init_with_output(key, code)[0]

    code, decoded = both(jax.random.key(1))
    assert code.shape[:2] == (2, 3) and code.ndim == 3
    assert decoded.shape == (2, 3, *shape) and decoded.dtype == jnp.float32
    assert decoded.min() > 0 and decoded.max() < 1


def test_blocks_of_a_state_have_channels_of_their_own():
    """Of 16 entries, 8 blocks of 2; of the smallest picture's 8 channels one each."""
    decoder = PictureDecoder((8, 8, 1), 4, 3, state=16)  # 8 channels of 4 × 4 pixels
    x = jax.random.normal(jax.random.key(0), (1, 21))
    params = decoder.init(jax.random.key(1), x)
    sizes = jax.tree.map(jnp.shape, params)["params"]
    assert sizes["blocks"] == (8, 2, 16) and sizes["blocks_bias"] == (8, 16)
    assert sizes["spread"]["dense_0"]["kernel"] == (5, 6)

    def smallest(x):
        seen = []

        def watch(call, args, kwargs, context):
            if context.module.name == "norm":  # what it normalises is the smallest picture
                seen.append(args[0][0])
            return call(*args, **kwargs)

        with nn.intercept_methods(watch):
            decoder.apply(params, x)
        return seen[0]

    slope = jax.jacobian(smallest)(x)[..., 0, :]  # height, width, channel, entry
    assert (slope != 0).any((0, 1))[:, 16:].all()
    np.testing.assert_array_equal(
        (slope != 0).any((0, 1))[:, :16], np.kron(np.eye(8), np.ones((1, 2)))
    )


def test_layers_over_patches_keep_places():
    """Each place of the smallest picture becomes its part of the picture, and comes from it."""
    decoder = PatchDecoder((16, 24, 1), 1, 4)  # 4 × 6 places of 4 × 4 pixels
    params = decoder.init(jax.random.key(0), jnp.ones((1, 5)))
    place = params["params"]["spread"]["output"]["bias"].reshape(4, 6, 8).at[2, 5].add(3.0)
    changed = jax.tree.map(lambda x: x, params)
    changed["params"]["spread"]["output"]["bias"] = place.ravel()
    x = jnp.ones((1, 5))
    different = (decoder.apply(params, x) != decoder.apply(changed, x))[0, :, :, 0]
    expected = np.zeros((16, 24), bool)
    expected[8:12, 20:24] = True
    np.testing.assert_array_equal(different, expected)

    encoder = PatchEncoder(1)
    picture = jax.random.uniform(jax.random.key(1), (16, 24, 1))
    code, params = encoder.init_with_output(jax.random.key(2), picture)
    other = encoder.apply(params, picture.at[9, 23].add(1.0))
    np.testing.assert_array_equal(
        (code != other).reshape(4, 6, 8).any(-1), np.arange(24).reshape(4, 6) == 2 * 6 + 5
    )


def test_without_bounds_there_is_no_sigmoid():
    x = jax.random.normal(jax.random.key(0), (2, 5))
    bounded, free = (PictureDecoder((8, 8, 1), 2, 3, bounded=b) for b in (True, False))
    params = bounded.init(jax.random.key(1), x)
    picture = free.apply(params, x)
    np.testing.assert_allclose(bounded.apply(params, x), jax.nn.sigmoid(picture), rtol=1e-6)
    assert picture.min() < 0


def test_normed_mlp_by_hand():
    """One unit each: norm makes 3x of any positive x into 1, and SiLU(1) = 0.731."""
    mlp = NormedMLP(1, 1, outputs=1)
    params = mlp.init(jax.random.key(0), jnp.ones((1,)))
    params = jax.tree.map(lambda x: jnp.full_like(x, 3.0), params)
    params["params"]["dense_0"]["bias"] *= 0
    params["params"]["norm_0"]["scale"] = jnp.ones(1)
    got = mlp.apply(params, jnp.array([[1.0], [50.0]]))
    np.testing.assert_allclose(got, 3 * jax.nn.silu(1.0) + 3, rtol=1e-4)


def test_output_scale():
    x = jax.random.normal(jax.random.key(0), (1000, 64))
    for scale in (0.0, 0.01, 1.0):
        mlp = NormedMLP(0, 0, outputs=8, output_scale=scale)
        y = mlp.init_with_output(jax.random.key(1), x)[0]
        np.testing.assert_allclose(y.std(), scale, rtol=0.15, atol=1e-8)


def test_half_precision_comes_out_single():
    mlp = NormedMLP(2, 8, outputs=3, dtype=jnp.bfloat16)
    y, params = mlp.init_with_output(jax.random.key(0), jnp.ones((2, 5)))
    assert y.dtype == jnp.float32
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(params))
    hidden = NormedMLP(1, 8, dtype=jnp.bfloat16).init_with_output(jax.random.key(0), y)[0]
    assert hidden.dtype == jnp.bfloat16

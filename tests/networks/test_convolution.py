"""Our convolution is flax's, and its gradients are JAX's, written in another order on CPUs."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ssmrl.networks.convolution import AXES, Conv, convolve

SIZES = [
    # height, width, kernel, strides
    (8, 8, (4, 4), (2, 2)),
    (9, 7, (5, 5), (1, 1)),
    (9, 12, (4, 3), (2, 3)),
    (7, 10, (3, 5), (3, 1)),
    (3, 4, (5, 5), (2, 2)),
    (1, 6, (1, 2), (1, 2)),
]


@pytest.mark.parametrize(("height", "width", "kernel", "strides"), SIZES)
def test_gradients_are_those_of_jax(height, width, kernel, strides):
    """Of odd sizes, pictures smaller than the kernel, and unequal sides, in double precision."""
    with jax.enable_x64(True):
        keys = jax.random.split(jax.random.key(0), 3)
        x = jax.random.normal(keys[0], (3, height, width, 2), jnp.float64)
        w = jax.random.normal(keys[1], (*kernel, 2, 5), jnp.float64)

        def plain(x, w):
            return lax.conv_general_dilated(x, w, strides, "SAME", dimension_numbers=AXES)

        expected, pull = jax.vjp(plain, x, w)
        got, pull_ours = jax.vjp(lambda x, w: convolve(x, w, strides), x, w)
        np.testing.assert_array_equal(got, expected)
        gradient = jax.random.normal(keys[2], expected.shape, jnp.float64)
        for a, b in zip(pull_ours(gradient), pull(gradient), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [None, jnp.bfloat16])
def test_it_is_flax_s_layer(dtype):
    """The same parameters from a key, the same output in the same dtype, any leading axes."""
    x = jax.random.normal(jax.random.key(0), (2, 3, 9, 8, 2))
    ours = Conv(4, (3, 3), strides=(2, 2), dtype=dtype)
    flax = nn.Conv(4, (3, 3), strides=(2, 2), padding="SAME", dtype=dtype)
    params = ours.init(jax.random.key(1), x)
    jax.tree.map(np.testing.assert_array_equal, params, flax.init(jax.random.key(1), x))
    got, expected = ours.apply(params, x), flax.apply(params, x)
    assert got.dtype == expected.dtype and got.shape == (2, 3, 5, 4, 4)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize(("platform", "changed"), [("cpu", True), ("cuda", False), ("tpu", False)])
def test_only_cpus_have_other_gradients(platform, changed):
    """Lowered for a platform, the gradients are JAX's own, or have the standard order of axes."""
    x, w = jnp.zeros((2, 8, 8, 3)), jnp.zeros((5, 5, 3, 4))
    loss = jax.grad(lambda x, w: convolve(x, w, (1, 1)).sum(), (0, 1))
    text = jax.jit(loss).trace(x, w).lower(lowering_platforms=(platform,)).as_text()
    orders = text.count("dim_numbers = "), text.count("dim_numbers = [b, 0, 1, f]x[0, 1, i, o]->")
    assert orders[0] == 2  # the two gradients; the convolution itself is not needed
    assert (orders[1] == 2) == changed

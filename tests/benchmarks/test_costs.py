"""Costs counted from a jaxpr are those that one can work out by hand."""

import jax
import jax.numpy as jnp
import pytest

from benchmarks.speed import costs as counting


def costs_of(function, *arguments):
    return counting.costs_of(jax.make_jaxpr(function)(*arguments))


A, B = jax.ShapeDtypeStruct((4, 8), jnp.float32), jax.ShapeDtypeStruct((8, 8), jnp.float32)
PRODUCT = 2 * 4 * 8 * 8


def test_a_product_costs_two_flops_a_term_and_moves_its_factors_and_itself():
    costs = costs_of(jnp.matmul, A, B)
    assert costs.flops == {"float32": PRODUCT}
    assert (costs.bytes, costs.kernels) == (4 * (32 + 64 + 32), 1)


def test_a_scan_counts_as_often_as_it_runs_and_a_cond_by_its_dearest_branch():
    def loop(a, b):
        return jax.lax.scan(lambda x, _: (x @ b, None), a, None, 5)[0]

    def either(flag, a, b):
        return jax.lax.cond(flag, lambda: (a @ b) @ b, lambda: a)

    assert costs_of(loop, A, B).flops["float32"] == 5 * PRODUCT
    flag = jax.ShapeDtypeStruct((), bool)
    assert costs_of(either, flag, A, B).flops["float32"] == 2 * PRODUCT


def test_a_gradient_costs_three_times_its_function():
    def loss(b, a):
        return jnp.sum(jnp.tanh(a @ b) @ b)

    forward, both = costs_of(loss, B, A), costs_of(jax.grad(loss, argnums=(0, 1)), B, A)
    assert both.flops["float32"] == 3 * forward.flops["float32"]


def test_a_convolution_is_what_xla_says_it_is():
    x = jax.ShapeDtypeStruct((2, 8, 8, 3), jnp.bfloat16)
    kernel = jax.ShapeDtypeStruct((4, 4, 3, 16), jnp.bfloat16)

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    analysis = jax.jit(convolve).lower(x, kernel).cost_analysis()
    assert costs_of(convolve, x, kernel).flops["bfloat16"] == pytest.approx(analysis["flops"])


def test_a_table_that_is_looked_up_is_not_read_as_a_whole():
    table = jax.ShapeDtypeStruct((10**6, 4), jnp.float32)
    rows = jax.ShapeDtypeStruct((3,), jnp.int32)
    assert costs_of(lambda t, i: t[i], table, rows).bytes < 1000


def test_memory_is_that_of_what_is_still_needed():
    def chain(x):
        for _ in range(5):  # of which two are held at any time
            x = jnp.tanh(x)
        return x

    def residuals(x):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c), c), x, None, 10)[1]

    x = jax.ShapeDtypeStruct((1000,), jnp.float32)
    assert counting.peak_bytes(jax.make_jaxpr(chain)(x)) == 8_000
    # Ten that are kept, the last carry, and within a round one more.
    assert counting.peak_bytes(jax.make_jaxpr(residuals)(x)) == 4_000 * 12


def test_an_update_is_made_in_place_also_within_another_function():
    buffer, row = (jax.ShapeDtypeStruct(s, jnp.float32) for s in ((1000, 8), (8,)))
    update = jax.jit(lambda b, x: b.at[3].set(x))
    program = jax.make_jaxpr(lambda b, x: update(update(b, x), x + 1))(buffer, row)
    assert counting.peak_bytes(program) < 1000
    assert counting.costs_of(program).bytes < 1000

"""Windows longer than blocks and chunks: what the conformance suite's eight steps do not reach."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.memory import make_memory, siso, transformer
from ssmrl.memory.blockwise import BLOCK_ON_CPU
from ssmrl.memory.deltanet import invert_unit_lower
from ssmrl.memory.siso import CHUNK, FORMS
from tests.compiling import quick_jit
from tests.memory.cases import close, double_precision, draw, flags, is_inexact

B, F, WIDTH = 3, 5, 4
T = 4 * CHUNK + 5  # four whole chunks and a rest

# Entries of (step, batch entry) that begin episodes.
RESETS = {
    "none": [],
    "the first step": [(0, 0), (0, 1), (0, 2)],
    "once in a chunk": [(5, 0), (CHUNK, 1), (2 * CHUNK + 7, 0), (T - 1, 2)],
    "twice in a chunk": [(3, 2), (5, 2), (CHUNK + 1, 0), (3 * CHUNK, 1), (3 * CHUNK + 1, 1)],
}
QUICK_ENOUGH = {("dss", "none")}


def results(memory, params, carry, x, reset, return_carries=False):
    """y and the last carry, and gradients of both with respect to parameters, carry and x."""

    @quick_jit
    def call(params, carry, x):
        def run(params, carry, x):
            last, y, *_ = memory.apply(params, carry, x, jnp.asarray(reset), return_carries)
            return y, last

        outputs, pull_back = jax.vjp(run, params, carry, x)
        return outputs, pull_back(jax.tree.map(jnp.cos, outputs))

    return call(params, carry, x)


def begun(memory, x):
    """Parameters, and a carry that is not the initial one."""
    carry = memory.initialize_carry((B,))
    carry = jax.tree.map(lambda a: a.astype(jnp.result_type(a, x)) if is_inexact(a) else a, carry)
    init = quick_jit(memory.init)
    params = init(jax.random.key(0), carry, x[:1], jnp.ones((1, B), bool))
    params = jax.tree.map(lambda a: a.astype(x.dtype), params)
    used = quick_jit(memory.apply)(params, carry, x, jnp.zeros((T, B), bool))[0]
    return params, used


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        pytest.param(
            name, pattern, marks=() if (name, pattern) in QUICK_ENOUGH else pytest.mark.slow
        )
        for name in ("s4", "s4d", "dss")
        for pattern in RESETS
    ],
)
def test_the_forms_of_a_bank_of_systems_agree(name, pattern, monkeypatch):
    monkeypatch.setattr(siso, "TOGETHER", 2 * B)  # two blocks of two chunks, and the rest
    with double_precision():
        x, reset = jnp.asarray(draw(T, B, F)), flags(*RESETS[pattern], shape=(T, B))
        options = {"features": WIDTH, "layers": 1, "state_size": 6}
        banks = {form: make_memory(name, form=form, **options) for form in FORMS}
        params, carry = begun(banks["recurrence"], x)
        want = results(banks["recurrence"], params, carry, x, reset)
        for form in ("chunks", "convolution"):
            close(results(banks[form], params, carry, x, reset), want, 1e-11)


@pytest.mark.parametrize("name", ["mamba", "longhorn"])
def test_states_in_blocks_are_the_states(name):
    assert T > 2 * BLOCK_ON_CPU and T % BLOCK_ON_CPU
    with double_precision():
        x, reset = jnp.asarray(draw(T, B, F)), flags((9, 0), (20, 1), shape=(T, B))
        memory = make_memory(name, features=WIDTH, layers=1, state_size=3)
        params, carry = begun(memory, x)
        want = results(memory, params, carry, x, reset, return_carries=True)
        close(results(memory, params, carry, x, reset), want, 1e-11)


@pytest.mark.parametrize("positions", ["rotary", "alibi"])
def test_attention_in_stretches_is_attention(positions, monkeypatch):
    """Several stretches to a window, and a few at a time, as only long windows have them."""
    with double_precision():
        x, reset = jnp.asarray(draw(T, B, F)), flags((9, 0), (20, 1), (21, 1), shape=(T, B))
        options = {"heads": 2, "window": 10, "positions": positions}
        memory = make_memory("transformer", features=WIDTH, layers=1, **options)
        params, carry = begun(memory, x)

        def outputs_and_gradients():
            def loss(params, x):
                last, y = memory.apply(params, carry, x, jnp.asarray(reset))
                return jnp.sum(jnp.cos(y)), (last, y)

            return quick_jit(jax.grad(loss, (0, 1), has_aux=True))(params, x)

        assert transformer._stretch_size(10) == 10
        want = outputs_and_gradients()
        monkeypatch.setattr(transformer, "_stretch_size", lambda window: 3)
        close(outputs_and_gradients(), want, 1e-11)
        monkeypatch.setattr(transformer, "SCORES_ON_CPU", 3 * 2 * 3 * 12)  # three of 69 at once
        close(outputs_and_gradients(), want, 1e-11)


def test_stretches_of_long_windows():
    sizes = {window: transformer._stretch_size(window) for window in (1, 100, 128, 512, 1000)}
    assert sizes == {1: 1, 100: 100, 128: 64, 512: 128, 1000: 200}


@pytest.mark.parametrize("size", [1, 2, 3, 8, 13, 16])
def test_the_inverse_of_a_triangular_matrix(size):
    lower = np.tril(np.random.default_rng(size).standard_normal((2, 3, size, size)), -1)
    with jax.enable_x64(True):
        got = invert_unit_lower(jnp.asarray(lower))
        want = np.linalg.inv(np.eye(size) + lower)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * np.abs(want).max())


def test_keys_that_are_all_alike_do_not_spoil_the_inverse():
    """All ones below the diagonal: powers of it grow binomially, the inverse has ones alone."""
    lower = np.tril(np.ones((16, 16), np.float32), -1)
    want = np.eye(16) - np.eye(16, k=-1)
    np.testing.assert_array_equal(invert_unit_lower(jnp.asarray(lower)), want)

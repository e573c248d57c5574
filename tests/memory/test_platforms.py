"""Every memory on other platforms, by lowering for them, and in reduced precision."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.memory import make_memory
from tests.memory.cases import SMALL, every_memory, quick_jit

T, B, F = 160, 2, 12
PLATFORMS = ["cuda", pytest.param("tpu", marks=pytest.mark.slow)]


def small(name):
    return make_memory(name, **(SMALL.get(name, {}) | {"features": F, "layers": 1}))


@cache
def traced(name):
    """Output, carry and gradients of a window longer than chunks, blocks and caches."""
    memory = small(name)
    carry = memory.initialize_carry((B,))
    x, reset = jnp.zeros((T, B, F)), jnp.zeros((T, B), bool)
    params = jax.eval_shape(memory.init, jax.random.key(0), carry, x[:1], reset[:1])

    def loss(params, x, carry, reset):
        _, y = memory.apply(params, carry, x, reset)
        return jnp.sum(y)

    return jax.jit(jax.value_and_grad(loss, (0, 1))).trace(params, x, carry, reset)


@cache
def lowered(name, platform):
    """The program as text."""
    return traced(name).lower(lowering_platforms=(platform,)).as_text()


@every_memory
@pytest.mark.parametrize("platform", PLATFORMS)
def test_it_lowers_for_accelerators(name, platform):
    assert "func.func public @main" in lowered(name, platform)


# A loop over time on an accelerator is a defect wherever the recurrence is associative; these are
# the memories that have one by nature: a nonlinear recurrence, or a product from chunk to chunk.
LOOPS = {"block_gru", "gru", "lstm", "deltanet", "gated_deltanet"}
# And these pass one state on from each chunk of steps to the next.
BANKS = {"s4", "s4d", "dss"}


@every_memory
def test_accelerators_get_no_loop_over_time(name):
    assert ("stablehlo.while" in lowered(name, "cuda")) == (name in LOOPS | BANKS)


@every_memory
def test_bfloat16_activations_are_close_to_float32(name):
    """States stay single precision, so that errors do not add up: they are those of bfloat16
    inputs and products, 2⁻⁸ relative each."""
    memory = small(name)
    carry = memory.initialize_carry((B,))
    x = jax.random.normal(jax.random.key(1), (T, B, F))
    reset = jnp.zeros((T, B), bool).at[0].set(True)
    params = quick_jit(memory.init)(jax.random.key(0), carry, x[:1], reset[:1])
    apply = quick_jit(lambda params, x: memory.apply(params, carry, x, reset)[1])
    want = np.asarray(apply(params, x))
    got = np.asarray(apply(params, x.astype(jnp.bfloat16)).astype(jnp.float32))
    for part in (slice(T // 2), slice(T // 2, T)):  # the last steps too: nothing drifts
        assert np.sqrt(np.mean((got[part] - want[part]) ** 2)) < 0.05 * np.sqrt(
            np.mean(want[part] ** 2)
        )

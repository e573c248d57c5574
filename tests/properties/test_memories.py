"""Memories over drawn windows: splits, resets, carries and dtypes, and batches of nothing.

`tests/memory` proves the contract on chosen patterns, in double precision; here none is chosen. The
lengths are few, because every length is compiled for.
"""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st

from ssmrl.memory import list_memories
from tests.memory.cases import F, build, case, close, initial_carry, run_with
from tests.properties.checking import check_examples

T, B = 4, 3
QUICK = ("s5", "gru")
EXAMPLES = 12


ANY = {name: case(name, layers=1) for name in list_memories()}
every_memory = pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in ANY]
)
WINDOWS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 999),
        "scale": st.sampled_from([1e-3, 1.0, 30.0]),
        "reset": st.lists(st.booleans(), min_size=T * B, max_size=T * B),
        "dtype": st.sampled_from(["float32", "bfloat16"]),
        "cuts": st.sets(st.sampled_from([1, 2, 3])),
        "used": st.booleans(),
    }
)


def _arguments(one, window):
    """The carry, inputs and resets of a drawn window."""
    draw = np.random.default_rng(window["seed"])
    x = jnp.asarray(window["scale"] * draw.standard_normal((T, B, F)), window["dtype"])
    reset = np.reshape(window["reset"], (T, B))
    carry = initial_carry(one, (B,))
    if window["used"]:
        carry = _run(one, carry, x[::-1], np.zeros((T, B), bool))[0]
    return carry, x, reset


def _run(one, carry, x, reset):
    """The last carry and y."""
    return run_with(one, build(one)[1], carry, x, reset)[:2]


@every_memory
def test_a_window_split_anywhere_is_the_window(name):
    one = ANY[name]

    def check(window):
        carry, x, reset = _arguments(one, window)
        want = _run(one, carry, x, reset)
        ends = [0, *sorted(window["cuts"]), T]
        parts = []
        for start, stop in itertools.pairwise(ends):
            carry, y = _run(one, carry, x[start:stop], reset[start:stop])
            parts.append(y)
        tolerance = 1e-4 if window["dtype"] == "float32" else 0.05
        close(np.concatenate(parts).astype(float), want[1].astype(float), tolerance)
        close(carry, want[0], tolerance)

    check_examples(check, EXAMPLES, window=WINDOWS)


@every_memory
def test_a_reset_cuts_all_influence(name):
    """To the bit: of inputs before it, whatever they are, and of the carry."""
    one = ANY[name]

    def check(window):
        carry, x, reset = _arguments(one, window)
        _, want = _run(one, carry, x, reset)
        # Step t of entry b depends on nothing before the last reset at or before t.
        last = np.maximum.accumulate(np.where(reset, np.arange(T)[:, None], -1))
        poison = np.float32([np.nan, np.inf, -1e30])[:, None]
        for b in range(B):
            first = int(last[-1, b])
            if first < 0:
                continue
            other = jnp.asarray(x).at[:first, b].set(jnp.asarray(poison[b], x.dtype))
            _, y = _run(one, carry, other, reset)
            np.testing.assert_array_equal(y[first:, b], want[first:, b])
            others = [c for c in range(B) if c != b]
            np.testing.assert_array_equal(y[:, others], want[:, others])

    check_examples(check, EXAMPLES, window=WINDOWS)


@every_memory
def test_a_batch_of_nothing(name):
    """No environments: shapes as ever, and the carry as it was. No steps are refused."""
    memory, params = build(ANY[name])
    carry = initial_carry(ANY[name], (0,))
    last, y = jax.eval_shape(
        memory.apply, params, carry, jnp.zeros((T, 0, F)), jnp.zeros((T, 0), bool)
    )
    assert y.shape == (T, 0, memory.features)
    alike = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), last, carry)
    assert all(jax.tree.leaves(alike))
    with pytest.raises(ValueError, match="with T >= 1") as error:
        memory.apply(params, carry, jnp.zeros((0, B, F)), jnp.zeros((0, B), bool))
    assert "\n" not in str(error.value).partition("\n---")[0]

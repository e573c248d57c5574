"""A predicate that vmap leaves unbatched, and what follows for ``lax.cond``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.envs import any_across_batch
from ssmrl.envs.batching import replace_in_blocks, select, strip_weak_types
from tests.programs import equations


def primitives(jaxpr):
    """Names of all primitives of a jaxpr, inner ones included."""
    return [equation.primitive.name for equation in equations(jaxpr)]


def guarded(x):
    """Adds 1 where x is negative, by a cond, as an auto-reset does."""
    return jax.lax.cond(
        any_across_batch(x < 0), lambda x: jnp.where(x < 0, x + jnp.sin(x) ** 0, x), lambda x: x, x
    )


def plain(x):
    """The same, on a predicate that vmap batches."""
    return jax.lax.cond(
        jnp.any(x < 0), lambda x: jnp.where(x < 0, x + jnp.sin(x) ** 0, x), lambda x: x, x
    )


@pytest.mark.parametrize(("depth", "shape"), [(0, (4,)), (1, (3, 4)), (2, (2, 3, 4))])
def test_cond_stays_a_cond(depth, shape):
    x = jax.random.normal(jax.random.key(0), shape)
    f, naive = guarded, plain
    for _ in range(depth):
        f, naive = jax.vmap(f), jax.vmap(naive)
    assert "cond" in primitives(jax.make_jaxpr(f)(x).jaxpr)
    # Without it vmap makes a select: the test above can fail.
    assert ("cond" in primitives(jax.make_jaxpr(naive)(x).jaxpr)) == (depth == 0)
    np.testing.assert_array_equal(jax.jit(f)(x), jnp.where(x < 0, x + 1, x))


@pytest.mark.parametrize("where", [None, (0, 0), (2, 3)])
def test_reduces_over_every_axis(where):
    x = np.zeros((3, 4), bool)
    if where:
        x[where] = True
    result = jax.vmap(any_across_batch, out_axes=None)(jnp.asarray(x))
    assert result.shape == () and bool(result) == (where is not None)
    nested = jax.vmap(jax.vmap(any_across_batch, out_axes=None), out_axes=None)(jnp.asarray(x))
    assert bool(nested) == (where is not None)


def test_inside_jit_scan_and_grad():
    @jax.jit
    def total(x):
        def body(c, _):
            return guarded(c) * 1.5, None

        return jax.lax.scan(body, x, None, 3)[0].sum()

    x = jnp.array([[-1.0, 2.0], [3.0, 4.0]])
    np.testing.assert_allclose(jax.vmap(jax.grad(total))(x), 1.5**3)


def test_select_broadcasts_the_mask_over_every_leaf():
    a = {"x": jnp.ones((2, 3)), "k": jax.random.split(jax.random.key(0), 2)}
    b = {"x": jnp.zeros((2, 3)), "k": jax.random.split(jax.random.key(1), 2)}
    out = select(jnp.array([True, False]), a, b)
    np.testing.assert_array_equal(out["x"], [[1, 1, 1], [0, 0, 0]])
    assert out["k"][0] == a["k"][0] and out["k"][1] == b["k"][1]


def in_blocks(block_size):
    """Replaces entry i of x by 10 i, and its typed key by key i, where x is negative."""

    def replace(x, key):
        draw = lambda index: (10.0 * index, jax.vmap(jax.random.key)(index))  # noqa: E731
        return replace_in_blocks(x < 0, draw, (x, key), block_size)

    return replace


@pytest.mark.parametrize("block_size", [1, 3, 4, 7, 50])
@pytest.mark.parametrize("marked", [[], [6], [0, 2, 3], [1, 2, 3, 4, 5], range(7)])
def test_replaced_in_blocks_is_replaced_at_once(block_size, marked):
    x = np.arange(1.0, 8.0, dtype=np.float32)
    x[list(marked)] *= -1
    keys = jax.random.split(jax.random.key(9), 7)
    values, new_keys = jax.jit(in_blocks(block_size))(jnp.asarray(x), keys)
    np.testing.assert_array_equal(values, np.where(x < 0, 10.0 * np.arange(7), x))
    expected = select(jnp.asarray(x < 0), jax.vmap(jax.random.key)(jnp.arange(7)), keys)
    assert (new_keys == expected).all()


def test_replacing_in_blocks_branches_under_vmap_and_draws_no_more_than_it_must():
    drawn = []

    def draw(index):
        jax.debug.callback(drawn.append, index)
        return 10.0 * index

    f = lambda x: replace_in_blocks(x < 0, draw, x, 2)  # noqa: E731
    x = np.ones((2, 3, 9), np.float32)
    x[0, 1, [2, 4, 7, 8]] = -1
    x[1, 2, 0] = -1
    together = jax.jit(jax.vmap(jax.vmap(f)))(jnp.asarray(x))
    jax.effects_barrier()
    np.testing.assert_array_equal(together, np.where(x < 0, 10.0 * np.arange(9), x))
    (loop,) = [
        equation
        for equation in jax.make_jaxpr(jax.vmap(jax.vmap(f)))(x).jaxpr.eqns
        if equation.primitive.name == "while"
    ]
    # A batched predicate would have made the loop's counter one for each program.
    assert loop.outvars[0].aval.shape == ()
    # Two turns, for the program with four marked entries; six programs each.
    assert len(drawn) == 2 * 6 and all(len(index) == 2 for index in drawn)
    assert np.max(drawn) < 9  # what fills up a block is an index, too


def test_a_block_that_holds_all_is_no_loop():
    x, keys = jnp.ones(7), jax.random.split(jax.random.key(9), 7)
    for block_size, loops in ((6, True), (7, False), (8, False)):
        program = jax.make_jaxpr(in_blocks(block_size))(x, keys)
        assert ("while" in primitives(program.jaxpr)) is loops


def test_gradients_pass_the_entries_that_are_kept():
    f = lambda x: (replace_in_blocks(x < 0, lambda i: 10.0 * i, x, 2) ** 2).sum()  # noqa: E731
    x = jnp.array([1.0, -2.0, 3.0, -4.0, -5.0])
    np.testing.assert_array_equal(jax.jit(jax.grad(f))(x), [2.0, 0.0, 6.0, 0.0, 0.0])


def test_strip_weak_types():
    tree = strip_weak_types({"a": jnp.asarray(1.0), "b": 2, "k": jax.random.key(0)})
    assert jnp.asarray(1.0).weak_type and not tree["a"].weak_type and not tree["b"].weak_type
    assert tree["a"] == 1.0 and tree["b"] == 2 and tree["k"] == jax.random.key(0)

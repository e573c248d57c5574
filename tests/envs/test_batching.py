"""A predicate that vmap leaves unbatched, and what follows for ``lax.cond``."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.envs import any_across_batch
from ssmrl.envs.batching import select, strip_weak_types


def primitives(jaxpr):
    """Names of all primitives of a jaxpr, inner ones included."""
    names = []
    for equation in jaxpr.eqns:
        names.append(equation.primitive.name)
        for value in jax.tree.leaves(list(equation.params.values())):
            inner = getattr(value, "jaxpr", value)  # closed or not
            if hasattr(inner, "eqns"):
                names += primitives(inner)
    return names


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


def test_strip_weak_types():
    tree = strip_weak_types({"a": jnp.asarray(1.0), "b": 2, "k": jax.random.key(0)})
    assert jnp.asarray(1.0).weak_type and not tree["a"].weak_type and not tree["b"].weak_type
    assert tree["a"] == 1.0 and tree["b"] == 2 and tree["k"] == jax.random.key(0)

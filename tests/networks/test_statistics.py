"""Running statistics against NumPy in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.networks.statistics import RunningStatistics


def test_several_batches_equal_one_pass():
    rng = np.random.default_rng(0)
    # Of different sizes, leading axes and distributions; a mean far from 0 against the deviation.
    batches = [
        rng.normal(100 + i, 1 + i, (*shape, 3)).astype(np.float32)
        for i, shape in enumerate([(7,), (4, 5), (1,), (2, 3, 4)])
    ]
    statistics = RunningStatistics.zeros(jnp.zeros(3))
    update = jax.jit(lambda s, x: s.update(x))
    seen = np.zeros((0, 3))
    for batch in batches:
        statistics = update(statistics, jnp.asarray(batch))
        seen = np.concatenate([seen, np.float64(batch).reshape(-1, 3)])
        assert statistics.count == len(seen)
        np.testing.assert_allclose(statistics.mean, seen.mean(0), rtol=1e-6)
        if len(seen) > 1:
            np.testing.assert_allclose(statistics.std, seen.std(0), rtol=1e-4)


def test_trees_and_scalars():
    rng = np.random.default_rng(0)
    batch = {
        "a": rng.normal(2, 3, (50, 2)),
        "b": (rng.normal(size=50), rng.normal(size=(50, 2, 2))),
    }
    like = jax.tree.map(lambda x: jnp.zeros(x.shape[1:]), batch)
    statistics = RunningStatistics.zeros(like).update(jax.tree.map(jnp.float32, batch))
    expected = jax.tree.map(lambda x: (x.mean(0), x.std(0)), batch)
    got = jax.tree.map(lambda m, s: (m, s), statistics.mean, statistics.std)
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_before_anything_is_seen_nothing_changes():
    statistics = RunningStatistics.zeros(jnp.zeros(2))
    np.testing.assert_array_equal(statistics.mean, 0)
    np.testing.assert_array_equal(statistics.std, 1)


def test_an_empty_tree_is_left_alone():
    statistics = RunningStatistics.zeros([])
    assert statistics.update([]).mean == []


@pytest.mark.parametrize("constant", [0.0, 3.0, -0.1, 1234.567, 1e6 + 0.5])
def test_a_constant_has_deviation_one(constant):
    """Rounding must not pass for variation: dividing by it would blow noise up to size 1."""
    statistics = RunningStatistics.zeros(jnp.zeros(()))
    for shape in ((1000,), (64, 7), (3,)):
        statistics = statistics.update(jnp.full(shape, constant, jnp.float32))
    np.testing.assert_allclose(statistics.mean, np.float32(constant), rtol=1e-6)
    assert statistics.std == 1


def test_small_but_real_variation_counts():
    # ± 1e-3 around 10: far above float32's 1e-6 there.
    values = np.float32(10 + 1e-3 * np.where(np.arange(1000) % 2, 1, -1))
    statistics = RunningStatistics.zeros(jnp.zeros(())).update(jnp.asarray(values))
    np.testing.assert_allclose(statistics.std, np.float64(values).std(), rtol=0.01)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_batch_that_is_not_finite_is_left_out(bad):
    good = {"a": jnp.arange(4.0), "b": jnp.arange(8.0).reshape(4, 2)}
    statistics = RunningStatistics.zeros({"a": jnp.zeros(()), "b": jnp.zeros(2)}).update(good)
    poisoned = good | {"a": good["a"].at[2].set(bad)}
    after = statistics.update(poisoned)
    for x, y in zip(jax.tree.leaves(after), jax.tree.leaves(statistics), strict=True):
        np.testing.assert_array_equal(x, y)
    assert after.update(good).count == 8

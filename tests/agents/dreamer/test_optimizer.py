"""Dreamer's optimiser: LaProp, whose first update is the rate wherever there is a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.agents.dreamer import DreamerConfig
from ssmrl.agents.dreamer.dreamer import make_dreamer_optimizer
from ssmrl.memory import make_memory

PARAMS = {
    "world": {"memory": {"log_step": jnp.ones(2), "kernel": jnp.ones(2)}, "log_step": jnp.ones(2)},
    "actor": {"kernel": jnp.ones(2)},
}


def updates(*gradients, skip_nonfinite=True, **options):
    """The last update of these gradients, each the same everywhere."""
    config = DreamerConfig(**{"lr": 0.5, "warmup": 0, "beta1": 0.0, **options})
    memory = make_memory("s5", features=4, layers=1)
    optimizer = make_dreamer_optimizer(config, memory, skip_nonfinite=skip_nonfinite)
    state = optimizer.init(PARAMS)
    for gradient in gradients:
        tree = jax.tree.map(lambda p, g=gradient: p * g, PARAMS)
        update, state = optimizer.update(tree, state, PARAMS)
    return {jax.tree_util.keystr(k): v for k, v in jax.tree_util.tree_leaves_with_path(update)}


def test_time_scales_of_the_memory_have_a_rate_of_their_own():
    found = updates(1.0, ssm_lr_scale=0.25)
    scales = {name: 0.25 if name == "['world']['memory']['log_step']" else 1 for name in found}
    assert sorted(scales.values()) == [0.25, 1, 1, 1]
    for name, update in found.items():
        np.testing.assert_allclose(update, -0.5 * scales[name], rtol=1e-5)


@pytest.mark.parametrize(("count", "share"), [(1, 0.25), (2, 0.5), (4, 1.0), (6, 1.0)])
def test_the_rate_warms_up_from_the_first_update_on(count, share):
    for update in updates(*[1.0] * count, warmup=4).values():
        np.testing.assert_allclose(update, -0.5 * share, rtol=1e-5)


def test_gradients_that_are_not_finite_are_skipped_where_asked():
    for update in updates(np.nan).values():
        np.testing.assert_array_equal(update, 0)
    # What comes next is an update; without skipping, what was seen stays in the averages.
    for update in updates(np.nan, 1.0).values():
        np.testing.assert_allclose(update, -0.5, rtol=1e-5)
    for update in updates(np.nan, 1.0, skip_nonfinite=False).values():
        assert not np.isclose(update, -0.5).any()

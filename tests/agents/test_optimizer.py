"""The shared optimiser against its rules worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssmrl.agents.optimizer import OptimizerConfig, make_optimizer, make_schedule
from ssmrl.memory import make_memory

EPS = 1e-5  # Adam's, as PPO implementations have it


def build(memory="s5", skip_nonfinite=False, **options):
    config = OptimizerConfig(**({"weight_decay": 0.0} | options))
    module = make_memory(memory, features=4, layers=2)
    return module, make_optimizer(config, module, skip_nonfinite=skip_nonfinite)


def parameters(module, memory_name="memory"):
    """Of a network that has the memory under "memory", and decoys with its names elsewhere."""
    x, reset = jnp.zeros((1, 1, 4)), jnp.ones((1, 1), bool)
    inner = jax.eval_shape(module.init, jax.random.key(0), module.initialize_carry((1,)), x, reset)[
        "params"
    ]
    decoys = {"B": jnp.zeros(2), "log_step": jnp.zeros(3), "kernel": jnp.zeros((2, 2))}
    tree = {"params": {memory_name: inner, "encoder": decoys, "log_std": jnp.zeros(2)}}
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), tree)


def in_ssm_group(path):
    keys = [k.key for k in path]
    return "memory" in keys and keys[-1] in {"log_decay", "frequency", "log_step", "B"}


def by_path(tree):
    return {jax.tree_util.keystr(p): (p, x) for p, x in jax.tree_util.tree_leaves_with_path(tree)}


def first_update(optimizer, params, gradient):
    return optimizer.update(gradient, optimizer.init(params), params)[0]


def test_clips_by_the_global_norm_of_both_groups():
    """Adam's first step is -g / (|g| + eps): with g far below eps it is nearly -g / eps.

    So the clipped scale shows, which Adam would hide if gradients were large.
    """
    module, optimizer = build(max_grad_norm=1e-6, ssm_lr_scale=0.25)
    params = parameters(module)
    rng = np.random.default_rng(1)
    gradient = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape), jnp.float32), params)
    norm = np.sqrt(sum((np.float64(x) ** 2).sum() for x in jax.tree.leaves(gradient)))
    assert norm > 5
    updates = by_path(first_update(optimizer, params, gradient))
    for name, (path, g) in by_path(gradient).items():
        g = np.float64(g) * 1e-6 / norm
        scale = 0.25 if in_ssm_group(path) else 1
        np.testing.assert_allclose(updates[name][1], -scale * g / (np.abs(g) + EPS), rtol=1e-4)


def test_small_gradients_are_not_scaled_up():
    module, optimizer = build(max_grad_norm=1.0)
    params = parameters(module)
    gradient = jax.tree.map(lambda x: jnp.full(x.shape, 1e-5), params)
    # |g| = eps: half a step.
    for update in jax.tree.leaves(first_update(optimizer, params, gradient)):
        np.testing.assert_allclose(update, -0.5, rtol=1e-4)


def test_time_scales_have_their_own_rate_and_no_decay():
    """Without a gradient only the decay moves: -wd · p. With a large one each moves by 1."""
    module, optimizer = build(ssm_lr_scale=0.1, weight_decay=0.2, max_grad_norm=1e9)
    params = parameters(module)
    still = by_path(first_update(optimizer, params, jax.tree.map(jnp.zeros_like, params)))
    moved = by_path(first_update(optimizer, params, jax.tree.map(jnp.ones_like, params)))
    ssm = set()
    for name, (path, p) in by_path(params).items():
        if in_ssm_group(path):
            ssm.add(name)
            np.testing.assert_array_equal(still[name][1], np.zeros(p.shape))
            np.testing.assert_allclose(moved[name][1], -0.1, rtol=1e-4)
        else:
            np.testing.assert_allclose(still[name][1], -0.2 * p, rtol=1e-5)
            np.testing.assert_allclose(moved[name][1], -1 - 0.2 * p, rtol=1e-4, atol=1e-5)
    # Two layers with four each, and none of the decoys outside the memory.
    assert len(ssm) == 8


def test_a_memory_without_time_scales_has_one_group():
    module, optimizer = build("gru", ssm_lr_scale=0.0, max_grad_norm=1e9)
    params = parameters(module)
    for update in jax.tree.leaves(
        first_update(optimizer, params, jax.tree.map(jnp.ones_like, params))
    ):
        np.testing.assert_allclose(update, -1, rtol=1e-4)


RATES = {
    "constant": [1.0] * 6,
    "linear": [1.0, 0.8, 0.6, 0.4, 0.2, 0.0],  # 1 - t/5
    "cosine": [(1 + np.cos(np.pi * t / 5)) / 2 for t in range(6)],
}


@pytest.mark.parametrize("schedule", list(RATES))
def test_schedules(schedule):
    rate = make_schedule(OptimizerConfig(lr=0.1, lr_schedule=schedule), 5)
    for t, expected in enumerate(RATES[schedule]):
        np.testing.assert_allclose(rate(t), 0.1 * expected, rtol=1e-6, atol=1e-8)


def test_updates_are_those_of_a_rate_of_one_however_many_there_were():
    """One's gradient all the time: each of Adam's steps is the learning rate, up to eps."""
    module, optimizer = build(ssm_lr_scale=0.5, max_grad_norm=1e9)
    params = parameters(module)
    ones = jax.tree.map(jnp.ones_like, params)
    state, update = optimizer.init(params), jax.jit(optimizer.update)
    for _ in range(5):
        updates, state = update(ones, state, params)
        for path, x in jax.tree_util.tree_leaves_with_path(updates):
            np.testing.assert_allclose(x, -0.5 if in_ssm_group(path) else -1, rtol=1e-4)


def test_skipped_updates_change_nothing():
    module, optimizer = build(max_grad_norm=1e9, skip_nonfinite=True)
    params = parameters(module)
    ones = jax.tree.map(jnp.ones_like, params)
    update = jax.jit(optimizer.update)
    bad = [
        ones | {"params": ones["params"] | {"log_std": jnp.array([1.0, x])}}
        for x in (jnp.nan, jnp.inf)
    ]
    state, moves = optimizer.init(params), []
    for gradient in (ones, *bad, ones, ones):
        updates, state = update(gradient, state, params)
        moves.append(-float(updates["params"]["log_std"][0]))
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
    np.testing.assert_allclose(moves, [1, 0, 0, 1, 1], rtol=1e-4)
    # And the moments are those of the three ones alone.
    clean = optimizer.init(params)
    for _ in range(3):
        _, clean = update(ones, clean, params)
    for a, b in zip(
        jax.tree.leaves(state.inner_state), jax.tree.leaves(clean.inner_state), strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_without_skipping_a_nan_gets_through():
    # So that the loop, which watches the metrics, sees it and stops.
    module, optimizer = build()
    params = parameters(module)
    nans = jax.tree.map(lambda x: jnp.full(x.shape, jnp.nan), params)
    updates = first_update(optimizer, params, nans)
    assert all(np.isnan(x).all() for x in jax.tree.leaves(optax.apply_updates(params, updates)))

"""LaProp and its clipping against numbers worked out by hand."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssmrl.agents.laprop import clip_by_tensor_norm, laprop, scale_by_laprop


def test_gradients_are_clipped_by_the_norm_of_their_tensor():
    """|w| = 5 allows |g| = 1.5 of 10; small gradients stay; zeros count as a norm of 1e-3."""
    params = {"w": jnp.array([3.0, 4.0]), "zero": jnp.zeros(2)}
    clip = clip_by_tensor_norm(0.3)
    state = clip.init(params)
    large = {"w": jnp.array([6.0, 8.0]), "zero": jnp.array([0.0, 1.0])}
    got, _ = clip.update(large, state, params)
    np.testing.assert_allclose(got["w"], [0.9, 1.2], rtol=1e-6)
    np.testing.assert_allclose(got["zero"], [0, 3e-4], rtol=1e-6)
    small = {"w": jnp.array([0.3, -0.4]), "zero": jnp.array([1e-4, 0.0])}
    got, _ = clip.update(small, state, params)
    jax.tree.map(np.testing.assert_array_equal, got, small)


def test_two_steps_by_hand():
    """β₁ = ½, β₂ = ¾, gradients 1 and 2.

    n = ¼, n̂ = 1, m = ½ · 1, m̂ = 1. Then n = ¾·¼ + ¼·4 = 19/16, n̂ = 19/16 / (7/16) = 19/7,
    m = ½·½ + ½·2/√(19/7), m̂ = m / ¾.
    """
    transform = scale_by_laprop(0.5, 0.75, 0.0)
    state = transform.init(jnp.zeros(()))
    first, state = transform.update(jnp.float32(1.0), state)
    second, _ = transform.update(jnp.float32(2.0), state)
    np.testing.assert_allclose(first, 1.0, rtol=1e-6)
    expected = (0.25 + 1 / np.sqrt(19 / 7)) / 0.75
    np.testing.assert_allclose(second, expected, rtol=1e-6)


def test_epsilon_is_added_and_no_gradient_is_no_update_without_it():
    transform = scale_by_laprop(0.5, 0.75, 1.0)
    update, _ = transform.update(jnp.float32(3.0), transform.init(jnp.zeros(())))
    np.testing.assert_allclose(update, 3 / (3 + 1), rtol=1e-6)
    transform = scale_by_laprop(0.5, 0.75, 0.0)
    update, _ = transform.update(jnp.float32(0.0), transform.init(jnp.zeros(())))
    assert update == 0


def test_momentum_is_over_normalised_gradients():
    """Whatever a gradient was, it counts at most once: updates stay below 1."""
    transform = scale_by_laprop(0.9, 0.999, 1e-20)
    state = transform.init(jnp.zeros(()))
    _, state = transform.update(jnp.float32(1e6), state)
    update, _ = transform.update(jnp.float32(0.0), state)
    np.testing.assert_allclose(update, 0.09 / 0.19, rtol=1e-4)


def test_gradients_that_are_always_zero_move_nothing():
    params = {"used": jnp.ones(3), "unused": jnp.ones(3)}
    optimizer = laprop(0.1)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state):
        gradient = {"used": params["used"], "unused": jnp.zeros(3)}
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    for _ in range(3):
        params, state = step(params, state)
    np.testing.assert_array_equal(params["unused"], 1)
    np.testing.assert_allclose(params["used"], 1 - 3 * 0.1, atol=0.03)


def test_the_defaults_are_the_published_ones():
    parameters = inspect.signature(laprop).parameters
    defaults = {name: parameters[name].default for name in ("beta1", "beta2", "eps", "clip")}
    assert defaults == {"beta1": 0.9, "beta2": 0.999, "eps": 1e-20, "clip": 0.3}

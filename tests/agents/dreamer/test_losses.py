"""Dreamer's losses against numbers worked out by hand."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ssmrl.agents.dreamer import losses

BINS = losses.symexp_bins(255)


def test_symlog_and_symexp_are_inverse():
    x = jnp.array([-1e6, -3.0, -1e-3, 0.0, 1e-3, 1.0, 42.0, 1e6])
    np.testing.assert_allclose(losses.symexp(losses.symlog(x)), x, rtol=1e-5)
    np.testing.assert_allclose(losses.symlog(jnp.float32(jnp.e - 1)), 1.0, rtol=1e-6)  # ln(e) = 1
    np.testing.assert_allclose(losses.symlog(jnp.float32(1 - jnp.e)), -1.0, rtol=1e-6)


def test_bins_are_symmetric_and_even_in_symlog():
    np.testing.assert_array_equal(BINS, -BINS[::-1])
    assert BINS[127] == 0
    np.testing.assert_allclose(np.diff(losses.symlog(jnp.asarray(BINS))), 40 / 254, rtol=1e-3)
    with pytest.raises(ValueError, match="odd number of bins, at least 3; got 4"):
        losses.symexp_bins(4)


@pytest.mark.parametrize("value", [0.0, 0.02, -0.02, 1.0, -7.3, 1234.5, -4e8, float(BINS[3])])
def test_two_hot_codes_mean_what_they_say(value):
    code = np.asarray(losses.two_hot(jnp.float32(value), BINS), np.float64)
    hot = np.nonzero(code)[0]
    assert len(hot) <= 2 and hot[-1] - hot[0] <= 1
    np.testing.assert_allclose(code.sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(code @ BINS.astype(np.float64), value, rtol=1e-4, atol=1e-7)
    # Logits of that code have that mean too, as far as float32 reaches.
    logits = jnp.log(jnp.asarray(code, jnp.float32) + 1e-30)
    np.testing.assert_allclose(losses.two_hot_mean(logits), value, rtol=1e-4, atol=1e-6)


def test_two_hot_by_hand():
    """Of bins -1, 0, 1: 0.25 lies a quarter of the way from 0 to 1; 5 is beyond the last."""
    bins = np.array([-1.0, 0.0, 1.0], np.float32)
    expected = [[0, 0.75, 0.25], [0.5, 0.5, 0], [0, 0, 1], [1, 0, 0], [0, 1, 0]]
    values = jnp.array([0.25, -0.5, 5.0, -5.0, 0.0])
    np.testing.assert_allclose(losses.two_hot(values, bins), expected, atol=1e-7)


def test_two_hot_loss_by_hand():
    # Three bins: -symexp(20), 0, symexp(20). Target 0 is the middle one, p = 1/2 there.
    logits = jnp.log(jnp.array([0.25, 0.5, 0.25]))
    np.testing.assert_allclose(losses.two_hot_loss(logits, jnp.float32(0)), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(losses.two_hot_loss(jnp.zeros(255), jnp.float32(3)), np.log(255))


def test_zero_logits_mean_exactly_zero():
    assert losses.two_hot_mean(jnp.zeros((2, 255))).tolist() == [0, 0]


def test_unimix_by_hand():
    """Probabilities (1, 0) with a fifth of the uniform are (0.9, 0.1)."""
    mixed = losses.unimix(jnp.array([1e4, 0.0]), 0.2)
    np.testing.assert_allclose(jnp.exp(mixed), [0.9, 0.1], rtol=1e-6)
    # Without it, what has no probability in float32 still has a logarithm.
    np.testing.assert_allclose(losses.unimix(jnp.array([1e4, 0.0]), 0.0), [0, -1e4])


def test_straight_through_samples():
    log_p = jnp.log(jnp.array([0.2, 0.5, 0.3]))
    np.testing.assert_array_equal(losses.straight_through_sample(log_p, 0.0), [0, 1, 0])
    noise = jax.random.gumbel(jax.random.key(0), (20_000, 3))
    draws = losses.straight_through_sample(jnp.broadcast_to(log_p, noise.shape), noise)
    assert set(np.unique(draws)) <= {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(0), [0.2, 0.5, 0.3], atol=0.015)  # 4 deviations
    # The gradient is that of the probabilities: d p[1] / d log p[1] = p[1].
    gradient = jax.grad(lambda x: losses.straight_through_sample(x, 0.0)[1])(log_p)
    np.testing.assert_allclose(gradient, [0, 0.5, 0], atol=1e-6)


def test_kl_by_hand():
    """KL((1/2, 1/2) ‖ (1/4, 3/4)) = ½ ln 2 + ½ ln ⅔ = ½ ln 4/3; twice that for two variables."""
    p = jnp.log(jnp.full((2, 2), 0.5))
    q = jnp.log(jnp.array([[0.25, 0.75]] * 2))
    np.testing.assert_allclose(losses.categorical_kl(p, q), np.log(4 / 3), rtol=1e-5)


def test_kl_losses_move_one_side_each():
    p, q = jnp.log(jnp.array([[0.9, 0.1]])), jnp.log(jnp.array([[0.2, 0.8]]))
    kl = 0.9 * np.log(0.9 / 0.2) + 0.1 * np.log(0.1 / 0.8)
    np.testing.assert_allclose(losses.kl_losses(p, q, 0.0), [kl, kl], rtol=1e-5)

    def gradients(loss, free_bits):
        return jax.grad(lambda *pq: losses.kl_losses(*pq, free_bits)[loss], (0, 1))(p, q)

    dynamics, representation = gradients(0, 0.0), gradients(1, 0.0)
    assert not dynamics[0].any() and dynamics[1].any()
    assert representation[0].any() and not representation[1].any()
    # With more free bits than there are, the loss is the free bits, and constant.
    assert kl < 2 and losses.kl_losses(p, q, 2.0) == (2.0, 2.0)
    assert not any(g.any() for loss in (0, 1) for g in gradients(loss, 2.0))


def test_lambda_returns_by_hand():
    """γ = 1/2, λ = 1/2, rewards 1, 2, 4, 8 on arrival in states 0 … 3, bootstraps 10, 20, 30, 40.

    Going on: R2 = 8 + ½ · (½·40 + ½·40) = 28;  R1 = 4 + ½ · (½·30 + ½·28) = 18.5;
              R0 = 2 + ½ · (½·20 + ½·18.5) = 11.625.
    Terminated at state 2 (discount 0, last): R1 = 4, R0 = 2 + ½ · (½·20 + ½·4) = 8.
    Truncated at state 2 (last): R1 = 4 + ½·30 = 19, R0 = 2 + ½·(½·20 + ½·19) = 11.75.
    """
    reward = jnp.array([1.0, 2, 4, 8])
    bootstrap = jnp.array([10.0, 20, 30, 40])
    half, at_2 = jnp.full(4, 0.5), jnp.arange(4) == 2

    def returns(discount, last):
        return losses.lambda_returns(reward, discount, bootstrap, last, 0.5)

    np.testing.assert_allclose(returns(half, at_2 & False), [11.625, 18.5, 28])
    np.testing.assert_allclose(returns(jnp.where(at_2, 0, half), at_2), [8, 4, 28])
    np.testing.assert_allclose(returns(half, at_2), [11.75, 19, 28])


@pytest.mark.parametrize("reverse", [False, True])
def test_mean_over_rows_is_the_mean_and_has_its_gradient(reverse):
    """Against a loop in Python. There is a carry without a gradient; keys may be among the rows."""
    rng = np.random.default_rng(0)
    params = {"w": jnp.float32(rng.normal(size=3)), "b": jnp.float32(0.5)}
    keys = jax.random.split(jax.random.key(0), 5)
    rows = (jnp.float32(rng.normal(size=(5, 4, 3))), jnp.arange(5), keys)

    def loss(params, carry, row):
        x, number, key = row
        y = jnp.tanh(x @ params["w"] + params["b"] * number + jax.random.normal(key) + carry)
        return (y**2).mean(), (lax.stop_gradient(y), {"first": lax.stop_gradient(y[0])})

    def by_rows(params):
        value, told = losses.mean_over_rows(loss, reverse, params, jnp.ones(4), rows)
        return 3 * value, told

    def in_a_loop(params):
        carry, values, told = jnp.ones(4), [], [None] * 5
        for i in range(5)[:: -1 if reverse else 1]:
            row = jax.tree.map(lambda x, i=i: x[i], rows)
            value, (carry, told[i]) = loss(params, carry, row)
            values.append(value)
        return 3 * sum(values) / 5, jax.tree.map(lambda *x: jnp.stack(x), *told)

    got, expected = (
        jax.jit(jax.value_and_grad(f, has_aux=True))(params) for f in (by_rows, in_a_loop)
    )
    close = partial(np.testing.assert_allclose, rtol=1e-5)
    jax.tree.map(close, got, expected)
    jax.tree.map(close, by_rows(params), expected[0])  # without a gradient

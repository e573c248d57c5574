"""Action distributions against NumPy in float64 and numeric integration."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.envs import spaces
from ssmrl.networks.distributions import action_distribution, parameter_size
from tests.compiling import shipped_jit


def log_softmax(logits):
    logits = np.float64(logits)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def assert_entropy_estimate_is_unbiased(samples, expected):
    """The mean of n estimates lies within five standard errors; n makes those small."""
    samples = np.float64(samples)
    error = samples.std() / math.sqrt(samples.size)
    assert error < 0.005
    assert abs(samples.mean() - expected) < 5 * error + 1e-6


# ------------------------------------------------------------------------------ discrete


def test_categorical_against_numpy():
    logits = np.random.default_rng(0).normal(0, 2, (3, 4, 5)).astype(np.float32)
    space = spaces.Discrete(5)
    assert parameter_size(space) == 5
    distribution = action_distribution(space, jnp.asarray(logits))
    log_p = log_softmax(logits)
    total = 0.0
    for a in range(5):
        log_prob = distribution.log_prob(jnp.full((3, 4), a, jnp.int32))
        np.testing.assert_allclose(log_prob, log_p[..., a], atol=1e-5)
        total += np.exp(np.float64(log_prob))
    np.testing.assert_allclose(total, 1, atol=1e-5)
    entropy = -(np.exp(log_p) * log_p).sum(-1)
    np.testing.assert_allclose(distribution.entropy(seed=jax.random.key(0)), entropy, atol=1e-5)
    np.testing.assert_array_equal(distribution.mode(), logits.argmax(-1))
    np.testing.assert_array_equal(distribution.action(distribution.mode()), logits.argmax(-1))


# A shape with one entry, with several, and a matrix whose rows must not be mistaken for columns.
NVECS = [[3], [2, 3, 4], [[2, 3], [4, 2]]]


@pytest.mark.parametrize("nvec", NVECS, ids=str)
def test_multi_discrete_against_numpy(nvec):
    space, sizes = spaces.MultiDiscrete(nvec), np.ravel(nvec)
    assert parameter_size(space) == sizes.sum()
    logits = np.random.default_rng(1).normal(0, 2, (2, 3, sizes.sum())).astype(np.float32)
    distribution = action_distribution(space, jnp.asarray(logits))
    parts = [log_softmax(part) for part in np.split(logits, np.cumsum(sizes)[:-1], -1)]
    log_prob = jax.jit(distribution.log_prob)
    total = 0.0
    for entries in itertools.product(*map(range, sizes)):
        action = np.reshape(entries, space.shape)
        got = log_prob(jnp.broadcast_to(jnp.int32(action), (2, 3, *space.shape)))
        expected = sum(part[..., a] for part, a in zip(parts, entries, strict=True))
        np.testing.assert_allclose(got, expected, atol=1e-5)
        total += np.exp(np.float64(got))
    np.testing.assert_allclose(total, 1, atol=1e-4)
    entropy = -sum((np.exp(p) * p).sum(-1) for p in parts)
    np.testing.assert_allclose(distribution.entropy(seed=jax.random.key(0)), entropy, atol=1e-5)
    mode = np.stack([p.argmax(-1) for p in parts], -1).reshape(2, 3, *space.shape)
    np.testing.assert_array_equal(distribution.mode(), mode)
    sample = distribution.sample(seed=jax.random.key(1))
    assert sample.shape == (2, 3, *space.shape) and sample.dtype == jnp.int32
    assert all(space.contains(x) for x in sample.reshape(-1, *space.shape))


def test_entries_of_a_multi_discrete_action_are_drawn_as_they_are_told():
    """100,000 draws of a joint of 2 x 3: each frequency within five of its standard errors."""
    logits = np.array([0.3, -0.5, 1.0, 0.0, -1.0], np.float32)
    n = 100_000
    distribution = action_distribution(
        spaces.MultiDiscrete([2, 3]), jnp.broadcast_to(jnp.asarray(logits), (n, 5))
    )
    sample = np.asarray(distribution.sample(seed=jax.random.key(0)))
    joint = np.exp(log_softmax(logits[:2])[:, None] + log_softmax(logits[2:])[None])
    for i, j in itertools.product(range(2), range(3)):
        frequency = ((sample == [i, j]).all(-1)).mean()
        assert abs(frequency - joint[i, j]) < 5 * math.sqrt(joint[i, j] * (1 - joint[i, j]) / n)


# ------------------------------------------------------------------------------ boxes


def normal_log_prob(u, mean, log_std):
    u, mean, log_std = map(np.float64, (u, mean, log_std))
    return -(((u - mean) / np.exp(log_std)) ** 2) / 2 - log_std - math.log(2 * math.pi) / 2


def log_slope(u, half):
    """log(half · (1 - tanh² u)), with 1 - tanh² = 1/cosh²."""
    u = np.float64(u)
    return np.log(half) + 2 * (math.log(2) - np.logaddexp(u, -u))


def one_dimensional(low, high, mean, log_std):
    space = spaces.Box(low, high, (1,))
    return action_distribution(space, jnp.full((1,), mean), jnp.full((1,), log_std))


@pytest.mark.parametrize(
    ("low", "high", "mean", "log_std"),
    [(-1, 1, 0.0, -0.5), (-2, 3, 0.8, 0.3), (10, 10.5, -1.5, -1.0)],
)
def test_squashed_density_integrates_to_one(low, high, mean, log_std):
    """By the midpoint rule over the box: 200,000 cells, the density is smooth and 0 at the ends."""
    distribution = one_dimensional(low, high, mean, log_std)
    n = 200_000
    action = low + (high - low) * (np.arange(n) + 0.5) / n
    raw = np.arctanh((action - (low + high) / 2) / ((high - low) / 2))
    log_prob = jax.vmap(distribution.log_prob)(jnp.asarray(raw[:, None], jnp.float32))
    total = np.exp(np.float64(log_prob)).sum() * (high - low) / n
    np.testing.assert_allclose(total, 1, atol=1e-4)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3)])
def test_squashed_log_prob_is_the_change_of_variables(shape):
    rng = np.random.default_rng(0)
    low = -rng.uniform(0.1, 3, shape).astype(np.float32)
    high = rng.uniform(0.1, 9, shape).astype(np.float32)
    space, size = spaces.Box(low, high), math.prod(shape)
    assert parameter_size(space) == size
    mean, raw = rng.normal(0, 1.5, (2, 4, 5, size)).astype(np.float32)
    log_std = rng.normal(-0.5, 0.5, size).astype(np.float32)
    distribution = action_distribution(space, jnp.asarray(mean), jnp.asarray(log_std))
    half = np.ravel(np.float64(high) - low) / 2
    expected = (normal_log_prob(raw, mean, log_std) - log_slope(raw, half)).sum(-1)
    np.testing.assert_allclose(
        distribution.log_prob(jnp.asarray(raw)), expected, rtol=1e-5, atol=1e-4
    )
    action = distribution.action(jnp.asarray(raw))
    assert action.shape == (4, 5, *shape)
    middle = (np.float64(low) + high) / 2
    by_hand = middle + half.reshape(shape) * np.tanh(np.float64(raw).reshape(4, 5, *shape))
    np.testing.assert_allclose(action, by_hand, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(distribution.mode(), mean)


@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -0.5), (1.2, 0.4), (-3.0, -1.0)])
def test_squashed_entropy_estimate_is_unbiased(mean, log_std):
    """H = E[-log p(a)], by Gauss-Hermite quadrature in front of the tanh."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)
    u = mean + math.exp(log_std) * nodes
    log_p = normal_log_prob(u, mean, log_std) - log_slope(u, 2.5)
    exact = -(weights * log_p).sum() / weights.sum()
    space, n = spaces.Box(-2, 3, (1,)), 200_000
    means = jnp.full((n, 1), mean)
    distribution = action_distribution(space, means, jnp.full((1,), log_std))
    assert_entropy_estimate_is_unbiased(distribution.entropy(seed=jax.random.key(0)), exact)
    # What is drawn has that entropy too: sampling and density belong together.
    drawn = -distribution.log_prob(distribution.sample(seed=jax.random.key(1)))
    assert_entropy_estimate_is_unbiased(drawn, exact)


def test_gradient_of_the_entropy_estimate():
    """dH/d mean and dH/d log_std, against central differences of the quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(100)

    def exact(mean, log_std):
        u = mean + math.exp(log_std) * nodes
        log_p = normal_log_prob(u, mean, log_std) - log_slope(u, 1.0)
        return -(weights * log_p).sum() / weights.sum()

    def estimate(parameters):
        mean, log_std = parameters
        space = spaces.Box(-1, 1, (1,))
        means = jnp.broadcast_to(mean, (n, 1))
        return (
            action_distribution(space, means, log_std[None]).entropy(seed=jax.random.key(0)).mean()
        )

    n, h = 200_000, 1e-5
    got = jax.grad(estimate)(jnp.array([0.7, -0.2]))
    d_mean = (exact(0.7 + h, -0.2) - exact(0.7 - h, -0.2)) / (2 * h)
    d_log_std = (exact(0.7, -0.2 + h) - exact(0.7, -0.2 - h)) / (2 * h)
    assert abs(d_mean) > 0.3
    # Per draw the derivatives -2 tanh u and 1 - 2 tanh(u)(u - mean) deviate by less than 3.
    np.testing.assert_allclose(got, [d_mean, d_log_std], atol=5 * 3 / math.sqrt(n))


@pytest.mark.parametrize("raw", [-1e4, -40.0, -15.0, 15.0, 40.0, 1e4])
def test_saturated_actions_stay_inside_and_finite(raw):
    low, high = np.float32([-0.3, 0.1]), np.float32([0.7, 123456.7])
    space = spaces.Box(low, high)
    raw = jnp.full((2,), raw)

    def log_prob(mean, log_std):
        return action_distribution(space, mean, log_std).log_prob(raw)

    mean, log_std = jnp.array([0.3, -0.2]), jnp.array([0.0, 0.5])
    distribution = action_distribution(space, mean, log_std)
    action = shipped_jit(distribution.action)(raw)
    assert space.contains(action)
    # To the rounding of the box's width in float32.
    error = np.abs(action - (high if raw[0] > 0 else low))
    assert (error <= np.finfo(np.float32).eps * (high - low)).all()
    value, gradients = jax.value_and_grad(log_prob, (0, 1))(mean, log_std)
    expected = normal_log_prob(raw, mean, log_std) - log_slope(raw, (np.float64(high) - low) / 2)
    np.testing.assert_allclose(value, expected.sum(), rtol=1e-5)
    # d log p / d mean = (u - mean) / std²: the tanh's part does not depend on the parameters.
    np.testing.assert_allclose(gradients[0], (raw - mean) / jnp.exp(2 * log_std), rtol=1e-5)
    assert np.isfinite(gradients[1]).all()


def test_sampled_actions_are_inside():
    space = spaces.Box(np.float32([-0.1, 2]), np.float32([0.1, 2.5]))
    means = jnp.asarray(np.random.default_rng(0).normal(0, 5, (2000, 2)), jnp.float32)
    distribution = action_distribution(space, means, jnp.array([1.0, -2.0]))
    actions = distribution.action(distribution.sample(seed=jax.random.key(0)))
    assert actions.dtype == jnp.float32
    assert jax.vmap(space.contains)(actions).all()


def test_without_bounds_it_is_the_normal_itself():
    space = spaces.Box(-np.inf, np.inf, (2, 2))
    mean = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
    log_std = np.float32([0.1, -0.4, 0.0, 1.0])
    distribution = action_distribution(space, jnp.asarray(mean), jnp.asarray(log_std))
    raw = np.random.default_rng(1).normal(0, 3, (3, 4)).astype(np.float32)
    expected = normal_log_prob(raw, mean, log_std).sum(-1)
    np.testing.assert_allclose(distribution.log_prob(jnp.asarray(raw)), expected, rtol=1e-5)
    np.testing.assert_array_equal(distribution.action(jnp.asarray(raw)), raw.reshape(3, 2, 2))
    # Σ (log σ + ½ log 2πe), exactly: the key must not matter.
    entropy = distribution.entropy(seed=jax.random.key(0))
    exact = log_std.sum() + 4 * 0.5 * math.log(2 * math.pi * math.e)
    np.testing.assert_allclose(entropy, np.full(3, exact), rtol=1e-6)


def test_a_bound_on_one_side_is_met():
    space = spaces.Box(np.float32([0, -np.inf]), np.float32([np.inf, np.inf]))
    distribution = action_distribution(space, jnp.zeros((1, 2)), jnp.zeros(2))
    action = distribution.action(jnp.array([[-3.0, -3.0]]))
    np.testing.assert_array_equal(action, [[0, -3]])


@pytest.mark.parametrize(
    "space", [spaces.Dict({"a": spaces.Discrete(2)}), spaces.Tuple([spaces.Discrete(2)])], ids=repr
)
def test_unsupported_spaces_are_named(space):
    with pytest.raises(
        ValueError, match=r"cannot act in (Dict|Tuple).*Discrete, MultiDiscrete or Box"
    ):
        parameter_size(space)
    with pytest.raises(ValueError, match="no action distribution for (Dict|Tuple)"):
        action_distribution(space, jnp.zeros(2))


def test_boxes_need_a_deviation():
    with pytest.raises(ValueError, match="log_std"):
        action_distribution(spaces.Box(-1, 1, (2,)), jnp.zeros(2))


@pytest.mark.parametrize(
    "box",
    [spaces.Box(0, 3, (2,), np.int32), spaces.Box(np.array([0.0, 1.0]), np.array([1.0, 1.0]))],
)
def test_boxes_without_a_density_are_refused(box):
    """Integers would be truncated towards zero; an entry that cannot vary has no density."""
    with pytest.raises(ValueError, match="low < high"):
        parameter_size(box)

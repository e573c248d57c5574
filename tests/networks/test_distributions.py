"""Action distributions against NumPy in float64 and numeric integration."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.envs import spaces
from ssmrl.networks.distributions import action_distribution, parameter_size, scale_size
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


# One box of every kind: both bounds, a lower one, an upper one, none.
KINDS = {
    "two": (-2.0, 3.0),
    "low": (100.0, np.inf),
    "high": (-np.inf, -1.0),
    "none": (-np.inf, np.inf),
}


def unsquash(kind, action):
    """raw, in float64, by the inverse of what `SquashedNormal` documents."""
    low, high = KINDS[kind]
    if kind == "two":
        return np.arctanh((action - (low + high) / 2) / ((high - low) / 2))
    if kind == "none":
        return action
    # u = log(exp(d) - 1), with d the distance from the bound.
    distance = action - low if kind == "low" else high - action
    raw = distance + np.log(-np.expm1(-distance))
    return raw if kind == "low" else -raw


def log_slope_of(kind, raw):
    """log d action / d raw; a softplus has the slope of a sigmoid."""
    raw = np.float64(raw)
    slopes = {
        "two": log_slope(raw, 2.5),
        "low": -np.logaddexp(0, -raw),
        "high": -np.logaddexp(0, raw),
        "none": np.zeros_like(raw),
    }
    return slopes[kind]


def grid(kind, n=100_000):
    """Actions that cover the box, denser at its bounds, and d action / d grid."""
    low, high = KINDS[kind]
    s = 12 * (2 * (np.arange(n) + 0.5) / n - 1)
    ds = 24 / n
    if kind == "two":
        share = 1 / (1 + np.exp(-s))
        return low + (high - low) * share, (high - low) * share * (1 - share) * ds
    if kind == "none":
        return s, np.full(n, ds)
    distance = np.exp(s / 2)  # from 0.0025 to 400 deviations, half of them below 1
    sign, bound = (1, low) if kind == "low" else (-1, high)
    return bound + sign * distance, distance / 2 * ds


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -0.5), (0.8, -1.0), (-0.7, -0.8)])
def test_densities_of_every_kind_integrate_to_one(kind, mean, log_std):
    """And have their mass where the normal has it."""
    distribution = one_dimensional(*KINDS[kind], mean, log_std)
    action, width = grid(kind)
    raw = unsquash(kind, action)
    log_prob = jax.vmap(distribution.log_prob)(jnp.asarray(raw[:, None], jnp.float32))
    mass = np.exp(np.float64(log_prob)) * width
    np.testing.assert_allclose(mass.sum(), 1, atol=1e-4)
    # P(action < squash(mean + std)) = Φ(1)
    below = raw < mean + math.exp(log_std)
    phi = (1 + math.erf(1 / math.sqrt(2))) / 2
    np.testing.assert_allclose(mass[below].sum(), phi, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_actions_of_every_kind_are_the_squashed_raw_ones(kind):
    low, high = KINDS[kind]
    raw = np.linspace(-6, 6, 101, dtype=np.float32)[:, None]
    action = np.asarray(one_dimensional(low, high, 0.0, 0.0).action(jnp.asarray(raw)))
    assert (np.diff(action[:, 0]) >= 0).all() and (low <= action).all() and (action <= high).all()
    inner = slice(10, -10)  # where the inverse does not lose what float32 rounded away
    np.testing.assert_allclose(unsquash(kind, np.float64(action))[inner], raw[inner], atol=5e-3)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("mean", "log_std"), [(0.0, -0.5), (1.2, 0.4)])
def test_entropy_estimates_of_every_kind_are_unbiased(kind, mean, log_std):
    """H = -Σ p log p over the grid, in float64."""
    action, width = grid(kind)
    raw = unsquash(kind, action)
    log_p = normal_log_prob(raw, mean, log_std) - log_slope_of(kind, raw)
    exact = -(np.exp(log_p) * log_p * width).sum()
    n = 100_000
    low, high = KINDS[kind]
    distribution = action_distribution(
        spaces.Box(low, high, (1,)), jnp.full((n, 1), mean), jnp.full((1,), log_std)
    )
    samples = np.float64(distribution.entropy(seed=jax.random.key(0)))
    assert abs(samples.mean() - exact) < 5 * samples.std() / math.sqrt(n) + 1e-3


def test_the_largest_number_as_a_bound_of_an_action_is_none():
    """As `ssmrl.networks.boxes` has it of observations: half the range would be 3e38."""
    limit = np.finfo(np.float32).max
    open_, wide = spaces.Box(-np.inf, np.inf, (3,)), spaces.Box(-limit, limit, (3,))
    raw, mean, log_std = jnp.asarray([-2.0, 0.1, 3.0]), jnp.zeros(3), jnp.zeros(3)
    for clip in (False, True):
        ours, same = (action_distribution(s, mean, log_std, clip=clip) for s in (wide, open_))
        np.testing.assert_array_equal(ours.action(raw), raw)
        assert ours.log_prob(raw) == same.log_prob(raw)


def test_kinds_can_be_mixed_in_one_box():
    """A matrix of all of them, entry by entry what each is alone."""
    low, high = np.float32(list(KINDS.values())).T.reshape(2, 2, 2)
    space = spaces.Box(low, high)
    rng = np.random.default_rng(0)
    mean, raw = rng.normal(0, 1.5, (2, 5, 4)).astype(np.float32)
    log_std = rng.normal(-0.5, 0.5, 4).astype(np.float32)
    mixed = action_distribution(space, jnp.asarray(mean), jnp.asarray(log_std))
    action = mixed.action(jnp.asarray(raw))
    log_prob = 0
    for i, (low_i, high_i) in enumerate(KINDS.values()):
        one = action_distribution(
            spaces.Box(low_i, high_i, (1,)),
            jnp.asarray(mean[:, i : i + 1]),
            jnp.asarray(log_std[i : i + 1]),
        )
        log_prob += one.log_prob(jnp.asarray(raw[:, i : i + 1]))
        np.testing.assert_array_equal(
            action.reshape(5, 4)[:, i], one.action(jnp.asarray(raw[:, i : i + 1]))[:, 0]
        )
    np.testing.assert_allclose(mixed.log_prob(jnp.asarray(raw)), log_prob, rtol=1e-5)
    assert jax.vmap(space.contains)(action).all()
    assert np.ptp(action.reshape(5, 4), axis=0).min() > 0.5  # none rests on its bound


@pytest.mark.parametrize("raw", [-1e4, -100.0, -20.0, 20.0, 100.0, 1e4])
@pytest.mark.parametrize("kind", KINDS)
def test_far_raw_values_of_every_kind_stay_inside_and_finite(kind, raw):
    low, high = KINDS[kind]
    space = spaces.Box(low, high, (1,))

    def log_prob(parameters):
        mean, log_std = parameters
        distribution = action_distribution(space, mean[None], log_std[None])
        return distribution.log_prob(jnp.full((1,), raw))

    distribution = one_dimensional(low, high, 0.3, 0.5)
    action = shipped_jit(distribution.action)(jnp.full((1,), raw))
    assert space.contains(action) and np.isfinite(action).all()
    value, gradient = jax.value_and_grad(log_prob)(jnp.array([0.3, 0.5]))
    assert np.isfinite(value) and np.isfinite(gradient).all()
    expected = normal_log_prob(raw, 0.3, 0.5) - log_slope_of(kind, raw)
    np.testing.assert_allclose(value, expected, rtol=1e-5)


def test_actions_are_clipped_in_the_dtype_of_the_space():
    """float16's 0.1 is 0.09998: what float32 keeps below it would be rounded out of the box."""
    space = spaces.Box(-0.1, 0.1, (1,), np.float16)
    distribution = action_distribution(space, jnp.zeros(1), jnp.zeros(1))
    for raw in (-20.0, 20.0):
        action = distribution.action(jnp.full((1,), raw))
        assert action.dtype == jnp.float16 and space.contains(action)


# ------------------------------------------------------------------------------ clipped


def test_clipped_normals_by_hand():
    """Two bounds: N(tanh(mean), std) in units of half the range; what is outside is cut off."""
    space = spaces.Box(np.float32([-2, 100]), np.float32([3, np.inf]))
    mean, log_std = np.float32([1.2, 0.4]), np.float32([-0.5, 0.1])
    clipped = action_distribution(space, jnp.asarray(mean), jnp.asarray(log_std), clip=True)
    np.testing.assert_allclose(clipped.mode(), [np.tanh(1.2), 0.4], rtol=1e-6)
    raw = np.float32([[0.3, -0.2], [1.7, 2.0], [-4.0, 0.0]])
    action = np.asarray(clipped.action(jnp.asarray(raw)))
    np.testing.assert_allclose(action[:, 0], [0.5 + 2.5 * 0.3, 3.0, -2.0], rtol=1e-6)
    np.testing.assert_allclose(action[:, 1], 100 + np.log1p(np.exp(raw[:, 1])), rtol=1e-6)
    expected = normal_log_prob(raw[:, 0], np.tanh(1.2), -0.5) - np.log(2.5)
    expected += normal_log_prob(raw[:, 1], 0.4, 0.1) + np.logaddexp(0, -np.float64(raw[:, 1]))
    np.testing.assert_allclose(clipped.log_prob(jnp.asarray(raw)), expected, rtol=1e-5)
    # Without one-sided entries the entropy is exact: ½ log 2πe + log σ + log half the range.
    box = spaces.Box(-2.0, 3.0, (1,))
    alone = action_distribution(box, jnp.asarray(mean[:1]), jnp.asarray(log_std[:1]), clip=True)
    exact = 0.5 * math.log(2 * math.pi * math.e) - 0.5 + math.log(2.5)
    np.testing.assert_allclose(alone.entropy(seed=jax.random.key(0)), exact, rtol=1e-6)
    draws = action_distribution(
        box, jnp.broadcast_to(mean[:1], (50_000, 1)), jnp.asarray(log_std[:1]), clip=True
    ).sample(seed=jax.random.key(1))
    error = math.exp(-0.5) / math.sqrt(50_000)
    assert abs(draws.mean() - np.tanh(1.2)) < 5 * error


# ------------------------------------------------------------------------------ products

NESTED = spaces.Dict(
    {
        "b": spaces.Tuple([spaces.Box(-1.0, 1.0, (2,)), spaces.MultiDiscrete([[2, 3]])]),
        "a": spaces.Discrete(3),
        "c": spaces.Dict({"d": spaces.Box(0.0, np.inf, ()), "e": spaces.Discrete(2)}),
    }
)


def nested(leading=(4, 5), seed=0):
    rng = np.random.default_rng(seed)
    parameters = rng.normal(size=(*leading, 3 + 2 + 5 + 1 + 2)).astype(np.float32)
    return jnp.asarray(parameters), jnp.asarray(rng.normal(-0.5, 0.3, 3), jnp.float32)


def test_products_are_their_parts():
    """Parameters stand in the order of the names: a, b's box, b's categoricals, c's box, c's e."""
    assert parameter_size(NESTED) == 13 and scale_size(NESTED) == 3
    x, log_std = nested()
    whole = action_distribution(NESTED, x, log_std)
    raw = whole.sample(seed=jax.random.key(0))
    parts = [
        (NESTED["a"], x[..., :3], None, raw["a"]),
        (NESTED["b"][0], x[..., 3:5], log_std[:2], raw["b"][0]),
        (NESTED["b"][1], x[..., 5:10], None, raw["b"][1]),
        (NESTED["c"]["d"], x[..., 10:11], log_std[2:], raw["c"]["d"]),
        (NESTED["c"]["e"], x[..., 11:], None, raw["c"]["e"]),
    ]
    alone = [action_distribution(space, p, s) for space, p, s, _ in parts]
    log_prob = sum(d.log_prob(value) for d, (*_, value) in zip(alone, parts, strict=True))
    np.testing.assert_allclose(whole.log_prob(raw), log_prob, rtol=1e-5)
    action = whole.action(raw)
    assert jax.vmap(jax.vmap(NESTED.contains))(action).all()
    for d, value, got in zip(alone, parts, jax.tree.leaves(action), strict=True):
        np.testing.assert_array_equal(d.action(value[-1]), got)
    for d, mode in zip(alone, jax.tree.leaves(whole.mode()), strict=True):
        np.testing.assert_array_equal(d.mode(), mode)
    assert jax.tree.structure(whole.mode()) == jax.tree.structure(raw)


def test_entropies_of_products_add_up():
    x, log_std = nested((1,))
    n = 100_000
    whole = action_distribution(NESTED, jnp.broadcast_to(x, (n, x.shape[-1])), log_std)
    drawn = -np.float64(whole.log_prob(whole.sample(seed=jax.random.key(1))))
    estimate = np.float64(whole.entropy(seed=jax.random.key(0)))
    error = math.hypot(drawn.std(), estimate.std()) / math.sqrt(n)
    assert abs(drawn.mean() - estimate.mean()) < 5 * error


def test_parts_of_products_are_drawn_independently():
    """Two equal coins fall equal half the time; with one key for both they always would."""
    n = 20_000
    space = spaces.Tuple([spaces.Discrete(2), spaces.Discrete(2)])
    a, b = action_distribution(space, jnp.zeros((n, 4))).sample(seed=jax.random.key(0))
    assert abs((a == b).mean() - 0.5) < 5 * 0.5 / math.sqrt(n)


@pytest.mark.parametrize(
    ("space", "expected"),
    [
        (spaces.Dict({}), r"cannot act in Dict\({}\): it has no parts"),
        (spaces.Tuple([spaces.Dict({})]), "it has no parts"),
        (
            spaces.Dict(
                {"x": spaces.Tuple([spaces.Discrete(2), spaces.Box(0, 3, (2,), np.int32)])}
            ),
            r"cannot act in Box.*part \['x'\]\[1\]\): .*floats",
        ),
        (spaces.Box(-1, 1, (0,)), "it has no entries"),
    ],
)
def test_unsupported_spaces_are_named(space, expected):
    with pytest.raises(ValueError, match=expected):
        parameter_size(space)
    with pytest.raises(ValueError, match=expected):
        action_distribution(space, jnp.zeros(4), jnp.zeros(4))


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

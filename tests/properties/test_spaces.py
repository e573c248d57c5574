"""Spaces of any kind: their elements, what encoders make of them, and actions in them."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from ssmrl.envs.spaces import Dict, Space, Tuple, flat_size, from_gymnasium
from ssmrl.networks.distributions import action_distribution, parameter_size, scale_size
from ssmrl.networks.encoders import ObservationEncoder
from ssmrl.networks.statistics import RunningStatistics
from tests.properties.checking import for_all
from tests.properties.drawn_spaces import action_spaces, corner, gymnasium_spaces, spaces


def one_line(error: ValueError) -> str:
    """Its message, which must be a line that says something."""
    text = str(error)
    assert text and "\n" not in text, text
    return text


@for_all(space=spaces(), seed=st.integers(0, 2**31 - 1), quick=15, slow=500)
def test_samples_are_elements(space, seed):
    x = space.sample(jax.random.key(seed))
    assert bool(space.contains(x)), (space, x)
    again = space.sample(jax.random.key(seed))
    jax.tree.map(np.testing.assert_array_equal, x, again)
    # Equal spaces are one key, unequal ones are not mixed up by their printed form.
    assert hash(space) == hash(space) and space == space


@for_all(space=gymnasium_spaces(), quick=40, slow=3000)
def test_spaces_of_gymnasium_are_converted_or_refused_in_a_line(space):
    try:
        ours = from_gymnasium(space)
    except ValueError as error:
        one_line(error)
        return
    assert isinstance(ours, Space)
    assert flat_size(ours) == _numbers(space)
    wide = {np.dtype(t) for t in (np.int64, np.uint64, np.float64)}
    assert not wide & {np.dtype(leaf.dtype) for leaf in _leaves(ours)}


def _numbers(space):
    """How many numbers an element of gymnasium's space has."""
    parts = getattr(space, "spaces", None)
    if parts is None:
        return int(np.prod(space.shape))
    return sum(map(_numbers, parts.values() if hasattr(parts, "values") else parts))


def _leaves(space):
    if isinstance(space, Dict):
        return [leaf for part in space.spaces.values() for leaf in _leaves(part)]
    if isinstance(space, Tuple):
        return [leaf for part in space.spaces for leaf in _leaves(part)]
    return [space]


def _encoded(space, batch, picture_encoder="convolutions"):
    encoder = ObservationEncoder(space, (4,), picture_encoder=picture_encoder)
    return encoder.init_with_output(jax.random.key(0), batch)[0]


@for_all(space=spaces(), high=st.booleans(), quick=12, slow=500)
def test_encoders_give_finite_features_or_refuse_in_a_line(space, high):
    element = corner(space, high)
    # Where bounds are near the largest float32 a sum of products is infinite in any network.
    assume(all(np.abs(x, dtype=float).max(initial=0) < 1e30 for x in jax.tree.leaves(element)))
    batch = jax.tree.map(lambda x: jnp.asarray(np.broadcast_to(x, (2, *np.shape(x)))), element)
    try:
        features = _encoded(space, batch)
    except ValueError as error:
        assert flat_size(space) == 0, error
        one_line(error)
        return
    assert features.shape == (2, 4) and features.dtype == jnp.float32
    assert np.isfinite(features).all(), (space, batch)


@for_all(space=action_spaces(), seed=st.integers(0, 99), clip=st.booleans(), quick=12, slow=500)
def test_actions_are_in_the_space_and_their_log_prob_is_finite(space, seed, clip):
    try:
        size = parameter_size(space)
    except ValueError as error:
        one_line(error)
        return
    draw = np.random.default_rng(seed)
    parameters = jnp.asarray(3 * draw.standard_normal((2, size)), jnp.float32)
    log_std = jnp.asarray(draw.uniform(-5, 2, scale_size(space)), jnp.float32)
    distribution = action_distribution(space, parameters, log_std, clip=clip)
    raw = distribution.sample(seed=jax.random.key(seed))
    for value in (raw, distribution.mode()):
        action = distribution.action(value)
        for i in range(2):
            assert bool(space.contains(jax.tree.map(lambda x, i=i: x[i], action))), (space, action)
        log_prob = distribution.log_prob(value)
        assert log_prob.shape == (2,) and np.isfinite(log_prob).all(), (space, value)
    assert np.isfinite(distribution.entropy(seed=jax.random.key(1))).all()
    again = distribution.sample(seed=jax.random.key(seed))
    jax.tree.map(np.testing.assert_array_equal, raw, again)


NUMBERS = st.sampled_from([0.0, 1.0, -1e-30, 1e30, -3e38, np.nan, np.inf]) | st.floats(width=32)


@for_all(
    batches=st.lists(st.lists(NUMBERS, min_size=4, max_size=4), max_size=4), quick=12, slow=500
)
def test_statistics_stay_finite_whatever_comes(batches):
    """What cannot be taken in is left out; the rest is normalised to finite numbers."""
    statistics = RunningStatistics.zeros(np.zeros(2, np.float32))
    for batch in batches:
        statistics = statistics.update(jnp.asarray(batch, jnp.float32).reshape(2, 2))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(statistics))
    std = np.asarray(statistics.std)
    assert np.isfinite(std).all() and (std > 0).all()
    assert (np.asarray(statistics.squares) >= 0).all()

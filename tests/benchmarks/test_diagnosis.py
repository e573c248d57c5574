"""What is measured of an update, against what is worked out another way."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from benchmarks.learning import diagnosis
from ssmrl.envs import JaxVectorEnv
from tests.agents.scripted import small_agent
from tests.compiling import quick_jit
from tests.envs.counting import Counting


def test_rank_and_units_of_outputs():
    """By hand: three directions alike, one of them in two units; a unit that does not move."""
    y = np.zeros((6, 5), np.float32)
    for direction, unit in enumerate((0, 1, 2)):
        y[2 * direction, unit], y[2 * direction + 1, unit] = 1, -1
    seen = diagnosis.of_outputs(jnp.asarray(y))
    np.testing.assert_allclose(seen["effective_rank"], 3, rtol=1e-5)
    assert seen["still_units"] == pytest.approx(0.4)
    seen = diagnosis.of_outputs(jnp.asarray(y[:, [0, 0, 0]] + 5))
    np.testing.assert_allclose(seen["effective_rank"], 1, rtol=1e-3)
    assert seen["still_units"] == 0


@pytest.fixture(scope="module")
def agent_and_state():
    agent = small_agent(JaxVectorEnv(Counting(), None, 4), "gru", entropy_coefficient=0.0)
    return agent, quick_jit(agent.init)(jax.random.key(0))


def test_the_parts_make_the_whole(agent_and_state):
    """|g|² = |p|² + |v|² + 2 |p| |v| cos, of the gradient in the memory of the whole loss."""
    agent, state = agent_and_state
    key = jax.random.key(1)
    seen = quick_jit(lambda state: diagnosis.measure(agent, state, key))(state)
    assert all(np.isfinite(x) for x in seen.values())
    p, v, cosine = (float(seen[k]) for k in ("policy_gradient", "value_gradient", "cosine"))

    @quick_jit
    def whole(state):
        batch = diagnosis.collect(agent, state, key)[2]
        return optax.tree.norm(diagnosis.memory_gradient(agent, state, batch, key, "total"))

    expected = p**2 + v**2 + 2 * p * v * cosine
    np.testing.assert_allclose(float(whole(state)) ** 2, expected, rtol=1e-3)
    assert p > 0 and v > 0


def test_what_is_measured_is_what_an_update_learns_from():
    """All windows in one minibatch, and a first iteration that leaves statistics behind."""
    env = JaxVectorEnv(Counting(), None, 4)
    agent = small_agent(env, "none", minibatches=1)
    state, _ = quick_jit(agent.iteration)(agent.init(jax.random.key(0)))

    def updated(state):
        got = {}

        def update(state, windows, *_):
            got.update(advantage=windows.advantage, target=windows.target)
            return state.params, state.optimizer, {}

        agent._update = update
        agent.iteration(state)
        return got

    batch = quick_jit(lambda state: diagnosis.collect(agent, state, jax.random.key(1))[2])(state)
    for name, expected in quick_jit(updated)(state).items():
        found = getattr(batch, name)
        assert np.ptp(found) > 0
        np.testing.assert_allclose(np.sort(found.ravel()), np.sort(expected.ravel()), rtol=1e-5)

"""brax's environments behind our interface."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs import EpisodeStatistics
from ssmrl.envs.adapters import require
from ssmrl.envs.adapters.brax import ENVIRONMENTS, UNAVAILABLE, BraxEnvironment, EnvParams
from ssmrl.envs.spaces import Box

BRAX_SAYS_THAT_IT_IS_OLD = pytest.mark.filterwarnings("ignore:Brax System:UserWarning")


def play(venv, actions, key=0):
    @jax.jit
    def run(key):
        first = venv.reset(key)

        def body(carry, action):
            obs, state, *rest = venv.step(carry[1], action)
            return (obs, state), (obs, *rest)

        return first, jax.lax.scan(body, first, actions)

    return jax.device_get(run(jax.random.key(key)))


def test_table_is_braxs_registry():
    envs = require("brax.envs", "brax")
    assert sorted([*ENVIRONMENTS.values(), *UNAVAILABLE]) == sorted(envs._envs)
    assert ssmrl.envs.canonical_name("brax/halfcheetah") == "brax/half_cheetah"
    assert ssmrl.envs.canonical_name("brax/HumanoidStandup") == "brax/humanoid_standup"


def test_fast_is_truncated_at_its_length():
    venv = ssmrl.envs.make_vector("brax/fast", 2, episode_length=4)
    assert venv.action_space == Box(-1.0, 1.0, (1,))
    assert venv.observation_space == Box(-np.inf, np.inf, (2,))
    (first, _), (_, (obs, reward, terminated, truncated, info)) = play(venv, jnp.ones((6, 2, 1)))
    np.testing.assert_array_equal(first, 0)
    np.testing.assert_array_equal(truncated[:, 0], [0, 0, 0, 1, 0, 0])
    assert not terminated.any()
    # v += .02, x += .02 v, and the reward is x: by hand.
    velocity = 0.02 * np.array([1, 2, 3, 4, 1, 2])
    position = 0.02 * 0.02 * np.array([1, 3, 6, 10, 1, 3])
    np.testing.assert_allclose(info["final_observation"][:, 0], np.stack([position, velocity], 1))
    np.testing.assert_allclose(reward[:, 1], position, rtol=1e-6)
    np.testing.assert_array_equal(obs[3], 0)
    np.testing.assert_array_equal(obs[4], info["final_observation"][4])
    np.testing.assert_allclose(info["episode"]["return"][3], position[:4].sum(), rtol=1e-6)


def test_action_repeat_counts_physics_steps_and_sums_rewards():
    venv = ssmrl.envs.make_vector("brax/fast", 1, episode_length=4, action_repeat=2)
    _, (_, (_, reward, _, truncated, info)) = play(venv, jnp.ones((3, 1, 1)))
    np.testing.assert_allclose(reward[:, 0], 0.0004 * np.array([1 + 3, 6 + 10, 1 + 3]), rtol=1e-5)
    np.testing.assert_array_equal(truncated[:, 0], [0, 1, 0])
    np.testing.assert_array_equal(info["episode"]["length"][:, 0], [1, 2, 1])


class Ending:
    """As much of a brax environment as the adapter sees; it is over at its third step."""

    action_size = 1

    def reset(self, key):
        State = require("brax.envs.base", "brax").State
        start = jax.random.uniform(key)
        return State(None, jnp.stack([start, 0.0]), jnp.array(0.0), jnp.array(0.0), {}, {"t": 0})

    def step(self, state, action):
        t = state.info["t"] + 1
        obs = jnp.stack([state.obs[0], 1.0 * t])
        done = jnp.where(t >= 3, 1.0, 0.0)
        return state.replace(obs=obs, reward=1.0 * t, done=done, info={"t": t})


@pytest.mark.parametrize(("repeat", "paid"), [(1, [1, 2, 3, 1]), (2, [3, 3, 3, 3])])
def test_done_terminates_and_nothing_is_paid_after_it(repeat, paid):
    params = EnvParams(episode_length=1000, action_repeat=repeat)
    venv = ssmrl.envs.JaxVectorEnv(BraxEnvironment(Ending(), "ending", params), params, 1)
    (first, _), (_, (obs, reward, terminated, truncated, info)) = play(venv, jnp.ones((4, 1, 1)))
    np.testing.assert_array_equal(reward[:, 0], paid)
    assert not truncated.any()
    ends = [2] if repeat == 1 else [1, 3]
    np.testing.assert_array_equal(np.flatnonzero(terminated), ends)
    end = ends[0]
    # The observation that ended it is kept, and the next episode is a new draw, not the first
    # again.
    np.testing.assert_array_equal(info["final_observation"][end, 0], [first[0, 0], 3.0])
    assert obs[end, 0, 1] == 0 and obs[end, 0, 0] != first[0, 0]


class Writing(Ending):
    """As ant, hopper, humanoid, walker2d and others do: the step writes into the metrics of the
    state that it is given, Python numbers among them."""

    def reset(self, key):
        metrics = {"reward": jnp.array(0.0), "alive": 0.0, "by_leg": jnp.zeros(4)}
        return super().reset(key).replace(metrics=metrics)

    def step(self, state, action):
        state.metrics.update(reward=1.0 * state.info["t"], alive=1.0)
        return super().step(state, action)


def test_metrics_are_info():
    params = EnvParams(episode_length=3)
    venv = ssmrl.envs.JaxVectorEnv(BraxEnvironment(Writing(), "writing", params), params, 2)
    _, (_, (*_, info)) = play(EpisodeStatistics(venv), jnp.ones((4, 2, 1)))
    np.testing.assert_array_equal(info["episode"]["info/reward"][:, 1], [0, 1, 2, 0])
    np.testing.assert_array_equal(info["alive"], np.ones((4, 2)))
    assert "info/by_leg" not in info["episode"] and "by_leg" not in info


def test_steps_may_write_into_the_metrics_of_the_state():
    params = EnvParams()
    env = BraxEnvironment(Writing(), "writing", params)
    _, first = env.reset_env(jax.random.key(0), params)
    state = first
    for t in range(3):
        _, state, *_ = env.step_env(jax.random.key(0), state, jnp.ones(1), params)
        assert float(state.inner.metrics["reward"]) == t
        assert float(state.inner.metrics["alive"]) == 1.0
    assert float(first.inner.metrics["alive"]) == 0.0
    venv = ssmrl.envs.JaxVectorEnv(env, params, 2)
    _, (_, (_, reward, *_)) = play(venv, jnp.ones((2, 2, 1)))
    np.testing.assert_array_equal(reward, [[1, 1], [2, 2]])


@BRAX_SAYS_THAT_IT_IS_OLD
def test_impossible_options():
    with pytest.raises(ValueError, match="must be positive"):
        ssmrl.envs.make("brax/fast", episode_length=0)
    with pytest.raises(ValueError, match="must be positive"):
        ssmrl.envs.make("brax/fast", action_repeat=0)
    with pytest.raises(ValueError, match="backend"):
        ssmrl.envs.make("brax/inverted_pendulum", backend="springs")


@pytest.mark.slow
@BRAX_SAYS_THAT_IT_IS_OLD
@pytest.mark.filterwarnings("ignore:Accessing:DeprecationWarning")  # brax at mjx's insides
@pytest.mark.parametrize("backend", ["generalized", "mjx"])
def test_inverted_pendulum(backend):
    """It falls: terminated; a short limit cuts it off: truncated. One compilation is enough."""
    options = {"episode_length": 12, "backend": backend}
    venv = ssmrl.envs.make_vector("brax/inverted_pendulum", 4, **options)
    actions = jax.random.uniform(jax.random.key(0), (40, 4, 1), minval=-1)
    (first, _), (_, (obs, reward, terminated, truncated, info)) = play(venv, actions)
    assert truncated.any() and np.isfinite(obs).all() and np.isfinite(reward).all()
    done = terminated | truncated
    np.testing.assert_array_equal(obs[~done], info["final_observation"][~done])
    assert len(np.unique(np.concatenate([first, obs[done]])[:, 0])) == 4 + done.sum()

    step = jax.jit(venv.step)
    _, state, *_ = step(jax.jit(venv.reset)(jax.random.key(1))[1], actions[0])
    step(state, actions[1])
    assert step._cache_size() == 1

    push = ssmrl.envs.make_vector("brax/inverted_pendulum", 1, backend=backend)
    _, (_, (_, _, terminated, truncated, _)) = play(push, jnp.ones((60, 1, 1)))
    assert terminated.any() and not truncated.any()

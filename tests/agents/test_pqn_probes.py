"""PQN trained briefly where the right answer is known in advance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ssmrl.agents.pqn import PQNConfig
from ssmrl.envs import JaxVectorEnv
from tests.agents import probes
from tests.agents.scripted import small_agent, start
from tests.compiling import quick_jit


def train(env, memory="none", iterations=60, num_envs=16, **options):
    """The agent, its state after training, a rollout of it, and the metrics over time."""
    defaults = {
        "kind": PQNConfig,
        "epochs": 4,
        "minibatches": 2,
        "lr": 0.01,
        "max_grad_norm": 10.0,
        "discount": 0.9,
        "epsilon_final": 0.2,
        "epsilon_decay": 0.5,
    }
    agent = small_agent(
        JaxVectorEnv(env, None, num_envs), memory, iterations=iterations, **(defaults | options)
    )

    @quick_jit
    def run(state):
        state, metrics = lax.scan(lambda s, _: agent.iteration(s), state, length=iterations)
        return state, metrics, agent._collect(state)[2]

    return agent, *run(start(agent))


def all_values(agent, state, observation):
    """Q [B, num_actions] of first observations."""
    carry, reset = agent.initialize_carry(len(observation)), jnp.ones((1, len(observation)), bool)
    return agent._apply(state.params, state.normalizers, carry, observation[None], reset)[1][0]


def test_actions_are_worth_what_they_earn():
    agent, state, metrics, _ = train(probes.ActionReward(), iterations=30)
    assert abs(metrics["episode_return"][0]) < 0.4  # it began with draws
    observation, reset = jnp.zeros((16, 1)), jnp.ones(16, bool)
    values = all_values(agent, state, observation)
    np.testing.assert_allclose(values, np.tile([-1, 1], (16, 1)), atol=0.1)
    carry = agent.initialize_carry(16)
    _, action = agent.act(state, carry, observation, reset, jax.random.key(0), greedy=True)
    np.testing.assert_array_equal(action, 1)
    np.testing.assert_allclose(np.asarray(metrics["epsilon"])[[0, -1]], [1, 0.2], rtol=1e-6)


def test_combinations_are_worth_what_they_earn():
    """At cue 1 (1, 2) is right, at cue -1 (0, 0); each right part counts 1. Numbers: 3 a + b."""
    agent, state, _, _ = train(probes.Buttons(), epsilon_final=1.0)
    values = all_values(agent, state, jnp.array([[1.0], [-1.0]]))
    expected = [[0, 0, 1, 1, 1, 2], [2, 1, 1, 1, 0, 0]]
    np.testing.assert_allclose(values, expected, atol=0.2)


def test_reward_is_discounted_and_depends_on_what_is_seen():
    _, _, _, rollout = train(probes.Delayed(), discount=0.8)
    first = np.asarray(rollout.observation[..., 0] == 0)
    assert first.any() and not first.all()
    np.testing.assert_allclose(rollout.value[first], 0.8, atol=0.05)
    np.testing.assert_allclose(rollout.value[~first], 1.0, atol=0.05)


def test_truncation_is_not_the_end():
    """V = 1 / (1 - 0.9) = 10; taken for a termination it would be below 5.7 everywhere."""
    _, _, metrics, rollout = train(probes.BlindForever(), iterations=120, lr=0.03)
    np.testing.assert_allclose(rollout.value, 10.0, atol=0.5)
    np.testing.assert_array_equal(metrics["episode_length"], 8)


@pytest.mark.parametrize(
    ("env", "bootstrap"), [(probes.BlindEight(), True), (probes.TimedEight(), False)]
)
def test_termination_is_the_end(env, bootstrap):
    """So is a time limit that is said to be part of the task."""
    _, _, _, rollout = train(env, iterations=100, lr=0.02, bootstrap_truncated=bootstrap)
    left = 8 - np.asarray(rollout.observation)
    np.testing.assert_allclose(rollout.value, (1 - 0.9**left) / 0.1, atol=0.3)


@pytest.mark.parametrize("memory", [pytest.param("s5", marks=pytest.mark.slow), "gru"])
def test_memory_recalls(memory):
    _, _, metrics, _ = train(
        probes.Recall(), memory, iterations=120, window_length=4, minibatches=4, epsilon_final=0.0
    )
    assert metrics["episode_return"][-20:].mean() > 0.9


@pytest.mark.slow
def test_without_memory_recall_stays_at_chance():
    _, _, metrics, _ = train(probes.Recall(), "none", iterations=60, minibatches=4)
    # 32 episodes an iteration, returns of ±1: 1920 draws, the mean's deviation is .023.
    assert abs(metrics["episode_return"].mean()) < 5 * 0.023

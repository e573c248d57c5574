"""PPO trained briefly where the right answer is known in advance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ssmrl.envs import JaxVectorEnv
from tests.agents import probes
from tests.agents.scripted import collect, small_agent, start
from tests.compiling import quick_jit


def train(env, memory="none", iterations=60, num_envs=16, **options):
    """The agent, its state after training, a rollout of it, and the metrics over time."""
    defaults = {
        "epochs": 4,
        "minibatches": 2,
        "lr": 0.01,
        "max_grad_norm": 10.0,
        "value_clip": None,
        "entropy_coefficient": 0.0,
        "discount": 0.9,
    }
    agent = small_agent(
        JaxVectorEnv(env, None, num_envs), memory, iterations=iterations, **(defaults | options)
    )

    @quick_jit
    def run(state):
        state, metrics = lax.scan(lambda s, _: agent.iteration(s), state, length=iterations)
        return state, metrics, collect(agent, state).rollout

    return agent, *run(start(agent))


def test_constant_reward_is_its_value():
    _, _, _, rollout = train(probes.ConstantReward())
    np.testing.assert_allclose(rollout.value, 1.0, atol=0.02)


@pytest.mark.parametrize("normalize", [False, True])
def test_reward_is_discounted(normalize):
    # PopArt learns in other units, but says what it says in the reward's own.
    _, _, _, rollout = train(probes.Delayed(), normalize_values=normalize, discount=0.8)
    first = np.asarray(rollout.observation[..., 0] == 0)
    assert first.any() and not first.all()
    np.testing.assert_allclose(rollout.value[first], 0.8, atol=0.03)
    np.testing.assert_allclose(rollout.value[~first], 1.0, atol=0.03)


def test_value_depends_on_the_observation():
    _, _, _, rollout = train(probes.CueReward(), normalize_observations=True)
    np.testing.assert_allclose(rollout.value, rollout.observation[..., 0], atol=0.05)


def test_policy_takes_the_rewarded_action():
    agent, state, metrics, rollout = train(probes.ActionReward(), iterations=30)
    assert abs(metrics["episode_return"][0]) < 0.4  # it began without knowing
    assert rollout.raw_action.mean() > 0.95
    observation, reset = jnp.zeros((16, 1)), jnp.ones(16, bool)
    carry = agent.initialize_carry(16)
    _, action = agent.act(state, carry, observation, reset, jax.random.key(0), greedy=True)
    np.testing.assert_array_equal(action, 1)


@pytest.mark.parametrize("memory", ["s5", "gru"])
def test_memory_recalls(memory):
    # At the others' rate of .01, S5 stays at guessing from one start in eight; at this from none.
    _, _, metrics, rollout = train(
        probes.Recall(), memory, iterations=120, window_length=4, minibatches=4, lr=3e-3
    )
    assert metrics["episode_return"][-20:].mean() > 0.9
    # The value knows too: at the last step, when nothing of the cue can be seen, it is sure to win.
    last = np.asarray(rollout.observation[..., 1] == 1)
    assert rollout.value[last].mean() > 0.8


def test_without_memory_recall_stays_at_chance():
    _, _, metrics, _ = train(probes.Recall(), "none", iterations=120, minibatches=4)
    # 32 episodes an iteration, returns of ±1: 3840 draws, the mean's deviation is 1/√3840 = 0.016.
    assert abs(metrics["episode_return"].mean()) < 5 * 0.016


def test_truncation_is_not_the_end():
    """V = 1 / (1 - 0.9) = 10; taken for a termination it would be below 5.7 everywhere."""
    _, _, metrics, rollout = train(probes.BlindForever(), iterations=100)
    np.testing.assert_allclose(rollout.value, 10.0, atol=0.3)
    np.testing.assert_array_equal(metrics["episode_length"], 8)


@pytest.mark.parametrize(
    ("env", "bootstrap"), [(probes.BlindEight(), True), (probes.TimedEight(), False)]
)
def test_termination_is_the_end(env, bootstrap):
    """So is a time limit that is said to be part of the task."""
    _, _, _, rollout = train(env, iterations=100, lr=0.02, bootstrap_truncated=bootstrap)
    left = 8 - np.asarray(rollout.observation)
    np.testing.assert_allclose(rollout.value, (1 - 0.9**left) / 0.1, atol=0.25)


def test_continuous_actions_find_their_aim():
    agent, state, metrics, _ = train(probes.Aim(), iterations=100, num_envs=32)
    carry = agent.initialize_carry(32)
    observation, reset = jnp.zeros((32, 1)), jnp.ones(32, bool)
    _, action = agent.act(state, carry, observation, reset, jax.random.key(0), greedy=True)
    np.testing.assert_allclose(action[0], probes.Aim.target, atol=0.1)
    assert metrics["episode_return"][-1] > metrics["episode_return"][0] + 1


def test_every_part_of_an_action_finds_what_is_right():
    """Tuple and Dict actions, and boxes with two bounds, one and none."""
    agent, state, metrics, _ = train(probes.Crew(), iterations=120, num_envs=32)
    # At first half of 1, a half of 1/2 and a third of 1/2, with the box in its middle (off by .4²),
    # 0 (1.5²) and 100.69 (.3²), and on top of that what the spread of the draws costs.
    assert metrics["episode_return"][0] < -1
    carry = agent.initialize_carry(32)
    observation, reset = jnp.where(jnp.arange(32) % 2, 1.0, -1.0)[:, None], jnp.ones(32, bool)
    _, action = agent.act(state, carry, observation, reset, jax.random.key(0), greedy=True)
    np.testing.assert_allclose(action["aim"][:, 0], 130, atol=5)
    np.testing.assert_allclose(action["aim"][:, 1], 1.5, atol=0.2)
    np.testing.assert_allclose(action["push"], 101, atol=0.2)
    lever, buttons = action["crew"]
    np.testing.assert_array_equal(lever, np.arange(32) % 2)
    np.testing.assert_array_equal(buttons, np.tile([1, 2], (32, 1)))
    assert metrics["episode_return"][-5:].mean() > 1.5


def test_multi_discrete_actions_press_the_right_buttons():
    _, _, metrics, _ = train(probes.Buttons())
    # At random: 1/2 + 1/3.
    assert abs(metrics["episode_return"][0] - 5 / 6) < 0.3
    assert metrics["episode_return"][-5:].mean() > 1.9

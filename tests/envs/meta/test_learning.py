"""PPO in trials: values where they are known, and a bandit that is played as well as can be."""

import jax
import numpy as np
import pytest

from ssmrl.envs import EpisodeStatistics, JaxVectorEnv
from ssmrl.envs.meta import OneGoodArm, Trials
from ssmrl.envs.meta.bandit_policies import one_good_arm_value
from ssmrl.training.controls import ForgetsTrials
from ssmrl.training.evaluation import Evaluator
from tests.agents.probes import ConstantReward
from tests.agents.test_ppo_probes import train


@pytest.mark.parametrize(("trial_discount", "first"), [(None, 1.9), (0.5, 1.45), (0.0, 1.0)])
def test_the_value_of_a_trial_has_that_of_the_next_in_it(trial_discount, first):
    """Two trials of one step that pays 1, γ = .9: V = 1 + .9 · trial_discount · 1, and 1."""
    env = Trials(ConstantReward(), 2, trial_discount=trial_discount)
    _, _, _, rollout = train(env, iterations=40)
    is_first = np.asarray(rollout.observation["first"], bool)
    np.testing.assert_allclose(rollout.value[is_first], first, atol=0.04)
    np.testing.assert_allclose(rollout.value[~is_first], 1.0, atol=0.04)


@pytest.mark.slow
def test_a_memory_learns_to_learn_which_arm_is_good():
    """Ten pulls of two arms: at least 97 % of the optimum, and half of it by guessing if the
    memory is reset at every pull."""
    env = Trials(OneGoodArm(), 10)
    agent, state, _, _ = train(
        env,
        "gru",
        iterations=150,
        num_envs=32,
        memory_options={"features": 16},
        rollout_length=20,
        entropy_coefficient=0.003,
        lr=0.005,
    )
    venv = EpisodeStatistics(JaxVectorEnv(env, None, 256))
    optimum = one_good_arm_value(10, 0.8, 0.2, 0.0).sum()
    played = Evaluator(agent, venv, episodes=2048)(state, jax.random.key(1))
    assert played.returns.mean() > 0.97 * optimum
    forgetful = ForgetsTrials(agent, venv)
    played = Evaluator(forgetful, venv, episodes=2048)(state, jax.random.key(1))
    assert played.returns.mean() == pytest.approx(5.0, abs=0.3)

"""The study of imitation: the answers told are the right ones, and play is scored as it is paid."""

import argparse

import jax
import numpy as np
import pytest

from benchmarks.learning import imitation
from benchmarks.learning.studies import ROOT
from ssmrl.experiment import COMPONENTS
from ssmrl.training.cli import compose_training
from ssmrl.training.loading import build_agent

SMALL = ["memory.features=4", "memory.layers=1", "agent.encoder=[4]", "agent.num_envs=8"]


def make_agent(env, *overrides):
    overrides = ["experiment=popgym", f"env=popgym/{env}", "memory=s5", *SMALL, *overrides]
    return build_agent(COMPONENTS, compose_training(overrides, COMPONENTS, ROOT / "configs"))[0]


def test_answers_are_what_was_shown():
    """Autoencode's are the suits in reverse order, from the step of the last card on."""
    agent = make_agent("autoencode_easy", "env.previous_action=false", "env.first_flag=false")
    state = agent.init(jax.random.key(0))
    (_, suits), answers, *_ = imitation.episodes(agent, state, jax.random.key(1), greedy=False)
    np.testing.assert_array_equal(answers[:51], -1)
    np.testing.assert_array_equal(answers[51:], suits[51::-1])


@pytest.mark.parametrize("env", ["autoencode_easy", "repeat_previous_easy", "count_recall_easy"])
def test_actions_are_paid_as_the_answers_say(env):
    agent = make_agent(env)
    state = agent.init(jax.random.key(0))
    played = imitation.episodes(agent, state, jax.random.key(1), greedy=False)
    _, answers, actions, rewards = played
    questions = (answers[:, :1] >= 0).sum()
    paid = np.where(answers < 0, 0, np.where(answers == actions, 1, -1)) / questions
    np.testing.assert_allclose(rewards, paid, rtol=1e-6, atol=0)


def test_greedy_play_draws_nothing():
    """The same deals, with other keys for the actions alone."""
    agent = make_agent("autoencode_easy")
    state, reset = agent.init(jax.random.key(0)), agent.env.reset(jax.random.key(1))
    agent.env.reset = lambda key: reset

    def actions(seed, greedy):
        return imitation.episodes(agent, state, jax.random.key(seed), greedy=greedy)[2]

    np.testing.assert_array_equal(actions(2, True), actions(3, True))
    assert (actions(2, False) != actions(3, False)).any()


def test_learns_what_is_told():
    """Four cards back, in a few seconds of a small network."""
    wider = ["memory.features=16", "agent.encoder=[16]", "agent.actor=[16]"]
    arguments = argparse.Namespace(steps=120_000, seed=0, set=[*SMALL, *wider])
    told = imitation.learn("repeat_previous_easy", "s5", arguments)
    assert told["updates"] == 120_000 // (51 * 8)
    assert told["loss"][-1] < told["loss"][0] - 0.1
    assert told["return"] > -0.5 + 5 * told["standard_error"]

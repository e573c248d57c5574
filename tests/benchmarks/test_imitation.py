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
    (_, suits), answers = imitation.episodes(agent, 103, jax.random.key(0))
    np.testing.assert_array_equal(answers[:51], -1)
    np.testing.assert_array_equal(answers[51:], suits[51::-1])


def test_the_answers_told_are_played():
    """The observation carries the action before: what was right, and something where nothing is."""
    agent = make_agent("autoencode_easy", "env.first_flag=false")
    observation, answers = imitation.episodes(agent, 103, jax.random.key(0))
    *_, previous = jax.tree.leaves(observation)
    asked = answers[:-1] >= 0
    played = previous[1:].argmax(-1) if previous.ndim == 3 else previous[1:]
    np.testing.assert_array_equal(played[asked], answers[:-1][asked])
    assert len(np.unique(played[~asked])) == 4


@pytest.mark.parametrize("env", ["autoencode_easy", "repeat_previous_easy", "count_recall_easy"])
def test_what_is_earned_is_what_was_right(env):
    """A right answer pays 1 / Q and a wrong one costs it: the return is 2 · accuracy - 1."""
    agent = make_agent(env)
    length = {"autoencode_easy": 103, "repeat_previous_easy": 51, "count_recall_easy": 51}[env]
    returns, right = imitation.play(agent, agent.init(jax.random.key(1)), length, jax.random.key(2))
    assert right.shape == {103: (52,), 51: right.shape}[length]
    np.testing.assert_allclose(returns.mean(), 2 * right.mean() - 1, rtol=0, atol=1e-5)


def test_learns_what_is_told():
    """Four cards back, in a few seconds of a small network."""
    wider = ["memory.features=16", "agent.encoder=[16]", "agent.actor=[16]"]
    arguments = argparse.Namespace(steps=120_000, seed=0, set=[*SMALL, *wider])
    told = imitation.learn("repeat_previous_easy", "s5", arguments)
    assert told["updates"] == 120_000 // (51 * 8)
    assert told["loss"][-1] < told["loss"][0] - 0.1
    assert told["return"] > -0.5 + 5 * told["standard_error"]

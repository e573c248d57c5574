"""Evaluation counts the right episodes, and its tables say what they say."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from ssmrl.training.errors import RunError
from ssmrl.training.evaluation import EvaluationResult, Evaluator, bootstrap, evaluate, summarise
from ssmrl.training.runner import build_agent
from tests.training.stub import STUB, StubVectorEnv


@pytest.fixture
def agent(make_config):
    return build_agent(STUB, make_config())[0]


def test_every_environment_plays_the_same_number_of_episodes(agent):
    state = agent.init(jax.random.key(0))
    venv = StubVectorEnv(4)
    result = evaluate(agent, state, venv, episodes=6, key=jax.random.key(1))
    # Rounded up to two each. Counting the first to finish would see the short ones alone.
    assert result.lengths.tolist() == [5, 10, 15, 20] * 2
    # The stub acts 1 on what it takes for a first step: the carry starts afresh exactly there.
    assert result.returns.tolist() == [3.0, 5.5, 8.0, 10.5] * 2
    assert result.returns.dtype == np.float64


def test_episodes_longer_than_a_chunk_of_steps(agent):
    venv = StubVectorEnv(2, length=150)
    result = evaluate(agent, agent.init(jax.random.key(0)), venv, episodes=2, key=jax.random.key(1))
    assert result.lengths.tolist() == [150, 300]


def test_an_environment_that_never_ends_is_given_up(agent):
    venv = StubVectorEnv(2, length=10**6)
    evaluator = Evaluator(agent, venv, episodes=2, max_steps=300)
    with pytest.raises(RunError, match="finished 0 of 1 episodes in 300 steps"):
        evaluator(agent.init(jax.random.key(0)), jax.random.key(1))
    with pytest.raises(ValueError, match="episodes=0"):
        Evaluator(agent, venv, episodes=0)


def test_the_summary():
    rng = np.random.default_rng(0)
    returns = rng.normal(size=400)
    summary = summarise([EvaluationResult(returns, np.full(400, 7))])
    quarter = np.sort(returns)[100:300]
    assert summary["episodes"] == 400
    assert summary["mean"] == pytest.approx(returns.mean())
    assert summary["iqm"] == pytest.approx(quarter.mean())
    assert summary["median"] == pytest.approx(np.median(returns))
    assert (summary["min"], summary["max"]) == (returns.min(), returns.max())
    assert summary["length"] == 7
    low, high = summary["mean_interval"]
    # Standard error 1/20: the 95% interval is about 0.2 wide.
    assert low < returns.mean() < high
    assert 0.15 < high - low < 0.25
    assert summary == summarise([EvaluationResult(returns, np.full(400, 7))])


def test_resampling_stays_within_each_seed():
    # Two seeds of certain and very different returns: nothing is left to be uncertain about.
    scores = np.stack([np.zeros(50), np.ones(50)], axis=1)
    assert bootstrap(scores)["mean_interval"] == [0.5, 0.5]


def test_one_run_has_no_interval():
    assert bootstrap(np.array([[2.0]])) == {
        "mean": 2.0,
        "iqm": 2.0,
        "mean_interval": None,
        "iqm_interval": None,
    }

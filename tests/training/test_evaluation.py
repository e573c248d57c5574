"""Evaluation counts the right episodes, and its tables say what they say."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rliable import metrics

from ssmrl.envs import make_vector
from ssmrl.training import evaluation
from ssmrl.training.config import EnvConfig
from ssmrl.training.evaluation import (
    EvaluationResult,
    EvaluationStoppedError,
    Evaluator,
    bootstrap,
    default_max_steps,
    evaluate,
    info_means,
    interquartile_mean,
    summarise,
)
from ssmrl.training.loading import build_agent
from ssmrl.training.run_evaluation import _evaluation_env
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


class Saying(StubVectorEnv):
    """Environment 1 says at each step how many it has taken in all; the others say nothing."""

    def reset(self, key):
        observation, state = super().reset(key)
        return observation, state | {"steps": jnp.float32(0)}

    def step(self, state, action):
        observation, new, *rest, info = super().step(state, action)
        new["steps"] = state["steps"] + 1
        own = {"info/steps": jnp.where(jnp.arange(self.num_envs) == 1, new["steps"], jnp.inf)}
        return observation, new, *rest, info | {"episode": info["episode"] | own}


def test_what_environments_say_of_themselves_in_the_last_step_of_each_episode(agent):
    evaluator = Evaluator(agent, Saying(2, length=70), episodes=4, max_steps=130)
    result = evaluator(agent.init(jax.random.key(0)), jax.random.key(1))
    # Environment 1 ends after 140 steps and again after 280, and is cut ten steps before.
    assert result.lengths.tolist() == [70, 130, 70, 130]
    np.testing.assert_array_equal(result.info["steps"], [np.nan, 130, np.nan, 270])
    assert info_means(result.info) == {"steps": 200.0}


class Patience(StubVectorEnv):
    """Environment 0 ends after 5 steps, environment 1 never does."""

    def reset(self, key):
        observation, state = super().reset(key)
        return observation, state | {"endless": jnp.array([False, True])}

    def step(self, state, action):
        observation, new, reward, done, truncated, info = super().step(state, action)
        done = done & ~state["endless"]
        episode = info["episode"]
        # Undo the base's own end of an episode that goes on.
        new["time"] = jnp.where(done, 0, episode["length"])
        new["return"] = jnp.where(done, 0.0, episode["return"])
        return (
            observation,
            new | {"endless": state["endless"]},
            reward,
            done,
            truncated,
            info | {"episode": episode | {"done": done}},
        )


def test_an_episode_that_does_not_end_counts_up_to_its_limit(agent):
    state = agent.init(jax.random.key(0))
    evaluator = Evaluator(agent, Patience(2), episodes=4, max_steps=300)
    result = evaluator(state, jax.random.key(1))
    # Two episodes of each environment; the carry starts afresh where a new one is begun.
    assert result.lengths.tolist() == [5, 300, 5, 300]
    assert result.returns.tolist() == [3.0, 150.5, 3.0, 150.5]
    assert result.finished.tolist() == [True, False, True, False]
    assert summarise([result, result])["unfinished"] == 4


def test_an_episode_that_ends_after_its_limit_makes_room_for_the_next(agent):
    venv = StubVectorEnv(2, length=40)
    evaluator = Evaluator(agent, venv, episodes=4, max_steps=50)
    result = evaluator(agent.init(jax.random.key(0)), jax.random.key(1))
    # Environment 1 ends after 80 steps: cut at 50, and what follows is an episode of its own.
    assert result.lengths.tolist() == [40, 50, 40, 50]
    assert result.finished.tolist() == [True, False, True, False]
    assert result.unfinished == 2


def test_an_episode_as_long_as_the_limit_is_finished(agent):
    evaluator = Evaluator(agent, StubVectorEnv(1, length=50), episodes=1, max_steps=50)
    result = evaluator(agent.init(jax.random.key(0)), jax.random.key(1))
    assert (result.lengths.tolist(), result.unfinished) == ([50], 0)


def test_an_evaluation_stops_within_a_chunk(agent):
    asked = []

    def should_stop():
        asked.append(None)
        return len(asked) == 3

    venv = StubVectorEnv(2, length=10**6)
    with pytest.raises(EvaluationStoppedError):
        Evaluator(agent, venv, episodes=2)(
            agent.init(jax.random.key(0)), jax.random.key(1), should_stop=should_stop
        )
    assert len(asked) == 3


def test_the_default_limit_is_ten_times_the_longest_episode_known(agent):
    venv = StubVectorEnv(2)
    assert default_max_steps(venv) == 10_000
    assert default_max_steps(venv, 999.5) == 10_000
    assert default_max_steps(venv, 1500.2) == 15_010
    venv.params = SimpleNamespace(max_steps_in_episode=np.int32(27_000))
    assert default_max_steps(venv, 1500.0) == 270_000
    # As its specification says; a training that has only seen short ones knows no better.
    car = make_vector("gymnasium/MountainCarContinuous-v0", 1, max_episode_steps=27_000)
    assert default_max_steps(car, 1500.0) == 270_000
    assert Evaluator(agent, venv, episodes=1, max_steps=1).limit(1500.0) == 1
    for wrong in ({"episodes": 0}, {"episodes": 1, "max_steps": 0}):
        with pytest.raises(ValueError, match="=0: must be at least 1"):
            Evaluator(agent, venv, **wrong)


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
    results = [EvaluationResult(returns, np.full(400, 7))]
    assert summary == summarise(results, confidence=0.95, reps=2000)
    assert summary["unfinished"] == 0


def test_the_summary_of_what_environments_say():
    rng = np.random.default_rng(0)
    success = (rng.random((2, 400)) < [[0.2], [0.6]]).astype(float)
    success[1, 100:] = np.nan
    results = [
        EvaluationResult(
            np.zeros(400), np.ones(400), info={"success": s, "no": np.full(400, np.nan)}
        )
        for s in success
    ]
    summary = summarise(results)["info"]
    assert set(summary) == {"success"}
    mean = np.nanmean(success)
    assert summary["success"]["mean"] == pytest.approx(mean)
    low, high = summary["success"]["mean_interval"]
    # Standard error of 500 draws, 400 of .2 and 100 of .6: .019.
    assert low < mean < high and 0.06 < high - low < 0.09
    # What is said of one episode in 400 is in no third of the resamples.
    success[1] = np.nan
    success[0, 1:] = np.nan
    rare = summarise(results, reps=50)["info"]["success"]
    assert rare == {"mean": success[0, 0], "mean_interval": None}
    assert summarise([EvaluationResult(np.zeros(4), np.ones(4))])["info"] == {}


def test_resampling_stays_within_each_seed():
    # Two seeds of certain and very different returns: nothing is left to be uncertain about.
    scores = np.stack([np.zeros(50), np.ones(50)], axis=1)
    assert bootstrap(scores)["mean_interval"] == [0.5, 0.5]


def test_each_interval_is_of_its_own_number():
    """Every fifth score is far away from the others: of the mean alone."""
    scores = (np.arange(100.0) + 1000 * (np.arange(100) % 5 == 0)).reshape(-1, 1)
    summary = bootstrap(scores)
    assert summary["iqm_interval"][1] < summary["mean_interval"][0]
    for name in ("mean", "iqm"):
        low, high = summary[f"{name}_interval"]
        assert low < summary[name] < high
    assert summary == bootstrap(scores, confidence=0.95, reps=2000, seed=0)
    assert bootstrap(scores[:2], reps=10)["mean_interval"] is not None


def test_policies_are_greedy_unless_told(agent, monkeypatch):
    assert Evaluator(agent, StubVectorEnv(2), episodes=2).greedy is True
    asked = []

    def evaluator(agent, venv, **options):
        asked.append(options)
        return lambda state, key: EvaluationResult(np.zeros(2), np.ones(2))

    monkeypatch.setattr(evaluation, "Evaluator", evaluator)
    evaluate(agent, None, StubVectorEnv(2), episodes=2, key=jax.random.key(1))
    assert asked == [{"episodes": 2, "greedy": True}]


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_every_seed_plays_episodes_of_its_own(make_config, seeds):
    state = {"w": np.arange(seeds) if seeds > 1 else np.array([7, 8])}

    def play(own, key):
        return EvaluationResult(np.asarray(own["w"]), np.asarray(key))

    results = evaluation.evaluate_seeds(play, make_config(seed=5, seeds=seeds), state, jnp.float32)
    states = [result.returns.tolist() for result in results]
    assert states == (list(range(seeds)) if seeds > 1 else [[7, 8]])
    assert [float(result.lengths) for result in results] == [5 + i for i in range(seeds)]


@pytest.mark.parametrize("runs", range(1, 10))
def test_the_interquartile_mean_is_rliable_s(runs):
    """To the last bit: the same numbers are added up in the same order."""
    for tasks in (1, 3):
        scores = np.random.default_rng([runs, tasks]).normal(size=(runs, tasks))
        assert interquartile_mean(scores) == metrics.aggregate_iqm(scores)
    scores[0, 0] = np.nan
    assert np.isnan([interquartile_mean(scores), metrics.aggregate_iqm(scores)]).all()


def test_one_run_has_no_interval():
    assert bootstrap(np.array([[2.0]])) == {
        "mean": 2.0,
        "iqm": 2.0,
        "mean_interval": None,
        "iqm_interval": None,
    }


def test_an_original_is_played_with_the_options_that_ours_had():
    """What was asked for first; another environment, or the same by name, has its own."""
    trained = EnvConfig(name="memory_maze/9x9", kwargs={"picture_size": 32, "action_repeat": 3})
    for name, kwargs, expected in (
        ("memory_maze_original/9x9", {}, {"picture_size": 32, "action_repeat": 3}),
        (
            "memory_maze_original/9x9",
            {"action_repeat": 1},
            {"picture_size": 32, "action_repeat": 1},
        ),
        ("memory_maze_original/11x11", {}, {}),
        ("memory_maze/9x9", {}, {}),
        ("run", {"targets": 2}, {"picture_size": 32, "action_repeat": 3, "targets": 2}),
    ):
        assert _evaluation_env(EnvConfig(name=name, kwargs=kwargs), trained).kwargs == expected

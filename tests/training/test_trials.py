"""Evaluation by trial, its controls, its record and its picture, against numbers by hand."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.envs import EpisodeStatistics, JaxVectorEnv, ObservationExtras, obscure
from ssmrl.envs.meta import Episodes, Trials
from ssmrl.training.cli import plot_command
from ssmrl.training.config import EnvConfig, EvaluateConfig
from ssmrl.training.controls import ForgetsTrials, RandomAgent
from ssmrl.training.evaluation import EvaluationResult, Evaluator, find_trials
from ssmrl.training.plotting import panels_of
from ssmrl.training.run import RunFolder
from ssmrl.training.run_evaluation import evaluate_run, print_evaluation
from ssmrl.training.run_training import run_training
from ssmrl.training.trials import compare_trials, play_controls, trial_curve
from tests.envs.counting import Counting
from tests.training.stub import STUB


class Known(Episodes):
    """Of which somebody knows that each trial can be worth 60."""

    def references(self, params, trials, *, hazard, episodes, seed):
        return {"best": np.full((1, trials), 60.0), "lazy": np.zeros((1, trials))}


def make_venv(num_envs=4, extras=False, **options):
    venv = JaxVectorEnv(Trials(Known(Counting()), 3, **options), None, num_envs, name="counting")
    return EpisodeStatistics(ObservationExtras(venv, first_flag=True) if extras else venv)


class Steps:
    """Takes action 1 in the first step after a reset, and 0 in all others.

    Counting pays 11 for the one, which ends a trial, and 10 + 20 + 30 for three of the other: whose
    memory lasts gets 11, 60, 60 in three trials, and 11 in each whose memory is reset.
    """

    def initialize_carry(self, batch_size):
        return jnp.zeros(batch_size, jnp.int32)

    def act(self, state, carry, observation, reset, key, *, greedy):
        carry = jnp.where(reset, 0, carry) + 1
        return carry, (carry == 1).astype(jnp.int32)


def test_rewards_are_summed_by_trial():
    venv = make_venv()
    result = Evaluator(Steps(), venv, episodes=8)(None, jax.random.key(0))
    np.testing.assert_array_equal(result.trials, [[11, 60, 60]] * 8)
    np.testing.assert_array_equal(result.returns, [131] * 8)
    assert result.info["first_trial_return"].tolist() == [11] * 8
    assert result.info["last_trial_return"].tolist() == [60] * 8
    assert set(result.info) == {"first_trial_return", "last_trial_return"}
    forgetful = ForgetsTrials(Steps(), venv)
    result = Evaluator(forgetful, venv, episodes=8)(None, jax.random.key(0))
    np.testing.assert_array_equal(result.trials, [[11, 11, 11]] * 8)
    result = Evaluator(RandomAgent(venv), venv, episodes=64)(None, jax.random.key(0))
    assert {tuple(row) for row in result.trials} > {(11, 11, 11)}
    # 1, 01, 001 or 000, each half as likely as what it goes on from: 11, 31, 61 or 60.
    assert set(result.trials.ravel()) == {11, 31, 61, 60}
    assert (result.trials == 11).mean() == pytest.approx(1 / 2, abs=0.12)


def test_an_episode_that_is_cut_counts_up_to_there():
    result = Evaluator(Steps(), make_venv(), episodes=8, max_steps=3)(None, jax.random.key(0))
    np.testing.assert_array_equal(result.trials, [[11, 30, 0]] * 8)


def test_an_environment_without_trials_has_none():
    venv = EpisodeStatistics(JaxVectorEnv(Counting(), None, 2))
    assert find_trials(venv) is None and find_trials(object()) is None
    result = Evaluator(Steps(), venv, episodes=2)(None, jax.random.key(0))
    assert result.trials is None


class Spy:
    """Hands on what it is shown."""

    def act(self, state, carry, observation, reset, key, *, greedy):
        return observation, reset


@pytest.mark.parametrize("extras", [False, True])
def test_who_forgets_sees_every_trial_as_an_episode_s_first(extras):
    venv = make_venv(2, extras)
    obs, state = venv.reset(jax.random.key(0))
    agent = ForgetsTrials(Spy(), venv)
    obs, state, *_ = venv.step(state, jnp.array([1, 0]))  # a trial ends in the first of both
    seen, reset = agent.act(None, None, obs, jnp.zeros(2, bool), None, greedy=True)
    assert reset.tolist() == [True, False]
    if extras:
        assert seen["first"].tolist() == [1, 0]
        seen, obs = seen["observation"], obs["observation"]
    assert seen["first"].tolist() == [1, 0] and obs["first"].tolist() == [0, 0]
    assert seen["trial_ended"].tolist() == [0, 0]
    assert seen["previous_action"].tolist() == [2, 0]  # 2 is none
    assert seen["previous_reward"].ravel().tolist() == [0, 10]
    np.testing.assert_array_equal(seen["observation"], obs["observation"])
    _, reset = agent.act(None, None, venv.reset(jax.random.key(1))[0], ~reset, None, greedy=True)
    assert reset.tolist() == [False, True]


# ------------------------------------------------------------------------------ the record


def result_of(*trials):
    trials = np.asarray(trials, np.float64)
    return EvaluationResult(trials.sum(axis=1), np.ones(len(trials)), trials=trials)


def test_what_is_compared_by_hand():
    agent = [result_of([1, 3], [3, 5]), result_of([1, 5], [3, 7])]  # two seeds
    record = compare_trials(
        agent,
        {"random": [result_of([1, 1], [1, 1])] * 2},
        {"best": np.array([[6.0, 6.0]]), "worse": np.array([[0.0, 2.0], [1.0, 1.0]])},
    )
    curve = record["policies"]["agent"]
    assert curve["mean"] == [2, 5] and curve["return"] == 7
    low, high = curve["return_interval"]
    assert 5 <= low < 7 < high <= 9
    for mean, (low, high) in zip(curve["mean"], curve["interval"], strict=True):
        assert low < mean < high
    assert record["references"]["best"]["reached"] == (7 - 2) / (12 - 2)
    assert record["references"]["best"]["return_interval"] is None
    assert record["references"]["best"]["interval"] == [None, None]
    assert record["references"]["worse"]["reached"] is None  # no better than guessing
    json.dumps(record, allow_nan=False)
    # A reference a little better than guessing is one.
    controls = {"random": [result_of([1, 1], [1, 1])] * 2}
    record = compare_trials(agent, controls, {"best": np.array([[1.0, 1.5]])})
    assert record["references"]["best"]["reached"] == 10


def test_intervals_are_of_a_thousand_resamples_of_episodes(monkeypatch):
    asked = []

    def interval_ends(scores, compute, confidence, reps, *, seed):
        asked.append((scores.tolist(), compute(scores).tolist(), confidence, reps, seed))
        return np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])

    monkeypatch.setattr("ssmrl.training.trials.interval_ends", interval_ends)
    returns = np.arange(12.0).reshape(3, 2, 2)  # of three episodes of two seeds
    assert trial_curve(returns) == {
        "return": 11.0,
        "return_interval": [1.0, 4.0],
        "mean": [5.0, 6.0],
        "interval": [[2.0, 5.0], [3.0, 6.0]],
    }
    rows = [[1, 0, 1, 5, 2, 3], [9, 4, 5, 13, 6, 7], [17, 8, 9, 21, 10, 11]]
    assert asked == [(rows, [11.0, 5.0, 6.0], 0.95, 1000, 0)]


@pytest.mark.parametrize(
    ("options", "seen"),
    [
        ({}, True),
        ({"observation_noise": 0.1, "action_delay": 1}, True),
        ({"flicker": 0.1}, False),
        ({"observation_delay": 1}, False),
    ],
)
def test_the_control_is_left_out_where_the_ends_of_trials_are_hidden(options, seen):
    venv = EpisodeStatistics(ObservationExtras(obscure(make_venv().venv, **options), True))
    played = []
    found = play_controls(Steps(), venv, lambda agent: played.append(type(agent)) or [])
    control = {"memory_reset": []} if seen else {}
    assert found == {**control, "random": []}
    assert set(played) == ({ForgetsTrials, RandomAgent} if seen else {RandomAgent})


def test_panels_tell_what_was_hidden_and_need_no_control():
    record = {
        "policies": {"agent": trial_curve(np.ones((2, 1, 3))), "random": {"mean": [0, 0, 0]}},
        "references": {},
    }
    options = {"held_out": ["a", "b"], "flicker": 0.1}
    panels = panels_of([("meta/x", options, "gru", record, "run")])
    (title,) = panels
    assert title.endswith(" held_out=[a, b] flicker=0.1") and list(panels[title]) == [
        "gru",
        "random",
    ]


def test_an_interval_covers_what_differs_between_episodes():
    rng = np.random.default_rng(0)
    returns = rng.normal([0.0, 3.0], [1.0, 0.1], (100, 1, 2))
    curve = trial_curve(returns)
    widths = [high - low for low, high in curve["interval"]]
    assert widths == pytest.approx([3.92 / 10, 0.392 / 10], rel=0.25)


# ------------------------------------------------------------------------------ of a run

FLAGS = ("previous_action", "previous_reward", "first_flag")


def make_vector(name, num_envs, observation_noise=0.0, **options):
    venv = make_venv(num_envs, **{k: v for k, v in options.items() if k not in FLAGS})
    return EpisodeStatistics(obscure(venv.venv, observation_noise=observation_noise))


META = dataclasses.replace(STUB, make_vector=make_vector)


def test_a_run_is_evaluated_printed_and_drawn_by_trial(make_config, record, capsys):
    """The stub's agent takes action 1 at first and 0 from then on, as `Steps` does."""
    options = {"kwargs": {"trial_discount": 0.5}}
    done = run_training(make_config(seeds=2, env=options), META, reporter=record)
    config = EvaluateConfig(run=str(done.run.path), episodes=8, num_envs=4)
    config.env = EnvConfig(name="run", observation_noise=1e-9)
    kept = evaluate_run(config, META, show=print_evaluation)
    trials = kept["trials"]
    assert set(trials["policies"]) == {"agent", "memory_reset", "random"}
    assert trials["policies"]["agent"]["mean"] == [11, 60, 60]
    assert trials["policies"]["memory_reset"]["mean"] == [11, 11, 11]
    assert trials["references"]["lazy"]["reached"] is None
    assert trials["kwargs"] == {"trial_discount": 0.5, "observation_noise": 1e-9}
    printed = capsys.readouterr().out
    (row,) = [line for line in printed.splitlines() if "memory reset" in line]
    assert "11.000" in row and "33.000 [33.000, 33.000]" in row

    assert plot_command(["--trials", str(done.run.path)]) == 0
    path = done.run.path / "curve-trials.png"
    assert path.stat().st_size > 5000
    config.controls = False
    assert "trials" not in evaluate_run(config, META)
    assert plot_command(["--trials", str(done.run.path)]) == 0  # the newest that has them


def test_a_run_without_an_evaluation_by_trial_says_how_to_make_one(capsys):
    run = RunFolder("runs/none")
    run.create({part: {"name": "stub"} for part in ("agent", "memory", "env")})
    assert plot_command(["--trials", "runs/none"]) != 0
    assert "make one with evaluate.py run=runs/none" in capsys.readouterr().err

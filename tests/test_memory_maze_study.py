"""What benchmarks/learning/memory_maze.py counts and keeps."""

import argparse
import json
from types import SimpleNamespace

import numpy as np

from benchmarks.learning import memory_maze
from benchmarks.learning.memory_maze import hours
from ssmrl.training.controls import ForgetsEvery, RandomAgent


def test_hours_are_steps_by_their_speed():
    lines = [
        {"step": 3600, "time/steps_per_second": 1.0},
        {"step": 3600, "eval/return": 1.0},
        {"step": 10_800, "time/steps_per_second": 4.0},
    ]
    assert hours(lines) == 1.5


def test_rows_of_earlier_runs_are_kept_if_of_the_same_study(tmp_path, monkeypatch):
    monkeypatch.setattr(memory_maze, "draw", lambda rows, arguments: None)
    output = tmp_path / "rows.json"
    study = {"experiment": "memory_maze_ppo", "set": ["seed=1"], "forget_every": [50]}
    arguments = argparse.Namespace(**study, output=output, note="", evaluate=[])
    monkeypatch.setattr(memory_maze, "machine_info", dict)
    gru = {"final": 2.0, "hours": 1.0, "steps_done": 1}
    monkeypatch.setattr(memory_maze, "training", lambda path: dict(gru))

    def rows(written: dict | None) -> dict:
        output.unlink(missing_ok=True)
        if written is not None:
            output.write_text(json.dumps(written | {"rows": {"s5": gru}}))
        memory_maze.report({"gru": tmp_path}, arguments)
        return json.loads(output.read_text())["rows"]

    assert rows(None).keys() == {"gru"}
    assert rows(study).keys() == {"s5", "gru"}
    for other in ({"experiment": "x"}, {"set": []}, {"forget_every": [10]}):
        assert rows(study | other).keys() == {"gru"}


def test_each_policy_is_played_under_its_name(tmp_path, monkeypatch):
    """The run's own scores 900, one that forgets as many as it remembers steps, and at random 1."""
    run = SimpleNamespace(step=7, agent="its own", state="state", venv=SimpleNamespace())
    run.venv.action_space = None
    keys = []

    def evaluator(agent, venv, *, episodes, greedy):
        assert venv is run.venv and episodes == 4 and not greedy
        score = 900 if agent == "its own" else 1 if isinstance(agent, RandomAgent) else agent.every
        assert not isinstance(agent, ForgetsEvery) or agent.agent == "its own"

        def play(state, key):
            keys.append(key)
            assert state == "state"
            return SimpleNamespace(returns=np.array([score - 1.0, score + 1.0]))

        return play

    monkeypatch.setattr(memory_maze, "load_run", lambda path: run)
    monkeypatch.setattr(memory_maze, "Evaluator", evaluator)
    row = memory_maze.evaluated(tmp_path, argparse.Namespace(episodes=4, forget_every=[50, 10]))
    assert json.loads((tmp_path / memory_maze.KEPT).read_text()) == row and row.pop("step") == 7
    means = {name: (result["mean"], result["episodes"]) for name, result in row.items()}
    expected = {"as trained": 900, "forgets after 50": 50, "forgets after 10": 10, "random": 1}
    assert means == {name: (score, 2) for name, score in expected.items()}
    assert all(key == keys[0] for key in keys)

"""What is written, printed and refused of an evaluation, without playing any."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ssmrl.training import run_evaluation
from ssmrl.training.config import EnvConfig, EvaluateConfig, TrainConfig
from ssmrl.training.controls import ForgetsEvery
from ssmrl.training.errors import RunError
from ssmrl.training.evaluation import EvaluationResult, EvaluationStoppedError
from ssmrl.training.loading import LoadedRun
from ssmrl.training.run import RunFolder
from ssmrl.training.run_evaluation import print_evaluation, print_videos
from tests.training.stub import STUB


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line[:1] in "┃│"]
    return [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in lines]


RECORD = {
    "run": "runs/a",
    "step": 12_000,
    "env": "my/env",
    "episodes": 8,
    "max_steps": 10_000,
    "mean": 1.23456,
    "mean_interval": [1.0, 2.5],
    "iqm": 2.0,
    "iqm_interval": None,
    "median": 3.0,
    "min": -1.0,
    "max": 9.87654,
    "length": 12.345,
    "unfinished": 0,
}
ROWS = [
    ["return", "8 episodes"],
    ["mean", "1.2346  [1.0000, 2.5000]"],
    ["iqm", "2.0000"],
    ["median", "3.0000"],
    ["min", "-1.0000"],
    ["max", "9.8765"],
    ["steps per episode", "12.3"],
]


def test_an_evaluation_is_a_table(capsys):
    print_evaluation(RECORD)
    out = capsys.readouterr().out
    assert cells(out) == ROWS and "my/env" in out
    lines = out.splitlines()
    assert lines[0] == "runs/a, step 12,000"
    assert lines[-1] == "in brackets: 95% intervals over episodes"


def test_seeds_own_numbers_and_what_did_not_end_have_rows(capsys):
    seed = {"mean": 1.0, "mean_interval": None}
    more = {
        "info": {"success": {"mean": 0.5, "mean_interval": [0.25, 0.75]}},
        "seeds": [{"seed": 5, **seed}, {"seed": 6, **seed}],
        "unfinished": 3,
        "mean_interval": None,
    }
    print_evaluation(RECORD | more)
    out = capsys.readouterr().out
    assert cells(out) == [
        ROWS[0],
        ["mean", "1.2346"],
        *ROWS[2:],
        ["info/success, mean", "0.5000  [0.2500, 0.7500]"],
        ["seed 5, mean", "1.0000"],
        ["seed 6, mean", "1.0000"],
        ["not ended after 10,000 steps", "3"],
    ]
    assert "brackets" not in out and "by trial" not in out


def test_trials_have_a_table_of_their_own(capsys):
    def curve(*mean, total, interval=None, **more):
        return {"mean": list(mean), "return": total, "return_interval": interval, **more}

    policies = {
        "agent": curve(1, 2, 3.5, total=6.5, interval=[6.0, 7.0]),
        "memory_reset": curve(1, 1, 1, total=3),
    }
    references = {
        "best_arm": curve(4, 4, 4, total=12, reached=0.56789),
        "lazy": curve(0, 0, 0, total=0, reached=None),
    }
    own = [
        ["by trial", "first", "last", "all of them", "reached"],
        ["agent", "1.000", "3.500", "6.500 [6.000, 7.000]", ""],
        ["memory reset", "1.000", "1.000", "3.000", ""],
    ]
    print_evaluation(RECORD | {"trials": {"policies": policies, "references": references}})
    out = capsys.readouterr().out
    assert cells(out) == [
        *ROWS,
        *own,
        ["best arm", "4.000", "4.000", "12.000", "56.8%"],
        ["lazy", "0.000", "0.000", "0.000", ""],
    ]
    last = "reached: how far the agent has come from random to it"
    assert out.splitlines()[-1] == last
    print_evaluation(RECORD | {"trials": {"policies": policies, "references": {}}})
    out = capsys.readouterr().out
    assert cells(out) == [*ROWS, *own] and last not in out


def test_films_and_why_there_is_none_are_told(capsys):
    print_videos({"no_video": "no prediction: x", "video": "a.gif", "other": "b"})
    print_videos({"prediction": "c.gif"})
    assert capsys.readouterr().out == "a.gif\nno prediction: x\nc.gif\n"


def test_a_record_is_added_or_takes_the_place_of_the_last():
    path = Path("eval.json")
    for value in range(3):
        run_evaluation._append_record(path, {"a": value})
    run_evaluation._append_record(path, {"a": 9, "b": 1}, instead=True)
    assert path.read_text() == (
        '[\n  {\n    "a": 0\n  },\n  {\n    "a": 1\n  },\n  {\n    "a": 9,\n    "b": 1\n  }\n]\n'
    )
    with pytest.raises(RunError, match="^cannot write no/eval.json: No such file or directory$"):
        run_evaluation._append_record(Path("no/eval.json"), {})
    path.write_text("{}")
    with pytest.raises(RunError, match="^eval.json is not a list of evaluations"):
        run_evaluation._append_record(path, {})
    assert path.read_text() == "{}"


def result(*returns: float) -> EvaluationResult:
    return EvaluationResult(np.array(returns), np.ones(len(returns)))


def test_seeds_are_counted_from_the_first():
    together = run_evaluation._summary([result(1, 2), result(3, 4)], 5)
    assert together["mean"] == 2.5
    assert [(row["seed"], row["mean"]) for row in together["seeds"]] == [(5, 1.5), (6, 3.5)]
    assert "seeds" not in run_evaluation._summary([result(1, 2)], 5)


class Loaded(LoadedRun):
    """A run of which there is no more than what is asked for."""

    def __init__(self, **fields):
        for name, value in fields.items():
            object.__setattr__(self, name, value)

    def seed_state(self, seed):
        return f"state of seed {seed}"


@pytest.fixture
def evaluate(monkeypatch):
    """`evaluate_run` of a run that is made up: its record, and what it asked others for."""
    asked: dict = {}
    RunFolder("runs/a").create({name: {"name": "x"} for name in ("agent", "memory", "env")})
    env = EnvConfig(name="my/env", kwargs={"arms": 3})
    config = TrainConfig(env=env, seed=5)
    loaded = Loaded(run=RunFolder("runs/a"), agent="agent", step=700, config=config)

    def make_venv(components, env, count):
        asked.setdefault("made", []).append((env.name, count))
        return SimpleNamespace(params="the task", is_host=False)

    def play(agent):
        if isinstance(agent, ForgetsEvery):
            assert agent.agent == "agent"
            return [result(1.0, agent.every), result(0.0, 0.0)]
        return [result(1.0, 2.0)]

    class Trials:
        def references(self, params, *, episodes, seed):
            asked["references"] = (params, episodes, seed)
            return {}

    names = {
        "load_run": lambda *_, **options: loaded,
        "_evaluation_env": lambda asked, trained: trained,
        "make_venv": make_venv,
        "check_spaces": lambda *spaces: asked.update(checked=spaces[2:]),
        "_player": lambda *_: play,
        "default_max_steps": lambda venv, longest: 4321,
        "find_trials": lambda venv: asked.get("trials"),
        "play_controls": lambda *_: {},
        "compare_trials": lambda *_: {"policies": {}},
        "_record_videos": lambda *_: {"video": "a.gif"},
    }
    for name, fake in names.items():
        monkeypatch.setattr(run_evaluation, name, fake)

    def run(*, trials=False, name=None, show=None, **options):
        asked["trials"] = Trials() if trials else None
        config = EvaluateConfig(run="runs/a", env=env, **options)
        return run_evaluation.evaluate_run(config, STUB, name=name, show=show)

    return SimpleNamespace(run=run, asked=asked)


def test_a_record_says_what_was_played(evaluate, monkeypatch):
    shown: list = []
    record = evaluate.run(seed=3, episodes=2, show=shown.append)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4}", record.pop("date"))
    start = {"run": "runs/a", "step": 700, "env": "my/env", "seed": 3, "greedy": True}
    assert list(record.items())[:6] == [*start.items(), ("max_steps", 4321)]
    assert (record["mean"], record["episodes"]) == (1.5, 2) and "trials" not in record
    assert evaluate.asked["made"] == [("my/env", 2), ("my/env", 1)]
    assert evaluate.asked["checked"] == ("my/env", {"arms": 3}) and len(shown) == 1
    record = evaluate.run(name="a name", max_steps=9, greedy=False)
    assert (record["run"], record["max_steps"], record["greedy"]) == ("a name", 9, False)
    assert evaluate.asked["made"][2] == ("my/env", 64)


def test_memories_are_reset_as_often_as_asked_for(evaluate, capsys):
    assert "forgetting" not in evaluate.run()
    record = evaluate.run(forget_every=[1000, 7])
    rows = [(row["every"], row["mean"], row["episodes"]) for row in record["forgetting"]]
    assert rows == [(1000, 250.25, 4), (7, 2.0, 4)] and record["mean"] == 1.5
    assert json.loads(Path("runs/a/eval.json").read_text())[-1] == record
    print_evaluation(record)
    names = [name for name, _ in cells(capsys.readouterr().out) if "reset" in name]
    assert names == [f"mean, memory reset every {n} steps" for n in ("1,000", "7")]
    with pytest.raises(ValueError, match="^forget_every=0: must be at least 1$"):
        evaluate.run(forget_every=[5, 0])


def test_what_is_known_of_trials_is_played_for_a_thousand_episodes(evaluate):
    record = evaluate.run(trials=True, seed=2)
    assert record["trials"] == {"kwargs": {"arms": 3}, "policies": {}}
    assert evaluate.asked["references"] == ("the task", 1000, 2)
    assert "trials" not in evaluate.run(trials=True, controls=False)


def test_a_film_is_made_when_all_else_is_written_and_noted_there(evaluate, monkeypatch):
    evaluate.run()
    path = Path("runs/a/eval.json")

    def film(*_):
        assert len(json.loads(path.read_text())) == 2
        return {"video": "a.gif"}

    monkeypatch.setattr(run_evaluation, "_record_videos", film)
    assert evaluate.run(video=True)["video"] == "a.gif"
    assert [record.get("video") for record in json.loads(path.read_text())] == [None, "a.gif"]


class Predicting:
    """Of an agent with a world model."""

    def open_loop(self, *arguments, **options): ...

    def initialize_carry(self, batch_size): ...

    def act(self, *arguments, **options): ...


@pytest.mark.parametrize("fails", ["", "video", "prediction"])
def test_films_are_named_after_the_environment_and_the_step(fails, monkeypatch):
    calls: list = []

    def record(kind):
        def film(agent, state, venv, path, *, key, **options):
            calls.append((kind, state, venv, str(path), options))
            if kind == fails:
                raise OSError("disk full")
            if "warn" in options:
                options.pop("warn")("no picture")
            return path.with_name(f"{path.name}.gif")

        return film

    monkeypatch.setattr(run_evaluation, "record_episode", record("video"))
    monkeypatch.setattr(run_evaluation, "record_prediction", record("prediction"))
    monkeypatch.setattr(run_evaluation, "make_venv", lambda components, env, count: count)
    monkeypatch.setattr(run_evaluation, "PredictingAgent", Predicting)
    monkeypatch.setattr(run_evaluation.streams, "video_key", lambda seed, first: (seed, first))
    config = TrainConfig(seed=5)
    loaded = Loaded(run=RunFolder("r"), agent=Predicting(), step=70, config=config)
    config = EvaluateConfig(run="r", greedy=False, video_context=7)
    made = run_evaluation._record_videos(config, STUB, loaded, EnvConfig(name="my/env/x"))
    film, prediction = "r/video/my.env.x-70", "r/video/my.env.x-70-prediction"
    if fails == "video":
        assert made == {"no_video": "no video: OSError: disk full"}
    elif fails == "prediction":
        assert made == {"video": f"{film}.gif", "no_video": "no prediction: OSError: disk full"}
    else:
        assert made == {
            "no_video": "no picture",
            "video": f"{film}.gif",
            "prediction": f"{prediction}.gif",
        }
    expected = [
        ("video", "state of seed 0", 1, film, {"greedy": False}),
        ("prediction", "state of seed 0", 1, prediction, {"context": 7}),
    ]
    seen = [(*call[:4], {k: v for k, v in call[4].items() if k != "warn"}) for call in calls]
    assert seen == expected[: 1 if fails == "video" else 2]


def test_observations_have_appended_what_the_run_saw_and_what_is_asked_for():
    trained = EnvConfig(name="a/b", first_flag=True)
    asked = EnvConfig(name="c/d", previous_reward=True)
    env = run_evaluation._evaluation_env(asked, trained)
    assert (env.previous_action, env.previous_reward, env.first_flag) == (False, True, True)


def test_a_ctrl_c_waits_for_the_steps_under_way(monkeypatch):
    """An interpreter that exits in the middle of a program that steps Python hangs or crashes."""
    played = []

    class Interrupted:
        def __init__(self, *args, **options):
            pass

        def __call__(self, state, key, *, longest_seen, should_stop):
            assert not should_stop()
            signal.raise_signal(signal.SIGINT)
            played.append("the steps under way")
            if should_stop():
                raise EvaluationStoppedError

    monkeypatch.setattr(run_evaluation, "Evaluator", Interrupted)
    loaded = Loaded(run=RunFolder("runs/a"), agent=None, state=None, config=TrainConfig())
    play = run_evaluation._player(EvaluateConfig(run="runs/a"), loaded, None, 0.0)
    with pytest.raises(KeyboardInterrupt):
        play(None)
    assert played == ["the steps under way"]

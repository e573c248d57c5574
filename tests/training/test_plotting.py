"""Curves and tables, against numbers worked out by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from ssmrl.training.cli import plot_command
from ssmrl.training.errors import RunError
from ssmrl.training.plotting import (
    aggregate_table,
    find_runs,
    group_runs,
    label_of,
    mean_curve,
    read_curves,
)
from ssmrl.training.run import RunFolder


def write_run(
    path: str, memory: str, lines: list[dict], env: str = "stub/line", **settings: object
) -> Path:
    run = RunFolder(path)
    agent = {"name": "ppo", "lr": settings.pop("lr", 1e-3), "clip": settings.pop("clip", 0.2)}
    config = {"agent": agent, "memory": {"name": memory}, "env": {"name": env}, **settings}
    run.create(config)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run.path


def point(until: int, value: object, episodes: object = 1.0) -> dict:
    """A line of metrics.jsonl with the training return of the ten steps before."""
    if isinstance(value, list) and not isinstance(episodes, list):
        episodes = [None if v is None else episodes for v in value]
    companions = {"episodes": episodes, "from": until - 10, "until": until}
    named = {f"training_return_{name}": v for name, v in companions.items()}
    return {"step": until, "training_return": value, **named}


@pytest.fixture
def paths() -> list[Path]:
    seeds = [
        point(10, [0.0, 2.0]),
        point(20, [None, 8.0]),
        {"step": 30, "loss/total": [1.0, 1.0]},
        point(40, [6.0, 4.0]),
    ]
    alone = [point(s, float(s)) for s in (10, 20, 40)]
    return [
        write_run("runs/a", "s5", seeds),
        write_run("runs/b", "s5", alone),
        write_run("runs/c", "gru", alone),
    ]


def test_curves_leave_out_what_has_not_finished(paths):
    first, second = read_curves(paths[0])
    assert (first.steps.tolist(), first.returns.tolist()) == ([10, 40], [0, 6])
    assert second.steps.tolist() == [10, 20, 40]
    assert (first.mmer, second.mmer) == (6.0, 8.0)
    assert (first.final, second.final) == (6.0, 4.0)


def test_runs_are_grouped_and_averaged_over_seeds(paths):
    groups = group_runs(paths)
    assert [(g.memory, len(g.curves)) for g in groups] == [("s5", 3), ("gru", 1)]
    steps, mean, low, high = mean_curve(groups[0].curves)
    assert (steps[0], steps[-1]) == (10, 40)
    assert mean[0] == pytest.approx((0 + 2 + 10) / 3)
    assert mean[-1] == pytest.approx((6 + 4 + 40) / 3)
    assert (low <= mean).all() and (mean <= high).all()
    assert (low[0], high[0]) == pytest.approx((0, 10), abs=1)
    _, mean, low, high = mean_curve(groups[1].curves)
    assert (low == mean).all() and (high == mean).all()


def test_the_table(paths):
    s5, gru = aggregate_table(group_runs(paths))
    assert (s5["env"], s5["agent"], s5["memory"], s5["seeds"]) == ("stub/line", "ppo", "s5", 3)
    assert s5["mmer_mean"] == pytest.approx((6 + 8 + 40) / 3)
    assert s5["mmer_mean_low"] < s5["mmer_mean"] < s5["mmer_mean_high"]
    assert gru["mmer_iqm"] == 40
    assert gru["mmer_iqm_low"] is None


def test_the_command_draws_and_writes(paths, capsys):
    assert plot_command([*map(str, paths), "--out", "picture.png"]) == 0
    assert Path("picture.png").read_bytes().startswith(b"\x89PNG")
    rows = csv.DictReader(Path("picture.csv").read_text().splitlines())
    assert [row["memory"] for row in rows] == ["s5", "gru"]
    assert np.isclose(json.loads(Path("picture.json").read_text())[0]["mmer_mean"], 18)
    assert "18.000 [" in capsys.readouterr().out
    assert plot_command([str(paths[0])]) == 0
    assert (paths[0] / "curve.png").exists()


def test_what_cannot_be_drawn(paths, capsys):
    assert plot_command(["runs/none"]) == 1
    assert "runs/none is not a run" in capsys.readouterr().err
    assert plot_command([str(paths[0]), "--metric", "eval/return"]) == 1
    assert "has no eval/return in its metrics" in capsys.readouterr().err
    assert plot_command([str(paths[0]), "--out", "nowhere/picture.png"]) == 1
    assert "cannot write nowhere/picture.png: No such file" in capsys.readouterr().err
    with pytest.raises(RunError):
        read_curves(write_run("runs/d", "s5", []))


ALONE = [point(s, float(s)) | {"loss/total": 50.0 - s} for s in (10, 20, 40)]


def test_other_settings_are_another_curve_and_named():
    paths = [
        write_run("runs/a", "s5", ALONE, lr=1e-3, seed=0),
        write_run("runs/b", "s5", ALONE, lr=3e-4, seed=0),
        write_run("runs/c", "s5", ALONE, lr=1e-3, seed=1, run_dir="elsewhere", eval_every=10),
        write_run("runs/d", "gru", ALONE, lr=1e-3, seed=0),
        write_run("runs/e", "s5", ALONE, lr=1e-3, seed=0, env="stub/wide"),
    ]
    groups = group_runs(paths)
    assert [(label_of(group, groups), len(group.curves)) for group in groups] == [
        ("s5 lr=0.001", 2),
        ("s5 lr=0.0003", 1),
        ("gru", 1),
        ("s5 lr=0.001", 1),
    ]
    assert [row["label"] for row in aggregate_table(groups)][1] == "s5 lr=0.0003"


def test_settings_that_share_their_last_name_are_named_in_full():
    more = {"replay": {"lr": 0.5}}
    paths = [
        write_run("runs/a", "s5", ALONE, lr=1e-3, **more),
        write_run("runs/b", "s5", ALONE, lr=3e-4, replay={"lr": None}),
    ]
    groups = group_runs(paths)
    assert label_of(groups[0], groups) == "s5 agent.lr=0.001 replay.lr=0.5"
    assert label_of(groups[1], groups) == "s5 agent.lr=0.0003 replay.lr=null"


def test_a_seed_counts_once():
    pair = [point(10, [1.0, 2.0])]
    paths = [
        write_run("runs/a", "s5", pair, seed=0),
        write_run("runs/b", "s5", pair, seed=1),
    ]
    said = []
    (group,) = group_runs([*paths, paths[0]], warn=said.append)
    assert [curve.seed for curve in group.curves] == [0, 1, 2]
    assert [line.split(",")[0] for line in said] == [
        "left out: seed 1 of runs/b",
        "left out: seed 0 of runs/a",
        "left out: seed 1 of runs/a",
    ]


def test_a_loss_has_no_maximum(capsys):
    path = write_run("runs/a", "s5", ALONE)
    assert plot_command([str(path), "--metric", "loss/total"]) == 0
    out = capsys.readouterr().out
    assert "10.000" in out and "MMER" not in out and "40.000" not in out
    (row,) = json.loads((path / "curve-loss-total.json").read_text())
    assert row["final_mean"] == 10.0
    assert not any(name.startswith("mmer") for name in row)
    assert not (path / "curve.png").exists()


def test_the_folder_of_a_sweep_is_its_runs(capsys):
    for name, lr in (("a", 1e-3), ("b", 3e-4), ("c", 1e-2)):
        write_run(f"runs/{name}", "s5", ALONE if name != "c" else [], lr=lr)
    sweep = Path("runs/sweeps/today")
    sweep.mkdir(parents=True)
    (sweep / "runs.txt").write_text("runs/a\nruns/b\nruns/c\n")
    write_run("runs/other", "gru", ALONE)
    assert plot_command([str(sweep)]) == 0
    assert "left out: runs/c has no training_return" in capsys.readouterr().out
    rows = json.loads((sweep / "comparison.json").read_text())
    assert [row["label"] for row in rows] == ["s5 lr=0.001", "s5 lr=0.0003"]
    # A folder with no list is all that is below it.
    assert [path.name for path in find_runs("runs")] == ["a", "b", "c", "other"]

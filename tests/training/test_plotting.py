"""Curves and tables, against numbers worked out by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from ssmrl.training.cli import plot_command
from ssmrl.training.errors import RunError
from ssmrl.training.plotting import aggregate_table, group_runs, mean_curve, read_curves
from ssmrl.training.run import RunFolder


def write_run(path: str, memory: str, lines: list[dict], env: str = "stub/line") -> Path:
    run = RunFolder(path)
    config = {"agent": {"name": "ppo"}, "memory": {"name": memory}, "env": {"name": env}}
    run.create(config)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run.path


@pytest.fixture
def paths() -> list[Path]:
    seeds = [
        {"step": 10, "episode_return": [0.0, 2.0]},
        {"step": 20, "episode_return": [None, 8.0]},
        {"step": 30, "loss/total": [1.0, 1.0]},
        {"step": 40, "episode_return": [6.0, 4.0]},
    ]
    alone = [{"step": s, "episode_return": float(s)} for s in (10, 20, 40)]
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

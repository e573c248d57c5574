"""The study of in-context learning: its configurations compose, and its table says what it read."""

import argparse
import json

import pytest

from benchmarks.learning import in_context, studies
from ssmrl.experiment import COMPONENTS
from ssmrl.training.cli import compose_training
from ssmrl.training.run import RunFolder


@pytest.mark.parametrize("name", in_context.ENVS)
def test_every_environment_composes(name):
    overrides = [in_context.EXPERIMENT, *in_context.ENVS[name], "memory=gru", "seeds=3"]
    config = compose_training(overrides, COMPONENTS, in_context.ROOT / "configs")
    assert config.env.name.startswith("meta/") and config.agent.name == "ppo"


def curve(*means, **more):
    interval = [sum(means) - 1, sum(means) + 1]
    ends = [[m - 0.5, m + 0.5] for m in means]
    return {
        "return": sum(means),
        "return_interval": interval,
        "mean": list(means),
        "interval": ends,
        **more,
    }


def test_the_report_of_a_run(tmp_path, capsys):
    """Evaluated at 20 steps already, so that nothing is played."""
    run = RunFolder(tmp_path / "bandit-gru")
    parts = {"agent": {"name": "ppo"}, "memory": {"name": "gru"}, "env": {"name": "meta/x"}}
    run.create({**parts, "seeds": 3})
    speeds = [1.0, 10.0, 30.0, 20.0]  # the first one has compilation in it
    lines = [{"step": 5 * (i + 1), "time/steps_per_second": v} for i, v in enumerate(speeds)]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    trials = {
        "kwargs": {"arms": 2},
        "policies": {"agent": curve(1.0, 3.0), "memory_reset": curve(1, 1), "random": curve(1, 1)},
        "references": {
            "gittins": {**curve(1, 4), "reached": 2 / 3},
            "bad": {**curve(1, 1), "reached": None},
        },
    }
    record = {"env": "meta/x", "step": 20, "episodes": 768, "trials": trials}
    run.evaluations.write_text(json.dumps([record]))
    arguments = argparse.Namespace(
        figure=tmp_path / "new/f.png", output=tmp_path / "new/o.json", set=[], episodes=8
    )
    in_context.evaluate_once(run.path, arguments)
    in_context.report([run.path], arguments)
    (row,) = json.loads(arguments.output.read_text())["rows"]
    assert row["steps"] == 20 and row["steps_per_second"] == 20 and row["kwargs"] == {"arms": 2}
    assert arguments.figure.stat().st_size > 5000
    line = "| bandit | gru | 1.000 | 3.000 | 4.000 [3.000, 5.000] | 2.000 | gittins 67% |"
    assert line in capsys.readouterr().out


def test_a_figure_can_be_drawn_again_of_the_results_alone(tmp_path, monkeypatch, capsys):
    trials = {
        "kwargs": {},
        "policies": dict.fromkeys(("agent", "memory_reset", "random"), curve(1)),
    }
    row = {"study": "x-gru", "env": "meta/x", "memory": "gru", "references": {}, **trials}
    output, figure = tmp_path / "o.json", tmp_path / "new/f.png"
    output.write_text(json.dumps({"rows": [row]}))
    places = ["--output", str(output), "--figure", str(figure), "--runs", str(tmp_path / "runs")]
    monkeypatch.setattr("sys.argv", ["in_context", "--redraw", *places])
    assert in_context.main() == 0
    assert figure.stat().st_size > 5000 and not (tmp_path / "runs").exists()
    assert json.loads(output.read_text()) == {"rows": [row]}
    assert capsys.readouterr().out == f"wrote {figure}\n"


def test_a_study_records_the_settings_of_its_runs(tmp_path, monkeypatch):
    """From which `ssmrl train` says how a packed agent was made."""
    given = {}

    def train(config, **options):
        given.update(options, config=config)
        return argparse.Namespace(exit_code=130)

    monkeypatch.setattr(studies, "train", train)
    overrides = [in_context.EXPERIMENT, "env=meta/cartpole", "memory=gru"]
    assert studies.train_into(tmp_path / "run", overrides) == 130
    assert given["overrides"] == tuple(overrides)
    assert given["config"].run_dir == str(tmp_path / "run") and given["config"].resume is True

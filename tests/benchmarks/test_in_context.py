"""The study of in-context learning: its configurations compose, and its table says what it read."""

import argparse
import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks.learning import in_context, studies
from ssmrl.experiment import COMPONENTS
from ssmrl.training.cli import compose_training
from ssmrl.training.loading import make_venv
from ssmrl.training.run import RunFolder, read_evaluations
from ssmrl.training.run_evaluation import check_spaces


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


def test_what_a_study_makes_of_its_runs(tmp_path, monkeypatch, capsys):
    """The training is stood in for, and evaluations answer with what they were asked for."""

    def train_into(path, overrides):
        assert path == tmp_path / "runs/cartpole-gru"
        parts = {"agent": {"name": "ppo"}, "memory": {"name": "gru"}}
        env = {"name": "meta/cartpole", "kwargs": {"horizon": 9}}
        RunFolder(path).create({**parts, "env": env, "seeds": 3})
        speeds = [1.0, 10.0, 30.0, 20.0]  # the first one has compilation in it
        lines = [{"step": 5 * (i + 1), "time/steps_per_second": v} for i, v in enumerate(speeds)]
        lines.append({"step": 20, "training_return": 1.0})  # news of what ended, and no iteration
        RunFolder(path).metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return 0

    def evaluate_run(config, components, warn):
        asked.append(config)
        last = 2 + config.env.kwargs.get("spread", 1)
        policies = {"agent": curve(1.0, last), "memory_reset": curve(1, 1), "random": curve(1, 1)}
        references = {
            "gittins": {**curve(1, 4), "reached": 2 / 3},
            "bad": {**curve(1, 1), "reached": None},
        }
        trials = {"kwargs": {"horizon": 9, **config.env.kwargs}, "policies": policies}
        trials["references"] = references
        record = {"env": "meta/cartpole", "step": 20, "episodes": 768, "trials": trials}
        # Of a single seed there is the record alone.
        record |= {"mean": 4.5} if "spread" in config.env.kwargs else {"seeds": seeds}
        run = RunFolder(Path(config.run))
        run.evaluations.write_text(json.dumps([*read_evaluations(run.evaluations), record]))
        return record

    asked, seeds = [], [{"mean": 3.5}, {"mean": 4.0}, {"mean": 4.25}]
    monkeypatch.setattr(in_context, "train_into", train_into)
    monkeypatch.setattr(in_context, "evaluate_run", evaluate_run)
    figure, output = tmp_path / "new/f.png", tmp_path / "new/o.json"
    places = ["--output", str(output), "--figure", str(figure), "--runs", str(tmp_path / "runs")]
    words = ["in_context", "--envs", "cartpole", "--memories", "gru", "--episodes", "8", *places]
    monkeypatch.setattr("sys.argv", words)
    assert in_context.main() == 0
    own, unseen = json.loads(output.read_text())["rows"]
    assert own["steps"] == 20 and own["steps_per_second"] == 20 and own["kwargs"] == {"horizon": 9}
    assert unseen["study"] == "cartpole, unseen dynamics-gru"
    assert unseen["kwargs"] == {"horizon": 9, "spread": 4}
    assert figure.stat().st_size > 5000
    printed = capsys.readouterr().out
    line = "| cartpole | gru | 1.000 | 3.000 | 4.000 [3.000, 5.000] | 3.500, 4.000, 4.250 | 2.000 |"
    assert f"{line} gittins 67% |" in printed
    line = (
        "| cartpole, unseen dynamics | gru | 1.000 | 6.000 | 7.000 [6.000, 8.000] | 4.500 | 2.000 |"
    )
    assert line in printed
    assert [(c.env.name, c.episodes, c.greedy) for c in asked] == [("run", 8, False)] * 2

    # Those that are there are not made again, whichever is the newer; of an older checkpoint, all.
    monkeypatch.setattr(in_context, "train_into", lambda *_: 0)
    assert in_context.main() == 0 and len(asked) == 2
    assert json.loads(output.read_text())["rows"] == [own, unseen]
    with RunFolder(tmp_path / "runs/cartpole-gru").metrics.open("a") as metrics:
        metrics.write('{"step": 25, "time/steps_per_second": 20.0}\n')
    assert in_context.main() == 0 and len(asked) == 4


@pytest.mark.parametrize("name", in_context.ELSEWHERE)
def test_what_is_evaluated_elsewhere_can_be_made(name):
    if name == "classic_control":
        pytest.importorskip("gymnax")
    overrides = [in_context.EXPERIMENT, *in_context.ENVS[name]]
    env = compose_training(overrides, COMPONENTS, in_context.ROOT / "configs").env
    for changes in in_context.ELSEWHERE[name].values():
        other = dataclasses.replace(env, kwargs={**env.kwargs, **changes})
        venv, trained = (make_venv(COMPONENTS, e, 1) for e in (other, env))
        check_spaces(venv, trained, other.name, other.kwargs)


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

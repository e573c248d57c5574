"""What the command line answers: to mistakes, one or two lines and exit code 2."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ssmrl.training.cli import evaluate_command, train_command
from ssmrl.training.run import read_metrics
from tests.training.stub import STUB
from tests.training.stub_train import CONFIGS, ROOT

QUICK = ["total_steps=100", "checkpoint_every=0"]


def train(*arguments: str) -> int:
    return train_command([*QUICK, *arguments], STUB, CONFIGS)


def runs() -> list[Path]:
    return sorted(path.parent for path in Path("runs").glob("*/config.yaml"))


MISTAKES = {
    # what was typed: what the answer must say
    "memory=tapee": ["memory=tapee", "no such memory", "did you mean tape?", "available: tape"],
    "agent=ppo": ["no such agent", "available: stub"],
    "env=stub/lin": ["unknown environment 'stub/lin'", "did you mean 'stub/line'?"],
    "logger=wandbb": ["did you mean wandb?", "available: console, none, wandb"],
    "experiment=fast": ["no such experiment"],
    "totl_steps=5": ["unknown key totl_steps", "did you mean total_steps?", "top-level keys:"],
    "memory.layerz=2": ["did you mean memory.layers?", "memory keys: features, layers"],
    "layers=2": ["unknown key layers", "did you mean memory.layers?"],
    "memory.layers.x=2": ["memory.layers is a single value"],
    "total_steps=many": ["total_steps=many", "'many'", "Integer"],
    "agent.lr=fast": ["agent.lr=fast", "Float"],
    "resume=perhaps": ["resume=perhaps", "bool"],
    "memory.layers=": ["memory.layers=", "Integer"],
    "total_steps=0": ["total_steps=0: must be at least 1"],
    "agent.lr=0": ["agent.lr=0.0: must be greater than 0"],
    "nonfinite=ignore": ["nonfinite=ignore: must be one of stop, skip"],
    "env.kwargs.length=0": ["env=stub/line", "length=0 must be positive"],
    "env.kwargs.colour=red": ["env=stub/line", "colour"],
    "memory": ["memory: settings are written key=value"],
    "total_steps={": ["total_steps={: cannot be read"],
    "+new=1": ["+new=1: keys cannot be added or removed"],
    "~seed": ["~seed: keys cannot be added or removed"],
    "memory.layers=1,2": ["several values are a sweep; add -m"],
    "memory=tape,tape": ["several choices are a sweep; add -m"],
    "memory={a:1}": ["memory="],
    "--fast": ["unknown option --fast", "--help"],
}


@pytest.mark.parametrize("argument", MISTAKES)
def test_a_mistake_is_answered_in_a_line_or_two(argument, capsys):
    assert train(argument) == 2
    out, err = capsys.readouterr()
    for expected in MISTAKES[argument]:
        assert expected in err
    assert err.startswith("error: ")
    assert len(err.strip().splitlines()) <= 2
    assert out == ""
    # Nothing was begun.
    assert not Path("runs").exists()


@pytest.mark.parametrize("argument", ["memory=tape,tapee", "memory.layers=1,x", "seed=0,-1"])
def test_every_job_of_a_sweep_is_checked_before_the_first_starts(argument, capsys):
    assert train("-m", argument) == 2
    assert runs() == []
    assert "error: " in capsys.readouterr().err


ACCIDENTS = {
    "run=runs/none": "runs/none is not a run: it does not exist",
    "run_dir=taken": "taken exists and is not a run",
    "run_dir=file": "file exists and is not a run",
    "devices=64": "devices=64, but JAX sees",
    "run_dir=file/below": "cannot write to file/below: Not a directory",
}


@pytest.mark.parametrize("argument", ACCIDENTS)
def test_an_accident_is_one_line_and_exit_code_1(argument, capsys):
    Path("taken").mkdir()
    Path("taken/thesis.txt").write_text("precious")
    Path("file").write_text("precious")
    assert train(argument) == 1
    err = capsys.readouterr().err
    assert err.startswith(f"error: {ACCIDENTS[argument]}")
    assert len(err.strip().splitlines()) == 1
    assert Path("taken/thesis.txt").read_text() == Path("file").read_text() == "precious"
    assert [path.name for path in Path("taken").iterdir()] == ["thesis.txt"]


def test_a_read_only_folder(capsys, monkeypatch):
    make = Path.mkdir

    def refuse(self, *arguments, **options):
        if "out" in self.parts:
            raise PermissionError(13, "Permission denied")
        make(self, *arguments, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    assert train("run_dir=out/run") == 1
    assert capsys.readouterr().err == "error: cannot write to out/run: Permission denied\n"


def test_a_missing_package_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    assert train("logger=wandb") == 1
    assert 'pip install "ssmrl[wandb]"' in capsys.readouterr().err


def test_a_run_leaves_what_is_needed_to_repeat_it():
    assert train("memory.layers=3", "env.kwargs.length=4", "seed=7") == 0
    (run,) = runs()
    assert run.name.endswith("-stub-tape-stub.line")
    record = yaml.safe_load((run / "config.yaml").read_text())
    assert record["config"]["memory"] == {"name": "tape", "features": 8, "layers": 3}
    assert record["config"]["env"]["kwargs"] == {"length": 4}
    assert record["config"]["seed"] == 7
    assert record["versions"]["jax"]
    assert set(record["git"] or {}) <= {"commit", "dirty"}
    assert (run / "curve.png").stat().st_size > 1000
    assert len(read_metrics(run / "metrics.jsonl")) == 5


def test_resume_finds_the_newest_run_with_these_settings(capsys):
    assert train("run_dir=runs/1-stub-tape-stub.line", "seed=1") == 0
    assert train("run_dir=runs/2-stub-tape-stub.line", "seed=2") == 0
    assert train("seed=1", "resume=true", "total_steps=200") == 0
    assert "resuming from the checkpoint of step 100" in capsys.readouterr().out
    assert [len(read_metrics(run / "metrics.jsonl")) for run in runs()] == [10, 5]
    # No run was started like this one: say so rather than begin again.
    assert train("seed=3", "resume=true") == 1
    assert "2-stub-tape-stub.line was started with seed=2, not seed=3" in capsys.readouterr().err


def test_resume_with_nothing_to_resume_begins():
    assert train("resume=true") == 0
    assert len(runs()) == 1


def test_run_repeats_that_runs_own_settings():
    assert train("memory.layers=3", "run_dir=here", "agent.lr=0.1") == 0
    assert train_command(["run=here", "total_steps=200"], STUB, CONFIGS) == 0
    assert len(read_metrics(Path("here/metrics.jsonl"))) == 10


def test_resuming_another_architecture_is_refused(capsys):
    assert train("run_dir=here") == 0
    assert train("run_dir=here", "resume=true", "memory.features=16") == 1
    assert "here was started with memory.features=8, not memory.features=16" in (
        capsys.readouterr().err
    )
    assert train("run_dir=here") == 1
    assert "here already holds a run: continue it with resume=true" in capsys.readouterr().err


def test_a_sweep_trains_every_combination():
    assert train("-m", "seed=0,1", "memory.layers=1,2") == 0
    settings = [yaml.safe_load((run / "config.yaml").read_text())["config"] for run in runs()]
    assert sorted((s["seed"], s["memory"]["layers"]) for s in settings) == [
        (0, 1),
        (0, 2),
        (1, 1),
        (1, 2),
    ]


def test_help_shows_groups_and_keys(capsys):
    assert train("-h", "env=stub/wide") == 0
    text = capsys.readouterr().out
    for expected in ("agent=stub", "env=stub/line, wide", "memory.layers=2", "learning rate"):
        assert expected in text
    assert "total_steps=300000" in text


def test_evaluate(capsys):
    assert train("run_dir=here", "seeds=2") == 0
    arguments = ["run=here", "episodes=8", "num_envs=4", "video=true"]
    assert evaluate_command(arguments, STUB, CONFIGS) == 0
    out = capsys.readouterr().out
    # Lengths 5, 10, 15, 20; one for the first step, a half for each of the others.
    assert "6.7500" in out
    assert "12.5" in out
    (record,) = yaml.safe_load(Path("here/eval.json").read_text())
    assert record["episodes"] == 16
    assert record["mean"] == 6.75
    (video,) = Path("here/video").iterdir()
    assert len(video.read_text().splitlines()) == 5
    assert evaluate_command([*arguments, "seed=1"], STUB, CONFIGS) == 0
    assert len(yaml.safe_load(Path("here/eval.json").read_text())) == 2


def test_evaluate_says_what_does_not_fit(capsys):
    assert train("run_dir=here") == 0
    assert evaluate_command(["run=here", "env=stub/wide"], STUB, CONFIGS) == 2
    assert "its observations are Box(size=4), the run's are Box(size=3)" in capsys.readouterr().err
    assert evaluate_command(["run=there"], STUB, CONFIGS) == 1
    assert "there is not a run" in capsys.readouterr().err
    assert evaluate_command([], STUB, CONFIGS) == 2
    assert "give run=" in capsys.readouterr().err
    assert evaluate_command(["run=here", "episode=3"], STUB, CONFIGS) == 2
    assert "did you mean episodes?" in capsys.readouterr().err


def test_wandb_needs_no_network(monkeypatch):
    monkeypatch.setenv("WANDB_SILENT", "true")
    # Any attempt to reach an account would go here, and fail at once.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert train("logger=wandb", "run_dir=here", "seeds=2") == 0
    (offline,) = Path("here/wandb").glob("offline-run-*")
    assert list(offline.glob("*.wandb"))


@pytest.mark.parametrize("script", ["train", "evaluate"])
def test_help_of_the_real_scripts_is_quick(script):
    command = [sys.executable, str(ROOT / "scripts" / f"{script}.py"), "--help"]
    times = []
    for _ in range(2):  # The first fills the file cache.
        before = os.times()
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        after = os.times()
        times.append(sum(after[2:4]) - sum(before[2:4]))
    assert "popgym/" in done.stdout
    # Processor seconds: a loaded machine must not fail this.
    # Most of it is importing; two cores with nothing else to do need about two.
    assert min(times) < 4, times


@pytest.mark.slow
def test_two_devices_share_the_seeds():
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"}
    script = Path(__file__).parent / "stub_train.py"
    for devices in ("1", "2"):
        arguments = [*QUICK, "seeds=4", f"devices={devices}", f"run_dir=d{devices}"]
        command = [sys.executable, str(script), *arguments]
        subprocess.run(command, env=environment, check=True, timeout=120, capture_output=True)
    lines = [read_metrics(Path(d) / "metrics.jsonl") for d in ("d1", "d2")]
    for one, two in zip(*lines, strict=True):
        assert one["loss/total"] == pytest.approx(two["loss/total"], rel=1e-5)
    command = [sys.executable, str(script), *QUICK, "seeds=3", "devices=2"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert "give seeds as a multiple of 2" in done.stderr

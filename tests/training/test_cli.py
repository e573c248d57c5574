"""What the command line answers: to mistakes, one or two lines and exit code 2."""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ssmrl.training.cli import compose_training, evaluate_command, run_command, train_command
from ssmrl.training.cli.check import check_arguments
from ssmrl.training.cli.compose import Composer
from ssmrl.training.config import TrainConfig
from ssmrl.training.errors import UsageError
from ssmrl.training.plotting import find_runs
from ssmrl.training.run import read_metrics
from ssmrl.training.signals import REQUEUE
from tests.training.stub import STUB, StubAgent
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
    "logger=wandbb": ["did you mean wandb?", "available: console, none, tensorboard, wandb"],
    "experiment=fast": ["no such experiment"],
    "totl_steps=5": ["unknown key totl_steps", "did you mean total_steps?", "top-level keys:"],
    "memory.layerz=2": ["did you mean memory.layers?", "memory keys: features, layers"],
    "layers=2": ["unknown key layers", "did you mean memory.layers?"],
    "memory.layers.x=2": ["memory.layers is a single value"],
    "total_steps=many": ["total_steps=many", "'many'", "Integer"],
    "agent.lr=fast": ["agent.lr=fast", "Float"],
    "resume=perhaps": ["resume=perhaps: must be one of false, true, auto"],
    "keep_checkpoints=0": ["keep_checkpoints=0: must be at least 1"],
    "keep_best=true": ["keep_best=true: evaluations say which is the best; give eval_every"],
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
    "total_steps=1.5e-1": ["total_steps=1.5e-1", "Integer"],
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


def composed(monkeypatch, *arguments):
    """How often a command line is composed to check it, and the line that it is refused with."""
    composer = Composer(STUB, CONFIGS, "train", TrainConfig)
    compose, count = composer.compose, []
    monkeypatch.setattr(composer, "compose", lambda x: count.append(x) or compose(x))
    try:
        check_arguments(composer, arguments)
    except UsageError as error:
        return len(count), str(error)
    return len(count), ""


def test_a_command_line_is_composed_once_and_one_by_one_where_it_is_wrong(monkeypatch):
    """Composing takes longer than all else in starting: not once for every setting."""
    settings = [f"total_steps={100 * i}" for i in range(1, 9)]
    assert composed(monkeypatch, *settings) == (2, "")
    assert composed(monkeypatch) == (1, "")
    # The first of two mistakes is named, wherever it stands.
    for at in (0, 4, 8):
        line = composed(monkeypatch, *settings[:at], "seed=x", *settings[at:], "seeds=y")[1]
        assert line.startswith("seed=x: ")


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


@pytest.mark.parametrize("module", ["omegaconf", "orbax"])
def test_a_missing_package_of_training_is_named(module):
    """In a process of its own, where nothing is imported yet."""
    code = (
        f"import runpy, sys; sys.modules[{module!r}] = None; "
        f"runpy.run_path({str(ROOT / 'scripts' / 'train.py')!r}, run_name='__main__')"
    )
    command = [sys.executable, "-c", code]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)
    assert done.stderr == (
        f'error: this needs {module}, which is not installed: pip install "ssmrl[train]"\n'
    )
    assert done.returncode == 1
    assert not Path("runs").exists()


def test_a_module_that_no_extra_brings_keeps_its_traceback(monkeypatch):
    def lost() -> int:
        raise ModuleNotFoundError("No module named 'my_module'", name="my_module")

    with pytest.raises(ModuleNotFoundError, match="my_module"):
        run_command(lost)


@pytest.mark.parametrize("late", [False, True])
def test_a_reader_that_has_gone_is_no_traceback(late):
    """`diagnose.py | head -1`: while it prints, and at the last flush."""
    text = "'a line'" if late else "'a line', flush=True"
    code = (
        "import sys, time; from ssmrl.training.cli.outcome import run_command; time.sleep(0.3); "
        f"sys.exit(run_command(lambda: print({text}) or 0))"
    )
    pipe, buffered = subprocess.PIPE, {**os.environ, "PYTHONUNBUFFERED": ""}
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=pipe, stderr=pipe, cwd=ROOT, env=buffered
    )
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    # What was done is done, where only the last line found nobody.
    assert process.wait(60) == (0 if late else 141)


INTEGERS = {
    # what was typed: what the configuration then says
    "total_steps=1e2": ("total_steps", 100),
    "total_steps=1.2E2": ("total_steps", 120),
    "agent.num_envs=2e0": ("agent.num_envs", 2),
    "memory.layers=3.0": ("memory.layers", 3),
    "agent.lr=1e0": ("agent.lr", 1.0),
    "env.kwargs.length=4": ("env.kwargs.length", 4),
}


@pytest.mark.parametrize("argument", INTEGERS)
def test_whole_numbers_may_be_written_with_an_exponent(argument):
    config = compose_training([argument], STUB, CONFIGS)
    key, expected = INTEGERS[argument]
    for part in key.split("."):
        config = config[part] if isinstance(config, dict) else getattr(config, part)
    assert config == expected and type(config) is type(expected)


def test_whole_numbers_of_a_sweep_and_of_lists():
    @dataclasses.dataclass
    class Config:
        encoder: list[int] = dataclasses.field(default_factory=list)
        seed: int = 0
        lr: float = 1.0

    composer = Composer(STUB, CONFIGS, None, Config)
    line = check_arguments(composer, ["encoder=[1e2,64]", "lr=1e2", "seed=3e1"])
    assert line.overrides == ["encoder=[100,64]", "lr=1e2", "seed=30"]
    line = check_arguments(Composer(STUB, CONFIGS, "train", TrainConfig), ["-m", "seed=1e0,2"])
    assert line.overrides == ["seed=1,2"]


PATHS = ["a run é/ü", "it's (1), [2] = 3", "a\\b\\", '"q"', "日本 #1"]


@pytest.mark.parametrize("path", PATHS)
def test_a_path_is_taken_as_it_is_written(path):
    for key in ("run_dir", "init_from"):
        assert getattr(compose_training([f"{key}={path}"], STUB, CONFIGS), key) == path.strip('"')


def test_runs_in_folders_with_spaces_and_accents(capsys):
    place = "mes étés, 2 (bis)/it's"
    assert train(f"run_dir={place}") == 0
    assert train_command([f"run={place}", "total_steps=200"], STUB, CONFIGS) == 0
    assert len(read_metrics(Path(place) / "metrics.jsonl")) == 10
    assert evaluate_command([f"run={place}", "episodes=2", "num_envs=2"], STUB, CONFIGS) == 0
    assert (Path(place) / "eval.json").exists()


def test_a_sweep_of_folders_may_be_written_with_the_settings():
    assert train("-m", "seed=0,1", "run_dir=runs/seed ${seed}") == 0
    assert [run.name for run in runs()] == ["seed 0", "seed 1"]


def test_a_failed_job_does_not_end_the_sweep(capsys):
    assert train("-m", "agent.fail_at=2,0,3", "seed=0") == 1
    assert [len(read_metrics(run / "metrics.jsonl")) for run in runs()] == [1, 5, 2]
    error = capsys.readouterr().err
    (sweep,) = Path("runs/sweeps").iterdir()
    assert sorted(find_runs(sweep)) == runs()
    summary = error[error.index("2 of 3 jobs failed:") :].splitlines()
    assert len(summary) == 3
    assert "agent.fail_at=2 seed=0: step 40: loss/total is nan" in summary[1]
    assert "agent.fail_at=3 seed=0: step 60: loss/total is nan" in summary[2]


def test_a_job_with_a_fault_does_not_end_the_sweep(capsys, monkeypatch):
    def run_training(config, *arguments, **options):
        if config.seed == 0:
            raise ZeroDivisionError("a fault")
        return type("Result", (), {"exit_code": 0})

    monkeypatch.setattr("ssmrl.training.run_training.run_training", run_training)
    assert train("-m", "seed=0,1") == 1
    error = capsys.readouterr().err
    assert "Traceback" in error
    assert error.endswith(
        "1 of 2 jobs failed:\n  total_steps=100 checkpoint_every=0 seed=0: "
        "ZeroDivisionError: a fault\n"
    )
    # Alone, the fault is the caller's to see, without a page of Hydra's in between.
    with pytest.raises(ZeroDivisionError):
        train("seed=0")


def test_a_job_that_was_told_to_stop_ends_the_sweep(monkeypatch):
    seeds = []

    def run_training(config, *arguments, **options):
        seeds.append(config.seed)
        return type("Result", (), {"exit_code": code})

    monkeypatch.setattr("ssmrl.training.run_training.run_training", run_training)
    for code in (128 + 2, REQUEUE):
        assert train("-m", "seed=0,1") == code
        assert seeds == [0]
        seeds.clear()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_scheduler_s_signal_before_there_is_a_training(number, monkeypatch, capfd):
    """While it imports, makes environments, compiles the first reset: nothing is lost."""
    before = signal.getsignal(number)
    make = dataclasses.replace(
        STUB, make_vector=lambda *arguments, **options: os.kill(os.getpid(), number)
    )
    with pytest.raises(SystemExit) as ended:
        train_command(["resume=auto"], make, CONFIGS)
    assert ended.value.code == REQUEUE
    line = f"{number.name}: nothing is under way; the same command begins again\n"
    assert capfd.readouterr().err == line
    assert not Path("runs").exists() and signal.getsignal(number) == before


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


def test_resume_auto_continues_the_newest_or_begins(capsys):
    for seed in (1, 2):
        assert train(f"seed={seed}", "resume=auto") == 0
    assert train("seed=1", "resume=auto", "total_steps=200") == 0
    assert "resuming from the checkpoint of step 100" in capsys.readouterr().out
    assert [len(read_metrics(run / "metrics.jsonl")) for run in runs()] == [10, 5]
    # A run whose configuration cannot be read is none of them.
    broken = Path("runs/9-stub-tape-stub.line")
    broken.mkdir()
    (broken / "config.yaml").touch()
    assert train("seed=2", "resume=auto", "total_steps=120") == 0
    assert [len(read_metrics(run / "metrics.jsonl")) for run in runs()] == [10, 6, 0]


def test_the_best_checkpoint_is_asked_for_by_name(capsys):
    assert train("run_dir=here", "eval_every=40", "eval_episodes=4", "keep_best=true") == 0
    (best,) = [path.name for path in Path("here/best").iterdir()]
    assert evaluate_command(["run=here", "step=best", "episodes=4"], STUB, CONFIGS) == 0
    assert f"here, step {best}" in capsys.readouterr().out
    assert train("run_dir=there") == 0
    assert evaluate_command(["run=there", "step=best"], STUB, CONFIGS) == 1
    assert "there has no best checkpoint: train with keep_best=true" in capsys.readouterr().err
    assert evaluate_command(["run=there", "step=worst"], STUB, CONFIGS) == 2
    assert "step=worst: must be a whole number or best" in capsys.readouterr().err
    assert evaluate_command(["run=there", "step=1e2", "episodes=4"], STUB, CONFIGS) == 0


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
    assert "text instead of a picture: the environment does not draw itself" in out
    assert evaluate_command([*arguments, "seed=1"], STUB, CONFIGS) == 0
    assert len(yaml.safe_load(Path("here/eval.json").read_text())) == 2


def test_evaluate_takes_the_checkpoint_of_a_step(capsys):
    assert train("run_dir=here", "checkpoint_every=40") == 0
    asked = ["run=here", "episodes=2", "num_envs=2"]
    assert evaluate_command([*asked, "step=8e1"], STUB, CONFIGS) == 0
    assert evaluate_command(asked, STUB, CONFIGS) == 0
    assert [r["step"] for r in yaml.safe_load(Path("here/eval.json").read_text())] == [80, 100]
    assert "here, step 80" in capsys.readouterr().out
    assert evaluate_command([*asked, "step=41"], STUB, CONFIGS) == 1
    err = capsys.readouterr().err
    assert "no checkpoint of step 41; it has 80, 100" in err


def test_several_seeds_have_a_row_each(capsys):
    assert train("run_dir=here", "seeds=2", "seed=5") == 0
    assert evaluate_command(["run=here", "episodes=4", "num_envs=2"], STUB, CONFIGS) == 0
    out = capsys.readouterr().out
    assert "seed 5, mean" in out and "seed 6, mean" in out
    (record,) = yaml.safe_load(Path("here/eval.json").read_text())
    # Lengths 5 and 10: returns 1 + 4/2 and 1 + 9/2, whatever the seed.
    assert [(r["seed"], r["episodes"], r["mean"]) for r in record["seeds"]] == [
        (5, 4, 4.25),
        (6, 4, 4.25),
    ]


@pytest.mark.parametrize("error", [ModuleNotFoundError("no pygame"), OSError(28, "disk full")])
def test_a_video_that_fails_leaves_the_evaluation(error, capsys, monkeypatch):
    assert train("run_dir=here") == 0

    def fail(*arguments, **options):
        # By now the table has been seen and eval.json written.
        assert "4.2500" in capsys.readouterr().out
        assert len(yaml.safe_load(Path("here/eval.json").read_text())) == 1
        raise error

    monkeypatch.setattr("ssmrl.training.run_evaluation.record_episode", fail)
    arguments = ["run=here", "episodes=4", "num_envs=2", "video=true"]
    assert evaluate_command(arguments, STUB, CONFIGS) == 1
    assert f"no video: {type(error).__name__}: {error}" in capsys.readouterr().out
    (record,) = yaml.safe_load(Path("here/eval.json").read_text())
    assert record["mean"] == 4.25 and "video" not in record and "no video" in record["no_video"]


def test_a_curve_that_cannot_be_drawn_is_a_line(capsys, monkeypatch):
    from ssmrl.training import plotting

    def fail(*arguments, **options):
        raise ValueError("no such font")

    monkeypatch.setattr(plotting, "plot_curves", fail)
    assert train() == 0
    assert "no curve.png: ValueError: no such font" in capsys.readouterr().out


def test_a_run_without_an_episode_has_no_curve_and_is_told_of_none(capsys):
    assert train("run_dir=here", "env.kwargs.length=1000", "total_steps=20") == 0
    assert "curve.png" not in capsys.readouterr().out and not Path("here/curve.png").exists()


def test_of_a_single_episode_there_is_no_interval(capsys):
    assert train("run_dir=here") == 0
    capsys.readouterr()
    for episodes, brackets in ((1, False), (4, True)):
        arguments = ["run=here", f"episodes={episodes}", "num_envs=1"]
        assert evaluate_command(arguments, STUB, CONFIGS) == 0
        out = capsys.readouterr().out
        assert ("[" in out, "in brackets: 95% intervals over episodes" in out) == (brackets,) * 2
        assert "nan" not in out and out.splitlines()[-1] == "written to here/eval.json"


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


def test_what_no_episode_has_said_is_left_out_of_the_metrics(monkeypatch):
    """An environment's own numbers are NaN where no episode ended, which stops nothing."""
    plain = StubAgent.iteration

    def iteration(self, state):
        state, metrics = plain(self, state)
        return state, metrics | {"info/success": 1 + 0 * metrics["episode_return"]}

    monkeypatch.setattr(StubAgent, "iteration", iteration)
    assert train("run_dir=here") == 0
    lines = read_metrics(Path("here/metrics.jsonl"))
    assert [line.get("info/success") for line in lines] == [None, 1.0, None, 1.0, None]


def tensorboard_scalars(folder: str) -> dict[str, list[tuple[int, float]]]:
    """(step, value) by tag, as TensorBoard reads them.

    A record is its length (8 bytes), a checksum (4), the event, a checksum (4). A session that
    starts at a step drops what came from there on.
    """
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    scalars: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(Path(folder).glob("events.*")):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.session_log.status == SessionLog.START:
                for values in scalars.values():
                    values[:] = [v for v in values if v[0] < event.step]
            for value in event.summary.value:
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
    return scalars


def test_tensorboard_has_every_line_once(monkeypatch, capsys):
    arguments = ["logger=tensorboard", "run_dir=here", "seeds=2"]
    assert train(*arguments, "checkpoint_every=60") == 0
    # As if it had been stopped after the checkpoint of step 60: what came after is done again.
    shutil.rmtree("here/checkpoints/100")
    assert train(*arguments, "resume=true", "total_steps=140") == 0
    lines, scalars = (
        read_metrics(Path("here/metrics.jsonl")),
        tensorboard_scalars("here/tensorboard"),
    )
    assert [line["step"] for line in lines] == [20, 40, 60, 80, 100, 120, 140]
    for name, of in (
        ("", lambda x: sum(x) / 2),
        ("/seed0", lambda x: x[0]),
        ("/seed1", lambda x: x[1]),
    ):
        expected = [(line["step"], of(line["loss/total"])) for line in lines]
        seen = scalars[f"loss/total{name}"]
        assert [step for step, _ in seen] == [step for step, _ in expected]
        assert [v for _, v in seen] == pytest.approx([v for _, v in expected], rel=1e-6)
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    assert train("logger=tensorboard") == 1
    assert 'pip install "ssmrl[tensorboard]"' in capsys.readouterr().err


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

"""Sweeps are taken up again, tell what came of every job, and run where Hydra's launchers do."""

from __future__ import annotations

import csv
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from matplotlib.figure import Figure

from ssmrl import figures
from ssmrl.training import sweep
from ssmrl.training.cli import train_command
from ssmrl.training.errors import RunError
from ssmrl.training.run import RunFolder, read_metrics
from ssmrl.training.sweep import (
    Job,
    SweepFolder,
    SweepSignals,
    best_job,
    draw,
    find_sweep,
    heeding,
    sweep_value,
    swept_keys,
    write_table,
)
from tests.training.stub import STUB
from tests.training.stub_train import CONFIGS, ROOT

QUICK = ["total_steps=100", "checkpoint_every=0"]


def train(*arguments: str) -> int:
    return train_command([*QUICK, "-m", *arguments], STUB, CONFIGS)


def table(sweep: Path) -> list[dict[str, str]]:
    with (sweep / "table.csv").open() as file:
        return list(csv.DictReader(file))


def the_sweep() -> Path:
    (sweep,) = Path("runs/sweeps").iterdir()
    return sweep


def test_a_sweep_says_what_came_of_every_job(capsys):
    assert train("agent.lr=0.01,0.1", "agent.fail_at=0,3") == 1
    sweep = the_sweep()
    rows = table(sweep)
    assert list(rows[0]) == [
        *("agent.lr", "agent.fail_at", "training_return", "code", "error", "seconds", "run"),
    ]
    by_settings = {(row["agent.lr"], row["agent.fail_at"]): row for row in rows}
    assert len(by_settings) == 4
    for (_, fails), row in by_settings.items():
        assert row["code"] == ("1" if fails == "3" else "0")
        assert bool(row["training_return"]) == (fails == "0")
        assert row["error"].startswith("step 60: loss/total is nan" if fails == "3" else "")
        assert len(read_metrics(Path(row["run"], "metrics.jsonl"))) == (2 if fails == "3" else 5)
    good = {lr: float(by_settings[lr, "0"]["training_return"]) for lr in ("0.01", "0.1")}
    best = max(good, key=lambda lr: good[lr])
    command = (sweep / "best.txt").read_text()
    assert command.endswith(f"total_steps=100 checkpoint_every=0 agent.lr={best} agent.fail_at=0\n")
    assert f"best, training_return {good[best]:.4g}: {command}" in capsys.readouterr().out
    assert (sweep / "returns.png").stat().st_size > 1000


def test_an_interrupted_sweep_is_taken_up_again(monkeypatch, capsys):
    """The first job has ended, the second was killed, the third had not begun."""
    from ssmrl.training import run_training as module

    run, ran = module.run_training, []

    def run_training(config, *arguments, **options):
        ran.append((config.seed, config.resume))
        if len(ran) == 2:
            config.total_steps = 40
            run(config, *arguments, **options)
            raise SystemExit(9)
        return run(config, *arguments, **options)

    monkeypatch.setattr(module, "run_training", run_training)
    with pytest.raises(SystemExit):
        train("seed=0,1,2", "resume=auto")
    sweep = the_sweep()
    assert not (sweep / "table.csv").exists()
    assert train("resume=auto", "seed=0,1,2") == 0
    out = capsys.readouterr().out
    assert f"continuing the sweep in {sweep}" in out and "resuming from the checkpoint of" in out
    assert "done already: total_steps=100 checkpoint_every=0 seed=0" in out
    assert ran == [(0, "auto"), (1, "auto"), (1, "auto"), (2, "auto")]
    assert len(list(Path("runs").glob("*/config.yaml"))) == 3
    assert [(row["seed"], row["code"]) for row in table(sweep)] == [(s, "0") for s in "012"]
    # Without resume, or with other values, it is another sweep.
    assert train("seed=0,1,3", "resume=auto") == 0
    assert len(list(Path("runs/sweeps").iterdir())) == 2
    named = f"hydra.sweep.dir='{sweep}'"
    assert train("seed=0,1,2", named) == 2
    assert f"{sweep} holds a sweep: continue it with resume=auto" in capsys.readouterr().err
    assert train("seed=4,5", named, "resume=auto") == 1
    assert f"{sweep} holds another sweep, of total_steps=100" in capsys.readouterr().err


def test_a_job_is_what_its_overrides_say_in_any_order(tmp_path):
    folder = SweepFolder(tmp_path)
    folder.create(["a=1,2", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2"])
    assert folder.overrides() == ["a=1,2"]
    folder.write(Job(("a=1", "b=x"), code=0, value=2.0))
    assert folder.read(["b=x", "resume=auto", "a=1", "run_dir=there"]).value == 2.0
    assert folder.read(["b=x", "a=2"]) is None
    (path,) = (tmp_path / "jobs").iterdir()
    path.write_text('{"overrides": [')  # cut off: as if it had not begun
    assert folder.read(["a=1", "b=x"]) is None and folder.jobs() == []


JOBS = [
    Job(("seed=0", "lr=1e-3", "net=a"), "r1", 0, "", 1.0, 3.0),
    Job(("seed=0", "lr=1e-1", "net=b"), "r2", 0, "", 2.0, 3.0),
    Job(("seed=0", "lr=1", "net=b"), "r3", 1, "it burst\nreally", None, 3.0),
    Job(("seed=0", "lr=9", "net=b"), "r4", None),
    Job(("seed=0", "lr=5", "net=b"), "r5", 0, "", None),
]


def test_the_table_and_the_best(tmp_path):
    assert swept_keys(JOBS) == ["lr", "net"]
    assert best_job(JOBS, "training_return") == JOBS[1]
    assert best_job(JOBS, "loss/total") == JOBS[0]
    assert best_job(JOBS[2:], "training_return") is None
    write_table(SweepFolder(tmp_path), JOBS, "eval/return")
    assert (tmp_path / "table.csv").read_text().splitlines() == [
        "lr,net,eval/return,code,error,seconds,run",
        "1e-3,a,1.0,0,,3.0,r1",
        "1e-1,b,2.0,0,,3.0,r2",
        "1,b,,1,it burst,3.0,r3",
        "9,b,,,,0.0,r4",
        "5,b,,0,,0.0,r5",
    ]
    assert draw(SweepFolder(tmp_path), JOBS, "eval/return").stat().st_size > 1000
    assert draw(SweepFolder(tmp_path), JOBS[2:], "eval/return") is None


def test_the_best_is_a_number_of_a_job_that_ended_well(tmp_path):
    def jobs(*values, code=0):
        return [Job((f"a={i}",), "r", code, "", value) for i, value in enumerate(values)]

    for values, greatest, least in (
        ((0.0, 0.5, -0.5), 0.5, -0.5),
        ((-0.5, 0.0), 0.0, -0.5),
        ((0.5, 0.0), 0.5, 0.0),
        ((math.inf, 1.0, math.nan, 2.0, -math.inf), 2.0, 1.0),
    ):
        assert best_job(jobs(*values), "training_return").value == greatest
        assert best_job(jobs(*values), "loss/total").value == least
    assert best_job(jobs(1.0, code=1), "training_return") is None
    assert best_job(jobs(math.nan), "training_return") is None


def test_seconds_are_told_to_a_tenth_and_what_is_not_set_is_left_out(tmp_path):
    jobs = [Job(("a=1", "+b=2"), None, 0, "", None, 3.26), Job(("a=2",), "r", seconds=0.05)]
    path = write_table(SweepFolder(tmp_path), jobs, "x")
    assert path.read_text() == "a,b,x,code,error,seconds,run\n1,2,,0,,3.3,\n2,,,,,0.1,r\n"


@pytest.fixture
def drawn(monkeypatch):
    """The figures and where they would have been saved."""
    saved = []

    def save(figure, path, *, pdf):
        assert not pdf
        saved.append((figure, path))

    monkeypatch.setattr(figures, "save", save)
    return saved


def test_each_swept_setting_has_a_panel(tmp_path, drawn):
    assert draw(SweepFolder(tmp_path), JOBS[:2], "eval/mean_return") == tmp_path / "returns.png"
    ((figure, path),) = drawn
    assert path == tmp_path / "returns.png" and figure.dpi == figures.STYLE["figure.dpi"]
    assert figure.get_supylabel() == "eval/mean return"
    lr, net = figure.axes
    assert (lr.get_xlabel(), net.get_xlabel()) == ("lr", "net")
    assert [list(line.get_xydata().T.ravel()) for line in (lr.lines[0], net.lines[0])] == [
        [1e-3, 1e-1, 1.0, 2.0],
        [0.0, 1.0, 1.0, 2.0],
    ]
    assert (lr.lines[0].get_marker(), lr.lines[0].get_linestyle()) == ("o", "None")
    assert (lr.get_xscale(), net.get_xscale()) == ("log", "linear")
    labels = net.get_xticklabels()
    assert [(label.get_text(), label.get_rotation()) for label in labels] == [("a", 20), ("b", 20)]


@pytest.mark.parametrize(
    ("texts", "places", "scale"),
    [
        (["1", "20"], [1, 20], "log"),
        (["1", "19"], [1, 19], "linear"),
        (["0", "20"], [0, 20], "linear"),
        (["-1", "20"], [-1, 20], "linear"),
        (["0.5", "10"], [0.5, 10], "log"),
        (["b", "1", "b"], [1, 0, 1], "linear"),
    ],
)
def test_numbers_far_apart_are_on_a_logarithmic_axis(texts, places, scale):
    axis = Figure().subplots()
    assert sweep._places(axis, texts) == places and axis.get_xscale() == scale


def test_the_newest_sweep_of_the_same_jobs_is_found(tmp_path):
    assert find_sweep(tmp_path, ["a=1"]) is None
    for name, when in (("1", 30), ("2", 50), ("3", 40)):
        SweepFolder(tmp_path / name).create(["a=1,2", "hydra.x=1"])
        os.utime(tmp_path / name / "sweep.json", (when, when))
    SweepFolder(tmp_path / "4").create(["a=1,3"])
    assert find_sweep(tmp_path, ["resume=auto", "a=1,2"]) == tmp_path / "2"
    for text in ("a", "{}", "3", '{"overrides": 3}'):
        (tmp_path / "2" / "sweep.json").write_text(text)
        assert SweepFolder(tmp_path / "2").overrides() is None
        assert find_sweep(tmp_path, ["a=1,2"]) == tmp_path / "3"
    assert SweepFolder(tmp_path / "none").overrides() is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    SweepFolder(tmp_path / "deep" / "er").create(["a=1"])
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="^cannot write to .*/file: (Not a directory|File exists)$"):
        SweepFolder(tmp_path / "file").create(["a=1"])


@pytest.mark.parametrize("text", ["a", "3", "{}", '{"overrides": 3}', '{"overrides": [], "b": 1}'])
def test_a_record_of_a_job_that_cannot_be_read_is_none(tmp_path, text):
    folder = SweepFolder(tmp_path)
    folder.create(["a=1,2"])
    for job in (Job(("b=1",)), Job(("a=2",)), Job(("a=1",))):
        folder.write(job)
    assert [job.overrides for job in folder.jobs()] == [("a=1",), ("a=2",), ("b=1",)]
    # By this name it is found again, by other versions too.
    (tmp_path / "jobs" / "b9a996b9a5060d85.json").write_text(text)
    assert folder.read(["a=1"]) is None
    assert [job.overrides for job in folder.jobs()] == [("a=2",), ("b=1",)]


def test_a_job_is_worth_what_its_seeds_have_learnt_in_the_end(tmp_path):
    run = RunFolder(tmp_path)
    run.create({name: {"name": "x"} for name in ("agent", "memory", "env")})
    lines = [{"step": 10, "x": [9.0, 9.0]}, {"step": 100, "x": [1.0, 2.0]}]
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert sweep_value(tmp_path, "x") == 1.5
    assert sweep_value(tmp_path, "y") is None


def test_the_metric_can_be_another_one():
    assert train("seed=0,1", "sweep_metric=loss/total") == 0
    for row in table(the_sweep()):
        last = read_metrics(Path(row["run"], "metrics.jsonl"))[-1]
        # The last tenth of 100 steps is the last of five lines.
        assert float(row["loss/total"]) == pytest.approx(last["loss/total"])


def test_what_is_not_installed_is_named(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert train("seed=0,1", "hydra/sweeper=optuna") == 2
    assert 'hydra/sweeper=optuna: not installed: pip install "ssmrl[optuna]"' in (
        capsys.readouterr().err
    )


PLUGINS = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=1", "seed=0,1", "agent.fail_at=0,3"],
    "submitit": [
        *("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"),
        *("seed=0,1", "agent.fail_at=0,3"),
    ],
    "optuna": [
        *("hydra/sweeper=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.n_jobs=1"),
        *("hydra.sweeper.direction=maximize", "hydra.sweeper.sampler.seed=0"),
        "agent.lr=tag(log,interval(1e-3,1e-1))",
    ],
}


@pytest.mark.parametrize("name", PLUGINS)
def test_hydra_s_launchers_and_sweeper(name):
    """In processes of their own; each job leaves its record, failed ones too."""
    kind = "sweeper" if name == "optuna" else "launcher"
    pytest.importorskip(f"hydra_plugins.hydra_{name}_{kind}")
    script = Path(__file__).parent / "stub_train.py"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(script), *QUICK, "-m", *PLUGINS[name], "resume=auto"]
    for attempt in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        rows = table(the_sweep())
        if name == "optuna":
            assert done.returncode == 0, done.stderr
            # The same seed asks for the same jobs, which are there: the study is made of them.
            assert len(rows) == 3 and all(row["training_return"] for row in rows)
            assert done.stdout.count("done already") == 3 * attempt
            continue
        assert done.returncode == 1, done.stderr
        assert sorted((row["seed"], row["agent.fail_at"], row["code"]) for row in rows) == [
            *(("0", "0", "0"), ("0", "3", "1"), ("1", "0", "0"), ("1", "3", "1")),
        ]
        assert "2 of 4 jobs failed:" in done.stderr


LAUNCHED = {
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
}


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_sweep_in_processes_stops_with_the_jobs_under_way(name):
    """A SIGTERM to the first process alone: all jobs that train write a checkpoint and end.

    If nobody told them, they would end by themselves after some minutes.
    """
    pytest.importorskip(f"hydra_plugins.hydra_{name}_launcher")
    script = Path(__file__).parent / "stub_train.py"
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    long = ["total_steps=40_000", "checkpoint_every=0", "agent.slow=0.1", "resume=auto"]
    seeds = "seed=0,1,2" if name == "joblib" else "seed=0,1"  # submitit starts all of them
    command = [sys.executable, str(script), *long, "-m", *LAUNCHED[name], seeds]
    with Path("out").open("w") as out:
        process = subprocess.Popen(command, env=environment, stdout=out, stderr=out)
        while process.poll() is None:
            if len([m for m in Path("runs").glob("*/metrics.jsonl") if m.stat().st_size]) == 2:
                process.terminate()
                break
            time.sleep(0.1)
        code = process.wait()
    said = Path("out").read_text()
    assert code == 75, said
    assert "2 of 2 jobs were stopped; resume=auto goes on with them" in said
    assert "Traceback" not in said and "failed" not in said
    assert [(row["code"], row["error"]) for row in table(the_sweep())] == [("75", "")] * 2
    for row in table(the_sweep()):
        assert RunFolder(row["run"]).checkpoint_steps()  # and nobody is left who holds its lock:
        with RunFolder(row["run"]).lock():
            pass


def test_a_sweep_that_is_gone_on_with_is_stopped_no_more(tmp_path):
    folder = SweepFolder(tmp_path)
    folder.create(["a=1,2"])
    assert not folder.is_stopped()
    folder.stop()
    assert folder.is_stopped()
    folder.create(["a=1,2"])
    assert not folder.is_stopped()


def test_in_a_sweep_that_is_stopped_no_job_begins(monkeypatch):
    """Whoever stops it: here another process, while the first of two jobs trains."""
    from ssmrl.training import run_training as module

    run = module.run_training

    def run_training(*arguments, **options):
        SweepFolder(the_sweep()).stop()
        return run(*arguments, **options)

    monkeypatch.setattr(module, "run_training", run_training)
    assert train("seed=0,1", "resume=auto") == 0
    assert len(list(Path("runs").glob("*/config.yaml"))) == 1
    assert train("seed=0,1", "resume=auto") == 0
    assert len(list(Path("runs").glob("*/config.yaml"))) == 2


def test_a_job_is_told_of_the_end_of_its_sweep(tmp_path):
    """Before its training has begun it ends with the code to requeue on; after it, it stays."""
    folder = SweepFolder(tmp_path)
    before = signal.getsignal(signal.SIGTERM)
    with heeding(folder):
        pass
    with pytest.raises(SystemExit) as left, heeding(folder):
        folder.stop()
        time.sleep(60)
    assert left.value.code == 75 and signal.getsignal(signal.SIGTERM) == before


def test_a_first_signal_stops_a_sweep_and_a_second_ctrl_c_ends_it(tmp_path, capfd):
    folder = SweepFolder(tmp_path)
    with SweepSignals(folder) as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert folder.is_stopped() and signals.received == signal.SIGINT
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signals.received == signal.SIGINT
    assert capfd.readouterr().err.splitlines() == [
        "SIGINT: what is under way writes a checkpoint, then this stops"
    ]

"""What wandb is asked for: its mode, and one run for one run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ssmrl.training.config import LoggerConfig, TensorboardConfig, WandbConfig, check_ranges
from ssmrl.training.errors import RunError
from ssmrl.training.loading import as_dict
from ssmrl.training.loggers import (
    CallbackLogger,
    Logger,
    NullLogger,
    _per_seed,
    check_logger,
    make_logger,
)
from ssmrl.training.run import RunFolder
from ssmrl.training.run_training import run_training
from tests.training.stub import STUB


@pytest.fixture
def started(monkeypatch):
    """What `wandb.init` was called with, each time."""
    calls = []
    fake = SimpleNamespace(
        init=lambda **options: (calls.append(options), SimpleNamespace(finish=lambda: None))[1]
    )
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return calls


def start(path: str, **options) -> None:
    Path(path).mkdir(parents=True, exist_ok=True)
    make_logger(WandbConfig(**options), Path(path), {}).close()


def test_the_mode_is_the_configurations_then_the_environments_then_offline(started, monkeypatch):
    start("r")
    monkeypatch.setenv("WANDB_MODE", "disabled")
    start("r")
    start("r", mode="online")
    assert [call["mode"] for call in started] == ["offline", "disabled", "online"]
    assert [call["resume"] for call in started] == [None, None, "allow"]
    check_ranges(WandbConfig(mode="disabled"))
    with pytest.raises(ValueError, match="mode=off: must be one of offline, online, disabled"):
        check_ranges(WandbConfig(mode="off"))


def test_a_resumed_run_goes_on_and_a_namesake_does_not(started):
    for path in ("a/run", "a/run", "b/run"):
        start(path)
    first, again, other = (call["id"] for call in started)
    assert first == again != other
    assert [call["name"] for call in started] == ["run"] * 3


def test_a_run_begun_before_ids_were_kept_goes_on_by_its_name(started):
    Path("old/wandb").mkdir(parents=True)
    start("old")
    start("old")
    assert [call["id"] for call in started] == ["old", "old"]


def test_no_logger_speaks_for_a_run_that_another_process_trains(make_config, record, monkeypatch):
    """Online, wandb would take the second process's end for the run's."""
    config = make_config(resume=True)
    run = RunFolder("runs/test")
    run.create(as_dict(config))
    target = "ssmrl.training.run_training.make_logger"
    monkeypatch.setattr(target, lambda *_: pytest.fail("a logger was made"))
    with run.lock(), pytest.raises(RunError, match="is being trained by process"):
        run_training(config, STUB, reporter=record)


def test_what_wandb_does_not_like_is_a_line(started, monkeypatch, tmp_path):
    """The first of its lines; its name where it says nothing."""
    for error, line in ((OSError("no network\nat all"), "no network"), (OSError(""), "OSError")):

        def fail(error=error, **options):
            raise error

        monkeypatch.setattr(sys.modules["wandb"], "init", fail)
        with pytest.raises(RunError, match=f"^wandb does not start: {line}$"):
            make_logger(WandbConfig(), tmp_path, {})


def test_an_id_that_cannot_be_written_is_a_line(started, monkeypatch, tmp_path):
    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("ssmrl.training.loggers.write_atomically", full)
    with pytest.raises(RunError, match="wandb-id: No space left on device$"):
        make_logger(WandbConfig(), tmp_path, {})


def test_every_logger_can_be_asked_for_all_of_it(tmp_path):
    callback = CallbackLogger(NullLogger(), print)
    for logger in (NullLogger(), callback, make_logger(TensorboardConfig(), tmp_path, {})):
        assert isinstance(logger, Logger)
        logger.close()  # before the first line too
    assert not isinstance(object(), Logger)
    assert type(make_logger(LoggerConfig("console"), tmp_path, {})) is NullLogger
    assert not list(tmp_path.iterdir())


def test_seeds_are_a_mean_and_a_value_each():
    nan = float("nan")
    line = {"a": 1.5, "b": [1.0, 3.0], "c": [nan, 4.0, float("inf")], "d": [nan], "e": nan}
    flat = _per_seed(line)
    assert np.isnan(flat.pop("e"))
    assert flat == {"a": 1.5, "b": 2.0, "b/seed0": 1.0, "b/seed1": 3.0, "c": 4.0, "c/seed1": 4.0}


def test_what_wandb_is_told_of_a_run(started, monkeypatch):
    lines, finished = [], []
    run = SimpleNamespace(
        log=lambda metrics, *, step: lines.append((metrics, step)),
        finish=lambda: finished.append(True),
    )
    options = sys.modules["wandb"].init
    monkeypatch.setattr(sys.modules["wandb"], "init", lambda **o: (options(**o), run)[1])
    path = Path("runs/x")
    path.mkdir(parents=True)
    config = WandbConfig(project="p", entity="e", tags=["t"])
    logger = make_logger(config, path, {"seed": 3})
    logger.log(7, {"a": [1.0, 3.0]})
    assert (lines, finished) == ([({"a": 2.0, "a/seed0": 1.0, "a/seed1": 3.0}, 7)], [])
    logger.close()
    assert finished == [True]
    (asked,) = started
    assert len(asked.pop("id")) == 12
    assert asked == {
        "project": "p",
        "entity": "e",
        "mode": "offline",
        "tags": ["t"],
        "name": "x",
        "resume": None,
        "dir": "runs/x",
        "config": {"seed": 3},
    }


@pytest.mark.parametrize(
    ("config", "module", "line"),
    [
        (
            WandbConfig(),
            "wandb",
            'logger=wandb needs the wandb package: pip install "ssmrl[wandb]"',
        ),
        (
            TensorboardConfig(),
            "tensorboardX",
            'logger=tensorboard needs the tensorboardX package: pip install "ssmrl[tensorboard]"',
        ),
    ],
)
def test_a_logger_that_is_not_installed_is_named_with_its_extra(config, module, line, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(RunError) as error:
        check_logger(config)
    assert str(error.value) == line
    check_logger(LoggerConfig())


def test_what_tensorboard_is_told_of_a_run(tmp_path, monkeypatch):
    told: list = []

    class SummaryWriter:
        def __init__(self, folder, *, purge_step):
            told.append((folder, purge_step))

        def add_scalar(self, name, value, step):
            told.append((name, value, step))

        def close(self):
            told.append("closed")

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=SummaryWriter))
    logger = make_logger(TensorboardConfig(), tmp_path, {})
    for step in (20, 40):
        logger.log(step, {"a": [float(step)]})
    logger.close()
    # From the first step on: what a killed process has written of later ones goes.
    lines = [(name, float(step), step) for step in (20, 40) for name in ("a", "a/seed0")]
    assert told == [(f"{tmp_path}/tensorboard", 20), *lines, "closed"]

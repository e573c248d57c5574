"""What wandb is asked for: its mode, and one run for one run."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from ssmrl.training.config import WandbConfig, check_ranges
from ssmrl.training.errors import RunError
from ssmrl.training.loading import as_dict
from ssmrl.training.loggers import make_logger
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

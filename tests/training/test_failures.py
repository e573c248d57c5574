"""What is said, and kept, where an environment or a configuration fails."""

from __future__ import annotations

import dataclasses
import errno
import logging
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import io_callback

from ssmrl.training.config import EnvConfig, EvaluateConfig
from ssmrl.training.errors import RunError, UsageError
from ssmrl.training.failures import _place, explained_failures, reason
from ssmrl.training.loading import make_venv
from ssmrl.training.run import RunFolder
from ssmrl.training.run_evaluation import evaluate_run
from ssmrl.training.run_training import run_training
from tests.training.stub import STUB, StubVectorEnv


def failed_venv() -> SimpleNamespace:
    try:
        try:
            raise ValueError("the motor is on fire")
        except ValueError as error:
            raise RuntimeError(
                "the motor is on fire; raised by e, environment 3, step 45"
            ) from error
    except RuntimeError as failure:
        return SimpleNamespace(failure=failure)


def test_what_an_environment_raised_comes_first_and_its_traceback_is_kept():
    run = RunFolder("r")
    run.create({})
    for step in (20, 40, 1000):
        (run.checkpoints / str(step)).mkdir(parents=True)
    (run.checkpoints / "2000.orbax-checkpoint-tmp").mkdir()
    with pytest.raises(RunError) as error, explained_failures(failed_venv(), run):
        raise RuntimeError("INTERNAL: pages\nof it")
    assert str(error.value) == (
        "the motor is on fire; raised by e, environment 3, step 45; the last checkpoint is of step "
        "1,000; the traceback is in r/traceback.txt"
    )
    text = run.traceback.read_text()
    assert "ValueError: the motor is on fire" in text
    assert "failed_venv" in text


def test_the_place_of_a_failure_is_where_it_was_raised():
    def deep():
        raise ValueError("a motor")

    def between():
        deep()

    try:
        between()
    except ValueError as error:
        where = f"test_failures.py:{deep.__code__.co_firstlineno + 1}"
        assert _place(error) == f', at {where}: raise ValueError("a motor")'
        assert reason(error) == "ValueError: a motor"
    assert _place(None) == _place(ValueError()) == ""
    assert reason(RunError("no disk\nat all")) == "no disk"


def test_without_a_checkpoint_or_a_place_for_the_traceback(monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("ssmrl.training.failures.write_atomically", full)
    message = r"step 45; there is no checkpoint$"
    with pytest.raises(RunError, match=message), explained_failures(failed_venv(), RunFolder("r")):
        raise RuntimeError("INTERNAL: pages\nof it")


@pytest.mark.parametrize(
    ("venv", "raised"),
    [
        (SimpleNamespace(), RuntimeError("a bug of ours")),
        (SimpleNamespace(failure=None), RuntimeError("a bug of ours")),
        (failed_venv(), RunError("loss/total is nan")),
    ],
)
def test_other_errors_are_left_alone(venv, raised):
    with pytest.raises(type(raised)) as error, explained_failures(venv, RunFolder("r")):
        raise raised
    assert error.value is raised
    assert not Path("r").exists()


@pytest.mark.parametrize(
    ("name", "fault", "line"),
    [
        ("my/x", "my/x, reset_env must return (obs, state), got 3", "reset_env must return (obs"),
        ("own.X", "X: observation must give a space", "observation must give a space"),
        ("my/x", "no door; raised by my/x, environment 0, reset", "no door; raised by environment"),
        ("my/x", "x needs 3 doors", "x needs 3 doors"),
        ("my/x", "my/xy, step 3: reward must be finite", "my/xy, step 3"),
    ],
)
def test_a_line_names_an_environment_once(name, fault, line, make_config):
    def make_vector(*arguments, **options):
        raise ValueError(fault)

    parts = dataclasses.replace(STUB, make_vector=make_vector)
    with pytest.raises(UsageError) as error:
        make_venv(parts, EnvConfig(name=name), 1)
    assert str(error.value).startswith(f"env={name}: {line}")


def test_a_training_is_explained(make_config, record, monkeypatch):
    def train(*arguments, **options):
        raise RuntimeError("INTERNAL: pages\nof it")

    monkeypatch.setattr(StubVectorEnv, "failure", failed_venv().failure, raising=False)
    monkeypatch.setattr("ssmrl.training.run_training.train", train)
    with pytest.raises(RunError, match="^the motor is on fire; raised by e"):
        run_training(make_config(), STUB, reporter=record)


def test_an_evaluation_is_explained(make_config, record, monkeypatch):
    run_training(make_config(total_steps=20), STUB, reporter=record)

    def evaluate_seeds(*arguments):
        raise RuntimeError("INTERNAL: pages\nof it")

    monkeypatch.setattr(StubVectorEnv, "failure", failed_venv().failure, raising=False)
    monkeypatch.setattr("ssmrl.training.run_evaluation.evaluate_seeds", evaluate_seeds)
    config = EvaluateConfig(run="runs/test", env=EnvConfig(name="run"))
    with pytest.raises(RunError, match="^the motor is on fire; raised by e, .* is of step 20; "):
        evaluate_run(config, STUB)


def test_what_cannot_begin_leaves_no_folder(make_config, record, monkeypatch):
    """A host environment that raises at its first reset: the corrected one starts as it should."""

    class Broken(StubVectorEnv):
        is_host, failure, broken = True, None, True

        def reset(self, key):
            shape = jax.ShapeDtypeStruct((), jnp.float32)
            zero = io_callback(self.answer, shape, ordered=True)
            observation, state = super().reset(key)
            return observation + zero, state

        def answer(self):
            if Broken.broken:
                Broken.failure = failed_venv().failure
                raise Broken.failure
            return np.float32(0)

    parts = dataclasses.replace(STUB, make_vector=lambda name, n, **options: Broken(n, **options))
    monkeypatch.setattr(logging.getLogger("jax._src.callback"), "disabled", True)
    with pytest.raises(RunError) as error:
        run_training(make_config(), parts, reporter=record)
    line = 'raise ValueError("the motor is on fire")'
    where = Path(__file__).read_text().splitlines().index(f"            {line}") + 1
    assert str(error.value) == (
        "the motor is on fire; raised by e, environment 3, step 45, at test_failures.py:"
        f"{where}: {line}"
    )
    assert not Path("runs").exists()
    Broken.broken, Broken.failure = False, None
    assert run_training(make_config(), parts, reporter=record).exit_code == 0

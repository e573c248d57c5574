"""The run folder's files, and what a run says while it goes."""

from __future__ import annotations

import dataclasses
import errno
import json
import logging
import math
import os
import re
import signal
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import yaml
from jax.experimental import io_callback
from omegaconf import OmegaConf

from ssmrl.training import run_training as run_training_module
from ssmrl.training.agent import NotingAgent
from ssmrl.training.best import BestCheckpoint
from ssmrl.training.config import EnvConfig, EvaluateConfig, LoggerConfig, check_ranges, structured
from ssmrl.training.errors import RunError, UsageError
from ssmrl.training.evaluation import EvaluationResult
from ssmrl.training.failures import _place, explained_failures, reason
from ssmrl.training.loading import as_dict, build_agent, config_from_dict, make_venv
from ssmrl.training.loop import TrainResult, init_state
from ssmrl.training.run import (
    MetricsFile,
    RunFolder,
    config_differences,
    find_resumable,
    flatten,
    git_commit,
    last_metrics,
    library_versions,
    make_folder,
    make_run_path,
    read_evaluations,
    read_metrics,
    run_label,
    write_atomically,
    write_new,
)
from ssmrl.training.run_evaluation import evaluate_run
from ssmrl.training.run_training import RunResult, run_training
from ssmrl.training.signals import exit_code
from tests.training.stub import STUB, StubAgent, StubVectorEnv
from tests.training.stub_train import ROOT

PARTS = {"agent": {"name": "ppo"}, "memory": {"name": "gru"}, "env": {"name": "popgym/x"}}
"""What every run's configuration has."""


def test_numbers_that_json_does_not_have_become_null():
    metrics = MetricsFile(Path("m.jsonl"))
    metrics.write(1, {"a": float("nan"), "b": [1.0, float("-inf")], "c": 2})
    # Flushed: another process reads it before the file is closed.
    assert json.loads(Path("m.jsonl").read_text()) == {"step": 1, "a": None, "b": [1, None], "c": 2}
    with pytest.raises(ValueError, match="JSON"):  # deeper, where nobody looks, it is no line
        metrics.write(2, {"a": {"b": float("nan")}})
    metrics.close()
    assert len(Path("m.jsonl").read_text().splitlines()) == 1


def test_a_full_disk_while_writing_metrics_is_one_line(monkeypatch):
    metrics = MetricsFile(Path("m.jsonl"))

    class Full:
        def write(self, text):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            pass

    metrics._file.close()
    monkeypatch.setattr(metrics, "_file", Full())
    with pytest.raises(RunError, match="^cannot write m.jsonl: No space left on device$"):
        metrics.write(1, {"a": 1.0})


def test_a_failed_replacement_leaves_the_old_file_and_no_other(monkeypatch):
    Path("f").write_text("old")
    replace = Path.write_text

    def full(self, text, **options):
        replace(self, text[:1], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(Path("f"), "new")
    assert [(p.name, p.read_text()) for p in Path().iterdir()] == [("f", "old")]


def test_why_a_file_cannot_be_written_is_what_is_raised(monkeypatch):
    """And not that there is nothing to clean up."""

    def refuse(self, text, **options):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refuse)
    for write in (write_atomically, write_new):
        with pytest.raises(PermissionError):
            write(Path("f"), "text")


def test_lines_that_are_no_metrics_are_passed_over():
    broken = ("[]", '{"a": 2}', '{"step": 3, "a"', "[" * 100_000, "9" * 5000)
    Path("m.jsonl").write_text("\n".join(['{"step": 1}', *broken, '{"step": 4}']))
    assert read_metrics(Path("m.jsonl")) == [{"step": 1}, {"step": 4}]
    assert read_metrics(Path("absent")) == []


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        ({"step": 0, "a": None}, True),
        ({"step": 2**63 - 1, "a": -0.5e300, "b": [1, [None, 2.5]], "c": {"d": 3}}, True),
        ({"step": -1}, False),
        ({"step": True}, False),
        ({"step": 1.0}, False),
        ({"step": 2**63}, False),
        ({"step": 1, "a": "x"}, False),
        ({"step": 1, "a": [1, "x"]}, False),
        ({"step": 1, "a": {"d": "x"}}, False),
        ({"step": 1, "a": 1e300}, False),
        ({"step": 1, "a": -(10**400)}, False),
    ],
)
def test_a_step_is_a_whole_number_and_all_else_are_numbers(line, kept):
    Path("m.jsonl").write_text(json.dumps(line) + "\n")
    assert read_metrics(Path("m.jsonl")) == ([line] if kept else [])


def test_metrics_that_cannot_be_read_are_named(monkeypatch):
    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    Path("m.jsonl").touch()
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(RunError, match="^cannot read m.jsonl: Permission denied$"):
        read_metrics(Path("m.jsonl"))


@pytest.mark.parametrize("length", [2**16, 2**16 + 1])
def test_a_last_line_of_64_kibibytes_is_read_and_none_that_is_longer(length):
    """No more is read of a file that may be long, and is asked for again and again."""
    line = '{"step": 2, "a": ""}\n'.replace('""', f'"{"x" * (length - 21)}"')
    assert len(line) == length
    Path("m.jsonl").write_text('{"step": 1}\n' + line)
    assert last_metrics(Path("m.jsonl")).get("step") == (2 if length == 2**16 else None)


EVALUATIONS = [[], [{"a": 1}], [{"a": 1}, {}]]


@pytest.mark.parametrize("records", EVALUATIONS)
def test_evaluations_are_a_list_of_records(records):
    Path("e.json").write_text(json.dumps(records))
    assert read_evaluations(Path("e.json")) == records
    assert read_evaluations(Path("none.json")) == []


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{}", "not a list of records"),
        ("[{}, 3]", "not a list of records"),
        ("[", "Expecting value: .*"),
        ("[" * 100_000, "maximum recursion depth .*"),
        (None, ".*Is a directory.*"),
    ],
)
def test_evaluations_that_are_something_else_are_refused(text, reason):
    if text is None:
        Path("e.json").mkdir()
    else:
        Path("e.json").write_text(text)
    line = rf"^e.json is not a list of evaluations \({reason}\); move it away$"
    with pytest.raises(RunError, match=line):
        read_evaluations(Path("e.json"))


WHOLE = {"config": PARTS, "overrides": ["a=1"], "imports": []}


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ("", "config is not a mapping"),
        ("config: 3", "config is not a mapping"),
        ("- a", "config is not a mapping"),
        ("other: {}", "config is not a mapping"),
        ("a: [", "while parsing a flow node"),
        ("[" * 500, "maximum recursion depth .*"),
        ("a: 2001-99-99", "month must be in 1..12.*"),
        ({"config": {}}, "config.agent has no name"),
        ({"config": PARTS | {"agent": "ppo"}}, "config.agent has no name"),
        ({"config": PARTS | {"memory": {"name": 3}}}, "config.memory has no name"),
        ({"config": {"agent": {"name": "a"}, "memory": {"name": "m"}}}, "config.env has no name"),
        (WHOLE | {"overrides": "a=1"}, "overrides is not a list of texts"),
        (WHOLE | {"overrides": ["a=1", 2]}, "overrides is not a list of texts"),
        (WHOLE | {"imports": {"a": 1}}, "imports is not a list of texts"),
    ],
)
def test_a_folder_with_a_broken_config_is_no_run(record, reason):
    Path("r").mkdir()
    text = record if isinstance(record, str) else yaml.safe_dump(record)
    Path("r/config.yaml").write_text(text)
    with pytest.raises(RunError, match=f"^r/config.yaml is not a run's configuration: {reason}$"):
        RunFolder("r").record()


def test_a_config_that_cannot_be_read_is_named(monkeypatch):
    def refuse(self):
        raise PermissionError(errno.EACCES, "Permission denied")

    RunFolder("r").create(PARTS)
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(RunError, match="^r/config.yaml is not a run's .*: .*Permission denied$"):
        RunFolder("r").record()


def test_a_record_has_what_is_there_and_may_lack_what_came_later():
    RunFolder("r").create(PARTS, ["a=1"], ["m"])
    assert list(yaml.safe_load(Path("r/config.yaml").read_text())) == [
        *("config", "overrides", "imports", "command", "created", "python", "versions", "git")
    ]
    Path("r/config.yaml").write_text(yaml.safe_dump({"config": PARTS}))
    assert RunFolder("r").record() == {"config": PARTS}


@pytest.mark.parametrize("taken", ["a file", "something else"])
def test_a_place_that_holds_something_else_is_left_alone(taken):
    if taken == "a file":
        Path("r").touch()
    else:
        Path("r/notes").mkdir(parents=True)
    with pytest.raises(RunError, match="^r exists and is not a run: choose another run_dir$"):
        RunFolder("r").create(PARTS)


def test_folders_above_a_run_are_made_or_named():
    RunFolder("a/b/r").create(PARTS)
    assert RunFolder("a/b/r").exists()
    Path("file").touch()
    with pytest.raises(RunError, match="^cannot write to file/r: Not a directory$"):
        RunFolder("file/r").create(PARTS)


def test_settings_are_told_by_their_whole_names():
    nested = {"b": {"c": 1, "d": {}}, "e": None}
    assert list(flatten("a", nested)) == [("a.b.c", 1), ("a.b.d", {}), ("a.e", None)]
    assert list(flatten("a", 3)) == [("a", 3)]


def test_what_differs_is_counted():
    """The first difference is told, and how many others there are."""
    old = PARTS | {"agent": {"name": "ppo", "lr": 1, "epochs": 2}, "seed": 0}
    RunFolder("r").create(old)
    for changes, line in (
        ({"lr": 2}, "r was started with agent.lr=1, not agent.lr=2$"),
        ({"lr": 2, "epochs": 3}, r"agent.lr=1, not agent.lr=2 \(and 1 more\)$"),
    ):
        with pytest.raises(RunError, match=line):
            RunFolder("r").check_resumable(old | {"agent": old["agent"] | changes})


def test_runs_begun_within_a_second_get_names_of_their_own():
    names = set()
    for _ in range(3):
        names.add(make_run_path(Path("runs"), "a-b-c").name)
    assert len(names) == 3
    assert {path.name for path in Path("runs").iterdir()} == names
    Path("file").touch()
    with pytest.raises(RunError, match="^cannot write to file/.*-a-b-c: Not a directory$"):
        make_run_path(Path("file"), "a-b-c")


def test_a_process_killed_while_it_made_the_folder_is_not_in_the_way():
    Path("r").mkdir()
    for name in ("lock", ".config.yaml.123.tmp"):
        Path("r", name).touch()
    RunFolder("r").create(PARTS)
    assert RunFolder("r").record()["config"] == PARTS
    with pytest.raises(FileExistsError):
        write_new(Path("r/config.yaml"), "other")
    assert RunFolder("r").record()["config"] == PARTS
    assert not Path("r", f".config.yaml.{os.getpid()}.tmp").exists()


def test_a_file_system_without_hard_links(monkeypatch):
    def link(*arguments):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", link)
    write_new(Path("f"), "text")
    with pytest.raises(FileExistsError):
        write_new(Path("f"), "other")
    assert [(p.name, p.read_text()) for p in Path().iterdir()] == [("f", "text")]


HOLD = """
import sys
from ssmrl.training.run import RunFolder

with RunFolder("r").lock():
    print("locked", flush=True)
    sys.stdin.read()
"""


def test_a_folder_belongs_to_one_process_until_it_ends(tmp_path):
    Path("r").mkdir()
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", HOLD], env=environment, text=True, **pipes) as it:
        assert it.stdout.readline() == "locked\n"
        with pytest.raises(RunError) as error, RunFolder("r").lock():
            pass
        assert str(error.value) == (
            f"r is being trained by process {it.pid} on {socket.gethostname()}; wait for it or "
            "stop it, or choose another run_dir"
        )
        # A crash leaves the file, and not the lock.
        it.kill()
        it.wait()
    assert Path("r/lock").exists()
    for _ in range(2):
        with RunFolder("r").lock():
            assert str(os.getpid()) in Path("r/lock").read_text()
            with pytest.raises(RunError, match="is being trained"), RunFolder("r").lock():
                pass


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_a_file_system_without_locks_is_a_warning(number, make_config, record, monkeypatch):
    def flock(*arguments):
        raise OSError(number, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    assert run_training(make_config(total_steps=20), STUB, reporter=record).exit_code == 0
    # Once, though the folder is locked twice.
    assert [text for text in record.messages if "locks" in text] == [
        "the file system of runs/test has no locks (No locks available): see to it that no other "
        "process trains in this folder"
    ]
    assert read_metrics(Path("runs/test/metrics.jsonl"))


def test_nobody_need_hear_of_a_file_system_without_locks(monkeypatch):
    def flock(*arguments):
        raise OSError(errno.ENOTSUP, "No locks available")

    Path("r").mkdir()
    monkeypatch.setattr("fcntl.flock", flock)
    with RunFolder("r").lock():
        pass


def test_the_lock_says_who_has_it_and_no_more():
    Path("r").mkdir()
    Path("r/lock").write_text("process 1 on a host with a long name\n")
    with RunFolder("r").lock():
        mine = f"process {os.getpid()} on {socket.gethostname()}\n"
        assert Path("r/lock").read_text() == mine
        Path("r/lock").write_text("")
        line = "^r is being trained by another process; wait for it or stop it, or choose another"
        with pytest.raises(RunError, match=line), RunFolder("r").lock():
            pass
    with pytest.raises(RunError, match="^cannot write none/lock: No such file or directory$"):
        RunFolder("none").lock().__enter__()


def test_a_lock_that_fails_for_another_reason_is_refused(monkeypatch):
    def flock(*arguments):
        raise OSError(errno.EIO, "Input/output error")

    Path("r").mkdir()
    monkeypatch.setattr("fcntl.flock", flock)
    message = "^cannot lock r/lock: Input/output error$"
    with pytest.raises(RunError, match=message), RunFolder("r").lock(pytest.fail):
        pass


def test_of_two_runs_that_begin_in_one_folder_one_is_refused(monkeypatch):
    """The second looked before the first had written its configuration."""
    RunFolder("r").create(PARTS)
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "exists", lambda self: False)
        patch.setattr(Path, "iterdir", lambda self: iter(()))
        with pytest.raises(RunError, match="r has just been taken by another run"):
            RunFolder("r").create({"second": 2})
    assert RunFolder("r").record()["config"] == PARTS


# ------------------------------------------------------------------- environments that raise


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
        where = f"test_run.py:{deep.__code__.co_firstlineno + 1}"
        assert _place(error) == f', at {where}: raise ValueError("a motor")'
        assert reason(error) == "ValueError: a motor"
    assert _place(None) == _place(ValueError()) == ""
    assert reason(RunError("no disk\nat all")) == "no disk"


class Kept:
    """In the place of a `Checkpointer`: what it holds, and what it is asked for."""

    def __init__(self, directory, *, keep):
        self.there = {5: {"eval/return": 2.0}} if directory == Path("best") else {}
        if directory == Path("damaged"):
            self.there = {5: {"eval/return": 2.0}, 6: {}}
        self.asked = [keep]

    def steps(self):
        return list(self.there)

    def metadata(self, step):
        return self.there[step]

    def discard_after(self, step):
        self.asked.append(("discard", step))

    def save(self, step, state, metadata):
        self.asked.append((step, state, metadata))


@pytest.mark.parametrize(
    ("folder", "offered", "kept"),
    [
        ("new", [(1, 0.5), (2, 0.25), (3, 0.5), (4, [0.5, 1.0])], [1, 4]),
        ("new", [(1, float("nan")), (2, float("-inf")), (3, float("inf")), (4, -9.0)], [4]),
        ("best", [(6, 2.0), (7, 2.5)], [7]),
        ("damaged", [(7, 1.0)], [7]),
    ],
)
def test_the_best_checkpoint_is_replaced_by_a_better_one_alone(folder, offered, kept, monkeypatch):
    monkeypatch.setattr("ssmrl.training.best.Checkpointer", Kept)
    best = BestCheckpoint(Path(folder))
    best.offer(0, "state", {"loss/total": 9.0})
    values = dict(offered)
    for step, value in offered:
        best.offer(step, "state", {"eval/return": value})
    keep, *asked = best._checkpoints.asked
    assert keep == 1
    assert asked == [
        entry
        for step in kept
        for entry in (
            ("discard", step - 1),
            (step, "state", {"eval/return": float(np.mean(values[step]))}),
        )
    ]


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
        f"the motor is on fire; raised by e, environment 3, step 45, at test_run.py:{where}: {line}"
    )
    assert not Path("runs").exists()
    Broken.broken, Broken.failure = False, None
    assert run_training(make_config(), parts, reporter=record).exit_code == 0


def test_a_state_that_was_made_before_is_the_one_that_is_trained(make_config, record, monkeypatch):
    """It is made once: a host environment need not be reset twice."""
    made = []
    monkeypatch.setattr(
        "ssmrl.training.run_training.init_state", lambda *a: made.append(init_state(*a)) or made[0]
    )
    monkeypatch.setattr("ssmrl.training.loop.init_state", lambda *a: pytest.fail("made again"))
    monkeypatch.setattr("ssmrl.training.run_training.abstract_state", lambda *a: {})
    result = run_training(make_config(total_steps=20), STUB, reporter=record).result
    assert len(made) == 1 and result.step == 20


@pytest.mark.parametrize(("logger", "plain"), [("console", True), ("none", False)])
def test_plain_lines_are_a_logger(logger, plain, make_config, record, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "ssmrl.training.run_training.make_reporter",
        lambda *, plain: asked.append(plain) or record,
    )
    config = make_config(total_steps=20)
    run_training(dataclasses.replace(config, logger=LoggerConfig(name=logger)), STUB)
    assert asked == [plain] and record.stopped


@pytest.mark.parametrize(("nonfinite", "skips"), [("skip", True), ("stop", False)])
def test_the_agent_is_told_what_to_do_with_gradients_that_are_not_finite(
    nonfinite, skips, make_config
):
    told = {}
    parts = dataclasses.replace(STUB, make_agent=lambda *arguments, **options: told.update(options))
    build_agent(parts, make_config(nonfinite=nonfinite, total_steps=70))
    assert told == {"total_steps": 70, "skip_nonfinite": skips}


def test_what_an_agent_refuses_is_a_line(make_config):
    def refuse(*arguments, **options):
        raise ValueError("too few environments")

    parts = dataclasses.replace(STUB, make_agent=refuse)
    with pytest.raises(UsageError, match="^agent=stub: too few environments$"):
        build_agent(parts, make_config())


def test_why_a_configuration_does_not_fit_is_one_line(make_config, monkeypatch):
    """The first line of the reason; the error itself where it says nothing."""
    values = {"agent": {"name": "stub"}, "memory": {"name": "stub"}}
    for error, line in ((ValueError("first\nsecond"), "first"), (ValueError(""), "ValueError")):

        def fail(name, error=error):
            raise error

        parts = dataclasses.replace(STUB, agent_config=fail)
        with pytest.raises(RunError, match=f"^r: its .* does not fit this version: {line}") as told:
            config_from_dict(values, parts, where="r")
        assert "second" not in str(told.value)


def test_options_that_are_frozen_can_still_be_overridden():
    """Before they are built: on the command line."""

    @dataclasses.dataclass(frozen=True)
    class Frozen:
        lr: float = 1.0

    node = structured(Frozen)
    node.lr = 2.0
    assert OmegaConf.to_object(node) == Frozen(2.0)


def test_one_step_is_a_training_and_none_is_not(make_config):
    check_ranges(make_config(total_steps=1))
    with pytest.raises(ValueError, match="total_steps=0: must be at least 1"):
        check_ranges(make_config(total_steps=0))


ENDLESS = "truncated=True after so many steps, from its step_env"
TIME_LIMIT = "gymnasium.wrappers.TimeLimit(env, 1000) where it is made"


@pytest.mark.parametrize(
    ("name", "is_host", "how"),
    [
        ("my/env", False, ENDLESS),
        ("own.Env", True, TIME_LIMIT),
        ("gymnasium/CartPole-v1", True, "env.kwargs.max_episode_steps=1000"),
    ],
)
def test_episodes_that_never_end_are_spoken_of(
    name, is_host, how, make_config, record, monkeypatch
):
    class Endless(StubAgent):
        def iteration(self, state):
            state, metrics = super().iteration(state)
            metrics["episodes"] = metrics["starts/episodes"] = jnp.zeros((), jnp.int32)
            return state, metrics

    parts = dataclasses.replace(
        STUB,
        make_vector=lambda _, n, **options: StubVectorEnv(n, **options),
        make_agent=lambda agent, memory, venv, **options: Endless(agent, memory, venv, False),
    )
    monkeypatch.setattr(StubVectorEnv, "is_host", is_host)
    run_training(make_config(env={"name": name}, total_steps=100), parts, reporter=record)
    assert record.messages[-1] == (
        "no episode has ended in 25 steps of each environment, so there is no return to show: "
        f"train for longer, or limit its episodes ({how})"
    )


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_single_episode_is_enough(seeds, make_config, record):
    run_training(make_config(total_steps=40, seeds=seeds), STUB, reporter=record)
    assert not any("no episode" in text for text in record.messages)


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


# ------------------------------------------------------------------------------ files and names


def test_where_the_files_of_a_run_are():
    """Other programs, older runs and the documentation look for them there."""
    run = RunFolder("r")
    places = ("checkpoints", "best", "metrics", "episodes", "curve", "evaluations", "traceback")
    assert {name: str(getattr(run, name)) for name in (*places, "videos")} == {
        "checkpoints": "r/checkpoints",
        "best": "r/best",
        "metrics": "r/metrics.jsonl",
        "episodes": "r/episodes.jsonl",
        "curve": "r/curve.png",
        "evaluations": "r/eval.json",
        "traceback": "r/traceback.txt",
        "videos": "r/video",
    }


def test_steps_of_checkpoints_are_in_order_and_whole():
    for name in ("900", "1000", "20", "3000.orbax-checkpoint-tmp", "notes"):
        (RunFolder("r").checkpoints / name).mkdir(parents=True)
    assert RunFolder("r").checkpoint_steps() == [20, 900, 1000]
    assert RunFolder("none").checkpoint_steps() == []


def test_what_repeats_a_run_is_written_down(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["train.py", "seed=1"])
    RunFolder("r").create(PARTS | {"seed": 1}, ["seed=1"], ["my_module"])
    record = RunFolder("r").record()
    assert record["config"] == PARTS | {"seed": 1}
    assert record["command"] == ["train.py", "seed=1"]
    assert (record["overrides"], record["imports"]) == (["seed=1"], ["my_module"])
    assert record["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["versions"]["jax"] == jax.__version__
    assert {"ssmrl", "jaxlib", "numpy", "flax", "optax"} <= set(record["versions"])
    with pytest.raises(RunError) as error:
        RunFolder("r").create({"seed": 2})
    assert str(error.value) == (
        "r already holds a run: continue it with resume=true, or choose another run_dir"
    )


@pytest.mark.parametrize(("folder", "reason"), [("d", "has no config.yaml"), ("n", "does not ex")])
def test_why_a_folder_is_no_run(folder, reason):
    Path("d").mkdir()
    with pytest.raises(RunError, match=f"^{folder} is not a run: it {reason}"):
        RunFolder(folder).record()


def settings(**changes) -> dict:
    parts = {"agent": {"name": "ppo"}, "memory": {"name": "s5"}, "env": {"name": "popgym/x"}}
    return {**parts, "seed": 0, "seeds": 1, "total_steps": 10, **changes}


@pytest.mark.parametrize(
    ("changes", "differences"),
    [
        ({}, []),
        ({"total_steps": 20, "run_dir": "elsewhere", "eval_every": 5}, []),
        ({"seed": 1}, [("seed", 0, 1)]),
        ({"seeds": 2}, [("seeds", 1, 2)]),
        ({"init_from": "runs/a"}, [("init_from", None, "runs/a")]),
        ({"init_parts": ["memory"]}, [("init_parts", [], ["memory"])]),
        # What older runs do not say is what it was before one could say it.
        ({"init_from": None, "init_parts": []}, []),
        ({"memory": {"name": "s5", "remat": 0}}, []),
        ({"memory": {"name": "s5", "remat": 2}}, [("memory.remat", 0, 2)]),
        ({"agent": {"name": "ppo", "replay_storage": "device"}}, []),
        (
            {"agent": {"name": "ppo", "replay_storage": "host"}},
            [("agent.replay_storage", "device", "host")],
        ),
        ({"agent": {"name": "ppo", "bootstrap_truncated": True}}, []),
        (
            {"agent": {"name": "ppo", "bootstrap_truncated": False}},
            [("agent.bootstrap_truncated", True, False)],
        ),
        ({"env": {"name": "popgym/x", "flicker": 0.0, "observe": None, "action_delay": 0}}, []),
        ({"env": {"name": "popgym/x", "flicker": 0.5}}, [("env.flicker", 0.0, 0.5)]),
        (
            {"env": {"name": "popgym/x", "observation_noise": 0.0, "observation_delay": 1}},
            [("env.observation_delay", 0, 1)],
        ),
        ({"agent": {"name": "ppo", "lr": 1}}, [("agent.lr", None, 1)]),
    ],
)
def test_what_a_resumed_run_may_not_change(changes, differences):
    assert config_differences(settings(), settings(**changes)) == differences
    back = [(key, new, old) for key, old, new in differences]
    assert config_differences(settings(**changes), settings()) == back


def test_names_of_runs_are_dates_and_parts():
    assert run_label(settings()) == "ppo-s5-popgym.x"
    path = make_run_path(Path("runs"), "ppo-s5-popgym.x")
    assert re.fullmatch(r"\d{8}-\d{6}-ppo-s5-popgym\.x(-2)?", path.name)
    assert [make_folder(Path("f"), "a").name for _ in range(3)] == ["a", "a-2", "a-3"]


def test_the_newest_run_with_these_settings_is_found():
    for i, name in enumerate(("1-ppo-s5-popgym.x", "2-ppo-s5-popgym.x-2", "3-ppo-s5-popgym.xy")):
        RunFolder(f"runs/{name}").create(settings(seed=i % 2))
        os.utime(f"runs/{name}/config.yaml", (1000 - i, 1000 - i))
    runs = Path("runs")
    assert find_resumable(runs, settings(seed=0)).name == "1-ppo-s5-popgym.x"
    assert find_resumable(runs, settings(seed=1)).name == "2-ppo-s5-popgym.x-2"
    os.utime("runs/3-ppo-s5-popgym.xy/config.yaml", (2000, 2000))
    assert find_resumable(runs, settings(seed=0)).name == "3-ppo-s5-popgym.xy"
    assert find_resumable(runs, settings(memory={"name": "gru"})) is None
    assert find_resumable(runs, settings(seed=7), strict=False) is None
    # Of several the newest is told.
    with pytest.raises(RunError, match="^runs/3-.* was started with seed=0, not seed=7$"):
        find_resumable(runs, settings(seed=7))


def test_lines_up_to_a_step_are_kept():
    Path("m.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    metrics = MetricsFile(Path("m.jsonl"), keep_until=2)
    assert metrics.kept == [{"step": 1}, {"step": 2}]
    metrics.write(5, {"a": 1})
    metrics.close()
    assert [line["step"] for line in read_metrics(Path("m.jsonl"))] == [1, 2, 5]
    MetricsFile(Path("m.jsonl")).close()
    assert read_metrics(Path("m.jsonl")) == []
    # What was measured before the first step is not of a later iteration.
    Path("m.jsonl").write_text('{"step": 0}\n{"step": 1}\n')
    metrics = MetricsFile(Path("m.jsonl"))
    metrics.close()
    assert metrics.kept == [{"step": 0}]
    with pytest.raises(RunError, match=r"^cannot write no/m\.jsonl: No such file"):
        MetricsFile(Path("no/m.jsonl"))


def test_the_commit_is_that_of_this_package_and_of_no_other(monkeypatch):
    answers = {"ls-files": "run.py", "status": " M a", "rev-parse": "abc"}

    def run(command, **options):
        assert options == {
            "cwd": ROOT / "ssmrl" / "training",
            "capture_output": True,
            "text": True,
            "check": True,
            "timeout": 10,
        }
        answer = answers[command[1]]
        if answer == "no git":
            raise FileNotFoundError(errno.ENOENT, "No such file or directory", "git")
        if answer is None:
            raise subprocess.CalledProcessError(1, command)
        return SimpleNamespace(stdout=f"{answer}\n")

    monkeypatch.setattr(subprocess, "run", run)
    assert git_commit() == {"commit": "abc", "dirty": True}
    answers["status"] = ""
    assert git_commit() == {"commit": "abc", "dirty": False}
    for answer in (None, "no git"):
        answers["ls-files"] = answer
        assert git_commit() is None


def test_versions_are_those_of_what_is_installed(monkeypatch):
    def version(name):
        if name in ("jaxlib", "mujoco"):
            raise metadata.PackageNotFoundError(name)
        return f"{name} 1"

    monkeypatch.setattr(metadata, "version", version)
    names = ("ssmrl", "jax", "flax", "optax", "orbax-checkpoint", "distrax", "flashbax", "numpy")
    environments = ("gymnax", "brax", "gymnasium", "popgym")
    assert library_versions() == {name: f"{name} 1" for name in (*names, *environments)}


def test_skipped_iterations_are_told_at_the_end_if_there_were_any(make_config, record):
    run_training(make_config(total_steps=40), STUB, reporter=record)
    assert not any("non-finite" in text for text in record.messages)
    config = make_config(total_steps=40, nonfinite="skip", agent={"fail_at": 1}, run_dir="runs/2")
    run_training(config, STUB, reporter=record)
    assert "1 iterations had a non-finite metric and were skipped" in record.messages


# ------------------------------------------------------------------- how a training is put together


def test_what_an_agent_notes_is_said_and_what_it_refuses_is_a_line(make_config):
    class Noting:
        refuses = False

        def training_notes(self, seeds):
            if self.refuses:
                raise ValueError("too few environments")
            return [f"of {seeds} seeds"]

    config = make_config(seeds=3)
    assert isinstance(Noting(), NotingAgent)
    assert run_training_module._training_notes(Noting(), config) == ["of 3 seeds"]
    assert run_training_module._training_notes(object(), config) == []
    Noting.refuses = True
    with pytest.raises(UsageError, match="^agent=stub: too few environments$"):
        run_training_module._training_notes(Noting(), config)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("is_host", [True, False])
def test_evaluations_have_environments_of_their_own(own, is_host, make_config, monkeypatch):
    """At most as many as there are episodes to play."""
    there = SimpleNamespace(is_host=is_host)
    wrapped = SimpleNamespace(is_host=is_host, unwrapped=there)
    training = SimpleNamespace(unwrapped=SimpleNamespace() if own else there)
    asked = []

    def make_venv(components, env, count):
        asked.append((env.name, count))
        return wrapped

    monkeypatch.setattr(run_training_module, "make_venv", make_venv)
    config = make_config(eval_every=30, eval_episodes=3)
    if is_host and not own:
        with pytest.raises(UsageError, match="^eval_every=30: evaluations would step the very env"):
            run_training_module._training_evaluation_venv(config, STUB, training)
    else:
        venv = run_training_module._training_evaluation_venv(config, STUB, training)
        assert venv is wrapped
    assert asked == [("stub/line", 3)]


def test_the_run_that_is_continued(make_config, monkeypatch):
    find = run_training_module._find_begun
    assert find(make_config(run_dir="r")) == (None, False)
    asked = []

    def find_resumable(root, settings, *, strict):
        asked.append((root, settings["seed"], strict))

    with monkeypatch.context() as patch:
        patch.setattr(run_training_module, "find_resumable", find_resumable)
        for resume in (True, "auto"):
            assert find(make_config(run_dir=None, resume=resume, seed=4)) == (None, False)
    assert asked == [(Path("runs"), 4, True), (Path("runs"), 4, False)]
    resumed = make_config(run_dir="r", resume=True)
    assert find(resumed) == (None, False)  # it is not there
    RunFolder("r").create(as_dict(make_config(run_dir="r")))
    assert find(resumed) == ("r", False)
    (RunFolder("r").checkpoints / "20").mkdir(parents=True)
    assert find(resumed) == ("r", True)
    with pytest.raises(RunError, match="^r was started with seed=0, not seed=1$"):
        find(make_config(run_dir="r", resume=True, seed=1))
    monkeypatch.setattr(run_training_module, "is_exported", lambda path: path == "r")
    with pytest.raises(RunError, match="^r is an agent without its training, .* init_from=r$"):
        find(resumed)


def test_processes_agree_on_settings_versions_and_machines(make_config):
    agreed = run_training_module._what_must_agree(make_config(seed=3))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert agreed["version of Python"] == python
    assert agreed["seed"] == 3 and agreed["memory.layers"] == 2
    assert agreed["version of jax"] == jax.__version__
    assert (agreed["platform"], agreed["devices each"]) == ("cpu", jax.local_device_count())


@pytest.mark.parametrize("seeds", [1, 2])
def test_an_evaluation_in_training_is_a_line_of_metrics(seeds, make_config, record, monkeypatch):
    results = [
        EvaluationResult(
            np.array([1.0, 2.0]), np.array([3, 5]), np.array([True, False]), {"own": np.ones(2)}
        ),
        EvaluationResult(np.array([5.0, 6.0]), np.array([7, 8]), np.array([False, False])),
    ][:seeds]

    class Player:
        def __init__(self, agent, venv, *, episodes, max_steps):
            assert (episodes, max_steps) == (9, 11)

        def __call__(self, *arguments, **options): ...

        def limit(self, longest_seen):
            return int(1000 * longest_seen)

    monkeypatch.setattr(run_training_module, "Evaluator", Player)
    monkeypatch.setattr(run_training_module, "evaluate_seeds", lambda *_: results)
    monkeypatch.setattr(run_training_module, "info_means", lambda info: dict.fromkeys(info, 0.5))
    config = make_config(seeds=seeds, eval_every=1, eval_episodes=9, eval_max_steps=11)
    evaluate = run_training_module._training_evaluation(
        None, config, StubVectorEnv(1), RunFolder("r"), record
    )
    line = evaluate(None, 2000, longest_seen=4.0, should_stop=lambda: False)
    if seeds == 1:
        assert line == {
            "eval/return": 1.5,
            "eval/length": 4.0,
            "eval/unfinished": 1,
            "eval/info/own": 0.5,
        }
    else:
        assert math.isnan(line["eval/info/own"].pop())
        assert line == {
            "eval/return": [1.5, 5.5],
            "eval/length": [4.0, 7.5],
            "eval/unfinished": [1, 2],
            "eval/info/own": [0.5],
        }
    assert record.messages == [
        f"step 2,000: {[1, 3][seeds - 1]} of {2 * seeds} evaluation episodes had not ended after "
        "4,000 steps (eval_max_steps); they count with their return up to there"
    ]
    results[:] = [EvaluationResult(np.array([1.0]), np.array([3]))] * seeds
    evaluate(None, 2000, longest_seen=4.0, should_stop=lambda: False)
    assert len(record.messages) == 1


def test_what_stopped_a_run_is_its_exit_code():
    def ended(stopped_by):
        result = TrainResult(None, 0, 0.0, 0.0, stopped_by, 0)
        return RunResult(RunFolder("r"), result).exit_code

    stops = (None, signal.SIGINT, signal.SIGTERM)
    assert [ended(stop) for stop in stops] == [0, 130, exit_code(signal.SIGTERM)]


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_begins_with_what_it_is_and_ends_with_what_it_was(
    stopped, resume, make_config, record, monkeypatch
):
    """Alone, it has nobody to agree with; advice is for those that have got to their end."""
    kept: list = []
    end = TrainResult(None, 100, 0.0, 0.0, signal.SIGTERM if stopped else None, 0)

    def train(agent, config, run, *, is_host, evaluate, **options):
        kept.append((is_host, evaluate))
        return end

    def advise(run, config, is_host, reporter):
        kept.append("advice")

    monkeypatch.setattr(run_training_module, "train", train)
    monkeypatch.setattr(run_training_module, "_advise_on_endless_episodes", advise)
    monkeypatch.setattr(run_training_module.hosts, "check_same", pytest.fail)
    monkeypatch.setattr(run_training_module, "_training_notes", lambda *_: ["a note"])
    done = run_training(make_config(resume=resume, total_steps=100), STUB, reporter=record)
    assert done.result is end and kept == [(False, None), *([] if stopped else ["advice"])]
    first = ["nothing to resume: starting a new run"] if resume else []
    last = ["stopped by SIGTERM; to continue: ssmrl train run=runs/test"]
    if not stopped:
        last = ["finished: runs/test", "next: ssmrl evaluate run=runs/test video=true"]
    assert record.messages == [*first, "run: runs/test", "a note", *last]

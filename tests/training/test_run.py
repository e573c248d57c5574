"""The run folder: its files, its name, and whose it is."""

from __future__ import annotations

import errno
import json
import os
import re
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest
import yaml

from ssmrl.training.errors import RunError
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
from ssmrl.training.run_training import run_training
from tests.training.stub import STUB
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

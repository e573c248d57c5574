"""One run over several processes: what one of them meets, all of them answer.

The processes are real, on this machine and with gloo; each has the command of a user.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.training import checkpoint, devices, hosts, loop
from ssmrl.training import run_training as run_training_module
from ssmrl.training.best import BestCheckpoint
from ssmrl.training.checksum import checksum
from ssmrl.training.errors import RunError, UsageError
from ssmrl.training.loading import load_run
from ssmrl.training.loggers import NullLogger
from ssmrl.training.run import RunFolder, read_metrics
from ssmrl.training.run_training import run_training
from ssmrl.training.signals import REQUEUE
from tests.comparing import assert_runs_agree
from tests.compiling import _QUICK
from tests.training.stub import STUB
from tests.training.stub_train import ROOT
from tests.training.test_loop import saved_steps

STUB_SCRIPT = Path(__file__).parent / "stub_train.py"
TIMEOUT = 1800  # Seconds; a loaded machine compiles a Dreamer for ten minutes.
NAMES = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


class Processes:
    """A command in several processes that are told of each other."""

    def __init__(self, count: int, *arguments: str, devices: int = 1, script: Path = STUB_SCRIPT):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            address = f"127.0.0.1:{free.getsockname()[1]}"
        flags = [f"--{name}={str(value).lower()}" for name, value in _QUICK.items()]
        flags.append(f"--xla_force_host_platform_device_count={devices}")
        shared = {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT), "XLA_FLAGS": " ".join(flags)}
        self.logs = [Path(f"process{i}.txt") for i in range(count)]
        self.all = []
        for i, log in enumerate(self.logs):
            own = dict(zip(NAMES, (address, str(count), str(i)), strict=True))
            with log.open("w") as file:
                process = subprocess.Popen(
                    [sys.executable, str(script), *(a.format(i=i) for a in arguments)],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=os.environ | shared | own,
                )
            self.all.append(process)

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *exception) -> None:
        for process in self.all:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()

    def until(self, condition) -> None:
        deadline = time.monotonic() + TIMEOUT
        while not condition():
            assert all(p.poll() is None for p in self.all), self.said()
            assert time.monotonic() < deadline, self.said()
            time.sleep(0.05)

    def codes(self) -> list[int]:
        return [process.wait(TIMEOUT) for process in self.all]

    def said(self) -> list[str]:
        """Without what gloo says of its connections."""
        return [re.sub(r"\[Gloo\].*\n?", "", log.read_text()) for log in self.logs]


def losses(run: RunFolder) -> dict[int, list[float]]:
    lines = [line for line in read_metrics(run.metrics) if "loss/total" in line]
    return {line["step"]: line["loss/total"] for line in lines}


def length(run: RunFolder) -> int:
    return len(read_metrics(run.metrics))


# --------------------------------------------------------------------------------- environment


@pytest.fixture
def environment(monkeypatch):
    for name in [*NAMES, *(f"SLURM_{name}" for name in hosts._SLURM)]:
        monkeypatch.delenv(name, raising=False)

    def put(**values):
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


SLURM = {"JOB_ID": "7", "STEP_NODELIST": "a[1-2]", "NTASKS": "2", "PROCID": "1", "LOCALID": "0"}


def test_where_the_others_are(environment):
    assert hosts.place_from_environment() is None
    environment(**{f"SLURM_{name}": value for name, value in SLURM.items()})
    assert hosts.place_from_environment() == hosts.Place(2, 1, None)
    # The first in line says more than Slurm does, and 1 that there is nobody.
    environment(JAX_NUM_PROCESSES="1")
    assert hosts.place_from_environment() is None
    environment(**dict(zip(NAMES, ("host:99", "4", "3"), strict=True)))
    assert hosts.place_from_environment() == hosts.Place(4, 3, "host:99")
    environment(SLURM_NTASKS="1")
    assert hosts.place_from_environment() == hosts.Place(4, 3, "host:99")
    environment(JAX_PROCESS_ID="1")
    assert hosts.place_from_environment() == hosts.Place(4, 1, "host:99")
    environment(JAX_PROCESS_ID="0")
    assert hosts.place_from_environment() == hosts.Place(4, 0, "host:99")


def test_where_slurm_s_coordinator_is_may_be_said(environment):
    environment(**{f"SLURM_{name}": value for name, value in SLURM.items()})
    environment(JAX_COORDINATOR_ADDRESS="host:99")
    assert hosts.place_from_environment() == hosts.Place(2, 1, "host:99")
    # But who counts the processes must also number them.
    environment(JAX_NUM_PROCESSES="2")
    with pytest.raises(UsageError, match="and JAX_PROCESS_ID not"):
        hosts.place_from_environment()


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (("host:99", None, None), "JAX_COORDINATOR_ADDRESS set, and JAX_NUM_PROCESSES, JAX_PROC"),
        (("host:99", "2", None), "JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES set, and JAX_PROCESS"),
        (("host:99", "0", "0"), "JAX_PROCESS_ID=0: must be from 0 to JAX_NUM_PROCESSES=0 - 1"),
        (("host:99", "2", "-1"), "JAX_PROCESS_ID=-1: must be a whole number"),
        (("host:99", "2", "2"), "JAX_PROCESS_ID=2: must be from 0 to JAX_NUM_PROCESSES=2 - 1"),
        (("host:99", "two", "0"), "JAX_NUM_PROCESSES=two: must be a whole number"),
        (("host", "2", "0"), "JAX_COORDINATOR_ADDRESS=host: expected host:port"),
    ],
)
def test_half_an_environment_is_refused(environment, values, line):
    environment(
        **{name: value for name, value in zip(NAMES, values, strict=True) if value is not None}
    )
    with pytest.raises(UsageError, match=f"^{line}") as error:
        hosts.place_from_environment()
    assert "\n" not in str(error.value)


def test_one_task_of_slurm_is_one_process(environment):
    environment(**{f"SLURM_{name}": value for name, value in (SLURM | {"NTASKS": "1"}).items()})
    assert hosts.place_from_environment() is None


# ------------------------------------------------------------------------------------- meeting


@pytest.fixture
def meet(environment, monkeypatch):
    """Calls `join` where nobody is met in earnest; what was asked of JAX, and the watch, if any."""
    asked = {}

    def call(count=3, *, has_met=False, error=None):
        def initialize(**options):
            asked.update(options)
            if error is not None:
                raise error

        monkeypatch.setattr(hosts, "_watch", None)
        monkeypatch.setattr(hosts, "_Watch", lambda: SimpleNamespace(count=count))
        monkeypatch.setattr(jax.config, "update", asked.__setitem__)
        monkeypatch.setattr(jax.distributed, "initialize", initialize)
        monkeypatch.setattr(jax.distributed, "is_initialized", lambda: has_met)
        asked.clear()
        hosts.join()
        return asked, hosts._watch

    return call


def test_the_processes_that_the_environment_names_are_met_once(meet, environment, monkeypatch):
    assert meet() == ({}, None)
    environment(**dict(zip(NAMES, ("host:99", "3", "2"), strict=True)))
    asked, watch = meet()
    assert asked == {
        "jax_enable_preemption_service": False,
        "coordinator_address": "host:99",
        "num_processes": 3,
        "process_id": 2,
        "cluster_detection_method": "deactivate",
        "initialization_timeout": 300,
        "heartbeat_timeout_seconds": 60,  # Later than the watch's 30 s.
        "shutdown_timeout_seconds": 60,
    }
    assert watch.count == 3
    asked.clear()
    hosts.join()
    assert hosts._watch is watch and not asked


def test_slurm_says_to_jax_itself_who_is_who(meet, environment):
    environment(**{f"SLURM_{name}": value for name, value in SLURM.items()})
    environment(SLURM_STEP_NUM_NODES="2")
    asked, watch = meet()
    assert asked["coordinator_address"] is None and "process_id" not in asked
    assert asked["jax_cuda_visible_devices"] == "all" and watch is not None


def test_a_program_that_has_met_others_itself_is_taken_as_it_is(meet):
    for count in (1, 2, 3):
        asked, watch = meet(count, has_met=True)
        assert asked == {} and (watch is None) is (count == 1)


@pytest.mark.parametrize("error", [RuntimeError, ValueError])
def test_who_does_not_meet_the_others_says_where(meet, environment, error):
    message = "\nDEADLINE_EXCEEDED: no answer\nmore\n"
    environment(**dict(zip(NAMES, ("host:99", "3", "2"), strict=True)))
    with pytest.raises(RunError) as raised:
        meet(error=error(message))
    assert str(raised.value) == (
        "process 2 of 3 does not meet the others at host:99: DEADLINE_EXCEEDED: no answer; to "
        "train each by itself, set JAX_NUM_PROCESSES=1"
    )


def test_who_does_not_meet_slurm_s_others_says_so(meet, environment):
    environment(**{f"SLURM_{name}": value for name, value in SLURM.items()})
    with pytest.raises(RunError, match="at the coordinator that Slurm's variables name: busy;"):
        meet(error=RuntimeError("busy"))


def test_how_many_there_are(monkeypatch):
    monkeypatch.setattr(hosts, "_watch", None)
    assert hosts.count() == 1
    monkeypatch.setattr(hosts, "_watch", SimpleNamespace(count=3))
    assert hosts.count() == 3


def test_patience_with_others_changes_only_on_purpose():
    """Of each other's signs of life, of a last word, of the first meeting, of an answer: a week."""
    seconds = (hosts._BEAT, hosts.LOST_AFTER, hosts._LINGER, hosts.CONNECT_WITHIN)
    assert seconds == (1, 30, 10, 300)
    assert hosts._LONG == 604_800_000


# --------------------------------------------------------------------------------------- watch


class Store:
    """The coordinator's key-value store, in one process."""

    def __init__(self):
        self.values: dict[str, str] = {}
        self.is_gone = False

    def key_value_set(self, key, value, allow_overwrite=False):
        if self.is_gone:
            raise RuntimeError("UNAVAILABLE: failed to connect")
        if key in self.values and not allow_overwrite:
            raise RuntimeError(f"ALREADY_EXISTS: key {key} already exists")
        self.values[key] = value

    def key_value_dir_get(self, prefix):
        return [(key, value) for key, value in self.values.items() if key.startswith(prefix)]


class Left(Exception):
    """In the place of the end of the process."""


@pytest.fixture
def watch(monkeypatch):
    """Of process 1 of 3, whose clock and threads the test turns."""
    watch = object.__new__(hosts._Watch)
    clock = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(hosts.threading.Thread, "start", lambda self: None)
    monkeypatch.setattr(hosts, "_delay_aborts", lambda: None)
    monkeypatch.setattr(hosts.atexit, "register", lambda *a: None)
    state = jax._src.distributed.global_state
    for name, value in (("client", Store()), ("process_id", 1), ("num_processes", 3)):
        monkeypatch.setattr(state, name, value)
    watch.__init__()

    def leave(code):
        raise Left(code)

    monkeypatch.setattr(watch, "_exit", leave)

    def second(*alive):
        """A second passes, in which these processes give a sign of life."""
        clock[0] += 1
        for index in alive:
            key = f"ssmrl/alive/{index}"
            sign = {"beat": 1000 + clock[0], "host": f"host{index}", "ended": None}
            watch.client.values[key] = json.dumps(sign)
        watch._talk()
        watch._look()

    watch.second = second
    return watch


def test_a_process_that_gives_no_sign_of_life(watch, capsys):
    for _ in range(100):
        watch.second(0, 2)
    for _ in range(30):
        watch.second(0)
    with pytest.raises(Left, match="75"):
        watch.second(0)
    assert capsys.readouterr().err == (
        "error: process 2 (host2) gave no sign of life for 30 s; the same command continues from "
        "the last checkpoint\n"
    )


def test_a_process_that_has_ended_well_or_with_an_error(watch, capsys):
    watch.second(0, 2)
    done = {"beat": 2, "host": "host2"}
    for said in ("", "SystemExit"):
        watch.client.values["ssmrl/alive/2"] = json.dumps(done | {"ended": [0, said]})
        for _ in range(100):
            watch.second(0)
    failed = done | {"ended": [1, "No space left on device"]}
    watch.client.values["ssmrl/alive/2"] = json.dumps(failed)
    with pytest.raises(Left, match="1"):
        watch.second(0)
    line = "error: process 2 (host2) has ended: No space left on device\n"
    assert capsys.readouterr().err == line
    watch._ended = (1, "an error of its own")  # Its end is under way.
    watch.second(0)


def test_every_sign_of_life_is_a_new_one(watch):
    beats = []
    for _ in range(3):
        watch.second(0, 2)
        beats.append(json.loads(watch.client.values["ssmrl/alive/1"])["beat"])
    assert len(set(beats)) == 3


@pytest.mark.parametrize(("count", "started"), [(1, []), (2, ["_talk", "_look"])])
def test_only_who_has_others_watches_them(monkeypatch, count, started):
    threads, exits, aborts = [], [], []
    monkeypatch.setattr(hosts.threading.Thread, "start", lambda self: threads.append(self))
    monkeypatch.setattr(hosts, "_delay_aborts", lambda: aborts.append(True))
    monkeypatch.setattr(hosts.atexit, "register", exits.append)
    state = jax._src.distributed.global_state
    for name, value in (("client", Store()), ("process_id", 0), ("num_processes", count)):
        monkeypatch.setattr(state, name, value)
    watch = hosts._Watch()
    assert [thread._args[0].__name__ for thread in threads] == started
    assert all(thread.daemon for thread in threads)  # They must not keep the process alive.
    assert exits == [watch._close] * bool(started) and len(aborts) == len(exits)


def test_the_watch_looks_until_all_is_done(watch):
    done, beats = iter([False, False, True]), []
    watch._stopped = SimpleNamespace(wait=lambda seconds: beats.append(seconds) or next(done))
    looks = []
    watch._repeat(lambda: looks.append(True))
    assert len(looks) == 2 and beats == [hosts._BEAT] * 3


@pytest.mark.parametrize(
    ("refuses", "beat", "seconds", "times"),
    [(True, 1.0, 3, 1), (False, 1.0, 33, 30), (False, 0.5, 62, 60)],
)
def test_a_coordinator_that_refuses_or_does_not_answer(
    watch, capsys, monkeypatch, refuses, beat, seconds, times
):
    """Before JAX aborts, six seconds after it has lost it; or when a host is as silent."""
    asked = []
    monkeypatch.setattr(hosts, "_refuses", lambda address: asked.append(address) or refuses)
    monkeypatch.setattr(hosts, "_BEAT", beat)
    for _ in range(10):
        watch.second(0, 2)
    watch.client.is_gone = True
    assert asked == []
    for _ in range(seconds - 1):
        watch.second()
    with pytest.raises(Left, match="75"):
        watch.second()
    assert len(asked) == times and watch._is_coordinator_gone
    assert capsys.readouterr().err.startswith("error: process 0 (host0) is gone; the same command")


def test_a_port_where_nobody_listens():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        address = f"127.0.0.1:{listener.getsockname()[1]}"
        assert not hosts._refuses(address)
    assert hosts._refuses(address)


def test_a_host_that_does_not_answer_refuses_nothing(monkeypatch):
    asked = []

    def connect(address, timeout):
        asked.append((address, timeout))
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", connect)
    assert not hosts._refuses("[::1]:99") and asked == [(("::1", 99), 1.0)]


def test_an_abort_waits_for_the_watch_to_speak(monkeypatch):
    """C's handler of SIGABRT becomes C's `sleep`."""
    calls = []
    libc = SimpleNamespace(sleep=object())
    monkeypatch.setattr(hosts.ctypes, "CDLL", lambda name: libc)
    monkeypatch.setattr(hosts.ctypes, "cast", lambda function, kind: function)

    def put(number, handler):
        calls.append((number, handler))

    libc.signal = put
    hosts._delay_aborts()
    assert calls == [(signal.SIGABRT, libc.sleep)]


def test_what_is_waited_for_is_looked_for_every_tenth_of_a_beat(monkeypatch):
    clock, sleeps = [5.0], []

    def sleep(seconds):
        sleeps.append(seconds)
        clock[0] += 0.25

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", sleep)
    assert hosts._wait(lambda: True, 1.0) is True and sleeps == []
    assert hosts._wait(lambda: False, 1.0) is False
    assert sleeps == [hosts._BEAT / 10] * 4
    assert hosts._wait(lambda: len(sleeps) > 5, 1.0) is True and len(sleeps) == 6


@pytest.fixture
def at_once(monkeypatch):
    """Nobody waits: what would be waited for is noted, with how long and whether it was so."""
    waits = []

    def wait(condition, seconds):
        waits.append((seconds, condition()))
        return waits[-1][1]

    monkeypatch.setattr(hosts, "_wait", wait)
    monkeypatch.setattr(time, "sleep", lambda seconds: waits.append((seconds, None)))
    return waits


@pytest.mark.parametrize("said", [None, [1, "No space left on device"], [1, "another error"]])
def test_an_error_is_told_to_the_others(watch, at_once, monkeypatch, said):
    """Process 1's; when it exits the others have heard, and what process 0 says is not repeated."""
    exits = []
    monkeypatch.setattr(hosts.atexit, "register", lambda *call: exits.append(call))
    watch._news = {0: {"ended": said}}
    is_said = watch.announce(1, "No space left on device")
    assert is_said is (said == [1, "No space left on device"])
    assert at_once == [(3.0, is_said)]
    assert exits == [(watch._exit, 1)]
    watch._talk()
    sign = json.loads(watch.client.values["ssmrl/alive/1"])
    assert sign["ended"] == [1, "No space left on device"] and not sign["left"]
    # What comes behind the first error is none of its own.
    assert watch.announce(2, "and another") is False and len(exits) == 1


def test_process_0_waits_for_nobody_to_have_said_it_before(watch, at_once):
    watch.index = 0
    watch._news = {0: {"ended": [1, "No space left on device"]}}
    assert watch.announce(1, "No space left on device") is False and at_once == []


def test_who_is_done_says_so_and_stops_looking(watch, at_once):
    watch._close()
    assert watch._ended == (0, "") and at_once == [(3.0, False)] and watch._stopped.is_set()
    watch._talk()
    assert json.loads(watch.client.values["ssmrl/alive/1"])["ended"] == [0, ""]
    watch._ended = (1, "No space left on device")  # It has been told already.
    watch._close()
    assert watch._ended[0] == 1 and len(at_once) == 1


def test_process_0_is_the_last_to_exit(watch, at_once, monkeypatch):
    """All that is said goes through it."""

    def leave(code):
        raise Left(code)

    monkeypatch.setattr(os, "_exit", leave)
    with pytest.raises(Left, match="75"):
        hosts._Watch._exit(watch, REQUEUE)
    assert at_once == [(3.0, False)]
    watch._talk()
    assert json.loads(watch.client.values["ssmrl/alive/1"])["left"]
    watch.index = 0
    lines = ({1: True, 2: False}, False), ({1: False, 2: True}, False), ({1: True, 2: True}, True)
    for others, is_done in lines:
        watch._news = {index: {"left": left} for index, left in others.items()}
        at_once.clear()
        with pytest.raises(Left, match="75"):
            hosts._Watch._exit(watch, REQUEUE)
        assert at_once == [(3.0, True), (hosts._LINGER, is_done), (hosts._BEAT / 2, None)]
    watch._is_coordinator_gone = True  # There is nobody to hear it.
    at_once.clear()
    with pytest.raises(Left, match="75"):
        hosts._Watch._exit(watch, REQUEUE)
    assert (3.0, True) not in at_once


def test_an_error_of_a_collective_waits_for_the_news_of_who_is_gone(watch, at_once, monkeypatch):
    monkeypatch.setattr(hosts, "_BEAT", 2.0)
    watch.wait_for_news(ValueError("shapes differ"))
    assert at_once == []
    watch.wait_for_news(ValueError("Gloo all-reduce failed: Connection closed by peer"))
    assert at_once == [(hosts.LOST_AFTER + 10.0, None)]


@pytest.mark.parametrize(
    ("error", "announced", "is_waited_for", "is_repeated"),
    [
        (RunError("No space left on device"), (1, "No space left on device"), False, False),
        (UsageError("no such key"), (2, "no such key"), False, False),
        (ValueError("gloo"), (1, "gloo"), True, True),
        (KeyboardInterrupt(), (130, "KeyboardInterrupt"), False, True),
        (SystemExit(REQUEUE), (REQUEUE, "SystemExit"), False, True),
        (SystemExit("a line"), (1, "SystemExit"), False, True),
    ],
)
def test_what_one_ends_with_all_end_with(error, announced, is_waited_for, is_repeated, monkeypatch):
    """Where process 0 has said it before, a line is not said again, and a traceback is."""
    calls = []
    watch = SimpleNamespace(
        wait_for_news=lambda error: calls.append(error),
        announce=lambda *what: calls.append(what) or True,
    )
    monkeypatch.setattr(hosts, "_watch", watch)
    with pytest.raises(type(error) if is_repeated else SystemExit) as raised, hosts.together():
        raise error
    assert calls == [*([error] if is_waited_for else []), announced]
    if is_repeated:
        assert raised.value is error
    else:
        assert raised.value.code == announced[0]


# ------------------------------------------------------------------------ what all must know


@pytest.fixture
def place(monkeypatch):
    """Makes this the process of an index, of two, that share a store."""
    store = Store()
    store.blocking_key_value_get = lambda key, milliseconds: store.values[key]
    store.key_value_delete = lambda prefix: [
        store.values.pop(key) for key in [*store.values] if key.startswith(prefix)
    ]

    def be(index):
        monkeypatch.setattr(hosts, "_watch", SimpleNamespace(index=index, count=2, client=store))
        for name in ("_asked", "_exchanged"):
            monkeypatch.setattr(hosts, name, itertools.count())
        return store

    return be


def test_what_only_process_0_can_know_is_asked_of_it_alone(place):
    place(0)
    assert [hosts.from_first(lambda: "a"), hosts.from_first(lambda: None)] == ["a", None]
    place(1)
    assert [hosts.from_first(pytest.fail), hosts.from_first(pytest.fail)] == ["a", None]


def test_values_are_exchanged_and_forgotten_when_all_have_read_them(place):
    store = place(0)
    store.values |= {"ssmrl/each/0/1": '"b"', "ssmrl/each/1/1": '"d"', "ssmrl/each/10/1": '"z"'}
    assert hosts.exchange("a") == ["a", "b"]
    assert store.values["ssmrl/each/0/0"] == '"a"'  # Process 1 may have yet to read it.
    assert hosts.exchange("c") == ["c", "d"]
    assert sorted(store.values) == ["ssmrl/each/1/0", "ssmrl/each/1/1", "ssmrl/each/10/1"]
    place(1)
    del store.values["ssmrl/each/1/1"]  # Its own, which it has yet to say.
    store.values |= {"ssmrl/each/0/0": '"a"', "ssmrl/each/1/0": '"c"'}
    assert [hosts.exchange("b"), hosts.exchange("d")] == [["a", "b"], ["c", "d"]]
    assert len(store.values) == 5


@pytest.mark.parametrize(
    ("others", "line"),
    [
        (({"lr": 1, "seed": 2},), None),
        (({"lr": 1, "seed": 2}, {"lr": 1, "seed": 3}), r"seed=2, and process 2 \(host2\) seed=3"),
        (({"lr": 1},), r"seed=2, and process 1 \(host1\) seed=None"),
        (({"lr": 1, "seed": 2, "new": 4},), r"new=None, and process 1 \(host1\) new=4"),
    ],
)
def test_processes_with_other_settings_are_named(place, others, line, monkeypatch):
    place(0)
    said = [[f"host{i}", other] for i, other in enumerate(others, 1)]
    monkeypatch.setattr(hosts, "exchange", lambda own: [own, *said])
    monkeypatch.setattr(socket, "gethostname", lambda: "host0")
    if line is None:
        hosts.check_same({"lr": 1, "seed": 2})
        return
    with pytest.raises(UsageError, match=rf"^process 0 \(host0\) has {line}: give every process"):
        hosts.check_same({"lr": 1, "seed": 2})


def test_a_file_that_is_shown_late_is_waited_for_and_one_that_is_not_is_refused(place, monkeypatch):
    """By file systems of networks; process 1 looks for what process 0 wrote."""
    store = place(1)
    store.values["ssmrl/first/0"] = store.values["ssmrl/first/1"] = '"new"'
    path = Path("config.yaml")
    monkeypatch.setattr(time, "sleep", lambda seconds: path.write_text("new"))
    hosts.check_shared(path)
    path.write_text("old")
    clock, sleeps = [7.0], []

    def sleep(seconds):
        sleeps.append(seconds)
        clock[0] += seconds

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(time, "sleep", sleep)
    with pytest.raises(RunError, match="^process 1 .* does not see config.yaml as process 0 wrote"):
        hosts.check_shared(path)
    assert sleeps == [0.5] * 120


def test_wishes_are_heard_at_once_or_an_iteration_later():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("data",))
    agreement = hosts.Agreement(mesh)
    assert agreement.greatest(3, wait=True) == 3
    assert agreement.greatest(5, wait=False) == 0
    assert agreement.greatest(1, wait=False) == 5
    assert agreement.greatest(0, wait=True) == 1


@pytest.mark.parametrize(
    ("variables", "takes_all"),
    [
        ({"SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS": "2"}, True),
        ({"SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2"}, False),
        ({"SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2", "CUDA_VISIBLE_DEVICES": "0,1"}, False),
        ({"SLURM_STEP_NUM_NODES": "1", "SLURM_NTASKS": "2", "CUDA_VISIBLE_DEVICES": "1"}, True),
        ({"SLURM_STEP_NUM_NODES": "2", "SLURM_NTASKS": "2", "JAX_LOCAL_DEVICE_IDS": "0"}, False),
    ],
)
def test_a_task_that_has_its_node_for_itself_takes_all_accelerators(
    environment, variables, takes_all, monkeypatch
):
    for name in ("CUDA_VISIBLE_DEVICES", "JAX_LOCAL_DEVICE_IDS", "SLURM_STEP_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)
    environment(**variables)
    set_: dict[str, str] = {}
    config = SimpleNamespace(update=set_.__setitem__)
    with hosts._all_devices_of_a_node(SimpleNamespace(config=config)):
        pass
    expected = {"jax_cuda_visible_devices": "all", "jax_rocm_visible_devices": "all"}
    assert set_ == (expected if takes_all else {})


def test_process_0_alone_has_a_logger(make_config, monkeypatch):
    own = NullLogger()
    monkeypatch.setattr(run_training_module, "make_logger", lambda *_: own)
    for index in (1, 0):
        monkeypatch.setattr(hosts, "_watch", SimpleNamespace(index=index, count=2))
        run = RunFolder("run")
        run.path.mkdir(exist_ok=True)
        logger = run_training_module._start_logger(make_config(), run, None)
        assert isinstance(logger, NullLogger) and (logger is own) is (index == 0)


def test_process_0_alone_writes_metrics(place):
    for index in (1, 0):
        place(index)
        loop._metrics_file(Path("metrics.jsonl"), 0).close()
        assert Path("metrics.jsonl").exists() is (index == 0)


def test_each_process_gets_its_own_part_of_what_is_split():
    """A copy, because the whole is given away."""
    whole = np.arange(8)
    part = devices._copies_of_parts(whole)((slice(4, 8),))
    whole[:] = 0
    assert part.tolist() == [4, 5, 6, 7]


# ---------------------------------------------------------------------------------- checkpoint


def test_the_table_has_the_sums_of_everybodys_parts(place):
    """Of an array that is split; of one that is not, one sum."""
    store = place(0)
    store.values["ssmrl/each/0/1"] = json.dumps({"1": [[[[4, 8]], 7]]})
    half = jnp.arange(4)  # All that this process has.
    whole = np.arange(3)
    sums = checkpoint._checksums([whole, half])
    assert sums == [
        checksum(whole),
        [[[[0, 4]], checksum(np.arange(4, dtype=half.dtype))], [[[4, 8]], 7]],
    ]


def test_process_0_says_what_is_best(place):
    """Where another processor rounds otherwise, they would not all write."""
    store = place(1)
    best = BestCheckpoint(Path("best"))
    store.values |= {"ssmrl/first/0": "false"}
    best.offer(8, {"x": np.zeros(2)}, {"eval/return": 1.0})
    best.close()
    assert not any(Path("best").glob("[0-9]*"))


def test_all_go_on_from_the_checkpoint_that_process_0_finds_whole(place, monkeypatch):
    """Process 1 does not look for itself: the newest may be damaged, and there for it alone."""
    checkpoints = checkpoint.Checkpointer("c")
    for step in (8, 16):
        checkpoints.save(step, {"x": np.full(2, step)})
    checkpoints.wait()
    store = place(1)
    store.values["ssmrl/first/0"] = "8"
    like = {"x": np.zeros(2, int)}
    assert checkpoints.restore(like)[1] == 8
    store.values.clear()
    place(0)
    assert checkpoints.restore(like)[1] == 16 and store.values["ssmrl/first/0"] == "16"
    # Who reads what others write is not one of them, and asks nobody.
    store.values.clear()
    reader = checkpoint.Checkpointer("c", read_only=True)
    assert reader.restore(like)[1] == 16 and not store.values
    with reader._reading() as own, checkpoints._reading() as alone:
        assert own is reader._manager and alone is not checkpoints._manager
        assert alone._options.read_only
    monkeypatch.setattr(hosts, "_watch", None)
    with checkpoints._reading() as own:
        assert own is checkpoints._manager
    checkpoints.close()
    reader.close()


def test_who_takes_part_in_writing_and_reading(place, monkeypatch):
    names = []
    processes = checkpoint._processes
    monkeypatch.setattr(checkpoint, "_processes", lambda x: names.append(x) or processes(None))
    checkpoint.Checkpointer("c").close()
    checkpoint.Checkpointer("c", read_only=True).close()
    assert names == ["c", None]
    assert processes("c").active_processes is None
    place(1)
    assert processes("c").active_processes == {0, 1}
    assert processes("c").barrier_sync_key_prefix == "ssmrl-c"
    assert processes(None).active_processes == {0}  # JAX knows of this one alone.


def test_parts_of_an_array_are_checked_each(tmp_path):
    """What several processes wrote, read by one: a part that is not what was written is noticed."""
    array = np.arange(12.0).reshape(4, 3)
    halves = [[[[i, i + 2], [0, 3]], checksum(array[i : i + 2])] for i in (0, 2)]
    assert checkpoint._is_whole(array, halves)
    array[3, 1] += 1
    assert not checkpoint._is_whole(array, halves)


# ----------------------------------------------------------------------------------- processes


def test_a_signal_to_one_stops_all_behind_one_iteration(make_config, record):
    """Of 2 processes, process 1 gets it; 1 process goes on from their checkpoint."""
    run = RunFolder("run")
    arguments = ["seeds=2", "run_dir=run", "resume=auto", "checkpoint_every=0", "devices=all"]
    with Processes(2, *arguments, "total_steps=1000000") as processes:
        processes.until(lambda: length(run) > 8)
        processes.all[1].send_signal(signal.SIGTERM)
        assert processes.codes() == [REQUEUE, REQUEUE], processes.said()
        out, silent = processes.said()
    assert "stopped by SIGTERM; to continue: ssmrl train run=run" in out
    assert silent == ""
    (step,) = saved_steps(run)
    assert len({line["step"] for line in read_metrics(run.metrics)}) == length(run)
    # Each has written the seed that it has, and noted its sum.
    (meta,) = (run.checkpoints / str(step) / "meta").glob("metadata")
    parts = [row[3] for row in json.loads(meta.read_text())["leaves"]]
    assert all(sorted(bounds[0] for bounds, _ in each) == [[0, 1], [1, 2]] for each in parts)
    # What came behind the last line that was written is not in the state either.
    assert read_metrics(run.metrics)[-1]["step"] == step
    total = step + 100
    config = make_config(seeds=2, run_dir="run", total_steps=total, resume="auto")
    both = [run_training(config, STUB, reporter=record).result.state]
    config = make_config(seeds=2, run_dir="one", total_steps=total)
    both.append(run_training(config, STUB, reporter=record).result.state)
    assert f"resuming from the checkpoint of step {step:,}" in record.messages
    resumed, whole = ([np.asarray(x[k]) for k in ("w", "momentum", "count")] for x in both)
    for a, b in zip(resumed, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    resumed, whole = (losses(RunFolder(path)) for path in ("run", "one"))
    assert resumed.keys() == whole.keys() and whole
    np.testing.assert_allclose(list(resumed.values()), list(whole.values()), rtol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["seeds=2"], 1, "devices=1, but this run has 2 processes with 2 devices together, and"),
        (["seeds=2", "devices=all", "seed={i}"], 2, "process 0 (HOST) has seed=0, and process 1"),
        (
            ["devices=all"],
            1,
            "devices=2: this agent cannot split one seed over devices; give seeds",
        ),
        (["devices=all", "seeds=2", "agent.fail_at=2"], 1, "step 40: loss/total is [nan, nan]"),
        (["-m", "seed=0,1"], 2, "-m: the jobs of a sweep are runs of one process each; start it"),
    ],
)
def test_what_cannot_be_is_said_once(arguments, code, line):
    with Processes(2, *arguments, "run_dir=run") as processes:
        assert processes.codes() == [code, code], processes.said()
        said = "".join(processes.said())
    expected = line.replace("HOST", socket.gethostname())
    assert said.count(f"error: {expected}") == (2 if "-m" in arguments else 1), said
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_folder_that_not_all_see(tmp_path):
    """Process 1 is somewhere else, where the same relative path is another folder."""
    script = tmp_path / "elsewhere.py"
    text = STUB_SCRIPT.read_text().replace("Path(__file__)", f"Path({str(STUB_SCRIPT)!r})")
    move = 'import os\nos.makedirs("d", exist_ok=True)\n'
    move += 'os.environ["JAX_PROCESS_ID"] == "1" and os.chdir("d")\n'
    move += "from ssmrl.training import hosts\nhosts.check_shared.__defaults__ = (2.0,)\n"
    script.write_text(text.replace('if __name__ == "__main__":\n', f"{move}if True:\n"))
    arguments = ["devices=all", "seeds=2", "run_dir=run"]
    with Processes(2, *arguments, script=script) as processes:
        assert processes.codes() == [1, 1], processes.said()
        said = processes.said()
    line = f"process 1 ({socket.gethostname()}) does not see run/config.yaml as process 0 wrote it"
    assert f"error: {line}" in said[1]
    assert f"has ended: {line}" in said[0]


@pytest.mark.slow
def test_all_begin_with_what_process_0_has(tmp_path, make_config, record):
    """Also where another processor rounds otherwise, here by a millionth."""
    script = tmp_path / "rounds.py"
    text = STUB_SCRIPT.read_text().replace("Path(__file__)", f"Path({str(STUB_SCRIPT)!r})")
    round_ = """    import os
    from tests.training import stub
    init = stub.StubAgent.init
    stub.StubAgent.init = lambda self, key: init(self, key) | {
        "w": init(self, key)["w"] * (1 + 1e-6 * int(os.environ["JAX_PROCESS_ID"]))
    }
"""
    begin = "    from ssmrl.training.cli"
    script.write_text(text.replace(begin, round_ + begin))
    arguments = ["devices=all", "seeds=2", "run_dir=run", "total_steps=20"]
    for path, count, which in (("run", 2, script), ("same", 2, STUB_SCRIPT)):
        with Processes(count, *arguments, f"run_dir={path}", script=which) as processes:
            assert processes.codes() == [0, 0], processes.said()
    states = [load_run(path, STUB).state["w"] for path in ("run", "same")]
    np.testing.assert_array_equal(*states)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
@pytest.mark.parametrize("victim", [0, 1])
def test_the_others_end_when_one_is_gone(how, victim):
    """Killed, which closes its connections, or as silent as a machine without power."""
    run = RunFolder("run")
    arguments = ["seeds=2", "run_dir=run", "devices=all", "total_steps=1000000"]
    with Processes(2, *arguments, "checkpoint_every=40") as processes:
        processes.until(lambda: length(run) > 4)
        processes.all[victim].send_signal(how)
        gone = time.monotonic()
        left = 1 - victim
        assert processes.all[left].wait(TIMEOUT) == REQUEUE, processes.said()
        assert time.monotonic() - gone < 60
        last = processes.said()[left].strip().splitlines()[-1]
    gone = "is gone" if (victim, how) == (0, signal.SIGKILL) else "(is gone|gave no sign of life)"
    assert re.match(rf"error: process {victim} \(.*\) {gone}.*; the same command continues", last)
    assert saved_steps(run)


@pytest.mark.slow
def test_several_processes_with_several_devices_do_not_wait_for_each_other_for_ever():
    """XLA's pool of threads would, after 32 iterations, if they did not wait for each one."""
    arguments = ["seeds=4", "run_dir=run", "devices=all", "total_steps=2000", "eval_every=500"]
    with Processes(2, *arguments, devices=2) as processes:
        assert processes.codes() == [0, 0], processes.said()
    assert saved_steps(RunFolder("run"))[-1] == 2000


# ------------------------------------------------------------------------------------- agents

TINY = {
    "ppo": (
        *("agent.num_envs=16", "agent.rollout_length=8", "agent.minibatches=2", "agent.epochs=2"),
        *("memory=gru", "memory.features=16", "agent.lr=1e-4", "agent.lr_schedule=constant"),
    ),
    "dreamer": (
        *("agent.size=pico", "agent.num_envs=16", "agent.rollout_length=8", "agent.batch_size=16"),
        *("agent.batch_length=8", "agent.train_ratio=1", "agent.imagination_length=2"),
        *("agent.replay_capacity=384", "agent.bins=15", "memory=gru", "agent.warmup=100"),
    ),
}
STEPS = 16 * 8


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "counts"), [("ppo", (4, 2)), ("dreamer", (2, 1))])
def test_processes_learn_what_one_learns_and_their_number_may_change(agent, counts, monkeypatch):
    """Of the first ones one is killed; others go on with what they left.

    What differs is the order of sums; `tests/agents/test_devices.py` has how far that goes. Here it
    goes on for more iterations, and the bounds are ten times as wide.
    """
    # Where one process trains, it is the same program twice.
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(Path("cache").resolve()))
    script = ROOT / "scripts" / "train.py"
    settings = [f"agent={agent}", "env=popgym/repeat_first_easy", *TINY[agent]]
    settings += ["eval_every=256", "eval_episodes=4", f"checkpoint_every={STEPS}", "resume=auto"]
    many = RunFolder("many")
    first, then = ([*settings, "run_dir=many", "devices=all", x] for x in ("total_steps=99999", ""))
    with Processes(counts[0], *first, script=script) as processes:
        processes.until(lambda: len(many.checkpoint_steps()) > 1)
        processes.all[-1].kill()
        codes = [REQUEUE] * (counts[0] - 1) + [-signal.SIGKILL]
        assert processes.codes() == codes, processes.said()
    then[-1] = f"total_steps={many.checkpoint_steps()[-1] + 2 * STEPS}"
    with Processes(counts[1], *then, script=script) as processes:
        assert processes.codes() == [0] * counts[1], processes.said()
    with Processes(1, *settings, "run_dir=one", then[-1], script=script) as processes:
        assert processes.codes() == [0], processes.said()
    assert_runs_agree("many", "one", metrics=1e-4, params=1e-5)

"""Hosts: one run over several processes, which `jax.distributed` brings together.

Every process runs the same command, and the same programs in the same order: what decides about a
program must be the same everywhere. What only one of them can know (a folder's name, a signal, a
file) is told to the others by the functions here. Process 0 alone writes what is not a checkpoint.

A watch in every process notices which of the others have ended or gone, where all the rest wait in
a program for what will never come. `jax.distributed` has a watch too, but that one only aborts.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ssmrl.training.errors import RunError, UsageError
from ssmrl.training.signals import REQUEUE

# JAX is imported inside: the command line asks for processes before it needs anything heavy.

LOST_AFTER = 30.0
"""Seconds without a sign of life after which a process counts as gone."""

CONNECT_WITHIN = 300
"""Seconds that the processes of a run have to find each other."""

_BEAT = 1.0  # Seconds between signs of life.
_LINGER = 10.0  # Seconds that process 0, through which all talk, stays for the others to hear.
_LONG = 7 * 24 * 3600 * 1000  # Milliseconds; whoever waits in vain is ended by the watch.
_ALONE = "to train each by itself, set JAX_NUM_PROCESSES=1"
_SLURM = ("JOB_ID", "STEP_NODELIST", "NTASKS", "PROCID", "LOCALID")
_OF_A_COLLECTIVE = re.compile(
    "gloo|nccl|collective|coordination|UNAVAILABLE|DEADLINE_EXCEEDED|ABORTED|rendezvous", re.I
)


@dataclass(frozen=True)
class Place:
    """Where a process finds the others; None where Slurm's variables say it to JAX."""

    count: int
    index: int
    address: str | None


def place_from_environment() -> Place | None:
    """What the environment says of other processes; None: there are none.

    ``JAX_COORDINATOR_ADDRESS``, ``JAX_NUM_PROCESSES`` and ``JAX_PROCESS_ID``, or else what ``srun``
    sets for each task.

    Raises:
        UsageError: some of the three are missing, or are no numbers.
    """
    names = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    if os.environ.get(names[1]) == "1":
        return None
    address = os.environ.get(names[0])
    if names[1] not in os.environ and all(f"SLURM_{name}" in os.environ for name in _SLURM):
        count, index = _number("SLURM_NTASKS"), _number("SLURM_PROCID")
        return None if count == 1 else Place(count, index, address)
    missing = [name for name in names if not os.environ.get(name)]
    if len(missing) == len(names):
        return None
    if missing:
        raise UsageError(
            f"{', '.join(sorted(set(names) - set(missing)))} set, and {', '.join(missing)} not: "
            "a run over several processes needs all three in each of them"
        )
    count, index = _number(names[1]), _number(names[2])
    if index >= count:
        raise UsageError(f"JAX_PROCESS_ID={index}: must be from 0 to JAX_NUM_PROCESSES={count} - 1")
    if ":" not in str(address):
        raise UsageError(f"{names[0]}={address}: expected host:port, of process 0's machine")
    return Place(count, index, address)


def _number(name: str) -> int:
    text = os.environ[name]
    if not text.isdecimal():
        raise UsageError(f"{name}={text}: must be a whole number")
    return int(text)


def join() -> None:
    """Meet the other processes of the run, if the environment says that there are any.

    A program that has called `jax.distributed.initialize` itself is taken as it is.

    Raises:
        UsageError: what the environment says cannot be.
        RunError: the others cannot be reached, or JAX has been used already.
    """
    global _watch
    if _watch is not None:
        return
    if "jax" in sys.modules and sys.modules["jax"].distributed.is_initialized():
        watch = _Watch()
        _watch = watch if watch.count > 1 else None
        return
    place = place_from_environment()
    if place is None:
        return
    import jax

    # XLA's own handler of SIGTERM would take the place of ours; `Agreement` does what it is for.
    jax.config.update("jax_enable_preemption_service", False)
    options: dict[str, Any] = {"coordinator_address": place.address}
    by_slurm = "JAX_NUM_PROCESSES" not in os.environ
    if not by_slurm:
        options |= {"num_processes": place.count, "process_id": place.index}
        options["cluster_detection_method"] = "deactivate"
    with _all_devices_of_a_node(jax) if by_slurm else contextlib.nullcontext():
        try:
            jax.distributed.initialize(
                **options,
                initialization_timeout=CONNECT_WITHIN,
                # Later than our own watch, which says who is gone.
                heartbeat_timeout_seconds=int(2 * LOST_AFTER),
                shutdown_timeout_seconds=60,
            )
        except (RuntimeError, ValueError) as error:
            where = place.address or "the coordinator that Slurm's variables name"
            reason = str(error).strip().partition("\n")[0]
            raise RunError(
                f"process {place.index} of {place.count} does not meet the others at {where}: "
                f"{reason}; {_ALONE}"
            ) from error
    _watch = _Watch()


@contextlib.contextmanager
def _all_devices_of_a_node(jax: Any) -> Iterator[None]:
    """Under Slurm JAX takes a single accelerator for each process; a node's only one takes all.

    That also holds where Slurm shows each task no accelerator but its own.
    """
    nodes, tasks = (os.environ.get(f"SLURM_{name}") for name in ("STEP_NUM_NODES", "NTASKS"))
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    yield
    if "JAX_LOCAL_DEVICE_IDS" in os.environ:
        return
    if nodes == tasks or (len(shown) == 1 and shown != [""]):
        for kind in ("cuda", "rocm"):
            jax.config.update(f"jax_{kind}_visible_devices", "all")


def count() -> int:
    """How many processes the run has."""
    return 1 if _watch is None else _watch.count


def is_first() -> bool:
    """Whether this is the process that writes and speaks."""
    return _watch is None or _watch.index == 0


def from_first(ask: Callable[[], Any]) -> Any:
    """What ``ask`` says in process 0, in all of them; all must call it, in the same order.

    Args:
        ask: called in process 0 alone; gives what JSON can hold.
    """
    if _watch is None:
        return ask()
    key = f"ssmrl/first/{next(_asked)}"
    if _watch.index == 0:
        answer = ask()
        _watch.client.key_value_set(key, json.dumps(answer))
        return answer
    return json.loads(_watch.client.blocking_key_value_get(key, _LONG))


def exchange(value: Any) -> list[Any]:
    """The ``value`` of every process, in their order, in all of them; all must call it.

    Args:
        value: what JSON can hold.
    """
    if _watch is None:
        return [value]
    client, turn = _watch.client, next(_exchanged)
    client.key_value_set(f"ssmrl/each/{turn}/{_watch.index}", json.dumps(value))
    keys = [f"ssmrl/each/{turn}/{i}" for i in range(_watch.count)]
    values = [json.loads(client.blocking_key_value_get(key, _LONG)) for key in keys]
    if _watch.index == 0:
        # Whoever has come this far has read the values of the turn before.
        client.key_value_delete(f"ssmrl/each/{turn - 1}/")
    return values


_asked, _exchanged = itertools.count(), itertools.count()


def check_same(settings: dict[str, Any]) -> None:
    """Raise UsageError, naming the first difference, unless all processes say the same.

    Args:
        settings: what JSON can hold, by name.
    """
    if _watch is None:
        return
    first, *others = exchange([socket.gethostname(), settings])
    for index, (host, other) in enumerate(others, 1):
        for name in dict.fromkeys([*first[1], *other]):
            mine, theirs = first[1].get(name), other.get(name)
            if mine != theirs:
                raise UsageError(
                    f"process 0 ({first[0]}) has {name}={mine}, and process {index} ({host}) "
                    f"{name}={theirs}: give every process the same command, with the same "
                    f"versions; {_ALONE}"
                )


def check_shared(path: Any, within: float = 60.0) -> None:
    """Raise RunError unless all processes see the file that process 0 sees.

    Args:
        path: of a file, as process 0 names it.
        within: seconds that the file systems of networks may take to show it.
    """
    if _watch is None:
        return
    text = from_first(path.read_text)
    until, seen = time.monotonic() + within, None
    while seen != text and time.monotonic() < until:
        with contextlib.suppress(OSError):
            seen = path.read_text()
        if seen != text:
            time.sleep(0.5)
    if seen != text:
        raise RunError(
            f"process {_watch.index} ({socket.gethostname()}) does not see {path} as process 0 "
            "wrote it: give a run_dir in a file system that all hosts share"
        )


class Agreement:
    """What one process knows, and all must act upon behind the same iteration.

    Args:
        mesh: of all devices of all processes.
    """

    def __init__(self, mesh: Any):
        import jax
        import jax.numpy as jnp
        from jax.sharding import NamedSharding, PartitionSpec

        self._split = NamedSharding(mesh, PartitionSpec(mesh.axis_names[0]))
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._greatest = jax.jit(jnp.max, out_shardings=everywhere)
        self._asked: list[Any] = []

    def greatest(self, number: int, *, wait: bool) -> int:
        """The greatest ``number`` of all processes; all must call it, behind the same programs.

        Args:
            number: of this process, at least 0.
            wait: for the answer; otherwise it comes with the next call, and this one gives that of
                the call before, 0 at first.
        """
        import jax
        import numpy as np

        local = np.full(jax.local_device_count(), number, np.int32)
        array = jax.make_array_from_process_local_data(self._split, local)
        self._asked.append(self._greatest(array))
        ready = len(self._asked) - (0 if wait else 1)
        answers, self._asked = self._asked[:ready], self._asked[ready:]
        return max((int(answer) for answer in answers), default=0)


# ------------------------------------------------------------------------------- ending together


@contextlib.contextmanager
def together() -> Iterator[None]:
    """What one process ends with, all end with: an error, a Ctrl-C, a signal.

    Where several have the same to say, only process 0 says it.

    Raises:
        SystemExit: in the place of an error that process 0 has raised too.
    """
    try:
        yield
    except BaseException as error:
        if _watch is None:
            raise
        if isinstance(error, Exception) and not isinstance(error, RunError):
            # Not at once: a program may have failed because another process is gone.
            _watch.wait_for_news(error)
        said = type(error).__name__ if isinstance(error, SystemExit) else str(error).strip()
        said_already = _watch.announce(_code(error), said or type(error).__name__)
        if said_already and isinstance(error, RunError):
            raise SystemExit(_code(error)) from None
        raise


def _code(error: BaseException) -> int:
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return 2 if isinstance(error, UsageError) else 1


class _Watch:
    """Tells the others that this process lives, and notices which of them do not.

    Through the key-value store of the coordinator, which is in process 0. One thread talks to it,
    and another looks on: the first may wait for an answer that never comes.
    """

    def __init__(self) -> None:
        # JAX has no public name for it; orbax and others use this one. Not jax.process_index(),
        # which makes the devices, before a user's own modules can say how.
        from jax._src.distributed import global_state

        self.client: Any = global_state.client
        self.index, self.count = global_state.process_id, global_state.num_processes
        self._address = str(global_state.coordinator_address)
        self._ended: tuple[int, str] | None = None
        self._is_leaving = False
        self._told: dict[str, Any] = {}  # the last sign that was given
        self._beats = self._silent_looks = 0
        self._is_coordinator_gone = False
        self._stopped = threading.Event()
        self._heard = [(time.monotonic(), None)] * self.count
        self._news: dict[int, dict[str, Any]] = {}
        self._answered = time.monotonic()
        if self.count == 1:
            return
        _delay_aborts()
        # Before JAX says goodbye to the coordinator; exit handlers run last in, first out.
        atexit.register(self._close)
        for work in (self._talk, self._look):
            threading.Thread(target=self._repeat, args=(work,), daemon=True).start()

    def _repeat(self, work: Callable[[], None]) -> None:
        while not self._stopped.wait(_BEAT):
            work()

    def _talk(self) -> None:
        """Give a sign of life, and take those of the others."""
        self._beats += 1
        sign: dict[str, Any] = {"beat": self._beats, "host": socket.gethostname()}
        sign |= {"ended": self._ended, "left": self._is_leaving}
        try:
            self.client.key_value_set(f"ssmrl/alive/{self.index}", json.dumps(sign), True)
            found = self.client.key_value_dir_get("ssmrl/alive/")
        except Exception:
            return
        now, self._told = time.monotonic(), sign
        for key, value in found:
            index, theirs = int(key.rpartition("/")[2]), json.loads(value)
            self._news[index] = theirs
            if theirs["beat"] != self._heard[index][1]:
                self._heard[index] = (now, theirs["beat"])
        self._answered = now

    def _look(self) -> None:
        """End this process if another has ended with an error, or has gone."""
        if self._ended is not None:
            return
        for index, sign in sorted(self._news.items()):
            if index != self.index and sign["ended"] and sign["ended"][0]:
                code, message = sign["ended"]
                self._leave(code, f"{self._name(index)} has ended: {message}")
        if self.index and self._no_coordinator():
            self._is_coordinator_gone = True
            self._leave(REQUEUE, f"{self._name(0)} is gone")
        lost = [i for i in range(self.count) if i != self.index and self._is_lost(i)]
        if lost:
            names = ", ".join(map(self._name, lost))
            self._leave(REQUEUE, f"{names} gave no sign of life for {LOST_AFTER:.0f} s")

    def _no_coordinator(self) -> bool:
        is_silent = time.monotonic() - self._answered > 2 * _BEAT
        # Counted, not timed: a machine that slept has heard nothing for long, and that is all.
        self._silent_looks = self._silent_looks + 1 if is_silent else 0
        # Calls to one that was killed do not return. It is asked directly then, as JAX has begun to
        # abort; see `_delay_aborts`.
        return self._silent_looks * _BEAT > LOST_AFTER or (is_silent and _refuses(self._address))

    def _is_lost(self, index: int) -> bool:
        ended = self._news.get(index, {}).get("ended")
        # By our own clock when we last asked, or a coordinator that is slow would be their fault.
        return ended is None and self._answered - self._heard[index][0] > LOST_AFTER

    def _name(self, index: int) -> str:
        host = self._news.get(index, {}).get("host")
        return f"process {index}" + (f" ({host})" if host else "")

    def _leave(self, code: int, line: str) -> None:
        """End this process from within the watch, as its main thread waits in a program."""
        again = "; the same command continues from the last checkpoint" if code == REQUEUE else ""
        with contextlib.suppress(OSError, ValueError):
            print(f"error: {line}{again}", file=sys.stderr)
        self._ended = (code, line)
        self._exit(code)

    def wait_for_news(self, error: Exception) -> None:
        """Give the watch the time to find out that a program failed because a process is gone."""
        if _OF_A_COLLECTIVE.search(f"{type(error).__name__} {error}"):
            time.sleep(LOST_AFTER + 5 * _BEAT)

    def announce(self, code: int, message: str) -> bool:
        """Tell the others that this process ends with an error; whether process 0 said it before.

        When it exits it does so at once, without waiting for the others to.
        """
        if self._ended is not None:
            return False
        self._ended = (code, message)
        atexit.register(self._exit, code)
        if self.index == 0:
            return False
        return _wait(lambda: (self._news.get(0, {}).get("ended") or [None, ""])[1] == message, 3.0)

    def _exit(self, code: int) -> None:
        """Exit when the others can know why; process 0, through which they hear it, behind them."""
        self._is_leaving = True
        if not self._is_coordinator_gone:
            _wait(lambda: bool(self._told.get("left")), 3.0)
        if self.index == 0:
            _wait(lambda: all(map(self._has_left, range(1, self.count))), _LINGER)
            time.sleep(_BEAT / 2)
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)

    def _has_left(self, index: int) -> bool:
        return bool(self._news.get(index, {}).get("left")) or self._is_lost(index)

    def _close(self) -> None:
        """This process is done, and so are the others."""
        if self._ended is None:
            self._ended = (0, "")
            _wait(lambda: bool(self._told.get("ended")), 3.0)
        self._stopped.set()


def _wait(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether a condition comes true within so many seconds."""
    until = time.monotonic() + seconds
    while not (holds := condition()) and time.monotonic() < until:
        time.sleep(_BEAT / 10)
    return holds


def _refuses(address: str) -> bool:
    """Whether nobody listens at ``host:port``; not where there is no answer at all."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=1.0).close()
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def _delay_aborts() -> None:
    """Where JAX loses its coordinator it aborts at once, before anything can be said.

    The handler of a signal is called with its number: with C's ``sleep`` for a handler, the thread
    that aborts sleeps for six seconds first, in which the watch says who is gone and exits.
    """
    if os.name != "posix":  # pragma: no cover
        return
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = (ctypes.c_int, ctypes.c_void_p)
    libc.signal.restype = ctypes.c_void_p
    libc.signal(signal.SIGABRT, ctypes.cast(libc.sleep, ctypes.c_void_p))


_watch: _Watch | None = None

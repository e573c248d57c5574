"""Stopping politely: the first signal becomes a request, and is answered at once.

SIGINT is a person's. SIGTERM and SIGUSR1 are a scheduler's, which takes the machine away and may
give another one later: what they stop ends with an exit code of its own, `REQUEUE`.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

REQUEUE = 75
"""Exit code of what a scheduler has stopped: sysexits.h's EX_TEMPFAIL, "try again later"."""

# Windows has no SIGUSR1.
_PREEMPTING = (signal.SIGTERM, *([signal.SIGUSR1] if hasattr(signal, "SIGUSR1") else []))
_STOPPING = (signal.SIGINT, *_PREEMPTING)
_END = b"\0"  # No signal has the number 0.


def exit_code(number: signal.Signals) -> int:
    """Of a command that a signal has stopped: `REQUEUE`, or 128 + SIGINT, as shells count."""
    return REQUEUE if number in _PREEMPTING else 128 + int(number)


@contextlib.contextmanager
def requeue_at_once() -> Iterator[None]:
    """Where there is nothing to keep, a scheduler's signal ends the process, with `REQUEUE`.

    That is before a training, imports included, and behind it; `StopSignals` is for in between.
    Where a program has a handler of its own for SIGUSR1, it keeps it. Outside the main thread,
    where Python allows no handlers, it does nothing.
    """
    with _handling(_PREEMPTING, _end_at_once):
        yield


@contextlib.contextmanager
def _handling(
    numbers: Sequence[int], handler: Callable[[int, FrameType | None], None]
) -> Iterator[None]:
    """Handle those signals that are ours; outside the main thread none, as Python allows none."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous: dict[int, Any] = {n: signal.signal(n, handler) for n in numbers if _is_ours(n)}
    try:
        yield
    finally:
        _restore(previous)


def _end_at_once(number: int, frame: FrameType | None) -> None:
    # Not print: the signal may have come in the middle of one.
    text = f"{signal.Signals(number).name}: nothing is under way; the same command begins again\n"
    os.write(2, text.encode())
    raise SystemExit(REQUEUE)


def _is_ours(number: int) -> bool:
    """SIGINT and SIGTERM always; SIGUSR1 means nothing by itself, and may be somebody else's."""
    free = (signal.SIG_DFL, signal.SIG_IGN, _end_at_once)
    return number in (signal.SIGINT, signal.SIGTERM) or signal.getsignal(number) in free


def _restore(previous: dict[int, Any]) -> None:
    for number, handler in previous.items():
        # None: it was not set from Python, which cannot set it again.
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


class StopSignals:
    """Turns the first SIGINT, SIGTERM or SIGUSR1 into a request to stop after the iteration.

    A second SIGINT interrupts at once. Outside the main thread, where Python allows no handlers,
    it does nothing; and it leaves SIGUSR1 to a program that has a handler of its own for it.

    Python runs a handler only when the main thread comes back from the compiled program that it
    waits for, which may be a minute later. ``announce`` is therefore called from another thread,
    which the interpreter's signal handler wakes through a pipe.

    Args:
        announce: called once, with the first signal, as soon as it comes.
    """

    received: signal.Signals | None = None

    def __init__(self, announce: Callable[[signal.Signals], None] | None = None):
        self._announce = announce

    def __enter__(self) -> StopSignals:
        self._previous: dict[int, Any] = {}
        self._watcher: threading.Thread | None = None
        if threading.current_thread() is not threading.main_thread():
            return self
        if self._announce is not None:
            self._watch(self._announce)
        for number in filter(_is_ours, _STOPPING):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def _watch(self, announce: Callable[[signal.Signals], None]) -> None:
        self._read, self._write = os.pipe()
        os.set_blocking(self._write, False)
        # An event loop in this process may have a pipe of its own; it goes on hearing of signals.
        self._previous_fd = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

        def watch() -> None:
            announced = False
            while (byte := os.read(self._read, 1)) and byte != _END:
                if not announced and byte[0] in _STOPPING:
                    announced = True
                    announce(signal.Signals(byte[0]))
                if self._previous_fd != -1:
                    os.write(self._previous_fd, byte)

        self._watcher = threading.Thread(target=watch, name="signals", daemon=True)
        self._watcher.start()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = self.received or signal.Signals(number)

    def __exit__(self, *exception: object) -> None:
        _restore(self._previous)
        if self._watcher is not None:
            signal.set_wakeup_fd(self._previous_fd)
            os.write(self._write, _END)
            self._watcher.join()
            os.close(self._read)
            os.close(self._write)


@contextlib.contextmanager
def one_interrupt() -> Iterator[Callable[[], bool]]:
    """The first SIGINT becomes a request, and a KeyboardInterrupt when the context is left.

    Raised in between it may come while a program steps Python environments, and a process that
    exits meanwhile hangs or crashes. A second SIGINT is raised at once. Outside the main thread,
    where Python allows no handlers, it does nothing.

    Yields:
        whether there was one.
    """
    received = False

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal received
        if received:
            raise KeyboardInterrupt
        received = True

    try:
        with _handling([signal.SIGINT], handle):
            yield lambda: received
    except BaseException:
        if received:
            raise KeyboardInterrupt from None
        raise
    if received:
        raise KeyboardInterrupt


class Stopping:
    """What trains elsewhere is told to stop when this process is.

    The first SIGINT, SIGTERM or SIGUSR1 is answered with a line and remembered, and `tell` called.
    A second SIGINT interrupts at once. Outside the main thread, where Python allows no handlers,
    it does nothing.
    """

    received: signal.Signals | None = None

    def __enter__(self) -> Stopping:
        self._handlers = _handling(_STOPPING, self._handle)
        self._handlers.__enter__()
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            if number == signal.SIGINT:
                self.interrupt()
            return
        self.received = signal.Signals(number)
        # Not print: the signal may have come in the middle of one.
        text = f"{self.received.name}: what is under way writes a checkpoint, then this stops\n"
        os.write(2, text.encode())
        self.tell()

    def tell(self) -> None:
        """Have what is under way stop; called in a handler, in the midst of anything."""

    def interrupt(self) -> None:
        """The second SIGINT."""
        raise KeyboardInterrupt

    def __exit__(self, *exception: Any) -> None:
        self._handlers.__exit__(*exception)


class Children(Stopping):
    """Processes that train for this one, and are told to stop when it is, with a SIGTERM.

    Upon that a training writes a checkpoint and ends. No further process is started, and once the
    last one has ended this one exits: leaving the context raises SystemExit with `exit_code`.

    They stay in the process group of this one. A terminal therefore sends them its Ctrl-C as well,
    and a second signal that is no second Ctrl-C changes nothing.
    """

    def __init__(self) -> None:
        # Reentrant: a handler runs in the main thread, wherever that is.
        self._lock, self._processes = threading.RLock(), list[subprocess.Popen]()

    def __enter__(self) -> Children:
        super().__enter__()
        return self

    def tell(self) -> None:
        self._send(signal.SIGTERM)

    def interrupt(self) -> None:
        self._send(signal.SIGINT)

    def _send(self, number: signal.Signals) -> None:
        with self._lock:
            for process in self._processes:
                process.send_signal(number)  # To one that has ended, nothing.

    def start(self, command: Sequence[str], **options: Any) -> subprocess.Popen:
        """Start a process; may be called from any thread.

        Args:
            command: and its arguments.
            options: of `subprocess.Popen`.

        Raises:
            SystemExit: this process has been told to stop.
        """
        with self._lock:
            self._exit_if_stopped()
            process = subprocess.Popen(command, **options)
            self._processes = [p for p in self._processes if p.poll() is None] + [process]
            if self.received is not None:  # It came in the meantime.
                process.send_signal(signal.SIGTERM)
        return process

    def run(self, command: Sequence[str], **options: Any) -> int:
        """`start` a process and wait for its exit code.

        Raises:
            SystemExit: this process has been told to stop, and the other was not done.
        """
        if code := self.start(command, **options).wait():
            self._exit_if_stopped()
        return code

    def _exit_if_stopped(self) -> None:
        if self.received is not None:
            raise SystemExit(exit_code(self.received))

    def __exit__(self, *exception: Any) -> None:
        for process in self._processes:
            process.wait()
        super().__exit__(*exception)
        self._exit_if_stopped()

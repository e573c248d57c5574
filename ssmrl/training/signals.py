"""Stopping politely: the first SIGINT or SIGTERM becomes a request, and is answered at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_END = b"\0"  # No signal has the number 0.


class StopSignals:
    """Turns the first SIGINT or SIGTERM into a request to stop after the iteration.

    A second SIGINT interrupts at once. Outside the main thread, where Python allows no handlers,
    it does nothing.

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
        for number in _STOPPING:
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
                if self._previous_fd >= 0:
                    os.write(self._previous_fd, byte)

        self._watcher = threading.Thread(target=watch, name="signals", daemon=True)
        self._watcher.start()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        if self._watcher is not None:
            signal.set_wakeup_fd(self._previous_fd)
            os.write(self._write, _END)
            self._watcher.join()
            os.close(self._read)
            os.close(self._write)

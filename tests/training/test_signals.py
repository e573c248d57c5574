"""Stopping politely: which of several signals is answered."""

import os
import signal

from ssmrl.training.signals import StopSignals


def test_of_several_signals_the_first_that_stops_is_announced_and_no_other():
    """Two that come at once are two, and the second that stops says nothing new."""
    heard = []
    before = signal.signal(signal.SIGUSR2, lambda *_: None)
    try:
        with StopSignals(heard.append) as signals:
            for number in (signal.SIGUSR2, signal.SIGTERM, signal.SIGUSR2, signal.SIGTERM):
                os.kill(os.getpid(), number)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert heard == [signal.SIGTERM] and signals.received == signal.SIGTERM

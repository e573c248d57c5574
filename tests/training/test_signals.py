"""Stopping politely: which of several signals is answered, and by whom."""

import os
import signal
import threading

import pytest

from ssmrl.training import signals as signals_module
from ssmrl.training.signals import StopSignals, exit_code, requeue_at_once


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


def test_a_second_sigint_interrupts_at_once():
    with pytest.raises(KeyboardInterrupt), StopSignals() as signals:
        for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
    assert signals.received == signal.SIGTERM


def test_the_watching_thread_keeps_no_process_alive_and_warns_of_nothing(monkeypatch):
    """Of a pipe that is full nobody need know: the first signal in it says all."""
    asked = []
    put = signal.set_wakeup_fd

    def noted(fd, **options):
        asked.append(options)
        return put(fd, **options)

    monkeypatch.setattr(signal, "set_wakeup_fd", noted)
    with StopSignals(lambda number: None) as signals:
        assert signals._watcher.daemon
    assert asked == [{"warn_on_full_buffer": False}, {}]


def test_exit_codes():
    assert [exit_code(n) for n in (signal.SIGTERM, signal.SIGUSR1)] == [75, 75]
    assert exit_code(signal.SIGINT) == 130


def test_where_nothing_is_under_way_a_scheduler_s_signal_ends_the_process(capfd):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match="^75$"), requeue_at_once():
        os.kill(os.getpid(), signal.SIGTERM)
    said = capfd.readouterr()
    line = "SIGTERM: nothing is under way; the same command begins again\n"
    assert (said.out, said.err) == ("", line)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_program_s_own_handlers_and_other_threads_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    was = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        own = signal.getsignal(signal.SIGUSR1)
        with requeue_at_once():
            assert signal.getsignal(signal.SIGUSR1) == own
            assert signal.getsignal(signal.SIGTERM) == signals_module._end_at_once
    finally:
        signal.signal(signal.SIGUSR1, was)
    seen = []

    def elsewhere():
        with requeue_at_once(), StopSignals(print):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before]

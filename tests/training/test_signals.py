"""Stopping politely: which of several signals is answered, by whom, and who is told."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ssmrl.training import signals as signals_module
from ssmrl.training.signals import (
    Children,
    StopSignals,
    exit_code,
    one_interrupt,
    requeue_at_once,
)


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


def test_the_first_signal_says_how_it_ends():
    """A Ctrl-C at a terminal, and the SIGTERM of whoever was told as well."""
    with StopSignals() as signals:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
    assert signals.received == signal.SIGINT


CHILD = """
import signal, sys, time
def stop(number, frame):
    print(signal.Signals(number).name, file=open(f"{sys.argv[1]}.told", "a"))
    if number == signal.SIGINT or sys.argv[2] == "obeys":
        sys.exit(75)
signal.signal(signal.SIGTERM, stop)
signal.signal(signal.SIGINT, stop)
open(f"{sys.argv[1]}.ready", "w")
for _ in range(600):
    time.sleep(0.1)  # a signal that comes just before a sleep is heard after it
"""


def child(name: str, obeys: str = "obeys") -> list[str]:
    """The command of a training: it has a handler, and says what it was told."""
    return [sys.executable, "-c", CHILD, name, obeys]


def told(name: str) -> list[str]:
    return Path(f"{name}.told").read_text().split()


def when_ready(name: str, *numbers: signal.Signals) -> threading.Thread:
    """Sends this process signals, the first when a child is ready, the next when it was told."""

    def send() -> None:
        for number, file in zip(numbers, (f"{name}.ready", f"{name}.told"), strict=False):
            while not Path(file).exists():
                time.sleep(0.01)
            os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)]
)
def test_children_are_told_to_stop_and_waited_for(number, code, capfd):
    before = signal.getsignal(number)
    sender = when_ready("a", number)
    with pytest.raises(SystemExit) as left, Children() as children:
        children.run(child("a"))
    sender.join()
    assert left.value.code == code and told("a") == ["SIGTERM"]
    assert signal.getsignal(number) == before
    assert f"{number.name}: what is under way writes a checkpoint" in capfd.readouterr().err


def test_whatever_came_of_it_told_to_stop_it_exits_and_starts_nothing():
    sender = when_ready("a", signal.SIGTERM)
    with pytest.raises(SystemExit) as left, Children() as children:
        process = children.start(child("a"))
        process.wait()
        with pytest.raises(SystemExit):
            children.start(child("b"))
        raise ValueError("the training ended with 75")
    sender.join()
    assert left.value.code == 75 and not Path("b.ready").exists()


def test_a_second_ctrl_c_is_theirs_too():
    sender = when_ready("a", signal.SIGINT, signal.SIGINT)
    with pytest.raises(SystemExit) as left, Children() as children:
        children.run(child("a", "stays"))
    sender.join()
    assert left.value.code == 130 and told("a") == ["SIGTERM", "SIGINT"]


def test_a_second_signal_of_a_scheduler_changes_nothing():
    sender = when_ready("a", signal.SIGTERM, signal.SIGUSR1)
    with pytest.raises(SystemExit) as left, Children() as children:
        process = children.start(child("a", "stays"))
        sender.join()
        assert children.received == signal.SIGTERM and process.poll() is None
        process.kill()
    assert left.value.code == 75 and told("a") == ["SIGTERM"]


def test_one_that_starts_while_the_signal_comes_is_told_as_well(monkeypatch):
    """In the middle of its start, before anybody knows of it; the context waits for it."""
    popen, processes = subprocess.Popen, []

    def start(command):
        process = popen(command)
        while not Path("a.ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)
        processes.append(process)
        return process

    monkeypatch.setattr(subprocess, "Popen", start)
    with pytest.raises(SystemExit), Children() as children:
        children.start(child("a"))
    assert processes[0].poll() == 75 and told("a") == ["SIGTERM"]


def test_without_a_signal_children_end_as_they_do():
    with Children() as children:
        assert children.run([sys.executable, "-c", "raise SystemExit(3)"]) == 3


def test_outside_the_main_thread_there_are_no_handlers():
    codes = []

    def run():
        with Children() as children:
            codes.append(children.run([sys.executable, "-c", ""]))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert codes == [0]


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


def test_one_ctrl_c_is_a_request_until_what_is_under_way_is_done():
    before = signal.getsignal(signal.SIGINT)
    done = []
    with pytest.raises(KeyboardInterrupt), one_interrupt() as is_interrupted:
        assert not is_interrupted()
        signal.raise_signal(signal.SIGINT)
        done.append(is_interrupted())
    assert done == [True] and signal.getsignal(signal.SIGINT) is before


def test_what_was_given_up_for_a_ctrl_c_is_one():
    with pytest.raises(KeyboardInterrupt), one_interrupt():
        signal.raise_signal(signal.SIGINT)
        raise RuntimeError("given up")


def test_another_error_and_a_second_ctrl_c_pass():
    with pytest.raises(RuntimeError, match="own"), one_interrupt():
        raise RuntimeError("own")
    done = []
    with pytest.raises(KeyboardInterrupt), one_interrupt():
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        done.append("more")
    assert not done
    with one_interrupt() as is_interrupted:
        pass
    assert not is_interrupted()

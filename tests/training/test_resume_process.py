"""Processes killed at the worst moments and continued: the same bits as if nothing had been."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssmrl.training.chaos import most_lost, run_chaos, summary
from ssmrl.training.checkpoint import Checkpointer
from ssmrl.training.cli import compose_training
from ssmrl.training.config import ChaosConfig
from ssmrl.training.loading import build_agent, config_from_dict
from ssmrl.training.loop import abstract_state
from ssmrl.training.run import RunFolder
from ssmrl.training.signals import REQUEUE
from tests.training.stub import STUB
from tests.training.stub_train import CONFIGS
from tests.training.test_checkpoint import bits
from tests.training.test_loop import lines_of

SCRIPT = Path(__file__).parent / "stub_train.py"
# A state of some megabytes, so that writing it takes long enough to be killed in the middle.
SIZES = ["agent.width=1500", "memory.features=500", "agent.slow=0.01"]
SETTINGS = ["total_steps=800", "checkpoint_every=100", *SIZES]
TIMEOUT = 120  # Seconds; a loaded machine needs some for importing alone.


def start(*arguments: str, **options) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), *SETTINGS, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        **options,
    )


def finish(*arguments: str, **options) -> subprocess.CompletedProcess:
    process = start(*arguments, **options)
    out, err = process.communicate(timeout=TIMEOUT)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def final_bits(path: str) -> tuple[int, list[bytes]]:
    run = RunFolder(path)
    config = config_from_dict(run.record()["config"], STUB, path)
    checkpoints = Checkpointer(run.checkpoints, read_only=True)
    try:
        like = abstract_state(build_agent(STUB, config)[0], config.seed, config.seeds)
        state, step, _ = checkpoints.restore(like)
        return step, bits(state)
    finally:
        checkpoints.close()


def wait_until(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.0005)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> RunFolder:
    """The run that nothing happens to."""
    folder = tmp_path_factory.mktemp("whole")
    done = finish("run_dir=whole", cwd=folder)
    assert done.returncode == 0, done.stderr
    return RunFolder(folder / "whole")


def check_continues(whole: RunFolder, *arguments: str) -> None:
    done = finish(*arguments)
    assert done.returncode == 0, done.stderr
    assert final_bits("cut") == final_bits(str(whole.path))
    assert lines_of(RunFolder("cut")) == lines_of(whole)


def test_killed_where_it_hurts(record):
    """A short chaos: anywhere, while a checkpoint is written, and before the first iteration."""
    settings = [*SETTINGS, "eval_every=200", "eval_episodes=4"]
    config = compose_training(settings, STUB, CONFIGS)
    # The seed is in the failure message, should there be one.
    chaos = ChaosConfig(kills=4, kill_seed=random.SystemRandom().randrange(2**32), chaos_dir="c")
    outcome = run_chaos(chaos, config, settings, SCRIPT, STUB, record.message)
    assert sum(outcome.kills.values()) == 4 and outcome.exact, (chaos, record.messages)
    assert outcome.differences == [], (chaos, record.messages)
    for lost, writing in zip(outcome.lost, outcome.writing, strict=True):
        assert lost <= most_lost(config, outcome.iteration, writing), (chaos, outcome)
    line = summary(outcome, config)
    assert line.startswith("4 kills (") and "equal to the uninterrupted one bit for bit" in line


def stop_politely(process: subprocess.Popen, run: RunFolder, number: signal.Signals) -> int:
    """Send a signal some iterations after the process has begun; returns its exit code."""
    before = len(lines_of(run))
    wait_until(lambda: len(lines_of(run)) > before + 4, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=TIMEOUT)
    assert f"stopped by {number.name}; to continue: ssmrl train run=" in out, err
    assert "Traceback" not in err
    # What the signal found is kept: nothing is lost.
    assert run.checkpoint_steps()[-1] == lines_of(run)[-1]["step"]
    return process.returncode


def test_interrupted(whole):
    assert stop_politely(start("run_dir=cut"), RunFolder("cut"), signal.SIGINT) == 130
    check_continues(whole, "run=cut")


def test_one_job_script_is_requeued_until_the_run_is_done(whole):
    """`resume=auto` and nothing else, as a scheduler starts it each time."""
    command = ["run_dir=cut", "resume=auto"]
    for number in (signal.SIGUSR1, signal.SIGTERM):
        assert stop_politely(start(*command), RunFolder("cut"), number) == REQUEUE == 75
    check_continues(whole, *command)
    assert "nothing to do" in finish(*command).stdout


def test_a_disk_that_fills_up_costs_nothing_that_was_whole(whole):
    def limit() -> None:
        # Stands for a full disk without being root: files end at one megabyte, with an error.
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = finish("run_dir=cut", preexec_fn=limit)
    assert done.returncode == 1, done.stdout
    assert "Traceback" not in done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: cannot write the checkpoint of step 100 under ")
    assert line.endswith(": File too large; there is no earlier one")
    check_continues(whole, "run_dir=cut", "resume=true")

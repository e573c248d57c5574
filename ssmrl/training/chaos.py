"""Does a training survive? Kill its process again and again, and compare what it becomes.

The uninterrupted run comes first. The other one is then started with ``resume=auto`` as often as it
takes, each time in a process of its own that gets a SIGKILL: half of them at random moments, the
others aimed at what is most delicate. What it has become in the end must be the uninterrupted run,
bit for bit; where environments are stepped in Python their episodes are lost with the process, and
it must be a run without gaps.

A kill costs what was trained since the last checkpoint: an interval at most, and two where it comes
while a checkpoint is written. That is done beside the training, which waits for it before it begins
the next one; until it has ended, the checkpoint before is the last. See `most_lost`.

Nothing here is particular to how runs are written: it looks at the files of a run from outside.
"""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssmrl.training.checkpoint import to_host
from ssmrl.training.components import Components
from ssmrl.training.config import ChaosConfig, TrainConfig
from ssmrl.training.errors import RunError
from ssmrl.training.loading import build_agent, load_run
from ssmrl.training.loop import crosses
from ssmrl.training.run import RunFolder, last_metrics, read_metrics
from ssmrl.training.signals import Children

ANYWHERE, CHECKPOINT, COMPILATION, EVALUATION = (
    "at a random moment",
    "while a checkpoint is written",
    "before the first iteration",
    "in an evaluation",
)

_TEMPORARY = "*tmp*"  # Folders of checkpoints that are not whole yet.
_PATIENCE = 3  # Runs that may end before a kill that was meant for them.


@dataclass
class Outcome:
    """What the kills have done.

    Attributes:
        kills: how many, by what they were aimed at.
        lost: steps that each has cost, per seed.
        writing: whether a checkpoint was being written when each came.
        iteration: steps in one iteration.
        runs: how many runs it took; each was compared.
        missed: processes in a row that ended before their kill.
        exact: whether they had to be the uninterrupted run bit for bit.
        differences: a line for each run that was not as it had to be.
    """

    kills: dict[str, int] = field(default_factory=dict)
    lost: list[int] = field(default_factory=list)
    writing: list[bool] = field(default_factory=list)
    iteration: int = 0
    runs: int = 0
    missed: int = 0
    exact: bool = True
    differences: list[str] = field(default_factory=list)


def run_chaos(
    chaos: ChaosConfig,
    config: TrainConfig,
    settings: Sequence[str],
    train: Path,
    components: Components,
    say: Callable[[str], Any] = print,
) -> Outcome:
    """Train once undisturbed, and then with kills; returns what came of it.

    Args:
        chaos: how many kills, where.
        config: what ``settings`` mean.
        settings: of the training, as ``train.py`` takes them.
        train: the script that trains.
        components: where agents, memories and environments come from.
        say: called with a line now and then.

    Raises:
        RunError: a process ended with an error of its own; the line names its output.
        SystemExit: a signal has stopped this, and the training under way with it; see `Children`.
    """
    folder = Path(chaos.chaos_dir)
    if folder.exists() and any(folder.iterdir()):
        raise RunError(f"{folder} is not empty: choose another chaos_dir")
    folder.mkdir(parents=True, exist_ok=True)
    with Children() as children:
        start = _Starter(train, settings, folder, children)
        return _run_chaos(chaos, config, start, folder, components, say)


def _run_chaos(
    chaos: ChaosConfig,
    config: TrainConfig,
    start: _Starter,
    folder: Path,
    components: Components,
    say: Callable[[str], Any],
) -> Outcome:
    began = time.monotonic()
    _must_end_well(*start(folder / "whole"))
    seconds = time.monotonic() - began
    whole = RunFolder(folder / "whole")
    say(f"uninterrupted: {whole.path}, {seconds:.0f} s")
    draw, outcome = random.Random(chaos.kill_seed), Outcome()
    aims = _aims(chaos.kills, bool(config.eval_every), draw)
    outcome.iteration = build_agent(components, config)[0].steps_per_iteration

    def is_due(step: int) -> bool:
        return step > 0 and crosses(step, outcome.iteration, config.eval_every)

    while aims or not outcome.runs:
        cut = RunFolder(folder / f"cut{outcome.runs}")
        _kill_and_resume(start, cut, is_due, aims, seconds, draw, outcome, say)
        outcome.runs += 1
        outcome.exact, difference = compare(whole, cut, components)
        if difference:
            outcome.differences.append(f"{cut.path}: {difference}")
    return outcome


def _aims(kills: int, evaluates: bool, draw: random.Random) -> list[str]:
    """Half of the kills anywhere, the others in turn where it is delicate; shuffled."""
    delicate = [CHECKPOINT, COMPILATION, *([EVALUATION] if evaluates else [])]
    aims = [delicate[i // 2 % len(delicate)] if i % 2 == 0 else ANYWHERE for i in range(kills)]
    draw.shuffle(aims)
    return aims


class _Starter:
    """Starts the training in a process of its own; compiled programs are kept between them."""

    def __init__(self, train: Path, settings: Sequence[str], folder: Path, children: Children):
        self._children = children
        self._command = [sys.executable, str(train), *settings, "resume=auto"]
        self._environment = {
            **os.environ,
            "JAX_COMPILATION_CACHE_DIR": str(folder.resolve() / "cache"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

    def __call__(self, run_dir: Path) -> tuple[subprocess.Popen, Path]:
        log = run_dir.with_suffix(".log")
        with log.open("a") as output:
            process = self._children.start(
                [*self._command, f"run_dir={run_dir}"],
                stdout=output,
                stderr=output,
                env=self._environment,
            )
        return process, log


def _must_end_well(process: subprocess.Popen, log: Path) -> None:
    if code := process.wait():
        lines = log.read_text(errors="replace").strip().splitlines()
        raise RunError(f"the training ended with {code} ({(lines or [''])[-1]}), see {log}")


def _kill_and_resume(
    start: _Starter,
    run: RunFolder,
    is_due: Callable[[int], bool],
    aims: list[str],
    seconds: float,
    draw: random.Random,
    outcome: Outcome,
    say: Callable[[str], Any],
) -> None:
    """Take aims from the list's end, one a process, until there are none or the run has ended."""
    while aims:
        process, log = start(run.path)
        with _ended(process):
            aim = ANYWHERE if outcome.missed >= _PATIENCE else aims[-1]
            if _reached(aim, process, run, log, is_due):
                time.sleep(draw.uniform(0, _SPREAD.get(aim, seconds / 4)))
            if process.poll() is not None:
                _must_end_well(process, log)
                outcome.missed += 1
                if outcome.missed > 2 * _PATIENCE:
                    raise RunError(f"{run.path} ends before it can be killed: give more steps")
                return
            process.kill()
        aims.pop()
        outcome.missed = 0
        outcome.kills[aim] = outcome.kills.get(aim, 0) + 1
        reached = max((line["step"] for line in read_metrics(run.metrics)), default=0)
        kept = max(run.checkpoint_steps(), default=0)
        outcome.lost.append(max(0, reached - kept))
        outcome.writing.append(_was_writing(run, kept, reached))
        say(f"killed {aim}, step {reached:,}; the last checkpoint is of step {kept:,}")
    _must_end_well(*start(run.path))


def _was_writing(run: RunFolder, kept: int, reached: int) -> bool:
    """Whether the process was killed while it wrote a checkpoint, which is then of no use.

    Its temporary folder stays. One that an earlier process has left, and that this one has not got
    to removing, is of a step that this one has not reached or has written since.
    """
    steps = [path.name.partition(".")[0] for path in run.checkpoints.glob(_TEMPORARY)]
    return any(kept < int(step) <= reached for step in steps if step.isdecimal())


@contextlib.contextmanager
def _ended(process: subprocess.Popen) -> Iterator[None]:
    """Whatever happens, no process stays behind."""
    try:
        yield
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


# Seconds from when the aim is reached; anywhere: a quarter of the uninterrupted run.
_SPREAD = {CHECKPOINT: 0.02, COMPILATION: 2.0, EVALUATION: 0.05}


def _reached(
    aim: str, process: subprocess.Popen, run: RunFolder, log: Path, is_due: Callable[[int], bool]
) -> bool:
    """Wait until the process is where it is to be killed; False where it ended before."""
    announced, size = log.stat().st_size, _size(run.metrics)

    def compiles() -> bool:
        # What it says first comes before anything is compiled.
        return log.stat().st_size > announced

    def writes() -> bool:
        return any(run.checkpoints.glob(_TEMPORARY))

    def evaluates() -> bool:
        line = last_metrics(run.metrics)
        return is_due(line.get("step", 0)) and not any(name.startswith("eval/") for name in line)

    def learns() -> bool:
        return _size(run.metrics) != size

    is_there = {
        ANYWHERE: learns,
        CHECKPOINT: writes,
        COMPILATION: compiles,
        EVALUATION: evaluates,
    }[aim]
    begun = False
    while process.poll() is None:
        # Files that the process before has left behind are no news of this one.
        begun = begun or compiles()
        if begun and is_there():
            return True
        time.sleep(0.002)
    return False


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def compare(whole: RunFolder, cut: RunFolder, components: Components) -> tuple[bool, str]:
    """Whether two runs of the same settings must be equal, and how they differ: "" if not.

    Args:
        whole: the uninterrupted one.
        cut: the other one.
        components: where agents, memories and environments come from.
    """
    one, other = (load_run(run.path, components, whole=True) for run in (whole, cut))
    if one.step != other.step:
        return True, f"it ended at step {other.step:,}, not {one.step:,}"
    if one.venv.is_host:
        steps = [sorted({line["step"] for line in read_metrics(r.metrics)}) for r in (whole, cut)]
        return False, "" if steps[0] == steps[1] else "its metrics have gaps"
    for name in ("metrics", "episodes"):
        if difference := _first_difference(getattr(whole, name), getattr(cut, name)):
            return True, difference
    differ = [
        jax.tree_util.keystr(path)
        for (path, a), b in zip(
            jax.tree_util.tree_flatten_with_path(to_host(one.state))[0],
            jax.tree.leaves(to_host(other.state)),
            strict=True,
        )
        if a.tobytes() != b.tobytes()
    ]
    return (
        True,
        f"{len(differ)} leaves of its last state differ, {differ[0]} first" if differ else "",
    )


def _first_difference(one: Path, other: Path) -> str:
    """Of two files of metrics, without what clocks say."""
    lines = [
        [
            {k: v for k, v in line.items() if not k.startswith("time/")}
            for line in read_metrics(path)
        ]
        for path in (one, other)
    ]
    for a, b in zip(*lines, strict=False):
        if a != b:
            names = [name for name in {**a, **b} if a.get(name) != b.get(name)]
            return f"{names[0]} of step {a['step']:,} in {other.name} differs"
    if len(lines[0]) != len(lines[1]):
        return f"{other.name} has {len(lines[1])} lines, not {len(lines[0])}"
    return ""


def most_lost(config: TrainConfig, iteration: int, writing: bool) -> int:
    """Steps per seed that a kill may cost.

    Args:
        config: of the training; it writes a checkpoint every ``checkpoint_every`` steps.
        iteration: steps in one iteration.
        writing: whether a checkpoint was being written: what was trained meanwhile is lost with
            it. The next one waits for it, so that this is an interval at most.

    Returns:
        One interval or two, in whole iterations, and the iteration that was under way.
    """
    return (2 if writing else 1) * _interval(config, iteration) + iteration


def _interval(config: TrainConfig, iteration: int) -> int:
    """Steps between two checkpoints at most: they are written between iterations."""
    return -(-config.checkpoint_every // iteration) * iteration


def summary(outcome: Outcome, config: TrainConfig) -> str:
    """The figure, in a line: what came of the kills of this training."""
    total, iteration = sum(outcome.kills.values()), outcome.iteration
    kills = ", ".join(f"{count} {aim}" for aim, count in sorted(outcome.kills.items()))
    good = outcome.runs - len(outcome.differences)
    equal = "equal to the uninterrupted one bit for bit" if outcome.exact else "without gaps"
    lost = f"at most {max(outcome.lost, default=0):,} steps lost a kill"
    lost += f", {np.mean(outcome.lost or [0]):,.0f} on average"
    lost += f" (an interval is {_interval(config, iteration):,}"
    lost += f"; {sum(outcome.writing)} came while a checkpoint was written, and may cost two)"
    return f"{total} kills ({kills}): {good} of {outcome.runs} runs {equal}; {lost}"

"""The jobs of a sweep: a record each, so that it can be taken up again and looked at as a whole.

A job is what its overrides say, wherever and in whatever order it runs: Hydra's launchers run jobs
in other processes and on other machines, and its sweepers may choose them one by one. What they
share is the sweep's folder.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import hashlib
import io
import json
import math
import operator
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssmrl.training.errors import RunError, writing
from ssmrl.training.run import RUNS, make_folder, write_atomically
from ssmrl.training.signals import Stopping, requeue_at_once

SWEEPS = RUNS / "sweeps"
JOBS, SWEEP = "jobs", "sweep.json"
TABLE, FIGURE, BEST = "table.csv", "returns.png", "best.txt"
STOP = "stop"
"""While this file is in a sweep's folder, its jobs stop, wherever they run, and none begins."""

_LOOK = 0.5  # Seconds between two looks for it.

_ELSEWHERE = ("resume", "run_dir")
"""Settings that say where a job is and whether it goes on, and not what it is."""


@dataclass(frozen=True)
class Job:
    """One job of a sweep.

    Attributes:
        overrides: that make it what it is.
        run: the folder of its run.
        code: what it ended with; None while it runs, or where its process was killed.
        message: what went wrong.
        value: of the metric that jobs are compared by; None where there is none.
        seconds: that its last process took.
    """

    overrides: tuple[str, ...]
    run: str | None = None
    code: int | None = None
    message: str = ""
    value: float | None = None
    seconds: float = 0.0

    @property
    def settings(self) -> dict[str, str]:
        """Values by key."""
        return {o.partition("=")[0].lstrip("+"): o.partition("=")[2] for o in self.overrides}


class SweepFolder:
    """The folder of a sweep. Making the object touches nothing on disk."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    def create(self, overrides: Sequence[str]) -> None:
        """Make the folder for a sweep of these overrides, or go on in it.

        Raises:
            RunError: it holds another sweep, or cannot be written.
        """
        overrides = list(_identity(overrides))
        there = self.overrides()
        if there is not None and there != overrides:
            raise RunError(f"{self.path} holds another sweep, of {' '.join(there)}")
        with writing(f"to {self.path}"):
            (self.path / JOBS).mkdir(parents=True, exist_ok=True)
            write_atomically(self.path / SWEEP, json.dumps({"overrides": overrides}) + "\n")
            (self.path / STOP).unlink(missing_ok=True)

    def overrides(self) -> list[str] | None:
        """Of the whole sweep; None where there is none."""
        try:
            return list(json.loads((self.path / SWEEP).read_text())["overrides"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def read(self, overrides: Sequence[str]) -> Job | None:
        """What is known of a job; None where it has not begun."""
        return _read(self._file(overrides))

    def write(self, job: Job) -> None:
        """Keep what is known of a job."""
        write_atomically(self._file(job.overrides), json.dumps(dataclasses.asdict(job)) + "\n")

    def stop(self) -> None:
        """Have its jobs stop, until it is gone on with."""
        (self.path / STOP).touch()

    def is_stopped(self) -> bool:
        """Whether `stop` has been called, by whatever process."""
        return (self.path / STOP).exists()

    def jobs(self) -> list[Job]:
        """All jobs that have begun, by their overrides."""
        jobs = [_read(path) for path in sorted((self.path / JOBS).glob("*.json"))]
        return sorted((job for job in jobs if job is not None), key=lambda job: job.overrides)

    def _file(self, overrides: Sequence[str]) -> Path:
        text = json.dumps(sorted(job_overrides(overrides)))
        return self.path / JOBS / f"{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


class SweepSignals(Stopping):
    """A sweep whose jobs a launcher starts is stopped by the signals that stop a training.

    Which processes those are the launcher knows, and they may be on other machines: they look into
    the sweep's folder, see `heeding`. The launcher returns when all of them have.
    """

    def __init__(self, folder: SweepFolder):
        self._folder = folder

    def tell(self) -> None:
        self._folder.stop()


@contextlib.contextmanager
def heeding(folder: SweepFolder) -> Iterator[None]:
    """Around a job that a launcher has started: when its sweep is stopped, it gets a SIGTERM.

    Where it came before a training had begun, SystemExit with `REQUEUE` leaves this context.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # Python could not handle it.
        return
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(_LOOK):
            if folder.is_stopped():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watcher = threading.Thread(target=watch, name="sweep", daemon=True)
    with requeue_at_once():
        watcher.start()
        try:
            yield
        finally:
            ended.set()
            watcher.join()


def _read(path: Path) -> Job | None:
    try:
        values = json.loads(path.read_text())
        return Job(**{**values, "overrides": tuple(values["overrides"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def job_overrides(overrides: Sequence[str]) -> tuple[str, ...]:
    """Those that make a job what it is."""
    return tuple(o for o in overrides if o.partition("=")[0] not in _ELSEWHERE)


def _identity(overrides: Sequence[str]) -> tuple[str, ...]:
    """Those that make a sweep what it is; with what Hydra launches it is no part of that."""
    return tuple(o for o in job_overrides(overrides) if not o.startswith(("hydra.", "hydra/")))


def find_sweep(root: Path, overrides: Sequence[str]) -> Path | None:
    """The newest sweep under ``root`` of these overrides; None where there is none."""
    wanted = list(_identity(overrides))
    same = [file.parent for file in root.glob(f"*/{SWEEP}")]
    same = [path for path in same if SweepFolder(path).overrides() == wanted]
    return max(same, key=lambda path: (path / SWEEP).stat().st_mtime_ns, default=None)


def make_sweep_path(root: Path) -> Path:
    """A new folder under ``root``, by date.

    Raises:
        RunError: it cannot be made.
    """
    return make_folder(root, time.strftime("%Y%m%d-%H%M%S"))


def sweep_value(run: str | Path, metric: str) -> float | None:
    """What a job is compared by: the mean of a metric over the last tenth of training, and seeds.

    None where its run has no such metric.
    """
    from ssmrl.training.plotting import read_curves

    try:
        return float(np.mean([curve.final for curve in read_curves(Path(run), metric)]))
    except RunError:
        return None


# ------------------------------------------------------------------------------------ report


def swept_keys(jobs: Sequence[Job]) -> list[str]:
    """The settings in which jobs differ, in the order of their overrides."""
    keys = dict.fromkeys(key for job in jobs for key in job.settings)
    return [key for key in keys if len({job.settings.get(key) for job in jobs}) > 1]


def best_job(jobs: Sequence[Job], metric: str) -> Job | None:
    """The job with the greatest value, or of a loss the least; None where no job has one."""
    valued = [
        job for job in jobs if job.code == 0 and job.value is not None and math.isfinite(job.value)
    ]
    pick = min if metric.startswith("loss") else max
    return pick(valued, key=operator.attrgetter("value"), default=None)


def write_table(folder: SweepFolder, jobs: Sequence[Job], metric: str) -> Path:
    """``table.csv``: a row for each job that has begun, with what went wrong where it failed."""
    keys = swept_keys(jobs)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, metric, "code", "error", "seconds", "run"])
    for job in jobs:
        values = [job.settings.get(key, "") for key in keys]
        code, value = ("" if x is None else x for x in (job.code, job.value))
        error = job.message.partition("\n")[0]
        writer.writerow([*values, value, code, error, round(job.seconds, 1), job.run or ""])
    path = folder.path / TABLE
    write_atomically(path, text.getvalue())
    return path


def draw(folder: SweepFolder, jobs: Sequence[Job], metric: str) -> Path | None:
    """One panel for each swept setting: the value of every job over it. None without any value."""
    from ssmrl import figures

    jobs = [job for job in jobs if job.code == 0 and job.value is not None]
    keys = swept_keys(jobs)
    if not keys:
        return None
    path, values = folder.path / FIGURE, np.array([job.value for job in jobs], float)

    @figures.styled
    def picture() -> None:
        figure, axes = figures.panels(len(keys))
        for axis, key in zip(axes, keys, strict=True):
            texts = [job.settings.get(key, "") for job in jobs]
            axis.plot(_places(axis, texts), values, "o")
            axis.set_xlabel(key)
        figure.supylabel(metric.replace("_", " "))
        figures.save(figure, path, pdf=False)

    picture()
    return path


def _places(axis: Any, texts: Sequence[str]) -> list[float]:
    """Where values go on an axis: numbers where they are, others side by side."""
    try:
        numbers = [float(text) for text in texts]
    except ValueError:
        names = sorted(set(texts))
        axis.set_xticks(range(len(names)), names, rotation=20)
        return [float(names.index(text)) for text in texts]
    if min(numbers) > 0 and max(numbers) >= 20 * min(numbers):
        axis.set_xscale("log")
    return numbers


def report(folder: SweepFolder, command: str, metric: str) -> list[str]:
    """Write the table, the figure and the best job's command; returns what to say of them.

    Args:
        folder: of the sweep.
        command: what trains one job, without its settings: ``python scripts/train.py``.
        metric: that jobs are compared by.
    """
    jobs = folder.jobs()
    paths = [write_table(folder, jobs, metric), draw(folder, jobs, metric)]
    lines = []
    if (best := best_job(jobs, metric)) is not None:
        line = " ".join([command, *best.overrides])
        write_atomically(folder.path / BEST, f"{line}\n")
        lines.append(f"best, {metric} {best.value:.4g}: {line}")
    return [*lines, f"sweep: {', '.join(str(path) for path in paths if path is not None)}"]

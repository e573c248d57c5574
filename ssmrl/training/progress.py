"""What a run says while it goes: a live panel on a terminal, plain lines anywhere else."""

from __future__ import annotations

import contextlib
import importlib
import math
import sys
import time
from typing import Any, Protocol, runtime_checkable

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from ssmrl.training.returns import RETURN

REFRESH = 4
"""How often in a second a panel is drawn."""


@runtime_checkable
class Reporter(Protocol):
    """Where the loop tells how far it is. Calls are cheap: at most a few per second do work."""

    def start(self, title: str, step: int, total: int) -> None:
        """Training begins at ``step`` of ``total`` environment steps."""
        ...

    def update(self, step: int, metrics: dict[str, Any], rate: float) -> None:
        """``step`` is done; ``rate``: environment steps per second per seed, compiling excluded."""
        ...

    def message(self, text: str) -> None:
        """One line for the user to keep."""
        ...

    def stop(self) -> None:
        """The last call."""
        ...


def make_reporter(*, plain: bool = False) -> Reporter:
    """A live panel on a terminal or in a notebook, plain lines otherwise or if asked."""
    if plain:
        return PlainReporter()
    if Console().is_jupyter:
        return NotebookReporter()
    return LiveReporter() if sys.stdout.isatty() else PlainReporter()


def format_duration(seconds: float) -> str:
    """``1:02:03`` or ``2:03``."""
    if not np.isfinite(seconds):
        return "?"
    # The last iteration may overshoot the total, which leaves less than nothing to do.
    minutes, second = divmod(max(0, int(seconds)), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def is_learning(metrics: dict[str, Any]) -> bool:
    """Whether parameters were updated: ``updates``, where an agent counts them, is not 0."""
    return "updates" not in metrics or bool(np.any(np.asarray(metrics["updates"], float) > 0))


def format_time_left(steps: int, metrics: dict[str, Any], rate: float) -> str:
    """How long ``steps`` more steps take; unknown before learning has begun, which is slower."""
    if not is_learning(metrics):
        return "unknown before learning begins"
    return format_duration(steps / rate if rate > 0 else float("inf"))


def _mean(value: Any) -> float:
    """The mean over seeds, of those that have a number."""
    # Of one seed: most metrics, and they come with every iteration.
    if isinstance(value, (int, float)):
        return float(value) if math.isfinite(value) else float("nan")
    numbers = [v for v in np.atleast_1d(np.asarray(value, dtype=float)) if np.isfinite(v)]
    return float(np.mean(numbers)) if numbers else float("nan")


def _newest(metrics: dict[str, Any], name: str, before: float) -> float:
    """The mean of a metric over seeds, or what it was before where it has no number now."""
    latest = _mean(metrics.get(name, float("nan")))
    return latest if np.isfinite(latest) else before


def _is_evaluation(metrics: dict[str, Any]) -> bool:
    """Evaluations come in lines of their own, which say nothing of learning."""
    return any(name.startswith("eval/") for name in metrics)


class _NewestReturn:
    """The training return as it is told: in words until there is one.

    A NaN would look like a fault where it is only early; and of the episodes that have ended the
    mean is not shown until those that began with them have: the short ones come first.
    """

    def __init__(self) -> None:
        self.value, self._has_ended = float("nan"), False

    def update(self, metrics: dict[str, Any]) -> None:
        self.value = _newest(metrics, RETURN, self.value)
        if not self._has_ended:
            self._has_ended = bool(np.any(np.asarray(metrics.get("episodes", 0), float) > 0))

    def __str__(self) -> str:
        if np.isfinite(self.value):
            return f"{self.value:.3f}"
        if self._has_ended:
            return "not yet known (first episodes under way)"
        return "none yet (no episode has ended)"


class SilentReporter:
    """A reporter that says nothing."""

    def start(self, title: str, step: int, total: int) -> None: ...

    def update(self, step: int, metrics: dict[str, Any], rate: float) -> None: ...

    def message(self, text: str) -> None: ...

    def stop(self) -> None: ...


class PlainReporter:
    """A line at the start, the end, and every ``interval`` seconds between."""

    def __init__(self, interval: float = 5.0):
        self._interval, self._last = interval, -float("inf")
        self._total: int  # from `start`
        self._pending: tuple[int, float] | None = None
        self._time_left: tuple[int, dict[str, Any], float] | None = None
        self._return, self._loss = _NewestReturn(), float("nan")

    def start(self, title: str, step: int, total: int) -> None:
        self._total = total
        self.message(f"{title}: steps {step:,} to {total:,}")

    def update(self, step: int, metrics: dict[str, Any], rate: float) -> None:
        self._return.update(metrics)
        self._loss = _newest(metrics, "loss/total", self._loss)
        # Put into words when they are printed, which most are not.
        self._pending = step, rate
        if not _is_evaluation(metrics):
            self._time_left = self._total - step, metrics, rate
        if time.monotonic() - self._last >= self._interval:
            self._flush()

    def _describe(self, step: int, rate: float) -> str:
        eta = format_time_left(*self._time_left) if self._time_left else "?"
        parts = [
            f"step {step:,}/{self._total:,}",
            f"{rate:,.0f} steps/s per seed",
            f"return {self._return}",
            *([f"loss {self._loss:.4g}"] if np.isfinite(self._loss) else []),
            f"eta {eta}",
        ]
        return "  ".join(parts)

    def _flush(self) -> None:
        if self._pending is not None:
            text = self._describe(*self._pending)
            self._pending, self._last = None, time.monotonic()
            self._print(text)

    def _print(self, text: str) -> None:
        # Whoever was reading has gone (`ssmrl train | head`): no reason to stop training.
        with contextlib.suppress(BrokenPipeError):
            print(text, flush=True)

    def message(self, text: str) -> None:
        self._flush()
        self._print(text)

    def stop(self) -> None:
        self._flush()


class LiveReporter:
    """A panel with a bar, the rate, the time left, the return and the newest metrics."""

    def __init__(self) -> None:
        self._console = Console()
        self._bar = Progress(
            BarColumn(bar_width=None), TextColumn("{task.percentage:>5.1f}%"), expand=True
        )
        self._task = self._bar.add_task("", total=None)
        self._live: Live | None = None
        self._title: str
        self._total: int  # both from `start`
        self._step, self._rate = 0, 0.0
        self._shown: dict[str, float] = {}
        self._eta, self._return = "?", _NewestReturn()

    def start(self, title: str, step: int, total: int) -> None:
        self._title, self._total, self._step = title, total, step
        # Drawn when it is shown, by Live's own thread: drawing takes longer than a short iteration.
        self._live = Live(
            get_renderable=self._render, console=self._console, refresh_per_second=REFRESH
        )
        self._live.start(refresh=True)

    def update(self, step: int, metrics: dict[str, Any], rate: float) -> None:
        self._step, self._rate = step, rate
        if not _is_evaluation(metrics):
            self._eta = format_time_left(self._total - step, metrics, rate)
        self._return.update(metrics)
        # An iteration in which no episode ended keeps the last return on show. The training return
        # has its own line, and what it is of (`…_from`, …) is for files.
        means = {
            name: mean
            for name, value in metrics.items()
            if not name.startswith(("time/", RETURN)) and math.isfinite(mean := _mean(value))
        }
        if not is_learning(metrics):
            # Losses of 0 stand for losses that nothing has computed yet.
            means = {name: mean for name, mean in means.items() if mean}
        # A new dict: the other thread may be reading the old one.
        self._shown = self._shown | means

    def _render(self) -> Panel:
        self._bar.update(self._task, total=self._total, completed=self._step)
        head = Table.grid(padding=(0, 2))
        head.add_row("steps", f"{self._step:,} / {self._total:,}")
        head.add_row("speed", f"{self._rate:,.0f} steps/s per seed" if self._rate else "?")
        head.add_row("eta", self._eta)
        head.add_row("return", str(self._return))
        table = Table.grid(padding=(0, 2), expand=True)
        items = [(name, f"{value:.4g}") for name, value in self._shown.items()]
        for left_item, right_item in zip(items[::2], [*items[1::2], ("", "")], strict=False):
            table.add_row(*left_item, *right_item)
        body = Table.grid(expand=True)
        body.add_row(self._bar)
        body.add_row(head)
        if items:  # rich cannot spread a table of nothing
            body.add_row(table)
        return Panel(body, title=self._title)

    def message(self, text: str) -> None:
        # A line that the terminal folds is copied whole; one that rich folds is two lines.
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def stop(self) -> None:
        if self._live is not None:
            self._live.stop()  # which draws it once more
            self._live = None


class NotebookReporter(LiveReporter):
    """The panel in the output of a notebook's cell.

    Through IPython's own display, which every notebook has: rich's live display there needs
    ipywidgets, and a front end that supports them.
    """

    def __init__(self, interval: float = 1 / REFRESH) -> None:
        super().__init__()
        self._interval, self._last = interval, -float("inf")
        self._handle: Any = None

    def start(self, title: str, step: int, total: int) -> None:
        # Not a dependency: where there is a notebook, there is IPython.
        display = importlib.import_module("IPython.display").display
        self._title, self._total, self._step = title, total, step
        self._handle = display(self._render(), display_id=True)

    def update(self, step: int, metrics: dict[str, Any], rate: float) -> None:
        super().update(step, metrics, rate)
        if self._handle is not None and time.monotonic() - self._last >= self._interval:
            self._last = time.monotonic()
            self._handle.update(self._render())

    def message(self, text: str) -> None:
        print(text, flush=True)

    def stop(self) -> None:
        if self._handle is not None:
            self._handle.update(self._render())
            self._handle = None

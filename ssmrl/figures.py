"""One style for every figure: sizes, colours, names, axes and labels.

Readable at half a column (3.3 inches at 8 points) and with every common kind of colour blindness:
the colours are those of Okabe and Ito ("Color Universal Design", 2008), without their yellow, which
is too pale for a line. A memory has the same colour and line in every figure.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

HALF_COLUMN = 3.3
"""Inches: half the text width of a paper of two columns, and a panel's width in all figures."""

BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
SKY, PURPLE, GREY, BLACK = "#56B4E9", "#CC79A7", "#7F7F7F", "#000000"
PALETTE = (BLUE, RED, GREEN, PURPLE, ORANGE, SKY, BLACK)
"""For what is no memory, in this order."""

STYLE: Any = {
    "axes.prop_cycle": matplotlib.cycler(color=PALETTE),
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.grid": True,
    "axes.titlesize": 9,
    "axes.labelsize": 8,
    "figure.dpi": 200,
    "figure.titlesize": 9,
    "font.size": 8,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "legend.fontsize": 7,
    "legend.title_fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.4,
    "pdf.fonttype": 42,  # letters stay letters, which journals ask for
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
}

_LINES = {
    "s5": (BLUE, "-"),
    "gru": (RED, "-"),
    "none": (GREY, "-"),
    "lru": (GREEN, "-"),
    "transformer": (PURPLE, "-"),
    "lstm": (ORANGE, "-"),
    "mingru": (SKY, "-"),
    "ffm": (BLACK, "-"),
    "s4": (BLUE, "--"),
    "block_gru": (RED, "--"),
    "frame_stack": (GREY, "--"),
    "rglru": (GREEN, "--"),
    "linear_attention": (PURPLE, "--"),
    "mlstm": (ORANGE, "--"),
    "minlstm": (SKY, "--"),
    "shm": (BLACK, "--"),
    "s4d": (BLUE, ":"),
    "deltanet": (RED, ":"),
    "lmu": (GREY, ":"),
    "mamba": (GREEN, ":"),
    "retnet": (PURPLE, ":"),
    "hgrn2": (ORANGE, ":"),
    "gateloop": (SKY, ":"),
    "aaren": (BLACK, ":"),
    "dss": (BLUE, "-."),
    "gated_deltanet": (RED, "-."),
    "mamba2": (GREEN, "-."),
    "gla": (PURPLE, "-."),
    "longhorn": (ORANGE, "-."),
}
"""Colour and line of every memory; the usual ones are solid, their relatives broken."""

_WORDS = {
    "autoencode": "Autoencode",
    "cartpole": "CartPole",
    "minesweeper": "MineSweeper",
    "multiarmed": "Multiarmed",
}
_DIRECT = 4  # Labels beside the ends of more lines than these would run into each other.


def styled(function: Any) -> Any:
    """A decorator: what the function draws is in the style, and nothing else is.

    What the style does not name is matplotlib's default, whatever the user's settings, or those of
    a package that has been imported, are.
    """
    return matplotlib.style.context(["default", STYLE])(function)


def memory_line(name: str) -> tuple[str, str] | None:
    """Colour and line of a memory; None where it is none of the library's."""
    return _LINES.get(name)


def lines_of(memories: Sequence[str]) -> list[tuple[str, str]]:
    """Colour and line for each of several curves, no two the same.

    The first of a memory has its own; whatever else there is takes what is left over.
    """
    taken: list[tuple[str, str]] = []
    own = {memory: _LINES[memory] for memory in memories if memory in _LINES}
    left = [(colour, line) for line in ("-", "--", ":", "-.") for colour in (*PALETTE, GREY)]
    for memory in memories:
        line = own.pop(memory, None)
        if line is None or line in taken:
            reserved = [*taken, *own.values()]
            line = next((free for free in left if free not in reserved), left[0])
        taken.append(line)
    return taken


def task_name(name: str) -> str:
    """An environment's name as people write it: ``popgym/repeat_first_hard`` is RepeatFirstHard.

    Of other suites the suite is told where the name alone would not tell the task.
    """
    suite, _, task = name.rpartition("/")
    if suite in ("popgym", "popgym_original"):
        original = " (original)" if suite.endswith("original") else ""
        return "".join(_WORDS.get(word, word.capitalize()) for word in task.split("_")) + original
    if suite in ("memory_maze", "memory_maze_original"):
        original = " (original)" if suite.endswith("original") else ""
        return re.sub(r"^(\d+)x(\d+)", r"Memory Maze \1×\2", task) + original
    if suite.startswith("bsuite"):
        return name.partition("/")[2]
    if suite in ("gymnax", "brax"):
        return f"{''.join(_WORDS.get(w, w.capitalize()) for w in task.split('_'))} ({suite})"
    if suite == "meta":
        return _WORDS.get(task, task.replace("_", " ").capitalize())
    return task or name


def panels(count: int, *, columns: int = 3, height: float = 2.5) -> tuple[Figure, list[Axes]]:
    """A figure of so many panels, each half a column wide, in rows of at most `columns`.

    Without pyplot, whose backend and open figures are the user's, in a notebook above all.
    """
    across = min(count, columns)
    down = -(-count // across)
    figure = Figure(figsize=(HALF_COLUMN * across, height * down), layout="constrained")
    axes = list(np.ravel(figure.subplots(down, across, squeeze=False)))
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def steps_axis(axis: Axes, last: float | int, what: str = "environment steps") -> None:
    """The x axis as steps, in thousands or millions according to the last one."""
    scale, unit = (1e6, "millions") if last >= 2e6 else (1e3, "thousands")
    if last < 2e3:
        axis.set_xlabel(what)
        return
    axis.set_xlabel(f"{what} ({unit})")
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x / scale:,g}"))


def label_lines(axis: Axes, title: str | None = None) -> None:
    """Name the lines of an axis: beside their ends where there are few, in a legend otherwise.

    Args:
        axis: whose lines have labels.
        title: of a legend.
    """
    handles, labels = axis.get_legend_handles_labels()
    if not handles:
        return
    ends = [np.array(handle.get_ydata(), np.float64) for handle in handles]
    if len(handles) > _DIRECT or not all(end.size and np.isfinite(end[-1]) for end in ends):
        axis.legend(title=title)
        return
    heights = _apart([float(end[-1]) for end in ends], *axis.get_ylim())
    for handle, label, height in zip(handles, labels, heights, strict=True):
        axis.annotate(
            label,
            (1, height),
            xycoords=("axes fraction", "data"),
            xytext=(3, 0),
            textcoords="offset points",
            color=handle.get_color(),
            va="center",
            fontsize=7,
        )


def _apart(heights: Sequence[float], low: float, high: float) -> list[float]:
    """Heights moved as little as it takes for labels not to cover each other, within the axis."""
    gap = 0.09 * (high - low)
    order = np.argsort(heights)
    placed = np.array(heights, float)
    for below, above in pairwise(order):
        placed[above] = max(placed[above], placed[below] + gap)
    excess = placed[order[-1]] - high
    if excess > 0:
        placed[order[-1]] = high
        for above, below in pairwise(order[::-1]):
            placed[below] = min(placed[below], placed[above] - gap)
    return placed.tolist()


def legend_below(axis: Axes, *, columns: int = 2, **legend: Any) -> None:
    """A legend below the axis, where it cannot cover curves; lines long enough to show dashes.

    Args:
        axis: the panel; of a figure in constrained layout, as `panels` makes it.
        columns: of the legend.
        legend: further arguments of matplotlib's ``legend``, such as ``handles``.
    """
    # The distance is in letters of the legend: room for the numbers and the name of the axis.
    place: Any = {"loc": "upper center", "bbox_to_anchor": (0.5, 0), "borderaxespad": 4}
    axis.legend(ncols=columns, handlelength=3.2, **place, **legend)


def save(figure: Figure, path: Path, *, pdf: bool = True) -> None:
    """Write a figure as a PNG and, for papers, as a PDF beside it.

    Raises:
        OSError: it cannot be written.
    """
    figure.savefig(path, dpi=STYLE["figure.dpi"])
    if pdf:
        figure.savefig(path.with_suffix(".pdf"))

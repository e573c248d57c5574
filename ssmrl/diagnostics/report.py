"""The microscope's picture and its numbers as data."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ssmrl.diagnostics.measure import Curve
from ssmrl.diagnostics.tasks import TASKS, Task
from ssmrl.figures import panels, save, styled


def write_report(results: dict[str, Any], title: str, path: Path) -> Path:
    """Write the picture at `path`, and beside it the same as a PDF and the numbers as JSON.

    Args:
        results: of :func:`~ssmrl.diagnostics.measure.examine`.
        title: above the picture.
        path: ends in .png; its folder is made if need be.

    Returns:
        The path of the JSON.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draw(results, title, path)
    data = path.with_suffix(".json")
    data.write_text(json.dumps(as_data(results), indent=2) + "\n")
    return data


@styled
def draw(results: dict[str, Any], title: str, path: Path) -> None:
    """The picture of `write_report`: reach and decays on the left, the tasks beside them."""
    figure, axes = panels(8, columns=4)
    figure.suptitle(title)
    draw_reach(axes[0], *results["reach"])
    draw_eigenvalues(axes[4], results["eigenvalues"])
    for place, task in zip((1, 5, 2, 6, 3, 7), TASKS, strict=True):  # pairs, one above the other
        draw_curve(axes[place], task, results["tasks"][task.name])
    save(figure, path)


def draw_reach(axis: Axes, lags: np.ndarray, sizes: np.ndarray) -> None:
    """The gradient over lags, both `[L]`, on logarithmic scales."""
    axis.loglog(lags + 1, np.maximum(sizes, 1e-12))
    axis.set(title="gradient reach, untrained", xlabel="lag + 1", ylabel="|dy[T]/dx[T - lag]|")
    axis.set_ylim(1e-8, None)


def draw_eigenvalues(axis: Axes, values: np.ndarray | None) -> None:
    """Decays, `[N]`, in the complex plane beside the unit circle, or why there are none."""
    axis.set_title("decays, untrained")
    if values is None:
        axis.text(0.5, 0.5, "depend on the input,\nor there are none", ha="center", va="center")
        axis.set_axis_off()
        return
    angle = np.linspace(0, 2 * np.pi, 200)
    axis.plot(np.cos(angle), np.sin(angle), color="0.8")
    axis.scatter(values.real, np.imag(values), s=6)
    axis.set_aspect("equal")


def draw_curve(axis: Axes, task: Task, curve: Curve) -> None:
    """Accuracy over levels; a dashed line ends the lengths that it was trained on, if it was tested
    on longer ones, and a dotted one is chance."""
    axis.plot(curve.levels, curve.accuracy, marker="." if curve.levels.size < 20 else None)
    axis.axhline(curve.chance, color="0.7", linestyle=":")
    if task.test_length > task.train_length:
        axis.axvline(task.train_length, color="0.7", linestyle="--")
    axis.set(title=task.name, xlabel=task.unit, ylim=(0, 1.05))
    axis.set_xscale("log", base=2)


def as_data(results: dict[str, Any]) -> dict[str, Any]:
    """The results of `examine` with lists in place of arrays, for JSON; decays as two lists."""
    lags, sizes = results["reach"]
    values = results["eigenvalues"]
    return {
        "reach": {"lags": lags.tolist(), "sizes": sizes.tolist()},
        "tasks": {
            name: {"levels": c.levels.tolist(), "accuracy": c.accuracy.tolist(), "chance": c.chance}
            for name, c in results["tasks"].items()
        },
        "eigenvalues": None
        if values is None
        else {"real": np.real(values).tolist(), "imag": np.imag(values).tolist()},
    }

"""The figure of `world_model.py`: time over the window's length, and R2I's time beside ours.

    python -m benchmarks.speed.world_model_figure

draws it again from benchmarks/results/world_model.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ssmrl.figures import panels, save, styled

ROOT = Path(__file__).parents[2]
LABELS = {
    "s5": "S5, parallel posterior",
    "gru": "GRU, recurrent posterior",
    "block_gru": "block GRU, recurrent posterior",
    "ssmrl": "ssmrl",
    "r2i": "R2I",
    "r2i_scan": "R2I, imagination in a loop",
}


@styled
def draw(record: dict[str, Any], path: Path) -> None:
    """Writes the figure of a record of `world_model.py` to `path`; parts without rows are left out.

    Nothing is written where there is no part.
    """
    parts = {"backbones": [step_over_length, ratio_over_length], "update": [update_over_length]}
    present = [(panel, record[p]) for p, drawn in parts.items() for panel in drawn if record.get(p)]
    if not present:
        return
    figure, axes = panels(len(present), height=3.0)
    for (panel, rows), place in zip(present, axes, strict=True):
        panel(place, rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)
    print(f"wrote {path}")


def step_over_length(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Milliseconds of a training step of the world model alone."""
    for name in rows[0]["seconds"]:
        _line(axes, name, rows, [1e3 * row["seconds"][name]["median"] for row in rows])
    _lengths(axes, rows, "ms per training step", "world model alone")
    axes.set(yscale="log")


def ratio_over_length(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """How many times longer the recurrent posteriors take than S5."""
    for name in rows[0]["ratio_to_s5"]:
        _line(axes, name, rows, [row["ratio_to_s5"][name] for row in rows])
    _lengths(axes, rows, "time / time with S5", "world model alone, beside S5")


def update_over_length(axes: Axes, rows: list[dict[str, Any]]) -> None:
    """Seconds of a whole update."""
    for name in rows[0]["sides"]:
        seconds = [row["sides"][name]["seconds"]["median"] for row in rows]
        _line(axes, name, rows, seconds)
    _lengths(axes, rows, "seconds per update", "world model, imagination, actor and critic")
    axes.set(yscale="log")


def _line(axes: Axes, name: str, rows: list[dict[str, Any]], values: list[float]) -> None:
    axes.plot([row["length"] for row in rows], values, marker="o", label=LABELS[name])


def _lengths(axes: Axes, rows: list[dict[str, Any]], label: str, title: str) -> None:
    lengths = [row["length"] for row in rows]
    axes.set(xscale="log", xlabel=f"window length T (B = {rows[0]['batch']})", ylabel=label)
    axes.set(title=title)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.minorticks_off()
    axes.legend()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = ROOT / "benchmarks/results/world_model.json"
    parser.add_argument("--record", type=Path, default=default)
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/world_model.png")
    args = parser.parse_args()
    draw(json.loads(args.record.read_text()), args.figure)


if __name__ == "__main__":
    main()

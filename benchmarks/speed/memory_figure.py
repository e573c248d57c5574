"""The figure of `memory.py`: time over length, and the peers' time over ours.

    python -m benchmarks.speed.memory_figure

draws it again from benchmarks/results/memory.json.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from ssmrl.figures import BLUE, ORANGE, legend_below, memory_line, panels, save, styled

ROOT = Path(__file__).parents[2]
MAIN = (
    "gru", "lstm", "mingru", "lru", "s5", "ffm", "mamba", "mamba2", "linear_attention", "mlstm",
    "gated_deltanet", "shm", "transformer",
)  # fmt: skip
COLORS = {"memorax": BLUE, "memax": ORANGE}


@styled
def draw(record: dict[str, Any], path: Path) -> None:
    """Writes the figure of a record of `memory.py` to `path`."""
    compared = bool(_measured(record.get("peers", [])))
    figure, axes = panels(1 + compared, height=6.6)
    time_over_length(axes[0], _measured(record.get("training", [])))
    if compared:
        speed_ups(axes[1], _measured(record.get("peers", [])))
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)
    print(f"wrote {path}")


def time_over_length(axes: Axes, cases: list[dict[str, Any]]) -> None:
    """Microseconds per step of one environment: what is linear in T is flat at a given batch."""
    names = {case["memory"] for case in cases}
    shown = [name for name in MAIN if name in names] or sorted(names)
    for name in shown:
        chosen = [case for case in cases if case["memory"] == name and case["resets"]]
        rows = [case["time"] * case["batch"] for case in chosen]
        seconds = [case["results"]["ssmrl"]["seconds"]["median"] for case in chosen]
        figures = [1e6 * s / n for s, n in zip(seconds, rows, strict=True)]
        times = [case["time"] for case in chosen]
        colour, line = memory_line(name) or (None, "-")
        axes.plot(times, figures, line, color=colour, marker="o", markersize=3, label=name)
    axes.set(xscale="log", yscale="log", xlabel="T (T x B = 8,192; beyond that B = 1)")
    axes.set(ylabel="µs per step and environment", title="forward and backward, width 256")
    legend_below(axes)


def speed_ups(axes: Axes, cases: list[dict[str, Any]]) -> None:
    """Bars of the peer's time over ours; right of 1 ours is faster."""
    labels = [f"{c['memory']} ({c['time']}, {c['batch']})" for c in cases]
    colors = [COLORS[case["library"]] for case in cases]
    axes.barh(range(len(cases)), [case["speed_up"] for case in cases], color=colors)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_yticks(range(len(cases)), labels, fontsize=6)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="their time / ours", title="beside public libraries, (T, B)")
    present = {case["library"] for case in cases}
    handles = [Rectangle((0, 0), 1, 1, color=COLORS[name]) for name in sorted(present)]
    legend_below(axes, handles=handles, labels=sorted(present))


def _measured(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [case for case in cases if "refused" not in case["results"]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = ROOT / "benchmarks/results/memory.json"
    parser.add_argument("--record", type=Path, default=default)
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/memory.png")
    args = parser.parse_args()
    draw(json.loads(args.record.read_text()), args.figure)


if __name__ == "__main__":
    main()

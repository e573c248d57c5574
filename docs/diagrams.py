"""Draws the diagrams of docs/concepts: python docs/diagrams.py"""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).parent / "concepts"
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def box(axis: Axes, x: float, y: float, text: str, colour: str, width: float = 0.8) -> None:
    """A rounded box with a text, its middle at `x`, `y`."""
    style = {"boxstyle": "round,pad=0.0,rounding_size=0.08", "mutation_aspect": 1}
    from matplotlib.patches import FancyBboxPatch

    corner = (x - width / 2, y - 0.24)
    axis.add_patch(
        FancyBboxPatch(corner, width, 0.48, fc=f"{colour}22", ec=colour, lw=1.2, **style)
    )
    axis.text(x, y, text, ha="center", va="center", fontsize=9)


def arrow(axis: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    """From `start` to `end`."""
    properties = {"arrowstyle": "-|>", "color": colour, "lw": 1.4, "shrinkA": 0, "shrinkB": 0}
    axis.annotate("", end, start, arrowprops=properties)


def canvas(width: float, height: float, right: float, top: float) -> tuple[Figure, Axes]:
    """An empty picture whose coordinates begin at the lower left."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axis = figure.subplots()
    axis.set(xlim=(-1.6, right), ylim=(0, top), aspect="equal")
    axis.axis("off")
    return figure, axis


def resets() -> Figure:
    """Two episodes of three steps, step by step: observation, flag, carry, done."""
    figure, axis = canvas(8, 3.5, 5.6, 3.5)
    rows = {"observation": 3.1, "done[t]": 2.4, "reset[t]": 1.5, "carry": 0.7}
    for name, y in rows.items():
        axis.text(-0.7, y, name, ha="right", va="center", fontsize=9, color=GREY)
    for t in range(6):
        episode, colour = ("a", BLUE) if t < 3 else ("b", ORANGE)
        new = t in (0, 3)
        box(axis, t, rows["observation"], f"{episode}{t % 3}", colour)
        weight = "bold" if new else "normal"
        axis.text(
            t, rows["reset[t]"], str(new), ha="center", va="center", fontsize=9, weight=weight
        )
        box(axis, t, rows["carry"], "initial" if new else f"of {episode}{t % 3 - 1}", colour)
        axis.text(t, rows["done[t]"], str(t == 2), ha="center", va="center", fontsize=9)
        if t < 5 and t != 2:
            arrow(axis, (t + 0.4, rows["carry"]), (t + 0.6, rows["carry"]), colour)
    axis.text(2.5, rows["carry"], "×", ha="center", va="center", fontsize=13, color=GREY)
    arrow(axis, (2.2, 2.25), (2.8, 1.68), GREY)
    axis.text(2.6, 2.0, "done[t] is reset[t + 1]", fontsize=8, color=GREY, va="center")
    return figure


def carry() -> Figure:
    """Four lines of life: acting, the update, evaluation, imagination."""
    figure, axis = canvas(8, 4.4, 7.4, 5.1)
    for y, name in ((4.6, "acting"), (3.3, "update"), (2.0, "imagination"), (0.7, "evaluation")):
        axis.text(-0.7, y, name, ha="right", va="center", fontsize=10, color=GREY)
    labels = ("c₀", "c₁", "c₂", "c₃", "c₄")
    for i, label in enumerate(labels):
        box(axis, 1.4 * i, 4.6, label, BLUE)
        if i < 4:
            arrow(axis, (1.4 * i + 0.4, 4.6), (1.4 * i + 1.0, 4.6), BLUE)
    axis.text(6.15, 4.6, "next rollout, checkpoint", fontsize=8, color=GREY, va="center")
    for i, label in enumerate(labels):
        box(axis, 1.4 * i, 3.3, label if i == 0 else f"c′{'₁₂₃₄'[i - 1]}", ORANGE)
        if i < 4:
            arrow(axis, (1.4 * i + 0.4, 3.3), (1.4 * i + 1.0, 3.3), ORANGE)
    arrow(axis, (0, 4.34), (0, 3.56), ORANGE)
    axis.text(0.1, 3.95, "stored", fontsize=8, color=GREY, va="center")
    axis.text(
        6.15, 3.3, "new parameters, same start;\ndropped", fontsize=8, color=GREY, va="center"
    )
    for start in (1, 3):
        arrow(axis, (1.4 * start, 3.04), (1.4 * start, 2.26), GREY)
        for k in range(2):
            x = 1.4 * start + 1.0 * k
            box(axis, x, 2.0, f"i{'₀₁'[k]}", GREY)
        arrow(axis, (1.4 * start + 0.4, 2.0), (1.4 * start + 0.6, 2.0), GREY)
    axis.text(
        6.15, 2.0, "from every step's carry,\nwithout resets", fontsize=8, color=GREY, va="center"
    )
    for i in range(4):
        box(axis, 1.4 * i, 0.7, "initial" if i == 0 else f"e{'₁₂₃'[i - 1]}", GREEN)
        if i < 3:
            arrow(axis, (1.4 * i + 0.4, 0.7), (1.4 * i + 1.0, 0.7), GREEN)
    axis.text(
        4.75,
        0.7,
        "environments of its own, dropped at the end",
        fontsize=8,
        color=GREY,
        va="center",
    )
    return figure


if __name__ == "__main__":
    for draw in (resets, carry):
        draw().savefig(HERE / f"{draw.__name__}.png", dpi=160)

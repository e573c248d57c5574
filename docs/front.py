"""Draws README's picture, POPGym's Easy ids, from committed results: python docs/front.py"""

import json
from pathlib import Path

from ssmrl.figures import BLACK, BLUE, HALF_COLUMN, RED, panels, save, styled, task_name

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent / "benchmarks"


def scores() -> list[tuple[str, float, float | None, float]]:
    """Task, ours, the best published on record, and the best that can be; the latter ascending."""
    optimum = json.loads((BENCHMARKS / "results/popgym_optimum.json").read_text())["ids"]
    published = json.loads((BENCHMARKS / "published/popgym_best.json").read_text())["ids"]
    rows = []
    for path in sorted((BENCHMARKS / "results/popgym_recipe").glob("*_easy-s5.json")):
        result = json.loads(path.read_text())
        env, ours = result["env"], sum(result["mmer"]) / len(result["mmer"])
        best = (published.get(env) or {}).get("value")
        rows.append((task_name(env).removesuffix("Easy"), ours, best, optimum[env]["bound"]))
    return sorted(rows, key=lambda row: row[1])


@styled
def draw() -> None:
    """A row for each id."""
    rows = scores()
    figure, (axis,) = panels(1, height=3.4)
    figure.set_figwidth(1.6 * HALF_COLUMN)
    heights = range(len(rows))
    for name, column, colour, marker in (
        ("at best, or a bound on it", 3, BLACK, "|"),
        ("best published on record, most after 15M steps", 2, RED, "s"),
        ("ssmrl: PPO with S5, 1M steps, one seed", 1, BLUE, "o"),
    ):
        shown = [
            (row[column], y)
            for y, row in zip(heights, rows, strict=True)
            if row[column] is not None
        ]
        size = 60 if marker == "|" else 18
        axis.scatter(
            *zip(*shown, strict=True), s=size, color=colour, marker=marker, label=name, zorder=3
        )
    axis.set_yticks(heights, [row[0] for row in rows])
    axis.set(xlim=(-1.02, 1.05), xlabel="MMER: the best mean return over training")
    axis.set_title("POPGym's Easy ids")
    figure.legend(loc="outside lower center", ncols=1)
    save(figure, HERE / "popgym_easy.png", pdf=False)


if __name__ == "__main__":
    draw()

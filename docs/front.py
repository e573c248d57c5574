"""Draws README's picture, all ids of POPGym, from committed results: python docs/front.py"""

import json
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes

from ssmrl.figures import BLACK, BLUE, RED, panels, save, styled, task_name

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent / "benchmarks"
LEVELS = ("easy", "medium", "hard")
# Of an id that is in several, the last counts, which was trained with the present defaults.
FOLDERS = ("popgym_recipe", "popgym_15m_recipe", "popgym_15m_default")
LARGE = "popgym_15m_large_batch"
MARKS = (
    ("best possible, or a bound on it", "possible", BLACK, "|", 60),
    ("best published on record, most after 15M steps", "published", RED, "s", 18),
    ("ssmrl: PPO with S5, one seed, 15M steps", "long", BLUE, "o", 18),
    ("the same, 1M steps", "short", BLUE, "x", 18),
    ("15M steps with popgym_large_batch", "large", BLUE, "^", 18),
)


def scores() -> dict[str, dict[str, Any]]:
    """Of each id ours, the best published on record and whose it is, and the best possible.

    "large" is the MMER with experiment=popgym_large_batch, where it was run; "before" that of the
    newest run with the defaults until 30 November 2026, where there is one with those since.
    """
    optimum = json.loads((BENCHMARKS / "results/popgym_optimum.json").read_text())["ids"]
    published = json.loads((BENCHMARKS / "published/popgym_best.json").read_text())["ids"]
    found = {}
    for folder, result in ((name, result) for name in FOLDERS for result in results(name)):
        env, ours = result["env"], mmer(result)
        best = published[env] or {}
        before = found.get(env, {}) if folder == FOLDERS[-1] else {}
        found[env] = {
            "steps": result["steps"],
            "folder": folder,
            "ours": ours,
            "before": before.get("ours"),
            "long" if result["steps"] > 10_000_000 else "short": ours,
            "published": best.get("value"),
            "by": best.get("method"),
            "possible": optimum[env]["bound"],
            "is_bound": not optimum[env]["exact"],
        }
    for result in results(LARGE):
        found[result["env"]]["large"] = mmer(result)
    return found


def results(folder: str) -> list[dict[str, Any]]:
    """Of S5, by name of the id."""
    paths = sorted((BENCHMARKS / "results" / folder).glob("*-s5.json"))
    return [json.loads(path.read_text()) for path in paths]


def mmer(result: dict[str, Any]) -> float:
    """The mean over seeds."""
    return sum(result["mmer"]) / len(result["mmer"])


@styled
def draw() -> None:
    """A panel for each level, a row for each family, in the order of our Easy scores."""
    found = scores()
    easy = [env for env in found if env.endswith("_easy")]
    families = [
        env.removesuffix("_easy") for env in sorted(easy, key=lambda e: found[e]["ours"] or 0)
    ]
    figure, axes = panels(3, height=3.6)
    for axis, level in zip(axes, LEVELS, strict=True):
        draw_level(axis, level, families, found)
    names = [task_name(f"{family}_easy").removesuffix("Easy") for family in families]
    axes[0].set_yticks(range(len(names)), names)
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    save(figure, HERE / "popgym.png", pdf=False)


def draw_level(
    axis: Axes, level: str, families: list[str], found: dict[str, dict[str, Any]]
) -> None:
    """Every family at one level of difficulty."""
    rows = [found.get(f"{family}_{level}", {}) for family in families]
    for name, key, colour, marker, size in MARKS:
        shown = [(x, y) for y, row in enumerate(rows) if (x := row.get(key)) is not None]
        x, y = zip(*shown, strict=True) if shown else ((), ())
        axis.scatter(x, y, s=size, color=colour, marker=marker, label=name, zorder=3)
    axis.set(xlim=(-1.05, 1.08), title=level.capitalize(), xlabel="MMER")
    axis.set_xticks([-1, -0.5, 0, 0.5, 1])
    axis.set_yticks(range(len(families)), [""] * len(families))


if __name__ == "__main__":
    draw()

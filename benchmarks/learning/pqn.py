"""PQN beside PPO on POPGym's Easy ids: the same memory, widths and steps, and the same wall-clock.

    python -m benchmarks.learning.pqn [--ids ...] [--memory s5] [--steps 1000000] [--seeds 3]

The two pendulums are left out: their actions are continuous, and PQN has a value for every action.
Every training is one run folder below --runs; one that is finished is not repeated and one that was
interrupted goes on, so the study can be stopped at any time. Returns are means over seeds: MMER as
POPGym publishes it, of the last tenth of training, and of the last tenth of what each agent did
until the faster one had finished. Writes the table with the machine and versions as JSON.
"""

import argparse
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.harness import machine_info, write_json
from benchmarks.learning.studies import ROOT, train_into
from ssmrl.envs import list_envs
from ssmrl.training.plotting import Curve, read_curves
from ssmrl.training.run import RunFolder, read_metrics

EXPERIMENTS = {"ppo": "popgym", "pqn": "popgym_pqn"}


def main() -> int:
    arguments = parse()
    rows = []
    for env in arguments.ids:
        paths = {}
        for agent in EXPERIMENTS:
            paths[agent] = arguments.runs / f"{env}-{agent}-{arguments.memory}-{arguments.steps}"
            if code := run(agent, env, paths[agent], arguments):
                return code  # interrupted: the same command goes on from here
        rows.append(compare(env, paths))
        record = {name: getattr(arguments, name) for name in ("memory", "steps", "seeds", "set")}
        write_json(arguments.output, {"machine": machine_info(), **record, "rows": rows})
    report(rows)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ids", nargs="+", default=easy_ids())
    parser.add_argument("--memory", default="s5")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], help="further overrides, key=value")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "pqn")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/pqn.json")
    return parser.parse_args()


def easy_ids() -> list[str]:
    """POPGym's Easy ids whose actions can be numbered."""
    easy = [name.partition("/")[2] for name in list_envs() if name.startswith("popgym/")]
    return [id_ for id_ in easy if id_.endswith("_easy") and "pendulum" not in id_]


def run(agent: str, env: str, path: Path, arguments: argparse.Namespace) -> int:
    """The exit code of one training."""
    overrides = [
        f"experiment={EXPERIMENTS[agent]}",
        f"env=popgym/{env}",
        f"memory={arguments.memory}",
        f"total_steps={arguments.steps}",
        f"seeds={arguments.seeds}",
        *arguments.set,
    ]
    return train_into(path, overrides)


def compare(env: str, paths: dict[str, Path]) -> dict[str, Any]:
    """One row of the table: returns and speeds by agent."""
    curves = {agent: read_curves(path) for agent, path in paths.items()}
    speeds = {agent: steps_per_second(path) for agent, path in paths.items()}
    fastest = max(speeds.values())
    row: dict[str, Any] = {"id": env}
    for agent, seeds in curves.items():
        # The faster one's time is enough for all of its own steps, and for so many of the other's.
        limit = seeds[0].steps[-1] * speeds[agent] / fastest
        row[agent] = {
            "mmer": [round(curve.mmer, 4) for curve in seeds],
            "final": [round(curve.final, 4) for curve in seeds],
            "same_time": [round(until(curve, limit).final, 4) for curve in seeds],
            "steps_per_second": round(speeds[agent]),
        }
    return row


def steps_per_second(path: Path) -> float:
    """Of all seeds together, the median over the training."""
    lines = read_metrics(RunFolder(path).metrics)
    name = "time/steps_per_second"
    return statistics.median(line[name] for line in lines if name in line)


def until(curve: Curve, steps: float) -> Curve:
    """The part of a training curve up to a number of steps; at least its first point."""
    kept = curve.steps <= max(steps, curve.steps[0])
    return replace(
        curve,
        steps=curve.steps[kept],
        returns=curve.returns[kept],
        episodes=None if curve.episodes is None else curve.episodes[kept],
    )


def report(rows: list[dict[str, Any]]) -> None:
    """Means over seeds; the last row is that over ids."""
    values = ("mmer", "final", "same_time")
    columns = [(agent, name) for name in values for agent in EXPERIMENTS]
    means = {row["id"]: [statistics.mean(row[a][name]) for a, name in columns] for row in rows}
    means["mean"] = [statistics.mean(column) for column in zip(*means.values(), strict=True)]
    titles = [f"{agent} {name}" for agent, name in columns] + [f"{a} steps/s" for a in EXPERIMENTS]
    print("\n| id |", " | ".join(titles), "|")
    print("|---" * (len(titles) + 1) + "|")
    for row in [*rows, {"id": "mean"}]:
        speeds = [f"{row[a]['steps_per_second']:,}" if a in row else "" for a in EXPERIMENTS]
        cells = [f"{value:.2f}" for value in means[row["id"]]]
        print("|", " | ".join([row["id"], *cells, *speeds]), "|")


if __name__ == "__main__":
    sys.exit(main())

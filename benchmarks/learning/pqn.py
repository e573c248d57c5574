"""PQN beside PPO on POPGym and two meta tasks: the same memory, widths and steps, and wall-clock.

    python -m benchmarks.learning.pqn [--envs ...] [--memory s5] [--steps 1000000] [--seeds 1]

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

AGENTS = ("ppo", "pqn")
SETTINGS = {
    ("popgym", "ppo"): ("experiment=popgym",),
    ("popgym", "pqn"): ("experiment=popgym_pqn",),
    ("meta", "ppo"): ("experiment=in_context",),
    # What experiment=in_context sets of the options that PQN has.
    ("meta", "pqn"): ("agent=pqn", "agent.rollout_length=200", "agent.discount=.95"),
}
META = ("meta/bernoulli_bandit", "meta/dark_room")


def main() -> int:
    arguments = parse()
    rows = []
    for env in arguments.envs:
        paths = {}
        for agent in AGENTS:
            name = f"{env.replace('/', '-')}-{agent}-{arguments.memory}-{arguments.steps}"
            paths[agent] = arguments.runs / name
            if code := run(agent, env, paths[agent], arguments):
                return code  # interrupted: the same command goes on from here
        rows.append(compare(env, paths))
        record = {name: getattr(arguments, name) for name in ("memory", "steps", "seeds", "set")}
        write_json(arguments.output, {"machine": machine_info(), **record, "rows": rows})
    report(rows)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--envs", nargs="+", default=[*easy_ids(), *META])
    parser.add_argument("--memory", default="s5")
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], help="further overrides, key=value")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "pqn")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/pqn.json")
    return parser.parse_args()


def easy_ids() -> list[str]:
    """POPGym's Easy ids whose actions can be numbered."""
    names = [name for name in list_envs() if name.startswith("popgym/")]
    return [name for name in names if name.endswith("_easy") and "pendulum" not in name]


def run(agent: str, env: str, path: Path, arguments: argparse.Namespace) -> int:
    """The exit code of one training."""
    overrides = [
        *SETTINGS[env.partition("/")[0], agent],
        f"env={env}",
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
    row: dict[str, Any] = {"env": env}
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
    """Means over seeds; the last row is that over POPGym's ids, whose returns have one scale."""
    columns = [(agent, name) for name in ("mmer", "final", "same_time") for agent in AGENTS]
    means = {row["env"]: [statistics.mean(row[a][name]) for a, name in columns] for row in rows}
    popgym = [cells for env, cells in means.items() if env.startswith("popgym/")]
    if popgym:
        means["mean"] = [statistics.mean(column) for column in zip(*popgym, strict=True)]
    titles = [f"{agent} {name}" for agent, name in columns] + [f"{a} steps/s" for a in AGENTS]
    print("\n| env |", " | ".join(titles), "|")
    print("|---" * (len(titles) + 1) + "|")
    speeds = {row["env"]: [f"{row[a]['steps_per_second']:,}" for a in AGENTS] for row in rows}
    for name, values in means.items():
        cells = [f"{value:.2f}" for value in values]
        print("|", " | ".join([name, *cells, *speeds.get(name, ["", ""])]), "|")


if __name__ == "__main__":
    sys.exit(main())

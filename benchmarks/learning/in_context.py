"""In-context RL: what PPO with each memory learns within an episode of trials, beside the optimum.

    python -m benchmarks.learning.in_context [--memories s5 gru none] [--envs bandit mdp ...]
    python -m benchmarks.learning.in_context --set total_steps=500_000 agent.lr=5e-4
    python -m benchmarks.learning.in_context --redraw           # the figure alone, of what is there

A name of an environment is an entry of `ENVS`. Every training is one run folder below --runs; one
that is finished is not repeated and one that was interrupted goes on, so the study can be stopped
at any time; each is evaluated once, on new tasks, beside its own memory reset at every trial,
uniform actions, and what is known of the optimum. Some are evaluated a second time, on what they
have not seen or on one of their tasks alone (`ELSEWHERE`): a row of its own. Behind each the figure
of returns over trials and the JSON are written anew, and a table is printed. Rows that are there of
an earlier call with the same settings stay, so that memories and environments can be added one by
one.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import machine_info, write_json
from benchmarks.learning.studies import ROOT, train_into, with_earlier
from ssmrl.experiment import COMPONENTS
from ssmrl.training.config import EnvConfig, EvaluateConfig
from ssmrl.training.plotting import panels_of, plot_trials
from ssmrl.training.run import RunFolder, read_evaluations, read_metrics
from ssmrl.training.run_evaluation import evaluate_run

EXPERIMENT = "experiment=in_context"
MEMORIES = ("s5", "gru", "none")
PROJECTED = (
    "env=meta/classic_control",
    # Trials of up to 200 steps, in which what an action does is seen late, and small angles.
    "agent.discount=.995",
    "agent.gae_lambda=.98",
    "agent.normalize_observations=true",
)
ENVS = {
    "bandit": ["env=meta/bernoulli_bandit"],
    # Rewards are so noisy that a step's advantage had better not add those of later ones.
    "mdp": ["env=meta/random_mdp", "agent.gae_lambda=.3"],
    "cartpole": ["env=meta/cartpole"],
    "dark_room": ["env=meta/dark_room"],
    # Beyond the four of the study.
    "small_mdp": [
        "env=meta/random_mdp",
        "env.kwargs={states:3,actions:3}",
        "agent.gae_lambda=.3",
    ],
    "switching_bandit": ["env=meta/switching_bandit"],
    "gaussian_bandit": ["env=meta/gaussian_bandit"],
    "dark_room_hard": ["env=meta/dark_room_hard"],
    # The same spaces in both, so that an agent of the one can play the other.
    "projected_cartpole": [
        *PROJECTED,
        "env.kwargs.tasks=[cartpole]",
        "env.kwargs.held_out=[acrobot,mountain_car]",
    ],
    "classic_control": [
        *PROJECTED,
        "env.kwargs.tasks=[cartpole,acrobot]",
        "env.kwargs.held_out=[mountain_car]",
    ],
}
"""By name, the overrides that choose an environment."""

ELSEWHERE: dict[str, dict[str, dict[str, Any]]] = {
    "cartpole": {"cartpole, unseen dynamics": {"spread": 4}},
    "classic_control": {
        "classic_control, cartpole alone": {
            "tasks": ["cartpole"],
            "held_out": ["acrobot", "mountain_car"],
        },
        "classic_control, unseen mountain car": {"split": "held_out"},
    },
}
"""By name of an environment and of the row, the options that differ in a further evaluation."""


def main() -> int:
    arguments = parse()
    if arguments.redraw:
        draw(json.loads(arguments.output.read_text())["rows"], arguments.figure)
        return 0
    rows = []
    for env in arguments.envs:
        for memory in arguments.memories:
            path = arguments.runs / f"{env}-{memory}"
            overrides = [EXPERIMENT, *ENVS[env], f"memory={memory}", f"seeds={arguments.seeds}"]
            if code := train_into(path, [*overrides, *arguments.set]):
                return code
            for name, changes in {env: {}, **ELSEWHERE.get(env, {})}.items():
                record = evaluate_once(path, changes, arguments)
                rows.append(row_of(f"{name}-{memory}", path, record))
                report(rows, arguments)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", nargs="+", default=MEMORIES)
    parser.add_argument(
        "--envs", nargs="+", choices=ENVS, default=("bandit", "mdp", "cartpole", "dark_room")
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--set", nargs="*", default=[], help="further overrides, key=value")
    parser.add_argument("--episodes", type=int, default=256, help="of each seed and policy")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "in_context")
    parser.add_argument(
        "--redraw", action="store_true", help="train nothing: the figure of what --output holds"
    )
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "in_context.png")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/in_context.json")
    return parser.parse_args()


def evaluate_once(
    path: Path, changes: dict[str, Any], arguments: argparse.Namespace
) -> dict[str, Any]:
    """The evaluation by trial of a run's newest checkpoint, made unless it is there.

    Args:
        path: of the run.
        changes: options of the environment that differ from those in training.
        arguments: of the study.
    """
    run = RunFolder(path)
    trained = read_metrics(run.metrics)[-1]["step"]
    kwargs = {**run.record()["config"]["env"]["kwargs"], **changes}
    for record in read_evaluations(run.evaluations):
        trials = record.get("trials")
        if trials is not None and record["step"] == trained and trials["kwargs"] == kwargs:
            return record
    # By draws, as they acted in training: the likeliest action explores less.
    config = EvaluateConfig(
        run=str(path),
        episodes=arguments.episodes,
        greedy=False,
        env=EnvConfig(name="run", kwargs=changes),
    )
    return evaluate_run(config, COMPONENTS, warn=print)


def row_of(study: str, path: Path, record: dict[str, Any]) -> dict[str, Any]:
    """What is known of a run: its evaluation by trial, and the median speed of its training."""
    run = RunFolder(path)
    config = run.record()["config"]
    name = "time/steps_per_second"  # Lines that tell nothing but a training return have none.
    speeds = [line[name] for line in read_metrics(run.metrics)[1:] if name in line]
    return {
        "study": study,
        "env": record["env"],
        "kwargs": record["trials"]["kwargs"],
        "memory": config["memory"]["name"],
        "seeds": config["seeds"],
        "steps": record["step"],
        "steps_per_second": round(float(np.median(speeds)), 1) if speeds else None,
        "episodes": record["episodes"],
        "returns_by_seed": [seed["mean"] for seed in record.get("seeds", [record])],
        **{name: record["trials"][name] for name in ("policies", "references")},
    }


def report(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """The figure, the data and the table, of what is finished so far."""
    settings = {"experiment": EXPERIMENT, "set": arguments.set}
    rows = with_earlier(arguments.output, settings, rows, key=lambda row: row["study"])
    write_json(arguments.output, {"machine": machine_info(), **settings, "rows": rows})
    draw(rows, arguments.figure)
    heads = ("environment", "memory", "first trial", "last trial", "episode", "by seed")
    print("\n|", " | ".join((*heads, "memory reset", "reached")), "|")
    print("|---" * (len(heads) + 2) + "|")
    for row in rows:
        print("|", " | ".join(cells(row)), "|")


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """The figure of rows of `row_of`: a panel for each environment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = ("env", "kwargs", "memory")
    panels = panels_of((*(row[name] for name in names), row, row["study"]) for row in rows)
    print(f"wrote {plot_trials(panels, path)}")


def cells(row: dict[str, Any]) -> list[str]:
    """A line of the table."""
    agent, reset = (row["policies"][name] for name in ("agent", "memory_reset"))
    reached = [
        f"{name.replace('_', ' ')} {curve['reached']:.0%}"
        for name, curve in row["references"].items()
        if curve["reached"] is not None
    ]
    total = f"{agent['return']:.3f}"
    if agent["return_interval"]:
        total += " [{:.3f}, {:.3f}]".format(*agent["return_interval"])
    ends = [f"{agent['mean'][i]:.3f}" for i in (0, -1)]
    name = row["study"].rpartition("-")[0]
    # Of rows that older versions wrote, only the mean is known.
    seeds = ", ".join(f"{mean:.3f}" for mean in row.get("returns_by_seed", ()))
    return [name, row["memory"], *ends, total, seeds, f"{reset['return']:.3f}", ", ".join(reached)]


if __name__ == "__main__":
    sys.exit(main())

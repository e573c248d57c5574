"""In-context RL: what PPO with each memory learns within an episode of trials, beside the optimum.

    python -m benchmarks.learning.in_context [--memories s5 gru none] [--envs bandit mdp ...]
    python -m benchmarks.learning.in_context --set total_steps=500_000 agent.lr=5e-4
    python -m benchmarks.learning.in_context --redraw           # the figure alone, of what is there

A name of an environment is an entry of `ENVS`. Every training is one run folder below --runs; one
that is finished is not repeated and one that was interrupted goes on, so the study can be stopped
at any time; each is evaluated once, on new tasks, beside its own memory reset at every trial,
uniform actions, and what is known of the optimum. Behind each the figure of returns over trials and
the JSON are written anew, and a table is printed. Rows that are there of an earlier call with the
same settings stay, so that memories and environments can be added one by one.
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
from ssmrl.training.errors import RunError
from ssmrl.training.plotting import panels_of, plot_trials, read_trials
from ssmrl.training.run import RunFolder, read_metrics
from ssmrl.training.run_evaluation import evaluate_run

EXPERIMENT = "experiment=in_context"
MEMORIES = ("s5", "gru", "none")
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
    "projected_cartpole": ["env=meta/cartpole", "env.kwargs.projected=true"],
    "classic_control": ["env=meta/classic_control", "env.kwargs.held_out=[acrobot]"],
}
"""By name, the overrides that choose an environment."""


def main() -> int:
    arguments = parse()
    if arguments.redraw:
        draw(json.loads(arguments.output.read_text())["rows"], arguments.figure)
        return 0
    paths = []
    for env in arguments.envs:
        for memory in arguments.memories:
            path = arguments.runs / f"{env}-{memory}"
            overrides = [EXPERIMENT, *ENVS[env], f"memory={memory}", f"seeds={arguments.seeds}"]
            if code := train_into(path, [*overrides, *arguments.set]):
                return code
            evaluate_once(path, arguments)
            paths.append(path)
            report(paths, arguments)
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


def evaluate_once(path: Path, arguments: argparse.Namespace) -> None:
    """Evaluates the newest checkpoint of a run by trial, unless that has been done."""
    trained = read_metrics(RunFolder(path).metrics)[-1]["step"]
    try:
        if read_trials(path)["step"] == trained:
            return
    except RunError:  # not yet
        pass
    # By draws, as they acted in training: the likeliest action explores less.
    config = EvaluateConfig(
        run=str(path), episodes=arguments.episodes, greedy=False, env=EnvConfig(name="run")
    )
    evaluate_run(config, COMPONENTS, warn=print)


def row_of(path: Path) -> dict[str, Any]:
    """What is known of a run: its evaluation by trial, and the median speed of its training."""
    record, run = read_trials(path), RunFolder(path)
    config = run.record()["config"]
    speeds = [x["time/steps_per_second"] for x in read_metrics(run.metrics)[1:]] or [np.nan]
    speed = float(np.median(speeds))
    return {
        "study": path.name,
        "env": record["env"],
        "kwargs": record["trials"]["kwargs"],
        "memory": config["memory"]["name"],
        "seeds": config["seeds"],
        "steps": record["step"],
        "steps_per_second": None if np.isnan(speed) else round(speed, 1),
        "episodes": record["episodes"],
        **{name: record["trials"][name] for name in ("policies", "references")},
    }


def report(paths: list[Path], arguments: argparse.Namespace) -> None:
    """The figure, the data and the table, of what is finished so far."""
    settings = {"experiment": EXPERIMENT, "set": arguments.set}
    rows = [row_of(path) for path in paths]
    rows = with_earlier(arguments.output, settings, rows, key=lambda row: row["study"])
    write_json(arguments.output, {"machine": machine_info(), **settings, "rows": rows})
    draw(rows, arguments.figure)
    print(
        "\n| environment | memory | first trial | last trial | episode | memory reset | reached |"
    )
    print("|---|---|---|---|---|---|---|")
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
    return [name, row["memory"], *ends, total, f"{reset['return']:.3f}", ", ".join(reached)]


if __name__ == "__main__":
    sys.exit(main())

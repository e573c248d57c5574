"""Horizons: what a memory that was trained on episodes of T steps does in those of 4 T and 16 T.

    python -m benchmarks.learning.horizons [--memories s5 gru ...] [--tasks recall bandit]

PPO with each memory in the registry is trained at one length and plays at three. Recall is POPGym's
RepeatFirst with 1, 4 and 16 decks; its score is the return, 1 for all answers right and -.5 on
average for guessing. The bandit is ``meta/bernoulli_bandit`` with 50, 200 and 800 pulls; its score
is the mean reward of a pull, .5 for guessing, beside that of Thompson sampling at the same length.
Every training is one run folder below --runs; one that is finished is not repeated. Rows that are
there of an earlier call with the same settings stay, so that memories can be added one by one.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import machine_info, write_json
from benchmarks.learning.studies import ROOT, train_into, with_earlier
from ssmrl.envs.meta.bandit_policies import play_bernoulli, thompson
from ssmrl.experiment import COMPONENTS
from ssmrl.memory import list_memories
from ssmrl.training.config import EnvConfig, EvaluateConfig
from ssmrl.training.run_evaluation import evaluate_run

ARMS, REFERENCE_EPISODES = 5, 4000


@dataclass(frozen=True)
class Task:
    """A task that exists in several lengths.

    Attributes:
        overrides: of the training.
        option: of the environment, which sets the length.
        lengths: its values for T, 4 T and 16 T; the first is trained.
        by_length: the score is the return over the length; otherwise the return.
        greedy: whether the likeliest action is played.
    """

    overrides: tuple[str, ...]
    option: str
    lengths: tuple[int, int, int]
    by_length: bool
    greedy: bool


TASKS = {
    "recall": Task(
        ("experiment=popgym", "env=popgym/repeat_first_easy", "total_steps=200_000"),
        "num_decks",
        (1, 4, 16),
        by_length=False,
        greedy=True,
    ),
    "bandit": Task(
        (
            "experiment=in_context",
            "env=meta/bernoulli_bandit",
            "total_steps=300_000",
            "agent.rollout_length=100",
        ),
        "trials",
        (50, 200, 800),
        by_length=True,
        greedy=False,
    ),
}


def main() -> int:
    arguments = parse()
    rows: list[dict[str, Any]] = []
    for name in arguments.tasks:
        for memory in arguments.memories:
            path, task = arguments.runs / f"{name}-{memory}", TASKS[name]
            overrides = [*task.overrides, f"env.kwargs.{task.option}={task.lengths[0]}"]
            overrides += [f"memory={memory}", f"seeds={arguments.seeds}", *arguments.set]
            if code := train_into(path, overrides):
                return code
            scores = [score(path, task, length, arguments) for length in task.lengths]
            rows.append({"task": name, "memory": memory, "scores": scores})
            report(rows, arguments)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", nargs="+", default=list_memories())
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", nargs="*", default=[], help="further overrides, key=value")
    parser.add_argument("--episodes", type=int, default=64, help="of each seed and length")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "horizons")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/horizons.json")
    return parser.parse_args()


def score(path: Path, task: Task, length: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """The score at one length with its interval over episodes (and seeds, where there are some)."""
    config = EvaluateConfig(
        run=str(path),
        episodes=arguments.episodes,
        greedy=task.greedy,
        env=EnvConfig(name="run", kwargs={task.option: length}),
        controls=False,
    )
    record = evaluate_run(config, COMPONENTS, warn=print)
    values = np.array([record["mean"], *record["mean_interval"]]) / (
        length if task.by_length else 1
    )
    mean, *interval = values.round(4).tolist()
    return {"length": length, "score": mean, "interval": interval}


def reference(name: str) -> dict[str, Any]:
    """The row of a task that says what can be had: all answers, or Thompson sampling's pay."""
    task = TASKS[name]
    if task.by_length:
        best = [
            play_bernoulli(thompson, ARMS, pulls, REFERENCE_EPISODES).mean()
            for pulls in task.lengths
        ]
        label = "Thompson sampling"
    else:
        best, label = [1.0] * len(task.lengths), "optimum"
    scores = [
        {"length": length, "score": round(float(score), 4)}
        for length, score in zip(task.lengths, best, strict=True)
    ]
    return {"task": name, "memory": label, "scores": scores}


def report(rows: list[dict[str, Any]], arguments: argparse.Namespace) -> None:
    """The JSON and the table, of what is finished so far."""
    rows = [*rows, *(reference(name) for name in arguments.tasks)]
    settings = {name: getattr(arguments, name) for name in ("seeds", "episodes", "set")}
    rows = with_earlier(arguments.output, settings, rows, key=identity)
    write_json(arguments.output, {"machine": machine_info(), **settings, "rows": rows})
    print("\n| task | memory | T | 4 T | 16 T |\n|---|---|---|---|---|")
    for row in rows:
        cells = [cell(scores) for scores in row["scores"]]
        print("|", " | ".join([row["task"], row["memory"], *cells]), "|", flush=True)


def identity(row: dict[str, Any]) -> tuple[str, str]:
    """What tells a row from another."""
    return row["task"], row["memory"]


def cell(scores: dict[str, Any]) -> str:
    """A score and, where it has one, its interval."""
    ends = scores.get("interval")
    return f"{scores['score']:.2f}" + (" [{:.2f}, {:.2f}]".format(*ends) if ends else "")


if __name__ == "__main__":
    sys.exit(main())

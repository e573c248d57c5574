"""The search for one set of PPO's hyperparameters: changes tried on six ids of POPGym.

    python -m benchmarks.learning.recipe NAME [NAME ...] [--memories s5] [--steps 1500000]

A name is an entry of `CHANGES`: what differs from `experiment=popgym_2026_11`. The six ids are of
different kinds and are the only ones that a choice was made by; all others are left to validate it
on. Every training is a run folder below --runs: finished ones are not repeated, interrupted ones go
on. Results are added to --output, one row for each training, and printed as a table.
"""

import argparse
import json
import sys
import time
from pathlib import Path

from benchmarks.harness import machine_info, write_json
from benchmarks.learning.studies import ROOT, train_into
from ssmrl.training.plotting import read_curves

TUNING_IDS = (
    "autoencode_easy",
    "count_recall_easy",
    "minesweeper_easy",
    "multiarmed_bandit_medium",
    "position_only_pendulum_easy",
    "repeat_previous_medium",
)

CHANGES: dict[str, str] = {
    "shipped": "",
    "lr1e-3": "agent.normalize_rewards=true agent.lr=1e-3",
    "lambda.8": "agent.normalize_rewards=true agent.lr=1e-3 agent.gae_lambda=.8",
    "lambda.5": "agent.normalize_rewards=true agent.lr=1e-3 agent.gae_lambda=.5",
    "lambda.8+lr2e-3": "agent.normalize_rewards=true agent.lr=2e-3 agent.gae_lambda=.8",
    "lambda.9+lr2e-3": "agent.normalize_rewards=true agent.lr=2e-3 agent.gae_lambda=.9",
    "lambda.8+lr2e-3+running": (
        "agent.normalize_rewards=true agent.lr=2e-3 agent.gae_lambda=.8 "
        "agent.advantage_scale=running"
    ),
    "lambda.8+lr2e-3+running+norm2": (
        "agent.normalize_rewards=true agent.lr=2e-3 agent.gae_lambda=.8 "
        "agent.advantage_scale=running agent.max_grad_norm=2"
    ),
    "lambda.8+lr2e-3+critic5": (
        "agent.normalize_rewards=true agent.lr=2e-3 agent.gae_lambda=.8 agent.value_coefficient=5"
    ),
    "lambda.8+lr2e-3+states256": (
        "agent.normalize_rewards=true agent.lr=2e-3 agent.gae_lambda=.8 memory.state_size=256"
    ),
    "lambda.8+lr2e-3+states256+normalized": (
        "agent.normalize_rewards=true agent.lr=2e-3 agent.gae_lambda=.8 memory.state_size=256 "
        "memory.normalized=true"
    ),
    "lambda.8+values": (
        "agent.normalize_rewards=true agent.lr=1e-3 agent.gae_lambda=.8 agent.normalize_values=true"
    ),
    "lambda.8+minibatches16": (
        "agent.normalize_rewards=true agent.lr=1e-3 agent.gae_lambda=.8 agent.minibatches=16"
    ),
    "lambda.8+epochs8": (
        "agent.normalize_rewards=true agent.lr=1e-3 agent.gae_lambda=.8 agent.epochs=8"
    ),
}


def main() -> int:
    arguments = parse()
    rows = json.loads(arguments.output.read_text())["rows"] if arguments.output.exists() else []
    for name in arguments.names:
        for memory in arguments.memories:
            for env in arguments.ids:
                row, code = trial(name, memory, env, arguments)
                if row is None:
                    return code
                same = ("change", "memory", "id", "steps", "seeds")
                rows = [r for r in rows if any(r[key] != row[key] for key in same)] + [row]
                write_json(arguments.output, {"machine": machine_info(), "rows": rows})
    report(rows, arguments)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="+", choices=CHANGES, metavar="NAME")
    parser.add_argument("--memories", nargs="+", default=["s5"])
    parser.add_argument("--ids", nargs="+", default=TUNING_IDS)
    parser.add_argument("--steps", type=int, default=1_500_000)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "recipe")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/recipe.json")
    return parser.parse_args()


def trial(
    name: str, memory: str, env: str, arguments: argparse.Namespace
) -> tuple[dict | None, int]:
    """One training's row, or None; and the exit code, not 0 where it was interrupted."""
    path = arguments.runs / f"{name}-{memory}-{env}-{arguments.steps}"
    overrides = [
        "experiment=popgym_2026_11",
        f"env=popgym/{env}",
        f"memory={memory}",
        f"total_steps={arguments.steps}",
        f"seeds={arguments.seeds}",
        *CHANGES[name].split(),
    ]
    start = time.perf_counter()
    if code := train_into(path, overrides):
        return None, code
    curves = read_curves(path)
    row = {
        "change": name,
        "overrides": CHANGES[name],
        "memory": memory,
        "id": env,
        "steps": arguments.steps,
        "seeds": arguments.seeds,
        "mmer": [round(curve.mmer, 4) for curve in curves],
        "final": [round(curve.final, 4) for curve in curves],
        "seconds": round(time.perf_counter() - start),
    }
    print("ROW", json.dumps(row), flush=True)
    return row, 0


def report(rows: list[dict], arguments: argparse.Namespace) -> None:
    """MMER by change and id, with the mean over the ids."""
    chosen = [row for row in rows if row["steps"] == arguments.steps]
    print("| change | memory |", " | ".join(TUNING_IDS), "| mean |")
    print("|---" * (len(TUNING_IDS) + 3) + "|")
    for name, memory in dict.fromkeys((row["change"], row["memory"]) for row in chosen):
        by_id = {
            row["id"]: sum(row["mmer"]) / len(row["mmer"])
            for row in chosen
            if (row["change"], row["memory"]) == (name, memory)
        }
        values = [by_id.get(id_, float("nan")) for id_ in TUNING_IDS]
        cells = [f"{value:.2f}" for value in [*values, sum(values) / len(values)]]
        print("|", " | ".join([name, memory, *cells]), "|")


if __name__ == "__main__":
    sys.exit(main())

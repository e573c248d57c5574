"""What a benchmark's trained policies earn in the original POPGym package.

    ssmrl benchmark suite=popgym 'memory=[s5]' seeds=1 steps=15_000_000 run_dir=RUNS
    python -m benchmarks.learning.popgym_original RUNS [--episodes 256]

The last checkpoint of every finished run in the folder plays whole episodes in the package,
greedily and by sampling its actions. What is in the table of an earlier call for the same step is
not played again, so that the table can be made while the benchmark goes on. Writes a row for each
run as JSON.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ssmrl
from benchmarks.harness import machine_info, print_table, write_json
from benchmarks.learning.studies import ROOT, with_earlier
from ssmrl.training.run import RunFolder, read_metrics

OUTPUT = ROOT / "benchmarks/results/popgym_15m_original.json"
PLAYED = {"greedy": True, "sampled": False}


def main() -> int:
    arguments = parse()
    settings = {"episodes": arguments.episodes, "seed": arguments.seed}
    rows = with_earlier(arguments.output, settings, [], identity)
    played = {identity(row): row["step"] for row in rows}
    for run, new in finished(arguments.runs):
        if played.get(identity(new)) == new["step"]:
            continue
        rows = with_earlier(arguments.output, settings, [new | play(run, settings)], identity)
        rows.sort(key=identity)
        write_json(arguments.output, {"machine": machine_info(), **settings, "rows": rows})
    report(rows)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="the folder of a benchmark's runs")
    parser.add_argument("--episodes", type=int, default=256, help="of each kind, for each run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    return parser.parse_args()


def identity(row: dict[str, Any]) -> tuple[str, str]:
    return row["env"], row["memory"]


def finished(folder: Path) -> Iterator[tuple[ssmrl.Run, dict[str, Any]]]:
    """The runs that have come to the end of their steps, with the beginnings of their rows.

    Raises:
        SystemExit: one is of another suite, which has no original to be played in.
    """
    for path in sorted(folder.glob("*/config.yaml")):
        run = ssmrl.load(path.parent)
        if not (env := run.config["env"]["name"]).startswith("popgym/"):
            raise SystemExit(f"{path.parent}: a run in {env}, expected runs in popgym/...")
        lines = read_metrics(RunFolder(path.parent).metrics)
        step = lines[-1]["step"] if lines else 0
        if step >= run.config["total_steps"]:
            yield run, {"env": env, "memory": run.config["memory"]["name"], "step": step}


def play(run: ssmrl.Run, settings: dict[str, int]) -> dict[str, Any]:
    """Mean returns of the run's seeds in the package, with 95% intervals over episodes."""
    env = run.config["env"]["name"].replace("popgym/", "popgym_original/")
    row = {}
    for name, greedy in PLAYED.items():
        record = run.evaluate(env=env, greedy=greedy, **settings)
        row[name] = {key: record[key] for key in ("mean", "mean_interval", "length")}
    return row


def report(rows: list[dict[str, Any]]) -> None:
    def cell(found: dict[str, Any]) -> str:
        low, high = found["mean_interval"]
        return f"{found['mean']:.3f} [{low:.3f}, {high:.3f}]"

    cells = [[row["env"], row["memory"], *(cell(row[name]) for name in PLAYED)] for row in rows]
    print_table(["env", "memory", *PLAYED], cells)


if __name__ == "__main__":
    sys.exit(main())

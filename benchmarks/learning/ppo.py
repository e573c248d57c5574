"""Which memory learns what: PPO with each memory on each environment, five seeds, with intervals.

    python -m benchmarks.learning.ppo [--memories s5 gru none] [--envs ...] [--set total_steps=...]

Every training is one run folder below --runs; one that is finished is not repeated and one that was
interrupted goes on, so the study can be stopped at any time. Writes the figure, and the table with
the machine and versions as JSON.
"""

import argparse
import sys
from pathlib import Path

from benchmarks.harness import machine_info, write_json
from benchmarks.learning.studies import ROOT, train_into
from ssmrl.training.plotting import aggregate_table, format_value, group_runs, plot_curves

EXPERIMENT = "experiment=remember"
MEMORIES = ("s5", "gru", "none")
ENVS = (
    "popgym/repeat_previous_easy",
    "popgym/repeat_first_easy",
    "popgym/position_only_cartpole_easy",
)


def main() -> int:
    arguments = parse()
    paths = []
    for env in arguments.envs:
        for memory in arguments.memories:
            path = arguments.runs / f"{env.replace('/', '.')}-{memory}"
            overrides = [EXPERIMENT, f"env={env}", f"memory={memory}", *arguments.set]
            if code := train_into(path, overrides):
                return code
            paths.append(path)
            report(paths, arguments)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", nargs="+", default=MEMORIES)
    parser.add_argument("--envs", nargs="+", default=ENVS)
    parser.add_argument("--set", nargs="*", default=[], help="further overrides, key=value")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "learning")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "learning.png")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/learning.json")
    return parser.parse_args()


def report(paths: list[Path], arguments: argparse.Namespace) -> None:
    """The figure, the data and the README's table, of what is finished so far."""
    groups = group_runs(paths)
    rows = aggregate_table(groups)
    for path in (arguments.figure, arguments.output):
        path.parent.mkdir(parents=True, exist_ok=True)
    plot_curves(groups, arguments.figure, pdf=True)
    record = {"machine": machine_info(), "experiment": EXPERIMENT, "rows": rows}
    write_json(arguments.output, record)
    print("\n| environment | memory | seeds | MMER | last tenth of training |")
    print("|---|---|---|---|---|")
    for row in rows:
        values = [format_value(row, name) for name in ("mmer_mean", "final_mean")]
        print("|", " | ".join([row["env"], row["memory"], str(row["seeds"]), *values]), "|")


if __name__ == "__main__":
    sys.exit(main())

"""Is what several devices learn what one learns? Training returns of PPO on each, several seeds.

    python -m benchmarks.learning.devices [--devices 1 4] [--seeds 5]

Each seed is a run of its own, whose environments and batches are split over so many forced CPU
devices. With the same seed all of them draw the same numbers, so that beside the intervals over
seeds there are the differences within each: they are of rounding until an action comes out
otherwise, and of chance from then on. Runs that are finished are not repeated. Writes JSON.
"""

import argparse
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import ttest_ind

from benchmarks.harness import machine_info, print_table, write_json
from benchmarks.learning.studies import ROOT, train_into
from ssmrl.training.returns import read_points
from ssmrl.training.run import RunFolder, read_metrics

SETTINGS = (
    *("agent=ppo", "memory=gru", "memory.features=32", "env=popgym/repeat_previous_easy"),
    *("agent.num_envs=16", "agent.encoder=[32]", "agent.actor=[32]", "agent.critic=[32]"),
)


def main() -> int:
    options = parse()
    if options.worker:
        return work(options)
    curves = {}
    for devices in options.devices:
        start(options, devices)
        runs = [RunFolder(path_of(options, devices, seed)) for seed in range(options.seeds)]
        curves[devices] = np.array([curve(run) for run in runs])  # [seeds, points]
    record = {
        "benchmark": "devices",
        "machine": machine_info(),
        "settings": [*SETTINGS, f"total_steps={options.steps}"],
        "seeds": options.seeds,
        "steps": points_of(runs[0]),
        "curves": {str(devices): values.tolist() for devices, values in curves.items()},
        "compared": compare(curves),
    }
    write_json(options.output, record)
    print_table(
        ["devices", "last return", "points in the other's interval", "largest |difference|"],
        [
            [name, row["last"], f"{row['inside']} of {row['points']}", row["largest_difference"]]
            for name, row in record["compared"].items()
        ],
    )
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=150_000)
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "devices")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/devices.json")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def path_of(options: argparse.Namespace, devices: int, seed: int) -> Path:
    """Of a run."""
    return options.runs / f"{devices}-{seed}"


def start(options: argparse.Namespace, devices: int) -> None:
    """Train all seeds, in a process of its own: how many devices a CPU is, XLA is told once."""
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
        # The seeds' programs are one.
        "JAX_COMPILATION_CACHE_DIR": str((options.runs / "cache").resolve()),
    }
    command = [sys.executable, "-m", __spec__.name, *sys.argv[1:], "--worker", str(devices)]
    subprocess.run(command, env=environment, check=True)


def work(options: argparse.Namespace) -> int:
    """The worker's side: the exit code of the run that was stopped, or 0."""
    for seed in range(options.seeds):
        own = [f"seed={seed}", f"devices={options.worker}", f"total_steps={options.steps}"]
        if code := train_into(path_of(options, options.worker, seed), [*SETTINGS, *own]):
            return code
    return 0


def points_of(run: RunFolder) -> list[int]:
    """In which step each point of its curve ends."""
    return [point.until for point in read_points(read_metrics(run.metrics))[0]]


def curve(run: RunFolder) -> list[float]:
    """The training return, point by point."""
    return [point.value for point in read_points(read_metrics(run.metrics))[0]]


def compare(curves: dict[int, np.ndarray]) -> dict[str, Any]:
    """Each number of devices beside the first.

    Args:
        curves: `[seeds, points]`, at least two seeds; the same seeds in the same order.

    Returns:
        By number of devices: the mean return of the last point; at how many points 0 lies within
        the 95 % interval (Welch's) of the difference of the two means; and the largest difference
        of a seed.
        Of as many independent points, one of twenty would lie outside by chance.
    """
    (_, first), *_ = curves.items()
    found = {}
    for devices, values in curves.items():
        # Where all seeds of both got the same there is no interval, as SciPy warns.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)
            low, high = ttest_ind(values, first, equal_var=False).confidence_interval(0.95)
        same = values.mean(axis=0) == first.mean(axis=0)
        found[str(devices)] = {
            "last": float(values[:, -1].mean()),
            "inside": int((same | (low <= 0) & (high >= 0)).sum()),
            "points": values.shape[1],
            "largest_difference": float(np.abs(values - first).max()),
        }
    return found


if __name__ == "__main__":
    sys.exit(main())

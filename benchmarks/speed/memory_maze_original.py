"""Memory Maze: frames a second of the package, one process, beside ours in the same minutes.

    python -m benchmarks.speed.memory_maze_original

Needs the package (`ssmrl[memory-maze]`) in this interpreter. "stock" is the package as it is,
"vectorised" looks for touches in all contacts at once, as `memory_maze_original/…` does. The rest
of a frame is the same. The package's resets (seconds each) are not counted; ours are. The package
uses one core whatever it is given, ours all: `taskset` pins the whole.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from benchmarks import harness
from benchmarks.speed.memory_maze import loop
from ssmrl.envs.adapters import memory_maze_worker as worker

OUTPUT = Path(__file__).parents[1] / "results" / "memory_maze_original_speed.json"


def originals(size: int, steps: int) -> dict[str, Callable[[], float]]:
    """Seconds a frame of one environment, which plays on from call to call."""
    tasks = worker.load_tasks()  # first: it decides how dm_control draws
    from dm_control.locomotion.props.target_sphere import TargetSphere

    env = worker.Original(tasks, size, {}, None)
    env.reset(size)
    stock = TargetSphere._update_activation
    worker.vectorise_contacts()
    vectorised = TargetSphere._update_activation
    draws = np.random.default_rng(0)

    def timed(update: Callable[..., None]) -> Callable[[], float]:
        def call() -> float:
            TargetSphere._update_activation = update
            start = time.perf_counter()
            for action in draws.integers(0, 6, steps):
                env.step(int(action))
            seconds = time.perf_counter() - start
            TargetSphere._update_activation = stock
            return seconds / steps

        return call

    TargetSphere._update_activation = stock
    return {"stock": timed(stock), "vectorised": timed(vectorised)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[9, 15])
    parser.add_argument("--steps", type=int, default=60, help="of the package, a call")
    parser.add_argument("--envs", type=int, default=64, help="of ours")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    cases, rows = [], []
    for size in args.sizes:
        calls = originals(size, args.steps)
        calls["ours"] = loop(size, args.envs, 20, {})
        taken = harness.interleaved(calls, args.repeats)
        frames = {name: 1 / statistics.median(each) for name, each in taken.items()}
        times = frames["ours"] / frames["stock"]
        case = {"size": size, "frames_per_second": frames, "times_stock": times}
        cases.append(case | {"seconds_per_frame": taken})
        rows.append([f"{size}x{size}", *frames.values(), times])
    harness.print_table(["maze", "stock", "vectorised", "ours", "ours x stock"], rows)
    record = {"benchmark": "memory_maze_original_speed", "machine": harness.machine_info()}
    record |= {"envs_of_ours": args.envs, "repeats": args.repeats}
    harness.write_json(args.output, record | {"cases": cases})


if __name__ == "__main__":
    main()

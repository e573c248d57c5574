"""Memory Maze on the CPU: frames a second by size, number of environments, quality and picture.

    python -m benchmarks.speed.memory_maze
    python -m benchmarks.speed.memory_maze --sizes 9 --envs 64
    python -m benchmarks.speed.memory_maze --paper --envs 64 512 4096

Random actions with everything an agent pays for: motion, touches, pictures, and auto-resets with
new mazes (`JaxVectorEnv`). The environments' clocks are spread over an episode, so that resets come
as often as in a long run. Compiling is not counted; the cases take turns, medians over the rounds.

- without: the same without pictures (one small drawing from above, the least there is), which tells
  what share of the time the picture takes.

With --paper nothing is timed: what a step needs is counted in its program, and an H100's frames a
second follow from its published figures by the formula of docs/scaling.md.

`benchmarks.speed.memory_maze_original` has the original beside ours.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import ssmrl.envs
from benchmarks import harness
from benchmarks.speed.costs import costs_of
from benchmarks.speed.scaling import DEVICES, Plan, predict

OUTPUT = Path(__file__).parents[1] / "results" / "memory_maze_speed.json"
PAPER = OUTPUT.with_name("memory_maze_h100.json")
NO_PICTURE = {"view": "above", "picture_size": 16}


def loop(size: int, num_envs: int, steps: int, options: dict[str, Any]) -> Callable[[], float]:
    """A timed call that plays on for `steps` steps and returns seconds a frame, run once before."""
    venv = ssmrl.envs.make_vector(f"memory_maze/{size}x{size}", num_envs, **options).unwrapped
    length = venv.params.episode_length

    def rollout(state: Any, key: jax.Array) -> tuple[Any, Any]:
        def step(state: Any, key: jax.Array) -> tuple[Any, Any]:
            action = jax.random.randint(key, (num_envs,), 0, venv.action_space.n)
            obs, state, reward, _, truncated, _ = venv.step(state, action)
            # Sums, so that nothing is left out as unused and nothing large is kept.
            return state, (jnp.sum(obs, dtype=jnp.int32), jnp.sum(reward), jnp.sum(truncated))

        return jax.lax.scan(step, state, jax.random.split(key, steps))

    _, state = jax.jit(venv.reset)(jax.random.key(0))
    clocks = jnp.arange(num_envs, dtype=jnp.int32) * length // num_envs
    state = state.replace(env=state.env.replace(time=clocks))
    play = jax.jit(rollout).lower(state, jax.random.key(0)).compile()
    calls = 0

    def call() -> float:
        nonlocal state, calls
        calls += 1
        start = time.perf_counter()
        state, _ = jax.block_until_ready(play(state, jax.random.key(calls)))
        return (time.perf_counter() - start) / (steps * num_envs)

    call()
    return call


def cases(args: argparse.Namespace) -> dict[tuple[int, int, str, int], dict[str, Any]]:
    """Options by size, number of environments, quality (or "without") and pixels a side."""
    chosen: dict[tuple[int, int, str, int], dict[str, Any]] = {}
    for size in args.sizes:
        for num_envs in args.envs:
            chosen[size, num_envs, "without", 0] = NO_PICTURE
            for quality in args.qualities:
                for pixels in args.pixels:
                    options = {"quality": quality, "picture_size": pixels}
                    chosen[size, num_envs, quality, pixels] = options
    return chosen


def on_paper(size: int, num_envs: int) -> dict[str, Any]:
    """A step of all environments on an H100.

    As if some environment were reset in every step; but of the loops that draw its maze, which go
    on for as long as the maze needs, one round each is counted.
    """
    venv = ssmrl.envs.make_vector(f"memory_maze/{size}x{size}", num_envs).unwrapped
    state = jax.eval_shape(venv.reset, jax.random.key(0))[1]
    action = jax.ShapeDtypeStruct((num_envs,), jnp.int32)
    costs = costs_of(jax.make_jaxpr(venv.step)(state, action))
    plan = Plan(num_envs, costs, parameters=0, updates=0, state=0, temporary=0, most=1)
    prediction = predict(plan, DEVICES["H100"], 1, strong=False)
    terms = prediction["terms"]
    return {
        "size": size,
        "envs": num_envs,
        "operations_per_frame": sum(costs.flops.values()) / num_envs,
        "bytes_per_frame": costs.bytes / num_envs,
        "launches_per_step": costs.kernels,
        "frames_per_second": prediction["steps_per_second"],
        "frames_per_second_without_launches": num_envs / max(terms["compute"], terms["memory"]),
    }


def predict_all(args: argparse.Namespace) -> None:
    """The table and the record of `--paper`."""
    rows = [on_paper(size, num_envs) for size in args.sizes for num_envs in args.envs]
    table = [[f"{row['size']}x{row['size']}", *list(row.values())[1:]] for row in rows]
    headers = ["maze", "envs", "operations", "bytes", "launches", "frames/s", "without launches"]
    harness.print_table(headers, table)
    record = {"benchmark": "memory_maze_h100", "machine": harness.machine_info(), "cases": rows}
    harness.write_json(args.output or PAPER, record)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[9, 15])
    parser.add_argument("--envs", type=int, nargs="+", default=[64])
    parser.add_argument("--qualities", nargs="+", default=["fast", "good"])
    parser.add_argument("--pixels", type=int, nargs="+", default=[64])
    parser.add_argument("--steps", type=int, default=50, help="a call")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--paper", action="store_true", help="an H100's, by the formula")
    parser.add_argument("--output", type=Path, help="default: in benchmarks/results")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    if args.paper:
        return predict_all(args)

    loops = {key: loop(*key[:2], args.steps, options) for key, options in cases(args).items()}
    taken = harness.interleaved({str(key): call for key, call in loops.items()}, args.repeats)
    rows, results = [], []
    for size, num_envs, quality, pixels in loops:
        each = taken[str((size, num_envs, quality, pixels))]
        seconds = statistics.median(each)
        blind = statistics.median(taken[str((size, num_envs, "without", 0))])
        result = {
            "size": size,
            "envs": num_envs,
            "quality": quality,
            "pixels": pixels,
            "frames_per_second": 1 / seconds,
            "fastest": 1 / min(each),
            "picture_share": 1 - blind / seconds if pixels else None,
        }
        results.append(result | {"seconds_per_frame": each})
        rows.append([f"{size}x{size}", *list(result.values())[1:]])
    headers = ["maze", "envs", "picture", "pixels", "frames/s", "fastest", "picture's share"]
    harness.print_table(headers, rows)
    record = {"benchmark": "memory_maze", "machine": harness.machine_info()}
    record |= {"steps": args.steps, "repeats": args.repeats}
    harness.write_json(args.output or OUTPUT, record | {"cases": results})


if __name__ == "__main__":
    main()

"""Environment steps a second: our POPGym beside the ``popgym`` package.

    python benchmarks/popgym_envs.py [--ids autoencode_easy battleship_hard ...]

Ours: 512 environments, a ``lax.scan`` of 256 steps with random actions, auto-reset and episode
statistics, on the CPU; compiled and run once before. The package: one environment in one process, a
Python loop with random actions and resets, which is how it is used. In turn, medians.

A round goes on where the one before it ended: where a game's episodes differ in length, ours fall
out of step with each other, as they do in training.
"""

import argparse
import math
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import jax

import ssmrl.envs
from ssmrl.envs.adapters.popgym_original import FAMILIES, popgym_class
from ssmrl.envs.popgym import DIFFICULTIES
from ssmrl.envs.popgym import FAMILIES as OURS

NUM_ENVS, STEPS = 512, 256
UPSTREAM_SECONDS = 0.5
OUTPUT = Path(__file__).parent / "results" / "popgym_envs.json"


def our_round(id_: str) -> tuple[Callable[[], float], float]:
    """A call that gives steps a second of one round, and the seconds that compiling took."""
    venv = ssmrl.envs.make_vector(f"popgym/{id_}", NUM_ENVS)

    @jax.jit
    def run(state: Any, key: jax.Array) -> Any:
        def body(state: Any, key: jax.Array) -> Any:
            action = jax.vmap(venv.action_space.sample)(jax.random.split(key, NUM_ENVS))
            obs, state, reward, *_ = venv.step(state, action)
            # Sums, so that nothing of an observation is optimised away.
            return state, (reward.sum(), jax.tree.map(lambda x: x.sum(), obs))

        return jax.lax.scan(body, state, jax.random.split(key, STEPS))

    carry = [venv.reset(jax.random.key(0))[1], jax.random.key(1)]
    program = harness.compile_timed(run, *carry)

    def steps_per_second() -> float:
        key, carry[1] = jax.random.split(carry[1])
        start = time.perf_counter()
        carry[0] = jax.block_until_ready(program.call(carry[0], key))[0]
        return NUM_ENVS * STEPS / (time.perf_counter() - start)

    steps_per_second()
    return steps_per_second, program.lower_seconds + program.compile_seconds


def upstream_round(id_: str) -> Callable[[], float]:
    """A call that gives the package's steps a second over half a second."""
    family, _, difficulty = id_.rpartition("_")
    env = popgym_class(f"{FAMILIES[family]}{difficulty.capitalize()}")()
    env.action_space.seed(0)
    env.reset(seed=0)

    def steps_per_second() -> float:
        steps, start = 0, time.perf_counter()
        while time.perf_counter() - start < UPSTREAM_SECONDS:
            for _ in range(50):
                *_, terminated, truncated, _ = env.step(env.action_space.sample())
                if terminated or truncated:
                    env.reset()
            steps += 50
        return steps / (time.perf_counter() - start)

    return steps_per_second


def measure(id_: str, repeats: int) -> dict[str, Any]:
    """Steps a second of both, and how many times ours are the package's in each round."""
    ours, compile_seconds = our_round(id_)
    taken = harness.interleaved({"ssmrl": ours, "popgym": upstream_round(id_)}, repeats)
    ratios = [a / b for a, b in zip(taken["ssmrl"], taken["popgym"], strict=True)]
    steps = {system: harness.summary(values) for system, values in taken.items()}
    return {
        "id": id_,
        "compile_seconds": compile_seconds,
        **steps,
        "ratio": harness.summary(ratios),
    }


def main() -> None:
    """Measure, print a table, write the figures beside this script."""
    every_id = [f"{family}_{difficulty}" for family in OURS for difficulty in DIFFICULTIES]
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ids", nargs="+", choices=every_id, default=every_id, metavar="ID")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", message="Maze environments", category=DeprecationWarning)
    results = [measure(id_, arguments.repeats) for id_ in arguments.ids]
    medians = [result["ratio"]["median"] for result in results]
    mean = math.exp(statistics.mean(map(math.log, medians)))
    columns = ("ssmrl", "popgym", "ratio")
    rows = [
        [result["id"], *(result[name]["median"] for name in columns), result["compile_seconds"]]
        for result in results
    ]
    harness.print_table(["id", "ours, steps/s", "popgym, steps/s", "ratio", "compile s"], rows)
    print(f"geometric mean of the ratios {mean:.0f}, least {min(medians):.0f}")
    record = {"machine": harness.machine_info(), "num_envs": NUM_ENVS, "steps": STEPS}
    harness.write_json(arguments.output, {**record, "geometric_mean": mean, "results": results})


if __name__ == "__main__":
    main()

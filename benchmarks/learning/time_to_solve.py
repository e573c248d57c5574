"""Time to a solved task: from the command to a training return of .9, ours and popjaxrl's PPO-S5.

    python -m benchmarks.learning.time_to_solve --popjaxrl PATH_TO_A_CLEAN_CLONE [--seeds 3]

Each side is a process of its own, alone on the machine, with what a user of it runs: ours
``experiment=popgym memory=s5``, popjaxrl's the configuration of its run_popgym.py. The clock begins
when the process does, so that imports and compilation count, and stops when the episodes that ended
in the last 65,536 steps, an update of popjaxrl's, return at least the threshold on average. What
takes `--times` as long as ours did with the same seed is stopped, and the ratio is then a lower
bound. Writes a row for each environment, side and seed; those that are there are kept.
"""

import argparse
import math
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.learning.studies import with_earlier
from benchmarks.peers import popjaxrl_shim
from benchmarks.peers.ppo_popjaxrl import popjaxrl_config

ENVS = {
    "repeat_previous_easy": "RepeatPreviousEasy",
    "repeat_first_easy": "RepeatFirstEasy",
    "position_only_cartpole_easy": "StatelessCartPoleEasy",
}
"""POPGym's ids, ours to popjaxrl's."""
SIDES = ("ssmrl", "popjaxrl")
STEPS = 65_536  # of an update of popjaxrl's
MARK = "return "  # begins the lines of a worker that are for us
OUTPUT = Path(__file__).parents[1] / "results" / "time_to_solve.json"


# ------------------------------------------------------------------------------------ a worker


class Ended:
    """The mean return of the episodes that ended in the last `STEPS` steps, as popjaxrl prints it.

    An iteration of ours is an eighth of that: the luck of a single one would stop the clock.
    """

    def __init__(self):
        self._iterations: deque[tuple[float, float]] | None = None

    def add(self, metrics: dict[str, Any]) -> float:
        """Take an iteration in; NaN until there were so many steps, and where no episode ended."""
        if self._iterations is None:
            self._iterations = deque(maxlen=max(1, STEPS // metrics["step"]))
        count = metrics["episodes"]
        self._iterations.append((count, count * metrics.get("episode_return", 0.0)))
        episodes, total = map(sum, zip(*self._iterations, strict=True))
        is_whole = len(self._iterations) == self._iterations.maxlen
        return total / episodes if is_whole and episodes else math.nan


def train_ours(env: str, seed: int) -> None:
    """Ours, with the settings of POPGym, printing a return after every iteration that has one."""
    import ssmrl

    ended = Ended()

    def show(metrics: dict[str, Any]) -> None:
        mean = ended.add(metrics)
        if not math.isnan(mean):
            print(f"{MARK}{mean}", flush=True)

    ssmrl.train(
        agent="ppo",
        memory="s5",
        env=f"popgym/{env}",
        experiment="popgym",
        seed=seed,
        seeds=1,
        run_dir=tempfile.mkdtemp(),
        callback=show,
        progress=False,
    )


def train_popjaxrl(env: str, seed: int, steps: int, clone: str) -> None:
    """popjaxrl's, with the settings of its run_popgym.py; it prints the return itself."""
    popjaxrl_shim.install(clone)
    import jax
    from algorithms.ppo_s5 import make_train
    from envs import make
    from envs.wrappers import AliasPrevActionV2

    inner, env_params = make(ENVS[env])
    published = {"NUM_STEPS": 1024, "UPDATE_EPOCHS": 30, "TOTAL_TIMESTEPS": steps, "DEBUG": True}
    config = popjaxrl_config(1, AliasPrevActionV2(inner), env_params) | published
    keys = jax.random.split(jax.random.PRNGKey(seed), 1)
    jax.block_until_ready(jax.jit(jax.vmap(make_train(config)))(keys))


# ----------------------------------------------------------------------------------- the clock


def return_in(line: str) -> float | None:
    """The return that a worker's line tells, if it tells one: ours is marked, theirs is bare."""
    try:
        value = float(line.removeprefix(MARK))
    except ValueError:
        return None
    return None if math.isnan(value) else value


def time_to(command: list[str], threshold: float, limit: float | None) -> dict[str, Any]:
    """Seconds until a worker has reached the threshold; None where it has not by the limit.

    Raises:
        RuntimeError: the worker failed.
    """
    start = time.perf_counter()
    best, solved = None, None
    # popjaxrl prints and does not flush: its lines would come a few hundred at a time.
    unbuffered = os.environ | {"PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=unbuffered) as process:
        assert process.stdout is not None
        # One of its updates may take longer than the limit.
        alarm = threading.Timer(threading.TIMEOUT_MAX if limit is None else limit, process.kill)
        alarm.daemon = True
        alarm.start()
        for line in process.stdout:
            if (value := return_in(line)) is None:
                continue
            best = value if best is None else max(best, value)
            if best >= threshold:
                solved = time.perf_counter() - start
                process.kill()
                break
        taken = time.perf_counter() - start
        is_late = limit is not None and taken >= limit
        alarm.cancel()
        if solved is None and not is_late and (code := process.wait()):
            raise RuntimeError(f"{' '.join(command)} ended with {code}")
    return {"seconds": solved, "stopped_after": taken, "best": best}


def race(
    env: str, seed: int, arguments: argparse.Namespace, known: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """A row for each side, ours first: it sets the other's limit. Those of `known` are kept."""
    rows: list[dict[str, Any]] = []
    for side in SIDES if arguments.popjaxrl else SIDES[:1]:
        here = [row for row in known if key(row) == (env, seed, side)]
        if not here:
            command = [sys.executable, "-m", __spec__.name, "--side", side, "--envs", env]
            command += ["--seed", str(seed), "--steps", str(arguments.steps)]
            command += ["--popjaxrl", str(arguments.popjaxrl)]
            limit = None
            if rows:
                limit = arguments.times * (rows[0]["seconds"] or rows[0]["stopped_after"])
            taken = time_to(command, arguments.threshold, limit)
            here = [{"env": env, "side": side, "seed": seed, **taken}]
            print(here[0], flush=True)
        rows += here
    return rows


def key(row: dict[str, Any]) -> tuple[str, int, str]:
    """What tells a row from another."""
    return row["env"], row["seed"], row["side"]


def ratios(rows: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """By environment, the median over seeds of how many times longer popjaxrl's takes.

    A side that was stopped counts as long as it ran: ``bound`` says that the ratio is a lower one.
    Seeds of ours that never got there have none.
    """
    found: dict[str, dict[str, Any]] = {}
    for env in dict.fromkeys(row["env"] for row in rows):
        times, bound = [], False
        for seed in {row["seed"] for row in rows}:
            here = {r["side"]: r for r in rows if (r["env"], r["seed"]) == (env, seed)}
            if len(here) == len(SIDES) and here["ssmrl"]["seconds"] is not None:
                theirs = here["popjaxrl"]
                bound |= theirs["seconds"] is None
                taken = theirs["seconds"] or theirs["stopped_after"]
                times.append(taken / here["ssmrl"]["seconds"])
        if times:
            found[env] = {"times": statistics.median(times), "bound": bound, "seeds": len(times)}
    return found


def main() -> None:
    arguments = parse()
    if arguments.side:
        (env,) = arguments.envs
        if arguments.side == "ssmrl":
            return train_ours(env, arguments.seed)
        return train_popjaxrl(env, arguments.seed, arguments.steps, arguments.popjaxrl)
    settings = {name: getattr(arguments, name) for name in ("threshold", "times", "steps")}
    rows = with_earlier(arguments.output, settings, [], key)
    for env in arguments.envs:
        for seed in range(arguments.seeds):
            new = race(env, seed, arguments, rows)
            rows = with_earlier(arguments.output, settings, new, key)
            record = {"machine": harness.machine_info(), **settings, "rows": rows}
            harness.write_json(arguments.output, {**record, "ratios": ratios(rows)})
    for env, ratio in ratios(rows).items():
        at_least = "at least " if ratio["bound"] else ""
        print(f"{env}: popjaxrl takes {at_least}{ratio['times']:.1f} times as long")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--popjaxrl", help="a clean clone of popjaxrl; without, ours alone")
    parser.add_argument("--envs", nargs="+", choices=ENVS, default=list(ENVS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threshold", type=float, default=0.9)
    parser.add_argument("--times", type=float, default=20, help="ours; then the other is stopped")
    parser.add_argument("--steps", type=int, default=15_000_000, help="of popjaxrl, at most")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()

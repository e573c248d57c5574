"""What checkpoints, logging and evaluation cost beside the training itself.

    python -m benchmarks.speed.overhead [--runs ppo dreamer]

Each run is a real one, as `ssmrl train` makes it, with checkpoints and evaluations far more often
than anybody wants them. The device is let finish before each part, so that the processor time that
passes is that part's own, background threads and all; the clock would count other programs too.
What a part costs at given intervals is then its cost a time, by how often it comes. Evaluations are
off by default; what they cost is what they play, so they are given at the interval of checkpoints,
and in steps of training as well. Writes JSON.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from benchmarks import harness
from ssmrl.experiment import COMPONENTS
from ssmrl.training import loop
from ssmrl.training.cli import compose_training
from ssmrl.training.config import TrainConfig
from ssmrl.training.loading import build_agent
from ssmrl.training.progress import PlainReporter
from ssmrl.training.run_training import run_training

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "benchmarks/results/overhead.json"
PPO = ("agent=ppo", "memory=s5", "env=popgym/repeat_previous_easy")
RUNS: dict[str, tuple[tuple[str, ...], int]] = {
    "ppo": (PPO, 24),
    # Iterations that are as short as they are let be: the most lines of metrics by second.
    "ppo, small": (
        (*PPO, "memory.features=32", "agent.num_envs=16", "agent.rollout_length=32"),
        96,
    ),
    "dreamer": (("experiment=dreamer_nano",), 20),
}
"""Settings, and for how many iterations they are trained."""
PARTS = ("iteration", "logging", "checkpoint", "evaluation")
GOAL = 0.02


class Meter:
    """Puts itself around the parts of the training loop and notes what each takes.

    Attributes:
        spent: processor seconds of every time that a part ran.
        waited: seconds for which a checkpoint kept the loop's own thread busy; the rest of its
            cost is a background thread's.
    """

    def __init__(self) -> None:
        self.spent: dict[str, list[float]] = {part: [] for part in PARTS}
        self.waited: list[float] = []

    def __enter__(self) -> "Meter":
        inner = self._inner = loop._Loop
        meter = self

        class Metered(inner):  # type: ignore[valid-type, misc]
            def _compile(self, state):
                compiled, state, seconds = super()._compile(state)

                def iteration(state):
                    return meter.measure("iteration", lambda: compiled(state))

                return iteration, state, seconds

            def _finish(self, *pending):
                meter.measure("logging", lambda: super(Metered, self)._finish(*pending))

            def _evaluate(self, step, state):
                return meter.measure(
                    "evaluation", lambda: super(Metered, self)._evaluate(step, state)
                )

            def _save(self, step, state):
                def save():
                    began = time.thread_time()
                    super(Metered, self)._save(step, state)
                    meter.waited.append(time.thread_time() - began)
                    self.checkpoints.wait()

                meter.measure("checkpoint", save)

        loop._Loop = Metered
        return self

    def __exit__(self, *_: object) -> None:
        loop._Loop = self._inner

    def measure(self, part: str, call: Callable[[], Any]) -> Any:
        """Call it, wait for what it gives, and note the processor time of the whole process."""
        began = time.process_time()
        result = jax.block_until_ready(call())
        self.spent[part].append(time.process_time() - began)
        return result


def measured(settings: tuple[str, ...], iterations: int) -> dict[str, Any]:
    """Train for so many iterations; seconds of processor time of each part, and its shares."""
    config = compose_training([*settings], COMPONENTS, ROOT / "configs")
    size = build_agent(COMPONENTS, config)[0].steps_per_iteration
    total = iterations * size
    often = max(1, iterations // 6) * size
    with tempfile.TemporaryDirectory() as folder, Meter() as meter:
        overrides = [
            *settings,
            *(f"run_dir={folder}/run", f"total_steps={total}"),
            *(f"checkpoint_every={often}", f"eval_every={often}"),
        ]
        run_training(
            compose_training(overrides, COMPONENTS, ROOT / "configs"),
            COMPONENTS,
            reporter=PlainReporter(),
        )
    return {"settings": list(settings), "steps_per_iteration": size, **shares(meter, config, size)}


def shares(meter: Meter, config: TrainConfig, size: int) -> dict[str, Any]:
    """What each part costs, as a share of the iterations between two of it.

    Args:
        meter: of a run.
        config: whose intervals are meant.
        size: steps of an iteration.
    """
    # The first of each traces and compiles something; of a Dreamer's iterations the first only
    # collect. The later half is what a long training consists of.
    typical = {
        part: statistics.median(times[len(times) // 2 :]) for part, times in meter.spent.items()
    }
    per_step = typical["iteration"] / size
    every = {
        "logging": size,
        "checkpoint": config.checkpoint_every,
        "evaluation": config.eval_every,
    }
    found = {
        part: typical[part] / (per_step * interval) if interval else 0.0
        for part, interval in every.items()
    }
    evaluated = typical["evaluation"] / (per_step * config.checkpoint_every)
    return {
        "seconds": typical,
        "checkpoint_blocks_seconds": statistics.median(meter.waited[len(meter.waited) // 2 :]),
        "all_seconds": meter.spent,
        "intervals": every,
        "shares": found,
        "share": sum(found.values()),
        "evaluation_every_checkpoint": evaluated,
        "evaluation_as_steps_of_training": typical["evaluation"] / per_step,
    }


def show(runs: dict[str, dict[str, Any]]) -> None:
    """A row a run."""
    headers = ["run", "ms/iteration", "logging %", "checkpoint %", "together %", "+ evaluation %"]
    rows = [
        [
            name,
            1e3 * run["seconds"]["iteration"],
            *(100 * run["shares"][part] for part in ("logging", "checkpoint")),
            100 * run["share"],
            100 * (run["share"] + run["evaluation_every_checkpoint"]),
        ]
        for name, run in runs.items()
    ]
    harness.print_table(headers, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    record = json.loads(options.output.read_text()) if options.output.exists() else {"runs": {}}
    for name in options.runs:
        record["runs"][name] = measured(*RUNS[name]) | {"machine": harness.machine_info()}
        harness.write_json(options.output, {"benchmark": "overhead", "goal": GOAL} | record)
    show(record["runs"])


if __name__ == "__main__":
    main()

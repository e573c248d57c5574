"""Memory Maze on two cores: PPO with each memory, and what its memory is good for.

    python -m benchmarks.learning.memory_maze [--memories s5 gru none] [--set total_steps=...]
    python -m benchmarks.learning.memory_maze --only-report

Every training is one run folder below --runs; one that is finished is not repeated and one that was
interrupted goes on, so the study can be stopped at any time. Behind each the figure and the JSON
are written anew; `--only-report` writes them of the newest checkpoints, those of trainings under
way included.

Policies are evaluated on fresh mazes as they acted in training, by draws, three times over:

- as trained;
- forgetting: the same with the memory's carry reset every `--forget-every` steps. What is lost is
  what was remembered for longer than that;
- random: uniform actions, whose return is the line to beat.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure

from benchmarks.harness import machine_info, write_json
from ssmrl.experiment import COMPONENTS, load_run, train
from ssmrl.training import streams
from ssmrl.training.cli import compose_training
from ssmrl.training.errors import RunError
from ssmrl.training.evaluation import Evaluator, summarise
from ssmrl.training.plotting import read_curves
from ssmrl.training.run import RunFolder, read_metrics

ROOT = Path(__file__).parents[2]
MEMORIES = ("s5", "gru", "none")
STATELESS = ("none",)
COLOURS = {"s5": "tab:blue", "gru": "tab:orange", "transformer": "tab:red", "none": "tab:green"}


class Forgetful:
    """A policy whose memory starts afresh every so many steps, whatever the environment does.

    Args:
        agent: whose policy.
        every: steps between two fresh starts.
    """

    def __init__(self, agent: Any, every: int):
        self.agent, self.every = agent, every

    def initialize_carry(self, batch_size: int) -> Any:
        """The agent's carry, and the steps since its last fresh start, int32 `[B]`."""
        return self.agent.initialize_carry(batch_size), jnp.zeros(batch_size, jnp.int32)

    def act(self, state, carry, observation, reset, key, *, greedy):
        """As the agent's own `act`."""
        inner, age = carry
        age = jnp.where(reset | (age >= self.every), 0, age)
        inner, action = self.agent.act(state, inner, observation, age == 0, key, greedy=greedy)
        return (inner, age + 1), action


class Uniform:
    """Actions drawn uniformly from the space of `env`."""

    def __init__(self, env: Any):
        self.space = env.action_space

    def initialize_carry(self, batch_size: int) -> Any:
        """Nothing is remembered."""
        return ()

    def act(self, state, carry, observation, reset, key, *, greedy):
        """As an agent's own `act`; the state is not looked at."""
        return carry, jax.vmap(self.space.sample)(jax.random.split(key, len(reset)))


def main() -> int:
    arguments = parse()
    paths = {memory: arguments.runs / memory for memory in arguments.memories}
    for memory, path in paths.items():
        if not arguments.only_report:
            overrides = [f"experiment={arguments.experiment}", f"memory={memory}"]
            overrides += [f"run_dir={path}", "resume=true", *arguments.set]
            outcome = train(compose_training(overrides, COMPONENTS, ROOT / "configs"))
            if outcome.exit_code:  # interrupted: the same command goes on from here
                return outcome.exit_code
            report({m: p for m, p in paths.items() if RunFolder(p).exists()}, arguments)
    if arguments.only_report:
        report({m: p for m, p in paths.items() if RunFolder(p).exists()}, arguments)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default="memory_maze_ppo")
    parser.add_argument("--memories", nargs="+", default=MEMORIES)
    parser.add_argument("--set", nargs="*", default=[], help="further overrides, key=value")
    parser.add_argument("--only-report", action="store_true", help="train nothing")
    parser.add_argument("--episodes", type=int, default=256, help="of each evaluation")
    parser.add_argument("--forget-every", type=int, default=50, help="steps")
    parser.add_argument("--note", default="", help="a caption, for what a reader has to know")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "memory_maze")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "memory_maze_learning.png")
    results = ROOT / "benchmarks/results/memory_maze_learning.json"
    parser.add_argument("--output", type=Path, default=results)
    return parser.parse_args()


def evaluated(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a run's newest checkpoint can do: returns, as trained and forgetting, and at which step.

    Raises:
        RunError: there is no checkpoint.
    """
    run = load_run(path)
    state = run.state
    policies = {"as_trained": run.agent}
    if run.config.memory.name not in STATELESS:
        policies["forgetting"] = Forgetful(run.agent, arguments.forget_every)
    row = {"step": run.step, "memory": run.config.memory.name}
    for name, policy in policies.items():
        row[name] = played(policy, state, run.venv, arguments.episodes)
    row["random"] = played(Uniform(run.venv), state, run.venv, arguments.episodes)
    return row


def played(policy: Any, state: Any, env: Any, episodes: int) -> dict[str, Any]:
    """Mean return of a policy's draws, with its interval; see `summarise`."""
    evaluator = Evaluator(policy, env, episodes=episodes, greedy=False)
    result = summarise([evaluator(state, streams.benchmark_key(1))])
    return {key: result[key] for key in ("episodes", "mean", "mean_interval", "iqm", "max")}


def training(path: Path) -> dict[str, Any]:
    """A run's learning curve, smoothed, and the hours that it took."""
    lines = read_metrics(RunFolder(path).metrics)
    curve = read_curves(path)[0]
    parts = [part for part in np.array_split(np.arange(curve.steps.size), 40) if part.size]
    weights = curve.episodes
    assert weights is not None
    return {
        "steps_done": int(max(line["step"] for line in lines)),
        "hours": hours(lines),
        "final": curve.final,
        "curve": {
            "steps": [int(curve.steps[part[-1]]) for part in parts],
            "returns": [float(np.average(curve.returns[p], weights=weights[p])) for p in parts],
        },
    }


def hours(lines: list[dict[str, Any]]) -> float:
    """What the steps took, by the speed that each line of metrics gives; compiling left out."""
    taken, before = 0.0, 0
    for line in lines:
        if speed := line.get("time/steps_per_second"):
            taken += (line["step"] - before) / speed
            before = line["step"]
    return taken / 3600


def report(paths: dict[str, Path], arguments: argparse.Namespace) -> None:
    """The figure, the data and a table, of what there is so far."""
    rows = {}
    for memory, path in paths.items():
        try:
            rows[memory] = training(path) | evaluated(path, arguments)
        except RunError as error:
            print(f"left out: {error}")
    if not rows:
        return
    record = {"machine": machine_info(), "experiment": arguments.experiment}
    record |= {"set": arguments.set, "note": arguments.note, "seeds": 1}
    record |= {"forget_every": arguments.forget_every, "rows": rows}
    write_json(arguments.output, record)
    draw(rows, arguments)
    print("\n| memory | steps | return | forgetting | random |\n|---|---|---|---|---|")
    for memory, row in rows.items():
        cells = [cell(row.get(name)) for name in ("as_trained", "forgetting", "random")]
        print("|", " | ".join([memory, f"{row['step']:,}", *cells]), "|")


def cell(result: dict[str, Any] | None) -> str:
    """A mean with its interval."""
    if result is None:
        return "–"
    low, high = result["mean_interval"]
    return f"{result['mean']:.2f} [{low:.2f}, {high:.2f}]"


def draw(rows: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Learning curves on the left, the evaluations with their intervals on the right."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    curves, bars = figure.subplots(1, 2)
    for i, (memory, row) in enumerate(rows.items()):
        colour = COLOURS.get(memory)
        steps = np.array(row["curve"]["steps"]) / 1e6
        curves.plot(steps, row["curve"]["returns"], color=colour, label=memory)
        for j, name in enumerate(("as_trained", "forgetting")):
            if name in row:
                low, high = row[name]["mean_interval"]
                mean, x = row[name]["mean"], i + 0.35 * j
                bars.bar(x, mean, 0.33, color=colour, alpha=0.4 if j else 0.9)
                bars.vlines(x, low, high, color="black")
    random = next(iter(rows.values()))["random"]["mean"]
    for axis in (curves, bars):
        axis.axhline(random, color="grey", linestyle=":")
        axis.text(0, random, " random", va="bottom", color="grey")
    curves.set(xlabel="environment steps, millions", ylabel="return of an episode")
    curves.legend()
    bars.set_xticks(range(len(rows)), list(rows))
    bars.set(ylabel="return, fresh mazes")
    bars.set_title(f"pale: memory reset every {arguments.forget_every} steps", fontsize="medium")
    if arguments.note:
        figure.supxlabel(arguments.note, fontsize="small")
    arguments.figure.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(arguments.figure, dpi=100)


if __name__ == "__main__":
    sys.exit(main())

"""Memory Maze on two cores: PPO with each memory, and what its memory is good for.

    python -m benchmarks.learning.memory_maze [--memories s5 gru none] [--set total_steps=...]
    python -m benchmarks.learning.memory_maze --only-report

Every training is one run folder below --runs; one that is finished is not repeated and one that was
interrupted goes on, so the study can be stopped at any time. Behind each the figure and the JSON
are written anew, with the rows of other memories that the JSON has of the same study;
`--only-report` writes them of the newest checkpoints, those of trainings under way included.

Policies are evaluated on fresh mazes as they acted in training, by draws: as trained, and with the
memory's carry reset every `--forget-every` steps. What those lose is what the policy gets from
remembering longer than that. Uniform actions are the line to beat. All begin in the same mazes.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import machine_info, write_json
from benchmarks.learning.studies import ROOT, earlier_rows, train_into
from ssmrl.experiment import load_run
from ssmrl.figures import label_lines, memory_line, panels, save, steps_axis, styled
from ssmrl.training import streams
from ssmrl.training.controls import ForgetsEvery, RandomAgent
from ssmrl.training.errors import RunError
from ssmrl.training.evaluation import Evaluator, bootstrap
from ssmrl.training.plotting import read_curves
from ssmrl.training.run import RunFolder, read_metrics

MEMORIES = ("s5", "gru", "none")
KEPT = "memory_maze_study.json"
"""In a run's folder: its last evaluation."""


def main() -> int:
    arguments = parse()
    paths = {memory: arguments.runs / memory for memory in arguments.memories}
    for memory, path in paths.items():
        if not arguments.only_report:
            overrides = [f"experiment={arguments.experiment}", f"memory={memory}", *arguments.set]
            if code := train_into(path, overrides):
                return code
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
    help_ = "whose newest checkpoints are played, and not only shown as they were last time"
    parser.add_argument("--evaluate", nargs="*", default=None, help=f"{help_}; default: all")
    parser.add_argument("--episodes", type=int, default=256, help="of each policy, about")
    parser.add_argument("--forget-every", type=int, nargs="+", default=[50, 10], help="steps")
    parser.add_argument("--note", default="", help="a caption, for what a reader has to know")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "memory_maze")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "memory_maze_learning.png")
    results = ROOT / "benchmarks/results/memory_maze_learning.json"
    parser.add_argument("--output", type=Path, default=results)
    return parser.parse_args()


def evaluated(path: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """What a run's newest checkpoint is worth, by policy: returns with intervals, and its step.

    Raises:
        RunError: there is no checkpoint.
    """
    run = load_run(path)
    policies = {"as trained": run.agent}
    policies |= {f"forgets after {n}": ForgetsEvery(run.agent, n) for n in arguments.forget_every}
    policies["random"] = RandomAgent(run.venv)
    row: dict[str, Any] = {"step": run.step}
    for name, agent in policies.items():
        play = Evaluator(agent, run.venv, episodes=arguments.episodes, greedy=False)
        returns = play(run.state, streams.benchmark_key(1)).returns[:, None]
        row[name] = {"episodes": returns.size, **bootstrap(returns)}
    write_json(path / KEPT, row)
    return row


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
    # Of memories whose runs need not be here any more, too.
    same = {name: getattr(arguments, name) for name in ("experiment", "set", "forget_every")}
    rows = earlier_rows(arguments.output, same) or {}
    for memory, path in paths.items():
        try:
            rows[memory] = training(path) | {"machine": machine_info()}
            if arguments.evaluate is None or memory in arguments.evaluate:
                rows[memory]["evaluation"] = evaluated(path, arguments)
            elif (path / KEPT).exists():
                rows[memory]["evaluation"] = json.loads((path / KEPT).read_text())
        except RunError as error:
            print(f"left out: {error}")
    if not rows:
        return
    write_json(arguments.output, same | {"note": arguments.note, "seeds": 1, "rows": rows})
    draw(rows, arguments)
    for memory, row in rows.items():
        print(f"{memory}: {row['steps_done']:,} steps, {row['hours']:.2f} h, {row['final']:.2f}")
        for name, result in policies_of(row):
            low, high = result["mean_interval"]
            print(f"  {name:20} {result['mean']:6.2f} [{low:.2f}, {high:.2f}]")


def policies_of(row: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The policies that were evaluated, and their returns."""
    return [(k, v) for k, v in row.get("evaluation", {}).items() if isinstance(v, dict)]


@styled
def draw(rows: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Learning curves on the left, the evaluations with their intervals on the right."""
    figure, (curves, bars) = panels(2, height=3.0)
    names: list[str] = []
    last = 0.0
    for memory, row in rows.items():
        colour, line = memory_line(memory) or (None, "-")
        steps = np.array(row["curve"]["steps"])
        last = max(last, float(steps[-1]))
        curves.plot(steps, row["curve"]["returns"], line, color=colour, label=memory)
        for name, result in policies_of(row):
            if name == "random":
                curves.axhline(result["mean"], color="grey", linestyle=":")
                continue
            low, high = result["mean_interval"]
            bars.barh(len(names), result["mean"], color=colour, alpha=0.8)
            bars.hlines(len(names), low, high, color="black")
            names.append(f"{memory}, {name}")
    curves.set(ylabel="return of an episode")
    steps_axis(curves, last)
    curves.set_title("training (dotted: random)")
    label_lines(curves)
    bars.set_yticks(range(len(names)), names)
    bars.invert_yaxis()
    bars.set_title("on fresh mazes, 95% intervals")
    if arguments.note:
        figure.supxlabel(arguments.note, fontsize="small")
    arguments.figure.parent.mkdir(parents=True, exist_ok=True)
    save(figure, arguments.figure)


if __name__ == "__main__":
    sys.exit(main())

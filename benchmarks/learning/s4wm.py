"""S4WM's questions: what do world models on different backbones remember, and for how long?

    python -m benchmarks.learning.s4wm [--experiments hallway_50 ...] [--backbones s5 ...]
        [--seeds 0 1 2]

After Deng, Park, Ahn, "Facing Off World Model Backbones: RNNs, Transformers, and S4" (2023), in
worlds of our own that a processor core can learn from (`ssmrl.envs.worlds`): a scripted policy
collects episodes, each world model learns from them for the same number of updates at the same
width, and is then asked about episodes that it has not seen.

- hallway: the sign of the reward at the end, with all seen ("inference") and with all but the sign
  and a few steps imagined from the actions ("imagination").
- doors_keys: half of an episode is seen, the other half imagined: the squared error about whether a
  door is open, at doors that were seen in the first half, and of all that the agent sees.
- rooms: a third is seen, two thirds imagined: how many rooms are predicted wrong, over the horizon.

Every training is a cell of the results' JSON. A cell that is there is not trained again, so the
study can be stopped at any time, and the same command finishes it. Draws the figure, prints the
table.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from benchmarks import harness
from ssmrl.agents.dreamer import DreamerConfig
from ssmrl.agents.dreamer.dreamer import make_dreamer_optimizer
from ssmrl.agents.dreamer.observations import most_likely
from ssmrl.agents.dreamer.offline import collect, train
from ssmrl.agents.dreamer.replay import Batch
from ssmrl.agents.dreamer.world_model import WorldModel, open_loop
from ssmrl.envs import JaxVectorEnv, make
from ssmrl.envs.worlds import LOOKS, POLICIES
from ssmrl.figures import legend_below, memory_line, panels, save, styled
from ssmrl.memory import make_memory
from ssmrl.training import streams

ROOT = Path(__file__).parents[2]
BACKBONES = {"s5": "parallel", "s4": "parallel", "transformer": "parallel", "gru": "recurrent"}
"""Memory and posterior; the GRU with the recurrent one is the RSSM."""
WINDOWS, TESTED = 4096, 256
"""Episodes to learn from, and to be asked about."""
COMMON = {"size": "pico", "bins": 63, "free_bits": 0.0, "warmup": 100, "beta2": 0.99}
"""Of all backbones and experiments. Free bits would hide a door, which is at most ln 2 nats."""
HORIZONS = 8
"""Parts that the imagined steps are divided into, of equal length."""


@dataclass(frozen=True)
class Experiment:
    """One setting.

    Attributes:
        world: one of `ssmrl.envs.worlds.WORLDS`.
        options: of the world.
        length: observations in a window.
        context: how many of them are seen before imagination.
        measure: figures by name from a model's answers.
        updates, batch_size, lr: of the training.
        reward_weight: of the loss of rewards.
    """

    world: str
    options: dict[str, int]
    length: int
    context: int
    measure: str
    updates: int = 800
    batch_size: int = 16
    lr: float = 3e-3
    reward_weight: float = 1.0


def hallway(width: int) -> Experiment:
    """The sign, `width` tiles, the fork and a goal.

    The weight makes up for one reward in many steps. Long hallways come in smaller batches, and the
    longest takes twice as many updates: after 800, S5 and S4 were still guessing.
    """
    length = LOOKS + width + 2
    return Experiment(
        "hallway",
        {"width": width},
        length,
        LOOKS,
        "rewards",
        updates=800 if width <= 200 else 1600,
        batch_size=16 if width <= 100 else 8,
        reward_weight=float(length),
    )


def doors_keys(keys: int) -> Experiment:
    """Eight steps for each of the 2 `keys` places; more places take more updates."""
    length, updates = 16 * keys, 4000 if keys <= 5 else 8000
    options = {"keys": keys, "episode_length": length}
    return Experiment("doors_keys", options, length, length // 2, "doors", updates=updates)


EXPERIMENTS = {
    "hallway_50": hallway(50),
    "doors_keys_3": doors_keys(3),
    "rooms": Experiment(
        "rooms", {"rooms": 4, "episode_length": 96}, 96, 32, "horizon", batch_size=8
    ),
    "hallway_100": hallway(100),
    "doors_keys_5": doors_keys(5),
    "hallway_200": hallway(200),
    "doors_keys_7": doors_keys(7),
    "hallway_400": hallway(400),
}


# ------------------------------------------------------------------------------- one training


@dataclass(frozen=True)
class Study:
    """An experiment on a backbone: the model, and its program, compiled once for all seeds."""

    experiment: Experiment
    model: WorldModel
    gather: Callable[..., Any]
    learn: Callable[..., Any]
    compile_seconds: float


def prepare(experiment: Experiment, backbone: str) -> Study:
    """The model, and compiled programs that collect and learn, each from a key."""
    e = experiment
    env, params = make(f"worlds/{e.world}", **e.options)
    config = DreamerConfig(
        posterior=BACKBONES[backbone], lr=e.lr, reward_weight=e.reward_weight, **COMMON
    )
    # Attention reaches back to the beginning; S4 with its 64 states per feature is too slow here.
    options = {"transformer": {"window": e.length}, "s4": {"state_size": 16}}
    memory = make_memory(backbone, features=config.sizes.deter, **options.get(backbone, {}))
    spaces = (env.observation_space(params), env.action_space(params))
    model = WorldModel(*spaces, memory, config)
    optimizer = make_dreamer_optimizer(config, memory, skip_nonfinite=False)

    def gather(key, episodes):
        venv = JaxVectorEnv(env, params, episodes)
        return collect(venv, POLICIES[e.world], key, e.length)

    gather = jax.jit(gather, static_argnames="episodes")
    learn = jax.jit(partial(train, model, optimizer, updates=e.updates, batch_size=e.batch_size))
    key = streams.benchmark_key(0)  # to compile for: a cell has its own
    data = jax.eval_shape(partial(gather, episodes=WINDOWS), key)[0]
    compiled = harness.compile_timed(learn, data, key)
    return Study(e, model, gather, compiled.call, compiled.lower_seconds + compiled.compile_seconds)


def run_cell(study: Study, seed: int) -> dict[str, Any]:
    """Train one world model and ask it: figures, and what they took."""
    keys = jax.random.split(streams.benchmark_key(seed), 3)
    data, _ = study.gather(keys[0], episodes=WINDOWS)
    test, states = study.gather(keys[1], episodes=TESTED)
    begin = time.perf_counter()
    params, losses = jax.block_until_ready(study.learn(data, keys[2]))
    seconds = time.perf_counter() - begin
    figures = MEASURES[study.experiment.measure](study, params, test, states)
    return {
        "figures": figures,
        "settings": settings(study.experiment),
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "last_loss": float(losses[-50:].mean()),
        "train_seconds": seconds,
        "compile_seconds": study.compile_seconds,
    }


def settings(experiment: Experiment) -> dict[str, Any]:
    """What a cell depends on beside its name, as JSON gives it back."""
    shared = {"windows": WINDOWS, "tested": TESTED, **COMMON}
    return json.loads(json.dumps({**shared, **asdict(experiment)}))


# ---------------------------------------------------------------------------------- questions


def answers(study: Study, params: Any, test: Batch, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted rewards `[T, N]` and observations `[T, N, ...]`, of which `context` were seen."""
    model = study.model

    @jax.jit
    def ask(params, test):
        features = open_loop(model, params, test.observation, test.action, context)
        rewards, _ = model.apply(params, features, method="predict")
        prediction = model.apply(params, features, method="decode")
        return rewards, most_likely(model.observation_space, prediction)[0]

    rewards, observations = jax.device_get(ask(params, test))
    return rewards, observations


def rewards(study: Study, params: Any, test: Batch, states: Any) -> dict[str, Any]:
    """How often the last reward's sign is right; a coin has 0.5."""
    e = study.experiment
    truth = np.asarray(test.reward[-1])
    figures = {}
    for name, context in (("inference", e.length), ("imagination", e.context)):
        predicted = answers(study, params, test, context)[0][-1]
        figures[name] = float(np.mean(np.sign(predicted) == truth))
    return figures


def doors(study: Study, params: Any, test: Batch, states: Any) -> dict[str, Any]:
    """Squared errors of the imagined half, and of its first quarter, the `near` future.

    `constant` is the error of the best guess that knows nothing, `copied` of the last step seen.
    """
    e = study.experiment
    truth = np.asarray(test.observation)
    error = (answers(study, params, test, e.context)[1] - truth) ** 2
    copied = (truth[e.context - 1] - truth) ** 2
    asked = remembered_doors(np.asarray(states.position), np.asarray(states.objects), e.context)
    open_doors = truth[..., -1][asked]
    near = e.context + (e.length - e.context) // 4
    return {
        "door_error": float(error[..., -1][asked].mean()),
        "door_error_near": float(error[:near, :, -1][asked[:near]].mean()),
        "door_error_constant": float(open_doors.var()),
        "all_error": float(error[e.context :].sum(-1).mean()),
        "all_error_copied": float(copied[e.context :].sum(-1).mean()),
    }


def remembered_doors(position: np.ndarray, objects: np.ndarray, context: int) -> np.ndarray:
    """bool `[T, N]`: from `context` on, the agent is at a door where it has been before that.

    Args:
        position: `[T, N]`.
        objects: `[T, N, places]`, as in `ssmrl.envs.worlds.doors_keys.EnvState`.
        context: how many steps are seen.
    """
    places = objects.shape[-1]
    been = (position[:context, :, None] == np.arange(places)).any(0)
    here = np.take_along_axis(objects, position[..., None], -1)[..., 0]
    asked = (here >= places // 2) & np.take_along_axis(been.T, position, 0)
    asked[:context] = False
    return asked


def horizon(study: Study, params: Any, test: Batch, states: Any) -> dict[str, Any]:
    """Shares of wrong rooms over the imagined steps, and of those that are not the last one seen.

    Rooms that were not seen in the context count too: nobody can know them.
    """
    e = study.experiment
    truth = np.asarray(test.observation)
    wrong = answers(study, params, test, e.context)[1] != truth
    copied = truth[e.context - 1] != truth

    def over_horizon(x):
        return [float(part.mean()) for part in np.array_split(x[e.context :], HORIZONS)]

    return {
        "wrong": float(wrong[e.context :].mean()),
        "wrong_copied": float(copied[e.context :].mean()),
        "wrong_over_horizon": over_horizon(wrong),
        "copied_over_horizon": over_horizon(copied),
    }


MEASURES = {"rewards": rewards, "doors": doors, "horizon": horizon}


# ------------------------------------------------------------------------------------- report


def collected(cells: dict[str, Any], experiment: str, backbone: str, figure: str) -> list[float]:
    """The values of a figure, of all seeds that there are."""
    names = (f"{experiment}/{backbone}/{seed}" for seed in range(100))
    return [cells[name]["figures"][figure] for name in names if name in cells]


def summarised(values: list[float]) -> str:
    """`mean [lowest, highest] (seeds)`; without brackets for one seed, `-` for none."""
    if not values:
        return "-"
    text = f"{statistics.mean(values):.3f}"
    if len(values) > 1:
        text += f" [{min(values):.3f}, {max(values):.3f}]"
    return f"{text} ({len(values)})"


FIGURES = {
    "rewards": ("inference", "imagination"),
    "doors": (
        "door_error_near",
        "door_error",
        "door_error_constant",
        "all_error",
        "all_error_copied",
    ),
    "horizon": ("wrong", "wrong_copied"),
}
"""What the table has of each kind of experiment."""


def print_report(cells: dict[str, Any]) -> None:
    """The table: mean, lowest and highest seed, and how many."""
    rows = []
    for name in sorted(EXPERIMENTS):
        for figure in FIGURES[EXPERIMENTS[name].measure]:
            found = [collected(cells, name, backbone, figure) for backbone in BACKBONES]
            rows.append([f"{name} {figure}", *map(summarised, found)])
    harness.print_table(["experiment", *BACKBONES], rows)


@styled
def draw(cells: dict[str, Any], path: Path) -> None:
    """Accuracy over width, errors of doors over keys, wrong rooms over the horizon."""
    figure, axes = panels(3, height=3.6)
    for backbone in BACKBONES:
        colour, own = memory_line(backbone) or (None, "-")
        for question, style in (("inference", "-"), ("imagination", "--")):
            line = {"label": f"{backbone}, {question}", "color": colour, "linestyle": style}
            _plot(axes[0], cells, "hallway", backbone, question, line)
        line = {"label": backbone, "color": colour, "linestyle": own}
        _plot(axes[1], cells, "doors_keys", backbone, "door_error", line)
        found = collected(cells, "rooms", backbone, "wrong_over_horizon")
        if found:
            axes[2].plot(_horizons(), np.mean(found, 0), marker="o", markersize=3, **line)
    grey = {"label": "constant guess", "color": "grey", "linestyle": ":"}
    _plot(axes[1], cells, "doors_keys", next(iter(BACKBONES)), "door_error_constant", grey)
    copied = collected(cells, "rooms", next(iter(BACKBONES)), "copied_over_horizon")
    if copied:
        label = "copy of the last room seen"
        axes[2].plot(_horizons(), np.mean(copied, 0), ":", color="grey", label=label)
    axes[0].axhline(0.5, color="grey", linestyle=":", label="coin")
    axes[0].set(title="reward at the end", xlabel="width of the hallway", ylabel="share right")
    axes[0].set(xscale="log", ylim=(0.4, 1.03))
    axes[0].set_xticks([50, 100, 200, 400], ["50", "100", "200", "400"])
    axes[0].minorticks_off()
    label = "keys (7: twice as many updates)"
    axes[1].set(title="doors, imagined", xlabel=label, ylabel="squared error", ylim=(0, None))
    axes[1].set(xticks=[3, 5, 7])
    axes[2].set(title="rooms, imagined", xlabel="steps ahead", ylabel="share wrong", ylim=(0, None))
    for axis in axes:
        legend_below(axis)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)
    print(f"wrote {path}")


def _plot(axis, cells, world: str, backbone: str, figure: str, line: dict[str, Any]) -> None:
    """Means over the world's settings, with bars from the lowest to the highest seed."""
    named = {name: e for name, e in EXPERIMENTS.items() if e.world == world}
    sizes = {name: next(iter(e.options.values())) for name, e in named.items()}
    found = {sizes[name]: collected(cells, name, backbone, figure) for name in named}
    points = sorted((size, values) for size, values in found.items() if values)
    if points:
        x, values = zip(*points, strict=True)
        mean = [statistics.mean(v) for v in values]
        reach = [[m - min(v) for m, v in zip(mean, values, strict=True)]]
        reach.append([max(v) - m for m, v in zip(mean, values, strict=True)])
        axis.errorbar(x, mean, yerr=reach, marker="o", markersize=3, capsize=2, **line)


def _horizons() -> list[float]:
    """The middle of each part of the imagined steps."""
    e = EXPERIMENTS["rooms"]
    steps = np.arange(1, e.length - e.context + 1)
    return [float(part.mean()) for part in np.array_split(steps, HORIZONS)]


def main() -> None:
    arguments = parse()
    cells = json.loads(arguments.output.read_text())["cells"] if arguments.output.exists() else {}
    asked = itertools.product(arguments.seeds, arguments.experiments, arguments.backbones)
    missing = [ask for ask in asked if not is_done(cells, *ask)]
    study_of = cache(lambda name, backbone: prepare(EXPERIMENTS[name], backbone))
    while missing:
        seed, name, backbone = missing.pop(0)
        cell = run_cell(study_of(name, backbone), seed)
        cells[f"{name}/{backbone}/{seed}"] = cell
        print(name, backbone, seed, json.dumps(cell["figures"]), flush=True)
        # Of the whole study, not only of what was asked for.
        study = itertools.product(arguments.seeds, EXPERIMENTS, BACKBONES)
        left = ["{1}/{2}/{0}".format(*cell) for cell in study if not is_done(cells, *cell)]
        record = {"machine": harness.machine_info(), "missing": left, "cells": cells}
        harness.write_json(arguments.output, record)
    print_report(cells)
    draw(cells, arguments.figure)


def is_done(cells: dict[str, Any], seed: int, name: str, backbone: str) -> bool:
    """Whether a cell is there, with the settings of today."""
    cell = cells.get(f"{name}/{backbone}/{seed}")
    return cell is not None and cell["settings"] == settings(EXPERIMENTS[name])


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiments", nargs="+", default=list(EXPERIMENTS), choices=EXPERIMENTS)
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=BACKBONES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/s4wm.png")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/s4wm.json")
    return parser.parse_args()


if __name__ == "__main__":
    main()

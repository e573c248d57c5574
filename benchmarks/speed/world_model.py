"""World models: a parallel posterior beside recurrent ones, and a whole update beside R2I's own.

    python -m benchmarks.speed.world_model [--r2i CLONE] [--parts backbones update] [--size nano]

- backbones: one training step of the world model alone: encoder, posterior, memory, prior, heads,
  all losses, gradients, and the optimiser's step, on random windows of vectors with resets. No
  environment, no imagination. A parallel posterior on S5, recurrent ones on a GRU and on block
  GRUs; all have the size's width and run in one process in turn. Medians, and the median of the
  ratios to S5 within a round.
- update: one whole update: the world model's step, imagination of 15 steps from every state of the
  batch, and the steps of actor and critic. Ours beside the public code of Recall to Imagine
  (github.com/chandar-lab/Recall2Imagine) from a clean clone, where --r2i says that there is one.
  Both have the layers of `R2I` (its POPGym configuration, shrunk alike) and a process of their own;
  only one computes at any time, in turn. What is not the same: their optimisers are three Adams,
  ours is one LaProp; they return some hundred metrics. Theirs unrolls imagination, as published;
  "r2i_scan" is theirs with its option for a loop (imag_unroll: False), which compiles sooner.

Compile time is tracing, lowering and compiling. Parts and lengths that are not asked for are kept
as they were.
"""

import argparse
import json
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks import harness
from benchmarks.peers import r2i_shim
from benchmarks.speed import world_model_figure
from ssmrl.agents.dreamer import SIZES, Dreamer, DreamerConfig, R2IConfig
from ssmrl.agents.dreamer.dreamer import make_dreamer_optimizer
from ssmrl.agents.dreamer.replay import Batch
from ssmrl.agents.dreamer.world_model import WorldModel, initial_start
from ssmrl.envs import Environment, EpisodeStatistics, JaxVectorEnv, spaces
from ssmrl.memory import make_memory
from ssmrl.training.devices import compiler_options

BACKBONES = {
    "s5": ("parallel", "s5"),
    "gru": ("recurrent", "gru"),
    "block_gru": ("recurrent", "block_gru"),
}
NUMBERS, ACTIONS = 16, 4  # of an observation; discrete
RESET_RATE = 1 / 52
R2I = {
    "layers": 3,
    "norm": "post",
    "activation": "gelu",
    "glu": "full",
    "state_size": 128,
    "blocks": 8,
    "discretization": "bilinear",
}
"""Our memory in the update; its 64 complex states each stand for a conjugate pair."""
SIDES = ("r2i", "r2i_scan", "ssmrl")
PARTS = ("backbones", "update")
ROOT = Path(__file__).parents[2]


# ------------------------------------------------------------------------------------- data


def random_windows(length: int, batch: int) -> dict[str, np.ndarray]:
    """Windows `[T, B]` of episodes with a mean length of 52 steps."""
    rng, shape = np.random.default_rng(0), (length, batch)
    reset = rng.random(shape) < RESET_RATE
    reset[0] = True
    return {
        "observation": rng.normal(size=(*shape, NUMBERS)).astype(np.float32),
        "reset": reset,
        "action": rng.integers(0, ACTIONS, shape),
        "reward": rng.normal(size=shape).astype(np.float32),
    }


def random_batch(length: int, batch: int) -> Batch:
    """`random_windows` as our agent reads them."""
    windows, nothing = random_windows(length, batch), jnp.zeros((length, batch), bool)
    return Batch(
        observation=jnp.asarray(windows["observation"]),
        reset=jnp.asarray(windows["reset"]),
        action=jnp.asarray(windows["action"], jnp.int32),
        reward=jnp.asarray(windows["reward"]),
        known=~nothing,
        terminated=nothing,
        last=nothing,
    )


class Vectors(Environment):
    """The spaces of the windows; an agent is not made without an environment."""

    def reset_env(self, key, params):
        return jnp.zeros(NUMBERS), jnp.zeros(())

    def step_env(self, key, state, action, params):
        never = jnp.zeros((), bool)
        return jnp.zeros(NUMBERS), state, jnp.zeros(()), never, never, {}

    def observation_space(self, params):
        return spaces.Box(-np.inf, np.inf, (NUMBERS,))

    def action_space(self, params):
        return spaces.Discrete(ACTIONS)


# -------------------------------------------------------------------------------- backbones


def make_step(backbone: str, size: str, length: int, batch: int) -> tuple[Any, tuple[Any, ...]]:
    """A jitted training step and its arguments: parameters, optimiser state, batch, key."""
    posterior, name = BACKBONES[backbone]
    config = DreamerConfig(size=size, posterior=posterior)
    memory = make_memory(name, features=SIZES[size].deter)
    env = Vectors()
    model = WorldModel(env.observation_space(None), env.action_space(None), memory, config)
    optimizer = make_dreamer_optimizer(config, memory, skip_nonfinite=False)
    start, data = initial_start(memory, config, batch), random_batch(length, batch)

    def loss(params, data, noise):
        _, losses = model.apply(params, start, data, noise, method="losses")
        return sum(value.mean() for value in losses.values())

    @jax.jit
    def step(params, state, data, key):
        noise = jax.random.gumbel(key, (length, *start.z.shape))
        value, gradient = jax.value_and_grad(loss)(params, data, noise)
        updates, state = optimizer.update(gradient, state, params)
        return optax.apply_updates(params, updates), state, value

    first = (data.observation[:1], data.action[:1], data.reset[:1], jnp.zeros(()))
    params = jax.jit(partial(model.init))(jax.random.key(0), start, *first)
    return step, (params, optimizer.init(params), data, jax.random.key(1))


def measure_backbones(size: str, batch: int, length: int, repeats: int) -> dict[str, Any]:
    """Seconds of one step for each backbone, and the ratios to S5."""
    calls: dict[str, Callable[[], float]] = {}
    compile_seconds, parameters = {}, {}
    for backbone in BACKBONES:
        step, arguments = make_step(backbone, size, length, batch)
        compiled = harness.compile_timed(step, *arguments)
        compile_seconds[backbone] = compiled.lower_seconds + compiled.compile_seconds
        parameters[backbone] = count(arguments[0])
        run = partial(_blocked, compiled.call, arguments)
        run()
        calls[backbone] = partial(harness.seconds, run)
    taken = harness.interleaved(calls, repeats)
    return {
        "length": length,
        "batch": batch,
        "seconds": {name: harness.summary(values) for name, values in taken.items()},
        "ratio_to_s5": {name: median_ratio(values, taken["s5"]) for name, values in taken.items()},
        "compile_seconds": compile_seconds,
        "parameters": parameters,
    }


def _blocked(call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    jax.block_until_ready(call(*arguments))


def median_ratio(above: list[float], below: list[float]) -> float:
    """The median over rounds."""
    return statistics.median(x / y for x, y in zip(above, below, strict=True))


def count(parameters: Any) -> int:
    """Numbers in a pytree."""
    return sum(leaf.size for leaf in jax.tree.leaves(parameters))


# ----------------------------------------------------------------------------------- update


@dataclass(frozen=True)
class Program:
    """One side's update, compiled: `run` makes one and blocks."""

    run: Callable[[], Any]
    parameters: dict[str, int]
    lower_seconds: float
    compile_seconds: float


def our_update(length: int, batch: int) -> Program:
    """Our update. Its state goes on from call to call, and its buffers are handed over."""
    config = R2IConfig(
        size="nano",
        num_envs=batch,
        rollout_length=1,
        batch_size=batch,
        batch_length=length,
        train_ratio=length,
        replay_capacity=batch * length,
    )
    memory = make_memory("s5", features=config.sizes.deter, **R2I)
    env = JaxVectorEnv(Vectors(), None, batch)
    agent = Dreamer(config, memory, EpisodeStatistics(env))
    state = jax.jit(agent.init)(jax.random.key(0))
    learned = [(state.params, state.slow_critic, state.returns, state.optimizer)]
    batch_, key = random_batch(length, batch), jax.random.key(1)

    def step(learned, batch, key):
        return agent.learn(learned, None, batch, key)

    # Fresh buffers: a donated one may not also be another argument's.
    learned[0] = jax.tree.map(jnp.copy, learned[0])
    options = {"donate_argnums": 0, "compiler_options": compiler_options()}  # as runs have them
    program = harness.compile_timed(jax.jit(step, **options), learned[0], batch_, key)

    def run() -> None:
        learned[0], metrics = program.call(learned[0], batch_, key)
        jax.block_until_ready((learned[0], metrics))

    counts = {name: count(part) for name, part in state.params.items()}
    return Program(run, counts, program.lower_seconds, program.compile_seconds)


def their_update(path: str, length: int, batch: int, *, unroll: bool) -> Program:
    """R2I's update, from the clone at `path`, on the same windows."""
    size = SIZES["nano"]
    agent = r2i_shim.Agent(
        path,
        {
            "batch_size": batch,
            "batch_length": length,
            "imag_unroll": unroll,
            "rssm.deter": size.deter,
            "rssm.units": size.deter,
            "rssm.hidden": R2I["state_size"] // 2,  # complex states, without their conjugates
            "rssm.stoch": size.variables,
            "rssm.classes": size.classes,
            r".*head\.units": size.units,
            r"(actor|critic)\.units": size.units,
            r".*\.mlp_units": size.units,
            r".*\.layers": size.layers,
            r".*\.mlp_layers": size.layers,
        },
        numbers=NUMBERS,
        actions=ACTIONS,
    )
    windows = {k: np.swapaxes(v, 0, 1) for k, v in random_windows(length, batch).items()}
    nothing = np.zeros((batch, length), bool)
    data = {
        "observation": windows["observation"],
        "action": np.eye(ACTIONS, dtype=np.float32)[windows["action"]],
        "reward": windows["reward"],
        "is_first": windows["reset"],
        "is_last": nothing,
        "is_terminal": nothing,
    }
    arguments = [*agent.init(data), data]
    program = harness.compile_timed(jax.jit(agent.train), *arguments)

    def run() -> None:
        *arguments[:2], metrics = program.call(*arguments)
        jax.block_until_ready((arguments[:2], metrics))

    counts = agent.parameters(arguments[0])
    return Program(run, counts, program.lower_seconds, program.compile_seconds)


def work(options: argparse.Namespace) -> None:
    """A worker: compiles its side, warms it up, then times an update for each line it is sent."""
    length, batch = options.lengths[0], options.batch
    if options.side == "ssmrl":
        program = our_update(length, batch)
    else:
        program = their_update(options.r2i, length, batch, unroll=options.side == "r2i")
    program.run()
    facts = {
        "parameters": program.parameters,
        "lower_seconds": program.lower_seconds,
        "compile_seconds": program.compile_seconds,
    }
    harness.serve(facts, lambda _: {"seconds": harness.seconds(program.run)})


def measure_update(r2i: str | None, batch: int, length: int, repeats: int) -> dict[str, Any]:
    """Starts a worker for each side, one after the other, then has them run in turn."""
    sides = SIDES if r2i else ("ssmrl",)
    facts, workers = {}, {}
    for side in sides:
        arguments = ["--side", side, "--lengths", str(length), "--batch", str(batch)]
        arguments += ["--r2i", r2i] if r2i else []
        workers[side] = harness.Worker(__spec__.name, arguments)
        facts[side] = workers[side].receive()
    calls = {
        side: lambda worker=worker: worker.ask("run")["seconds"] for side, worker in workers.items()
    }
    taken = harness.interleaved(calls, repeats)
    for side, worker in workers.items():
        worker.close()
        facts[side]["seconds"] = harness.summary(taken[side])
    ours = facts["ssmrl"]
    return {
        "length": length,
        "batch": batch,
        "sides": facts,
        "speed_up": {s: median_ratio(taken[s], taken["ssmrl"]) for s in sides},
        "compile_ratio": {s: _compilation(facts[s]) / _compilation(ours) for s in sides},
    }


def _compilation(facts: dict[str, Any]) -> float:
    return facts["lower_seconds"] + facts["compile_seconds"]


# ------------------------------------------------------------------------------------ record


def show_backbones(rows: list[dict[str, Any]]) -> None:
    """One line for each length."""
    headers = ["length", *(f"{name}, ms" for name in BACKBONES), "gru / s5", "block_gru / s5"]
    cells = [
        [
            str(row["length"]),
            *(1e3 * row["seconds"][name]["median"] for name in BACKBONES),
            *(row["ratio_to_s5"][name] for name in ("gru", "block_gru")),
        ]
        for row in rows
    ]
    harness.print_table(headers, cells)


def show_update(rows: list[dict[str, Any]]) -> None:
    """One line for each length and side."""
    headers = ["length, side", "s", "min", "max", "compile s", "parameters"]
    headers += ["time / ours", "compile / ours"]
    cells = [
        [
            f"{row['length']}, {side}",
            *(facts["seconds"][key] for key in ("median", "min", "max")),
            _compilation(facts),
            sum(facts["parameters"].values()),
            row["speed_up"][side],
            row["compile_ratio"][side],
        ]
        for row in rows
        for side, facts in row["sides"].items()
    ]
    harness.print_table(headers, cells)


def merge(kept: list[dict[str, Any]], rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`rows`, and those of other lengths that were there, by length."""
    lengths = {row["length"] for row in rows}
    others = [row for row in kept if row["length"] not in lengths]
    return sorted(others + rows, key=lambda row: row["length"])


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--r2i", help="a clean clone of Recall2Imagine")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--size", default="nano", choices=SIZES, help="of the backbones")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--update-lengths", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--repeats", type=int, default=10, help="rounds of the backbones")
    parser.add_argument("--update-repeats", type=int, default=5, help="rounds of the update")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/world_model.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/world_model.png")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    options = parse()
    if options.side:
        return work(options)
    kept = json.loads(options.output.read_text()) if options.output.exists() else {}
    record = {"benchmark": "world_model", "machine": {}} | kept
    machine = record["machine"]
    if "backbones" in options.parts:
        machine["backbones"], record["size"] = harness.machine_info(), options.size
        measure = partial(measure_backbones, options.size, options.batch)
        rows = [measure(length, options.repeats) for length in options.lengths]
        record["backbones"] = merge(record.get("backbones", []), rows)
        show_backbones(record["backbones"])
    if "update" in options.parts:
        machine["update"] = harness.machine_info()
        record["r2i_source_sha256"] = options.r2i and harness.source_hash(Path(options.r2i))
        measure = partial(measure_update, options.r2i, options.batch)
        rows = [measure(length, options.update_repeats) for length in options.update_lengths]
        record["update"] = merge(record.get("update", []), rows)
        show_update(record["update"])
    harness.write_json(options.output, record)
    world_model_figure.draw(record, options.figure)


if __name__ == "__main__":
    main()

"""One training step of the world model: a parallel posterior on S5 beside a recurrent one on GRUs.

    python benchmarks/world_model.py [--size nano] [--batch 4] [--lengths 64 256 1024 4096]

The world model alone: encoder, posterior, memory, prior, heads, all losses, gradients, and the
optimiser's step, on random windows of vectors with resets. No environment, no imagination. All
backbones have the size's width and run in one process in turn; medians, and the median of the
ratios to S5 within a round.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import harness
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ssmrl.agents.dreamer import SIZES, DreamerConfig
from ssmrl.agents.dreamer.dreamer import make_dreamer_optimizer
from ssmrl.agents.dreamer.replay import Batch
from ssmrl.agents.dreamer.world_model import WorldModel, initial_start
from ssmrl.envs import spaces
from ssmrl.memory import make_memory

BACKBONES = {
    "s5": ("parallel", "s5"),
    "gru": ("recurrent", "gru"),
    "block_gru": ("recurrent", "block_gru"),
}
OBSERVATIONS, ACTIONS = spaces.Box(-np.inf, np.inf, (16,)), spaces.Discrete(4)
RESET_RATE = 1 / 52
OUTPUT = Path(__file__).parent / "results" / "world_model.json"


def random_batch(length: int, batch: int) -> Batch:
    """A window of observations of episodes with a mean length of 52 steps."""
    rng, shape = np.random.default_rng(0), (length, batch)
    reset = rng.random(shape) < RESET_RATE
    reset[0] = True
    nothing = jnp.zeros(shape, bool)
    return Batch(
        observation=jnp.asarray(rng.normal(size=(*shape, 16)), jnp.float32),
        reset=jnp.asarray(reset),
        action=jnp.asarray(rng.integers(0, 4, shape), jnp.int32),
        reward=jnp.asarray(rng.normal(size=shape), jnp.float32),
        known=~nothing,
        terminated=nothing,
        last=nothing,
    )


def make_step(backbone: str, size: str, length: int, batch: int) -> tuple[Any, tuple[Any, ...]]:
    """A jitted training step and its arguments: parameters, optimiser state, batch, key."""
    posterior, name = BACKBONES[backbone]
    config = DreamerConfig(size=size, posterior=posterior)
    memory = make_memory(name, features=SIZES[size].deter)
    model = WorldModel(OBSERVATIONS, ACTIONS, memory, config)
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


def measure(size: str, batch: int, length: int, repeats: int) -> dict[str, Any]:
    """Seconds of one step for each backbone, and the ratios to S5."""
    calls: dict[str, Callable[[], float]] = {}
    compile_seconds = {}
    for backbone in BACKBONES:
        step, arguments = make_step(backbone, size, length, batch)
        compiled = harness.compile_timed(step, *arguments)
        compile_seconds[backbone] = compiled.lower_seconds + compiled.compile_seconds
        run = partial(_blocked, compiled.call, arguments)
        run()
        calls[backbone] = partial(harness.seconds, run)
    taken = harness.interleaved(calls, repeats)
    ratios = {
        name: statistics.median(x / y for x, y in zip(values, taken["s5"], strict=True))
        for name, values in taken.items()
    }
    return {
        "length": length,
        "batch": batch,
        "seconds": {name: harness.summary(values) for name, values in taken.items()},
        "ratio_to_s5": ratios,
        "compile_seconds": compile_seconds,
    }


def _blocked(call: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    jax.block_until_ready(call(*arguments))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", default="nano", choices=SIZES)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--lengths", type=int, nargs="+", default=[64, 256, 1024, 4096])
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    options = parser.parse_args()
    rows = [
        measure(options.size, options.batch, length, options.repeats) for length in options.lengths
    ]
    harness.print_table(
        ["length", *(f"{name}, ms" for name in BACKBONES), "gru / s5", "block_gru / s5"],
        [
            [
                str(row["length"]),
                *(1e3 * row["seconds"][name]["median"] for name in BACKBONES),
                row["ratio_to_s5"]["gru"],
                row["ratio_to_s5"]["block_gru"],
            ]
            for row in rows
        ],
    )
    record = {"machine": harness.machine_info(), "size": options.size, "rows": rows}
    harness.write_json(options.output, record)


if __name__ == "__main__":
    main()

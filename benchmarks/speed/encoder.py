"""PPO's encoders of pictures on one core: frames a second forward, and forward and backward.

    taskset -c 0 python -m benchmarks.speed.encoder
    taskset -c 0 python -m benchmarks.speed.encoder --pixels 64 --depths 16 32

Pictures are bytes, `[T, B, pixels, pixels, 3]`, scaled inside, as an update has them, and gradients
are taken in a loop, as an agent's are: there XLA compiles convolutions in another way. "acting" is
the forward pass over the B pictures of one step. Compiling is not counted; the cases take turns,
medians over the rounds, and the fastest, which is what a machine with other work to do could have
done. `taskset` is what makes it one core.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from benchmarks import harness
from ssmrl.envs.spaces import Box
from ssmrl.networks.encoders import PICTURE_ENCODERS, ObservationEncoder

OUTPUT = Path(__file__).parents[1] / "results" / "encoder.json"
PASSES = ("acting", "forward", "backward")
"""The last one is forward and backward."""
LOOPS = 2


def measured(encoder: str, depth: int, pixels: int, args: argparse.Namespace) -> dict[str, Any]:
    """A timed call for each of `PASSES` that returns seconds a frame, run once before."""
    shape = (args.steps, args.envs, pixels, pixels, 3)
    pictures = jnp.asarray(np.random.default_rng(0).integers(0, 256, shape, np.uint8))
    space = Box(0, 255, shape[2:], np.uint8)
    module = ObservationEncoder(space, picture_encoder=encoder, picture_depth=depth)
    variables = module.init(jax.random.key(0), pictures[:1])
    forward = jax.jit(module.apply)
    gradient = jax.grad(lambda v, x: jnp.square(module.apply(v, x)).sum())

    def descend(variables: Any, x: jax.Array) -> Any:
        def step(_: int, variables: Any) -> Any:
            gradients = gradient(variables, x)
            return jax.tree.map(lambda v, g: v - 1e-6 * g, variables, gradients)

        return lax.fori_loop(0, LOOPS, step, variables)

    backward = jax.jit(descend)
    functions = {"acting": forward, "forward": forward, "backward": backward}

    def timed(name: str) -> Callable[[], float]:
        x = pictures[0] if name == "acting" else pictures
        function = functions[name].lower(variables, x).compile()

        def once() -> float:
            start = time.perf_counter()
            jax.block_until_ready(function(variables, x))
            frames = x.size // space.low.size * (LOOPS if name == "backward" else 1)
            return (time.perf_counter() - start) / frames

        def call() -> float:
            # A step takes a millisecond: the first ones behind another case find cold caches.
            return statistics.median(once() for _ in range(args.steps if name == "acting" else 1))

        call()
        return call

    return {name: timed(name) for name in PASSES}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--pixels", type=int, nargs="+", default=[64, 32])
    parser.add_argument("--encoders", nargs="+", default=PICTURE_ENCODERS)
    parser.add_argument("--depths", type=int, nargs="+", default=[16, 32])
    parser.add_argument("--steps", type=int, default=16, help="T")
    parser.add_argument("--envs", type=int, default=32, help="B")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")

    keys = [(e, d, p) for p in args.pixels for e in args.encoders for d in args.depths]
    calls = {f"{key} {name}": call for key in keys for name, call in measured(*key, args).items()}
    taken = harness.interleaved(calls, args.repeats)
    rows, results = [], []
    for key in keys:
        seconds = {name: taken[f"{key} {name}"] for name in PASSES}
        frames = {name: 1 / statistics.median(each) for name, each in seconds.items()}
        labels = dict(zip(("encoder", "depth", "pixels"), key, strict=True))
        fastest = {name: 1 / min(each) for name, each in seconds.items()}
        results.append(labels | {"frames_per_second": frames, "fastest": fastest})
        results[-1]["seconds_per_frame"] = seconds
        rows.append([*key, *(f"{frames[name]:,.0f} ({fastest[name]:,.0f})" for name in PASSES)])
    headers = ["encoder", "depth", "pixels", "acting", "forward", "forward + backward"]
    harness.print_table([*headers[:3], *(f"{name} (fastest)" for name in headers[3:])], rows)
    record = {"benchmark": "encoder", "machine": harness.machine_info()}
    record |= {"steps": args.steps, "envs": args.envs, "repeats": args.repeats}
    harness.write_json(args.output, record | {"cases": results})


if __name__ == "__main__":
    main()

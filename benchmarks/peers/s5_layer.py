"""One S5 layer, forward and backward: ours, popjaxrl's, and the matrix products alone.

    python -m benchmarks.peers.s5_layer --popjaxrl PATH_TO_A_CLEAN_CLONE

256 features, 256 states (128 conjugate pairs), full GLU, skip, no norm, with resets. All three run
in one process on the CPU, in turn; medians, and the median of the ratios within a round. Each call
computes the output and, from a given cotangent, the gradients of the parameters and the input.
First of all, ours gets popjaxrl's parameters and must give its outputs and input gradients.

"products" is the floor: the real matrix products of the layer, forward and backward. B and C as
real pairs are one 256x256 product each (real and imaginary parts side by side), the GLU's two are
one of 256x512. No recurrence, no elementwise work.

The second table is our layer alone at batch 1 from 128 to 65,536 steps: the time per step should
not grow.
"""

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from benchmarks.peers import memories as peers
from benchmarks.peers import popjaxrl_shim

FEATURES, STATES = 256, 256
SHAPES = ((128, 64), (1024, 16), (8192, 2))
LENGTHS = (128, 512, 2048, 8192, 32768, 65536)
RESET_RATE = 1 / 52  # episodes of the length of RepeatPreviousEasy
OUTPUT = Path(__file__).parents[1] / "results" / "s5_layer.json"

Forward = Callable[[Any, jax.Array, jax.Array], Any]


def our_layer(batch: int) -> tuple[Forward, Any]:
    """Our layer as a function of (parameters, x, reset), and its parameters."""
    from ssmrl.memory import make_memory

    options = {"state_size": STATES, "glu": "full", "norm": "none"}
    memory = make_memory("s5", features=FEATURES, layers=1, **options)
    carry = memory.initialize_carry((batch,))
    x, reset = jnp.zeros((1, batch, FEATURES)), jnp.zeros((1, batch), bool)
    parameters = memory.init(jax.random.key(0), carry, x, reset)
    return lambda params, x, reset: memory.apply(params, carry, x, reset)[1], parameters


def popjaxrl_layer(batch: int) -> tuple[Forward, Any]:
    """popjaxrl's SequenceLayer, configured as its run_popgym.py does."""
    from algorithms.s5 import SequenceLayer, init_S5SSM, make_DPLR_HiPPO

    ssm = peers.s5_ssm(init_S5SSM, make_DPLR_HiPPO, FEATURES, STATES)
    flags = {"do_norm": False, "prenorm": False, "do_gtrxl_norm": False}
    layer = SequenceLayer(ssm=ssm, d_model=FEATURES, activation="full_glu", **flags)
    carry = SequenceLayer.initialize_carry(batch, STATES // 2)
    x, reset = jnp.zeros((1, batch, FEATURES)), jnp.zeros((1, batch), bool)
    parameters = layer.init(jax.random.key(0), carry, x, reset)
    return lambda params, x, reset: layer.apply(params, carry, x, reset)[1], parameters


def products_alone(batch: int) -> tuple[Forward, Any]:
    """The layer's real matrix products on rows of (time x batch)."""
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((FEATURES, STATES), (STATES, FEATURES), (FEATURES, 2 * FEATURES))
    pairs = zip(keys, shapes, strict=True)
    parameters = [jax.random.normal(key, shape) / shape[0] ** 0.5 for key, shape in pairs]

    def forward(params: Any, x: jax.Array, reset: jax.Array) -> jax.Array:
        rows = x.reshape(-1, FEATURES)
        for matrix in params:
            rows = rows @ matrix
        return rows

    return forward, parameters


SYSTEMS = {"ssmrl": our_layer, "popjaxrl": popjaxrl_layer, "products": products_alone}


def compiled_step(system: str, time: int, batch: int) -> tuple[Callable[[], float], dict[str, Any]]:
    """A call that times forward+backward, and what compiling it took. Runs it once, untimed."""
    forward, parameters = SYSTEMS[system](batch)
    keys = jax.random.split(jax.random.key(1), 3)
    x = jax.random.normal(keys[0], (time, batch, FEATURES))
    reset = jax.random.bernoulli(keys[1], RESET_RATE, (time, batch))
    output = jax.eval_shape(forward, parameters, x, reset)
    cotangent = jax.random.normal(keys[2], output.shape, output.dtype)

    def step(params: Any, x: jax.Array, reset: jax.Array, cotangent: jax.Array) -> Any:
        y, backward = jax.vjp(lambda params, x: forward(params, x, reset), params, x)
        return y, backward(cotangent)

    arguments = (parameters, x, reset, cotangent)
    program = harness.compile_timed(jax.jit(step), *arguments)
    jax.block_until_ready(program.call(*arguments))
    facts = {
        "lower_seconds": program.lower_seconds,
        "compile_seconds": program.compile_seconds,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(parameters)),
    }
    run = lambda: jax.block_until_ready(program.call(*arguments))  # noqa: E731
    return lambda: harness.seconds(run), facts


def measure(systems: list[str], time: int, batch: int, repeats: int) -> dict[str, Any]:
    """All systems at one shape, in turn."""
    steps = {system: compiled_step(system, time, batch) for system in systems}
    taken = harness.interleaved({system: call for system, (call, _) in steps.items()}, repeats)
    return {
        system: facts | {"seconds": harness.summary(taken[system])}
        for system, (_, facts) in steps.items()
    }


def check_same_layer(time: int = 200, batch: int = 3) -> dict[str, float]:
    """With popjaxrl's parameters in it, our layer must be the same function, resets included.

    Returns the largest differences relative to the largest value. Raises ValueError above 1e-3.
    """
    (ours, our_parameters), (theirs, their_parameters) = our_layer(batch), popjaxrl_layer(batch)
    x = jax.random.normal(jax.random.key(1), (time, batch, FEATURES))
    reset = jax.random.bernoulli(jax.random.key(2), RESET_RATE, (time, batch))
    sides = ((ours, convert(their_parameters, our_parameters)), (theirs, their_parameters))
    pairs = {
        "output": [_output(forward, params, x, reset) for forward, params in sides],
        "input_gradient": [_input_gradient(forward, params, x, reset) for forward, params in sides],
    }
    relative = {
        name: float(jnp.abs(mine - other).max() / jnp.abs(other).max())
        for name, (mine, other) in pairs.items()
    }
    if not max(relative.values()) < 1e-3:
        raise ValueError(f"not the same layer; largest relative differences: {relative}")
    return relative


@partial(jax.jit, static_argnums=0)
def _output(forward: Forward, params: Any, x: jax.Array, reset: jax.Array) -> jax.Array:
    return forward(params, x, reset)


@partial(jax.jit, static_argnums=0)
def _input_gradient(forward: Forward, params: Any, x: jax.Array, reset: jax.Array) -> jax.Array:
    return jax.grad(lambda x: jnp.sum(forward(params, x, reset) ** 2))(x)


def convert(theirs: Any, ours: Any) -> Any:
    """popjaxrl's parameters of a layer in the places of ours, matched by name."""
    layer = theirs["params"]
    ssm = layer["seq"]
    B, C = ssm["B"], ssm["C"]
    named = {
        "log_decay": jnp.log(-ssm["Lambda_re"]),
        "frequency": ssm["Lambda_im"],
        "log_step": ssm["log_step"][:, 0],
        "B": jnp.concatenate([B[..., 0].T, B[..., 1].T], axis=1),
        "C": jnp.concatenate([2 * C[..., 0].T, -2 * C[..., 1].T]),
        "D": ssm["D"],
        "kernel": jnp.concatenate([layer[name]["kernel"] for name in ("out1", "out2")], axis=1),
        "bias": jnp.concatenate([layer[name]["bias"] for name in ("out1", "out2")]),
    }
    return jax.tree.map_with_path(lambda path, leaf: named[path[-1].key].reshape(leaf.shape), ours)


def compare_shapes(systems: list[str], repeats: int) -> list[dict[str, Any]]:
    """Every shape, every system, with ratios to ours where ours runs; prints the table."""
    cases = []
    for time, batch in SHAPES:
        results = measure(systems, time, batch, repeats)
        ratios = ours_over(results) if "ssmrl" in systems else {}
        cases.append({"time": time, "batch": batch, "results": results, "ours_over": ratios})
    headers = ["(T, B)", "system", "ms", "min", "max", "compile s", "ours / it"]
    harness.print_table(headers, [row for case in cases for row in _case_rows(case)])
    return cases


def ours_over(results: dict[str, Any]) -> dict[str, float]:
    """Our time over each other system's: the median over the rounds, so that drift cancels."""
    rounds = {system: facts["seconds"]["values"] for system, facts in results.items()}
    ours = rounds.pop("ssmrl")
    return {
        system: statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        for system, theirs in rounds.items()
    }


def _case_rows(case: dict[str, Any]) -> list[list[Any]]:
    return [
        [
            f"({case['time']}, {case['batch']})",
            system,
            *(1e3 * facts["seconds"][key] for key in ("median", "min", "max")),
            facts["lower_seconds"] + facts["compile_seconds"],
            case["ours_over"].get(system),
        ]
        for system, facts in case["results"].items()
    ]


def linearity(system: str, repeats: int) -> list[dict[str, Any]]:
    """One system at batch 1 over growing lengths; prints the time of a step and of a compilation.

    The lengths are measured in turn, like the systems above.
    """
    steps = {length: compiled_step(system, length, 1) for length in LENGTHS}
    taken = harness.interleaved({length: call for length, (call, _) in steps.items()}, repeats)
    cases = [
        {"time": length, "batch": 1, "seconds": harness.summary(taken[length])} | steps[length][1]
        for length in LENGTHS
    ]
    for case in cases:
        case["microseconds_per_step"] = 1e6 * case["seconds"]["median"] / case["time"]
    rows = [
        [
            f"{case['time']:,}",
            1e3 * case["seconds"]["median"],
            case["microseconds_per_step"],
            case["lower_seconds"] + case["compile_seconds"],
        ]
        for case in cases
    ]
    harness.print_table([f"T ({system}, B = 1)", "ms", "us a step", "compile s"], rows)
    return cases


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--popjaxrl", required=True, help="a clean clone of popjaxrl")
    parser.add_argument("--repeats", type=int, default=15, help="timed calls of each system")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    popjaxrl_shim.install_layer(args.popjaxrl)
    record = {"benchmark": "s5_layer"}
    if {"ssmrl", "popjaxrl"} <= set(args.systems):
        record["relative_difference"] = check_same_layer()
        print("ours and popjaxrl's, same parameters:", record["relative_difference"])
    record |= {
        "machine": harness.machine_info(),
        "popjaxrl_source_sha256": harness.source_hash(Path(args.popjaxrl)),
        "sizes": {"features": FEATURES, "states": STATES, "reset_rate": RESET_RATE},
        "repeats": args.repeats,
        "shapes": compare_shapes(args.systems, args.repeats),
    }
    if "ssmrl" in args.systems:
        record["linearity"] = linearity("ssmrl", args.repeats)
    harness.write_json(args.output, record)


if __name__ == "__main__":
    main()

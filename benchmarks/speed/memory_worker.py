"""The worker of `memory.py`: compiles one layer at a time, alone or beside a peer's, and times it.

It reads one JSON request a line and answers with figures, or with `{"refused": why}`. A request
that takes too long is ended from outside, with the process.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from benchmarks.peers import memories as peers

RESET_RATE = 1 / 52  # episodes of the length of RepeatPreviousEasy
SLOW = 1.0  # seconds a call, above which three rounds must do
CALLS = 100  # single steps that are timed together, as one takes microseconds


@dataclass(frozen=True)
class Program:
    """A compiled program with its arguments, and the facts about it."""

    call: Callable[..., Any]
    arguments: tuple
    facts: dict[str, Any]

    def run(self) -> None:
        """One execution, to its end."""
        jax.block_until_ready(self.call(*self.arguments))

    def seconds(self) -> float:
        """Wall time of one execution."""
        return harness.seconds(self.run)


class Refused(Exception):
    """The program would not fit into the memory that it may have."""


def compiled(function: Callable[..., Any], arguments: tuple, bytes_limit: int) -> Program:
    """Compiles `function` for `arguments` and runs it once.

    Raises:
        Refused: where XLA plans for more than `bytes_limit` of temporaries and outputs.
    """
    program = harness.compile_timed(jax.jit(function), *arguments)
    plan = program.call.memory_analysis()
    peak = plan.temp_size_in_bytes + plan.output_size_in_bytes
    if peak > bytes_limit:
        raise Refused(f"needs {peak / 2**30:.1f} GiB")
    facts = {
        "lower_seconds": program.lower_seconds,
        "compile_seconds": program.compile_seconds,
        "peak_bytes": peak,
    }
    result = Program(program.call, arguments, facts)
    result.run()
    return result


def training_program(layer: peers.Layer, request: dict[str, Any]) -> Program:
    """Outputs and, from a given cotangent, gradients of parameters and inputs."""
    x, reset, cotangent = inputs(layer, request)

    def step(parameters, carry, x, reset, cotangent):
        forward = lambda parameters, x: layer.run(parameters, carry, x, reset)[1]  # noqa: E731
        y, backward = jax.vjp(forward, parameters, x)
        return y, backward(cotangent)

    arguments = (layer.parameters, layer.carry, x, reset, cotangent)
    program = compiled(step, arguments, request["bytes_limit"])
    program.facts["parameters"] = layer.parameter_count
    return program


def inputs(layer: peers.Layer, request: dict[str, Any]) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x, reset and the output's cotangent, in the layer's order of axes."""
    time, batch, features = request["time"], request["batch"], request["features"]
    keys = jax.random.split(jax.random.key(1), 3)
    x = jax.random.normal(keys[0], (time, batch, features))
    rate = RESET_RATE if request["resets"] else 0.0
    reset = jax.random.bernoulli(keys[1], rate, (time, batch)).at[0].set(True)
    if layer.batch_major:
        x, reset = jnp.swapaxes(x, 0, 1), reset.T
    x = x.astype(request.get("dtype", jnp.float32))
    y = jax.eval_shape(layer.forward, layer.parameters, x, reset)
    return x, reset, jax.random.normal(keys[2], y.shape, y.dtype)


def acting_program(layer: peers.Layer, request: dict[str, Any]) -> Program:
    """A single step of a single environment, without gradients."""
    x, reset, _ = inputs(layer, request)
    return compiled(layer.run, (layer.parameters, layer.carry, x, reset), request["bytes_limit"])


def products_program(layer: peers.Layer, request: dict[str, Any]) -> Program | None:
    """The layer's matrix products outside of loops, forward and backward: a floor of its time."""
    x, reset, _ = inputs(layer, request)
    rows = request["time"] * request["batch"]
    program = jax.make_jaxpr(layer.forward)(layer.parameters, x, reset)
    shapes = list(matrix_products(program.jaxpr, rows))
    if not shapes:
        return None

    def products(inputs, matrices, cotangents):
        triples = zip(inputs, matrices, cotangents, strict=True)
        return [(x @ matrix, x.T @ y, y @ matrix.T) for x, matrix, y in triples]

    ones = jnp.ones
    arguments = (
        [ones((rows, K)) for K, _ in shapes],
        [ones(shape) for shape in shapes],
        [ones((rows, M)) for _, M in shapes],
    )
    return compiled(products, arguments, request["bytes_limit"])


def matrix_products(jaxpr: Any, rows: int) -> Iterator[tuple[int, int]]:
    """The K x M of all products `[rows, K] @ [K, M]` in a jaxpr; `rows` is time x batch."""
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            left, right = (operand.aval.shape for operand in equation.invars)
            if len(right) == 2 and left == (rows, right[0]):
                yield right
        # Of a choice by platform or condition the branches hold the same products, if any.
        inner = equation.params.get("branches", tuple(equation.params.values()))
        for part in inner[:1] if "branches" in equation.params else inner:
            part = getattr(part, "jaxpr", part)
            if hasattr(part, "eqns"):
                yield from matrix_products(part, rows)


def timed(programs: dict[str, Program], repeats: int) -> dict[str, dict[str, Any]]:
    """The facts and times of all programs, run in turn."""
    slow = any(program.seconds() > SLOW for program in programs.values())
    calls = {name: program.seconds for name, program in programs.items()}
    taken = harness.interleaved(calls, min(repeats, 3) if slow else repeats)
    return {
        name: program.facts | {"seconds": harness.summary(taken[name])}
        for name, program in programs.items()
    }


def measure_training(request: dict[str, Any]) -> dict[str, Any]:
    """Our memory and its products at one shape."""
    layer = our_layer(request, request.get("options", {}))
    programs = {"ssmrl": training_program(layer, request)}
    products = products_program(layer, request)
    if products is not None:
        programs["products"] = products
    return timed(programs, request["repeats"])


def measure_acting(request: dict[str, Any]) -> dict[str, Any]:
    """Latency of a single step of our memory, and its sizes."""
    layer = our_layer(request, {})
    program = acting_program(layer, request)

    def latency() -> float:
        return harness.seconds(lambda: [program.run() for _ in range(CALLS)]) / CALLS

    latency()
    taken = [latency() for _ in range(request["repeats"])]
    sizes = {"parameters": layer.parameter_count, "state": state_size(layer.carry)}
    return program.facts | sizes | {"seconds": harness.summary(taken)}


def state_size(carry: Any) -> int:
    """Real numbers that a memory carries from step to step; counters and flags do not count."""
    leaves = [leaf for leaf in jax.tree.leaves(carry) if jnp.issubdtype(leaf.dtype, jnp.inexact)]
    return sum(leaf.size * (1 + jnp.iscomplexobj(leaf)) for leaf in leaves)


def measure_peer(request: dict[str, Any]) -> dict[str, Any]:
    """Our memory and one peer's, of the same size."""
    (peer,) = peers.peers_of(request["memory"], [request["library"]])
    features, time, batch = (request[key] for key in ("features", "time", "batch"))
    programs = {
        "ssmrl": training_program(our_layer(request, peer.options(features, time)), request),
        peer.library: training_program(peer.layer(features, time, batch), request),
    }
    return timed(programs, request["repeats"])


def measure_precision(request: dict[str, Any]) -> dict[str, Any]:
    """Training in both precisions, and the error of bfloat16 outputs relative to float32's."""
    layer = our_layer(request, {})
    kinds = ("float32", "bfloat16")
    requests = {dtype: request | {"dtype": dtype} for dtype in kinds}
    programs = {dtype: training_program(layer, asked) for dtype, asked in requests.items()}
    outputs = []
    for asked in requests.values():
        x, reset, _ = inputs(layer, asked)
        y = jax.jit(layer.forward)(layer.parameters, x, reset)
        outputs.append(y.astype(jnp.float32))
    error = jnp.sqrt(jnp.mean(jnp.square(outputs[1] - outputs[0])) / jnp.mean(outputs[0] ** 2))
    return timed(programs, request["repeats"]) | {"error": float(error)}


def our_layer(request: dict[str, Any], options: dict[str, Any]) -> peers.Layer:
    """The requested memory."""
    sizes = (request["memory"], request["features"], request["batch"])
    return peers.our_layer(*sizes, options)


KINDS = {
    "training": measure_training,
    "acting": measure_acting,
    "peer": measure_peer,
    "precision": measure_precision,
}


def answer(line: str) -> dict[str, Any]:
    """Carries out one request."""
    request = json.loads(line)
    try:
        return KINDS[request["kind"]](request)
    except (Refused, ValueError) as reason:  # too large, or options that cannot be
        return {"refused": str(reason)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--memorax")
    parser.add_argument("--memax")
    args = parser.parse_args()
    if args.memorax:
        peers.install_memorax(args.memorax)
    if args.memax:
        peers.install_memax(args.memax)
    harness.serve({"ready": True}, answer)


if __name__ == "__main__":
    main()

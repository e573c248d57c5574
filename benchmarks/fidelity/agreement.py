"""With the same weights, are our memories and the public ones the same functions?

    python -m benchmarks.fidelity.agreement [--s5 CLONE] [--lru CLONE] [--ffm CLONE]
        [--memorax CLONE] [--memax CLONE] [--memories NAME ...]

Weights go from a peer's layer into ours (`conversions.py`), the same inputs through both. Columns:

- no resets: largest difference of the outputs over the largest output, within one episode.
- resets: the same where episodes begin at random.
- NaN stays: with resets and a NaN in one step of every environment, the share of outputs in other
  episodes that are numbers, ours and theirs. Below 1 a peer multiplies by 0 instead of selecting.
- windows: the peer against itself, in one call and in two with the carry handed on; ours likewise.

A peer that is another function of its inputs is compared where the two coincide; "held" says what
is held for that. S5, LRU, FFM are github.com/lindermanlab/S5, NicolasZucchet/minimal-LRU and
proroklab/ffm (its jax version); FFM and memax need equinox.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from benchmarks.fidelity import conversions as to_ours
from benchmarks.peers import memories as peers

FEATURES, STEPS, BATCH, SPLIT = 32, 48, 4, 19
RESET_RATE = 1 / 8
AGREES = 1e-3
OUTPUT = Path(__file__).parents[1] / "results" / "agreement.json"

Change = Callable[[to_ours.Named], to_ours.Named]


def unchanged(theirs: Any) -> Any:
    """Nothing is held."""
    return theirs


@dataclass(frozen=True)
class Comparison:
    """One peer's layer and ours with its weights.

    Attributes:
        peer: the library; also the option with the path of its clone.
        memory: our name.
        make: the peer's layer.
        convert: its parameters as ours.
        options: ours.
        hold: changes its parameters, where the two are the same function only for some.
        inputs: changes x likewise.
        finish: what follows on our outputs, from its parameters.
        finish_theirs: what follows on its outputs.
        held: `hold`, `inputs` and `finish` in words.
        why: the reason of a disagreement.
    """

    peer: str
    memory: str
    make: Callable[[], peers.Layer]
    convert: Change
    options: dict[str, Any] = field(default_factory=dict)
    hold: Change = unchanged
    inputs: Callable[[jax.Array], jax.Array] = unchanged
    finish: Callable[[jax.Array, to_ours.Named], jax.Array] = lambda y, theirs: y
    finish_theirs: Callable[[jax.Array], jax.Array] = unchanged
    held: str = ""
    why: str = ""


def compare(comparison: Comparison) -> dict[str, Any]:
    """The figures of one comparison."""
    layer = comparison.make()
    theirs = comparison.hold(to_ours.named(layer.parameters))
    parameters = to_ours.fill(layer.parameters, theirs)
    ours = peers.our_layer(comparison.memory, FEATURES, BATCH, comparison.options)
    our_parameters = to_ours.fill(ours.parameters, comparison.convert(theirs))

    our_run = jax.jit(_time_major(ours))
    their_run = jax.jit(_time_major(layer))

    def outputs(x: jax.Array, reset: jax.Array) -> tuple[np.ndarray, np.ndarray]:
        y = comparison.finish(our_run(our_parameters, ours.carry, x, reset)[1], theirs)
        other = their_run(parameters, layer.carry, x, reset)[1]
        return np.asarray(y), np.asarray(comparison.finish_theirs(other))

    keys = jax.random.split(jax.random.key(1), 2)
    x = comparison.inputs(jax.random.normal(keys[0], (STEPS, BATCH, FEATURES)))
    unbroken = jnp.zeros((STEPS, BATCH), bool).at[0].set(True)
    reset = jax.random.bernoulli(keys[1], RESET_RATE, (STEPS, BATCH)).at[0].set(True)
    return {
        "memory": comparison.memory,
        "peer": comparison.peer,
        "no_resets": difference(*outputs(x, unbroken)),
        "resets": difference(*outputs(x, reset)),
        "nan_stays": nan_stays(outputs, x, reset),
        "windows": two_windows(their_run, parameters, layer.carry, x, unbroken),
        "our_windows": two_windows(our_run, our_parameters, ours.carry, x, unbroken),
        "held": comparison.held,
        "why": comparison.why,
    }


def _time_major(layer: peers.Layer) -> Callable[..., Any]:
    """The layer's `run`, time first."""
    if not layer.batch_major:
        return layer.run

    def run(parameters, carry, x, reset):
        carry, y = layer.run(parameters, carry, jnp.swapaxes(x, 0, 1), reset.T)
        return carry, jnp.swapaxes(y, 0, 1)

    return run


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """The largest difference, relative to the largest value of `theirs`."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def nan_stays(outputs: Callable, x: jax.Array, reset: jax.Array) -> tuple[float, float]:
    """The share of outputs outside of the spoilt episode that are numbers: ours, theirs."""
    spoilt = x.at[STEPS // 4].set(jnp.nan)
    episode = np.cumsum(reset, axis=0)
    clean = episode != episode[STEPS // 4]
    ours, theirs = outputs(spoilt, reset)
    return float(np.isfinite(ours[clean]).mean()), float(np.isfinite(theirs[clean]).mean())


def two_windows(run: Callable, parameters: Any, carry: Any, x: jax.Array, reset: jax.Array) -> Any:
    """The difference that it makes to cut a sequence in two; None where there is no carry."""
    if carry is None:
        return None
    whole = run(parameters, carry, x, reset)[1]
    middle, first = run(parameters, carry, x[:SPLIT], reset[:SPLIT])
    _, second = run(parameters, middle, x[SPLIT:], reset[SPLIT:])
    return difference(np.concatenate([first, second]), np.asarray(whole))


def install(library: str, path: str) -> None:
    """Makes the peer's layers importable.

    Raises:
        FileNotFoundError: where `path` is no clone of it.
    """
    if library in ("memorax", "memax"):
        getattr(peers, f"install_{library}")(path)
    else:
        peers.install_single(library, path)


def peer_layer(library: str, memory: str) -> Callable[[], peers.Layer]:
    """What makes the layer that `peers.PEERS` has."""
    (peer,) = peers.peers_of(memory, [library])
    return lambda: peer.layer(FEATURES, STEPS, BATCH)


def changed(changes: dict[str, Callable[[np.ndarray], np.ndarray]]) -> Change:
    """Parameters whose paths end in a name of `changes` are changed, the others are not."""

    def hold(theirs: to_ours.Named) -> to_ours.Named:
        held = dict(theirs)
        for name, change in changes.items():
            for path in [path for path in theirs if f"/{path}".endswith(f"/{name}")]:
                held[path] = change(theirs[path])
        return held

    return hold


def with_a_one(x: jax.Array) -> jax.Array:
    """The first input is 1 throughout."""
    return x.at[..., 0].set(1)


def only_first(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """For kernels `[F, M]`: all of a column of outputs is `value` times the first input."""
    return lambda kernel: np.where(np.arange(len(kernel))[:, None] == 0, value, 0 * kernel)


def mamba2_gates(kernel: np.ndarray) -> np.ndarray:
    """The second half of the columns, which makes the gates, gives 1 behind silu."""
    hidden, gate = np.split(kernel, 2, axis=1)
    return np.concatenate([hidden, only_first(to_ours.ONE)(gate)], axis=1)


def normed(y: jax.Array, epsilon: float = 1e-6) -> jax.Array:
    """Divided by the root of its mean square."""
    return y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + epsilon)


def memorax_output(y: jax.Array, theirs: to_ours.Named) -> jax.Array:
    """The norm and the output product that memorax's linear attention ends with."""
    kernel = theirs["params/cell/output_projection/kernel"]
    return normed(y) * theirs["params/cell/norm/scale"] @ kernel


def zero(parameter: np.ndarray) -> np.ndarray:
    """Zeros in its place."""
    return np.zeros_like(parameter)


OPEN_GATE = changed(
    {"gate_out/linear/weight": zero, "gate_out/linear/bias": lambda b: zero(b) + to_ours.OPEN}
)
GATE_HELD = (
    "output gate at 1, as it multiplies before the norm (paper: after); its norm has ε = 1e-5"
)

COMPARISONS = (
    Comparison("s5", "s5", lambda: peers.single_s5(FEATURES, BATCH), to_ours.s5, why="no resets"),
    Comparison("memorax", "s5", peer_layer("memorax", "s5"), to_ours.memorax_s5),
    Comparison(
        "lru", "lru", lambda: peers.single_lru(FEATURES, BATCH), to_ours.lru, why="no resets"
    ),
    Comparison("memorax", "lru", peer_layer("memorax", "lru"), to_ours.lru),
    Comparison("memax", "lru", peer_layer("memax", "lru"), to_ours.lru),
    Comparison(
        "ffm",
        "ffm",
        lambda: peers.single_ffm(FEATURES, BATCH),
        to_ours.equinox_ffm,
        hold=OPEN_GATE,
        held=GATE_HELD,
        why="its operator drops the flag of the earlier part, and is then not associative",
    ),
    Comparison(
        "memorax",
        "ffm",
        peer_layer("memorax", "ffm"),
        to_ours.memorax_ffm,
        why="windows: time starts at 0 again, and the carried state is decayed by a negative time",
    ),
    Comparison(
        "memax",
        "ffm",
        peer_layer("memax", "ffm"),
        to_ours.equinox_ffm,
        hold=OPEN_GATE,
        held=GATE_HELD,
    ),
    Comparison(
        "memorax",
        "linear_attention",
        peer_layer("memorax", "linear_attention"),
        to_ours.memorax_linear_attention,
        finish=memorax_output,
        held="its norm put behind ours",
    ),
    Comparison(
        "memax",
        "linear_attention",
        lambda: peers.memax_fart(FEATURES, BATCH),
        to_ours.memax_attention,
        options={"heads": 1},
        held="one head, no output product",
        why="its operator returns the last key in place of the sum of keys",
    ),
    Comparison(
        "memorax",
        "mamba2",
        peer_layer("memorax", "mamba2"),
        to_ours.memorax_mamba2,
        hold=changed({"input_projection/kernel": mamba2_gates}),
        inputs=with_a_one,
        finish=lambda y, theirs: normed(y),
        finish_theirs=normed,
        held="gates at 1, as its norm is before the gate (official code: after); outputs divided "
        "by their size, as its norm has the width as its ε (the first argument of flax's RMSNorm)",
        why="its convolution reads across episodes, and is not carried from window to window",
    ),
    Comparison(
        "memorax",
        "shm",
        peer_layer("memorax", "shm"),
        to_ours.memorax_shm,
        options={"norm": "pre"},
        hold=changed({"theta_table": zero}),
        held="θ at 0: it draws rows at random, or without an rng takes the first every time",
    ),
    Comparison(
        "memorax",
        "mingru",
        peer_layer("memorax", "mingru"),
        to_ours.memorax_mingru,
        hold=changed({"h/kernel": np.abs}),
        inputs=jnp.abs,
        held="candidates ≥ 0, where its g(x) = x + 1/2",
    ),
    Comparison(
        "memorax",
        "transformer",
        peer_layer("memorax", "transformer"),
        to_ours.memorax_attention,
        options={"window": STEPS},
        hold=changed({f"{part}/bias": zero for part in ("query", "key", "value")}),
        held="biases at 0, its window as long as the sequence",
        why="windows: keys are carried already turned to their position and turned again",
    ),
    Comparison(
        "memax",
        "transformer",
        lambda: peers.memax_attention(FEATURES, BATCH, window=8),
        to_ours.memax_attention,
        options={"window": 8, "heads": 1, "positions": "none"},
        hold=changed({"V/bias": zero}),
        held="one head, no positions, no output product",
    ),
    Comparison("memorax", "gru", peer_layer("memorax", "gru"), to_ours.flax_gru),
    Comparison("memorax", "lstm", peer_layer("memorax", "lstm"), to_ours.flax_lstm),
    Comparison("memax", "lstm", peer_layer("memax", "lstm"), to_ours.memax_lstm),
    Comparison(
        "memax",
        "gated_deltanet",
        lambda: peers.memax_gdn(FEATURES, BATCH),
        to_ours.memax_gated_deltanet,
        options={"heads": 1, "conv_width": 2},
        hold=changed(
            {
                "w/weight": zero,
                "w/bias": lambda bias: zero(bias) - 1,
                "V/weight": lambda kernel: kernel + to_ours.OPEN * np.eye(1, kernel.shape[1]),
            }
        ),
        inputs=with_a_one,
        finish_theirs=normed,
        held="no convolution, constant β < 1, values far above 0, our norm behind its output",
        why="its transition is applied to the values' side of the state, M S + β v kᵀ in place of "
        "S M + β v kᵀ (Yang et al. 2024, equation 10)",
    ),
)

DIFFERENT = {
    ("memorax", "mlstm"): "a block with a convolution, block-diagonal q, k, v and a learned skip",
    ("memax", "gru"): "resets h before the recurrent product, ours behind it (as cuDNN does)",
    ("memax", "deltanet"): "relu of queries and keys, β up to 2 (ours: silu, below 1), and the "
    "transition on the values' side of the state, as in its gated DeltaNet",
}
"""Namesakes that are other functions whatever the weights."""


def table(results: list[dict[str, Any]]) -> None:
    """Prints the results, and what could not be compared."""
    headers = ["memory", "peer", "no resets", "resets", "NaN stays: ours", "theirs"]
    headers += ["windows: ours", "theirs"]
    keys = ("memory", "peer", "no_resets", "resets", "our_windows", "windows")
    rows = [[r[key] for key in keys] for r in results]
    for row, r in zip(rows, results, strict=True):
        row[4:4] = r["nan_stays"]
    harness.print_table(headers, rows)
    for r in results:
        figures = [r["no_resets"], r["resets"], r["windows"] or 0.0]
        # NaN compares false, and is a disagreement.
        wrong = r["why"] if not all(figure < AGREES for figure in figures) else ""
        notes = [f"held: {r['held']}" if r["held"] else "", f"differs: {wrong}" if wrong else ""]
        if any(notes):
            print(f"{r['memory']} of {r['peer']}: " + "; ".join(filter(None, notes)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    libraries = list(dict.fromkeys(comparison.peer for comparison in COMPARISONS))
    for library in libraries:
        parser.add_argument(f"--{library}", help=f"a clean clone of {library}")
    parser.add_argument("--memories", nargs="+", help="these alone")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_default_matmul_precision", "highest")
    paths = {name: getattr(args, name) for name in libraries if getattr(args, name)}
    for library, path in paths.items():
        install(library, path)
    chosen = [c for c in COMPARISONS if c.peer in paths]
    chosen = [c for c in chosen if not args.memories or c.memory in args.memories]
    results = [compare(comparison) for comparison in chosen]
    table(results)
    others = [{"peer": p, "memory": m, "why": why} for (p, m), why in DIFFERENT.items()]
    for other in others:
        print(f"{other['memory']} of {other['peer']} is another function: {other['why']}")
    record = {
        "benchmark": "agreement",
        "machine": harness.machine_info(),
        "peer_source_sha256": {name: harness.source_hash(Path(p)) for name, p in paths.items()},
        "sizes": {"features": FEATURES, "steps": STEPS, "batch": BATCH, "reset_rate": RESET_RATE},
        "comparisons": results,
        "other_functions": others,
    }
    harness.write_json(args.output, record)


if __name__ == "__main__":
    main()

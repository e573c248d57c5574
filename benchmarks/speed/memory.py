"""Every registered memory: time, latency, compilation, peak memory; and beside its public peers.

    python -m benchmarks.speed.memory [--memorax CLONE] [--memax CLONE] [--memories s5 gru]
        [--quick]

One layer of width 256 without a block around it, in float32, with episodes of 52 steps on average.

- training: the output and, from a given cotangent, the gradients of parameters and inputs, at
  lengths T with T x B = 8192, beyond that at B = 1. "products" is the floor: the layer's matrix
  products outside of loops, forward and backward, timed in turn with it. State space models that
  can convolve where no episode begins have a second row without resets.
- acting: one step of one environment.
- chunks: training with chunks of other lengths than the platform's own, where there are chunks.
- precision: training with bfloat16 activations (states stay float32), its speed and its error.
- peers: the same step with the module of that name of memorax (github.com/noahfarr/memorax) and
  memax (github.com/smorad/memax) with states of the same size, in turn; the ratio is the median
  over the rounds. Each runs on arrays in its own order of axes. memax needs equinox.

Peak memory is what XLA plans for temporaries and outputs. A measurement that takes longer than
--limit seconds, compilation included, or more than --gigabytes, is reported as that. All run in one
worker process, one at a time. Parts and memories that are not asked for are kept as they were.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.peers import memories as peers
from benchmarks.speed import memory_figure
from ssmrl.memory import list_memories, memory_config

FEATURES = 256
LENGTHS = (128, 1024, 8192, 65536)
STEPS = 8192  # of all environments together
PEER_SHAPES = ((128, 64), (1024, 16), (8192, 2))
CHUNKS = (8, 16, 32, 64, 128)
LIBRARIES = ("memorax", "memax")
PARTS = ("acting", "training", "chunks", "precision", "peers")
ROOT = Path(__file__).parents[2]


class Bench:
    """Sends requests to a worker, and starts another where one had to be ended.

    Args:
        arguments: the command line's.
    """

    def __init__(self, arguments: argparse.Namespace):
        self._limit = arguments.limit
        self._common = {
            "features": FEATURES,
            "repeats": 2 if arguments.quick else arguments.repeats,
            "bytes_limit": arguments.gigabytes * 2**30,
        }
        self._clones: list[str] = []
        for library in LIBRARIES:
            path = getattr(arguments, library)
            self._clones += [f"--{library}", path] if path else []
        self._worker: harness.Worker | None = None

    def measure(self, kind: str, memory: str, time: int, batch: int, **more: Any) -> dict[str, Any]:
        """The worker's figures under what was asked for, or why there are none under "refused"."""
        case = {"memory": memory, "time": time, "batch": batch, "resets": True} | more
        try:
            if self._worker is None:
                self._worker = harness.Worker("benchmarks.speed.memory_worker", self._clones)
                self._worker.receive()
            request = json.dumps(case | self._common | {"kind": kind})
            return case | {"results": self._worker.ask(request, self._limit)}
        except RuntimeError:
            self._worker = None
            return case | {"results": {"refused": f"over {self._limit:.0f} s or failed"}}

    def close(self) -> None:
        """Ends the worker."""
        if self._worker is not None:
            self._worker.close()


def training(bench: Bench, memory: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """A memory at all lengths. After a refusal no longer ones are tried."""
    forms = [True, False] if _can_convolve(memory) else [True]
    lengths = sorted(arguments.lengths)
    return [case for resets in forms for case in _lengths(bench, memory, resets, lengths)]


def print_training(cases: list[dict[str, Any]]) -> None:
    """The table of `training`."""
    headers = ["memory", "T", "B", "ms", "us a step", "over products", "compile s", "peak MiB"]
    harness.print_table(headers, [_training_row(case) for case in cases])


def _can_convolve(memory: str) -> bool:
    return hasattr(memory_config(memory)(), "form")


def _lengths(bench: Bench, memory: str, resets: bool, lengths: list[int]) -> list[dict[str, Any]]:
    cases: list[dict[str, Any]] = []
    for time in lengths:
        case = bench.measure("training", memory, time, max(STEPS // time, 1), resets=resets)
        cases.append(case)
        if "refused" in case["results"]:
            break
        if "products" in case["results"]:
            case["over_products"] = ratio(case["results"], "ssmrl", "products")
    return cases


def _training_row(case: dict[str, Any]) -> list[Any]:
    name = case["memory"] if case["resets"] else f"{case['memory']} (unbroken)"
    row = [name, case["time"], case["batch"]]
    if "refused" in case["results"]:
        return [*row, case["results"]["refused"], None, None, None, None]
    facts = case["results"]["ssmrl"]
    seconds = facts["seconds"]["median"]
    compiling = facts["lower_seconds"] + facts["compile_seconds"]
    figures = [1e3 * seconds, 1e6 * seconds / case["time"], case.get("over_products"), compiling]
    return [*row, *figures, facts["peak_bytes"] / 2**20]


def acting(bench: Bench, memory: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Latency and sizes of a memory."""
    return [bench.measure("acting", memory, 1, 1)]


def print_acting(cases: list[dict[str, Any]]) -> None:
    """The table of `acting`."""
    headers = ["memory", "us a step", "compile s", "parameters", "numbers carried"]
    harness.print_table(headers, [_acting_row(case) for case in cases])


def _acting_row(case: dict[str, Any]) -> list[Any]:
    facts = case["results"]
    if "refused" in facts:
        return [case["memory"], facts["refused"], None, None, None]
    compiling = facts["lower_seconds"] + facts["compile_seconds"]
    latency = 1e6 * facts["seconds"]["median"]
    return [case["memory"], latency, compiling, facts["parameters"], facts["state"]]


def chunks(bench: Bench, memory: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Chunk lengths where the option exists, at two of the peers' shapes.

    Memories with a decay for every key channel refuse more than 16 steps.
    """
    if not hasattr(memory_config(memory)(), "chunk_size"):
        return []
    return [
        bench.measure("training", memory, *shape, options={"chunk_size": size})
        for shape in PEER_SHAPES[:2]
        for size in CHUNKS
    ]


def print_chunks(cases: list[dict[str, Any]]) -> None:
    """The table of `chunks`, a row for each memory and shape."""
    rows: dict[tuple[str, str], list[Any]] = {}
    for case in cases:
        row = rows.setdefault((case["memory"], f"({case['time']}, {case['batch']})"), [])
        refused = "refused" in case["results"]
        row.append(None if refused else 1e3 * case["results"]["ssmrl"]["seconds"]["median"])
    headers = ["memory", "(T, B)", *(f"{size} steps, ms" for size in CHUNKS)]
    harness.print_table(headers, [[*names, *row] for names, row in rows.items()])


def precision(bench: Bench, memory: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """bfloat16 activations beside float32, at the first of the peers' shapes."""
    case = bench.measure("precision", memory, *PEER_SHAPES[0])
    if "refused" not in case["results"]:
        case["speed_up"] = ratio(case["results"], "float32", "bfloat16")
    return [case]


def print_precision(cases: list[dict[str, Any]]) -> None:
    """The table of `precision`."""
    rows = [[c["memory"], c.get("speed_up"), c["results"].get("error")] for c in cases]
    harness.print_table(["memory", "bfloat16 is faster by", "its relative error"], rows)


def beside_peers(bench: Bench, memory: str, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Every peer of a memory at all shapes."""
    cases = []
    for peer in peers.peers_of(memory, chosen_libraries(arguments)):
        for time, batch in PEER_SHAPES:
            case = bench.measure("peer", peer.memory, time, batch, library=peer.library)
            case["differs"] = peer.differs
            if "refused" not in case["results"]:
                case |= _peer_ratios(case["results"], peer.library)
            cases.append(case)
    return cases


def print_peers(cases: list[dict[str, Any]]) -> None:
    """The table of `beside_peers`."""
    headers = ["memory", "(T, B)", "peer", "ms", "its ms", "its / ours", "compile", "memory"]
    headers += ["parameters", "its parameters", "differs in"]
    harness.print_table(headers, [_peer_row(case) for case in cases])


def _peer_ratios(results: dict[str, Any], library: str) -> dict[str, float]:
    """How many times as much of each the peer needs."""

    def compiling(facts: dict[str, Any]) -> float:
        return facts["lower_seconds"] + facts["compile_seconds"]

    ours, theirs = results["ssmrl"], results[library]
    return {
        "speed_up": ratio(results, library, "ssmrl"),
        "compile_ratio": compiling(theirs) / compiling(ours),
        "memory_ratio": theirs["peak_bytes"] / max(ours["peak_bytes"], 1),
    }


def _peer_row(case: dict[str, Any]) -> list[Any]:
    row = [case["memory"], f"({case['time']}, {case['batch']})", case["library"]]
    if "refused" in case["results"]:
        return [*row, case["results"]["refused"], *[None] * 6, case["differs"] or None]
    ours, theirs = case["results"]["ssmrl"], case["results"][case["library"]]
    times = [1e3 * facts["seconds"]["median"] for facts in (ours, theirs)]
    ratios = [case[key] for key in ("speed_up", "compile_ratio", "memory_ratio")]
    sizes = [ours["parameters"], theirs["parameters"]]
    return [*row, *times, *ratios, *sizes, case["differs"] or None]


def ratio(results: dict[str, Any], upper: str, lower: str) -> float:
    """Time of one over that of another: the median over the rounds, so that drift cancels."""
    rounds = (results[name]["seconds"]["values"] for name in (upper, lower))
    return statistics.median(a / b for a, b in zip(*rounds, strict=True))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    memories = list_memories()
    parser.add_argument("--memories", nargs="+", choices=memories, default=memories)
    parser.add_argument("--lengths", nargs="+", type=int, default=LENGTHS)
    parser.add_argument("--memorax", help="a clean clone of memorax")
    parser.add_argument("--memax", help="a clean clone of memax")
    parser.add_argument("--repeats", type=int, default=5, help="rounds; 3 where calls are slow")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--quick", action="store_true", help="two rounds")
    parser.add_argument("--limit", type=float, default=60, help="seconds for one measurement")
    parser.add_argument("--gigabytes", type=int, default=6, help="memory for one program")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/memory.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/memory.png")
    return parser.parse_args()


def chosen_libraries(arguments: argparse.Namespace) -> list[str]:
    """Those whose clones are given."""
    return [library for library in LIBRARIES if getattr(arguments, library)]


MEASURE = {
    "acting": (acting, print_acting),
    "training": (training, print_training),
    "chunks": (chunks, print_chunks),
    "precision": (precision, print_precision),
    "peers": (beside_peers, print_peers),
}


def main() -> None:
    arguments = parse()
    bench = Bench(arguments)
    kept = json.loads(arguments.output.read_text()) if arguments.output.exists() else {}
    record = {
        "benchmark": "memory",
        "sizes": {"features": FEATURES, "steps": STEPS},
        "peer_source_sha256": {
            library: harness.source_hash(Path(getattr(arguments, library)))
            for library in chosen_libraries(arguments)
        }
        or kept.get("peer_source_sha256", {}),
        **{part: kept[part] for part in PARTS if part in kept},
        "machine": kept.get("machine", {}),
    }
    for part in arguments.parts:
        measure, show = MEASURE[part]
        record["machine"][part] = harness.machine_info()
        for memory in arguments.memories:  # written one by one: the whole takes half an hour
            others = [c for c in record.get(part, []) if c["memory"] != memory]
            record[part] = others + measure(bench, memory, arguments)
            harness.write_json(arguments.output, record)
        show([case for case in record[part] if case["memory"] in arguments.memories])
    bench.close()
    memory_figure.draw(record, arguments.figure)


if __name__ == "__main__":
    main()

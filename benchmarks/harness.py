"""What the side-by-side benchmarks share: machine facts, timing, workers, JSON and tables."""

import hashlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PACKAGES = ("jax", "jaxlib", "flax", "optax", "distrax", "gymnax", "numpy")
_MARK = "@@ "  # starts a worker's answers, so that what libraries print cannot be taken for one


def machine_info() -> dict[str, Any]:
    """The facts without which a timing means nothing. The load average is that of the moment."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average_1min": round(os.getloadavg()[0], 2),
        "os": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "ssmrl_commit": git_commit(Path(__file__).parent),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def _version(package: str) -> str | None:
    """None where it is not installed: some benchmarks run in an environment of their own."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def git_commit(path: Path) -> str | None:
    """The commit checked out at `path`, with "+changes" where files differ; None outside of git."""
    git = ["git", "-C", str(path)]
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True)
    if commit.returncode:
        return None
    changes = subprocess.run([*git, "status", "--porcelain"], capture_output=True, text=True)
    return commit.stdout.strip() + ("+changes" if changes.stdout else "")


def source_hash(path: Path) -> str:
    """SHA-256 over the Python files below `path`, to name a copy that has no git history."""
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.py")):
        digest.update(str(file.relative_to(path)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def seconds(call: Callable[[], Any]) -> float:
    """Wall time of one call; `call` must block until its result is there."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def interleaved(calls: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Asks each call for its seconds in turn, A B C A B C …, so that drift hits all alike."""
    taken: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            taken[name].append(call())
    return taken


@dataclass(frozen=True)
class Compiled:
    """An ahead-of-time compiled function, and what it took to get there."""

    call: Callable[..., Any]
    lower_seconds: float
    compile_seconds: float


def compile_timed(function: Any, *args: Any) -> Compiled:
    """Traces, lowers and compiles a jitted function for `args` (arrays or shapes), timing both."""
    start = time.perf_counter()
    lowered = function.lower(*args)
    middle = time.perf_counter()
    compiled = lowered.compile()
    return Compiled(compiled, middle - start, time.perf_counter() - middle)


class Worker:
    """A subprocess that answers one JSON line for each line that it is sent.

    It waits on its standard input between requests and uses no processor then.

    Args:
        module: what runs, as for `python -m`.
        arguments: of its command line.
    """

    def __init__(self, module: str, arguments: list[str]):
        pipe, environment = subprocess.PIPE, {**os.environ, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, "-m", module, *arguments]
        self._process = subprocess.Popen(
            command, stdin=pipe, stdout=pipe, text=True, bufsize=1, env=environment
        )

    def receive(self) -> dict[str, Any]:
        """The next answer. Raises RuntimeError when the worker has ended."""
        for line in self._process.stdout:
            if line.startswith(_MARK):
                return json.loads(line[len(_MARK) :])
            print(line, end="", file=sys.stderr)
        raise RuntimeError(f"{' '.join(self._process.args)} ended with {self._process.wait()}")

    def ask(self, request: str, limit: float | None = None) -> dict[str, Any]:
        """Sends one line and waits for the answer.

        Raises RuntimeError when the worker has ended, as it does after `limit` seconds.
        """
        self._process.stdin.write(request + "\n")
        self._process.stdin.flush()
        if limit is None:
            return self.receive()
        alarm = threading.Timer(limit, self._process.kill)
        alarm.start()
        try:
            return self.receive()
        finally:
            alarm.cancel()

    def close(self) -> None:
        """Ends the worker: it leaves its loop when its input closes."""
        self._process.stdin.close()
        self._process.wait()


def serve(first: dict[str, Any], answer: Callable[[str], dict[str, Any]]) -> None:
    """A worker's side of `Worker`: sends `first`, then an answer to each line until input ends."""
    print(_MARK + json.dumps(first), flush=True)
    for line in sys.stdin:
        print(_MARK + json.dumps(answer(line.strip())), flush=True)


def summary(values: list[float]) -> dict[str, Any]:
    """Median, extremes and the values themselves."""
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "values": values,
    }


def write_json(path: Path, record: dict[str, Any]) -> None:
    """Writes `record` whole or not at all: first beside `path`, then renamed onto it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(path.suffix + ".partial")
    partial.write_text(json.dumps(record, indent=2) + "\n")
    partial.replace(path)
    print(f"wrote {path}")


def print_table(headers: list[str], rows: list[list[Any]]) -> None:
    """Prints aligned columns, the first to the left and the others to the right."""
    cells = [headers, *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(headers))]
    for row in cells:
        first, rest = row[0].ljust(widths[0]), zip(row[1:], widths[1:], strict=True)
        print("  ".join([first, *(cell.rjust(width) for cell, width in rest)]))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.4g}" if isinstance(value, float) and value < 1000 else _whole(value)


def _whole(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,.0f}"

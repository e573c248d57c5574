"""How far every memory recalls and tracks: what `ssmrl diagnose` measures, of all of them.

    python -m benchmarks.learning.microscope [--memories s5 gru ...]

Each is trained on each task with the command's defaults. A row says how far it got: the level up to
which accuracy stays nine tenths of the way from chance to 1. Rows that are there are kept, so that
the study can be stopped at any time. Writes JSON.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import jax

from benchmarks.harness import machine_info, print_table, write_json
from ssmrl.diagnostics.measure import accuracy_on, reached
from ssmrl.diagnostics.tasks import TASKS
from ssmrl.memory import list_memories, make_memory
from ssmrl.training.config import DiagnoseConfig

OUTPUT = Path(__file__).parents[1] / "results" / "microscope.json"
ASKED = ("remember the first", "report k back", "parity")
SIZE = {"features": 64, "layers": 2}


def main() -> int:
    options = parse()
    tasks = [task for task in TASKS if task.name in ASKED]
    steps = DiagnoseConfig().steps
    record: dict[str, Any] = {"benchmark": "microscope", "size": SIZE, "steps": steps, "rows": {}}
    if options.output.exists():
        record = json.loads(options.output.read_text())
    for name in options.memories:
        if name not in record["rows"]:
            memory = make_memory(name, **SIZE)
            row = {task.name: reached(accuracy_on(memory, task, steps)) for task in tasks}
            record["rows"][name] = row | {"machine": machine_info()}
            write_json(options.output, record)
            jax.clear_caches()  # all programs of 29 memories are more than a process may map
    rows = [[name, *(row[task] for task in ASKED)] for name, row in record["rows"].items()]
    print_table(["memory", *(f"{t.name}, {t.unit}, of {t.test_length}" for t in tasks)], rows)
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", nargs="+", default=list_memories())
    parser.add_argument("--output", type=Path, default=OUTPUT)
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

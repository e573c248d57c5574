"""What does a run over several processes cost? PPO with one batch, over 1, 2 and 4 of this machine.

    python -m benchmarks.speed.hosts [--processes 1 2 4] [--iterations 30]

Each process has a device and an equal part of the environments; gloo carries what is averaged. An
iteration is timed by the clock and in processor time of all processes together. The work is the
same however many there are, so that what the processor time grows by is the cost of dividing it;
the clock says something only where each process has a core of its own. Writes JSON.
"""

import argparse
import os
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import machine_info, print_table, write_json
from ssmrl.training.run import RunFolder, read_metrics
from ssmrl.training.signals import Children

ROOT = Path(__file__).parents[2]
SETTINGS = (
    *("agent=ppo", "memory=gru", "memory.features=64", "env=popgym/repeat_previous_easy"),
    *("agent.num_envs=64", "agent.encoder=[64]", "agent.actor=[64]", "agent.critic=[64]"),
    *("total_steps=1_000_000_000", "checkpoint_every=0", "devices=all"),
)
WARM_UP = 3  # iterations that are not counted


def main() -> int:
    options = parse()
    rows = []
    for count in options.processes:
        with tempfile.TemporaryDirectory() as folder, Children() as children:
            rows.append(measure(count, options.iterations, Path(folder), children))
    record = {"benchmark": "hosts", "machine": machine_info(), "settings": list(SETTINGS)}
    write_json(options.output, record | {"iterations": options.iterations, "rows": rows})
    print_table(
        ["processes", "steps/s by the clock", "processor seconds an iteration", "beside the first"],
        [
            [
                str(row["processes"]),
                row["steps_per_second"],
                row["processor_seconds"],
                row["processor_seconds"] / rows[0]["processor_seconds"],
            ]
            for row in rows
        ],
    )
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--iterations", type=int, default=30)
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/hosts.json")
    return parser.parse_args()


def measure(count: int, iterations: int, folder: Path, children: Children) -> dict[str, Any]:
    """An iteration of a run over so many processes, which are started and stopped for it.

    Args:
        count: how many.
        iterations: that are counted.
        folder: for the run and for what the processes say.
        children: starts them.

    Raises:
        RuntimeError: one of them ended by itself.
    """
    run = RunFolder(folder / "run")
    command = [sys.executable, "-m", "ssmrl", "train", *SETTINGS, f"run_dir={run.path}"]
    processes = []
    for index, own in enumerate(environments(count)):
        with (folder / f"{index}.log").open("w") as log:
            environment = os.environ | own | {"JAX_PLATFORMS": "cpu"}
            processes.append(children.start(command, stdout=log, stderr=log, env=environment))
    marks: list[tuple[int, float, float]] = []
    while len(marks) < 2:
        time.sleep(0.05)
        if any(process.poll() is not None for process in processes):
            raise RuntimeError((folder / "0.log").read_text().strip().splitlines()[-1])
        steps = sorted({line["step"] for line in read_metrics(run.metrics)})
        if len(steps) >= (WARM_UP, WARM_UP + iterations)[len(marks)]:
            used = sum(processor_seconds(process.pid) for process in processes)
            marks.append((steps[-1], time.monotonic(), used))
    for process in processes:
        process.send_signal(signal.SIGTERM)
    for process in processes:
        process.wait()
    return compare(count, steps[0], *marks)


def environments(count: int) -> list[dict[str, str]]:
    """What tells each process where the others are; see docs/runs.md."""
    if count == 1:
        return [{"JAX_NUM_PROCESSES": "1"}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(count)}
    return [shared | {"JAX_PROCESS_ID": str(index)} for index in range(count)]


def processor_seconds(pid: int) -> float:
    """That all threads of a process have used."""
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


def compare(
    count: int, size: int, begin: tuple[int, float, float], end: tuple[int, float, float]
) -> dict[str, Any]:
    """A row of the result.

    Args:
        count: processes.
        size: steps of an iteration.
        begin: step, clock and processor seconds when counting began.
        end: likewise.
    """
    steps, clock, processor = (after - before for before, after in zip(begin, end, strict=True))
    return {
        "processes": count,
        "iterations": steps // size,
        "steps_per_second": steps / clock,
        "processor_seconds": processor / (steps / size),
    }


if __name__ == "__main__":
    sys.exit(main())

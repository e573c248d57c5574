"""Does a long training keep its memory and its speed?

    python -m benchmarks.speed.endurance --minutes 60 [--set agent=dreamer agent.size=pico]

A training with checkpoints and evaluations runs in a process of its own, which is looked at from
outside every few seconds: resident memory, steps, and the processor time that it has used. Speed is
steps by second of processor time, which another program on the same core changes little. After the
minutes the training gets a SIGTERM; the same command goes on with the same run, in a new process,
whose memory begins anew. The first tenth of a process is left out: it is where caches fill up.

Flat is what changes by less than 2 % in an hour: the whole 95 % interval of the Theil-Sen slope
through the minutes lies in there. Writes JSON and a figure.
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from scipy.stats import theilslopes

from benchmarks.harness import machine_info, write_json
from ssmrl.figures import BLUE, GREY, RED, panels, save, styled
from ssmrl.training.run import RunFolder, last_metrics
from ssmrl.training.signals import REQUEUE

ROOT = Path(__file__).parents[2]
SETTINGS = (
    *("agent=ppo", "memory=gru", "memory.features=32", "env=popgym/repeat_previous_easy"),
    *("agent.num_envs=16", "eval_every=500_000", "total_steps=1_000_000_000"),
)
FLAT = 0.02  # of the level, in an hour
BLOCK = 60.0  # seconds over which samples are put together
ENOUGH = 3  # blocks of a process, for a slope with an interval
WARM_UP = 0.1  # share of a process that is left out
COLOURS = {"memory": BLUE, "speed": RED}


def main() -> int:
    options = parse()
    samples_file = options.run.with_suffix(".samples.jsonl")
    samples_file.parent.mkdir(parents=True, exist_ok=True)
    if options.minutes:
        watch(options, samples_file)
    record = {
        "benchmark": "endurance",
        "machine": machine_info(),
        "settings": [*SETTINGS, *options.set],
        **analyse(read(samples_file)),
    }
    write_json(options.output, record)
    draw(record, options.figure)
    for name in COLOURS:
        print(f"{name}: {describe(record[name])}")
    return 0


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=60, help="0: only read what is there")
    parser.add_argument("--interval", type=float, default=5, help="seconds between samples")
    parser.add_argument("--set", nargs="*", default=[], help="further settings, key=value")
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "endurance")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/endurance.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "endurance.png")
    return parser.parse_args()


def read(path: Path) -> list[dict[str, Any]]:
    """The samples of all processes so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def watch(options: argparse.Namespace, samples_file: Path) -> None:
    """Train for so many minutes and append a line to `samples_file` every few seconds.

    Raises:
        RuntimeError: the training ended by itself, or otherwise than a signal makes it end.
    """
    earlier = read(samples_file)
    offset = earlier[-1]["seconds"] + options.interval if earlier else 0.0
    number = earlier[-1]["process"] + 1 if earlier else 0
    settings = [*SETTINGS, *options.set, f"run_dir={options.run}", "resume=auto"]
    command = [sys.executable, str(ROOT / "scripts" / "train.py"), *settings]
    with options.run.with_suffix(".log").open("a") as log:
        training = subprocess.Popen(command, stdout=log, stderr=log)
    run = RunFolder(options.run)
    begun = last_metrics(run.metrics).get("step", 0)
    started = time.monotonic()
    try:
        with samples_file.open("a", buffering=1) as file:
            while time.monotonic() - started < 60 * options.minutes and training.poll() is None:
                time.sleep(options.interval)
                step = last_metrics(run.metrics).get("step", 0)
                if step <= begun or training.poll() is not None:
                    continue  # It compiles.
                seconds = offset + time.monotonic() - started
                row = {"process": number, "seconds": round(seconds, 2), "step": step}
                file.write(json.dumps(row | sample(training.pid)) + "\n")
    finally:
        if training.poll() is None:
            training.send_signal(signal.SIGTERM)
    if (code := training.wait()) != REQUEUE:
        raise RuntimeError(f"the training ended with {code}, see {options.run.with_suffix('.log')}")


def sample(pid: int) -> dict[str, Any]:
    """Of a process: resident bytes, seconds of processor time; and the machine's load."""
    process = psutil.Process(pid)
    times = process.cpu_times()
    return {
        "rss": process.memory_info().rss,
        "cpu": round(times.user + times.system, 2),
        "load": round(os.getloadavg()[0], 2),
    }


def analyse(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Blocks of `BLOCK` seconds of every process, and what the longest process says.

    Args:
        samples: in order; each with process, seconds, step, rss, cpu.
    """
    blocks = [
        block
        for number in sorted({row["process"] for row in samples})
        for block in _blocks([row for row in samples if row["process"] == number])
    ]
    processes = [block["process"] for block in blocks]
    longest = max(set(processes), key=processes.count, default=None)
    own = [block for block in blocks if block["process"] == longest]
    own = own[int(np.ceil(WARM_UP * len(own))) :]
    if len(own) < ENOUGH:
        raise ValueError(f"too short: {len(own)} minutes of a process, and {ENOUGH} are needed")
    return {
        "minutes": (samples[-1]["seconds"] - samples[0]["seconds"]) / 60,
        "steps": samples[-1]["step"],
        "analysed_minutes": len(own) * BLOCK / 60,
        "memory": trend([b["seconds"] for b in own], [b["rss"] / 2**20 for b in own], "MiB"),
        "speed": trend(
            [b["seconds"] for b in own], [b["rate"] for b in own], "steps/s of processor time"
        ),
        "blocks": blocks,
    }


def _blocks(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of a process: the greatest memory of each block, and its steps by processor time."""
    blocks, first = [], 0
    for i, row in enumerate(rows):
        if row["seconds"] - rows[first]["seconds"] < BLOCK:
            continue
        begin, inside = rows[first], rows[first : i + 1]
        blocks.append(
            {
                "process": row["process"],
                "seconds": row["seconds"],
                "rss": max(r["rss"] for r in inside),
                "rate": (row["step"] - begin["step"]) / max(row["cpu"] - begin["cpu"], 1e-9),
                "clock_rate": (row["step"] - begin["step"]) / (row["seconds"] - begin["seconds"]),
                "load": row.get("load"),
            }
        )
        first = i
    return blocks


def trend(seconds: list[float], values: list[float], unit: str) -> dict[str, Any]:
    """Median level and the change in an hour, as a share of it, with its 95 % interval.

    Args:
        seconds: when, at least `ENOUGH` of them.
        values: what was seen.
        unit: of the values.
    """
    level = float(np.median(values))
    hours = np.array(seconds) / 3600
    slope, _, low, high = (float(x) / level for x in theilslopes(values, hours, 0.95))
    return {
        "unit": unit,
        "median": level,
        "change_an_hour": slope,
        "interval": [low, high],
        "flat": bool(max(abs(low), abs(high)) < FLAT),
    }


def describe(found: dict[str, Any]) -> str:
    """A trend in words."""
    low, high = (100 * x for x in found["interval"])
    word = "flat" if found["flat"] else "not shown to be flat"
    return (
        f"{found['median']:,.0f} {found['unit']}, {100 * found['change_an_hour']:+.2f} % an hour "
        f"({low:+.2f} to {high:+.2f}): {word}"
    )


@styled
def draw(record: dict[str, Any], path: Path) -> None:
    """Memory and speed over the hours; vertical lines are where a new process went on."""
    figure, axes = panels(2)
    blocks = record["blocks"]
    minutes = [block["seconds"] / 60 for block in blocks]
    views = {"memory": [b["rss"] / 2**20 for b in blocks], "speed": [b["rate"] for b in blocks]}
    for axis, (name, values) in zip(axes, views.items(), strict=True):
        axis.plot(minutes, values, color=COLOURS[name])
        found = record[name]
        title = f"{name}: {100 * found['change_an_hour']:+.2f} % an hour"
        axis.set(title=title, xlabel="minutes", ylabel=found["unit"], ylim=(0, 1.3 * max(values)))
        for before, after in pairwise(blocks):
            if before["process"] != after["process"]:
                axis.axvline(before["seconds"] / 60, color=GREY, linewidth=0.8)
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)
    print(f"wrote {path}")


if __name__ == "__main__":
    sys.exit(main())

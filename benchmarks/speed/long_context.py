"""Whole episodes in one training window: time and peak memory by memory and length.

    python -m benchmarks.speed.long_context [--memories s5 gru transformer] [--lengths 8192 65536]
        [--remat 0 256] [--batch 1] [--repeats 3]

What is measured is the gradient of PPO's loss over a window of so many steps: encoder, memory,
heads and loss with their defaults, of `--batch` episodes. Nothing is collected; what the window
holds is drawn. Each measurement has a process of its own, one at a time. Peak memory is measured on
the system (what is resident at most, less what was before the first run) and planned by XLA
(temporaries and outputs); on an accelerator both are the device's. `remat` is the memory's option:
0 holds all activations, any other number those of so many steps. A row is refused where the plan is
over --limit. The transformer sees the last 128 steps, whatever the window's length; --window has
another number.

Rows of measurements that are not asked for are kept as they were.
"""

import argparse
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import harness
from ssmrl.agents.ppo.ppo import PPO, PPOConfig, Window
from ssmrl.envs import make_vector
from ssmrl.memory import build_memory, memory_config

ROOT = Path(__file__).parents[2]
OUTPUT = ROOT / "benchmarks/results/long_context.json"
ENV = "popgym/position_only_cartpole_easy"
WHAT = ("memory", "length", "remat", "batch", "window")
"""What makes a measurement."""


# ------------------------------------------------------------------------------ one measurement


def measure(request: dict[str, Any]) -> dict[str, Any]:
    """Seconds and bytes of one gradient; `{"refused": why}` where it would not fit."""
    agent = make_agent(request)
    params = jax.jit(lambda key: agent.init(key).params)(jax.random.key(0))
    program = harness.compile_timed(
        jax.jit(partial(gradient, agent)), params, windows_of(agent, request["length"])
    )
    plan = program.call.memory_analysis()
    planned = plan.temp_size_in_bytes + plan.output_size_in_bytes
    facts = {
        "device": jax.devices()[0].device_kind,
        "compile_seconds": program.compile_seconds,
        "planned_bytes": planned,
    }
    if planned > request["limit"]:
        return facts | {"refused": f"needs {planned / 2**30:.1f} GiB"}
    windows = filled(windows_of(agent, request["length"]))
    before = start_measuring_memory()

    def run() -> None:
        jax.block_until_ready(program.call(params, windows))

    run()
    facts["peak_bytes"] = peak_memory() - before
    seconds = [harness.seconds(run) for _ in range(request["repeats"])]
    return facts | {"seconds": harness.summary(seconds)}


def make_agent(request: dict[str, Any]) -> PPO:
    """PPO whose rollouts are one window of whole length."""
    options = {"remat": request["remat"]}
    if request["memory"] == "transformer":
        options["window"] = request["window"]
    memory = build_memory(memory_config(request["memory"])(**options))
    length, batch = request["length"], request["batch"]
    config = PPOConfig(num_envs=batch, rollout_length=length, minibatches=1, epochs=1)
    return PPO(config, memory, make_vector(ENV, batch), total_steps=length * batch)


def windows_of(agent: PPO, length: int) -> Window:
    """The shapes of what one iteration learns from."""

    def collected(key: jax.Array) -> Window:
        _, starts, rollout = agent._collect(agent.init(key))
        zeros = jnp.zeros_like(rollout.reward)
        return agent._cut_windows(Window, starts, rollout, advantage=zeros, target=zeros)

    windows = jax.eval_shape(collected, jax.random.key(0))
    assert windows.reset.shape[0] == length
    return windows


def filled(shapes: Window) -> Window:
    """Arrays of these shapes: real numbers drawn, all else zeros; one episode in each window."""
    rng = np.random.default_rng(0)

    def leaf(x: Any) -> jax.Array:
        if jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.asarray(rng.normal(size=x.shape), x.dtype)
        return jnp.zeros(x.shape, x.dtype)

    windows = jax.tree.map(leaf, shapes)
    return windows.replace(reset=windows.reset.at[0].set(True))


def gradient(agent: PPO, params: Any, windows: Window) -> Any:
    """Of PPO's loss."""
    normalizers = agent._new_normalizers([jnp.zeros(2)])
    loss = partial(agent._loss, normalizers, jnp.float32(0.01), windows, jax.random.key(0))
    return jax.grad(loss, has_aux=True)(params)[0]


def start_measuring_memory() -> int:
    """Bytes in use now; `peak_memory` counts from here on."""
    if on_accelerator():
        return jax.devices()[0].memory_stats()["bytes_in_use"]
    Path("/proc/self/clear_refs").write_text("5")  # the peak is what is resident now
    return status_bytes("VmRSS")


def peak_memory() -> int:
    """The most bytes that were in use at once."""
    if on_accelerator():
        return jax.devices()[0].memory_stats()["peak_bytes_in_use"]
    return status_bytes("VmHWM")


def on_accelerator() -> bool:
    """Whether the device has memory of its own."""
    return jax.default_backend() != "cpu"


def status_bytes(name: str) -> int:
    """A line of this process's status (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"this system's /proc/self/status has no {name}")


# ---------------------------------------------------------------------------------- all of them


def main() -> int:
    arguments = parse()
    if arguments.measure:
        print(json.dumps(measure(json.loads(arguments.measure))))
        return 0
    kept = json.loads(arguments.output.read_text())["rows"] if arguments.output.exists() else []
    for length in arguments.lengths:
        for memory in arguments.memories:
            for remat in arguments.remat:
                row = {
                    "memory": memory,
                    "length": length,
                    "remat": remat,
                    "batch": arguments.batch,
                    "window": arguments.window if memory == "transformer" else None,
                }
                row |= in_own_process(row, arguments)
                kept = [r for r in kept if any(r[key] != row[key] for key in WHAT)] + [row]
                record = {"machine": harness.machine_info(), "rows": kept}
                harness.write_json(arguments.output, record)
    report(kept)
    return 0


def parse() -> argparse.Namespace:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--memories", nargs="+", default=["s5", "gru", "transformer"])
    parser.add_argument("--lengths", nargs="+", type=int, default=[8192, 65536])
    parser.add_argument("--remat", nargs="+", type=int, default=[0, 256])
    parser.add_argument("--batch", type=int, default=1, help="episodes in the window")
    parser.add_argument("--window", type=int, default=128, help="steps that a transformer sees")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=0.7 * memory / 2**30, help="GiB")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--measure", help=argparse.SUPPRESS)  # what a child process is asked
    return parser.parse_args()


def in_own_process(row: dict[str, Any], arguments: argparse.Namespace) -> dict[str, Any]:
    """`measure` in a new process; its end by the system is a refusal, too."""
    limit = int(arguments.limit * 2**30)
    request = json.dumps(row | {"repeats": arguments.repeats, "limit": limit})
    command = [sys.executable, "-m", "benchmarks.speed.long_context", "--measure", request]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        return {"refused": f"ended with {done.returncode}"}
    return json.loads(done.stdout.splitlines()[-1])


def report(rows: list[dict[str, Any]]) -> None:
    """A line for every row; how many times as long as without remat, where there is that row."""
    table = []
    for row in rows:
        plain = [r for r in rows if all(r[k] == row[k] for k in WHAT if k != "remat")]
        plain = [r["seconds"]["median"] for r in plain if not r["remat"] and "seconds" in r]
        seconds = row["seconds"]["median"] if "seconds" in row else None
        times = seconds / plain[0] if seconds and plain else None
        mebibytes = [row[key] / 2**20 if key in row else None for key in BYTES]
        head = [row["memory"], row["length"], row["remat"], row["batch"]]
        table.append([*head, seconds, times, *mebibytes, row.get("refused", "")])
    headers = ["memory", "steps", "remat", "episodes", "s", "times", "peak MiB", "planned MiB", ""]
    harness.print_table(headers, table)


BYTES = ("peak_bytes", "planned_bytes")


if __name__ == "__main__":
    sys.exit(main())

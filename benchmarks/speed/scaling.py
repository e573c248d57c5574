"""How fast would this train on accelerators, one to 256 of them? A plan, from what is counted here.

    python -m benchmarks.speed.scaling [--configs popgym memory_maze r2i] [--strong] [--check 1 2 4]

What an iteration costs is counted from its program (`benchmarks.speed.costs`), what devices can do
is what their makers publish, and the formula in between is docs/scaling.md's. With --check the same
formula, with figures of this machine, is held against PPO on so many forced CPU devices. Writes
JSON and a figure. No accelerator has been asked.
"""

import argparse
import json
import math
import os
import statistics
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from benchmarks import harness
from benchmarks.speed.costs import Costs, costs_of, peak_bytes
from benchmarks.speed.overhead import Meter
from ssmrl.experiment import COMPONENTS
from ssmrl.figures import legend_below, panels, save, styled
from ssmrl.training.cli import compose_training
from ssmrl.training.loading import build_agent
from ssmrl.training.loop import abstract_state
from ssmrl.training.progress import PlainReporter
from ssmrl.training.run_training import run_training

ROOT = Path(__file__).parents[2]
COUNTS = tuple(2**k for k in range(9))
# On a CPU the Dreamer's activations are float32; on what is planned for they are bfloat16.
BFLOAT16 = "agent.compute_dtype=bfloat16"
CONFIGS = {
    "popgym": ("experiment=popgym", "memory=s5", "env=popgym/repeat_previous_easy", "seeds=1"),
    "memory_maze": ("experiment=memory_maze_ppo_100m",),
    "r2i": ("experiment=memory_maze_r2i_100m", BFLOAT16),
}
TITLES = {
    "popgym": "POPGym, PPO",
    "memory_maze": "Memory Maze, PPO",
    "r2i": "Memory Maze, R2I",
}
CHECKED = (
    *("agent=ppo", "memory=gru", "env=popgym/repeat_previous_easy", "agent.num_envs=64"),
    *("agent.encoder=[64]", "agent.actor=[64]", "agent.critic=[64]", "memory.features=64"),
)


@dataclass(frozen=True)
class Device:
    """What the maker says, and what is assumed of any.

    Attributes:
        flops: a second, of matrix products by the type of their factors; float32 means what JAX's
            default precision makes of it (TF32 on GPUs, one pass of bfloat16 on TPUs). "other" is
            of vector units.
        bandwidth: of its memory, bytes/s.
        memory: bytes.
        near: how many of them are joined by the fast links.
        link: bytes/s that one sends to another of those.
        network: bytes/s to all others.
        launch: seconds from one kernel's start to the next one's where neither does much.
        efficiency: share of `flops` that is had.
        share: of the bandwidths that is had.
        hop: seconds that a message takes.
    """

    flops: dict[str, float]
    bandwidth: float
    memory: float
    near: int
    link: float
    network: float
    launch: float = 5e-6
    efficiency: float = 0.3
    share: float = 0.6
    hop: float = 5e-6


DEVICES = {
    "A100": Device(
        {"bfloat16": 312e12, "float32": 156e12, "other": 19.5e12},
        *(2.039e12, 80e9, 8, 300e9, 25e9),
    ),
    "H100": Device(
        {"bfloat16": 989e12, "float32": 494e12, "other": 67e12},
        *(3.35e12, 80e9, 8, 450e9, 50e9),
    ),
    "TPU v4": Device(
        {"bfloat16": 275e12, "float32": 275e12, "other": 4.3e12},
        *(1.2e12, 32e9, 4096, 300e9, 300e9, 2e-6),
    ),
    "TPU v5e": Device(
        {"bfloat16": 197e12, "float32": 197e12, "other": 3.1e12},
        *(0.819e12, 16e9, 256, 200e9, 200e9, 2e-6),
    ),
}


@dataclass(frozen=True)
class Plan:
    """An iteration of a configuration on one device: what is done, held and sent.

    Attributes:
        steps: of the environments.
        costs: of the program.
        parameters: bytes of what is averaged in each update.
        updates: gradient steps.
        state: bytes that stay.
        temporary: bytes that come and go, at most.
        most: devices that can have a part of it each.
    """

    steps: int
    costs: Costs
    parameters: int
    updates: int
    state: int
    temporary: int
    most: int


def make_plan(settings: tuple[str, ...]) -> Plan:
    """The plan of a configuration; nothing is computed."""
    config = compose_training([*settings], COMPONENTS, ROOT / "configs")
    agent = build_agent(COMPONENTS, config)[0]
    state = abstract_state(agent, 0, 1)
    jaxpr = jax.make_jaxpr(agent.iteration)(state)
    c = config.agent
    updates = getattr(c, "updates_per_iteration", None) or c.epochs * c.minibatches
    return Plan(
        steps=agent.steps_per_iteration,
        costs=costs_of(jaxpr),
        parameters=_size(state.params),
        updates=updates,
        state=_size(state),
        temporary=peak_bytes(jaxpr),
        most=math.gcd(c.num_envs, getattr(c, "batch_size", c.num_envs)),
    )


def _size(tree: Any) -> int:
    # A key is two words.
    sizes = [(math.prod(x.shape), x.dtype) for x in jax.tree.leaves(tree)]
    return sum(n * (8 if jnp.issubdtype(t, jax.dtypes.prng_key) else t.itemsize) for n, t in sizes)


def predict(plan: Plan, device: Device, count: int, *, strong: bool) -> dict[str, Any]:
    """An iteration on so many devices; the formula of docs/scaling.md.

    Args:
        plan: of one device.
        device: which.
        count: how many.
        strong: the devices share the plan's environments and batches; else each has as many.
    """
    parts = count if strong else 1
    terms = {
        "compute": sum(f / device.flops[k] for k, f in plan.costs.flops.items())
        / (device.efficiency * parts),
        "memory": plan.costs.bytes / (device.share * device.bandwidth * parts),
        "launches": plan.costs.kernels * device.launch,
        "communication": plan.updates * _all_reduce(plan.parameters, device, count),
    }
    seconds = max(terms["compute"], terms["memory"]) + terms["launches"] + terms["communication"]
    split = plan.state - plan.parameters * REPLICAS
    held = plan.parameters * REPLICAS + (max(split, 0) + plan.temporary) / parts
    return {
        "devices": count,
        "steps_per_second": plan.steps * count / parts / seconds,
        "seconds": seconds,
        "terms": terms,
        "bytes_held": held,
        "fits": held < device.memory,
        "bytes_sent": plan.updates * 2 * (count - 1) / count * plan.parameters,
    }


REPLICAS = 3  # Parameters and both of the optimiser's moments are on every device.


def _all_reduce(size: float, device: Device, count: int) -> float:
    """Seconds to average so many bytes in a ring, over the slowest link in it."""
    if count == 1:
        return 0.0
    link = device.link if count <= device.near else device.network
    hops = 2 * math.ceil(math.log2(count)) * device.hop
    return 2 * (count - 1) / count * size / (device.share * link) + hops


# ---------------------------------------------------------------------------- this machine


def check(counts: list[int]) -> dict[str, Any]:
    """The formula beside what PPO takes on forced CPU devices, in seconds of processor time.

    They share the processor: the work is the same, but each has its own kernels to start, and what
    is averaged is added up for each.
    """
    plan, cpu = make_plan(CHECKED), this_cpu()
    rows = []
    for count in counts:
        before = os.environ.get("XLA_FLAGS", "")
        os.environ["XLA_FLAGS"] = f"{before} --xla_force_host_platform_device_count={count}"
        worker = harness.Worker(__spec__.name, ["--worker", str(count)])
        measured = worker.receive()["seconds"]
        worker.close()
        os.environ["XLA_FLAGS"] = before
        one = predict(plan, cpu, 1, strong=True)
        sent = plan.updates * 2 * (count - 1) * plan.parameters / (cpu.share * cpu.bandwidth)
        predicted = one["seconds"] + (count - 1) * one["terms"]["launches"] + sent
        rows.append({"devices": count, "measured": measured, "predicted": predicted})
    for row in rows:
        row["error"] = row["predicted"] / row["measured"] - 1
        growth = [row[k] / rows[0][k] for k in ("predicted", "measured")]
        row["growth_predicted"], row["growth_measured"] = growth
        row["growth_error"] = growth[0] / growth[1] - 1
    return {"settings": list(CHECKED), "cpu": asdict(cpu), "rows": rows}


def this_cpu() -> Device:
    """Figures of one core, measured as makers measure theirs: at best."""
    a = jnp.ones((1024, 1024))
    product = jax.jit(lambda a: a @ a)
    flops = 2 * 1024**3 / _least(lambda: product(a))
    # In place: what a new 128 MiB takes is the operating system's time to hand out its pages.
    big = [jnp.ones(2**25)]
    add = jax.jit(lambda x: x + 1, donate_argnums=0)

    def added() -> jax.Array:
        big[0] = add(big[0])
        return big[0]

    bandwidth = 2 * big[0].nbytes / _least(added)
    small, rounds = jnp.ones((4, 4)), 10_000
    loop = jax.jit(lambda a: jax.lax.scan(lambda x, _: (x @ a, None), a, None, rounds)[0])
    launch = _least(lambda: loop(small)) / rounds
    kinds = {"bfloat16": flops, "float32": flops, "other": flops / 16}
    return Device(kinds, bandwidth, 0, 1, bandwidth, bandwidth, launch)


def _least(call: Any, repeats: int = 5) -> float:
    """Processor seconds of the fastest of several calls, after one that compiles."""
    times = []
    for _ in range(repeats + 1):
        began = time.process_time()
        jax.block_until_ready(call())
        times.append(time.process_time() - began)
    return min(times[1:])


def work(count: int, iterations: int = 6) -> None:
    """A worker: processor seconds of an iteration of PPO on so many devices."""
    config = compose_training([*CHECKED], COMPONENTS, ROOT / "configs")
    steps = iterations * build_agent(COMPONENTS, config)[0].steps_per_iteration
    with tempfile.TemporaryDirectory() as folder, Meter() as meter:
        own = [*CHECKED, f"run_dir={folder}/run", f"total_steps={steps}", f"devices={count}"]
        run_training(
            compose_training(own, COMPONENTS, ROOT / "configs"),
            COMPONENTS,
            reporter=PlainReporter(interval=math.inf),
        )
    seconds = statistics.median(meter.spent["iteration"][2:])
    harness.serve({"seconds": seconds}, lambda _: {})


# ---------------------------------------------------------------------------------- record


def show(record: dict[str, Any]) -> None:
    """A row for each configuration, device, and some counts."""
    rows = [
        [
            f"{name}, {device}, {row['devices']}",
            row["steps_per_second"],
            row["bytes_held"] / 1e9,
            row["bytes_sent"] / 1e6,
            *(100 * row["terms"][term] / row["seconds"] for term in TERMS),
        ]
        for name, found in record["plans"].items()
        for device, predictions in found["devices"].items()
        for row in predictions
        if row["devices"] in (1, 8, 64, 256)
    ]
    harness.print_table(["what", "steps/s", "GB", "MB sent", *(f"{t} %" for t in TERMS)], rows)
    for row in record.get("check", {}).get("rows", ()):
        print({k: round(v, 4) for k, v in row.items()})


TERMS = ("compute", "memory", "launches", "communication")


@styled
def draw(record: dict[str, Any], path: Path) -> None:
    """Steps a second over the number of devices."""
    figure, axes = panels(len(record["plans"]), height=3.0)
    for axis, (name, found) in zip(axes, record["plans"].items(), strict=True):
        for device, rows in found["devices"].items():
            counts, rates = zip(*((r["devices"], r["steps_per_second"]) for r in rows), strict=True)
            axis.plot(counts, rates, marker="o", markersize=2.5, label=device)
        axis.set(xscale="log", yscale="log", title=TITLES[name], xlabel="devices, equally loaded")
        axis.set_xticks([1, 8, 64, 256], ["1", "8", "64", "256"])
        axis.minorticks_off()
        axis.set_ylabel("environment steps/s, predicted")
        legend_below(axis)
    save(figure, path)
    print(f"wrote {path}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--configs", nargs="*", choices=CONFIGS, default=list(CONFIGS))
    parser.add_argument("--set", nargs="*", default=[], help="further settings of all of them")
    parser.add_argument("--strong", action="store_true", help="devices share one batch")
    parser.add_argument("--check", nargs="+", type=int, default=[], metavar="N")
    parser.add_argument("--output", type=Path, default=ROOT / "benchmarks/results/scaling.json")
    parser.add_argument("--figure", type=Path, default=ROOT / "docs/scaling.png")
    parser.add_argument("--worker", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(options.worker)
    record = json.loads(options.output.read_text()) if options.output.exists() else {}
    record |= {"benchmark": "scaling", "machine": harness.machine_info(), "strong": options.strong}
    record["assumptions"] = {name: asdict(device) for name, device in DEVICES.items()}
    plans = record.setdefault("plans", {})
    for name in options.configs:
        plan = make_plan((*CONFIGS[name], *options.set))
        counts = [n for n in COUNTS if not options.strong or plan.most % n == 0]
        plans[name] = {
            "settings": [*CONFIGS[name], *options.set],
            "plan": asdict(plan),
            "devices": {
                device: [predict(plan, it, n, strong=options.strong) for n in counts]
                for device, it in DEVICES.items()
            },
        }
    if options.check:
        record["check"] = check(options.check)
    harness.write_json(options.output, record)
    draw(record, options.figure)
    show(record)


if __name__ == "__main__":
    main()

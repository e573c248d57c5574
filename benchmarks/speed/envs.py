"""POPGym's environments: ours, batched and jitted, against the package's own Python.

    python -m benchmarks.speed.envs
    python -m benchmarks.speed.envs --popjaxrl PATH_TO_A_CLEAN_CLONE --ids repeat_previous_easy

Random actions, drawn beforehand, with auto-reset, on the CPU, one environment id after the other;
the systems take turns and the ratios are medians over the rounds, so that a busy machine slows all
alike.

- ssmrl: `--envs` environments in one program, `--steps` steps a call. States go on from call to
  call. Compiling is not counted.
- popgym: one environment of the package in the plain loop of one process, `reset()` where an
  episode ended.
- popjaxrl, where it has the family: its environments under `vmap`, with gymnax's auto-reset (the
  class that `popjaxrl_shim` supplies), an eighth of the steps, and otherwise as ours.

Targets: 60 times popgym in the geometric mean and 15 times for each id; popjaxrl at least equalled.
"""

import argparse
import itertools
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

import ssmrl.envs
from benchmarks import harness
from benchmarks.peers import popjaxrl_shim
from ssmrl.envs.adapters.popgym_original import FAMILIES, popgym_class
from ssmrl.envs.popgym import DIFFICULTIES

SUITE = "popgym/"
GEOMETRIC_MEAN_TARGET, EACH_TARGET, POPJAXRL_TARGET = 60, 15, 1
OUTPUT = Path(__file__).parents[1] / "results" / "envs.json"
# popjaxrl's names of families, where they are not the package's. It has no others.
POPJAXRL_NAMES = {
    "PositionOnlyCartPole": "StatelessCartPole",
    "NoisyPositionOnlyCartPole": "NoisyStatelessCartPole",
    "PositionOnlyPendulum": "StatelessPendulum",
    "NoisyPositionOnlyPendulum": "NoisyStatelessPendulum",
    "MineSweeper": "Minesweeper",
    "MultiarmedBandit": "MultiArmedBandit",
}
NOT_IN_POPJAXRL = ("LabyrinthEscape", "LabyrinthExplore", "VelocityOnlyCartPole")

SecondsPerStep = Callable[[], float]


@dataclass(frozen=True)
class Program:
    """`reset(key)` gives states, `step(state, key, action)` the next and what it shows."""

    reset: Callable[[jax.Array], Any]
    step: Callable[[Any, jax.Array, Any], tuple[Any, Any]]
    actions: Any


def package_names(id_: str) -> tuple[str, str]:
    """The package's family and the difficulty, as its class names have them."""
    family, _, difficulty = id_.rpartition("_")
    return FAMILIES[family], difficulty.capitalize()


def our_program(id_: str, num_envs: int) -> Program:
    """Our batch."""
    venv = ssmrl.envs.make_vector(SUITE + id_, num_envs).unwrapped

    def step(state: Any, key: jax.Array, action: Any) -> tuple[Any, Any]:
        obs, state, reward, terminated, truncated, _ = venv.step(state, action)
        return state, (obs, reward, terminated | truncated)

    return Program(lambda key: venv.reset(key)[1], step, venv.action_space)


def popjaxrl_program(id_: str, num_envs: int) -> Program:
    """The same of popjaxrl's environments."""
    import envs

    family, difficulty = package_names(id_)
    env, params = envs.make(POPJAXRL_NAMES.get(family, family) + difficulty)

    def reset(key: jax.Array) -> Any:
        return jax.vmap(env.reset, (0, None))(jax.random.split(key, num_envs), params)[1]

    def step(state: Any, key: jax.Array, action: Any) -> tuple[Any, Any]:
        keys = jax.random.split(key, num_envs)
        batched = jax.vmap(env.step, (0, 0, 0, None))
        obs, state, reward, done, _ = batched(keys, state, action, params)
        return state, (obs, reward, done)

    return Program(reset, step, env.action_space(params))


def jax_loop(program: Program, num_envs: int, steps: int) -> tuple[SecondsPerStep, dict[str, Any]]:
    """A timed call that plays on for `steps` steps, run once before; what compiling took."""

    def rollout(state: Any, key: jax.Array, actions: Any) -> tuple[Any, Any]:
        def body(state: Any, inputs: Any) -> tuple[Any, Any]:
            state, seen = program.step(state, *inputs)
            # Sums, so that nothing is left out as unused and nothing large is kept.
            return state, jax.tree.map(lambda x: x.sum(), seen)

        return jax.lax.scan(body, state, (jax.random.split(key, steps), actions))

    state = jax.jit(program.reset)(jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), (steps, num_envs))
    actions = jax.jit(jax.vmap(jax.vmap(program.actions.sample)))(keys)
    compiled = harness.compile_timed(jax.jit(rollout), state, jax.random.key(0), actions)

    def call() -> float:
        nonlocal state
        start = time.perf_counter()
        state, _ = jax.block_until_ready(compiled.call(state, jax.random.key(0), actions))
        return (time.perf_counter() - start) / (steps * num_envs)

    call()
    return call, {"compile_seconds": compiled.lower_seconds + compiled.compile_seconds}


def popgym_loop(id_: str, seconds: float) -> tuple[SecondsPerStep, dict[str, Any]]:
    """A timed call of the package's environment in a Python loop of about `seconds`."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # "mazes need no memory"
        env = popgym_class("".join(package_names(id_)))()
    env.action_space.seed(0)
    actions = itertools.cycle([env.action_space.sample() for _ in range(4096)])
    env.reset(seed=0)

    def call() -> float:
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            for action in itertools.islice(actions, 64):
                _, _, terminated, truncated, _ = env.step(action)
                if terminated or truncated:
                    env.reset()
            count += 64
        return (time.perf_counter() - start) / count

    return call, {}


def measure(id_: str, args: argparse.Namespace) -> dict[str, Any]:
    """All systems that have `id_`, in turn."""
    loops = {
        "ssmrl": jax_loop(our_program(id_, args.envs), args.envs, args.steps),
        "popgym": popgym_loop(id_, args.seconds),
    }
    if args.popjaxrl and package_names(id_)[0] not in NOT_IN_POPJAXRL:
        program = popjaxrl_program(id_, args.envs)
        # It draws a new episode on every step, so that a few steps cost what all do on average.
        loops["popjaxrl"] = jax_loop(program, args.envs, -(-args.steps // 8))
    taken = harness.interleaved({name: call for name, (call, _) in loops.items()}, args.repeats)
    results = {
        name: facts | {"steps_per_second": 1 / statistics.median(taken[name])}
        for name, (_, facts) in loops.items()
    }
    ratios = {
        name: statistics.median(a / b for a, b in zip(taken[name], taken["ssmrl"], strict=True))
        for name in loops
        if name != "ssmrl"
    }
    return {"id": id_, "results": results, "speedup_over": ratios, "seconds_per_step": taken}


def summarise(cases: list[dict[str, Any]]) -> dict[str, Any]:
    """Geometric means and minima of the speed-ups, and which targets are missed."""
    summary: dict[str, Any] = {"missed": []}
    targets = {"popgym": EACH_TARGET, "popjaxrl": POPJAXRL_TARGET}
    for system, target in targets.items():
        ratios = {c["id"]: c["speedup_over"][system] for c in cases if system in c["speedup_over"]}
        if not ratios:
            continue
        mean = statistics.geometric_mean(ratios.values())
        summary[system] = {"geometric_mean": mean, "minimum": min(ratios.values())}
        summary["missed"] += [f"{id_} / {system}" for id_, x in ratios.items() if x < target]
        if system == "popgym" and mean < GEOMETRIC_MEAN_TARGET:
            summary["missed"].append("geometric mean / popgym")
    return summary


def print_results(cases: list[dict[str, Any]], summary: dict[str, Any]) -> None:
    """The table, and the geometric means below it."""
    systems = [s for s in ("popgym", "popjaxrl") if s in summary]
    headers = ["id", "ssmrl steps/s", *(f"{s} steps/s" for s in systems)]
    headers += [*(f"x {s}" for s in systems), "compile s"]
    rows = []
    for case in cases:
        results, ratios = case["results"], case["speedup_over"]
        rates = [results.get(s, {}).get("steps_per_second") for s in ("ssmrl", *systems)]
        compile_seconds = results["ssmrl"]["compile_seconds"]
        rows.append([case["id"], *rates, *(ratios.get(s) for s in systems), compile_seconds])
    means = [summary[s]["geometric_mean"] for s in systems]
    rows.append(["geometric mean", None, *(None for _ in systems), *means, None])
    harness.print_table(headers, rows)
    print("targets missed:", ", ".join(summary["missed"]) or "none")


def registered_ids() -> list[str]:
    """All of our POPGym ids, easy before medium before hard."""
    ids = [name.removeprefix(SUITE) for name in ssmrl.envs.list_envs() if name.startswith(SUITE)]
    order = {difficulty: i for i, difficulty in enumerate(DIFFICULTIES)}
    return sorted(ids, key=lambda id_: (id_.rpartition("_")[0], order[id_.rpartition("_")[2]]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--popjaxrl", help="a clean clone of popjaxrl, to be compared with too")
    parser.add_argument("--ids", nargs="+", choices=registered_ids(), default=registered_ids())
    parser.add_argument("--envs", type=int, default=1024, help="environments in a batch")
    parser.add_argument("--steps", type=int, default=1024, help="steps of the batch a call")
    parser.add_argument("--seconds", type=float, default=1.0, help="of a call of the package")
    parser.add_argument("--repeats", type=int, default=3, help="timed calls of each system")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    if args.popjaxrl:
        popjaxrl_shim.install(args.popjaxrl)
    machine = harness.machine_info()
    cases = []
    for id_ in args.ids:
        cases.append(measure(id_, args))
        print(id_, cases[-1]["speedup_over"], flush=True)
        jax.clear_caches()
    summary = summarise(cases)
    print_results(cases, summary)
    record = {"benchmark": "envs", "machine": machine}
    record |= {name: getattr(args, name) for name in ("envs", "steps", "seconds", "repeats")}
    if args.popjaxrl:
        record["popjaxrl_source_sha256"] = harness.source_hash(Path(args.popjaxrl))
    harness.write_json(args.output, record | {"summary": summary, "cases": cases})


if __name__ == "__main__":
    main()

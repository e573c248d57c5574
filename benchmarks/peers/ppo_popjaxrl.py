"""PPO with S5, ours against popjaxrl's, side by side on the CPU of one machine.

    python -m benchmarks.peers.ppo_popjaxrl --popjaxrl PATH_TO_A_CLEAN_CLONE

Both train on RepeatPreviousEasy with the same network (encoder 128-256, four S5 layers of 256
features and 256 states, full GLU, no norm, heads 128-128), 64 environments x 128 steps an update, 4
epochs of 8 minibatches. popjaxrl's observation goes through its AliasPrevActionV2 wrapper (one-hot
previous action, first-step flag); ours has `previous_action` and `first_flag`.

Each side has a process of its own, and only one of them computes at any time. Measured:

- compile: tracing, lowering and compiling the training program for one seed. popjaxrl's is
  `jit(vmap(make_train(config)))` over one seed, as in its run_popgym.py; ours is `init` plus
  `iteration`. The time to lower and the time to compile are kept apart in the JSON.
- environment steps per second: `--updates` updates, repeated, the sides alternating; medians. The
  first run of each side is not counted. popjaxrl's program draws its parameters and resets its
  environments in each repeat (milliseconds; it offers no way in without that); ours runs on.

popjaxrl's DEBUG print from inside the program is off, which is in its favour.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import harness
from benchmarks.peers import popjaxrl_shim

ENVS, STEPS, EPOCHS, MINIBATCHES = 64, 128, 4, 8
ENCODER_WIDTH = 128  # of the first layer
STEPS_PER_UPDATE = ENVS * STEPS
SIDES = ("popjaxrl", "ssmrl")
OUTPUT = Path(__file__).parents[1] / "results" / "ppo_popjaxrl.json"


@dataclass(frozen=True)
class Program:
    """One side, compiled: `run` does `updates` updates and blocks; `inputs` of the encoder."""

    run: Callable[[], Any]
    parameters: int
    inputs: int
    lower_seconds: float
    compile_seconds: float


def popjaxrl_config(updates: int, env: Any, env_params: Any) -> dict[str, Any]:
    """The configuration of its run_popgym.py, with this benchmark's sizes."""
    return {
        "LR": 5e-5,
        "NUM_ENVS": ENVS,
        "NUM_STEPS": STEPS,
        "TOTAL_TIMESTEPS": updates * STEPS_PER_UPDATE,
        "UPDATE_EPOCHS": EPOCHS,
        "NUM_MINIBATCHES": MINIBATCHES,
        "GAMMA": 0.99,
        "GAE_LAMBDA": 1.0,
        "CLIP_EPS": 0.2,
        "ENT_COEF": 0.0,
        "VF_COEF": 1.0,
        "MAX_GRAD_NORM": 0.5,
        "ENV": env,
        "ENV_PARAMS": env_params,
        "ANNEAL_LR": False,
        "DEBUG": False,
        "S5_D_MODEL": 256,
        "S5_SSM_SIZE": 256,
        "S5_N_LAYERS": 4,
        "S5_BLOCKS": 1,
        "S5_ACTIVATION": "full_glu",
        "S5_DO_NORM": False,
        "S5_PRENORM": False,
        "S5_DO_GTRXL_NORM": False,
    }


def popjaxrl_program(path: str, updates: int) -> Program:
    """popjaxrl's PPO-S5 from the clone at `path`, compiled."""
    popjaxrl_shim.install(path)
    import jax
    from algorithms.ppo_s5 import make_train
    from envs import make
    from envs.wrappers import AliasPrevActionV2

    env, env_params = make("RepeatPreviousEasy")
    config = popjaxrl_config(updates, AliasPrevActionV2(env), env_params)
    keys = jax.random.split(jax.random.PRNGKey(42), 1)
    program = harness.compile_timed(jax.jit(jax.vmap(make_train(config))), keys)
    (train_state, *_), _ = jax.eval_shape(jax.vmap(make_train(config)), keys)
    return Program(
        run=lambda: jax.block_until_ready(program.call(keys)),
        parameters=_count(train_state.params),
        inputs=train_state.params["params"]["encoder_0"]["kernel"].shape[-2],
        lower_seconds=program.lower_seconds,
        compile_seconds=program.compile_seconds,
    )


def our_agent() -> Any:
    """Our agent with the same environment, network and hyperparameters."""
    import ssmrl.envs
    from ssmrl.agents.ppo import PPO, PPOConfig
    from ssmrl.memory import make_memory

    env = ssmrl.envs.make_vector(
        "popgym/repeat_previous_easy", ENVS, previous_action=True, first_flag=True
    )
    options = {"state_size": 256, "residual": True, "activation": "gelu", "glu": "full"}
    memory = make_memory("s5", features=256, layers=4, norm="none", **options)
    config = PPOConfig(
        num_envs=ENVS,
        rollout_length=STEPS,
        epochs=EPOCHS,
        minibatches=MINIBATCHES,
        discount=0.99,
        gae_lambda=1.0,
        clip=0.2,
        value_clip=0.2,
        value_coefficient=1.0,
        entropy_coefficient=0.0,
        lr=5e-5,
        max_grad_norm=0.5,
        encoder=[ENCODER_WIDTH, 256],
        actor=[128, 128],
        critic=[128, 128],
        activation="leaky_relu",
    )
    return PPO(config, memory, env, total_steps=15_000_000)


def our_program(updates: int) -> Program:
    """Our PPO-S5, compiled."""
    import jax

    from ssmrl.training.devices import compiler_options

    agent = our_agent()
    assert agent.steps_per_iteration == STEPS_PER_UPDATE, agent.steps_per_iteration
    init = harness.compile_timed(jax.jit(agent.init), jax.random.key(42))
    state = [init.call(jax.random.key(42))]
    options = {"donate_argnums": 0, "compiler_options": compiler_options()}  # as runs have them
    iteration = harness.compile_timed(jax.jit(agent.iteration, **options), state[0])

    encoder = state[0].params["params"]["ObservationEncoder_0"]

    def run() -> None:
        for _ in range(updates):
            state[0], metrics = iteration.call(state[0])
        jax.block_until_ready((state[0], metrics))

    return Program(
        run=run,
        parameters=_count(state[0].params),
        inputs=encoder["MLP_0"]["Dense_0"]["kernel"].shape[0],
        lower_seconds=init.lower_seconds + iteration.lower_seconds,
        compile_seconds=init.compile_seconds + iteration.compile_seconds,
    )


def _count(parameters: Any) -> int:
    import jax

    return sum(leaf.size for leaf in jax.tree.leaves(parameters))


def work(side: str, popjaxrl: str, updates: int) -> None:
    """A worker: compiles its side, warms it up, then times a run for each line it is sent."""
    program = popjaxrl_program(popjaxrl, updates) if side == "popjaxrl" else our_program(updates)
    program.run()
    facts = {
        "parameters": program.parameters,
        "inputs": program.inputs,
        "lower_seconds": program.lower_seconds,
        "compile_seconds": program.compile_seconds,
    }
    harness.serve(facts, lambda _: {"seconds": harness.seconds(program.run)})


def measure(popjaxrl: str, sides: list[str], updates: int, repeats: int) -> dict[str, Any]:
    """Starts the workers one after the other, then has them run in turn."""
    facts, workers = {}, {}
    for side in sides:
        arguments = ["--side", side, "--popjaxrl", popjaxrl, "--updates", str(updates)]
        workers[side] = harness.Worker(__spec__.name, arguments)
        facts[side] = workers[side].receive()
    check_same_network(facts)
    calls = {
        side: lambda worker=worker: worker.ask("run")["seconds"] for side, worker in workers.items()
    }
    taken = harness.interleaved(calls, repeats)
    for side, worker in workers.items():
        worker.close()
        rates = [updates * STEPS_PER_UPDATE / seconds for seconds in taken[side]]
        facts[side] |= {"run_seconds": taken[side], "steps_per_second": harness.summary(rates)}
    return facts


def check_same_network(facts: dict[str, Any]) -> None:
    """Raises ValueError where parameters differ by more than the width of the observation does.

    Ours is a little wider: "no previous action" has a place of its own where popjaxrl has zeros,
    and the first-step flag takes two places, not one. Each place costs a row of the first layer.
    """
    counts = {side: (fact["parameters"], fact["inputs"]) for side, fact in facts.items()}
    if len({total - ENCODER_WIDTH * inputs for total, inputs in counts.values()}) > 1:
        raise ValueError(f"not the same network; (parameters, inputs): {counts}")


def compare(results: dict[str, Any]) -> dict[str, float]:
    """How many times ours is better, from the medians and pair by pair."""
    theirs, ours = results["popjaxrl"], results["ssmrl"]
    pairs = zip(ours["run_seconds"], theirs["run_seconds"], strict=True)
    medians = [side["steps_per_second"]["median"] for side in (ours, theirs)]
    return {
        "steps_per_second": medians[0] / medians[1],
        "steps_per_second_median_of_pairs": statistics.median(b / a for a, b in pairs),
        "compile_seconds": _total_compile(theirs) / _total_compile(ours),
    }


def _total_compile(facts: dict[str, Any]) -> float:
    return facts["lower_seconds"] + facts["compile_seconds"]


def show(results: dict[str, Any]) -> None:
    """Prints one row a side."""
    headers = ["", "steps/s", "min", "max", "lower s", "compile s", "parameters"]
    rows = [
        [
            side,
            *(facts["steps_per_second"][key] for key in ("median", "min", "max")),
            facts["lower_seconds"],
            facts["compile_seconds"],
            facts["parameters"],
        ]
        for side, facts in results.items()
    ]
    harness.print_table(headers, rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--popjaxrl", required=True, help="a clean clone of popjaxrl")
    parser.add_argument("--updates", type=int, default=2, help="updates in a timed run")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each side")
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--only", choices=SIDES, help="measure one side; no ratios then")
    parser.add_argument("--side", choices=SIDES, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        return work(args.side, args.popjaxrl, args.updates)
    machine = harness.machine_info()
    sides = [args.only] if args.only else list(SIDES)
    results = measure(args.popjaxrl, sides, args.updates, args.repeats)
    record = {
        "benchmark": "ppo_popjaxrl",
        "machine": machine,
        "popjaxrl_source_sha256": harness.source_hash(Path(args.popjaxrl)),
        "updates": args.updates,
        "steps_per_update": STEPS_PER_UPDATE,
        "results": results,
    }
    show(results)
    if not args.only:
        record["ratios"] = compare(results)
        harness.print_table(["ours is better", "times"], [*map(list, record["ratios"].items())])
    harness.write_json(args.output, record)


if __name__ == "__main__":
    main()

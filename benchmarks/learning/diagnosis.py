"""What PPO teaches its memory, and what becomes of it: actor's and critic's part over training.

    python -m benchmarks.learning.diagnosis [--memories s5 gru] [--settings before now] [--ids …]

On the six ids of the recipe's search, with the settings before it and with it. At moments spread
over each training, on a fresh rollout and before the update that is made from it:

- gradients: the norm of the policy loss's and of the (weighted) value loss's gradient in the
  memory's parameters, which both teach, and the cosine between the two;
- values: the share of the targets' variance that they explain, and the deviation of the targets;
- outputs of the memory: their effective rank, exp of the entropy of the normalised singular values
  (Roy and Vetterli 2007), and the share of units that hardly move.

Rows that are there are kept; --again makes them anew.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from benchmarks.harness import machine_info, write_json
from benchmarks.learning.listening import hear_memory
from benchmarks.learning.recipe import TUNING_IDS
from ssmrl.agents.ppo import PPO
from ssmrl.agents.ppo.ppo import Window
from ssmrl.agents.rollout_agent import take_windows
from ssmrl.experiment import COMPONENTS
from ssmrl.figures import memory_line, save, styled, task_name
from ssmrl.training.cli import compose_training
from ssmrl.training.loading import build_agent
from ssmrl.training.loop import init_state

ROOT = Path(__file__).parents[2]
SETTINGS = {"before": "popgym_2026_11", "now": "popgym"}
MEASURES = {
    "policy_gradient": "policy's gradient",
    "value_gradient": "critic's gradient",
    "cosine": "cosine of the two",
    "explained_variance": "explained variance",
    "effective_rank": "effective rank",
    "still_units": "still units",
}
_STILL = 1e-2
"""A unit that moves less than this part of what its layer's units do on average is still."""


def measure(agent: PPO, state: Any, key: jax.Array) -> dict[str, jax.Array]:
    """What the next update would be made of; scalars by name."""
    rollout, target, batch = collect(agent, state, key)
    policy = memory_gradient(agent, state, batch, key, "policy")
    value = memory_gradient(agent, state, batch, key, "value")
    value = optax.tree.scale(agent.config.value_coefficient, value)
    norms = optax.tree.norm(policy), optax.tree.norm(value)
    residual = (target - rollout.value).var() / jnp.maximum(target.var(), 1e-8)
    return {
        "policy_gradient": norms[0],
        "value_gradient": norms[1],
        "cosine": optax.tree.vdot(policy, value) / jnp.maximum(norms[0] * norms[1], 1e-20),
        "explained_variance": 1 - residual,
        "target_deviation": target.std(),
        **of_outputs(memory_outputs(agent, state, batch)),
    }


def collect(agent: PPO, state: Any, key: jax.Array) -> tuple[Any, jax.Array, Window]:
    """A rollout, its value targets, and one of the minibatches that it is cut into."""
    c = agent.config
    acting, starts, rollout = agent._collect(state)
    normalizers = agent._update_normalizers(state.normalizers, rollout)
    advantage, target = agent._advantages(state, acting, normalizers, rollout, c.gae_lambda)
    _, advantage = agent._in_running_scale(normalizers, advantage)
    windows = agent._cut_windows(Window, starts, rollout, advantage=advantage, target=target)
    order = jax.random.permutation(key, windows.reset.shape[1])
    return rollout, target, take_windows(windows, order[: len(order) // c.minibatches])


def memory_gradient(agent: PPO, state: Any, batch: Window, key: jax.Array, part: str) -> Any:
    """The gradient of a part of the loss in the memory's parameters; without entropy's bonus."""

    def loss(params: Any) -> jax.Array:
        return agent._loss(state.normalizers, 0.0, batch, key, params)[1][f"loss/{part}"]

    return jax.grad(loss)(state.params)["params"]["memory"]


def memory_outputs(agent: PPO, state: Any, batch: Window) -> jax.Array:
    """Of every step of a minibatch, `[steps, features]`."""
    inputs = batch.carry, batch.observation, batch.reset
    _, y = hear_memory(agent._apply, state.params, state.normalizers, *inputs)
    return y.reshape(-1, y.shape[-1])


def of_outputs(y: jax.Array) -> dict[str, jax.Array]:
    """Effective rank, and the share of units that hardly move."""
    y = y - y.mean(0)
    singular = jnp.linalg.svd(y, compute_uv=False)
    share = singular / jnp.maximum(singular.sum(), 1e-20)
    entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.maximum(share, 1e-30)), 0.0))
    deviation = y.std(0)
    still = (deviation <= _STILL * deviation.mean()).mean()
    return {"effective_rank": jnp.exp(entropy), "still_units": still}


def trace(env: str, memory: str, setting: str, args: argparse.Namespace) -> dict[str, Any]:
    """One training with its measurements."""
    overrides = [f"experiment={SETTINGS[setting]}", f"memory={memory}", f"env=popgym/{env}"]
    overrides += [f"total_steps={args.steps}", "seeds=1"]
    config = compose_training(overrides, COMPONENTS, ROOT / "configs")
    agent, _ = build_agent(COMPONENTS, config)
    state = init_state(agent, config.seed, 1)
    between = max(1, agent.iterations // args.points)
    look = jax.jit(partial(measure, agent))
    iterate = jax.jit(agent.iteration)
    row: dict[str, list[float]] = {}
    for number in range(agent.iterations):
        if number % between == 0:
            seen = jax.device_get(look(state, jax.random.key(number)))
            seen["step"] = number * agent.steps_per_iteration
            for name, value in seen.items():
                row.setdefault(name, []).append(float(np.round(value, 6)))
        state, _ = iterate(state)
    return {"env": env, "memory": memory, "setting": setting, "steps": args.steps, **row}


@styled
def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """A column for each id, a row for each measure."""
    ids = [name for name in TUNING_IDS if any(row["env"] == name for row in rows)]
    drawn = [name for name in MEASURES if any(np.any(row[name]) for row in rows)]
    figure = Figure(figsize=(1.8 * len(ids), 1.3 * len(drawn)), layout="constrained")
    panels = figure.subplots(len(drawn), len(ids), sharex=True, squeeze=False)
    for axes, measured in zip(panels, drawn, strict=True):
        for panel, env in zip(axes, ids, strict=True):
            for row in (row for row in rows if row["env"] == env):
                style = "-" if row["setting"] == "now" else ":"
                name = f"{row['memory']}, {row['setting']}"
                steps = np.array(row["step"]) / 1e3
                colour = (memory_line(row["memory"]) or ("black",))[0]
                panel.plot(steps, row[measured], style, color=colour, label=name)
            if measured.endswith("gradient"):
                panel.set_yscale("log")
            if measured == "explained_variance":
                panel.set_ylim(-0.2, 1.05)
        axes[0].set_ylabel(MEASURES[measured])
    for panel, env in zip(panels[0], ids, strict=True):
        panel.set_title(task_name(f"popgym/{env}"), fontsize="small")
    for panel in panels[-1]:
        panel.set_xlabel("steps, thousands")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels))
    save(figure, path)


def table(rows: list[dict[str, Any]]) -> str:
    """Means over the second half of each training."""
    lines = ["| id | memory | settings | " + " | ".join(MEASURES) + " | target's deviation |"]
    lines.append("|---|---|---|" + "--:|" * (len(MEASURES) + 1))
    for row in rows:
        half = len(row["step"]) // 2
        means = [np.mean(row[name][half:]) for name in (*MEASURES, "target_deviation")]
        cells = [row["env"], row["memory"], row["setting"], *(f"{mean:.3g}" for mean in means)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ids", nargs="+", default=list(TUNING_IDS))
    parser.add_argument("--memories", nargs="+", default=["s5", "gru"])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS), choices=list(SETTINGS))
    parser.add_argument("--steps", type=int, default=500_000)
    parser.add_argument("--points", type=int, default=12, help="measurements of each training")
    parser.add_argument("--again", action="store_true", help="trainings that are there, too")
    results = ROOT / "benchmarks/results/diagnosis.json"
    parser.add_argument("--output", type=Path, default=results)
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "diagnosis.png")
    args = parser.parse_args()
    rows = json.loads(args.output.read_text())["rows"] if args.output.exists() else []
    for env in args.ids:
        for memory in args.memories:
            for setting in args.settings:
                wanted = {"env": env, "memory": memory, "setting": setting, "steps": args.steps}
                old = [row for row in rows if wanted.items() <= row.items()]
                if old and not args.again:
                    continue
                rows = [row for row in rows if row not in old]
                rows.append(trace(env, memory, setting, args))
                write_json(args.output, {"machine": machine_info(), "seeds": 1, "rows": rows})
                print(env, memory, setting, "done", flush=True)
    print(table(rows))
    draw(rows, args.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())

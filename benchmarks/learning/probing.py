"""What a memory knows of its Memory Maze: walls and targets read out of it by probes.

    python -m benchmarks.learning.probing runs/memory_maze/s5 runs/memory_maze/gru ...

The scripted wanderer (`ssmrl.envs.memory_maze.scripted`) walks through fresh mazes; a trained
policy looks on, with its observations, and never acts. At every step probes predict, from what its
memory gives out and from nothing else,

- the walls of the maze, bit by bit (accuracy),
- the targets' places in the maze, and as seen from the agent (squared distance, cells²).

A probe is linear, or has a hidden layer; it is trained on some mazes and tested on others. The line
to beat is what is known without looking: for each bit the likelier value, the mean place. After
Pašukonis et al. (2023), section 5, whose probes read world models trained on data of this kind.
Rows of other memories that the JSON has of an earlier call with the same settings stay.
"""

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.harness import machine_info, write_json
from benchmarks.learning.listening import hear_memory
from benchmarks.learning.studies import earlier_rows
from ssmrl.envs.memory_maze.environment import EnvState
from ssmrl.envs.memory_maze.scripted import begin_wandering, wander
from ssmrl.experiment import load_run
from ssmrl.figures import BLACK, legend_below, memory_line, panels, save, styled
from ssmrl.networks.mlp import MLP
from ssmrl.training import streams

ROOT = Path(__file__).parents[2]
PROBES = {"linear": (), "two layers": (256,)}
TITLES = {
    "walls": "walls",
    "places": "targets in the maze",
    "places from the agent": "targets relative to the agent",
}
TASKS = tuple(TITLES)


# ------------------------------------------------------------------------------- what is seen


def maze_states(env_state: Any) -> EnvState:
    """The mazes' states, wherever wrappers keep them."""
    leaves = jax.tree.leaves(env_state, is_leaf=lambda x: isinstance(x, EnvState))
    (found,) = [leaf for leaf in leaves if isinstance(leaf, EnvState)]
    return found


def read_memory(agent: Any, state: Any, carry: Any, observation: Any, reset: Any, key: Any) -> Any:
    """The new carry, and what the memory gave out `[B, F]`, whatever the agent."""
    acted, y = hear_memory(agent.act, state, carry, observation, reset, key, greedy=True)
    return acted[0], y.reshape(len(reset), -1)


def truths(state: EnvState) -> dict[str, jax.Array]:
    """What is to be known, each a vector."""
    body, maze = state.body, state.maze
    away = maze.targets - jnp.stack([body.x, body.y])
    cos, sin = jnp.cos(body.heading), jnp.sin(body.heading)
    seen = jnp.stack([away @ jnp.stack([sin, -cos]), away @ jnp.stack([cos, sin])], axis=-1)
    walls = maze.is_wall[1:-1, 1:-1].ravel().astype(jnp.float32)
    return dict(zip(TASKS, (walls, maze.targets.ravel(), seen.ravel()), strict=True))


def look_on(run: Any, episodes: int, noise: float) -> dict[str, np.ndarray]:
    """Whole episodes: by name, the memory's outputs and the truths `[E, T, ...]`."""
    venv, agent = run.venv, run.agent
    params, num_envs = venv.unwrapped.params, venv.num_envs
    length = -(-int(params.episode_length) // params.action_repeat)

    @jax.jit
    def play(key: jax.Array) -> Any:
        key_reset, key_goal, key_steps = jax.random.split(key, 3)
        obs, env_state = venv.reset(key_reset)
        mazes = maze_states(env_state)
        goals = jax.vmap(begin_wandering)(jax.random.split(key_goal, num_envs), mazes)
        carry = agent.initialize_carry(num_envs)

        def step(loop: Any, key: jax.Array) -> Any:
            obs, env_state, carry, goals, reset = loop
            carry, known = read_memory(agent, run.state, carry, obs, reset, key)
            mazes = maze_states(env_state)
            keys = jax.random.split(key, num_envs)
            goals, action = jax.vmap(wander, (0, 0, 0, None))(keys, goals, mazes, noise)
            obs, env_state, *_ = venv.step(env_state, action)
            answer = {"memory": known, **jax.vmap(truths)(mazes)}
            return (obs, env_state, carry, goals, jnp.zeros(num_envs, bool)), answer

        loop = obs, env_state, carry, goals, jnp.ones(num_envs, bool)
        return jax.lax.scan(step, loop, jax.random.split(key_steps, length))[1]

    rounds = [
        jax.device_get(play(jax.random.fold_in(streams.benchmark_key(2), i)))
        for i in range(-(-episodes // num_envs))
    ]
    return jax.tree.map(lambda *x: np.concatenate(x, axis=1).swapaxes(0, 1), *rounds)


# ------------------------------------------------------------------------------------ probes


def probe(
    data: dict[str, np.ndarray], task: str, hidden: tuple[int, ...], tested: int, updates: int
) -> np.ndarray:
    """A trained probe's error at each step `[T]` on the last ``tested`` episodes."""
    x, y = data["memory"], data[task]
    mean, std = x[:-tested].mean((0, 1)), x[:-tested].std((0, 1)) + 1e-6
    x = (x - mean) / std
    centre = y[:-tested].mean((0, 1))
    network = MLP(hidden, "relu", y.shape[-1])
    flat = [jnp.asarray(a[:-tested].reshape(-1, a.shape[-1])) for a in (x, y)]
    params = network.init(jax.random.key(0), flat[0][:1])
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, updates))

    def predict(params: Any, x: jax.Array) -> jax.Array:
        out = network.apply(params, x)
        return out if task == "walls" else out + centre

    def loss(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        out = predict(params, x)
        if task == "walls":
            return optax.sigmoid_binary_cross_entropy(out, y).mean()
        return optax.l2_loss(out, y).mean()

    def update(carry: Any, key: jax.Array) -> Any:
        params, state = carry
        rows = jax.random.randint(key, (1024,), 0, len(flat[0]))
        changes, state = optimizer.update(jax.grad(loss)(params, *(a[rows] for a in flat)), state)
        return (optax.apply_updates(params, changes), state), None

    keys = jax.random.split(jax.random.key(1), updates)
    train = jax.jit(partial(jax.lax.scan, update))
    (params, _), _ = train((params, optimizer.init(params)), keys)
    return error(task, np.asarray(jax.jit(predict)(params, x[-tested:])), y[-tested:])


def error(task: str, predicted: np.ndarray, y: np.ndarray) -> np.ndarray:
    """At each step `[T]`: the share of bits that are right, or a target's squared distance."""
    if task == "walls":
        return ((predicted > 0) == (y > 0.5)).mean((0, 2))
    return 2 * ((predicted - y) ** 2).mean((0, 2))


def without_looking(data: dict[str, np.ndarray], task: str, tested: int) -> np.ndarray:
    """The error of who knows the rules of mazes and nothing of this one."""
    y = data[task]
    guess = y[:-tested].mean((0, 1))
    return error(
        task, np.broadcast_to(guess - (task == "walls") * 0.5, y[-tested:].shape), y[-tested:]
    )


# ------------------------------------------------------------------------------------ results


def row(run: Any, args: argparse.Namespace) -> dict[str, Any]:
    """Of one run: by task and probe, the error over time, in twenty parts."""
    data = look_on(run, args.episodes + args.tested, args.noise)
    results: dict[str, Any] = {"step": run.step, "features": int(data["memory"].shape[-1])}
    for task in TASKS:
        errors = {"without looking": without_looking(data, task, args.tested)}
        for name, hidden in PROBES.items():
            errors[name] = probe(data, task, hidden, args.tested, args.updates)
        results[task] = {
            name: [round(float(part.mean()), 4) for part in np.array_split(values, 20)]
            for name, values in errors.items()
        }
    return results | {"steps": int(data["memory"].shape[1])}


@styled
def draw(rows: dict[str, Any], path: Path) -> None:
    """The probe with two layers of each memory over time, and one without observations."""
    figure, places = panels(3, height=3.0)
    for axes, task in zip(places, TASKS, strict=True):
        for name, result in rows.items():
            steps = (np.arange(20) + 0.5) * result["steps"] / 20
            # A world model is of no memory's name.
            colour, line = memory_line(name.rpartition("/")[2]) or (BLACK, "-")
            axes.plot(steps, result[task]["two layers"], line, color=colour, label=name)
        axes.plot(steps, result[task]["without looking"], color="grey", linestyle=":")
        axes.set(title=TITLES[task], xlabel="actions since the episode's start")
        axes.set_ylabel("accuracy" if task == "walls" else "squared distance, cells²")
        legend_below(axes, title="dotted: without observations")
    path.parent.mkdir(parents=True, exist_ok=True)
    save(figure, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--episodes", type=int, default=256, help="that probes are trained on")
    parser.add_argument("--tested", type=int, default=64, help="episodes")
    parser.add_argument("--updates", type=int, default=4000, help="of each probe")
    parser.add_argument("--noise", type=float, default=0.1, help="the wanderer's")
    results = ROOT / "benchmarks/results/memory_maze_probing.json"
    parser.add_argument("--output", type=Path, default=results)
    parser.add_argument("--figure", type=Path, default=ROOT / "docs" / "memory_maze_probing.png")
    args = parser.parse_args()
    settings = {name: getattr(args, name) for name in ("noise", "episodes", "tested", "updates")}
    rows = earlier_rows(args.output, settings) or {}
    for path in args.runs:
        rows[path.name] = row(load_run(path), args)
        print(path.name)
        for task in TASKS:
            ends = {name: values[-1] for name, values in rows[path.name][task].items()}
            print(f"  {task:24}", "  ".join(f"{k} {v:.3f}" for k, v in ends.items()))
    record = {"machine": machine_info(), **settings, "seeds": 1, "rows": rows}
    write_json(args.output, record)
    draw(rows, args.figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())

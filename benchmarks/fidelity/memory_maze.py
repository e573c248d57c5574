"""Memory Maze: ours beside the package itself, which has to be installed (`ssmrl[memory-maze]`).

    python -m benchmarks.fidelity.memory_maze
    python -m benchmarks.fidelity.memory_maze --sizes 9 --policies random --rounds 2 --envs 6

A random policy and the scripted oracle play whole episodes of the package. On the way:

- pictures: ours drawn at the package's state, every 25 steps; structural similarity;
- touches: whether ours would have paid, by the way between two states of the package; each step;
- returns: of the same policy in ours, more episodes, without pictures.

Each environment of the package needs 1 GB of memory, and an episode at 9 × 9 a minute of one core.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

import ssmrl.envs
from benchmarks import harness
from ssmrl.envs.memory_maze.environment import TOUCH_DISTANCE, MemoryMaze
from ssmrl.envs.memory_maze.motion import NUM_ACTIONS, distance_to
from ssmrl.envs.memory_maze.scripted import oracle
from tests.envs.memory_maze.similarity import similarity

OUTPUT = Path(__file__).parents[1] / "results" / "memory_maze_fidelity.json"
EVERY = 25
QUALITIES = ("fast", "good")
BLIND = {"view": "above", "picture_size": 16}


def act(policy: str, state: Any, key: jax.Array) -> jax.Array:
    """One environment's action."""
    if policy == "oracle":
        return oracle(state)
    return jax.random.randint(key, (), 0, NUM_ACTIONS)


def play_original(size: int, policy: str, args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Whole episodes of the package: returns, similarities by quality, touches beside rewards."""
    length = args.steps or MemoryMaze(size).default_params.episode_length
    name = f"memory_maze_original/{size}x{size}"
    venv = ssmrl.envs.make_vector(name, args.envs, episode_length=length)
    ours = MemoryMaze(size)
    look = {
        quality: jax.jit(jax.vmap(partial(ours.observe, params=ours.make_params(quality=quality))))
        for quality in QUALITIES
    }
    choose = jax.jit(jax.vmap(partial(act, policy)))
    obs, state = venv.reset(jax.random.key(args.seed))
    before = venv.unwrapped.states()
    paid, alike, touched = [], {quality: [] for quality in QUALITIES}, []
    for step in range(length * args.rounds):
        if step % EVERY == 0:
            for quality, draw in look.items():
                alike[quality].append(similarity(np.asarray(draw(before)), np.asarray(obs)))
        keys = jax.random.split(jax.random.fold_in(jax.random.key(args.seed + 1), step), args.envs)
        obs, state, reward, _, truncated, _ = venv.step(state, choose(before, keys))
        after = venv.unwrapped.states()
        near = jax.vmap(distance_to)(before.maze.targets, before.body, after.body)
        current = np.take_along_axis(np.asarray(near), np.asarray(before.current)[:, None], axis=1)
        paid.append(np.asarray(reward))
        # Of a last step the state after it is the next episode's.
        known = ~np.asarray(truncated)
        touched.append(np.where(known, current[:, 0] < TOUCH_DISTANCE, paid[-1] > 0))
        before = after
    venv.close()
    rewards = np.stack(paid).reshape(args.rounds, length, args.envs)
    return {
        "returns": rewards.sum(axis=1).ravel(),
        "rewards": np.stack(paid),
        "touched": np.stack(touched),
        **{quality: np.concatenate(scores) for quality, scores in alike.items()},
    }


def play_ours(size: int, policy: str, episodes: int, steps: int | None, seed: int) -> np.ndarray:
    """Returns of whole episodes of ours."""
    env = MemoryMaze(size)
    params = env.make_params(**BLIND)

    @jax.jit
    @jax.vmap
    def play(key: jax.Array) -> jax.Array:
        def step(state: Any, key: jax.Array) -> tuple[Any, jax.Array]:
            key_act, key_step = jax.random.split(key)
            action = act(policy, state, key_act)
            _, state, reward, *_ = env.step_env(key_step, state, action, params)
            return state, reward

        key_reset, key_steps = jax.random.split(key)
        state = env.reset_env(key_reset, params)[1]
        keys = jax.random.split(key_steps, steps or params.episode_length)
        return jnp.sum(jax.lax.scan(step, state, keys)[1])

    return np.asarray(play(jax.random.split(jax.random.key(seed), episodes)))


def summary(returns: np.ndarray) -> dict[str, Any]:
    """Mean with a 95 % interval of Student's t."""
    mean, error = float(returns.mean()), float(stats.sem(returns))
    low, high = stats.t.interval(0.95, len(returns) - 1, mean, error) if error else (mean, mean)
    return {
        "episodes": len(returns),
        "mean": mean,
        "interval": [float(low), float(high)],
        "deviation": float(returns.std(ddof=1)),
        "returns": returns.tolist(),
    }


def compare(size: int, policy: str, args: argparse.Namespace) -> dict[str, Any]:
    """One row."""
    start = time.perf_counter()
    theirs = play_original(size, policy, args)
    seconds = time.perf_counter() - start
    ours = play_ours(size, policy, args.episodes, args.steps, args.seed)
    rewards = theirs["rewards"] > 0
    return {
        "size": size,
        "policy": policy,
        "episode_steps": args.steps or MemoryMaze(size).default_params.episode_length,
        "original": summary(theirs["returns"]),
        "ours": summary(ours),
        "p_value": float(stats.ttest_ind(theirs["returns"], ours, equal_var=False).pvalue),
        "pictures": int(theirs["fast"].size),
        "similarity": {q: float(theirs[q].mean()) for q in QUALITIES},
        "similarity_lowest_twentieth": {q: float(np.quantile(theirs[q], 0.05)) for q in QUALITIES},
        "steps": int(rewards.size),
        "rewards": int(rewards.sum()),
        "touches_that_differ": int((rewards != theirs["touched"]).sum()),
        "seconds_of_the_original": seconds,
    }


def interval(row: dict[str, Any]) -> str:
    low, high = row["interval"]
    return f"{row['mean']:.2f} [{low:.2f}, {high:.2f}] ({row['episodes']})"


CELLS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "maze": lambda r: f"{r['size']}x{r['size']}",
    "policy": lambda r: r["policy"],
    "original": lambda r: interval(r["original"]),
    "ours": lambda r: interval(r["ours"]),
    "p": lambda r: f"{r['p_value']:.2f}",
    "SSIM fast": lambda r: f"{r['similarity']['fast']:.4f}",
    "good": lambda r: f"{r['similarity']['good']:.4f}",
    "pictures": lambda r: r["pictures"],
    "rewards": lambda r: r["rewards"],
    "differ": lambda r: r["touches_that_differ"],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[9])
    parser.add_argument("--policies", nargs="+", default=["random", "oracle"])
    parser.add_argument("--envs", type=int, default=6, help="of the package, at once")
    parser.add_argument("--rounds", type=int, default=2, help="episodes of each of them")
    parser.add_argument("--episodes", type=int, default=256, help="of ours")
    parser.add_argument("--steps", type=int, help="an episode, where less than a whole one")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    args = parser.parse_args()
    rows = []
    for size in args.sizes:
        for policy in args.policies:
            rows.append(compare(size, policy, args))
            table = [[cell(row) for cell in CELLS.values()] for row in rows]
            harness.print_table(list(CELLS), table)
            record = {"benchmark": "memory_maze_fidelity", "machine": harness.machine_info()}
            harness.write_json(args.output, record | {"every": EVERY, "cases": rows})


if __name__ == "__main__":
    main()

"""Datasets of Memory Maze in the files of the original's (Pašukonis et al. 2023, section 5).

An episode is a file of arrays with the time as their first axis, one entry more than there are
actions: what is seen before the first action, and behind each. A scripted policy walks from one
random cell to the next, now and then astray, and collects no rewards but by chance.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from ssmrl.envs.memory_maze.environment import EnvParams, MemoryMaze
from ssmrl.envs.memory_maze.motion import NUM_ACTIONS
from ssmrl.envs.memory_maze.scripted import begin_wandering, wander


def _make_env(size: int, noise: float, options: dict[str, Any]) -> tuple[MemoryMaze, EnvParams]:
    """The maze and its parameters, checked, and the noise with them."""
    if not 0 <= noise <= 1:
        raise ValueError(f"a dataset needs a noise of 0 to 1, a chance, got {noise}")
    env = MemoryMaze(size)
    return env, env.make_params(**options | {"extra_observations": True})


def _make_walk(env: MemoryMaze, params: EnvParams, noise: float) -> Callable[[PRNGKeyArray], Any]:
    """A jitted function of keys `[B]`: observations `[B, T + 1, ...]`, actions, rewards."""
    length = -(-params.episode_length // params.action_repeat)

    def step(carry: Any, key: PRNGKeyArray) -> Any:
        state, wandering = carry
        key_policy, key_env = jax.random.split(key)
        wandering, action = wander(key_policy, wandering, state, noise)
        obs, state, reward, *_ = env.step_env(key_env, state, action, params)
        return (state, wandering), (obs, action, reward)

    def walk(key: PRNGKeyArray) -> Any:
        key_reset, key_goal, key_steps = jax.random.split(key, 3)
        first, state = env.reset_env(key_reset, params)
        start = state, begin_wandering(key_goal, state)
        _, (obs, *rest) = jax.lax.scan(step, start, jax.random.split(key_steps, length))
        return jax.tree.map(lambda a, b: jnp.concatenate([a[None], b]), first, obs), *rest

    return jax.jit(jax.vmap(walk))


def _as_files(obs: Any, action: Any, reward: Any) -> list[dict[str, Any]]:
    """Of each episode the arrays by name, what led to an entry beside it."""
    before = [(0, 0), (1, 0)]
    onehot = np.eye(NUM_ACTIONS, dtype=np.uint8)[action]
    arrays = obs | {"action": np.pad(onehot, [*before, (0, 0)]), "reward": np.pad(reward, before)}
    return [{name: array[i] for name, array in arrays.items()} for i in range(len(action))]


def _check_positive(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"a dataset needs {name} of at least 1, got {count}")


def record(
    key: PRNGKeyArray, size: int = 9, episodes: int = 1, noise: float = 0.1, **options: Any
) -> list[dict[str, np.ndarray]]:
    """Episodes of a wanderer, each as the arrays of a file.

    Args:
        key: of mazes and walks.
        size: of the mazes.
        episodes: how many; they are walked side by side, and all are in memory at once.
        noise: the chance in each step of going astray.
        options: of ``memory_maze/…``, as an ``episode_length`` (T below, in steps).

    Returns:
        for each episode ``image`` u8[T + 1, 64, 64, 3], ``action`` u8[T + 1, 6], the last one,
        one-hot, none at first, ``reward`` f32[T + 1], the last one, and as in the variant with
        extra observations ``maze_layout`` u8[T + 1, size, size], ``agent_pos``, ``agent_dir``,
        ``targets_pos``, ``targets_vec``, ``target_pos``, ``target_vec`` and ``target_color``.

    Raises:
        ValueError: for sizes and options that there are not, a noise that is no chance, and for
            fewer than one episode.
    """
    _check_positive(episodes=episodes)
    walk = _make_walk(*_make_env(size, noise, options), noise)
    return _as_files(*jax.device_get(walk(jax.random.split(key, episodes))))


def write(
    folder: Path,
    key: PRNGKeyArray,
    episodes: int,
    at_once: int = 16,
    size: int = 9,
    noise: float = 0.1,
    **options: Any,
) -> int:
    """Write ``episodes`` files ``000000.npz`` and on; those that are there already stay.

    Beside them ``dataset.json`` says what they were made with.

    Args:
        folder: is made where it is missing.
        key: each file's episode depends on this, its number and ``at_once``, so that an interrupted
            dataset goes on.
        episodes: how many files there are in the end.
        at_once: how many are walked side by side; 16 episodes of 1,000 steps take 200 MB.
        size, noise, options: see :func:`record`.

    Returns:
        how many files were written now.

    Raises:
        ValueError: as :func:`record`, for fewer than one at once, and for a ``folder`` whose
            episodes were made with anything else; nothing is written then.
        OSError: if ``folder`` cannot be written to.
    """
    _check_positive(episodes=episodes, at_once=at_once)
    env, params = _make_env(size, noise, options)
    walk = _make_walk(env, params, noise)
    folder.mkdir(parents=True, exist_ok=True)
    own = {"key": jax.random.key_data(key).tolist(), "at_once": at_once, "size": size}
    _check_made_with(folder, own | {"noise": float(noise)} | dataclasses.asdict(params))
    written = 0
    for first in range(0, episodes, at_once):
        numbers = range(first, min(first + at_once, episodes))
        missing = [n for n in numbers if not (folder / f"{n:06}.npz").exists()]
        if not missing:
            continue
        keys = jax.random.split(jax.random.fold_in(key, first), at_once)
        recorded = _as_files(*jax.device_get(walk(keys)))
        for number in missing:
            partial = folder / f"{number:06}.partial"  # a file has its name once it is whole
            with partial.open("wb") as file:
                np.savez_compressed(file, **recorded[number - first])
            partial.rename(folder / f"{number:06}.npz")
            written += 1
    return written


def _check_made_with(folder: Path, made_with: dict[str, Any]) -> None:
    """Compares with the folder's note, or leaves one in a folder without episodes."""
    note = folder / "dataset.json"
    if not (note.exists() or any(folder.glob("*.npz"))):
        partial = note.with_suffix(".partial")
        partial.write_text(json.dumps(made_with))
        partial.rename(note)
        return
    try:
        found = dict(json.loads(note.read_text()))
    except (FileNotFoundError, TypeError, ValueError):
        raise ValueError(
            f"{folder} has episodes, and no {note.name} that says what they were made with: "
            "take another folder"
        ) from None
    differences = [
        f"{name} {found.get(name)} instead of {value}"
        for name, value in made_with.items()
        if found.get(name) != value
    ]
    if differences:
        raise ValueError(
            f"{folder} has episodes with {', '.join(differences)}: take another folder"
        )

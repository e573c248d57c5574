"""Episodes and layouts recorded in the original (`data/README.md`), and our replays of them."""

from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ssmrl.envs.memory_maze.layout import make_maze
from ssmrl.envs.memory_maze.motion import Body, distance_to, move
from tests.compiling import quick_jit

DATA = Path(__file__).parent / "data"
SIZES = (9, 15)


@cache
def episodes(size):
    """All arrays of one size, by name."""
    with np.load(DATA / "episodes.npz") as file:
        prefix = f"s{size}_"
        return {k.removeprefix(prefix): file[k] for k in file.files if k.startswith(prefix)}


@cache
def layouts(size):
    """Free cells bool [300, N, N], rooms, places of targets (row, column), and statistics."""
    n = size + 2
    with np.load(DATA / "layouts.npz") as file:
        packed = file[f"s{size}_free_packed"]
        free = np.unpackbits(packed, axis=1, count=n * n).reshape(-1, n, n).astype(bool)
        names = [k for k in file.files if k.startswith(f"s{size}_stat_")]
        stats = {k.removeprefix(f"s{size}_stat_"): file[k] for k in names}
        return free, file[f"s{size}_room"], file[f"s{size}_target_rc"], stats


def maze(size, episode):
    """A recorded episode's maze, as ours."""
    data = episodes(size)
    textures = np.where(data["wall_tex"][episode] == 255, 0, data["wall_tex"][episode])
    targets = data["targets"][episode] + 1
    return make_maze(data["free"][episode] == 0, data["room"][episode] > 0, textures, targets)


def mazes(size):
    """Of all episodes, on one axis."""
    each = [maze(size, e) for e in range(len(episodes(size)["seed"]))]
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *each)


@cache
def replay(size, length, stride):
    """Every window of recorded actions played from its first recorded state.

    Returns:
        dict of arrays [windows, ...]: `episode`, `start`; ours: `position` [W, T, 2] (outer cells),
        `heading`, `touched` [W, T, n]; recorded: `true_position`, `true_heading`, `true_reward`,
        `target` (asked for before each step).
    """
    data = episodes(size)
    count, steps = data["action"].shape
    starts = np.arange(0, steps - length + 1, stride)
    episode, start = (x.ravel() for x in np.meshgrid(np.arange(count), starts, indexing="ij"))
    index = start[:, None] + np.arange(length)
    rows = episode[:, None]
    speed = np.sum(data["vel"] * data["dir"], axis=-1) / 2  # metres to cells
    first = Body(
        x=data["pos"][episode, start, 0] + 1,
        y=data["pos"][episode, start, 1] + 1,
        heading=data["heading"][episode, start],
        speed=speed[episode, start].astype(np.float32),
        turn_rate=data["omega"][episode, start],
    )
    actions = data["action"][rows, index].astype(np.int32)

    @quick_jit
    def play(body, actions, is_wall, targets):
        def step(body, action):
            after = move(body, action, is_wall)
            touched = distance_to(targets, body, after)
            return after, (jnp.stack([after.x, after.y]), after.heading, touched)

        return jax.lax.scan(step, body, actions)[1]

    walls, targets = data["free"][episode] == 0, data["targets"][episode] + 1
    position, heading, distance = jax.device_get(
        jax.vmap(play)(first, actions, jnp.asarray(walls), jnp.asarray(targets))
    )
    return {
        "episode": episode,
        "start": start,
        "position": position,
        "heading": heading,
        "distance": distance,
        "true_position": data["pos"][rows, index + 1] + 1,
        "true_heading": data["heading"][rows, index + 1],
        "true_reward": data["reward"][rows, index],
        "target": data["target"][rows, index],
    }


def policies(size):
    """Of each episode: whether the oracle walked."""
    return episodes(size)["policy"] == "oracle"

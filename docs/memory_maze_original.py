"""Draws the sheet of `memory_maze_original.md`: python docs/memory_maze_original.py

Recorded pictures of the original, and ours at the same place in the same maze.
"""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from ssmrl.envs.memory_maze.layout import Maze
from ssmrl.envs.memory_maze.picture import QUALITIES, draw
from tests.envs.memory_maze.recorded import episodes, mazes

OUTPUT = Path(__file__).with_name("memory_maze_original.png")
SHOWN = {9: ((0, 10), (1, 24), (4, 3), (5, 20)), 15: ((0, 8), (0, 30), (1, 12), (1, 40))}
"""By size: episode and recorded picture."""
SCALE, GAP = 2, 4


@jax.jit
def ours(maze: Maze, place: jax.Array, heading: jax.Array, current: jax.Array) -> list[jax.Array]:
    """Our pictures, "fast" and "good"."""
    see = partial(draw, maze, place[0], place[1], heading, jnp.arange(6), current, 64)
    return [see(quality) for quality in QUALITIES.values()]


def column(size: int, episode: int, picture: int) -> np.ndarray:
    """The original's, ours "fast", ours "good", one below the other."""
    data = episodes(size)
    at = (episode, 5 * picture)
    maze = jax.tree.map(lambda leaf: leaf[episode], mazes(size))
    target = jnp.int32(data["target"][at])
    place = data["pos"][at] + 1
    each = [data["image"][episode, picture], *ours(maze, place, data["heading"][at], target)]
    large = [np.asarray(x).repeat(SCALE, axis=0).repeat(SCALE, axis=1) for x in each]
    return np.concatenate([np.pad(x, ((0, GAP), (0, GAP), (0, 0))) for x in large])


def main() -> None:
    columns = [column(size, *place) for size, places in SHOWN.items() for place in places]
    sheet = np.concatenate(columns, axis=1)[:-GAP, :-GAP]
    Image.fromarray(sheet).save(OUTPUT, optimize=True)


if __name__ == "__main__":
    main()

"""The maze from above: for films, for the variant that sees it so, and the oracle's map.

Drawn in plain colours; the original's camera above the maze is not imitated.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, UInt8

from ssmrl.envs.drawing import paint, pixel_grid
from ssmrl.envs.environment import Leaf
from ssmrl.envs.memory_maze import textures
from ssmrl.envs.memory_maze.layout import Maze
from ssmrl.envs.memory_maze.motion import Body
from ssmrl.envs.memory_maze.picture import COLOURS, TARGET_RADIUS

_AGENT, _PATH, _SEEN = (255, 255, 255), (255, 255, 255), (0, 255, 0)
_UNREACHED = 10_000


def draw_above(
    maze: Maze, body: Body, colours: Leaf, size: int, path: Leaf | None = None
) -> UInt8[Array, "size size 3"]:
    """The whole maze, y up, with its targets, the agent as an arrow head, and a path in dots.

    Args:
        maze: with the targets.
        body: the agent.
        colours: of each target, a row of :data:`COLOURS`, i32[n].
        size: pixels a side.
        path: cells to be dotted, bool[N, N].
    """
    n = maze.is_wall.shape[0]
    rows, columns = pixel_grid(size, size)
    x, y = columns * (n / size), n - rows * (n / size)
    row, column = y.astype(np.int32), x.astype(np.int32)
    mean = _mean_colours()
    floor = jnp.where(maze.is_room[..., None], mean[textures.ROOM], mean[textures.CORRIDOR])
    cells = jnp.where(maze.is_wall[..., None], jnp.asarray(mean)[maze.textures], floor)
    picture = cells.astype(jnp.uint8)[row, column]
    if path is not None:
        off_centre = (x - column - 0.5) ** 2 + (y - row - 0.5) ** 2
        picture = paint(picture, path[row, column] & (off_centre < 0.15**2), _PATH)
    for target in range(maze.targets.shape[0]):
        place = maze.targets[target]
        inside = (x - place[0]) ** 2 + (y - place[1]) ** 2 < TARGET_RADIUS**2
        colour = jnp.asarray(COLOURS / 220 * 255)[colours[target]]
        picture = paint(picture, inside, colour.astype(jnp.uint8))
    cos, sin = jnp.cos(body.heading), jnp.sin(body.heading)
    ahead = (x - body.x) * cos + (y - body.y) * sin
    aside = jnp.abs((x - body.x) * sin - (y - body.y) * cos)
    arrow = (ahead > -0.25) & (aside < 0.25 * (0.35 - ahead) / 0.6)
    return paint(picture, arrow, _AGENT)


def _mean_colours() -> np.ndarray:
    """Of each texture, f32[10, 3]: its coarsest level."""
    packed = textures.pyramid(1)
    return np.stack([packed >> shift & 255 for shift in (0, 8, 16)], axis=-1).astype(np.float32)


def distances(is_wall: Bool[Array, "N N"], place: Leaf) -> Int[Array, "N N"]:
    """Steps from each free cell to the one with ``place`` (x, y) in it; 10,000 where none lead."""
    column, row = place[0].astype(jnp.int32), place[1].astype(jnp.int32)
    start = jnp.full(is_wall.shape, _UNREACHED, jnp.int32).at[row, column].set(0)

    def spread(steps: Leaf) -> Leaf:
        padded = jnp.pad(steps, 1, constant_values=_UNREACHED)
        near = jnp.minimum(
            jnp.minimum(padded[:-2, 1:-1], padded[2:, 1:-1]),
            jnp.minimum(padded[1:-1, :-2], padded[1:-1, 2:]),
        )
        return jnp.where(is_wall, _UNREACHED, jnp.minimum(steps, near + 1))

    def changes(carry: tuple[Leaf, Leaf]) -> Leaf:
        return jnp.any(carry[0] != carry[1])

    return jax.lax.while_loop(
        changes, lambda carry: (spread(carry[0]), carry[0]), (spread(start), start)
    )[0]


def shortest_path(maze: Maze, body: Body, target: Leaf) -> Bool[Array, "N N"]:
    """Cells of a shortest path from the agent to a target, both ends included."""
    n = maze.is_wall.shape[0]
    steps = jnp.pad(distances(maze.is_wall, maze.targets[target]), 1, constant_values=_UNREACHED)
    moves = jnp.array([[-1, 0], [1, 0], [0, -1], [0, 1]], jnp.int32)

    def unfinished(carry: tuple[Leaf, Leaf]) -> Leaf:
        remaining = steps[carry[0][0], carry[0][1]]
        return (remaining > 0) & (remaining < _UNREACHED)

    def go(carry: tuple[Leaf, Leaf]) -> tuple[Leaf, Leaf]:
        at, path = carry
        near = at + moves
        at = near[jnp.argmin(steps[near[:, 0], near[:, 1]])]
        return at, path.at[at[0], at[1]].set(True)

    here = jnp.stack([body.y, body.x]).astype(jnp.int32) + 1
    path = jnp.zeros((n + 2, n + 2), bool).at[here[0], here[1]].set(True)
    return jax.lax.while_loop(unfinished, go, (here, path))[1][1:-1, 1:-1]


def overlay_map(
    picture: UInt8[Array, "H H 3"], maze: Maze, body: Body, path: Bool[Array, "N N"]
) -> UInt8[Array, "H H 3"]:
    """The oracle's map: two pixels a cell, half transparent in the upper right corner.

    The agent is in its middle and looks up. Free cells are white, the path green, the agent's own
    cell red, walls and all outside black.
    """
    n = maze.is_wall.shape[0]
    size = 2 * (n - 2)
    rows, columns = pixel_grid(size, size)
    ahead, right = (size / 2 - rows) / 2, (columns - size / 2) / 2
    cos, sin = jnp.cos(body.heading), jnp.sin(body.heading)
    x, y = body.x + ahead * cos + right * sin, body.y + ahead * sin - right * cos
    row = jnp.clip(jnp.floor(y), 0, n - 1).astype(jnp.int32)
    column = jnp.clip(jnp.floor(x), 0, n - 1).astype(jnp.int32)
    here = (row == jnp.floor(body.y)) & (column == jnp.floor(body.x))
    colour: Any = jnp.where(maze.is_wall[row, column][..., None], 0, 255)
    colour = jnp.where(path[row, column][..., None], jnp.array(_SEEN), colour)
    colour = jnp.where(here[..., None], jnp.array([255, 0, 0]), colour).astype(jnp.uint8)
    under = picture[:size, -size:]
    return picture.at[:size, -size:].set(under // 2 + colour // 2)

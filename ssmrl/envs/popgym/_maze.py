"""Mazes as mazelib's ``HuntAndKill`` draws them, in pure JAX.

A maze of ``n × n`` cells is a grid of ``2n + 1`` rows and columns: cells at odd coordinates, walls
between and around them. From a random cell a walk opens passages to unvisited neighbours, each time
one of them at random, until it is surrounded by visited cells ("kill"). Then cells are drawn at
random ("hunt"), and from each that was visited another walk is made. After ``(2n + 1)²`` draws the
generator stops, whether or not every cell was visited, so that a few mazes have cells without
access.

Most draws find nothing to do. Here each hunt ends at once: the number of draws until one hits a
visited cell with an unvisited neighbour (an open end) is geometric, the cell hit is uniform among
the open ends, and the two are independent. What comes out has the same distribution, each turn of
the loop opens a passage, and ``n² - 1`` turns make the maze.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Int8, PRNGKeyArray

from ssmrl.envs.environment import Leaf

FREE, WALL = 0, 1
_DIRECTIONS = np.array([[-1, 0], [1, 0], [0, -1], [0, 1]], np.int32)
"""Rows and columns of a step up, down, left, right."""


def hunt_and_kill(key: PRNGKeyArray, num_cells: int) -> Int8[Array, "H W"]:
    """A maze of ``num_cells × num_cells`` cells, :data:`FREE` and :data:`WALL`.

    Args:
        key: PRNG key.
        num_cells: cells along a side.

    Returns:
        A grid of ``2 num_cells + 1`` rows and columns.
    """
    size = 2 * num_cells + 1
    key_cell, key_turns = jax.random.split(key)
    cell = jax.random.randint(key_cell, (2,), 0, num_cells, jnp.int32)
    grid = jnp.full((size, size), WALL, jnp.int8).at[*(2 * cell + 1)].set(FREE)
    # The last index: which open end, how many draws it took, which neighbour.
    uniform = jax.random.uniform(key_turns, (num_cells**2 - 1, 3), jnp.float32)
    carry = (grid, cell, jnp.float32(size**2))
    return jax.lax.scan(_open_one_passage, carry, uniform)[0][0]


def _open_one_passage(carry: tuple[Leaf, Leaf, Leaf], uniform: Float[Array, "3"]) -> Any:
    """One turn: from where the walk is if it can go on, else from where the hunt ends.

    Args:
        carry: the grid, the cell (row, column) of the walk, and how many draws remain.
        uniform: three draws from U[0, 1).
    """
    grid, cell, draws = carry
    visited = grid[1::2, 1::2] == FREE
    unvisited_neighbours = _unvisited_neighbours(visited)
    open_ends = visited & unvisited_neighbours.any(axis=0)
    is_stuck = ~open_ends[*cell]
    num_open = open_ends.sum(dtype=jnp.int32)
    waiting = _geometric(uniform[1], num_open.astype(jnp.float32) / open_ends.size)
    draws = draws - jnp.where(is_stuck, waiting, 0.0)
    hunted = jnp.stack(jnp.divmod(_pick(open_ends.ravel(), uniform[0]), open_ends.shape[1]))
    begin = jnp.where(is_stuck, hunted, cell)
    step = jnp.asarray(_DIRECTIONS)[_pick(unvisited_neighbours[:, *begin], uniform[2])]
    # Once all draws are used up, or all cells visited, nothing is opened any more.
    opened = jnp.where((draws >= 0) & (num_open > 0), FREE, WALL).astype(jnp.int8)
    for place in (2 * begin + 1 + step, 2 * (begin + step) + 1):
        grid = grid.at[*place].min(opened)
    return (grid, begin + step, draws), None


def _unvisited_neighbours(visited: Bool[Array, "n n"]) -> Bool[Array, "4 n n"]:
    """Whether there is an unvisited cell above, below, left and right of each cell."""
    unvisited = jnp.pad(~visited, 1)
    above, below = unvisited[:-2, 1:-1], unvisited[2:, 1:-1]
    left, right = unvisited[1:-1, :-2], unvisited[1:-1, 2:]
    return jnp.stack([above, below, left, right])


def _pick(mask: Bool[Array, "N"], uniform: Array) -> Int[Array, ""]:
    """The index of one of the True entries, each as likely; 0 if there is none."""
    count = mask.sum(dtype=jnp.int32)
    # A uniform close to 1 can round up to count.
    rank = jnp.minimum((uniform * count).astype(jnp.int32), count - 1)
    return jnp.argmax(jnp.cumsum(mask) > rank).astype(jnp.int32)


def _geometric(uniform: Array, probability: Array) -> Float[Array, ""]:
    """Draws until the first success; infinite if ``probability`` is 0."""
    draws = jnp.ceil(jnp.log1p(-uniform) / jnp.log1p(-probability))
    return jnp.where(probability > 0, jnp.maximum(draws, 1.0), jnp.inf)


def entrances(key: PRNGKeyArray, num_cells: int) -> tuple[Int[Array, "2"], Int[Array, "2"]]:
    """Two places (row, column) in opposite outer walls, each beside a cell: mazelib's start, end.

    The side of the first is uniform among four, and so is each place among those of its side.
    """
    key_side, key_places = jax.random.split(key)
    side = jax.random.randint(key_side, (), 0, 4, jnp.int32)
    along = 2 * jax.random.randint(key_places, (2,), 0, num_cells, jnp.int32) + 1
    last = 2 * num_cells
    across = jnp.where(side % 2 == 0, jnp.array([0, last]), jnp.array([last, 0])).astype(jnp.int32)
    start, end = jnp.where(side < 2, jnp.stack([across, along]), jnp.stack([along, across])).T
    return start, end

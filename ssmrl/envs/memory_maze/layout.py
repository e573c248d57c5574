"""Mazes by the rules of the original, which draws them with DeepMind Lab's generator.

Rooms that do not touch, corridors in what is left, one door between each pair of neighbouring
regions; then dead ends and, with that generator's own idea of order, horseshoe bends are taken out
(Beattie et al., DeepMind Lab, 2016; its text mazes). Rooms and corridors lie on the points with odd
row and column, the *lattice*; what is between two points is wall or passage.

Everything here is in the generator's orientation, row 0 at the top, but for :func:`draw_maze`,
which turns it over.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int, PRNGKeyArray, UInt8

from ssmrl.envs.environment import Leaf


@dataclass(frozen=True)
class Size:
    """What the original fixes for a maze of one size.

    Attributes:
        targets: how many, one to a room.
        episode_length: in steps.
        max_rooms: how many rooms there can be.
        longest_room: the longest side of a room, in cells; the shortest is 3.
        max_targets: how many an option may ask for: no more than mazes often have rooms for, nor
            than there are colours.
    """

    targets: int
    episode_length: int
    max_rooms: int
    longest_room: int
    max_targets: int


SIZES = {
    7: Size(targets=2, episode_length=500, max_rooms=4, longest_room=3, max_targets=3),
    9: Size(targets=3, episode_length=1000, max_rooms=6, longest_room=5, max_targets=4),
    11: Size(targets=4, episode_length=2000, max_rooms=6, longest_room=5, max_targets=6),
    13: Size(targets=5, episode_length=3000, max_rooms=6, longest_room=5, max_targets=6),
    15: Size(targets=6, episode_length=4000, max_rooms=9, longest_room=3, max_targets=6),
}
"""By cells a side, the outer wall not counted. The smallest is our own, a step on the way."""

NUM_WALL_TEXTURES = 8
_WALL, _PASSAGE, _DOOR = range(3)
_DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1))
"""Rows and columns, in the generator's order."""


@struct.dataclass
class Maze:
    """A maze of ``N = size + 2`` rows (from the bottom) and columns, the outer wall included.

    Attributes:
        is_wall: bool[N, N].
        is_room: bool[N, N], which decides the floor's texture.
        wall_rows, wall_columns: the walls again, as bits: u32[N] each. Bit ``x`` of
            ``wall_rows[y]`` and bit ``y`` of ``wall_columns[x]`` say whether there is one.
        textures: of the walls, by cell, u8[N, N].
        targets: their places, f32[n, 2].
    """

    is_wall: Leaf
    is_room: Leaf
    wall_rows: Leaf
    wall_columns: Leaf
    textures: Leaf
    targets: Leaf


def draw_maze(key: PRNGKeyArray, size: int, num_targets: int) -> tuple[Maze, Array]:
    """A maze with targets, and where the agent starts (x, y), f32[2]: in a room, on no target."""
    key_layout, key_lots = jax.random.split(key)
    is_free, rooms, num_rooms = draw_layout(key_layout, size, num_targets)
    is_free, rooms = is_free[::-1], rooms[::-1]
    targets, start, lots = _draw_places(key_lots, rooms, num_rooms, size, num_targets)
    textures = (lots * NUM_WALL_TEXTURES).astype(jnp.uint8)
    maze = make_maze(~is_free, rooms > 0, textures[_blocks(size + 2)], targets)
    return maze, start


def make_maze(is_wall: Leaf, is_room: Leaf, textures: Leaf, targets: Leaf) -> Maze:
    """A maze from its parts; the walls' bits are filled in."""
    bits = jnp.asarray(is_wall, jnp.uint32)
    place = jnp.arange(bits.shape[0], dtype=jnp.uint32)
    return Maze(
        is_wall=jnp.asarray(is_wall, bool),
        is_room=jnp.asarray(is_room, bool),
        wall_rows=jnp.sum(bits << place, axis=1, dtype=jnp.uint32),
        wall_columns=jnp.sum(bits.T << place, axis=1, dtype=jnp.uint32),
        textures=jnp.asarray(textures, jnp.uint8),
        targets=jnp.asarray(targets, jnp.float32),
    )


def _blocks(n: int) -> np.ndarray:
    """Of each cell, rows from the bottom, the block whose walls share a texture, i32[n, n]."""
    bounds = [i * n // 3 for i in range(1, 3)]
    block = np.searchsorted(bounds, np.arange(n), side="right")
    return (3 * block[::-1, None] + block).astype(np.int32)


def _draw_places(
    key: PRNGKeyArray, rooms: Leaf, num_rooms: Leaf, size: int, num_targets: int
) -> tuple[Array, Array, Array]:
    """Targets in ``num_targets`` rooms, a start in a room, and a number in [0, 1) for each block.

    Every room has a cell to start from and another for a target. All is drawn in one piece, which
    compiles in a fraction of the time.
    """
    n, max_rooms = size + 2, SIZES[size].max_rooms
    counts = np.cumsum([max_rooms * n * n, max_rooms * n * n, max_rooms, max_rooms])
    lots = jnp.split(jax.random.uniform(key, (counts[-1] + 9,), jnp.float32), counts)
    inside = rooms.ravel() == jnp.arange(1, max_rooms + 1)[:, None]
    exists = jnp.arange(max_rooms) < num_rooms
    starts = _highest(lots[0].reshape(inside.shape), inside)
    is_left = inside & (jnp.arange(n * n) != starts[:, None])
    ends = _highest(lots[1].reshape(inside.shape), is_left)
    order = jnp.argsort(jnp.where(exists, lots[2], 2.0))
    start = starts[_highest(lots[3], exists)]

    def place(cell: Leaf) -> Leaf:
        return jnp.stack([cell % n, cell // n], axis=-1).astype(jnp.float32) + 0.5

    return place(ends[order[:num_targets]]), place(start), lots[4]


def _highest(lots: Leaf, allowed: Bool[Array, "... n"]) -> Int[Array, "..."]:
    """The one of those allowed with the highest lot: a uniform choice if lots are."""
    return jnp.argmax(jnp.where(allowed, lots, -1.0), axis=-1).astype(jnp.int32)


def _first(flags: Bool[Array, "K"]) -> Int[Array, ""]:
    """The place of the first that is True."""
    return jnp.argmax(flags).astype(jnp.int32)


def draw_layout(
    key: PRNGKeyArray, size: int, min_rooms: int
) -> tuple[Bool[Array, "N N"], UInt8[Array, "N N"], Int[Array, ""]]:
    """Free cells, the number of each cell's room (from 1; 0 elsewhere), and how many rooms."""
    key_rooms, key_corridors, key_doors = jax.random.split(key, 3)
    rooms, num_rooms = _draw_rooms(key_rooms, size, min_rooms)
    regions, is_open = _draw_corridors(
        key_corridors, rooms[1::2, 1::2].ravel().astype(jnp.int32), num_rooms
    )
    doors = _draw_doors(key_doors, regions, size)

    lattice = _lattice(size)
    grid = jnp.where(rooms > 0, _PASSAGE, _WALL).at[1::2, 1::2].set(_PASSAGE)
    row, column = lattice.edge_row, lattice.edge_column
    kind = jnp.where(doors, _DOOR, jnp.where(is_open, _PASSAGE, grid[row, column]))
    grid = _remove_horseshoes(_remove_dead_ends(grid.at[row, column].set(kind)))

    # A door to a corridor that is no longer there is walled up.
    centres = grid[1::2, 1::2].ravel()
    leads = (centres[lattice.edges[:, 0]] != _WALL) & (centres[lattice.edges[:, 1]] != _WALL)
    kind = grid[row, column]
    grid = grid.at[row, column].set(jnp.where((kind == _DOOR) & ~leads, _WALL, kind))
    return grid != _WALL, rooms, num_rooms


@dataclass(frozen=True)
class _Lattice:
    """Points, pairs of neighbours and possible rooms of one size.

    Attributes:
        neighbours: of each point, in the generator's order, -1 for none: i32[P, 4].
        edges: the pairs, i32[E, 2]. edge_of: the pair of a point and a neighbour, i32[P, 4].
        edge_row, edge_column: the cell between the two, i32[E].
        rooms: bool[M, N, N]. overlaps: which share a point, bool[M, M].
        log_odds: of drawing a room, f32[M].
    """

    neighbours: np.ndarray
    edges: np.ndarray
    edge_of: np.ndarray
    edge_row: np.ndarray
    edge_column: np.ndarray
    rooms: np.ndarray
    overlaps: np.ndarray
    log_odds: np.ndarray


@functools.cache
def _lattice(size: int) -> _Lattice:
    side = (size + 1) // 2
    neighbours = np.full((side * side, 4), -1, np.int32)
    edge_of = neighbours.copy()
    edges: list[tuple[int, int]] = []
    for row, column in np.ndindex(side, side):
        for k, (down, right) in enumerate(_DIRECTIONS):
            to_row, to_column = row + down, column + right
            if not (0 <= to_row < side and 0 <= to_column < side):
                continue
            point, to = row * side + column, to_row * side + to_column
            neighbours[point, k] = to
            if k % 2 == 0:  # down and right, so that each pair comes once
                edge_of[point, k] = edge_of[to, k + 1] = len(edges)
                edges.append((point, to))
    pairs = np.array(edges, np.int32)
    rooms, log_odds = _possible_rooms(side, SIZES[size].longest_room)
    points = rooms[:, 1::2, 1::2].reshape(len(rooms), -1).astype(int)
    return _Lattice(
        neighbours=neighbours,
        edges=pairs,
        edge_of=edge_of,
        edge_row=(pairs // side).sum(axis=1, dtype=np.int32) + 1,
        edge_column=(pairs % side).sum(axis=1, dtype=np.int32) + 1,
        rooms=rooms,
        overlaps=points @ points.T > 0,
        log_odds=log_odds,
    )


def _possible_rooms(side: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Where rooms can be, bool[M, N, N], and the logarithm of how likely one is drawn there.

    In steps of the lattice the shorter side is 1 to the middle ``m`` of the shortest and the
    longest, both drawn uniformly; then one of the two, drawn evenly, grows by 0 to longest - m. The
    place is uniform among those in bounds.
    """
    most = (longest - 1) // 2
    middle = (1 + most) // 2
    odds: dict[tuple[int, int], float] = {}
    for height in range(1, middle + 1):
        for width in range(1, middle + 1):
            for extra in range(most - middle + 1):
                for shape in ((height, width + extra), (height + extra, width)):
                    share = 1 / (2 * middle**2 * (most - middle + 1))
                    odds[shape] = odds.get(shape, 0.0) + share
    masks, weights = [], []
    for (height, width), share in odds.items():
        rows, columns = side - height, side - width
        for row, column in np.ndindex(rows, columns):
            mask = np.zeros((2 * side + 1, 2 * side + 1), bool)
            top, left = 2 * row + 1, 2 * column + 1
            mask[top : top + 2 * height + 1, left : left + 2 * width + 1] = True
            masks.append(mask)
            weights.append(share / (rows * columns))
    return np.stack(masks), np.log(weights).astype(np.float32)


def _draw_rooms(key: PRNGKeyArray, size: int, min_rooms: int) -> tuple[Array, Array]:
    """Rooms, u8[N, N], one after the other while there is place, and how many; at least so many.

    The generator proposes rooms and keeps those that overlap none, a thousand failures long. To
    draw among those that fit, in proportion, is the same but for the thousand.
    """
    lattice, max_rooms = _lattice(size), SIZES[size].max_rooms
    masks, overlaps = jnp.asarray(lattice.rooms), jnp.asarray(lattice.overlaps)
    Carry = tuple[Array, Array, Array]

    def add(carry: Carry, lots: Array) -> tuple[Carry, None]:
        fits, rooms, count = carry
        chosen = jnp.argmax(jnp.where(fits, lattice.log_odds + lots, -jnp.inf))
        is_one = fits[chosen]
        count = count + is_one
        rooms = jnp.where(masks[chosen] & is_one, count.astype(jnp.uint8), rooms)
        return (fits & ~(overlaps[chosen] & is_one), rooms, count), None

    def draw(key: PRNGKeyArray) -> tuple[Array, Array]:
        everywhere = jnp.ones(len(lattice.rooms), bool)
        begin = (everywhere, jnp.zeros((size + 2, size + 2), jnp.uint8), jnp.int32(0))
        lots = jax.random.gumbel(key, (max_rooms, len(lattice.rooms)), jnp.float32)
        (_, rooms, count), _ = jax.lax.scan(add, begin, lots)
        return rooms, count

    def again(carry: tuple[PRNGKeyArray, Array, Array]) -> tuple[PRNGKeyArray, Array, Array]:
        key, key_draw = jax.random.split(carry[0])
        return (key, *draw(key_draw))

    nothing = (key, jnp.zeros((size + 2, size + 2), jnp.uint8), jnp.int32(0))
    _, rooms, count = jax.lax.while_loop(lambda carry: carry[2] < min_rooms, again, nothing)
    return rooms, count


@struct.dataclass
class _Walk:
    """A depth-first walk: regions i32[P], open edges bool[E], the way back i32[P + 1]."""

    key: Leaf
    regions: Leaf
    is_open: Leaf
    way_back: Leaf
    depth: Leaf
    region: Leaf


def _draw_corridors(
    key: PRNGKeyArray, regions: Int[Array, "K"], num_rooms: Int[Array, ""]
) -> tuple[Int[Array, "K"], Bool[Array, "H"]]:
    """Recursive backtracking through the points outside of rooms: regions, and what is open.

    Each connected remainder becomes a region of its own, numbered after the rooms.
    """
    size = 2 * int(np.sqrt(regions.shape[0])) - 1
    lattice = _lattice(size)
    neighbours, edge_of = jnp.asarray(lattice.neighbours), jnp.asarray(lattice.edge_of)

    def unfinished(walk: _Walk) -> Array:
        return (walk.depth > 0) | jnp.any(walk.regions == 0)

    def go(walk: _Walk) -> _Walk:
        key, key_turn = jax.random.split(walk.key)
        begins = walk.depth == 0
        here = jnp.where(
            begins, _first(walk.regions == 0), walk.way_back[jnp.maximum(walk.depth - 1, 0)]
        )
        region = walk.region + begins
        depth = jnp.maximum(walk.depth, 1)
        regions = walk.regions.at[here].set(region)
        way_back = walk.way_back.at[depth - 1].set(here)
        near = neighbours[here]
        possible = (near >= 0) & (regions[near] == 0)
        turn = _highest(jax.random.uniform(key_turn, (4,), jnp.float32), possible)
        goes = jnp.any(possible)
        there = jnp.where(goes, near[turn], here)
        return _Walk(
            key=key,
            regions=regions.at[there].set(region),
            is_open=walk.is_open.at[edge_of[here, turn]].max(goes),
            way_back=way_back.at[depth].set(there),
            depth=jnp.where(goes, depth + 1, depth - 1),
            region=region,
        )

    walk = _Walk(
        key=key,
        regions=regions,
        is_open=jnp.zeros(len(lattice.edges), bool),
        way_back=jnp.zeros(regions.shape[0] + 1, jnp.int32),
        depth=jnp.int32(0),
        region=num_rooms,
    )
    walk = jax.lax.while_loop(unfinished, go, walk)
    return walk.regions, walk.is_open


def _draw_doors(key: PRNGKeyArray, regions: Int[Array, "K"], size: int) -> Bool[Array, "H"]:
    """Uniformly one of the edges between each two regions that have any."""
    edges = _lattice(size).edges
    a, b = regions[edges[:, 0]], regions[edges[:, 1]]
    pair = jnp.minimum(a, b) * len(regions) + jnp.maximum(a, b)
    lot = jax.random.uniform(key, pair.shape, jnp.float32)
    beaten = (pair[:, None] == pair) & (lot > lot[:, None])
    return (a != b) & ~jnp.any(beaten, axis=1)


def _remove_dead_ends(grid: Int[Array, "N N"]) -> Int[Array, "N N"]:
    """Walls in the place of passages with at least three walls around, until there are none."""

    def dead_ends(grid: Leaf) -> Leaf:
        wall = jnp.pad(grid == _WALL, 1, constant_values=True).astype(jnp.int32)
        around = wall[:-2, 1:-1] + wall[2:, 1:-1] + wall[1:-1, :-2] + wall[1:-1, 2:]
        return (grid == _PASSAGE) & (around >= 3)

    return jax.lax.while_loop(
        lambda grid: jnp.any(dead_ends(grid)),
        lambda grid: jnp.where(dead_ends(grid), _WALL, grid),
        grid,
    )


@struct.dataclass
class _Removal:
    """Where the removal of bends stands: at a cell (-1: at none) with a size, or searching."""

    grid: Leaf
    cell: Leaf
    size: Leaf
    smallest: Leaf
    is_done: Leaf


def _remove_horseshoes(grid: Int[Array, "N N"]) -> Int[Array, "N N"]:
    """Takes bends out in the generator's order, which leaves some.

    It goes through the sizes. Of each it shortens the first bend only, by row and column, as far as
    that goes, and then turns to the next size; after a bend of another size than 1 it starts again
    with 1. So of several small bends one is removed.
    """
    n = grid.shape[0]
    largest = n - 4
    directions = jnp.asarray(_DIRECTIONS, jnp.int32)

    def step(at: _Removal) -> _Removal:
        bends = horseshoes(at.grid == _WALL, at.grid == _PASSAGE).reshape(4, -1)
        is_searching = at.cell < 0
        sought = (bends >= at.smallest) & (bends <= largest)
        size = jnp.where(is_searching, jnp.min(jnp.where(sought, bends, n)), at.size)
        fits = (bends == size) & (size <= largest)
        cell = jnp.where(is_searching, _first(jnp.any(fits, axis=0)), at.cell)
        found = jnp.any(fits[:, cell])
        up = directions[_first(fits[:, cell])]
        shortened = _shorten(at.grid, cell, up, size)
        return _Removal(
            grid=jnp.where(found, shortened, at.grid),
            cell=jnp.where(found, cell - up[0] * n - up[1], -1),
            size=size,
            smallest=jnp.where(is_searching, at.smallest, jnp.where(size == 1, 2, 1)),
            is_done=is_searching & ~found,
        )

    begin = _Removal(grid, jnp.int32(-1), jnp.int32(0), jnp.int32(1), jnp.zeros((), bool))
    return jax.lax.while_loop(lambda at: ~at.is_done, step, begin).grid


def horseshoes(wall: Bool[Array, "N N"], passage: Bool[Array, "N N"]) -> Int[Array, "4 N N"]:
    """The size of the bend around each cell, by the direction in which it bulges; 0 for none.

    A bend of size s around the first of s cells of wall: with v the direction and u the one in
    which the cells follow each other, they and those behind them (-v) are wall, the s + 2 in front
    (from -u to s) are passage with walls in front of them and at both ends, and so are the cells at
    both ends of the s.
    """
    turns = (2, 0, 1, 3)  # quarter turns, counter-clockwise, that bring each direction to the top
    return jnp.stack(
        [jnp.rot90(_horseshoes_up(jnp.rot90(wall, k), jnp.rot90(passage, k)), -k) for k in turns]
    )


def _horseshoes_up(wall: Bool[Array, "N N"], passage: Bool[Array, "N N"]) -> Int[Array, "N N"]:
    """Of those that bulge to the top; u is to the right. Outside there is neither."""
    n = wall.shape[0]
    wall, passage = jnp.pad(wall, 2), jnp.pad(passage, 2)
    wall_run, passage_run = _run(wall), _run(passage)

    def at(array: Leaf, u: int, v: int) -> Leaf:
        return array[2 - v : 2 - v + n, 2 + u : 2 + u + n]

    size = at(wall_run, 0, 0)
    end = jnp.arange(n) + 3 + size  # the column of o, one past the passage in front
    ends_in_wall = jnp.take_along_axis(wall[1 : 1 + n], jnp.minimum(end, n + 3), axis=1)
    far_side = jnp.take_along_axis(passage[2 : 2 + n], jnp.minimum(end - 1, n + 3), axis=1)
    is_bend = (
        (size > 0)
        & (at(wall_run, 0, -1) >= size)
        & (at(passage_run, -1, 1) == size + 2)
        & (at(wall_run, -1, 2) >= size + 2)
        & at(wall, -2, 1)
        & ends_in_wall
        & at(passage, -1, 0)
        & far_side
    )
    return jnp.where(is_bend, size, 0)


def _run(mask: Bool[Array, "R C"]) -> Int[Array, "R C"]:
    """How many entries in a row are True from each on, to the right."""
    column = jnp.arange(mask.shape[1], dtype=jnp.int32)
    stop = jnp.where(mask, mask.shape[1], column)
    return jax.lax.cummin(stop, axis=1, reverse=True) - column


def _shorten(grid: Leaf, cell: Leaf, up: Leaf, size: Leaf) -> Leaf:
    """The bend of ``size`` around ``cell`` pulled straight."""
    n = grid.shape[0]
    rows, columns = jnp.arange(n)[:, None] - cell // n, jnp.arange(n) - cell % n
    v = rows * up[0] + columns * up[1]
    u = rows * up[1] - columns * up[0]
    grid = jnp.where((v == 0) & (u >= 0) & (u < size), _PASSAGE, grid)
    return jnp.where((v == 1) & (u >= -1) & (u <= size), _WALL, grid)

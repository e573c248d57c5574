"""Layouts against the original's, by two-sample tests, and what all of them hold.

Against 300 recorded ones of each size; and, where the package's generator is installed, 1,000 that
it draws now.
"""

import io
import os
import subprocess
import sys
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import label

from ssmrl.envs.adapters.memory_maze_original import PYTHON_VARIABLE
from ssmrl.envs.memory_maze.above import distances
from ssmrl.envs.memory_maze.layout import (
    SIZES,
    _blocks,
    _remove_horseshoes,
    draw_layout,
    draw_maze,
    horseshoes,
)
from tests.compiling import quick_jit
from tests.envs.memory_maze.recorded import episodes, layouts

COUNT = 1000
RECORDED = (9, 11, 13, 15)
EVERY_SIZE = pytest.mark.parametrize(
    "size", [9, *(pytest.param(s, marks=pytest.mark.slow) for s in (11, 13, 15))]
)
# How often a test of what is right fails; the seeds are fixed.
LEVEL = 1e-3


@cache
def drawn(size):
    """Ours: free cells, rooms (both rows from the top) and the number of rooms."""
    draw = quick_jit(jax.vmap(lambda key: draw_layout(key, size, SIZES[size].targets)))
    return jax.device_get(draw(jax.random.split(jax.random.key(size), COUNT)))


@cache
def mazes(size):
    """Ours, with places: mazes and starts, rows from the bottom."""
    draw = quick_jit(jax.vmap(lambda key: draw_maze(key, size, SIZES[size].targets)))
    return jax.device_get(draw(jax.random.split(jax.random.key(size), COUNT)))


def bends(free):
    """How many horseshoe bends there are in each layout, rows from the top."""
    return np.asarray(quick_jit(jax.vmap(horseshoes))(~free, free) > 0).sum(axis=(1, 2, 3))


def dead_ends(free):
    wall = np.pad(~free, ((0, 0), (1, 1), (1, 1)), constant_values=True).astype(int)
    around = wall[:, :-2, 1:-1] + wall[:, 2:, 1:-1] + wall[:, 1:-1, :-2] + wall[:, 1:-1, 2:]
    return (free & (around >= 3)).sum()


def same_distribution(ours, theirs):
    """Kolmogorov and Smirnov's test, and the means within what their errors allow."""
    assert stats.ks_2samp(ours, theirs).pvalue > LEVEL
    assert stats.ttest_ind(ours, theirs, equal_var=False).pvalue > LEVEL


@pytest.mark.parametrize("size", RECORDED)
def test_bends_are_counted_as_recorded(size):
    free, *_, recorded = layouts(size)
    assert bends(free[:, ::-1]).sum() == recorded["horseshoes"].sum() > 0


@EVERY_SIZE
def test_rooms(size):
    counts = np.bincount(drawn(size)[2], minlength=10)
    theirs = np.bincount(layouts(size)[3]["n_rooms"].astype(int), minlength=10)
    assert set(np.flatnonzero(theirs)) == set(np.flatnonzero(counts))
    table = np.stack([counts, theirs])[:, counts > 0]
    if table.shape[1] > 1:
        assert stats.chi2_contingency(table).pvalue > LEVEL


@EVERY_SIZE
def test_shapes_of_rooms(size):
    """Rooms of 3 × 3, 3 × 5 and 5 × 3, as often as in the original."""

    def shapes(all_rooms):
        found = []
        for rooms in all_rooms:
            for room in range(1, rooms.max() + 1):
                inside = rooms == room
                found.append((inside.any(axis=1).sum(), inside.any(axis=0).sum()))
        return np.unique(np.array(found), axis=0, return_counts=True)

    ours, our_counts = shapes(drawn(size)[1])
    theirs, their_counts = shapes(layouts(size)[1])
    assert ours.tolist() == theirs.tolist()
    if len(ours) > 1:
        assert stats.chi2_contingency(np.stack([our_counts, their_counts])).pvalue > LEVEL


@EVERY_SIZE
def test_free_cells_and_corridors(size):
    free, rooms, _ = drawn(size)
    theirs = layouts(size)[3]
    same_distribution(free.sum(axis=(1, 2)), theirs["free_cells"])
    same_distribution((free & (rooms == 0)).sum(axis=(1, 2)), theirs["corridor_cells"])


@EVERY_SIZE
def test_dead_ends_and_horseshoes(size):
    free = drawn(size)[0]
    assert dead_ends(free) == 0
    ours, theirs = bends(free), layouts(size)[3]["horseshoes"]
    # Rare: how many mazes have one.
    table = [[(x > 0).sum(), (x == 0).sum()] for x in (ours, theirs)]
    assert stats.chi2_contingency(table).pvalue > LEVEL


def loops(free):
    """How many ways round there are in each layout: each goes round walls that hang together."""
    return np.array([label(~maze, np.ones((3, 3)))[1] - 1 for maze in free])


def test_loops_are_counted():
    free = np.zeros((2, 7, 7), bool)
    free[:, 1:-1, 1:-1] = True
    free[0, 3, 2:5] = free[1, 2, 2] = free[1, 3, 4] = False
    assert loops(free).tolist() == [1, 2]


@EVERY_SIZE
def test_loops(size):
    same_distribution(loops(drawn(size)[0]), loops(layouts(size)[0]))


def paths(is_wall, first, second):
    """Steps from places (x, y) to others, one pair in each maze."""
    steps = np.asarray(quick_jit(jax.vmap(distances))(is_wall, first))
    return steps[np.arange(len(first)), second[:, 1].astype(int), second[:, 0].astype(int)]


def two_of(places):
    """Two (x, y) of each maze's (row, column), which are in order, at random."""
    pick = np.random.default_rng(0)
    pairs = [pick.permutation(p)[:2, ::-1] + 0.5 for p in places]
    return np.float32(pairs).transpose(1, 0, 2)


@EVERY_SIZE
def test_paths_between_targets(size):
    maze, _ = mazes(size)
    ours = paths(maze.is_wall, maze.targets[:, 0], maze.targets[:, 1])
    free, _, places, _ = layouts(size)
    first, second = two_of([p[p[:, 0] != 255] for p in places])
    same_distribution(ours, paths(~free, first, second))


# As the package makes them: the size that its tasks give, and rooms for 15 × 15 of their own.
GENERATOR = """
import io, sys
import labmaze, numpy as np

size, count = map(int, sys.argv[1:])
options = {"max_rooms": 6, "room_max_size": 5}
if size == 15:
    options = {"max_rooms": 9, "room_max_size": 3}
maze = labmaze.RandomMaze(
    height=size + 2, width=size + 2, room_min_size=3, spawns_per_room=1, objects_per_room=1,
    max_variations=26, simplify=True, random_seed=1, **options,
)
cells, rooms = [], []
for _ in range(count):
    maze.regenerate()
    cells.append(np.array(maze.entity_layer))
    rooms.append(np.array(maze.variations_layer) != ".")
file = io.BytesIO()
np.savez(file, cells=np.array(cells), rooms=np.array(rooms))
sys.stdout.buffer.write(file.getvalue())
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", RECORDED)
def test_a_thousand_of_each_are_like_a_thousand_of_the_packages(size):
    python = os.environ.get(PYTHON_VARIABLE, sys.executable)
    if subprocess.run([python, "-c", "import labmaze"], capture_output=True).returncode:
        pytest.skip("labmaze is not installed: `make memory-maze`")
    line = [python, "-c", GENERATOR, str(size), str(COUNT)]
    made = subprocess.run(line, capture_output=True, check=True)
    theirs = np.load(io.BytesIO(made.stdout))
    their_free, their_rooms = theirs["cells"] != "*", theirs["rooms"]
    free, rooms, _ = drawn(size)
    assert free.shape == their_free.shape == (COUNT, size + 2, size + 2)
    same_distribution(free.sum(axis=(1, 2)), their_free.sum(axis=(1, 2)))
    corridors = [free & (rooms == 0), their_free & ~their_rooms]
    same_distribution(*(cells.sum(axis=(1, 2)) for cells in corridors))
    same_distribution(loops(free), loops(their_free))
    assert dead_ends(free) == dead_ends(their_free) == 0
    table = [[(x > 0).sum(), (x == 0).sum()] for x in (bends(free), bends(their_free))]
    assert stats.chi2_contingency(table).pvalue > LEVEL
    maze, _ = mazes(size)
    ours = paths(maze.is_wall, maze.targets[:, 0], maze.targets[:, 1])
    first, second = two_of([np.argwhere(cells == "G") for cells in theirs["cells"]])
    same_distribution(ours, paths(~their_free, first, second))


@pytest.mark.parametrize("size", [7, 9])
def test_everything_is_where_it_should_be(size):
    """Connected mazes; targets in rooms of their own; the start in a room and on no target."""
    maze, start = mazes(size)
    assert all(label(~wall)[1] == 1 for wall in maze.is_wall)
    assert maze.is_wall[:, [0, -1]].all() and maze.is_wall[:, :, [0, -1]].all()
    assert not (maze.is_wall & maze.is_room).any()
    for wall, room, targets, place in zip(
        maze.is_wall[:100], maze.is_room, maze.targets, start, strict=False
    ):
        regions, _ = label(room)
        at = [regions[int(y), int(x)] for x, y in targets]
        assert 0 not in at and len(set(at)) == len(at)
        assert room[int(place[1]), int(place[0])] and not wall[int(place[1]), int(place[0])]
        assert np.linalg.norm(targets - place, axis=-1).min() >= 1
        assert (targets % 1 == 0.5).all() and (place % 1 == 0.5).all()


def test_walls_as_bits():
    maze, _ = mazes(9)
    n = maze.is_wall.shape[1]
    bits = np.arange(n, dtype=np.uint32)
    np.testing.assert_array_equal(maze.wall_rows[:, :, None] >> bits & 1, maze.is_wall)
    by_column = maze.wall_columns[:, :, None] >> bits & 1
    np.testing.assert_array_equal(by_column.transpose(0, 2, 1), maze.is_wall)


@pytest.mark.parametrize("size", [9, 15])
def test_blocks_of_one_texture(size):
    """As recorded: within each of our blocks every wall of every maze has one texture."""
    for textures in episodes(size)["wall_tex"]:
        blocks = _blocks(size + 2)
        for block in range(9):
            inside = textures[blocks == block]
            assert len(np.unique(inside[inside != 255])) <= 1


def test_blocks_are_counted_from_the_top():
    blocks = _blocks(13)
    assert np.flatnonzero(np.diff(blocks[:, 0])).tolist() == [4, 8]
    assert np.flatnonzero(np.diff(_blocks(11)[:, 0])).tolist() == [3, 7]
    assert np.flatnonzero(np.diff(_blocks(11)[0])).tolist() == [2, 6]
    assert blocks[-1, 0] == 0 and blocks[0, -1] == 8


def test_textures_are_drawn_for_each_block():
    maze, _ = mazes(9)
    corners = maze.textures[:, [0, 0, 5, -1, -1], [0, -1, 5, 0, -1]]
    for texture in corners.T:
        assert stats.chisquare(np.bincount(texture, minlength=8)).pvalue > LEVEL
    assert abs(np.corrcoef(corners[:, 0], corners[:, 1])[0, 1]) < 0.12


def removed(rows):
    """Text of a grid (blank: passage, +: door) after the removal of bends."""
    kinds = {"#": 0, " ": 1, "+": 2}
    grid = jnp.array([[kinds[c] for c in row] for row in rows])
    return [
        "".join("# +"[k] for k in row) for row in np.asarray(quick_jit(_remove_horseshoes)(grid))
    ]


def test_a_bend_is_pulled_straight():
    """By hand. The corridor's ends are rooms' doors, which are no part of any bend."""
    before = [
        "###########",
        "####   ####",
        "####   ####",
        "#### # ####",
        "#+   #   +#",
        "###########",
        "###########",
        "###########",
        "###########",
        "###########",
        "###########",
    ]
    one = list(before)
    one[2] = "#### # ####"
    after = removed(one)
    assert after[1:5] == ["###########", "###########", "###########", "#+       +#"]


def test_a_wide_bend_and_a_door():
    """A bend of size 3; with a door in it there is none."""
    bend = ["#" * 11] * 11
    bend[3], bend[4] = "###     ###", "### ### ###"
    bend[5] = "#+  ###  +#"
    after = removed(bend)
    assert after[5] == "#+       +#" and after[3] == after[4] == "#" * 11
    door = list(bend)
    door[3] = "###  +  ###"
    assert removed(door) == door

"""Layouts against 300 of the original's a size, by two-sample tests, and what all of them hold."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.ndimage import label

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


@EVERY_SIZE
def test_paths_between_targets(size):
    """Steps from a target to another, one pair of each maze."""
    steps = quick_jit(jax.vmap(distances))

    def between(is_wall, first, second):
        rows, columns = second[:, 1].astype(int), second[:, 0].astype(int)
        return np.asarray(steps(is_wall, first))[np.arange(len(first)), rows, columns]

    maze, _ = mazes(size)
    ours = between(maze.is_wall, maze.targets[:, 0], maze.targets[:, 1])
    free, _, places, _ = layouts(size)
    # The recorded targets are in order; two at random.
    pick = np.random.default_rng(0)
    pairs = [pick.permutation(p[p[:, 0] != 255])[:2, ::-1] + 0.5 for p in places]
    first, second = np.float32(pairs).transpose(1, 0, 2)
    same_distribution(ours, between(~free, first, second))


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

"""Pictures against those recorded in the original at the same place in the same maze."""

import re
from functools import cache
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import binary_opening

from ssmrl.envs.memory_maze import textures
from ssmrl.envs.memory_maze.layout import make_maze
from ssmrl.envs.memory_maze.picture import COLOURS, LOW_WALLS, QUALITIES, draw, frame, sky
from ssmrl.envs.memory_maze.picture import camera as camera_of
from tests.compiling import quick_jit
from tests.envs.memory_maze.recorded import DATA, SIZES, episodes, mazes
from tests.envs.memory_maze.similarity import similarity


@cache
def pictures(size, quality, without=None):
    """Ours at the places of the recorded ones, uint8 [episodes, pictures, 64, 64, 3].

    `without`: a target that is not there.
    """
    data, all_mazes = episodes(size), mazes(size)
    if without is not None:
        all_mazes = all_mazes.replace(targets=all_mazes.targets.at[:, without].set(-50.0))
    at = np.arange(0, data["pos"].shape[1], 5)
    target = data["target"][:, at].astype(np.int32)
    places = data["pos"][:, at] + 1, data["heading"][:, at]
    return np.asarray(of_episodes(quality)(all_mazes, *places, target))


@cache
def of_episodes(quality):
    """Compiled once for each size."""

    def one(maze, place, heading, current):
        colours = jnp.arange(len(maze.targets))
        return draw(maze, *place, heading, colours, current, 64, QUALITIES[quality])

    return quick_jit(jax.vmap(jax.vmap(one, (None, 0, 0, 0))))


def recorded(size):
    return episodes(size)["image"]


def test_similarity_of_a_picture_with_itself_and_with_noise():
    picture = recorded(9)[:1, :1]
    np.testing.assert_allclose(similarity(picture, picture), 1.0)
    noise = np.random.default_rng(0).integers(0, 256, picture.shape)
    assert similarity(picture, noise) < 0.1


@pytest.mark.parametrize(("quality", "floor"), [("fast", 0.955), ("good", 0.98)])
def test_pictures_are_similar(quality, floor):
    """The mean over all pictures of both sizes; every episode's well above that of mean colours."""
    scores = [similarity(pictures(s, quality), recorded(s)) for s in SIZES]
    assert np.concatenate([s.ravel() for s in scores]).mean() > floor
    assert min(s.mean(axis=1).min() for s in scores) > floor - 0.03


@pytest.mark.parametrize("quality", QUALITIES)
def test_pictures_with_low_walls_are_similar(quality):
    """Walls behind walls, their tops, targets in the sky and what is beyond the maze."""
    with np.load(DATA / "low_walls.npz") as file:
        told = dict(file)
    all_mazes = jax.vmap(make_maze)(
        *(told[k] for k in ("is_wall", "is_room", "textures", "targets"))
    )

    def one(maze, place, heading, colours, current):
        return draw(maze, *place, heading, colours, current, 64, QUALITIES[quality], LOW_WALLS)

    places = (told[k] for k in ("place", "heading", "colours", "current"))
    ours = np.asarray(quick_jit(jax.vmap(one))(all_mazes, *places))
    scores = similarity(ours, told["image"])
    assert scores.mean() > 0.985 and scores.min() > 0.97
    edge = frame(64)
    np.testing.assert_array_equal(ours[:, edge], told["image"][:, edge])


@pytest.mark.parametrize("size", SIZES)
def test_the_frame_is_exact(size):
    np.testing.assert_array_equal(
        pictures(size, "fast")[:, :, frame(64)], recorded(size)[:, :, frame(64)]
    )


def covered(picture, empty, target):
    """Pixels of a target's hue that are different without it, and of another hue there."""
    hue = COLOURS[target] / np.linalg.norm(COLOURS[target])

    def likeness(x):
        return x @ hue / np.maximum(np.linalg.norm(x, axis=-1), 1)

    picture, empty = picture.astype(float), empty.astype(float)
    is_new = np.abs(picture - empty).sum(axis=-1) > 40
    return (likeness(picture) > 0.99) & (likeness(empty) < 0.96) & is_new & ~frame(64)


def solid(pixels):
    """Those in squares of two: along a wall's edge the original smooths, and ours without a target
    that stands for it differs in lines of one pixel."""
    return binary_opening(pixels, np.ones((1, 1, 2, 2)))


@pytest.mark.parametrize("quality", ["fast", "good"])
def test_targets_are_where_they_were(quality):
    """Of 100 that are seen in one, 99 are in both; where both show much of one, at one place."""
    rows, columns = np.mgrid[:64, :64]
    agree, apart = [], []
    for size in SIZES:
        for target in range(episodes(size)["targets"].shape[1]):
            ours = covered(pictures(size, quality), pictures(size, quality, target), target)
            # Ours stands for the original's, of which there is none without the target.
            theirs = covered(recorded(size), pictures(size, "good", target), target)
            in_both = ours.any(axis=(2, 3)) & theirs.any(axis=(2, 3))
            ours, theirs = solid(ours), solid(theirs)
            counts = np.stack([ours.sum(axis=(2, 3)), theirs.sum(axis=(2, 3))])
            agree.append(in_both[counts.max(axis=0) > 0])
            for place in zip(*np.nonzero(counts.min(axis=0) >= 8), strict=True):
                centres = [
                    np.array([rows[x[place]].mean(), columns[x[place]].mean()])
                    for x in (ours, theirs)
                ]
                apart.append(np.linalg.norm(centres[0] - centres[1]))
    agree = np.concatenate(agree)
    assert agree.size >= 90 and agree.mean() >= 0.99
    assert len(apart) >= 90 and max(apart) < 1


def hall(targets):
    """9 × 9 free cells, corridor's floor, blue walls."""
    is_wall = np.ones((11, 11), bool)
    is_wall[1:-1, 1:-1] = False
    zeros = np.zeros((11, 11))
    return make_maze(is_wall, zeros, zeros, np.float32(targets))


@cache
def drawer(size):
    return quick_jit(lambda maze, x, y, heading: draw(maze, x, y, heading, *COLOUR, size))


COLOUR = (jnp.array([0, 1]), jnp.int32(0))


def test_what_is_behind_is_hidden():
    """Of a target behind another only a rim is seen; behind the agent, nothing."""
    behind, far = [5.2, 5.5], [-50.0, -50.0]
    look, place = drawer(64), np.float32([3.3, 5.5, 0.0])

    def green(targets, place=place):
        picture = np.asarray(look(hall(targets), *place), int)
        return ((picture[..., 1] > 1.3 * picture[..., 2]) & ~frame(64)).sum()

    alone, hidden = green([far, behind]), green([[4.5, 5.5], behind])
    assert alone > 40 and hidden < 0.3 * alone
    assert green([[4.5, 5.5], behind], place + np.float32([0, 0, np.pi])) == 0


def test_other_sizes_show_the_same():
    """128 pixels a side, averaged in fours, are nearly the 64."""
    maze = hall([[5.5, 5.0], [6.5, 6.5]])
    place = np.float32([3.0, 5.5, 0.1])
    small = np.asarray(drawer(64)(maze, *place), float)
    large = np.asarray(drawer(128)(maze, *place), float)
    assert small.shape == (64, 64, 3) and large.shape == (128, 128, 3)
    halved = large.reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(halved - small)[4:-4, 4:-4].mean() < 5


def test_the_sky_gets_brighter_upwards():
    colours = sky(camera_of(64, 2))
    assert (np.diff(colours[:27, 32], axis=0) < 0).all()
    np.testing.assert_allclose(colours[27, 32] / [102, 153, 204], 0.5, atol=0.02)


def test_levels_of_detail():
    """Each is the mean of the one before; the coarsest has the colours that were measured."""
    file = Path(textures.__file__).with_name("textures.npz")
    assert file.stat().st_size <= 300_000  # in the wheel
    pyramid = textures.pyramid(256)
    assert len(pyramid) == textures.offset(1, 256) + textures.COUNT
    blue = [pyramid[textures.offset(1, 256)] >> shift & 255 for shift in (0, 8, 16)]
    assert blue == [32, 116, 177]
    for size in (256, 16):
        begin = textures.offset(size, 256)
        fine = pyramid[begin : begin + textures.COUNT * size * size] & 255
        half = textures.offset(size // 2, 256)
        coarse = pyramid[half : half + textures.COUNT * size * size // 4] & 255
        means = fine.reshape(textures.COUNT, size // 2, 2, size // 2, 2).mean(axis=(2, 4))
        assert np.abs(means.ravel() - coarse).max() <= 1


@cache
def lowered(cells, num_envs):
    """The program of pictures of so many cells a side."""
    maze = make_maze(*np.zeros((3, cells, cells)), np.zeros((1, 2), np.float32))
    mazes = jax.tree.map(lambda x: jnp.stack([x] * num_envs), maze)

    def one(maze, place):
        return draw(maze, *place, jnp.array([0]), jnp.int32(0))

    return jax.jit(jax.vmap(one)).lower(mazes, jnp.zeros((num_envs, 3)))


def test_nothing_is_computed_twice():
    """XLA fuses what it likes: rays once for each pixel, and pixels for each channel, are 243."""
    programs = (lowered(cells, 4).compile() for cells in (11, 17))
    small, large = (program.cost_analysis()["flops"] / (4 * 64 * 64) for program in programs)
    assert small < 180
    assert large - small < 25, "rays are cast for each pixel"


def test_environments_are_outermost():
    """A gather with environments innermost takes half as long again for the whole picture."""
    slices = re.findall(r"slice_sizes = array<i64: ([\d, ]+)>", lowered(11, 7).as_text())
    assert slices and not any("7" in sizes.split(", ") for sizes in slices)

"""What the agent sees: textured walls and floors, the sky, the targets, and the frame.

The camera is fixed to the agent and looks a little down, so that a ray's component along the floor
does not depend on its row's pitch but for a factor: rays of one column of an unpitched camera are
one horizontal ray, met by at most one wall as all walls are higher than the camera. Horizontal rays
are cast for a few hundred directions, and each pixel reads the nearest: where the wall is, where on
it, how it is lit. Only then come colours, pixel by pixel.

A horizontal ray is F + u R with F the direction in which the agent looks and R to its right; its
parameter is the depth z. A pixel has a u, and rises by w z above the camera: w depends on its row
alone. Lengths are in cells, heights above the floor.

The light comes from the camera, so that a flat face has one shade all over.

With walls lower than the camera, as in the variant for people, none of this helps: a ray may go on
behind a wall. Then every pixel casts a ray of its own, from where it is as low as the walls.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, UInt8

from ssmrl.envs.environment import Leaf
from ssmrl.envs.memory_maze import textures
from ssmrl.envs.memory_maze.layout import Maze

COLOURS = np.array(
    [[170, 38, 30], [99, 170, 88], [39, 140, 217], [93, 105, 199], [220, 193, 59], [220, 128, 107]]
)
"""Red, green, blue, purple, yellow and salmon, in 220ths."""
_COLOURS = (COLOURS / 220 * 255).astype(np.float32)
_FRAMES = np.floor(0.7 * COLOURS / 220 * 255 + 1e-4).astype(np.uint32)

EYE_HEIGHT, EYE_AHEAD, TARGET_RADIUS = 0.45, 0.075, 0.3
_HALF_VIEW = np.radians(40)
_COS, _SIN = 1 / 1.01**0.5, 0.1 / 1.01**0.5  # of the camera's pitch: it drops by 0.1 in 1
_AMBIENT, _DIFFUSE = 0.3, 0.6
_FLOOR_SHADE = _AMBIENT + _DIFFUSE * _SIN
_SKY_ABOVE = np.array([102, 153, 204])
_SKY_AT_HORIZON, _SKY_RISE = 0.498, 0.449


@dataclass(frozen=True)
class Quality:
    """How a picture is drawn.

    Attributes:
        columns: rays cast, for each of the picture's columns.
        texture_size: of the finest level of detail, in pixels a side, a power of two.
        interpolate: between the four pixels of a texture that are nearest.
    """

    columns: int
    texture_size: int
    interpolate: bool


@dataclass(frozen=True)
class Heights:
    """Above the floor, in cells: of the walls' upper edge and of the targets' centres."""

    wall: float
    target: float


HIGH_WALLS, LOW_WALLS = Heights(wall=0.75, target=0.0), Heights(wall=0.2, target=0.55)
"""The standard maze, and the one in which all targets are seen from everywhere (``Vis``)."""

QUALITIES = {"fast": Quality(2, 256, False), "good": Quality(4, 512, True)}


@dataclass(frozen=True)
class _Camera:
    """The rays of a picture of ``size`` pixels a side.

    Attributes:
        u: f32[size, size]. w: f32[size, 1], falling. ahead: a ray's part in the camera's plane of
            sight along the floor, f32[size, 1]. focal: pixels per unit of slope.
        horizon: the first row that looks down.
        cast_u: the directions that are cast, f32[K]. column: of each pixel the nearest of them.
    """

    u: np.ndarray
    w: np.ndarray
    ahead: np.ndarray
    focal: float
    horizon: int
    cast_u: np.ndarray
    column: np.ndarray


@functools.cache
def camera(size: int, columns: int) -> _Camera:
    """The rays of pictures of ``size`` pixels a side with ``columns`` directions cast for each."""
    focal = size / 2 / np.tan(_HALF_VIEW)
    right = (np.arange(size) + 0.5 - size / 2) / focal
    up = -right[:, None]
    ahead = _COS + _SIN * up
    u, w = right / ahead, (_COS * up - _SIN) / ahead
    most, count = np.abs(u).max(), columns * size
    return _Camera(
        u=u.astype(np.float32),
        w=w.astype(np.float32),
        ahead=ahead.astype(np.float32),
        focal=float(focal),
        horizon=int((w > 0).sum()),
        cast_u=np.linspace(-most, most, count).astype(np.float32),
        column=np.round((u / most + 1) / 2 * (count - 1)).astype(np.int32),
    )


@struct.dataclass
class _Rows:
    """Of some of a camera's rows, all that does not depend on what is seen.

    Attributes:
        u, w, ahead, column: the camera's.
        sky: its colours, f32[rows, size, 3].
        floor_level, top_level: of detail, of the floor and of walls' tops, i32[rows, 1].
    """

    u: Leaf
    w: Leaf
    ahead: Leaf
    column: Leaf
    sky: Leaf
    floor_level: Leaf
    top_level: Leaf

    @property
    def down(self) -> Leaf:
        """Of rows that look down, how far rays fall to one ahead, f32[rows, 1]."""
        return jnp.maximum(-self.w, 1e-3)

    def __getitem__(self, rows: slice) -> _Rows:
        return jax.tree.map(lambda x: x[rows], self)


def _rows(view: _Camera, focal: float, heights: Heights, quality: Quality) -> _Rows:
    """All rows of a camera, in numpy. ``focal``: of the picture, pixels to a unit of slope."""
    squared = np.maximum(-view.w, 1e-3) ** 2

    def level(below: float) -> np.ndarray:
        # A ray that falls by `down` is `below` the eye at a depth of below / down, and meets what
        # is flat there at a slope of `down`.
        exact = np.log2(quality.texture_size / focal * max(below, 1e-3) / squared)
        return np.clip(np.round(exact), 0, np.log2(quality.texture_size)).astype(np.int32)

    return _Rows(
        u=view.u,
        w=view.w,
        ahead=view.ahead,
        column=view.column,
        sky=sky(view),
        floor_level=level(EYE_HEIGHT),
        top_level=level(EYE_HEIGHT - heights.wall),
    )


@dataclass(frozen=True)
class _Eye:
    """Where the camera is, and the cosine and sine of where it looks."""

    x: Leaf
    y: Leaf
    cos: Leaf
    sin: Leaf


@dataclass(frozen=True)
class _Scene:
    """What is drawn: ``colours`` of the targets f32[n, 3], 0 to 255."""

    maze: Maze
    eye: _Eye
    colours: Leaf
    heights: Heights
    quality: Quality


def draw(
    maze: Maze,
    x: Leaf,
    y: Leaf,
    heading: Leaf,
    colours: Leaf,
    current: Leaf,
    size: int = 64,
    quality: Quality = QUALITIES["fast"],
    heights: Heights = HIGH_WALLS,
) -> UInt8[Array, "size size 3"]:
    """The agent's view.

    Args:
        maze: with the targets.
        x, y, heading: of the agent, in cells and radians.
        colours: of each target, a row of :data:`COLOURS`, i32[n].
        current: the target whose colour the frame shows.
        size: pixels a side.
        quality: how it is drawn.
        heights: of walls and targets.
    """
    cos, sin = jnp.cos(heading), jnp.sin(heading)
    eye = _Eye(x + EYE_AHEAD * cos, y + EYE_AHEAD * sin, cos, sin)
    scene = _Scene(maze, eye, jnp.asarray(_COLOURS)[colours], heights, quality)
    paint = _by_columns if heights.wall > EYE_HEIGHT else _by_pixels
    pixels = paint(scene, size)
    pixels = jnp.where(frame(size), _pack_bytes(frame_colour(colours[current])), pixels)
    return jax.lax.bitcast_convert_type(pixels, jnp.uint8)[..., :3]


def _by_columns(scene: _Scene, size: int) -> Leaf:
    """Walls higher than the eye, packed, u32[size, size]."""
    view = camera(size, scene.quality.columns)
    focal = view.focal
    rows = _rows(view, focal, scene.heights, scene.quality)
    depth, face = _cast(scene, view.cast_u, focal)
    # A 0 that only the environment knows. Where all environments read the same places, vmap makes a
    # gather with environments innermost, and whatever reads it jumps from one to the next.
    nothing = (face[0] >> 31).astype(jnp.int32)

    def painted(paint: Callable[..., Leaf], rows: _Rows) -> Leaf:
        def band(rows: _Rows) -> Leaf:
            column = rows.column + nothing
            return paint(rows, focal, depth[column], face[column], scene)

        return _in_bands(band, rows)

    upper, lower = painted(_upper, rows[: view.horizon]), painted(_lower, rows[view.horizon :])
    return jnp.concatenate([upper, lower], axis=0)


_BANDS = 2  # the fewest that make a loop


def _in_bands(paint: Callable[[_Rows], Any], rows: _Rows) -> Any:
    """``paint`` of bands of ``rows``, one after the other, put together.

    The loop is there for what it keeps apart. XLA would otherwise fuse all that a picture takes
    into whatever reads it last, and compute the columns again for each pixel, and the pixels again
    for each of their channels, at four times the cost; its CPU compiler takes no notice of
    optimization barriers. What goes into a loop and what comes out of it is computed once.

    Args:
        paint: a band's rows as arrays with a leading axis, one entry a row.
        rows: as many as there are.
    """
    count = len(rows.column)
    # The last band may repeat the last row.
    place = np.minimum(np.arange(-(-count // _BANDS) * _BANDS), count - 1).reshape(_BANDS, -1)
    bands = jax.tree.map(lambda x: jnp.asarray(x[place]), rows)
    painted = jax.lax.map(paint, bands)
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], painted)


@functools.cache
def frame(size: int) -> np.ndarray:
    """The pixels of the frame, bool[size, size]: two wide in a picture of 64."""
    width = max(1, int(2 * np.sqrt(size // 64)))
    mask = np.ones((size, size), bool)
    mask[width:-width, width:-width] = False
    return mask


def frame_colour(colour: Leaf) -> Leaf:
    """The frame's red, green and blue for a row of :data:`COLOURS`, u32[3]."""
    return jnp.asarray(_FRAMES)[colour]


def _pack_bytes(rgb: Leaf) -> Leaf:
    return rgb[0] | rgb[1] << 8 | rgb[2] << 16


def _unpack_bytes(packed: Leaf) -> list[Leaf]:
    return [(packed >> shift & 255).astype(jnp.float32) for shift in (0, 8, 16)]


# --------------------------------------------------------------------------------------- rays


_FAR = 1e9
# A column's face in one integer, so that a pixel reads two numbers: bits of the texture and its
# level of detail, of the place on it from left to right, and of the shade.
_LEVEL_SHIFT, _PLACE_SHIFT, _SHADE_SHIFT = 4, 8, 18
_PLACES, _SHADES = 1024, 4095


def _cast(scene: _Scene, u: Leaf, focal: float, begin: Leaf = 0.0) -> tuple[Leaf, Leaf]:
    """Depth of the wall that each ray meets, f32 of u's shape, and its face, packed, u32.

    Args:
        scene: what is seen.
        u: the rays' slopes to the right.
        focal: pixels to a unit of slope.
        begin: the depth from which on walls are in the way.
    """
    maze, eye = scene.maze, scene.eye
    along_x, along_y = eye.cos + u * eye.sin, eye.sin - u * eye.cos
    from_x, from_y = eye.x + begin * along_x, eye.y + begin * along_y
    to_x = _nearest(from_x, from_y, along_x, along_y, maze.wall_columns)
    to_y = _nearest(from_y, from_x, along_y, along_x, maze.wall_rows)
    depth = begin + jnp.minimum(to_x, to_y)
    meets_x = to_x < to_y  # a face across the x axis

    x, y = eye.x + depth * along_x, eye.y + depth * along_y
    forward_x, forward_y = along_x > 0, along_y > 0
    line_x = jnp.round(x) - jnp.where(forward_x, 0, 1)
    line_y = jnp.round(y) - jnp.where(forward_y, 0, 1)
    column = jnp.where(meets_x, line_x, jnp.floor(x)).astype(jnp.int32)
    row = jnp.where(meets_x, jnp.floor(y), line_y).astype(jnp.int32)
    last = maze.is_wall.shape[0] - 1
    texture = maze.textures[jnp.clip(row, 0, last), jnp.clip(column, 0, last)]

    in_x, in_y = x - jnp.floor(x), y - jnp.floor(y)
    place = jnp.where(
        meets_x, jnp.where(forward_x, 1 - in_y, in_y), jnp.where(forward_y, in_x, 1 - in_x)
    )
    facing = jnp.where(meets_x, jnp.sign(along_x) * eye.cos, jnp.sign(along_y) * eye.sin)
    shade = _AMBIENT + _DIFFUSE * jnp.maximum(_COS * facing, 0)
    # The face's pixels on a picture's pixel, as seen along it and across.
    away = jnp.maximum(jnp.where(meets_x, jnp.abs(x - eye.x), jnp.abs(y - eye.y)), 1e-4)
    level = _level(jnp.maximum(depth * depth / away, depth), focal, scene.quality.texture_size)
    return depth, (
        texture.astype(jnp.uint32)
        | level.astype(jnp.uint32) << _LEVEL_SHIFT
        | jnp.clip(place * _PLACES, 0, _PLACES - 1).astype(jnp.uint32) << _PLACE_SHIFT
        | jnp.round(shade * _SHADES).astype(jnp.uint32) << _SHADE_SHIFT
    )


def _nearest(start: Leaf, across: Leaf, along: Leaf, sideways: Leaf, walls: Leaf) -> Leaf:
    """Depth at which rays meet a wall across one axis, f32 of ``along``'s shape.

    Each line between cells is tried, in a plain loop of arithmetic on all rays: no gather, and
    nothing that depends on where walls are.

    Args:
        start, across: the place on that axis where rays begin, and on the other.
        along, sideways: the rays' components on that axis, and on the other.
        walls: bits of the cells beyond a line, by their place on that axis, u32[N].
    """
    inverse = 1 / jnp.where(jnp.abs(along) < 1e-6, 1e-6, along)
    forward = along > 0
    nearest = jnp.full(along.shape, _FAR, jnp.float32)
    for line in range(1, walls.shape[0]):
        depth = (line - start) * inverse
        place = jnp.floor(across + depth * sideways).astype(jnp.int32)
        bits = jnp.where(forward, walls[line], walls[line - 1])
        is_inside = (place >= 0) & (place < walls.shape[0])
        is_wall = bits >> jnp.clip(place, 0, 31).astype(jnp.uint32) & 1 > 0
        is_met = (depth > 0) & is_inside & is_wall
        nearest = jnp.where(is_met, jnp.minimum(nearest, depth), nearest)
    return nearest


def _level(stretch: Leaf, focal: float, texture_size: int) -> Leaf:
    """The level of detail whose pixels are as large as the picture's, i32.

    Args:
        stretch: cells to a unit of slope.
        focal: pixels to a unit of slope.
        texture_size: of level 0, pixels to a cell.
    """
    level = jnp.round(jnp.log2(texture_size / focal * stretch + 1e-9))
    return jnp.clip(level, 0, np.log2(texture_size)).astype(jnp.int32)


# ------------------------------------------------------------------------------------- pixels


def _upper(rows: _Rows, focal: float, depth: Leaf, face: Leaf, scene: _Scene) -> Leaf:
    """Rows above the horizon: walls before the sky, u32[rows, size], as ``depth`` and ``face``."""
    rise = scene.heights.wall - EYE_HEIGHT
    wall = _wall(face, rise - rows.w * depth, scene.quality)
    # How much of the pixel is below the wall's upper edge.
    slope = rise / depth - rows.w
    share = jnp.clip(slope * (focal * rows.ahead**2) + 0.5, 0, 1)
    behind = [rows.sky[..., k] for k in range(3)]
    return _round_and_pack(_mix(behind, wall, share))


def _lower(rows: _Rows, focal: float, depth: Leaf, face: Leaf, scene: _Scene) -> Leaf:
    """Rows below the horizon: targets before walls before the floor, as :func:`_upper`."""
    rise = scene.heights.wall - EYE_HEIGHT
    wall = _wall(face, rise - rows.w * depth, scene.quality)
    slope = rows.w + EYE_HEIGHT / depth
    share = jnp.clip(slope * (focal * rows.ahead**2) + 0.5, 0, 1)
    floor = _flat(scene, rows.u, EYE_HEIGHT / rows.down, rows.floor_level, tops=False)[2]
    colour = _mix(floor, wall, share)
    return _round_and_pack(_with_targets(colour, depth, focal, rows.u, rows.w, scene))


def _with_targets(
    colour: list[Leaf], depth: Leaf, focal: float, u: Leaf, w: Leaf, scene: _Scene
) -> list[Leaf]:
    """The colours with the targets before them, where they are nearer than ``depth``."""
    targets, height = scene.maze.targets, scene.heights.target
    for target in range(targets.shape[0]):
        cover, light, front = _sphere(focal, u, w, targets[target], height, scene.eye, depth)
        colour = [
            behind + (light * scene.colours[target, k] - behind) * cover
            for k, behind in enumerate(colour)
        ]
        depth = front
    return colour


def _by_pixels(scene: _Scene, size: int) -> Leaf:
    """Walls lower than the eye, packed, u32[size, size]: each pixel the mean of four rays.

    A ray that falls is in the way of walls between the depth at which it is as low as they are and
    that at which it meets the floor. It begins above a wall and meets its top, or meets a side, or
    the floor; or it comes down behind the outer wall, where there is nothing but sky.
    """
    fine, focal = camera(2 * size, 1), camera(size, 1).focal
    rows = _rows(fine, focal, scene.heights, scene.quality)

    def above_the_horizon(rows: _Rows) -> list[Leaf]:
        colour = [rows.sky[..., k] for k in range(3)]
        depth = jnp.full(rows.u.shape, _FAR)
        return _with_targets(colour, depth, fine.focal, rows.u, rows.w, scene)

    def below_it(rows: _Rows) -> list[Leaf]:
        colour, depth = _over_low_walls(rows, focal, scene)
        return _with_targets(colour, depth, fine.focal, rows.u, rows.w, scene)

    upper = _in_bands(above_the_horizon, rows[: fine.horizon])
    lower = _in_bands(below_it, rows[fine.horizon :])
    seen = [jnp.concatenate(parts) for parts in zip(upper, lower, strict=True)]
    return _round_and_pack([c.reshape(size, 2, size, 2).mean((1, 3)) for c in seen])


def _over_low_walls(rows: _Rows, focal: float, scene: _Scene) -> tuple[list[Leaf], Leaf]:
    """Colours and depths of what is there without targets, in rows that look down."""
    u, down = rows.u, rows.down
    begin, end = (EYE_HEIGHT - scene.heights.wall) / down, EYE_HEIGHT / down
    meets, face = _cast(scene, u, focal, begin)
    inside, is_wall, top = _flat(scene, u, begin, rows.top_level, tops=True)
    floor = _flat(scene, u, end, rows.floor_level, tops=False)[2]
    side = _wall(face, down * (meets - begin), scene.quality)
    is_top, is_side = inside & is_wall, inside & ~is_wall & (meets < end)
    colour = [
        jnp.where(is_top, above, jnp.where(is_side, by, jnp.where(inside, on, rows.sky[..., k])))
        for k, (above, by, on) in enumerate(zip(top, side, floor, strict=True))
    ]
    depth = jnp.where(is_top, begin, jnp.where(is_side, meets, jnp.where(inside, end, _FAR)))
    return colour, depth


def _flat(
    scene: _Scene, u: Leaf, depth: Leaf, level: Leaf, *, tops: bool
) -> tuple[Leaf, Leaf, list[Leaf]]:
    """What lies flat where rays are at ``depth``: whether in the maze, whether a wall, colours.

    Args:
        scene: what is seen.
        u: the rays' slopes to the right, f32[rows, size].
        depth: f32[rows, 1].
        level: of detail, i32[rows, 1].
        tops: whether walls have theirs there. If not, it is all floor, and nothing is looked up
            of walls: the standard maze's pictures are most of its time.
    """
    maze, eye, quality = scene.maze, scene.eye, scene.quality
    x = eye.x + depth * (eye.cos + u * eye.sin)
    y = eye.y + depth * (eye.sin - u * eye.cos)
    n = maze.is_room.shape[0]
    inside = (x > 0) & (x < n) & (y > 0) & (y < n)
    row, column = jnp.clip(y, 0, n - 1).astype(jnp.int32), jnp.clip(x, 0, n - 1).astype(jnp.int32)
    cell = row * n + column
    is_wall = maze.is_wall.ravel()[cell]
    texture = jnp.where(maze.is_room.ravel()[cell], textures.ROOM, textures.CORRIDOR)
    if tops:
        texture = jnp.where(is_wall, maze.textures.ravel()[cell].astype(jnp.int32), texture)
    place, up = x - jnp.floor(x), y - jnp.floor(y)
    below = jnp.minimum(1 - up, 0.9999)
    colour = _sample(texture, level, place, below, quality, False)
    return inside, is_wall, [c * _FLOOR_SHADE for c in colour]


def _mix(below: list[Leaf], above: list[Leaf], share: Leaf) -> list[Leaf]:
    return [b + (a - b) * share for a, b in zip(above, below, strict=True)]


def _round_and_pack(colour: list[Leaf]) -> Leaf:
    return _pack_bytes([jnp.clip(c + 0.5, 0, 255).astype(jnp.uint32) for c in colour])


def _wall(face: Leaf, down: Leaf, quality: Quality) -> list[Leaf]:
    """A wall's colours where a ray meets it ``down`` from its upper edge."""
    texture = (face & (1 << _LEVEL_SHIFT) - 1).astype(jnp.int32)
    level = (face >> _LEVEL_SHIFT & (1 << _PLACE_SHIFT - _LEVEL_SHIFT) - 1).astype(jnp.int32)
    place = (face >> _PLACE_SHIFT & _PLACES - 1).astype(jnp.float32) / _PLACES
    shade = (face >> _SHADE_SHIFT).astype(jnp.float32) / _SHADES
    down = jnp.clip(down, 0, 0.9999)  # a texture is a cell high, more than any wall
    return [c * shade for c in _sample(texture, level, place, down, quality, quality.interpolate)]


def _sample(
    texture: Leaf, level: Leaf, right: Leaf, down: Leaf, quality: Quality, interpolate: bool
) -> list[Leaf]:
    """Red, green and blue of textures at places in [0, 1), f32, 0 to 255."""
    atlas = jnp.asarray(textures.pyramid(quality.texture_size))
    size = quality.texture_size >> level
    begin = textures.offset(size, quality.texture_size) + texture * size * size
    x, y = right * size, down * size
    if not interpolate:
        return _unpack_bytes(atlas[begin + y.astype(jnp.int32) * size + x.astype(jnp.int32)])
    left, top = jnp.floor(x - 0.5), jnp.floor(y - 0.5)
    to_right, to_bottom = x - 0.5 - left, y - 0.5 - top
    left, top = left.astype(jnp.int32), top.astype(jnp.int32)

    def corner(dx: int, dy: int) -> list[Leaf]:
        # Sizes are powers of two, and textures repeat.
        return _unpack_bytes(atlas[begin + (top + dy & size - 1) * size + (left + dx & size - 1)])

    rows = [
        [a + (b - a) * to_right for a, b in zip(corner(0, dy), corner(1, dy), strict=True)]
        for dy in (0, 1)
    ]
    return [a + (b - a) * to_bottom for a, b in zip(*rows, strict=True)]


def _sphere(
    focal: float,
    u: Leaf,
    w: Leaf,
    place: Leaf,
    height: float,
    eye: _Eye,
    depth: Leaf,
) -> tuple[Leaf, Leaf, Leaf]:
    """How much of each pixel a target covers, its light there, and the depth with it in front.

    Args:
        focal: pixels to a unit of slope.
        u, w: of the pixels.
        place, height: of the target's centre, f32[2] and above the floor.
        eye: the camera's place.
        depth: of what is there without it.
    """
    x, y, up = place[0] - eye.x, place[1] - eye.y, height - EYE_HEIGHT
    ahead, right = x * eye.cos + y * eye.sin, x * eye.sin - y * eye.cos
    squared = x * x + y * y + up * up
    # The rays D = (1, u, w), and C the centre from the camera.
    length = 1 + u * u + w * w
    projection = ahead + u * right + w * up
    apart = squared - projection * projection / length  # the squared distance of ray and centre
    chord = jnp.sqrt(jnp.maximum((TARGET_RADIUS**2 - apart) * length, 0))
    front = (projection - chord) / length
    is_seen = (ahead > 0) & (front < depth) & (w * front > -EYE_HEIGHT)  # and above the floor
    # The normal along the light, which comes from where the camera looks.
    facing = ((ahead - front) * _COS + (w * front - up) * _SIN) / TARGET_RADIUS
    light = _AMBIENT + _DIFFUSE * jnp.maximum(facing, 0)
    edge = (TARGET_RADIUS - jnp.sqrt(jnp.maximum(apart, 0))) * (focal / jnp.sqrt(squared))
    cover = jnp.where(is_seen, jnp.clip(edge + 0.5, 0, 1), 0)
    return cover, light, jnp.where(is_seen & (apart < TARGET_RADIUS**2), front, depth)


def sky(view: _Camera) -> np.ndarray:
    """The sky's colours, f32[size, size, 3]."""
    elevation = np.arctan(view.w / np.sqrt(1 + view.u**2))
    return _sky_colour(elevation)


def _sky_colour(elevation: np.ndarray) -> np.ndarray:
    """A gradient with the sine of the elevation (rad), fitted to recorded pictures."""
    share = np.clip(_SKY_AT_HORIZON + _SKY_RISE * np.sin(elevation), 0, 1)
    return (share[..., None] * _SKY_ABOVE).astype(np.float32)

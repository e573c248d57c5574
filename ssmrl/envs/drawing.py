"""Pictures: what the agent sees beside what is hidden from it."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from ssmrl.envs.environment import Leaf

WHITE, GREY, BLACK = (255, 255, 255), (150, 150, 150), (30, 30, 30)
ORANGE, GREEN, RED, BLUE = (200, 120, 60), (70, 200, 90), (220, 60, 50), (70, 110, 210)


def pixel_grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of the middle of every pixel, each ``[height, width]``."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32) + 0.5
    return rows, columns


def paint(picture: Leaf, where: Bool[Array, "H W"] | np.ndarray, colour: Any) -> Leaf:
    """``picture``, uint8 ``[H, W, 3]``, in one colour where asked."""
    return jnp.where(jnp.asarray(where)[..., None], jnp.asarray(colour, jnp.uint8), picture)


def canvas(height: int, width: int) -> UInt8[Array, "H W 3"]:
    """A white picture."""
    return jnp.full((height, width, 3), 255, jnp.uint8)


def side_by_side(
    view: Leaf, truth: Leaf, gap: int = 4, colour: Any = BLACK
) -> UInt8[Array, "H W 3"]:
    """What the agent sees to the left of what there is; both of one height, a bar between them."""
    bar = jnp.broadcast_to(jnp.asarray(colour, jnp.uint8), (view.shape[0], gap, 3))
    return jnp.concatenate([view, bar, truth], axis=1)


def rod(
    rows: np.ndarray, columns: np.ndarray, base: tuple[Any, Any], angle: Any, length: Any
) -> Bool[Array, "H W"]:
    """Pixels of a rod 3 wide, from ``base`` (row, column) at ``angle`` rad from upright."""
    along_x, along_y = jnp.sin(angle), -jnp.cos(angle)
    dx, dy = columns - base[1], rows - base[0]
    along = jnp.clip(dx * along_x + dy * along_y, 0, length)
    return (dx - along * along_x) ** 2 + (dy - along * along_y) ** 2 < 1.5**2


def gauges(
    values: Float[Array, "N"], limit: Any, height: int, width: int = 32
) -> UInt8[Array, "H W 3"]:
    """A column for each of ``values``, from the middle up (blue) or down (orange).

    Args:
        values: the numbers.
        limit: the magnitude that fills a column; larger ones fill it too.
        height: of the picture.
        width: of the picture; divided evenly among the columns.
    """
    rows, columns = pixel_grid(height, width)
    which = (columns * (values.shape[0] / width)).astype(np.int32)
    share = jnp.clip(values / limit, -1.0, 1.0)[which]
    level = 1 - 2 * rows / height  # 1 at the top, -1 at the bottom
    inside = (columns * (values.shape[0] / width)) % 1 > 0.2
    picture = paint(canvas(height, width), inside & (level > 0) & (level < share), BLUE)
    picture = paint(picture, inside & (level < 0) & (level > share), ORANGE)
    return paint(picture, np.abs(level) < 2 / height, GREY)

"""Pictures of corridors: a row of coloured cells, and the agent below its own."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt8

from ssmrl.envs.drawing import BLACK, canvas, paint, pixel_grid
from ssmrl.envs.environment import Leaf

PALETTE = np.array(
    [
        (220, 60, 50),
        (70, 110, 210),
        (240, 200, 60),
        (70, 180, 90),
        (150, 80, 170),
        (240, 140, 50),
        (90, 200, 210),
    ],
    np.uint8,
)
"""Colours that are told apart: of keys and doors, tiles, and rooms."""


def corridor(colours: Leaf, marks: Leaf, position: Leaf, height: int = 64) -> UInt8[Array, "H W 3"]:
    """Cells side by side, eight pixels each; the agent is a black bar under its cell.

    Args:
        colours: uint8 `[cells, 3]`.
        marks: bool `[cells]`: those with a white square in the middle (an open door, a key).
        position: the agent's cell.
        height: of the picture, in pixels.
    """
    rows, columns = pixel_grid(height, 8 * len(colours))
    cell = (columns // 8).astype(np.int32)
    picture = canvas(height, 8 * len(colours))
    inside = (columns % 8 > 1) & (rows < 0.75 * height)
    picture = jnp.where(inside[..., None], jnp.asarray(colours, jnp.uint8)[cell], picture)
    middle = (np.abs(columns % 8 - 4.5) < 2) & (np.abs(rows - 0.375 * height) < 8)
    picture = paint(picture, middle & jnp.asarray(marks)[cell], (255, 255, 255))
    return paint(picture, (rows > 0.85 * height) & (cell == position), BLACK)


def patch(colour: Leaf, mark: Leaf, height: int = 64, width: int = 32) -> UInt8[Array, "H W 3"]:
    """What is at the agent's place: one colour, with a white square where marked."""
    rows, columns = pixel_grid(height, width)
    picture = jnp.broadcast_to(jnp.asarray(colour, jnp.uint8), (height, width, 3))
    middle = (np.abs(columns - width / 2) < 6) & (np.abs(rows - height / 2) < 6)
    return paint(picture, middle & mark, (255, 255, 255))

"""The original's textures, at every level of detail, in one array.

They are those of DeepMind's LabMaze (its style_01, © the LabMaze authors: DeepMind Technologies,
Google LLC; Apache License 2.0, beside them as ``textures.LICENSE``), reduced from 1024 pixels a
side to 512 by averaging.
"""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np

from ssmrl.envs.environment import Leaf

WALLS = ("blue", "cerise", "green_bright", "green", "purple", "red_bright", "red", "yellow")
"""Of walls, by number."""
CORRIDOR, ROOM = 8, 9
"""Of floors."""
COUNT = 10
_LARGEST = 512


def offset(size: Leaf, largest: int) -> Leaf:
    """Where the textures of ``size`` pixels a side begin in :func:`pyramid` of ``largest``.

    All larger ones come before: 4/3 (largest² - size²) of each, as each level has a quarter of the
    pixels of the one before.
    """
    return COUNT * 4 * (largest * largest - size * size) // 3


@functools.cache
def pyramid(largest: int) -> np.ndarray:
    """All textures from ``largest`` pixels a side down to one, a power of two each, uint32.

    Levels follow each other, in each the textures, in each the rows from the top. Red is in the
    lowest byte, then green, then blue.
    """
    with np.load(Path(__file__).with_name("textures.npz")) as file:
        level = file["textures"].astype(np.float32)
    levels = []
    while True:
        if level.shape[1] <= largest:
            colour = np.round(level).astype(np.uint32)
            packed = colour[..., 0] | colour[..., 1] << 8 | colour[..., 2] << 16
            levels.append(packed.ravel())
        half = level.shape[1] // 2
        if half == 0:
            return np.concatenate(levels)
        level = level.reshape(COUNT, half, 2, half, 2, 3).mean(axis=(2, 4))

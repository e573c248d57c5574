"""Square boards as sets of cells: a row is one uint32 word, a cell in column ``c`` its bit ``c``.

A set operation takes one instruction a row, where an array of booleans takes one a cell: episodes
can be drawn, and the neighbours of a cell counted, in a few dozen instructions.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, UInt32

MAX_SIZE = 32
"""Columns that fit into a word."""

Board = UInt32[Array, "N"]
"""A word for each row."""


def check_size(name: str, size: int) -> None:
    """Raise a ValueError that names the environment unless there can be boards of this size."""
    if not 1 <= size <= MAX_SIZE:
        raise ValueError(f"{name} needs a board_size from 1 to {MAX_SIZE}, got {size}")


def empty(size: int) -> Board:
    """No cell of ``size`` rows and columns."""
    return jnp.zeros(size, jnp.uint32)


def full_row(size: int) -> np.uint32:
    """The word in which all ``size`` columns are set."""
    return np.uint32(2**size - 1)


def one_cell(size: int, row: Any, column: Any) -> Board:
    """The cell at ``row`` and ``column``."""
    word = jnp.uint32(1) << jnp.asarray(column).astype(jnp.uint32)
    return jnp.where(jnp.arange(size) == row, word, jnp.uint32(0))


def around(size: int, row: Any, column: Any) -> Board:
    """The up to nine cells at most one row and one column away from a cell, itself included."""
    middle = jnp.uint32(1) << jnp.asarray(column).astype(jnp.uint32)
    word = (middle | middle << 1 | middle >> 1) & full_row(size)
    return jnp.where(jnp.abs(jnp.arange(size) - row) <= 1, word, jnp.uint32(0))


def overlap(a: Board, b: Board) -> Bool[Array, ""]:
    """Whether the two have a cell in common."""
    return jnp.any((a & b) != 0)


def count(board: Board) -> Array:
    """Number of cells, int32[]."""
    return jnp.sum(jax.lax.population_count(board), dtype=jnp.int32)


def from_cells(cells: Any) -> Board:
    """The board of ``cells``, bool [N, N]."""
    cells = jnp.asarray(cells, bool).astype(jnp.uint32)
    return jnp.sum(cells << np.arange(cells.shape[1], dtype=np.uint32), axis=1, dtype=jnp.uint32)


def to_cells(board: Board) -> Bool[Array, "N N"]:
    """``board`` as booleans."""
    return (board[:, None] >> np.arange(len(board), dtype=np.uint32)) & 1 == 1


def random_below(bits: Array, n: Any) -> Array:
    """An int32 of 0 … n - 1 from 32 random ``bits``, for n up to 2^16: floor(n · bits / 2^32).

    Lemire, Fast Random Integer Generation in an Interval (2019), without the rejection: no value is
    more probable than another by more than 2^-32.
    """
    n = jnp.asarray(n).astype(jnp.uint32)
    high, low = bits >> 16, bits & 0xFFFF
    return ((n * high + (n * low >> 16)) >> 16).astype(jnp.int32)


def find(board: Board, k: Array) -> tuple[Array, Array]:
    """The place (word, bit) of the ``k``-th cell, from 0, row by row; int32[] each.

    ``k`` must be less than the number of cells.
    """
    counts = jax.lax.population_count(board).astype(jnp.int32)
    upto = jnp.cumsum(counts, dtype=jnp.int32)
    index = jnp.sum(upto <= k, dtype=jnp.int32)
    word, k = board[index], k - (upto[index] - counts[index])
    bit = jnp.int32(0)
    # By halves: is it in the lower half of what is left?
    for width in (16, 8, 4, 2, 1):
        below = jax.lax.population_count(word & full_row(width)).astype(jnp.int32)
        is_above = k >= below
        word = jnp.where(is_above, word >> width, word)
        k = jnp.where(is_above, k - below, k)
        bit = jnp.where(is_above, bit + width, bit)
    return index, bit

"""Pictures of cards and boards: cells with a symbol each, drawn in plain colours."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

from ssmrl.envs import drawing

FELT = np.array([34, 87, 60], np.uint8)
PAPER = np.array([250, 248, 240], np.uint8)
CARD_BACK = np.array([60, 90, 160], np.uint8)
WATER = np.array([120, 170, 215], np.uint8)
RIGHT, WRONG = np.array(drawing.GREEN, np.uint8), np.array(drawing.RED, np.uint8)
BLACK, RED = np.array([25, 25, 30], np.uint8), np.array([200, 35, 45], np.uint8)

# Spades, diamonds, clubs, hearts, in the order in which POPGym numbers them; then the others.
_SHAPES = (
    "...##... ..####.. .######. ######## ######## ##.##.## ...##... ..####..",
    "...##... ..####.. .######. ######## ######## .######. ..####.. ...##...",
    "...##... ..####.. ..####.. ######## ######## ######## ...##... ..####..",
    ".##..##. ######## ######## ######## .######. ..####.. ...##... ........",
    "........ ..####.. .######. .######. .######. .######. ..####.. ........",
    "...##... ..####.. .######. ######## ...##... ...##... ...##... ...##...",
    "...##... ...##... ...##... ...##... ######## .######. ..####.. ...##...",
)
_LETTERS = {
    "0": "### #.# #.# #.# ###",
    "1": ".#. ##. .#. .#. ###",
    "2": "### ..# ### #.. ###",
    "3": "### ..# ### ..# ###",
    "4": "#.# #.# ### ..# ..#",
    "5": "### #.. ### ..# ###",
    "6": "### #.. ### #.# ###",
    "7": "### ..# ..# ..# ..#",
    "8": "### #.# ### #.# ###",
    "9": "### #.# ### ..# ###",
    "A": ".#. #.# ### #.# #.#",
    "J": "..# ..# ..# #.# .#.",
    "Q": ".#. #.# #.# ### .##",
    "K": "#.# #.# ##. #.# #.#",
}
_RANKS = ("A", *map(str, range(2, 11)), "J", "Q", "K")
# Symbols by number: those of cards begin at SUIT and RANK, numbers (up to 99) at NUMBER.
SUIT, DISC, UP, DOWN, RANK = 0, 4, 5, 6, 7
NUMBER = RANK + len(_RANKS)
_LARGEST_NUMBER = 99

_SYMBOL, _CELL = 8, 12

side_by_side = partial(drawing.side_by_side, gap=_CELL // 2, colour=PAPER)


def _bitmap(rows: str) -> np.ndarray:
    return np.array([[c == "#" for c in row] for row in rows.split()])


def _text(text: str) -> np.ndarray:
    """One or two characters in the middle of a symbol."""
    letters = [np.pad(_bitmap(_LETTERS[c]), ((1, 2), (0, 1))) for c in text]
    line = np.concatenate(letters, axis=1)
    left = (_SYMBOL - line.shape[1] + 1) // 2
    return np.pad(line, ((0, 0), (left, _SYMBOL - line.shape[1] - left)))


_SYMBOLS = np.stack(
    [_bitmap(shape) for shape in _SHAPES]
    + [_text(rank) for rank in _RANKS]
    + [_text(str(number)) for number in range(_LARGEST_NUMBER + 1)]
)


def _centred(size: int) -> np.ndarray:
    """A square of ``size`` pixels in the middle of a cell, bool [12, 12, 1]."""
    return np.pad(np.ones((size, size, 1), bool), [((_CELL - size) // 2,) * 2] * 2 + [(0, 0)])


def number(n: Array) -> Array:
    """The symbol of a number; beyond 99 there is none, and 99 it stays."""
    return NUMBER + jnp.clip(n, 0, _LARGEST_NUMBER)


def draw_cells(
    symbols: Int[Array, "R C"], ink: Any, paper: Any = PAPER, frame: Any = FELT, scale: int = 1
) -> UInt8[Array, "H W 3"]:
    """A table of cells on felt, 12 · ``scale`` pixels each.

    Args:
        symbols: by number, negative for a blank cell.
        ink, paper, frame: colours, uint8, broadcast to ``[R, C, 3]``; ``frame`` is a line around
            each cell.
        scale: pixels a side of each pixel.
    """
    rows, columns = symbols.shape

    def spread(colour: Any) -> Array:
        colour = jnp.broadcast_to(jnp.asarray(colour, jnp.uint8), (rows, columns, 3))
        return colour[:, :, None, None]

    marks = jnp.asarray(_SYMBOLS)[jnp.maximum(symbols, 0)] & (symbols >= 0)[..., None, None]
    margin = (_CELL - _SYMBOL) // 2
    marks = jnp.pad(marks, ((0, 0), (0, 0), (margin, margin), (margin, margin)))[..., None]
    framed = jnp.where(_centred(_CELL - 2), spread(frame), FELT)
    cells = jnp.where(_centred(_CELL - 4), spread(paper), framed)
    cells = jnp.where(marks, spread(ink), cells)
    picture = cells.transpose(0, 2, 1, 3, 4).reshape(rows * _CELL, columns * _CELL, 3)
    return jnp.repeat(jnp.repeat(picture, scale, 0), scale, 1)


def card_symbols(cards: Array, face: str) -> tuple[Array, Array]:
    """Symbols and ink of ``cards``, numbered by their ``face``: colours, suits or ranks.

    A negative card is blank.
    """
    symbols = {"colors": DISC + 0 * cards, "suits": SUIT + cards, "ranks": RANK + cards}[face]
    is_red = (cards % 2 == 1) & (face != "ranks")
    return jnp.where(cards < 0, -1, symbols), jnp.where(is_red[..., None], RED, BLACK)

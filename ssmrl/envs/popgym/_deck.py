"""Decks of cards, as far as the suit games need them: an order of suits, and a picture."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int8, PRNGKeyArray, UInt8

CARDS_PER_DECK = 52
NUM_SUITS = 4

_FELT = np.array([34, 87, 60], np.uint8)
_PAPER = np.array([250, 248, 240], np.uint8)
_RIGHT, _WRONG = np.array([70, 200, 90], np.uint8), np.array([220, 60, 50], np.uint8)
_INK = np.array([[25, 25, 30], [200, 35, 45], [25, 25, 30], [200, 35, 45]], np.uint8)
# Spades, diamonds, clubs, hearts, in the order in which POPGym numbers them.
_GLYPHS = np.array(
    [
        [[c == "#" for c in row] for row in glyph.split()]
        for glyph in (
            "...##... ..####.. .######. ######## ######## ##.##.## ...##... ..####..",
            "...##... ..####.. .######. ######## ######## .######. ..####.. ...##...",
            "...##... ..####.. ..####.. ######## ######## ######## ...##... ..####..",
            ".##..##. ######## ######## ######## .######. ..####.. ...##... ........",
        )
    ]
)
_SCALE, _BORDER, _GAP = 4, 4, 8


def shuffled_suits(key: PRNGKeyArray, num_decks: int) -> Int8[Array, "N"]:
    """Suits of ``num_decks`` shuffled decks in the order in which they will be dealt."""
    ordered = jnp.arange(CARDS_PER_DECK * num_decks, dtype=jnp.int32) % NUM_SUITS
    return jax.random.permutation(key, ordered.astype(jnp.int8))


def draw_card(suit: Array, border: Array) -> UInt8[Array, "H W 3"]:
    """A card showing ``suit`` (blank if negative), framed in the colour ``border``, uint8[3]."""
    glyph = jnp.asarray(_GLYPHS)[jnp.maximum(suit, 0)] & (suit >= 0)
    glyph = jnp.repeat(jnp.repeat(glyph, _SCALE, 0), _SCALE, 1)
    ink = jnp.asarray(_INK)[jnp.maximum(suit, 0)]
    face = jnp.where(jnp.pad(glyph, _BORDER)[..., None], ink, _PAPER)
    inside = np.pad(np.ones((face.shape[0] - 4, face.shape[1] - 4), bool), 2)
    return jnp.where(inside[..., None], face, border)


def draw_table(
    card: Array, answer: Array, action: Array, was_right: Array
) -> UInt8[Array, "H W 3"]:
    """Three cards side by side: the one just dealt, the right answer now, and the last answer.

    A negative suit leaves its card blank. The last answer is framed in green where it was right, in
    red where it was wrong.
    """
    verdict = jnp.where(action < 0, _FELT, jnp.where(was_right, _RIGHT, _WRONG))
    felt = jnp.asarray(_FELT)
    cards = [draw_card(card, felt), draw_card(answer, felt), draw_card(action, verdict)]
    size = cards[0].shape[0]
    shape = (size + 2 * _GAP, 3 * size + 4 * _GAP, 3)
    table = jnp.broadcast_to(felt, shape)
    for i, picture in enumerate(cards):
        left = _GAP + i * (size + _GAP)
        table = table.at[_GAP : _GAP + size, left : left + size].set(picture)
    return table

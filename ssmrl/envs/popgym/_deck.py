"""Games in which cards are dealt one by one, and each answer is right or wrong."""

from __future__ import annotations

import abc
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int8, PRNGKeyArray, UInt8

from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.popgym._base import Params, PopGymEnv
from ssmrl.envs.spaces import Discrete, Space

CARDS_PER_DECK = 52
NUM_FACES = {"colors": 2, "suits": 4, "ranks": 13}
"""How many different cards there are, by what of a card is looked at."""

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


@struct.dataclass
class DeckParams:
    """``num_decks`` decks are dealt."""

    num_decks: int = struct.field(pytree_node=False, default=1)


@struct.dataclass
class DeckState:
    """``cards`` int8[N] in the order in which they are dealt, one at each of the first N steps.

    ``time`` counts the steps; ``last_action`` is -1 at first.
    """

    cards: Leaf
    time: Leaf
    last_action: Leaf


class DealingGame(PopGymEnv[DeckState, Params]):
    """Base class: cards are dealt from shuffled decks, and a step's action answers a question.

    A family writes :meth:`answer` and :meth:`num_questions`; by default the observation is the card
    just dealt, the actions are the faces of cards, and the episode terminates with the deck. With Q
    questions an episode, a right answer pays ``1 / Q`` and a wrong one costs as much.

    Attributes:
        FACE: what of a card is looked at, a key of :data:`NUM_FACES`.
    """

    FACE: ClassVar[str] = "suits"

    @abc.abstractmethod
    def answer(self, state: DeckState, params: Params) -> Array:
        """The right action in ``state``, int32[], -1 where nothing is asked.

        It must be a function of the cards and the time alone.
        """

    @abc.abstractmethod
    def num_questions(self, params: Params) -> int:
        """Q: a right answer pays its inverse."""

    def num_steps(self, params: Params) -> int:
        """Length of an episode: the first card is dealt before the first step."""
        return num_cards(params) - 1

    def observe(self, state: DeckState, params: Params) -> Any:
        """The observation in ``state``: the card just dealt."""
        return state.cards[state.time].astype(jnp.int32)

    def check_params(self, params: Params) -> None:
        if params.num_decks < 1:
            raise ValueError(f"{self.name} needs at least one deck, got {params}")

    def observation_space(self, params: Params) -> Space:
        return Discrete(NUM_FACES[self.FACE])

    def action_space(self, params: Params) -> Discrete:
        return Discrete(NUM_FACES[self.FACE])

    def reset_env(self, key: PRNGKeyArray, params: Params) -> tuple[Any, DeckState]:
        cards = shuffled_deck(key, params.num_decks, self.FACE)
        state = DeckState(cards=cards, time=jnp.int32(0), last_action=jnp.int32(-1))
        return self.observe(state, params), state

    def step_env(
        self, key: PRNGKeyArray, state: DeckState, action: Any, params: Params
    ) -> Transition:
        answer = self.answer(state, params)
        scale = jnp.float32(1.0 / self.num_questions(params))
        reward = jnp.where(action == answer, scale, -scale)
        reward = jnp.where(answer >= 0, reward, jnp.float32(0.0))
        state = state.replace(time=state.time + 1, last_action=jnp.asarray(action, jnp.int32))
        terminated = state.time >= self.num_steps(params)
        return self.observe(state, params), state, reward, terminated, jnp.asarray(False), {}

    def render(self, state: DeckState, params: Params) -> Array:
        """The card dealt, the right answer now, the last answer (green or red frame)."""
        before = self.answer(state.replace(time=state.time - 1), params)
        # An answer that nobody asked for is neither right nor wrong: it is not shown.
        action = jnp.where((state.time > 0) & (before >= 0), state.last_action, -1)
        card = state.cards[state.time].astype(jnp.int32)
        return draw_table(card, self.answer(state, params), action, action == before)


def num_cards(params: Any) -> int:
    """N: the cards in all decks."""
    return CARDS_PER_DECK * params.num_decks


def shuffled_deck(key: PRNGKeyArray, num_decks: int, face: str) -> Int8[Array, "N"]:
    """``num_decks`` decks shuffled together, as far as their colors, suits or ranks go.

    Card ``i`` of an unshuffled deck has colour ``i % 2``, suit ``i % 4`` and rank ``i // 4``.
    """
    card = np.tile(np.arange(CARDS_PER_DECK), num_decks)
    faces = card // NUM_FACES["suits"] if face == "ranks" else card % NUM_FACES[face]
    return jax.random.permutation(key, jnp.asarray(faces, jnp.int8))


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

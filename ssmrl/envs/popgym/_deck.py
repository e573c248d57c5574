"""Games in which cards are dealt one by one, and each answer is right or wrong."""

from __future__ import annotations

import abc
import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int, Int8, PRNGKeyArray

from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.popgym._base import Params, PopGymEnv
from ssmrl.envs.popgym._pictures import FELT, RIGHT, WRONG, card_symbols, draw_cells
from ssmrl.envs.spaces import Discrete, Space

CARDS_PER_DECK = 52
NUM_FACES = {"colors": 2, "suits": 4, "ranks": 13}
"""How many different cards there are, by what of a card is looked at."""


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


Dealt = TypeVar("Dealt", bound=DeckState)


class DealingGame(PopGymEnv[Dealt, Params]):
    """Base class: cards are dealt from shuffled decks, and a step's action answers a question.

    A family writes :meth:`answer` and :meth:`num_questions`; by default the observation is the card
    just dealt, the actions are the faces of cards, and the episode terminates with the deck. With Q
    questions an episode, a right answer pays ``1 / Q`` and a wrong one costs as much.
    """

    @abc.abstractmethod
    def answer(self, state: Dealt, params: Params) -> Array:
        """The right action in ``state``, int32[], -1 where nothing is asked.

        It must be a function of the cards and the time alone.
        """

    @abc.abstractmethod
    def num_questions(self, params: Params) -> int:
        """Q: a right answer pays its inverse."""

    def face(self, params: Params) -> str:
        """What of a card is looked at, a key of :data:`NUM_FACES`."""
        return "suits"

    def num_steps(self, params: Params) -> int:
        """Length of an episode: the first card is dealt before the first step."""
        return num_cards(params) - 1

    def observe(self, state: Dealt, params: Params) -> Any:
        """The observation in ``state``: the card just dealt."""
        return state.cards[state.time].astype(jnp.int32)

    def deal(self, key: PRNGKeyArray, params: Params) -> Dealt:
        """The state in which an episode begins."""
        cards = shuffled_deck(key, params.num_decks, self.face(params))
        state = DeckState(cards=cards, time=jnp.int32(0), last_action=jnp.int32(-1))
        return state  # type: ignore[return-value]  # a family with more in its state overrides this

    def check_params(self, params: Params) -> None:
        if params.num_decks < 1:
            raise ValueError(f"{self.name} needs at least one deck, got {params}")

    def observation_space(self, params: Params) -> Space:
        return Discrete(NUM_FACES[self.face(params)])

    def action_space(self, params: Params) -> Discrete:
        return Discrete(NUM_FACES[self.face(params)])

    def reset_env(self, key: PRNGKeyArray, params: Params) -> tuple[Any, Dealt]:
        state = self.deal(key, params)
        return self.observe(state, params), state

    def step_env(self, key: PRNGKeyArray, state: Dealt, action: Any, params: Params) -> Transition:
        answer = self.answer(state, params)
        scale = jnp.float32(1.0 / self.num_questions(params))
        reward = jnp.where(action == answer, scale, -scale)
        reward = jnp.where(answer >= 0, reward, jnp.float32(0.0))
        state = state.replace(time=state.time + 1, last_action=jnp.asarray(action, jnp.int32))
        terminated = state.time >= self.num_steps(params)
        return self.observe(state, params), state, reward, terminated, jnp.asarray(False), {}

    def render(self, state: Dealt, params: Params) -> Array:
        """What the agent sees, the right answer now, and the last answer (green or red frame)."""
        before = self.answer(state.replace(time=state.time - 1), params)
        # An answer that nobody asked for is neither right nor wrong: it is not shown.
        action = jnp.where((state.time > 0) & (before >= 0), state.last_action, -1)
        verdict = jnp.where(action == before, RIGHT, WRONG)
        verdict = jnp.where(action >= 0, verdict, FELT)
        seen, seen_ink = card_symbols(self.cards_seen(state, params), self.face(params))
        answers = jnp.stack([self.answer(state, params), action])
        symbols, ink = self.answer_symbols(answers, params)
        return draw_cells(
            jnp.concatenate([seen, symbols])[None],
            ink=jnp.concatenate([seen_ink, ink]),
            frame=jnp.stack([jnp.asarray(FELT)] * (len(seen) + 1) + [verdict]),
            scale=4,
        )

    def cards_seen(self, state: Dealt, params: Params) -> Int[Array, "N"]:
        """The cards in the observation, for the picture; negative for none."""
        return state.cards[state.time][None].astype(jnp.int32)

    def answer_symbols(self, answers: Int[Array, "2"], params: Params) -> tuple[Array, Array]:
        """Symbols and ink of ``answers``, for the picture: of cards, unless a family says else."""
        return card_symbols(answers, self.face(params))


def num_cards(params: Any) -> int:
    """N: the cards in all decks."""
    return CARDS_PER_DECK * params.num_decks


def shuffled_deck(key: PRNGKeyArray, num_decks: int, face: str) -> Int8[Array, "N"]:
    """``num_decks`` decks shuffled together, as far as their colours, suits or ranks go.

    Card ``i`` of an unshuffled deck has colour ``i % 2``, suit ``i % 4`` and rank ``i // 4``.

    The cards are sorted by random numbers whose last b <= 4 bits are the face itself: to sort one
    array is five times as fast as to sort pairs, and only faces are wanted. Every order is equally
    likely but for ties of the other bits, which occur in a share of at most N² / 2^(33 - b) decks.
    """
    card = np.tile(np.arange(CARDS_PER_DECK, dtype=np.uint32), num_decks)
    faces = card // NUM_FACES["suits"] if face == "ranks" else card % NUM_FACES[face]
    mask = np.uint32(2 ** math.ceil(math.log2(NUM_FACES[face])) - 1)
    bits = jax.random.bits(key, card.shape, jnp.uint32)
    return (jnp.sort((bits & ~mask) | faces) & mask).astype(jnp.int8)

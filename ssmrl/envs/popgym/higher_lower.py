"""HigherLower: guess whether the next card is higher or lower.

Cards are dealt one by one from shuffled decks of ``N`` cards in all, aces low. Action 0 says that
the next rank is higher, 1 that it is lower: right pays ``1 / N``, wrong costs as much, and between
equal ranks nothing is won or lost. The episode terminates with the deck, after ``N - 1`` steps.

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Int

from ssmrl.envs.popgym._deck import DealingGame, DeckParams, DeckState, num_cards
from ssmrl.envs.popgym._pictures import BLACK, DOWN, UP
from ssmrl.envs.spaces import Discrete

HIGHER, LOWER = 0, 1


class HigherLower(DealingGame[DeckState, DeckParams]):
    """Observation: the rank dealt, ``Discrete(13)``. Action: higher (0) or lower (1).

    1 deck (easy), 2 (medium) or 3 (hard).
    """

    PARAMS: ClassVar[dict[str, DeckParams]] = {
        "easy": DeckParams(num_decks=1),
        "medium": DeckParams(num_decks=2),
        "hard": DeckParams(num_decks=3),
    }

    def face(self, params: DeckParams) -> str:
        return "ranks"

    def answer(self, state: DeckState, params: DeckParams) -> Array:
        card = state.cards[state.time]
        following = state.cards[jnp.minimum(state.time + 1, num_cards(params) - 1)]
        guess = jnp.where(following > card, HIGHER, LOWER)
        # A tie is asked of nobody. So is what follows the last card, "equal" to itself.
        return jnp.where(following == card, -1, guess)

    def num_questions(self, params: DeckParams) -> int:
        # One more than there are guesses: the package divides by the number of cards.
        return num_cards(params)

    def action_space(self, params: DeckParams) -> Discrete:
        return Discrete(2)

    def answer_symbols(self, answers: Int[Array, "2"], params: DeckParams) -> tuple[Array, Array]:
        arrows = jnp.where(answers == HIGHER, UP, DOWN)
        return jnp.where(answers < 0, -1, arrows), jnp.tile(jnp.asarray(BLACK), (2, 1))

"""RepeatFirst: keep saying the suit of the first card.

Cards are dealt one by one from shuffled decks of ``N`` cards in all. Each step the first card's
suit pays ``1 / (N - 1)``, anything else costs as much. The episode terminates with the deck, after
``N - 1`` steps.

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array

from ssmrl.envs.popgym._deck import DealingGame, DeckParams, DeckState, num_cards


class RepeatFirst(DealingGame[DeckParams]):
    """Observation: the suit dealt, ``Discrete(4)``. Action: a suit, ``Discrete(4)``.

    1 deck (easy), 8 (medium) or 16 (hard).
    """

    PARAMS: ClassVar[dict[str, DeckParams]] = {
        "easy": DeckParams(num_decks=1),
        "medium": DeckParams(num_decks=8),
        "hard": DeckParams(num_decks=16),
    }

    def answer(self, state: DeckState, params: DeckParams) -> Array:
        return state.cards[0].astype(jnp.int32)

    def num_questions(self, params: DeckParams) -> int:
        return num_cards(params) - 1

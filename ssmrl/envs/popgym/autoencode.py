"""Autoencode: watch cards, then name their suits in reverse order.

``N`` cards, all of some shuffled decks, are shown one by one. The last one is shown in mode 0,
"play", those before it in mode 1, "watch". From then on each of ``N`` actions answers: the suit of
the last card first, that of the first card last. A right answer pays ``1 / N``, a wrong one costs
as much; actions while watching do nothing. While playing the observation is mode 0 and suit 0. The
episode terminates with the last answer, after ``2 N - 1`` steps.

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Int

from ssmrl.envs.popgym._deck import NUM_FACES, DealingGame, DeckParams, DeckState, num_cards
from ssmrl.envs.spaces import Discrete, Tuple


class Autoencode(DealingGame[DeckState, DeckParams]):
    """Observation: (1 while watching, suit shown), of 2 and 4 values. Action: a suit of 4.

    1 deck (easy), 2 (medium) or 3 (hard).
    """

    PARAMS: ClassVar[dict[str, DeckParams]] = {
        "easy": DeckParams(num_decks=1),
        "medium": DeckParams(num_decks=2),
        "hard": DeckParams(num_decks=3),
    }

    def answer(self, state: DeckState, params: DeckParams) -> Array:
        last = num_cards(params) - 1
        # The last card is asked for at time ``last``, the first one at twice that.
        asked = (state.time >= last) & (state.time <= 2 * last)
        card = state.cards[jnp.clip(2 * last - state.time, 0, last)]
        return jnp.where(asked, card.astype(jnp.int32), -1)

    def num_questions(self, params: DeckParams) -> int:
        return num_cards(params)

    def num_steps(self, params: DeckParams) -> int:
        return 2 * num_cards(params) - 1

    def observation_space(self, params: DeckParams) -> Tuple:
        return Tuple((Discrete(2), Discrete(NUM_FACES["suits"])))

    def observe(self, state: DeckState, params: DeckParams) -> tuple[Array, Array]:
        watching = state.time < num_cards(params) - 1
        return watching.astype(jnp.int32), jnp.maximum(self.cards_seen(state, params)[0], 0)

    def cards_seen(self, state: DeckState, params: DeckParams) -> Int[Array, "1"]:
        last = num_cards(params) - 1
        card = state.cards[jnp.minimum(state.time, last)].astype(jnp.int32)
        return jnp.where(state.time <= last, card, -1)[None]

"""RepeatPrevious: say the suit of the card seen ``k - 1`` steps ago.

Cards are dealt one by one from shuffled decks. Once ``k`` cards have been seen, each answer counts:
the suit of the card ``k - 1`` before the one on the table pays ``1 / (N - k)``, anything else costs
as much (``N`` cards in all). The episode terminates with the deck, after ``N - 1`` steps.

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from ssmrl.envs.popgym._deck import DealingGame, DeckParams, DeckState, num_cards


@struct.dataclass
class EnvParams(DeckParams):
    """``num_decks`` decks are dealt; the card asked for was seen ``k - 1`` steps ago."""

    k: int = struct.field(pytree_node=False, default=4)


class RepeatPrevious(DealingGame[EnvParams]):
    """Observation: the suit dealt, ``Discrete(4)``. Action: a suit, ``Discrete(4)``.

    1 deck and k = 4 (easy), 2 and 32 (medium) or 3 and 64 (hard).
    """

    PARAMS: ClassVar[dict[str, EnvParams]] = {
        "easy": EnvParams(num_decks=1, k=4),
        "medium": EnvParams(num_decks=2, k=32),
        "hard": EnvParams(num_decks=3, k=64),
    }

    def check_params(self, params: EnvParams) -> None:
        super().check_params(params)
        if not 1 <= params.k < num_cards(params):
            raise ValueError(f"{self.name} needs 1 <= k < 52 * num_decks, got {params}")

    def answer(self, state: DeckState, params: EnvParams) -> Array:
        # After ``time`` steps time + 1 cards have been seen; a question takes k of them.
        index = state.time - (params.k - 1)
        return jnp.where(index >= 0, state.cards[jnp.maximum(index, 0)].astype(jnp.int32), -1)

    def num_questions(self, params: EnvParams) -> int:
        return num_cards(params) - params.k

"""CountRecall: say how often a card has been dealt so far.

Two shuffles of the same ``N`` cards are dealt side by side, one of values and one of queries. Each
step, the number of values equal to the query on the table that have been dealt so far, the one on
the table included, pays ``1 / (N - 1)``; anything else costs as much. The episode terminates with
the decks, after ``N - 1`` steps. (The package takes an ``error_clamp``, but no reward depends on
it.)

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, Int8, Int16, PRNGKeyArray

from ssmrl.envs.environment import Leaf
from ssmrl.envs.popgym._deck import (
    NUM_FACES,
    DealingGame,
    DeckParams,
    DeckState,
    num_cards,
    shuffled_deck,
)
from ssmrl.envs.popgym._pictures import BLACK, number
from ssmrl.envs.spaces import Discrete, MultiDiscrete


@struct.dataclass
class EnvParams(DeckParams):
    """``num_decks`` decks are dealt, told apart by ``deck_type``: colors, suits or ranks."""

    deck_type: str = struct.field(pytree_node=False, default="colors")


@struct.dataclass
class EnvState(DeckState):
    """``cards`` are the values; ``queries`` int8[N] as dealt, ``counts`` int16[N] their answers."""

    queries: Leaf
    counts: Leaf


class CountRecall(DealingGame[EnvState, EnvParams]):
    """Observation: [value, query]. Action: a count, from 0 to all cards of a kind.

    1 deck by colour (easy: 2 kinds of 26 cards), 2 by suit (medium: 4 of 26) or 4 by rank (hard: 13
    of 16).
    """

    PARAMS: ClassVar[dict[str, EnvParams]] = {
        "easy": EnvParams(num_decks=1, deck_type="colors"),
        "medium": EnvParams(num_decks=2, deck_type="suits"),
        "hard": EnvParams(num_decks=4, deck_type="ranks"),
    }

    def check_params(self, params: EnvParams) -> None:
        super().check_params(params)
        if params.deck_type not in NUM_FACES:
            options = ", ".join(NUM_FACES)
            raise ValueError(f"{self.name} needs a deck_type of {options}, got {params}")

    def face(self, params: EnvParams) -> str:
        return params.deck_type

    def observation_space(self, params: EnvParams) -> MultiDiscrete:
        return MultiDiscrete([NUM_FACES[params.deck_type]] * 2)

    def action_space(self, params: EnvParams) -> Discrete:
        return Discrete(num_cards(params) // NUM_FACES[params.deck_type] + 1)

    def deal(self, key: PRNGKeyArray, params: EnvParams) -> EnvState:
        key_values, key_queries = jax.random.split(key)
        values = shuffled_deck(key_values, params.num_decks, params.deck_type)
        queries = shuffled_deck(key_queries, params.num_decks, params.deck_type)
        return EnvState(
            cards=values,
            time=jnp.int32(0),
            last_action=jnp.int32(-1),
            queries=queries,
            counts=count_queries(values, queries, NUM_FACES[params.deck_type]),
        )

    def observe(self, state: EnvState, params: EnvParams) -> Int[Array, "2"]:
        return self.cards_seen(state, params)

    def answer(self, state: EnvState, params: EnvParams) -> Array:
        return state.counts[state.time].astype(jnp.int32)

    def num_questions(self, params: EnvParams) -> int:
        return num_cards(params) - 1

    def cards_seen(self, state: EnvState, params: EnvParams) -> Int[Array, "2"]:
        return jnp.stack([state.cards[state.time], state.queries[state.time]]).astype(jnp.int32)

    def answer_symbols(self, answers: Int[Array, "2"], params: EnvParams) -> tuple[Array, Array]:
        return jnp.where(answers < 0, -1, number(answers)), jnp.tile(jnp.asarray(BLACK), (2, 1))


def count_queries(
    values: Int8[Array, "N"], queries: Int8[Array, "N"], num_faces: int
) -> Int16[Array, "N"]:
    """Entry ``t``: how many of ``values[: t + 1]`` equal ``queries[t]``.

    Counted when the cards are dealt, so that a step only looks it up; in a loop, which is several
    times as fast as a running sum over all faces side by side.
    """

    def deal_one(seen: Array, cards: tuple[Array, Array]) -> tuple[Array, Array]:
        value, query = cards
        seen = seen + (jnp.arange(num_faces) == value)
        return seen, seen[query]

    return jax.lax.scan(deal_one, jnp.zeros(num_faces, jnp.int16), (values, queries))[1]

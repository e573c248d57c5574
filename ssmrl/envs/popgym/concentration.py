"""Concentration: find pairs among cards that lie face down.

``N`` cards, all of some shuffled decks, lie face down. An action turns one over; two make a turn.

- A pair of different cards with equal faces stays face up and pays ``1 / (N / 2)``.
- Any other two cards are turned back, at a cost of ``2 / T``. So is one card turned twice.
- A card that is already face up ends the turn at once, at a cost of ``1 / T`` for each card turned
  in it.

The observation after an action shows the cards face up before it and those turned in this turn, the
one just turned included. The episode terminates when all cards are face up, and is truncated after
``T = 2 N`` steps (both can happen at once).

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int, PRNGKeyArray

from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.popgym._base import PopGymEnv
from ssmrl.envs.popgym._deck import (
    CARDS_PER_DECK,
    NUM_FACES,
    DeckParams,
    num_cards,
    shuffled_deck,
)
from ssmrl.envs.popgym._pictures import CARD_BACK, PAPER, card_symbols, draw_cells, side_by_side
from ssmrl.envs.spaces import Discrete, MultiDiscrete


@struct.dataclass
class EnvParams(DeckParams):
    """``num_decks`` decks lie on the table; pairs have equal ``deck_type``: colors or ranks."""

    deck_type: str = struct.field(pytree_node=False, default="colors")


@struct.dataclass
class EnvState:
    """``cards`` int8[N] and ``face_up`` bool[N], which of them have been paired.

    ``first`` is the place of the card that waits for a second one, -1 between turns. ``turned``
    int32[2], for the picture, are the places turned in the last turn, -1 for none.
    """

    cards: Leaf
    face_up: Leaf
    num_pairs: Leaf
    first: Leaf
    turned: Leaf
    time: Leaf


class Concentration(PopGymEnv[EnvState, EnvParams]):
    """Observation: each card's face, the largest value if face down. Action: a card's place.

    1 deck by colour (easy: 52 entries of 3 values), 2 by colour (medium: 104 of 3) or 1 by rank
    (hard: 52 of 14).
    """

    PARAMS: ClassVar[dict[str, EnvParams]] = {
        "easy": EnvParams(num_decks=1, deck_type="colors"),
        "medium": EnvParams(num_decks=2, deck_type="colors"),
        "hard": EnvParams(num_decks=1, deck_type="ranks"),
    }

    def check_params(self, params: EnvParams) -> None:
        if params.num_decks < 1:
            raise ValueError(f"{self.name} needs at least one deck, got {params}")
        # A deck has 13 cards of a suit: one would be left over.
        if params.deck_type not in ("colors", "ranks"):
            raise ValueError(f"{self.name} needs a deck_type of colors or ranks, got {params}")

    def observation_space(self, params: EnvParams) -> MultiDiscrete:
        return MultiDiscrete([face_down(params) + 1] * num_cards(params))

    def action_space(self, params: EnvParams) -> Discrete:
        return Discrete(num_cards(params))

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Array, EnvState]:
        cards = shuffled_deck(key, params.num_decks, params.deck_type)
        state = begin(cards)
        return observe(state, params), state

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        action = jnp.asarray(action, jnp.int32)
        is_second = state.first >= 0
        already_up = state.face_up[action]
        turned = jnp.where(is_second, jnp.stack([state.first, action]), jnp.stack([action, -1]))
        shown = state.replace(turned=turned)
        equal = state.cards[action] == state.cards[jnp.maximum(state.first, 0)]
        paired = is_second & ~already_up & equal & (action != state.first)
        num_pairs, time = state.num_pairs + paired, state.time + 1
        after = shown.replace(
            face_up=jnp.where(paired, visible(shown), state.face_up),
            num_pairs=num_pairs,
            first=jnp.where(is_second | already_up, -1, action),
            time=time,
        )
        limit = episode_length(params)
        cost = jnp.where(is_second, 2.0, jnp.where(already_up, 1.0, 0.0)) / limit
        reward = jnp.where(paired, 2.0 / num_cards(params), -cost).astype(jnp.float32)
        terminated = num_pairs == num_cards(params) // 2
        return observe(shown, params), after, reward, terminated, time >= limit, {}

    def render(self, state: EnvState, params: EnvParams) -> Array:
        """The cards in rows of 13, as the agent saw them last and as they lie."""

        def table(cards: Array) -> Array:
            cards = jnp.reshape(cards, (-1, CARDS_PER_DECK // 4))
            symbols, ink = card_symbols(cards, params.deck_type)
            return draw_cells(symbols, ink, jnp.where((cards < 0)[..., None], CARD_BACK, PAPER))

        cards = state.cards.astype(jnp.int32)
        return side_by_side(table(jnp.where(visible(state), cards, -1)), table(cards))


def begin(cards: Array) -> EnvState:
    """The first state of an episode with ``cards`` int8[N] on the table."""
    return EnvState(
        cards=cards,
        face_up=jnp.zeros(cards.shape, bool),
        num_pairs=jnp.int32(0),
        first=jnp.int32(-1),
        turned=jnp.full(2, -1, jnp.int32),
        time=jnp.int32(0),
    )


def visible(state: EnvState) -> Array:
    """bool[N]: the cards face up and those turned last."""
    place = jnp.arange(state.cards.size)
    return state.face_up | (place == state.turned[0]) | (place == state.turned[1])


def observe(state: EnvState, params: EnvParams) -> Int[Array, "N"]:
    """The faces of the visible cards; the others show their back."""
    return jnp.where(visible(state), state.cards.astype(jnp.int32), face_down(params))


def face_down(params: EnvParams) -> int:
    """The observation of a card that is not visible."""
    return NUM_FACES[params.deck_type]


def episode_length(params: EnvParams) -> int:
    """T, in steps. The package's expression, ceil(2 N - N / (2 N - 1)), always comes to this."""
    return 2 * num_cards(params)

"""RepeatFirst: keep saying the suit of the first card.

Cards are dealt one by one from shuffled decks of ``N`` cards in all. Each step the first card's
suit pays ``1 / (N - 1)``, anything else costs as much. The episode terminates with the deck, after
``N - 1`` steps.

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, PRNGKeyArray

from ssmrl.envs.environment import Environment, Leaf, Transition
from ssmrl.envs.popgym._deck import CARDS_PER_DECK, NUM_SUITS, draw_table, shuffled_suits
from ssmrl.envs.popgym._difficulty import params_for
from ssmrl.envs.spaces import Discrete


@struct.dataclass
class EnvParams:
    """``num_decks`` decks are dealt."""

    num_decks: int = struct.field(pytree_node=False, default=1)


@struct.dataclass
class EnvState:
    """``suits`` int8[N] as dealt, ``suits[time]`` is on the table; ``last_action`` begins at -1."""

    suits: Leaf
    time: Leaf
    last_action: Leaf


class RepeatFirst(Environment[EnvState, EnvParams]):
    """Observation: the suit dealt, ``Discrete(4)``. Action: a suit, ``Discrete(4)``.

    Args:
        difficulty: ``"easy"`` (1 deck), ``"medium"`` (8) or ``"hard"`` (16).

    Raises:
        ValueError: for another difficulty.
    """

    PARAMS: ClassVar[dict[str, EnvParams]] = {
        "easy": EnvParams(num_decks=1),
        "medium": EnvParams(num_decks=8),
        "hard": EnvParams(num_decks=16),
    }

    def __init__(self, difficulty: str = "easy"):
        self.difficulty = difficulty
        self._params = params_for(self.PARAMS, difficulty)

    @property
    def name(self) -> str:
        return f"RepeatFirst{self.difficulty.capitalize()}"

    @property
    def default_params(self) -> EnvParams:
        return self._params

    def make_params(self, **overrides: Any) -> EnvParams:
        """As the base class does.

        Raises:
            ValueError: also if there is no deck.
        """
        params = super().make_params(**overrides)
        if params.num_decks < 1:
            raise ValueError(f"{self.name} needs at least one deck, got {params}")
        return params

    def observation_space(self, params: EnvParams) -> Discrete:
        return Discrete(NUM_SUITS)

    def action_space(self, params: EnvParams) -> Discrete:
        return Discrete(NUM_SUITS)

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Array, EnvState]:
        suits = shuffled_suits(key, params.num_decks)
        state = EnvState(suits=suits, time=jnp.int32(0), last_action=jnp.int32(-1))
        return suits[0].astype(jnp.int32), state

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        num_cards = CARDS_PER_DECK * params.num_decks
        right = action == state.suits[0].astype(jnp.int32)
        scale = jnp.float32(1.0 / (num_cards - 1))
        reward = jnp.where(right, scale, -scale)
        time = state.time + 1
        state = EnvState(state.suits, time, last_action=jnp.asarray(action, jnp.int32))
        obs = state.suits[time].astype(jnp.int32)
        return obs, state, reward, time >= num_cards - 1, jnp.zeros_like(right), {}

    def render(self, state: EnvState, params: EnvParams) -> Array:
        """The card dealt, the first card, the last answer (green or red frame)."""
        card, first = state.suits[state.time].astype(jnp.int32), state.suits[0].astype(jnp.int32)
        return draw_table(card, first, state.last_action, state.last_action == first)

"""RepeatPrevious: say the suit of the card seen ``k - 1`` steps ago.

Cards are dealt one by one from shuffled decks. Once ``k`` cards have been seen, each answer counts:
the suit of the card ``k - 1`` before the one on the table pays ``1 / (N - k)``, anything else costs
as much (``N`` cards in all). The episode terminates with the deck, after ``N - 1`` steps.

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from dataclasses import replace
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
    """``num_decks`` decks are dealt; the card asked for was seen ``k - 1`` steps ago."""

    num_decks: int = struct.field(pytree_node=False, default=1)
    k: int = struct.field(pytree_node=False, default=4)


@struct.dataclass
class EnvState:
    """``suits`` int8[N] as dealt, ``suits[time]`` is on the table; ``last_action`` begins at -1."""

    suits: Leaf
    time: Leaf
    last_action: Leaf


class RepeatPrevious(Environment[EnvState, EnvParams]):
    """Observation: the suit dealt, ``Discrete(4)``. Action: a suit, ``Discrete(4)``.

    Args:
        difficulty: ``"easy"`` (1 deck, k = 4), ``"medium"`` (2, 32) or ``"hard"`` (3, 64).

    Raises:
        ValueError: for another difficulty.
    """

    PARAMS: ClassVar[dict[str, EnvParams]] = {
        "easy": EnvParams(num_decks=1, k=4),
        "medium": EnvParams(num_decks=2, k=32),
        "hard": EnvParams(num_decks=3, k=64),
    }

    def __init__(self, difficulty: str = "easy"):
        self.difficulty = difficulty
        self._params = params_for(self.PARAMS, difficulty)

    @property
    def name(self) -> str:
        return f"RepeatPrevious{self.difficulty.capitalize()}"

    @property
    def default_params(self) -> EnvParams:
        return self._params

    def make_params(self, **overrides: Any) -> EnvParams:
        """As the base class does.

        Raises:
            ValueError: also if the decks do not hold more than ``k`` cards, or ``k`` is below 1.
        """
        params = super().make_params(**overrides)
        if params.num_decks < 1 or not 1 <= params.k < CARDS_PER_DECK * params.num_decks:
            raise ValueError(f"{self.name} needs 1 <= k < 52 * num_decks, got {params}")
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
        # After ``time`` steps time + 1 cards have been seen; a question takes k of them.
        asked = state.time + 1 >= params.k
        right = action == self.answer(state, params)
        scale = jnp.float32(1.0 / (num_cards - params.k))
        reward = jnp.where(asked, jnp.where(right, scale, -scale), jnp.float32(0.0))
        time = state.time + 1
        state = EnvState(state.suits, time, last_action=jnp.asarray(action, jnp.int32))
        obs = state.suits[time].astype(jnp.int32)
        return obs, state, reward, time >= num_cards - 1, jnp.zeros_like(asked), {}

    def answer(self, state: EnvState, params: EnvParams) -> Array:
        """The suit to say now, -1 while too few cards have been seen."""
        index = state.time - (params.k - 1)
        return jnp.where(index >= 0, state.suits[jnp.maximum(index, 0)].astype(jnp.int32), -1)

    def render(self, state: EnvState, params: EnvParams) -> Array:
        """The card dealt, the right answer now, the last answer (green or red frame)."""
        before = self.answer(replace(state, time=state.time - 1), params)
        # An answer that nobody asked for is neither right nor wrong: it is not shown.
        action = jnp.where(before >= 0, state.last_action, -1)
        card = state.suits[state.time].astype(jnp.int32)
        return draw_table(card, self.answer(state, params), action, action == before)

"""MineSweeper: look at every cell without a mine, told only what lies around the last one.

``M`` mines lie in ``n²`` cells, any set of cells equally likely. An action looks at (row, column);
the observation is the number of mines in the up to nine cells around and including it, 0 at first.
There are ``L = n² - M`` cells to look at. A new one pays ``1 / L``, a cell seen before costs
``0.5 / (L - 2)``, and a mine costs ``0.5 + 1 / L``. The episode terminates at a mine or when all
``L`` cells have been looked at (which pays 1 in all, and takes every step there is). Otherwise it
is truncated after ``L`` steps.

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from functools import reduce
from operator import add
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, PRNGKeyArray

from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.popgym import _bitboard as bitboard
from ssmrl.envs.popgym._base import PopGymEnv
from ssmrl.envs.popgym._bitboard import Board
from ssmrl.envs.popgym._pictures import (
    BLACK,
    CARD_BACK,
    DISC,
    PAPER,
    draw_cells,
    number,
    side_by_side,
)
from ssmrl.envs.spaces import Discrete, MultiDiscrete


@struct.dataclass
class EnvParams:
    """``num_mines`` among ``board_size`` rows of as many columns."""

    board_size: int = struct.field(pytree_node=False, default=4)
    num_mines: int = struct.field(pytree_node=False, default=2)


@struct.dataclass
class EnvState:
    """``mines`` and ``viewed`` are sets of cells, uint32[n].

    ``num_viewed`` counts cells, ``time`` steps.
    """

    mines: Leaf
    viewed: Leaf
    num_viewed: Leaf
    time: Leaf


class MineSweeper(PopGymEnv[EnvState, EnvParams]):
    """Observation: the mines around, at most 9. Action: [row, column].

    2 mines among 4 by 4 cells (easy), 6 among 6 by 6 (medium) or 10 among 8 by 8 (hard).
    """

    PARAMS: ClassVar[dict[str, EnvParams]] = {
        "easy": EnvParams(board_size=4, num_mines=2),
        "medium": EnvParams(board_size=6, num_mines=6),
        "hard": EnvParams(board_size=8, num_mines=10),
    }

    def check_params(self, params: EnvParams) -> None:
        bitboard.check_size(self.name, params.board_size)
        if params.num_mines < 1 or num_clear(params) < 3:
            raise ValueError(
                f"{self.name} needs at least one mine and three cells without one, got {params}"
            )

    def observation_space(self, params: EnvParams) -> Discrete:
        return Discrete(min(params.num_mines, 9) + 1)

    def action_space(self, params: EnvParams) -> MultiDiscrete:
        return MultiDiscrete([params.board_size] * 2)

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Array, EnvState]:
        return jnp.int32(0), begin(draw_mines(key, params.board_size, params.num_mines))

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        cell = bitboard.one_cell(params.board_size, action[0], action[1])
        hit = bitboard.overlap(cell, state.mines)
        fresh = bitboard.overlap(cell, ~(state.mines | state.viewed))
        state = EnvState(
            mines=state.mines,
            viewed=state.viewed | cell & ~state.mines,
            num_viewed=state.num_viewed + fresh,
            time=state.time + 1,
        )
        length = num_clear(params)
        cost = jnp.where(hit, 0.5 + 1.0 / length, 0.5 / (length - 2))
        reward = jnp.where(fresh, 1.0 / length, -cost).astype(jnp.float32)
        terminated = hit | (state.num_viewed == length)
        truncated = (state.time >= length) & ~terminated
        around = bitboard.around(params.board_size, action[0], action[1])
        obs = bitboard.count(state.mines & around)
        return obs, state, reward, terminated, truncated, {}

    def render(self, state: EnvState, params: EnvParams) -> Array:
        """What the cells looked at have shown, and all numbers and mines."""
        mines, viewed = bitboard.to_cells(state.mines), bitboard.to_cells(state.viewed)
        size, padded = params.board_size, jnp.pad(mines.astype(jnp.int32), 1)
        window = (padded[i : i + size, j : j + size] for i in range(3) for j in range(3))
        numbers = number(reduce(add, window))
        paper = jnp.where(viewed[..., None], PAPER, CARD_BACK)
        view, truth = jnp.where(viewed, numbers, -1), jnp.where(mines, DISC, numbers)
        return side_by_side(draw_cells(view, BLACK, paper), draw_cells(truth, BLACK, paper))


def num_clear(params: EnvParams) -> int:
    """L: the cells to look at, and the steps there are for it."""
    return params.board_size**2 - params.num_mines


def begin(mines: Board) -> EnvState:
    """The first state of an episode with these ``mines``."""
    return EnvState(
        mines=mines, viewed=jnp.zeros_like(mines), num_viewed=jnp.int32(0), time=jnp.int32(0)
    )


def draw_mines(key: PRNGKeyArray, size: int, num_mines: int) -> Board:
    """``num_mines`` of the cells of a board, any set of them with equal probability.

    Floyd's algorithm (Bentley & Floyd, Programming Pearls: A Sample of Brilliance, CACM 1987): the
    i-th draw is among the first ``size² - num_mines + i`` cells, and one that has been drawn before
    is replaced by the last of these, which cannot have been.
    """
    last = jnp.arange(size**2 - num_mines, size**2)
    draws = bitboard.random_below(jax.random.bits(key, (num_mines,), jnp.uint32), last + 1)
    mines = bitboard.empty(size)
    for i in range(num_mines):
        drawn = bitboard.one_cell(size, draws[i] // size, draws[i] % size)
        replacement = bitboard.one_cell(size, last[i] // size, last[i] % size)
        mines = mines | jnp.where(bitboard.overlap(mines, drawn), replacement, drawn)
    return mines

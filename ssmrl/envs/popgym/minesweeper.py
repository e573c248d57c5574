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
from jaxtyping import Array, Bool, PRNGKeyArray

from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.popgym._base import PopGymEnv
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

CLEAR, MINE, VIEWED = 0, 1, 2


@struct.dataclass
class EnvParams:
    """``num_mines`` among ``board_size`` rows of as many columns."""

    board_size: int = struct.field(pytree_node=False, default=4)
    num_mines: int = struct.field(pytree_node=False, default=2)


@struct.dataclass
class EnvState:
    """``grid`` int8[n, n]: 0 for a cell not looked at, 1 for a mine, 2 for a cell looked at.

    ``num_viewed`` counts cells, ``time`` steps.
    """

    grid: Leaf
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
        if params.num_mines < 1 or num_clear(params) < 3:
            raise ValueError(
                f"{self.name} needs at least one mine and three cells without one, got {params}"
            )

    def observation_space(self, params: EnvParams) -> Discrete:
        return Discrete(min(params.num_mines, 9) + 1)

    def action_space(self, params: EnvParams) -> MultiDiscrete:
        return MultiDiscrete([params.board_size] * 2)

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Array, EnvState]:
        mines = random_subset(key, params.board_size**2, params.num_mines)
        return jnp.int32(0), begin(mines.reshape(params.board_size, params.board_size))

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        cell = neighbourhood(action, params.board_size, radius=0)
        around = neighbourhood(action, params.board_size, radius=1)
        hit = jnp.any(cell & (state.grid == MINE))
        fresh = jnp.any(cell & (state.grid == CLEAR))
        state = EnvState(
            grid=jnp.where(cell & (state.grid == CLEAR), jnp.int8(VIEWED), state.grid),
            num_viewed=state.num_viewed + fresh,
            time=state.time + 1,
        )
        length = num_clear(params)
        seen_before = jnp.float32(-0.5 / (length - 2))
        reward = jnp.where(fresh, 1.0 / length, jnp.where(hit, -0.5 - 1.0 / length, seen_before))
        terminated = hit | (state.num_viewed == length)
        truncated = (state.time >= length) & ~terminated
        obs = jnp.sum(around & (state.grid == MINE), dtype=jnp.int32)
        return obs, state, reward, terminated, truncated, {}

    def render(self, state: EnvState, params: EnvParams) -> Array:
        """What the cells looked at have shown, and all numbers and mines."""
        mines = jnp.pad((state.grid == MINE).astype(jnp.int32), 1)
        size = params.board_size
        window = [mines[i : i + size, j : j + size] for i in range(3) for j in range(3)]
        numbers = number(reduce(add, window))
        viewed = state.grid == VIEWED
        truth = jnp.where(state.grid == MINE, DISC, numbers)
        paper = jnp.where(viewed[..., None], PAPER, CARD_BACK)
        return side_by_side(
            draw_cells(jnp.where(viewed, numbers, -1), BLACK, paper),
            draw_cells(truth, BLACK, paper),
        )


def num_clear(params: EnvParams) -> int:
    """L: the cells to look at, and the steps there are for it."""
    return params.board_size**2 - params.num_mines


def begin(mines: Bool[Array, "N N"]) -> EnvState:
    """The first state of an episode with these ``mines``."""
    return EnvState(
        grid=jnp.where(mines, jnp.int8(MINE), jnp.int8(CLEAR)),
        num_viewed=jnp.int32(0),
        time=jnp.int32(0),
    )


def neighbourhood(cell: Any, size: int, radius: int) -> Bool[Array, "N N"]:
    """The cells at most ``radius`` rows and columns away from ``cell``, itself included."""
    place = jnp.arange(size)
    rows, columns = (jnp.abs(place - cell[axis]) <= radius for axis in (0, 1))
    return rows[:, None] & columns[None, :]


def random_subset(key: PRNGKeyArray, num_cells: int, num_chosen: int) -> Bool[Array, "N"]:
    """A set of ``num_chosen`` of ``num_cells`` cells, any with equal probability.

    Floyd's algorithm (Bentley & Floyd, Programming Pearls: A Sample of Brilliance, CACM 1987): the
    draw for the i-th place is of the first ``num_cells - num_chosen + i`` cells; one that has been
    chosen already is replaced by the last of these, which cannot have been.
    """
    last = jnp.arange(num_cells - num_chosen, num_cells)
    draws = jax.random.randint(key, (num_chosen,), 0, last + 1)
    chosen = jnp.zeros(num_cells, bool)
    for i in range(num_chosen):
        cell = jnp.where(chosen[draws[i]], last[i], draws[i])
        chosen = chosen | (jnp.arange(num_cells) == cell)
    return chosen

"""Battleship: sink ships on a board of which only the last shot's success is seen.

Ships lie along rows and columns of an ``n`` by ``n`` board and do not overlap (they may touch). An
action is a shot at (row, column); the observation is 1 if it hit a part of a ship not hit before,
and 0 otherwise. With ``H`` cells of ships a hit pays ``1 / H`` and anything else, a second shot at
a cell included, costs ``1 / (n² - H)``. The episode terminates when all ships are sunk, and is
truncated after ``n²`` steps (both can happen at once).

Each ship in turn lies anywhere it fits among those before it, all places equally likely. The
package draws places until one fits, which has the same distribution.

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from functools import reduce
from operator import and_
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, PRNGKeyArray, UInt32

from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.popgym import _bitboard as bitboard
from ssmrl.envs.popgym._base import PopGymEnv
from ssmrl.envs.popgym._bitboard import Board
from ssmrl.envs.popgym._pictures import BLACK, DISC, PAPER, WATER, WRONG, draw_cells, side_by_side
from ssmrl.envs.spaces import Discrete, MultiDiscrete


@struct.dataclass
class EnvParams:
    """Ships of ``ship_sizes`` cells on ``board_size`` rows of as many columns."""

    board_size: int = struct.field(pytree_node=False, default=8)
    ship_sizes: tuple[int, ...] = struct.field(pytree_node=False, default=(2, 3, 3, 4))


@struct.dataclass
class EnvState:
    """``ships`` and ``guesses`` are sets of cells, uint32[n].

    ``hits`` counts cells, ``time`` steps.
    """

    ships: Leaf
    guesses: Leaf
    hits: Leaf
    time: Leaf


class Battleship(PopGymEnv[EnvState, EnvParams]):
    """Observation: whether the last shot was a hit, ``Discrete(2)``. Action: [row, column].

    A board of 8 (easy), 10 (medium) or 12 (hard) rows and columns.
    """

    PARAMS: ClassVar[dict[str, EnvParams]] = {
        "easy": EnvParams(board_size=8),
        "medium": EnvParams(board_size=10),
        "hard": EnvParams(board_size=12),
    }

    def make_params(self, **overrides: Any) -> EnvParams:
        if "ship_sizes" in overrides:
            sizes = overrides["ship_sizes"]
            if not isinstance(sizes, (tuple, list)) or any(type(s) is not int for s in sizes):
                raise ValueError(f"{self.name} needs ship_sizes as integers, got {sizes!r}")
            overrides["ship_sizes"] = tuple(sizes)
        return super().make_params(**overrides)

    def check_params(self, params: EnvParams) -> None:
        size, taken = params.board_size, 0
        bitboard.check_size(self.name, size)
        if not 0 < sum(params.ship_sizes) < size**2:
            raise ValueError(f"{self.name} needs both ships and water, got {params}")
        for ship in params.ship_sizes:
            # A row holds size // ship ships end to end, and one cell is enough to spoil each.
            if ship < 1 or taken >= size * (size // ship):
                raise ValueError(
                    f"{self.name} needs ships of at least one cell, and room for each wherever "
                    f"those before it lie: a larger board_size or fewer ship_sizes than {params}"
                )
            taken += ship

    def observation_space(self, params: EnvParams) -> Discrete:
        return Discrete(2)

    def action_space(self, params: EnvParams) -> MultiDiscrete:
        return MultiDiscrete([params.board_size] * 2)

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Array, EnvState]:
        ships = bitboard.empty(params.board_size)
        draws = jax.random.bits(key, (len(params.ship_sizes),), jnp.uint32)
        for draw, length in zip(draws, params.ship_sizes, strict=True):
            ships = place_ship(draw, ships, length)
        return jnp.int32(0), begin(ships)

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        shot = bitboard.one_cell(params.board_size, action[0], action[1])
        hit = bitboard.overlap(shot, state.ships & ~state.guesses)
        state = EnvState(
            ships=state.ships,
            guesses=state.guesses | shot,
            hits=state.hits + hit,
            time=state.time + 1,
        )
        num_cells, num_targets = params.board_size**2, sum(params.ship_sizes)
        reward = jnp.where(hit, 1.0 / num_targets, -1.0 / (num_cells - num_targets))
        reward = reward.astype(jnp.float32)
        terminated, truncated = state.hits == num_targets, state.time >= num_cells
        return hit.astype(jnp.int32), state, reward, terminated, truncated, {}

    def render(self, state: EnvState, params: EnvParams) -> Array:
        """What the shots so far have shown, hits in red; and the ships."""
        ships, guesses = bitboard.to_cells(state.ships), bitboard.to_cells(state.guesses)
        ink = jnp.where(ships[..., None], BLACK, PAPER)
        ink = jnp.where((ships & guesses)[..., None], WRONG, ink)
        view, truth = (jnp.where(shown, DISC, -1) for shown in (guesses, ships | guesses))
        return side_by_side(draw_cells(view, ink, WATER), draw_cells(truth, ink, WATER))


def begin(ships: Board) -> EnvState:
    """The first state of an episode with these ``ships``."""
    return EnvState(
        ships=ships, guesses=jnp.zeros_like(ships), hits=jnp.int32(0), time=jnp.int32(0)
    )


def place_ship(bits: UInt32[Array, ""], ships: Board, length: int) -> Board:
    """``ships`` and one more of ``length`` cells, in any free place with equal probability.

    Args:
        bits: 32 random bits, which say which place it is.
        ships: those before it.
        length: in cells.
    """
    size = len(ships)
    water = ~ships & bitboard.full_row(size)
    below = jnp.pad(water, (0, length - 1))
    # Where a ship may begin: down a column in the first ``size`` words, along a row in the others.
    down = reduce(and_, (below[i : i + size] for i in range(length)))
    along = reduce(and_, (water >> i for i in range(length)))
    starts = jnp.concatenate([down, along])
    # The k-th of these places, k uniform: nothing is drawn in vain.
    k = bitboard.random_below(bits, bitboard.count(starts))
    index, column = bitboard.find(starts, k)
    is_down, row = index < size, index % size
    word = jnp.where(is_down, jnp.uint32(1), bitboard.full_row(length)) << column.astype(jnp.uint32)
    rows = jnp.arange(size) - row
    return ships | jnp.where((rows >= 0) & (rows < jnp.where(is_down, length, 1)), word, 0)

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
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, PRNGKeyArray

from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.popgym._base import PopGymEnv
from ssmrl.envs.popgym._pictures import BLACK, DISC, PAPER, WATER, WRONG, draw_cells, side_by_side
from ssmrl.envs.spaces import Discrete, MultiDiscrete


@struct.dataclass
class EnvParams:
    """Ships of ``ship_sizes`` cells on ``board_size`` rows of as many columns."""

    board_size: int = struct.field(pytree_node=False, default=8)
    ship_sizes: tuple[int, ...] = struct.field(pytree_node=False, default=(2, 3, 3, 4))


@struct.dataclass
class EnvState:
    """``ships`` and ``guesses`` bool[n, n]; ``hits`` counts cells, ``time`` steps."""

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
        sizes = overrides.get("ship_sizes", ())
        if not isinstance(sizes, (tuple, list)) or any(type(size) is not int for size in sizes):
            raise ValueError(f"{self.name} needs ship_sizes as integers, got {sizes!r}")
        if sizes:
            overrides["ship_sizes"] = tuple(sizes)
        return super().make_params(**overrides)

    def check_params(self, params: EnvParams) -> None:
        size, taken = params.board_size, 0
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
        ships = jnp.zeros((params.board_size, params.board_size), bool)
        for i, size in enumerate(params.ship_sizes):
            ships = place_ship(jax.random.fold_in(key, i), ships, size)
        return jnp.int32(0), begin(ships)

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        row, column = action[0], action[1]
        hit = state.ships[row, column] & ~state.guesses[row, column]
        state = EnvState(
            ships=state.ships,
            guesses=state.guesses.at[row, column].set(True),
            hits=state.hits + hit,
            time=state.time + 1,
        )
        num_cells, num_targets = params.board_size**2, sum(params.ship_sizes)
        reward = jnp.where(hit, 1.0 / num_targets, -1.0 / (num_cells - num_targets))
        terminated, truncated = state.hits == num_targets, state.time >= num_cells
        return hit.astype(jnp.int32), state, reward, terminated, truncated, {}

    def render(self, state: EnvState, params: EnvParams) -> Array:
        """What the shots so far have shown, hits in red; and the ships."""

        def board(shown: Array) -> Array:
            ship = (state.ships & shown)[..., None]
            ink = jnp.where(ship, jnp.where(state.guesses[..., None], WRONG, BLACK), PAPER)
            return draw_cells(jnp.where(shown, DISC, -1), ink, WATER)

        return side_by_side(board(state.guesses), board(state.ships | state.guesses))


def begin(ships: Bool[Array, "N N"]) -> EnvState:
    """The first state of an episode with these ``ships``."""
    return EnvState(
        ships=ships, guesses=jnp.zeros_like(ships), hits=jnp.int32(0), time=jnp.int32(0)
    )


def place_ship(key: PRNGKeyArray, ships: Bool[Array, "N N"], size: int) -> Bool[Array, "N N"]:
    """``ships`` and one more of ``size`` cells, in any free place with equal probability."""
    num_rows = len(ships)
    # [axis, row, column]: may a ship along that axis begin here?
    free = jnp.stack([runs(~ships, size), runs(~ships.T, size).T]).ravel()
    # The k-th free place, k uniform: nothing is drawn in vain.
    k = jax.random.randint(key, (), 0, jnp.sum(free))
    place = jnp.sum(jnp.cumsum(free, dtype=jnp.int32) <= k)
    axis, row, column = jnp.unravel_index(place, (2, num_rows, num_rows))
    rows, columns = np.mgrid[:num_rows, :num_rows]
    along = jnp.where(axis == 0, rows - row, columns - column)
    across = jnp.where(axis == 0, columns - column, rows - row)
    return ships | ((along >= 0) & (along < size) & (across == 0))


def runs(water: Bool[Array, "N N"], size: int) -> Bool[Array, "N N"]:
    """Where ``size`` cells of water follow each other down a column, this one the first."""
    padded = jnp.pad(water, ((0, size - 1), (0, 0)))
    return reduce(and_, (padded[i : i + len(water)] for i in range(size)))

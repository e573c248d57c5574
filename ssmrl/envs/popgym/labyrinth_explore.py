"""LabyrinthExplore: visit every square of a maze.

A square visited for the first time pays 1 divided by the number of free squares (which the start is
not counted among), every other step costs ``1 / max_episode_length``. The episode terminates when
all is explored and is truncated after ``max_episode_length - 1`` steps. Moves and observations:
:mod:`ssmrl.envs.popgym._labyrinth`; mazes: :mod:`ssmrl.envs.popgym._maze`.

The observation ends with the previous action, which the package puts there itself. Its authors have
since warned that labyrinths can be solved without memory.

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int8, PRNGKeyArray

from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.popgym import _labyrinth
from ssmrl.envs.popgym._labyrinth import EnvParams, Labyrinth
from ssmrl.envs.popgym._maze import FREE


@struct.dataclass
class EnvState(_labyrinth.EnvState):
    """``explored`` bool ``[H, W]``; ``num_free`` squares, of which ``num_left`` are unexplored."""

    explored: Leaf
    num_free: Leaf
    num_left: Leaf


class LabyrinthExplore(Labyrinth):
    """Observation: 3 × 3 squares, row by row (free 0, obstacle 1, start 2), and the previous action
    (4: none), ``MultiDiscrete([5] * 10)``. Action: left, right, up, down.

    Mazes of 5 × 5 cells (easy), 7 × 7 (medium) or 9 × 9 (hard).
    """

    PARAMS = _labyrinth.PARAMS

    def begin(self, maze: Int8[Array, "H W"], start: Array, end: Array) -> EnvState:
        first = _labyrinth.first_state(maze, start)
        explored = jnp.zeros(maze.shape, bool).at[*start].set(True)
        num_free = (maze == FREE).sum(dtype=jnp.int32)
        return EnvState(**vars(first), explored=explored, num_free=num_free, num_left=num_free)

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        position, _ = _labyrinth.move(state.maze, state.position, action)
        row, column = position
        is_new = ~state.explored[row, column]
        step_cost = jnp.float32(1.0 / params.max_episode_length)
        reward = jnp.where(is_new, 1.0 / state.num_free.astype(jnp.float32), -step_cost)
        time = state.time + 1
        state = replace(
            state,
            position=position,
            time=time,
            last_action=jnp.asarray(action, jnp.int32),
            explored=state.explored.at[row, column].set(True),
            num_left=state.num_left - is_new,
        )
        truncated = time >= params.max_episode_length - 1
        return _labyrinth.observe(state), state, reward, state.num_left == 0, truncated, {}

    def visible_maze(self, state: EnvState) -> Int8[Array, "H W"]:
        explored = state.explored & (state.maze == FREE)
        return jnp.where(explored, jnp.int8(_labyrinth.EXPLORED), state.maze)

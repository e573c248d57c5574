"""LabyrinthEscape: find the way out of a maze.

The way out is in the outer wall opposite to the start. Each step costs ``1 / max_episode_length``;
the one that reaches the goal pays 1 besides, and the episode terminates. It is truncated after
``max_episode_length - 1`` steps. Moves and observations: :mod:`ssmrl.envs.popgym._labyrinth`;
mazes: :mod:`ssmrl.envs.popgym._maze`.

The observation ends with the previous action, which the package puts there itself. Its authors have
since warned that labyrinths can be solved without memory.

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Int8, PRNGKeyArray

from ssmrl.envs.environment import Transition
from ssmrl.envs.popgym import _labyrinth
from ssmrl.envs.popgym._labyrinth import GOAL, EnvParams, EnvState, Labyrinth, first_state


class LabyrinthEscape(Labyrinth):
    """Observation: 3 × 3 squares, row by row (free 0, obstacle 1, start 2, goal 3), and the
    previous action (4: none), ``MultiDiscrete([5] * 10)``. Action: left, right, up, down.

    Mazes of 5 × 5 cells (easy), 7 × 7 (medium) or 9 × 9 (hard).
    """

    PARAMS = _labyrinth.PARAMS

    def begin(self, maze: Int8[Array, "H W"], start: Array, end: Array) -> EnvState:
        return first_state(maze.at[*end].set(GOAL), start)

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        position, square = _labyrinth.move(state.maze, state.position, action)
        is_out = square == GOAL
        step_cost = jnp.float32(1.0 / params.max_episode_length)
        reward = is_out.astype(jnp.float32) - step_cost
        time = state.time + 1
        state = EnvState(state.maze, position, time, jnp.asarray(action, jnp.int32))
        truncated = time >= params.max_episode_length - 1
        return _labyrinth.observe(state), state, reward, is_out, truncated, {}

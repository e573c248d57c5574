"""What the two labyrinths share: a maze, moves in it, and the view of 3 × 3 squares.

The agent starts in an opening of the outer wall. It moves one square left, right, up or down and
stays where it is in front of an obstacle. It sees the squares around it and its last action.

The view is the part of the maze within one square, cut off at the maze's edge and filled up with
obstacles *below and to the right*: in the top row the agent is in the view's top row, not in its
middle, and likewise in the left column. So it is in the package.
"""

from __future__ import annotations

import abc
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Int, Int8, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import side_by_side
from ssmrl.envs.environment import Leaf
from ssmrl.envs.popgym._base import PopGymEnv
from ssmrl.envs.popgym._maze import WALL, entrances, hunt_and_kill
from ssmrl.envs.spaces import Discrete, MultiDiscrete

START, GOAL = 2, 3
NUM_SQUARES, NUM_ACTIONS = 5, 4
"""Kinds of squares, of which the package never shows the fifth, and moves."""

_MOVES = np.array([[0, -1], [0, 1], [-1, 0], [1, 0]], np.int32)
"""Rows and columns of the actions left, right, up, down."""
_COLOURS = np.array(
    [[255, 255, 255], [60, 60, 70], [70, 200, 90], [220, 60, 50], [190, 215, 245], [200, 120, 60]],
    np.uint8,
)
"""Free, obstacle, start, goal; explored; the agent."""
EXPLORED, _AGENT = 4, 5


@struct.dataclass
class EnvParams:
    """Mazes of ``maze_size + 1`` rows and columns, ``max_episode_length - 1`` steps at most."""

    maze_size: int = struct.field(pytree_node=False, default=10)
    max_episode_length: Leaf = 1024


PARAMS = {"easy": EnvParams(10), "medium": EnvParams(14), "hard": EnvParams(18)}
"""The published sizes, of both families."""


@struct.dataclass
class EnvState:
    """``maze`` int8 ``[H, W]``, ``position`` i32[2] (row, column), ``last_action`` 4 at first."""

    maze: Leaf
    position: Leaf
    time: Leaf
    last_action: Leaf


class Labyrinth(PopGymEnv[Any, EnvParams]):
    """Observation: 9 squares, row by row, and the last action. Action: left, right, up, down."""

    def check_params(self, params: EnvParams) -> None:
        if params.maze_size < 6 or params.maze_size % 2:
            raise ValueError(f"{self.name} needs an even maze_size of at least 6, got {params}")
        if params.max_episode_length < 2:
            raise ValueError(f"{self.name} needs max_episode_length of at least 2, got {params}")

    def observation_space(self, params: EnvParams) -> MultiDiscrete:
        return MultiDiscrete([NUM_SQUARES] * 9 + [NUM_ACTIONS + 1])

    def action_space(self, params: EnvParams) -> Discrete:
        return Discrete(NUM_ACTIONS)

    @abc.abstractmethod
    def begin(self, maze: Int8[Array, "H W"], start: Array, end: Array) -> Any:
        """The state at the start of a new maze, whose opening ``start`` is marked already."""

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Array, Any]:
        key_maze, key_entrances = jax.random.split(key)
        num_cells = params.maze_size // 2
        start, end = entrances(key_entrances, num_cells)
        maze = hunt_and_kill(key_maze, num_cells).at[*start].set(START)
        state = self.begin(maze, start, end)
        return observe(state), state

    def render(self, state: Any, params: EnvParams) -> UInt8[Array, "H W 3"]:
        """The 3 × 3 view beside the whole maze with the agent in it."""
        maze = self.visible_maze(state).at[*state.position].set(_AGENT)
        truth = _enlarge(jnp.asarray(_COLOURS)[maze], 4)
        size = truth.shape[0] // 3
        view = _enlarge(jnp.asarray(_COLOURS)[observe(state)[:9].reshape(3, 3)], size)
        padding = [(0, truth.shape[0] - 3 * size), (0, 0), (0, 0)]
        return side_by_side(jnp.pad(view, padding), truth)

    def visible_maze(self, state: Any) -> Int8[Array, "H W"]:
        """The maze as drawn: squares, explored ones if the family knows them."""
        return state.maze


def _enlarge(picture: Leaf, scale: int) -> Leaf:
    return jnp.repeat(jnp.repeat(picture, scale, 0), scale, 1)


def first_state(maze: Int8[Array, "H W"], start: Array) -> EnvState:
    """At ``start``, no action taken."""
    none = jnp.int32(NUM_ACTIONS)
    return EnvState(maze=maze, position=start, time=jnp.int32(0), last_action=none)


def move(
    maze: Int8[Array, "H W"], position: Int[Array, "2"], action: Any
) -> tuple[Int[Array, "2"], Int8[Array, ""]]:
    """Where ``action`` leads, and what is there."""
    edge = jnp.asarray(maze.shape, position.dtype) - 1
    ahead = jnp.clip(position + jnp.asarray(_MOVES)[action], 0, edge)
    square = maze[ahead[0], ahead[1]]
    return jnp.where(square == WALL, position, ahead), square


def observe(state: EnvState) -> Int[Array, "10"]:
    """The squares around the agent, see the module's docstring, and its last action."""
    size = jnp.asarray(state.maze.shape)[:, None]
    # Rows, then columns: one before the agent (but in the maze), that one's next two.
    index = jnp.maximum(state.position[:, None] - 1, 0) + jnp.arange(3)
    is_seen = index <= jnp.minimum(state.position[:, None] + 1, size - 1)
    rows, columns = jnp.minimum(index, size - 1)
    squares = jnp.where(
        is_seen[0][:, None] & is_seen[1], state.maze[rows[:, None], columns], jnp.int8(WALL)
    )
    last_action = jnp.asarray(state.last_action, jnp.int32)
    return jnp.concatenate([squares.astype(jnp.int32).ravel(), last_action[None]])

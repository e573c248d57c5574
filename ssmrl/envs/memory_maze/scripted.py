"""Policies that know the maze: the shortest way to a place, as straight as walls allow.

The oracle goes to the target. Its return tells how far apart targets are and how fast the agent
gets about, which is what a model of the original has to get right. The wanderer goes to one random
cell after the other, now and then astray, and sees all of a maze without learning to act: what the
original's datasets are filled with.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray

from ssmrl.envs.environment import Leaf
from ssmrl.envs.memory_maze.above import distances
from ssmrl.envs.memory_maze.environment import EnvState
from ssmrl.envs.memory_maze.layout import Maze
from ssmrl.envs.memory_maze.motion import (
    FORWARD,
    FORWARD_LEFT,
    FORWARD_RIGHT,
    LEFT,
    NUM_ACTIONS,
    RIGHT,
    Body,
)

_CELLS_AHEAD = 3
_SAMPLES = np.linspace(0, 1, 13, dtype=np.float32)[1:]
_CLEARANCE = 0.17
_ARRIVED = 0.35
_STRAIGHT, _SHARP = np.radians([9.5, 55])


def oracle(state: EnvState) -> Int[Array, ""]:
    """The action towards the target that is asked for."""
    return go_to(state.maze, state.body, state.maze.targets[state.current])


@struct.dataclass
class Wandering:
    """The place where a wanderer goes, f32[2], and what it does for ``astray`` more steps."""

    goal: Leaf
    action: Leaf
    astray: Leaf


def begin_wandering(key: PRNGKeyArray, state: EnvState) -> Wandering:
    """At the start of an episode."""
    return Wandering(_somewhere(key, state.maze), jnp.int32(0), jnp.int32(0))


def wander(
    key: PRNGKeyArray, wandering: Wandering, state: EnvState, noise: Leaf = 0.1
) -> tuple[Wandering, Int[Array, ""]]:
    """The next action on the way to a random cell, and to another once it is there.

    Args:
        key: for the next cell, and for going astray.
        wandering: from `begin_wandering` or the previous call.
        state: of the environment.
        noise: the chance in each step of going astray: a random action for one to four steps.
    """
    key_goal, key_noise, key_action, key_length = jax.random.split(key, 4)
    maze, body = state.maze, state.body
    is_there = jnp.hypot(wandering.goal[0] - body.x, wandering.goal[1] - body.y) < _ARRIVED
    goal = jnp.where(is_there, _somewhere(key_goal, maze), wandering.goal)
    begins = (wandering.astray == 0) & jax.random.bernoulli(key_noise, noise)
    drawn = jax.random.randint(key_action, (), 0, NUM_ACTIONS, jnp.int32)
    action = jnp.where(begins, drawn, wandering.action)
    length = jax.random.randint(key_length, (), 1, 5, jnp.int32)
    left = jnp.where(begins, length, wandering.astray)
    chosen = jnp.where(left > 0, action, go_to(maze, body, goal))
    return Wandering(goal, action, jnp.maximum(left - 1, 0)), chosen


def _somewhere(key: PRNGKeyArray, maze: Maze) -> Float[Array, "2"]:
    """The centre of a free cell, (x, y)."""
    logits = jnp.where(maze.is_wall.ravel(), -jnp.inf, 0.0)
    row, column = jnp.divmod(jax.random.categorical(key, logits), maze.is_wall.shape[1])
    return jnp.stack([column, row]).astype(jnp.float32) + 0.5


def go_to(maze: Maze, body: Body, goal: Float[Array, "2"]) -> Int[Array, ""]:
    """The action towards the farthest that is in sight of the next three cells of the way.

    Args:
        maze: where the agent is.
        body: the agent.
        goal: a place in a free cell, (x, y).
    """
    steps = distances(maze.is_wall, goal)
    moves = jnp.array([[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]])
    place = jnp.stack([body.x, body.y])
    cell = jnp.stack([body.y, body.x]).astype(jnp.int32)
    aim = goal
    for ahead in range(_CELLS_AHEAD):
        near = cell + moves
        cell = near[jnp.argmin(steps[near[:, 0], near[:, 1]])]
        centre = jnp.where(steps[cell[0], cell[1]] == 0, goal, cell[::-1] + 0.5)
        # The first is taken in sight or not: it is the next.
        aim = jnp.where(_in_sight(maze.is_wall, place, centre) | (ahead == 0), centre, aim)
    off = jnp.arctan2(aim[1] - body.y, aim[0] - body.x) - body.heading
    off = (off + jnp.pi) % (2 * jnp.pi) - jnp.pi
    walk = jnp.where(off > 0, FORWARD_LEFT, FORWARD_RIGHT)
    turn = jnp.where(off > 0, LEFT, RIGHT)
    steered = jnp.where(jnp.abs(off) < _SHARP, walk, turn)
    return jnp.where(jnp.abs(off) < _STRAIGHT, FORWARD, steered).astype(jnp.int32)


def _in_sight(is_wall: Bool[Array, "N N"], place: Leaf, aim: Leaf) -> Bool[Array, ""]:
    """Whether a ball with some clearance gets straight from one to the other."""
    way = aim - place
    aside = jnp.stack([-way[1], way[0]]) * (_CLEARANCE / jnp.maximum(jnp.hypot(*way), 1e-6))
    line = place + _SAMPLES[:, None] * way
    both = jnp.concatenate([line + aside, line - aside]).astype(jnp.int32)
    return ~jnp.any(is_wall[both[:, 1], both[:, 0]])

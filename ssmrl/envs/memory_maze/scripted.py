"""A policy that knows the maze: the shortest way to the target, as straight as walls allow.

Its return tells how far apart targets are and how fast the agent gets about, which is what a model
of the original has to get right; and it fills datasets without learning to act.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from ssmrl.envs.environment import Leaf
from ssmrl.envs.memory_maze.above import distances
from ssmrl.envs.memory_maze.environment import EnvState
from ssmrl.envs.memory_maze.motion import FORWARD, FORWARD_LEFT, FORWARD_RIGHT, LEFT, RIGHT

_CELLS_AHEAD = 3
_SAMPLES = np.linspace(0, 1, 13, dtype=np.float32)[1:]
_CLEARANCE = 0.17
_STRAIGHT, _SHARP = np.radians([9.5, 55])


def oracle(state: EnvState) -> Int[Array, ""]:
    """The action towards the farthest that is in sight of the next three cells of the way."""
    maze, body = state.maze, state.body
    goal = maze.targets[state.current]
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

"""The labyrinths: shortest ways out, shortest walks through everything, and who sees 3 × 3 squares.

A maze is a tree of squares, the start one of its leaves. Both bounds are what a map would earn:

- LabyrinthEscape: 1 less the steps of the shortest way, ``1 / T`` each.
- LabyrinthExplore: a walk that visits all F squares but the start and need not come back takes each
  of the F passages twice, but those to the square where it ends once: ``2 F - D`` steps for the
  deepest one, D away. All but F of them cost ``1 / T``.

In a few mazes the generator left cells without access. Where the way out is beside one, or the
start, there is nothing but costs, for ``T - 1`` steps.
"""

from __future__ import annotations

import numpy as np

from ssmrl.envs.popgym._labyrinth import GOAL, START
from ssmrl.envs.popgym._maze import FREE, WALL

MOVES = ((0, -1), (0, 1), (-1, 0), (1, 0))
"""Rows and columns of the actions left, right, up, down."""
Place = tuple[int, int]


def distances(maze: np.ndarray, start: Place) -> dict[Place, int]:
    """Steps from ``start`` to each square of a maze [H, W] that can be reached."""
    steps, edge = {start: 0}, [start]
    for place in edge:  # grows as it is read
        for row, column in ((place[0] + r, place[1] + c) for r, c in MOVES):
            inside = 0 <= row < maze.shape[0] and 0 <= column < maze.shape[1]
            if inside and maze[row, column] != WALL and (row, column) not in steps:
                steps[row, column] = steps[place] + 1
                edge.append((row, column))
    return steps


def place_of(maze: np.ndarray, square: int) -> Place:
    """Where the only such square is."""
    (row,), (column,) = np.nonzero(maze == square)
    return int(row), int(column)


def escape_return(maze: np.ndarray, limit: int) -> float:
    """What the shortest way out earns; ``limit`` is ``max_episode_length``."""
    steps = distances(maze, place_of(maze, START)).get(place_of(maze, GOAL))
    return -(limit - 1) / limit if steps is None else 1 - steps / limit


def explore_return(maze: np.ndarray, limit: int) -> float:
    """What the shortest walk through all squares earns.

    Raises:
        ValueError: if the maze is not a tree, or too large to be explored in time.
    """
    steps = distances(maze, place_of(maze, START))
    num_free = int((maze == FREE).sum())
    if len(steps) - 1 < num_free:  # the start has no way in
        return _confined_return(len(steps) - 1, num_free, limit)
    passages = sum((r + dr, c + dc) in steps for r, c in steps for dr, dc in MOVES) // 2
    walk = 2 * num_free - max(steps.values())
    if passages != num_free or walk > limit - 1:
        raise ValueError(f"expected a tree that {limit - 1} steps explore, got {maze}")
    return 1 - (walk - num_free) / limit


def _confined_return(reached: int, num_free: int, limit: int) -> float:
    if reached:
        raise ValueError(f"expected all {num_free} squares to be connected, got {reached} of them")
    return -(limit - 1) / limit


class Player:
    """Draws a map of what it sees and walks to where it ends, until it has seen all it wants.

    It goes to the known square with an unknown neighbour that has the least of: steps to it, less
    how much further from the wall of the start it is, times ``forwards``.

    Args:
        forwards: 0 to go wherever the nearest unknown is.
    """

    def __init__(self, forwards: float = 0.0):
        self._forwards = forwards
        self._map: dict[Place, int] = {(0, 0): START}  # places are counted from the start
        self._visited: set[Place] = {(0, 0)}
        self._place: Place = (0, 0)
        self._ahead = -1  # the action that leads away from the start

    def act(self, obs: np.ndarray) -> int:
        """Left, right, up or down, given 9 squares and the last action."""
        view = obs[:9].reshape(3, 3)
        if self._place == (0, 0):
            # It stays there if there is no way in. Else the view is never cut off again.
            self._ahead = action = self._enter(view)
            may_pass = FREE in (view[0, 1], view[1, 0], view[1, 2], view[2, 1])
        else:
            for (i, j), square in np.ndenumerate(view):
                self._map.setdefault((self._place[0] + i - 1, self._place[1] + j - 1), int(square))
            action, may_pass = self._next(), True
        if may_pass:
            self._place = _moved(self._place, action)
            self._visited.add(self._place)
        return action

    @staticmethod
    def _enter(view: np.ndarray) -> int:
        """Away from the outer wall. In the top row and the left column the agent is at the edge of
        its view."""
        row, column = place_of(view, START)
        if row == 0:
            return 3
        if column == 0:
            return 1
        return 2 if view[0, 1] == FREE else 0

    def _next(self) -> int:
        """The first action of the way to the best of the squares to visit."""
        first, steps = {self._place: -1}, {self._place: 0}
        queue, best, chosen = [self._place], np.inf, 0
        for place in queue:
            score = steps[place] - self._forwards * self._advance(place)
            if self._map[place] == GOAL:
                return first[place]
            if score < best and self._is_open(place):
                best, chosen = score, first[place]
                if not self._forwards:  # those that follow are not nearer
                    break
            for action in range(4):
                ahead = _moved(place, action)
                if self._map.get(ahead, WALL) != WALL and ahead not in steps:
                    steps[ahead] = steps[place] + 1
                    first[ahead] = action if place == self._place else first[place]
                    queue.append(ahead)
        return chosen

    def _is_open(self, place: Place) -> bool:
        unknown = any(_moved(place, action) not in self._map for action in range(4))
        return unknown and place not in self._visited

    def _advance(self, place: Place) -> int:
        (row, column), (down, right) = place, MOVES[self._ahead]
        return row * down + column * right


class Explorer(Player):
    """The same, to whom every square that it has not been to is worth a visit."""

    def _is_open(self, place: Place) -> bool:
        return place not in self._visited


def _moved(place: Place, action: int) -> Place:
    return place[0] + MOVES[action][0], place[1] + MOVES[action][1]

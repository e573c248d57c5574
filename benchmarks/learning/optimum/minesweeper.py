"""MineSweeper: the exact optimum of small boards, and a player that takes the safest cell.

Two facts hold for the best play. A cell that is certain to be clear is looked at at once: there is
one step for each clear cell, so that it has to be looked at some time, and sooner tells more. And
where nothing is certain it can be better to look at an old cell, at a small cost, than to risk a
mine: the last steps then pay little.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from itertools import combinations
from math import comb

import numpy as np


@cache
def around(size: int, cell: int) -> tuple[int, ...]:
    """The up to nine cells around ``cell``, itself included."""
    row, column = divmod(cell, size)
    near = lambda i: range(max(i - 1, 0), min(i + 2, size))  # noqa: E731
    return tuple(r * size + c for r in near(row) for c in near(column))


def best_return(size: int, mines: int) -> float:
    """The expected return of the best play, by dynamic programming over what can be known.

    What is known is the set of boards that are still possible (bits of an integer) and the cells
    looked at. There are 120 boards of 4 by 4 cells with 2 mines; with many more it takes too long.
    """
    cells, clear = range(size**2), size**2 - mines
    boards = [sum(1 << c for c in board) for board in combinations(cells, mines)]
    has_mine = [sum(1 << i for i, b in enumerate(boards) if b >> c & 1) for c in cells]
    zone = [sum(1 << c for c in around(size, cell)) for cell in cells]
    # Entry [cell][k]: the boards with k mines around a cell that has none itself.
    shows = [[0] * (mines + 1) for _ in cells]
    for cell in cells:
        for i, board in enumerate(boards):
            if not board >> cell & 1:
                shows[cell][(board & zone[cell]).bit_count()] |= 1 << i

    def look(possible: int, viewed: int, steps: int, cell: int) -> float:
        total = -(0.5 + 1 / clear) * (possible & has_mine[cell]).bit_count()
        for boards_left in shows[cell]:
            left = possible & boards_left
            if left:
                after = value(left, viewed | 1 << cell, steps - 1)
                total += left.bit_count() * (1 / clear + after)
        return total / possible.bit_count()

    @cache
    def value(possible: int, viewed: int, steps: int) -> float:
        """Of ``steps`` more steps."""
        new = [c for c in cells if not viewed >> c & 1]
        if steps == 0 or len(new) == mines:
            return 0.0
        safe = [c for c in new if not possible & has_mine[c]]
        if safe:
            return look(possible, viewed, steps, safe[0])
        best = max(look(possible, viewed, steps, c) for c in new)
        if viewed:
            again = -0.5 / (clear - 2) + value(possible, viewed, steps - 1)
            best = max(best, again)
        return best

    everything = (1 << len(boards)) - 1
    return max(look(everything, 0, clear, cell) for cell in eighth(size))


def eighth(size: int) -> list[int]:
    """The cells that differ, by the symmetries of the square: enough for a first look."""
    half = (size + 1) // 2
    return [row * size + column for row in range(half) for column in range(row, half)]


def first_looks_bound(size: int, mines: int, looks: int = 3) -> float:
    """A bound on the expected return of any play: after some ``looks``, all is known.

    Whoever does not want to look may stop at no cost in it.
    """
    clear = size**2 - mines

    def after_look(p: float, future: float) -> float:
        return (1 - p) * (1 / clear + future) - p * (0.5 + 1 / clear)

    def value(numbers: dict[int, int], looks: int) -> float:
        risk = mine_probabilities(size, mines, numbers)
        risk[list(numbers)] = 2
        cells = eighth(size) if not numbers else np.flatnonzero(risk < 1).tolist()
        safest = int(risk.argmin())
        if looks == 1:
            return max(0.0, after_look(risk[safest], future(numbers, safest, 1)))
        if risk[safest] == 0:
            cells = [safest]
        # More looks make a bound tighter: a cell that one look less rules out need not be tried.
        bounds = {c: after_look(risk[c], future(numbers, c, looks - 1)) for c in cells}
        best = 0.0
        for cell in sorted(bounds, key=bounds.get, reverse=True):
            if bounds[cell] > best:
                best = max(best, after_look(risk[cell], future(numbers, cell, looks)))
        return best

    def future(numbers: dict[int, int], cell: int, looks: int) -> float:
        """Expected value after ``cell`` was seen to be clear, if there are ``looks`` with it."""
        if looks == 1:
            return (clear - len(numbers) - 1) / clear
        total, ways = 0.0, 0
        for number in range(min(len(around(size, cell)) - 1, mines) + 1):
            after = {**numbers, cell: number}
            if boards := count_boards(size, mines, after):
                total += boards * value(after, looks - 1)
                ways += boards
        return total / ways

    return value({}, looks)


def count_boards(size: int, mines: int, numbers: dict[int, int]) -> int:
    """Boards that show the ``numbers``, by cell."""
    groups = _groups(size, numbers)
    ways = [[total for total, _ in _count(*group)] for group in groups]
    outside = size**2 - len(numbers) - sum(len(cells) for cells, _ in groups)
    return _rest(_product(ways), mines, outside)


def mine_probabilities(size: int, mines: int, numbers: dict[int, int]) -> np.ndarray:
    """Probability of a mine in each cell, float64 ``[size²]``, given the numbers seen by cell.

    Exact: the cells beside numbers fall into groups that share no number. For each group all ways
    to lay mines are counted by their number; the other cells hold the rest in any way.
    """
    groups = _groups(size, numbers)
    counted = [_count(*group) for group in groups]
    ways = [[total for total, _ in counts] for counts in counted]
    inside = {cell for cells, _ in groups for cell in cells}
    outside = [c for c in range(size**2) if c not in inside and c not in numbers]
    probability, boards = np.zeros(size**2), _rest(_product(ways), mines, len(outside))
    if outside:  # each is like the others: with a mine in it, the rest has one less to hold
        probability[outside] = _rest(_product(ways), mines - 1, len(outside) - 1) / boards
    for i, (cells, _) in enumerate(groups):
        others = _product(ways[:i] + ways[i + 1 :])
        for position, cell in enumerate(cells):
            here = [with_mine[position] for _, with_mine in counted[i]]
            probability[cell] = _rest(_product([others, here]), mines, len(outside)) / boards
    return probability


def _rest(ways: Sequence[int], mines: int, outside: int) -> int:
    """Ways to lay ``mines``, given those to lay k of them inside."""
    return sum(n * comb(outside, mines - k) for k, n in enumerate(ways) if k <= mines)


def _product(polynomials: Sequence[Sequence[int]]) -> list[int]:
    """Of polynomials in the number of mines."""
    result = [1]
    for factor in polynomials:
        new = [0] * (len(result) + len(factor) - 1)
        for i, a in enumerate(result):
            for j, b in enumerate(factor):
                new[i + j] += a * b
        result = new
    return result


def _groups(size: int, numbers: dict[int, int]) -> list[tuple[list[int], list]]:
    """Groups of unseen cells and the constraints on each: (cells, mines among them)."""
    constraints = [
        (frozenset(c for c in around(size, cell) if c not in numbers), number)
        for cell, number in numbers.items()
    ]
    left, groups = [c for c in constraints if c[0]], []
    while left:
        cells, mine = set(left[0][0]), []
        while touching := [c for c in left if c[0] & cells]:
            mine += touching
            left = [c for c in left if c not in touching]
            cells |= frozenset().union(*(c[0] for c in touching))
        # In the order of the constraints, so that each is soon complete.
        order = list(dict.fromkeys(c for zone, _ in mine for c in sorted(zone)))
        groups.append((order, list(dict.fromkeys(mine))))
    return groups


def _count(group: list[int], constraints: list) -> list[tuple[int, list[int]]]:
    """Entry k: in how many ways k mines can lie in ``group``, and in how many of them each cell."""
    index = {cell: i for i, cell in enumerate(group)}
    touching: list[list[int]] = [[] for _ in group]
    for j, (zone, _) in enumerate(constraints):
        for cell in zone:
            touching[index[cell]].append(j)
    need, room = [n for _, n in constraints], [len(zone) for zone, _ in constraints]
    counts = [[0, [0] * len(group)] for _ in range(len(group) + 1)]
    laid: list[int] = []

    def lay(position: int) -> None:
        if position == len(group):
            entry = counts[len(laid)]
            entry[0] += 1
            for i in laid:
                entry[1][i] += 1
            return
        for mine in (0, 1):
            for j in touching[position]:
                room[j] -= 1
                need[j] -= mine
            if all(0 <= need[j] <= room[j] for j in touching[position]):
                if mine:
                    laid.append(position)
                lay(position + 1)
                if mine:
                    laid.pop()
            for j in touching[position]:
                room[j] += 1
                need[j] += mine

    lay(0)
    return [(total, with_mine) for total, with_mine in counts]


class Player:
    """Looks at the safest cell, unless an old one is the better bet.

    It stops risking mines when even a future without any more of them would not be worth the risk,
    and then looks at an old cell for the rest of the episode.
    """

    def __init__(self, size: int, mines: int):
        self._size, self._mines, self._clear = size, mines, size**2 - mines
        self._numbers: dict[int, int] = {}
        self._safe: list[int] = []
        self._last: int | None = None

    def act(self, obs: np.ndarray) -> tuple[int, int]:
        """Row and column to look at, given the number at the cell looked at before."""
        if self._last is not None:
            self._numbers[self._last] = int(obs)
        self._last = self._choose()
        return divmod(self._last, self._size)

    def _choose(self) -> int:
        if not self._numbers:
            return 0  # a corner has the fewest neighbours, so that it most often shows 0
        if self._safe:
            return self._safe.pop()
        risk = mine_probabilities(self._size, self._mines, self._numbers)
        risk[list(self._numbers)] = 2
        self._safe = np.flatnonzero(risk == 0).tolist()
        if self._safe:
            return self._safe.pop()
        left = self._clear - len(self._numbers)
        safest = int(risk.argmin())
        p = risk[safest]
        gain = (1 - p) * left / self._clear - p * (0.5 + 1 / self._clear)
        resigned = -left * 0.5 / (self._clear - 2)
        return safest if gain > resigned else next(iter(self._numbers))

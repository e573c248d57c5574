"""Battleship: a bound from counting what shots can tell, and a player with a belief.

The bound: hits pay 1 in all and each miss costs ``1 / (n² - H)``, so that an episode is worth 1
less its misses. What a deterministic policy does depends on hits and misses only. The episodes in
which it needs exactly m misses are sequences of H hits and m misses that end with a hit, of which
there are ``C(H - 1 + m, m)``, and each of them sinks one fleet: the cells that it hits. So whatever
it does, it sinks at most ``C(H + m, m)`` different fleets with m misses or less, and these have no
more probability than as many of the most probable ones. A random policy is a mixture of
deterministic ones, and does no better.

How probable fleets are is found by drawing some: fleets of one probability p that have the share s
of the draws are about ``s / p`` many.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache
from itertools import permutations

import numpy as np

SHIPS = (2, 3, 3, 4)
HITS = sum(SHIPS)
ORDERS = tuple(sorted(set(permutations(SHIPS))))
"""Those in which the ships can come along the board."""


@cache
def places(size: int, length: int) -> np.ndarray:
    """Where a ship of ``length`` cells may lie: bool ``[places, size²]``."""
    rows = []
    for row in range(size):
        for column in range(size - length + 1):
            along = np.zeros((size, size), bool)
            along[row, column : column + length] = True
            rows += [along.ravel(), along.T.ravel()]
    return np.stack(rows)


def draw_fleet(size: int, rng: np.random.Generator) -> frozenset[int]:
    """The cells of a fleet, drawn by the family's rules: each ship anywhere it fits."""
    taken = np.zeros(size**2, bool)
    for length in SHIPS:
        ships = places(size, length)
        free = ships[~(ships & taken).any(axis=1)]
        taken |= free[rng.integers(len(free))]
    return frozenset(np.flatnonzero(taken).tolist())


def fleet_probability(size: int, cells: frozenset[int]) -> float:
    """Probability that the ships, in whatever way, lie on just these ``cells``."""
    total = 0.0
    for ships in layouts(size, cells):
        total += layout_probability(size, ships)
    return total


def layouts(size: int, cells: frozenset[int]) -> Iterator[dict[int, list[frozenset[int]]]]:
    """All ways to cut ``cells`` into ships: by length, the cells of each.

    The first of the cells left is always the upper or left end of a ship.
    """
    for order in ORDERS:
        yield from _cut(size, cells, order)


def _cut(size, cells, lengths):
    if not lengths:
        yield {}
        return
    first, length = min(cells), lengths[0]
    for step, fits in ((1, first % size + length <= size), (size, True)):
        ship = frozenset(first + step * i for i in range(length))
        if fits and ship <= cells:
            for others in _cut(size, cells - ship, lengths[1:]):
                yield {**others, length: [*others.get(length, []), ship]}


def layout_probability(size: int, ships: dict[int, list[frozenset[int]]]) -> float:
    """Probability of a layout, ships of one length in either order."""
    total = 0.0
    first, second = ships[3]
    for threes in ((first, second), (second, first)):
        order = [ships[2][0], *threes, ships[4][0]]
        taken, ways = np.zeros(size**2, bool), 1
        for ship in order:
            ways *= int((~(places(size, len(ship)) & taken).any(axis=1)).sum())
            taken[list(ship)] = True
        total += 1 / ways
    return total


def fewest_misses(probabilities: np.ndarray) -> float:
    """Least expected misses if fleets drawn at random have these ``probabilities``."""
    likely_first = np.sort(probabilities)[::-1]
    count = np.concatenate([[0.0], np.cumsum(1 / likely_first) / len(likely_first)])
    share = np.linspace(0.0, 1.0, len(count))
    total, misses = 0.0, 0
    # E[misses] is the sum over m of the probability of more misses than m.
    while (sunk := math.comb(HITS + misses, misses)) < count[-1]:
        total += 1 - np.interp(sunk, count, share)
        misses += 1
    return total


def counting_bound(size: int, draws: int, seed: int = 0) -> tuple[float, float]:
    """The bound on the return, and its standard error from eight parts of the draws."""
    rng = np.random.default_rng(seed)
    drawn = np.array([fleet_probability(size, draw_fleet(size, rng)) for _ in range(draws)])
    returns = lambda p: 1 - fewest_misses(p) / (size**2 - HITS)  # noqa: E731
    parts = [returns(part) for part in np.array_split(drawn, 8)]
    return returns(drawn), float(np.std(parts, ddof=1) / math.sqrt(8))


class Player:
    """Shoots where a ship is most probable, by belief propagation between the ships.

    For each ship it keeps a probability of each place that no miss excludes. A place is the more
    probable, the less the other ships are thought to cover its cells where nothing was shot at, and
    the less they can explain its hits. Some rounds of this, then the cell that some ship covers
    most probably.
    """

    ROUNDS = 5

    def __init__(self, size: int):
        self._size = size
        self._ships = [places(size, length).astype(np.float64) for length in SHIPS]
        self._hits, self._misses = np.zeros((2, size**2), bool)
        self._last: int | None = None

    def act(self, obs: np.ndarray) -> tuple[int, int]:
        """Row and column of the next shot, given whether the last one was a hit."""
        if self._last is not None:
            (self._hits if obs else self._misses)[self._last] = True
        covered = 1 - np.prod(1 - self._beliefs(), axis=0)
        covered[self._hits | self._misses] = -1
        self._last = int(covered.argmax())
        return divmod(self._last, self._size)

    def _beliefs(self) -> np.ndarray:
        """Probability ``[ships, cells]`` that each ship covers each cell."""
        possible = [ships @ self._misses == 0 for ships in self._ships]
        beliefs = np.stack([p @ s / p.sum() for p, s in zip(possible, self._ships, strict=True)])
        for _ in range(self.ROUNDS):
            for i, ships in enumerate(self._ships):
                clear = np.prod(1 - np.delete(beliefs, i, axis=0), axis=0)  # of other ships
                clear = np.clip(clear, 1e-6, 1 - 1e-6)
                evidence = np.log(np.where(self._hits, clear / (1 - clear), clear))
                weight = np.where(possible[i], ships @ evidence, -np.inf)
                weight = np.exp(weight - weight.max())
                beliefs[i] = np.clip(weight @ ships / weight.sum(), 0.0, 1.0)
        return beliefs

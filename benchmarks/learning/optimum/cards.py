"""Games in which cards are dealt and named again: players that write everything down.

In Autoencode, RepeatFirst, RepeatPrevious and CountRecall every answer follows from what has been
shown, so that the best return is all of it: 1. HigherLower is a matter of luck; its best guesses
are known, since guesses have no influence on the cards.
"""

from __future__ import annotations

from math import lgamma

import numpy as np


class Recite:
    """Autoencode: writes down the suits and reads them backwards."""

    def __init__(self):
        self._suits: list[int] = []
        self._is_watching = True

    def act(self, obs: tuple[np.ndarray, np.ndarray]) -> int:
        """A suit, given (1 while watching, the suit shown); the last card is shown with a 0."""
        watching, suit = obs
        if self._is_watching:
            self._suits.append(int(suit))
        self._is_watching = bool(watching)
        return 0 if watching else self._suits.pop()


class Repeat:
    """RepeatFirst and RepeatPrevious: writes down the suits and reads one of them.

    Args:
        back: how many cards before the last one; None for the first of all.
    """

    def __init__(self, back: int | None):
        self._back, self._suits = back, []

    def act(self, obs: np.ndarray) -> int:
        """A suit, given the one on the table."""
        self._suits.append(int(obs))
        place = 0 if self._back is None else len(self._suits) - 1 - self._back
        return self._suits[max(place, 0)]


class Tally:
    """CountRecall: a tally of the values."""

    def __init__(self):
        self._counts = np.zeros(13, int)

    def act(self, obs: np.ndarray) -> int:
        """A count, given [value, query]."""
        value, query = obs
        self._counts[value] += 1
        return int(self._counts[query])


class CountCards:
    """HigherLower: knows what is left in the decks and says what more of it is."""

    def __init__(self, num_decks: int):
        self._left = np.full(13, 4 * num_decks)

    def act(self, obs: np.ndarray) -> int:
        """0 for higher and 1 for lower, given the rank on the table."""
        self._left[obs] -= 1
        return int(self._left[obs + 1 :].sum() < self._left[:obs].sum())


def best_guesses(per_rank: int, ranks: int = 13) -> float:
    """Expected return of HigherLower's best guesses, with ``per_rank`` cards of each rank.

    With r cards left, of which h are higher and l lower than the one on the table, the better guess
    wins |h - l| / r more often than it loses, and pays 1 / N. Those r are any r of the other N - 1
    cards, whose numbers are hypergeometric.
    """
    size = per_rank * ranks
    log_factorial = np.array([lgamma(n + 1) for n in range(size + 1)])

    def choose(n, k):
        """n over k, as a logarithm; -inf outside of 0 … n."""
        valid = (k >= 0) & (k <= n)
        k = np.where(valid, k, 0)
        return np.where(valid, log_factorial[n] - log_factorial[k] - log_factorial[n - k], -np.inf)

    total = 0.0
    for rank in range(ranks):
        lower, higher = per_rank * rank, per_rank * (ranks - 1 - rank)
        low, high = np.arange(lower + 1)[:, None], np.arange(higher + 1)
        ways = choose(lower, low) + choose(higher, high)
        for left in range(1, size):
            equal = choose(per_rank - 1, left - low - high)
            probability = np.exp(ways + equal - choose(size - 1, np.array(left)))
            total += (probability * np.abs(high - low)).sum() / left / ranks
    return total / size

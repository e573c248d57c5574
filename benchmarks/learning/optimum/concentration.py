"""Concentration: the fewest mismatches that perfect memory needs, and a player that needs no more.

A pair pays ``2 / N`` and every other turn costs ``1 / N``, so that an episode is worth 1 less
``1 / N`` for each mismatch. A state says of each kind how many cards have not been seen (u) and how
many are known and unpaired (k). Two arguments make the rest a small dynamic programme:

- Known cards never hurt: who has them may play as if he had not, and pair them in the end. So two
  known cards are paired when nothing is unseen any more, and not before: until then either may be
  the mate of a new card.
- Turns that show no new card and make no pair only cost.

Time is no matter: each mismatch of the best play shows two new cards, so that there are at most
``N / 2`` of them, and with ``N / 2`` pairs that fits into the ``N`` turns there are.
"""

from __future__ import annotations

from functools import cache

import numpy as np

Kinds = tuple[tuple[int, int], ...]
"""(u, k) of each kind, sorted."""


def fewest_mismatches(num_kinds: int, per_kind: int) -> float:
    """Expected mismatches of the best play, for ``num_kinds`` kinds of ``per_kind`` cards."""
    return _solve(num_kinds, per_kind, lambda options: min(options.values()))


def mismatches_of_player(num_kinds: int, per_kind: int) -> float:
    """The same of :class:`Player`: a new card, then its mate if known, else another new one."""

    def choose(options: dict[str, float]) -> float:
        return next(options[name] for name in ("new", "mate", "second new") if name in options)

    return _solve(num_kinds, per_kind, choose)


def _solve(num_kinds, per_kind, choose):
    """Expected mismatches when ``choose`` takes one of the options' expectations, by name."""

    def changed(kinds: Kinds, *changes: tuple[int, int, int]) -> Kinds:
        """``kinds`` after (which, change of u, change of k) each; more mates than cards are none
        the better, and of a kind without unseen cards nothing matters."""
        new = list(kinds)
        for which, unseen, known in changes:
            u, k = new[which]
            new[which] = (u + unseen, k + known)
        return tuple(sorted((u, min(k, u)) for u, k in new if u))

    def second(kinds: Kinds, first: int) -> float:
        """After a new card of the kind ``first``."""
        (u, k), unseen = kinds[first], sum(u for u, _ in kinds) - 1
        options = {}
        if k:
            options["mate"] = mismatches(changed(kinds, (first, -1, -1)))
        if unseen:
            total = (u - 1) * mismatches(changed(kinds, (first, -2, 0))) if u > 1 else 0.0
            for other, (count, _) in enumerate(kinds):
                if other != first:
                    after = changed(kinds, (first, -1, 1), (other, -1, 1))
                    total += count * (1 + mismatches(after))
            options["second new"] = total / unseen
        options["waste"] = 1 + mismatches(changed(kinds, (first, -1, 1)))
        return choose(options)

    def known_first(kinds: Kinds, first: int) -> float:
        """A known card of the kind ``first``, then a new one."""
        total = 0.0
        for other, (u, _) in enumerate(kinds):
            if other == first:
                total += u * mismatches(changed(kinds, (other, -1, -1)))
            else:
                total += u * (1 + mismatches(changed(kinds, (other, -1, 1))))
        return total / sum(u for u, _ in kinds)

    @cache
    def mismatches(kinds: Kinds) -> float:
        unseen = sum(u for u, _ in kinds)
        if not unseen:
            return 0.0
        new = sum(u * second(kinds, i) for i, (u, _) in enumerate(kinds)) / unseen
        options = {"new": new}
        for i, (_, k) in enumerate(kinds):
            if k:
                options[f"known {i}"] = known_first(kinds, i)
        return choose(options)

    return mismatches(((per_kind, 0),) * num_kinds)


class Player:
    """Turns new cards as long as there are any, and pairs each with a mate that it knows.

    Args:
        face_down: the observation of a card that cannot be seen.
    """

    def __init__(self, face_down: int):
        self._face_down = face_down
        self._known: dict[int, int] = {}  # place to face, of unpaired cards
        self._unseen: list[int] | None = None
        self._turn: list[int] = []  # the places turned in this turn

    def act(self, obs: np.ndarray) -> int:
        """The place to turn, given the observation int[N] after the turn before."""
        if self._unseen is None:
            self._unseen = np.flatnonzero(obs == self._face_down).tolist()
        for place in self._turn:
            self._known[place] = int(obs[place])
        if len(self._turn) == 2:
            first, second = self._turn
            if self._known[first] == self._known[second]:
                del self._known[first], self._known[second]
            self._turn = []
        self._turn.append(self._second(self._turn[0]) if self._turn else self._first())
        return self._turn[-1]

    def _first(self) -> int:
        if self._unseen:
            return self._unseen.pop()
        return next((place for place in self._known if self._mate(place) is not None), 0)

    def _second(self, first: int) -> int:
        mate = self._mate(first)
        return self._unseen.pop() if mate is None else mate

    def _mate(self, place: int) -> int | None:
        face = self._known[place]
        return next((p for p, f in self._known.items() if f == face and p != place), None)

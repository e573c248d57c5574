"""The training return: what the episodes that began in a stretch of training were worth.

The mean over the episodes that *ended* in a stretch favours those that end soon: two lucky short
ones may be all that end in it. Those that *began* in it are a fair sample. How many begin depends
on the lengths of the ones before, and not on what they themselves will return, so that by Wald's
identity the expected sum of their returns is the expected number of them times the policy's return,
for any distribution of lengths and from the first step on. docs/training_return.md says it at
length.

An environment has one episode under way at a time, so that at most one of those that end in an
iteration began before it. An agent hands over the sum of the others and, for each environment, that
one (`ssmrl.agents.rollout.episode_starts`); here they are put where they belong. Nothing of it is
in the agent's state, there is no limit to an episode's length, and the device never waits.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

WINDOW = 65_536
"""Environment steps that a window of the maximum (MMER) has at least, as POPGym published it."""

POINTS = 16
"""Points that the training return of a run has at least; a short run's cover fewer steps."""

SHORT_RUN_WINDOWS = 4
"""Windows of the maximum in a run that has not as many of `WINDOW` steps."""

STARTS = "starts/"
"""How the metrics begin that an agent hands over for this; see `ssmrl.training.agent.Agent`."""

RETURN = "training_return"
"""The metric; its companions have this name, an underscore, and ``episodes, from, until``."""


class Point(NamedTuple):
    """The episodes that began in steps ``(start, until]``: their number, and their mean return."""

    start: int
    until: int
    episodes: int
    value: float
    """NaN where none began."""


class Tally(NamedTuple):
    """What ended in one iteration of one seed, by when it began; everything in iterations."""

    began: list[tuple[int, int, float]]
    """How long ago, how many episodes, and the sum of their returns."""
    unfinished: int
    """How long ago the oldest of the episodes under way began; -1: none is under way."""
    longest: int
    """How long after its own iteration one as long as the longest that ended ends at the latest."""


def point_length(total_steps: int, steps_per_iteration: int) -> int:
    """Iterations that one point covers: `WINDOW` steps, fewer in a run of less than 16 of them."""
    steps = min(WINDOW, total_steps / POINTS)
    return max(1, math.ceil(steps / steps_per_iteration))


def tallies(metrics: dict[str, np.ndarray], seeds: int) -> list[Tally]:
    """One for each seed, of the metrics of an iteration whose names begin with `STARTS`.

    Args:
        metrics: names without `STARTS`; of several seeds with a leading axis.
        seeds: how many.
    """
    if seeds == 1:
        return [_tally(metrics)]
    return [_tally({name: x[seed] for name, x in metrics.items()}) for seed in range(seeds)]


def _tally(metrics: dict[str, np.ndarray]) -> Tally:
    ago, returns = metrics["ago"], metrics["earlier_return"].astype(float)
    began = [(0, int(metrics["episodes"]), float(metrics["return"]))] if metrics["episodes"] else []
    for age in np.unique(ago[ago > 0]):
        chosen = returns[ago == age]
        began.append((int(age), chosen.size, float(chosen.sum())))
    return Tally(began, int(metrics["unfinished"]), int(metrics["longest"]))


@dataclass
class _Ledger:
    """Of one seed: sums of the points that are not done with."""

    length: int  # of a point, in iterations
    iteration: int = 0  # how many have been
    next_point: int = 0
    unfinished: int = -1  # of the newest tally
    longest: int = 0
    episodes: dict[int, int] = field(default_factory=lambda: defaultdict(int))
    sums: dict[int, float] = field(default_factory=lambda: defaultdict(float))
    void: set[int] = field(default_factory=set)

    def add(self, tally: Tally) -> list[tuple[int, int, float]]:
        """Take an iteration in; returns the points now done: number, episodes, sum."""
        for ago, episodes, total in tally.began:
            point = (self.iteration - ago) // self.length
            self.episodes[point] += episodes
            self.sums[point] += total
        self.iteration += 1
        self.unfinished, self.longest = tally.unfinished, max(self.longest, tally.longest)
        # A point counts when its last episode has ended, and not before the longest known had had
        # the time to: that it got done before the training's end says nothing of its own episodes.
        settled = min(self._settled(), self.iteration - self.longest)
        done = []
        while (self.next_point + 1) * self.length <= settled:
            point, self.next_point = self.next_point, self.next_point + 1
            episodes, total = self.episodes.pop(point, 0), self.sums.pop(point, 0.0)
            if point not in self.void:
                done.append((point, episodes, total))
        return done

    def _settled(self) -> int:
        """How many iterations have none of their episodes under way any more."""
        return self.iteration - 1 - self.unfinished

    def abandon(self, iteration: int) -> None:
        """No episode under way at the end of ``iteration`` iterations will be heard of again."""
        first = self._settled() if self.iteration == iteration else 0
        self.void.update(i // self.length for i in range(first, iteration))
        self.iteration, self.unfinished = iteration, -1


class TrainingReturns:
    """Puts the episodes of a training where they began, for all of its seeds.

    Args:
        seeds: how many.
        steps_per_iteration: environment steps, per seed.
        total_steps: of the whole training, for the length of a point.
        lines: of a resumed run, what `add` and `abandon` returned as records before, each with its
            step; they say how long its points are.
        step: where it is resumed, in steps.
    """

    def __init__(
        self,
        seeds: int,
        steps_per_iteration: int,
        total_steps: int,
        lines: Sequence[dict[str, Any]] = (),
        step: int = 0,
    ):
        self.size = steps_per_iteration
        self._total, self._seeds = total_steps, seeds
        # Of a run from before these records, or whose file is gone or damaged: nothing is known
        # until here.
        self.is_whole = not step
        try:
            self._begin(lines)
            self.is_whole |= bool(lines and lines[-1]["step"] == step)
        except (LookupError, TypeError, ValueError):
            self._begin(())

    def _begin(self, lines: Sequence[dict[str, Any]]) -> None:
        length = point_length(self._total, self.size)
        self.length = int(lines[0].get("point", length)) if lines else length
        if self.length < 1:
            raise ValueError(f"a point of {self.length} iterations")
        self._ledgers = [_Ledger(self.length) for _ in range(self._seeds)]
        for line in lines:
            self._replay(line)
            # A line that is missing would put all later episodes where they did not begin.
            if any(ledger.iteration * self.size != line["step"] for ledger in self._ledgers):
                raise ValueError(f"a line is missing before step {line['step']}")

    def _replay(self, line: dict[str, Any]) -> None:
        if "abandoned" in line:
            for ledger in self._ledgers:
                ledger.abandon(line["step"] // self.size)
            return
        for ledger, (began, unfinished, longest) in zip(self._ledgers, line["seeds"], strict=True):
            sums = [(ago, n, math.nan if total is None else total) for ago, n, total in began]
            ledger.add(Tally(sums, unfinished, longest))

    def add(self, tally: Sequence[Tally]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Take an iteration in.

        Args:
            tally: of each seed.

        Returns:
            The record to keep for a resume, and the metrics of each point that is now done, of one
            seed or of several, oldest first.
        """
        done: dict[int, dict[int, Point]] = defaultdict(dict)
        for seed, (ledger, one) in enumerate(zip(self._ledgers, tally, strict=True)):
            for number, episodes, total in ledger.add(one):
                start = number * self.length * self.size
                value = total / episodes if episodes else math.nan
                until = start + self.length * self.size
                done[number][seed] = Point(start, until, episodes, value)
        seeds = [[[list(x) for x in t.began], t.unfinished, t.longest] for t in tally]
        record = {"point": self.length, "seeds": seeds}
        return record, [self._metrics(done[number]) for number in sorted(done)]

    def _metrics(self, points: dict[int, Point]) -> dict[str, Any]:
        one = next(iter(points.values()))
        values = [points[s].value if s in points else math.nan for s in range(len(self._ledgers))]
        counts = [
            float(points[s].episodes) if s in points else math.nan
            for s in range(len(self._ledgers))
        ]
        alone = len(self._ledgers) == 1
        return {
            RETURN: values[0] if alone else values,
            f"{RETURN}_episodes": counts[0] if alone else counts,
            f"{RETURN}_from": one.start,
            f"{RETURN}_until": one.until,
        }

    def abandon(self, step: int) -> dict[str, Any]:
        """The episodes under way at ``step`` are lost, and the points with them; the record."""
        for ledger in self._ledgers:
            ledger.abandon(step // self.size)
        return {"point": self.length, "abandoned": True}


# ------------------------------------------------------------------------------ reading it back


def read_points(lines: Iterable[dict[str, Any]]) -> dict[int, list[Point]]:
    """The points of each seed, from 0, oldest first, from the lines of metrics.jsonl.

    A point with a return that is not finite is none.
    """
    seeds: dict[int, list[Point]] = defaultdict(list)
    for line in lines:
        if (episodes := line.get(f"{RETURN}_episodes")) is None:
            continue
        counts = episodes if isinstance(episodes, list) else [episodes]
        value = line.get(RETURN)
        values = value if isinstance(value, list) else [value]
        start, until = line.get(f"{RETURN}_from"), line.get(f"{RETURN}_until")
        if start is None or until is None or not start < until:
            continue
        for seed, count in enumerate(counts):
            if count is None:
                continue
            mean = values[seed] if isinstance(value, list) or not seed else None
            if mean is not None or count == 0:
                value_ = math.nan if mean is None else mean
                seeds[seed].append(Point(start, until, int(count), value_))
    return {seed: sorted(seeds[seed]) for seed in sorted(seeds)}


def window_length(steps: int) -> int:
    """Steps of a window of the maximum in a run of so many: `WINDOW`, or a quarter of a short run.

    Short is a run that has fewer than four whole windows.
    """
    return WINDOW if steps >= SHORT_RUN_WINDOWS * WINDOW else -(-steps // SHORT_RUN_WINDOWS)


def window_means(points: Sequence[Point], steps: int) -> np.ndarray:
    """Mean returns of the whole windows ``[W]`` that the points of a seed make up.

    Args:
        points: of one seed.
        steps: of the run, for `window_length`.

    Returns:
        The means over the episodes that began in windows of at least `window_length` steps, one
        after the other from the start. A window counts if all of its points do and an episode began
        in it. Where none does, one mean over all episodes there are.
    """
    if not points:
        return np.zeros(0)
    length = points[0].until - points[0].start
    per_window = math.ceil(window_length(steps) / length)
    windows: dict[int, list[Point]] = defaultdict(list)
    for point in points:
        windows[point.start // length // per_window].append(point)
    whole = [ps for _, ps in sorted(windows.items()) if len(ps) == per_window]
    means = [weighted_mean(ps) for ps in whole if any(p.episodes for p in ps)]
    return np.array(means or [weighted_mean(points)])


def weighted_mean(points: Iterable[Point]) -> float:
    """The mean return over all episodes of these points; NaN where there are none."""
    counted = [point for point in points if point.episodes]
    episodes = sum(point.episodes for point in counted)
    total = math.fsum(point.episodes * point.value for point in counted)
    return total / episodes if episodes else math.nan

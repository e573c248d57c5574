"""bsuite's experiments: which settings each sweeps over, for how many episodes, and its score.

Sources: Osband et al., Behaviour Suite for Reinforcement Learning (ICLR 2020), and the sweeps and
analyses of the ``bsuite`` package.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ssmrl.envs.bsuite.discounting_chain import DiscountingChain
from ssmrl.envs.bsuite.memory_chain import EnvParams, MemoryChain
from ssmrl.envs.bsuite.umbrella_chain import UmbrellaChain
from ssmrl.envs.environment import Environment

Outcomes = Mapping[int, Sequence[float] | np.ndarray]
"""Setting's number to a number for each of its episodes, in the order in which they were played."""

SIZES = (*range(1, 11), 12, 14, 17, 20, 25, *range(30, 105, 10))
"""Lengths and widths, about evenly spaced on a logarithmic scale."""


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One of bsuite's experiments.

    Attributes:
        make: the environment, from nothing.
        settings: options of setting 0, 1, ….
        num_episodes: that a run of one setting lasts, and that the score looks at.
        outcome: what the score needs of an episode: its ``"return"``, or the sum of its
            ``info["regret"]``.
        measure: the score from the outcomes of all settings, each cut off at ``num_episodes``.
    """

    make: Callable[[], Environment]
    settings: tuple[dict[str, Any], ...]
    num_episodes: int
    outcome: str
    measure: Callable[[list[np.ndarray]], float]

    def score(self, outcomes: Outcomes) -> float:
        """bsuite's score in [0, 1] of an agent.

        Args:
            outcomes: of the settings played, see :attr:`outcome`. Settings left out do not count,
                and episodes beyond ``num_episodes`` neither.

        Raises:
            ValueError: if there is no such setting, no setting at all, or one without an episode.
        """
        unknown = sorted(set(outcomes) - set(range(len(self.settings))))
        if unknown:
            raise ValueError(
                f"settings are numbered 0 to {len(self.settings) - 1}, got outcomes of {unknown}"
            )
        runs = [np.asarray(run, np.float64)[: self.num_episodes] for run in outcomes.values()]
        if not runs or not all(run.size for run in runs):
            raise ValueError("a score needs at least one setting, and an episode of each")
        return self.measure(runs)


def share_below(threshold: float) -> Callable[[list[np.ndarray]], float]:
    """The share of settings whose mean regret is below ``threshold``."""
    return lambda runs: float(np.mean([run.mean() < threshold for run in runs]))


def discounting_score(runs: list[np.ndarray]) -> float:
    """1 at the best mean return, 1.1, and 0 at 1.0 and below.

    Runs shorter than the longest are left out, as bsuite does.
    """
    longest = max(map(len, runs))
    mean_return = np.mean([run.mean() for run in runs if len(run) == longest])
    return float(np.clip(1.0 - 10.0 * (1.1 - mean_return), 0.0, 1.0))


def _settings(**options: Sequence[int]) -> tuple[dict[str, Any], ...]:
    names, values = options.keys(), zip(*options.values(), strict=True)
    return tuple(dict(zip(names, value, strict=True)) for value in values)


# A guess is wrong every other time, a mean regret of 1. bsuite asks of memory that mistakes be less
# than .75 as frequent, of the umbrella less than .5.
EXPERIMENTS = {
    "memory_len": Experiment(
        make=lambda: MemoryChain("memory_len", EnvParams(memory_length=10, num_bits=1)),
        settings=_settings(memory_length=SIZES),
        num_episodes=10_000,
        outcome="regret",
        measure=share_below(0.75),
    ),
    "memory_size": Experiment(
        make=lambda: MemoryChain("memory_size", EnvParams(memory_length=2, num_bits=10)),
        settings=_settings(num_bits=[size for size in SIZES if size <= 40]),
        num_episodes=10_000,
        outcome="regret",
        measure=share_below(0.75),
    ),
    "discounting_chain": Experiment(
        make=DiscountingChain,
        settings=_settings(mapping_seed=range(20)),
        num_episodes=1000,
        outcome="return",
        measure=discounting_score,
    ),
    "umbrella_length": Experiment(
        make=UmbrellaChain,
        settings=_settings(chain_length=SIZES, n_distractor=[20] * len(SIZES)),
        num_episodes=10_000,
        outcome="regret",
        measure=share_below(0.5),
    ),
}

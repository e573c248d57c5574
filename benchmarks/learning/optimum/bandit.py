"""MultiarmedBandit: a bound on what any policy earns, and what two policies do earn.

The bound is Lagrange's: whoever may pull any number of arms in a step, at a price of λ each, and is
given λ in every step, can do what all policies do and more, for every λ. The arms are then
independent, each a problem of optimal stopping whose states are the pulls that paid and those that
did not. (Whittle, Restless Bandits, 1988; Brown & Smith, Index Policies and Performance Bounds for
Dynamic Selection Problems, Management Science 2020.)
"""

from __future__ import annotations

import numpy as np


def best_arm_return(arms: int) -> float:
    """Return of who knows the best arm: the largest of n uniform numbers has mean n / (n + 1)."""
    return 2 * arms / (arms + 1) - 1


def lagrangian_bound(arms: int, pulls: int) -> float:
    """A bound on the expected return, the least over λ; λ is found to 1e-6."""

    def bound(price: float) -> float:
        return pulls * price + arms * one_arm(pulls, price)

    low, high = 0.0, 1.0
    while high - low > 1e-6:  # convex in the price
        left, right = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, right) if bound(left) < bound(right) else (left, high)
    return 2 * bound((low + high) / 2) / pulls - 1


def one_arm(pulls: int, price: float) -> float:
    """Expected payouts less prices of the best stopping rule, from a prior U(0, 1)."""
    value = np.zeros(pulls + 1)
    for n in reversed(range(pulls)):
        mean = (np.arange(n + 1) + 1) / (n + 2)
        value = np.maximum(0.0, mean * (1 + value[1:]) + (1 - mean) * value[:-1] - price)
    return float(value[0])


OPTIMISM = 1.7
"""Standard deviations; what does well among 0.7, 1, 1.3, 1.6 and 2 on all three ids."""


def thompson(arms: int, pulls: int, episodes: int, seed: int = 0) -> np.ndarray:
    """Returns of Thompson sampling (1933): the best arm of a world drawn from what is believed."""

    def choose(paid, failed, time, rng):
        return rng.beta(paid + 1, failed + 1).argmax(axis=1)

    return simulate(choose, arms, pulls, episodes, seed)


def optimistic(arms: int, pulls: int, episodes: int, seed: int = 0) -> np.ndarray:
    """Returns of who pulls the arm with the largest mean and so many standard deviations more of
    its belief; fewer as the end draws near, when there is less to learn for."""

    def choose(paid, failed, time, rng):
        count = paid + failed
        mean = (paid + 1) / (count + 2)
        deviation = np.sqrt(mean * (1 - mean) / (count + 3))
        left = (pulls - time) / pulls
        return (mean + OPTIMISM * np.sqrt(left) * deviation).argmax(axis=1)

    return simulate(choose, arms, pulls, episodes, seed)


def simulate(choose, arms: int, pulls: int, episodes: int, seed: int = 0) -> np.ndarray:
    """Returns ``[episodes]`` of the family's rules, all episodes side by side.

    Args:
        choose: of pulls paid and failed ``[episodes, arms]``, time and a generator: the arms.
    """
    rng, every = np.random.default_rng(seed), np.arange(episodes)
    probability = rng.random((episodes, arms))
    paid, failed = np.zeros((2, episodes, arms))
    for time in range(pulls):
        arm = choose(paid, failed, time, rng)
        pays = rng.random(episodes) < probability[every, arm]
        paid[every, arm] += pays
        failed[every, arm] += ~pays
    return (paid.sum(axis=1) - failed.sum(axis=1)) / pulls

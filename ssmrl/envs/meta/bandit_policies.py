"""What is known about playing bandits well: optimal values, indices, and policies, in NumPy.

A policy of a bandit with counts is a function ``choose(sums, counts, time, rng)`` of what the arms
have paid so far and how often they were pulled, each float64 ``[E, arms]``, of the pulls made, and
of a generator: it gives the arms to pull, int ``[E]``, of ``E`` episodes side by side.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

Choose = Callable[[np.ndarray, np.ndarray, int, np.random.Generator], np.ndarray]

MOST_STATES = 2_000_000
"""Of the dynamic program of the Bayes optimum: about a second and 40 MB."""

MOST_PULLS = 200
"""Of which indices are computed, which takes twenty seconds then and grows with the cube."""

_PRICES = 400
"""Prices that an index is looked for among: it is known to within half a 400th."""


# ------------------------------------------------------------------------------------ playing


def play_bernoulli(
    choose: Choose, arms: int, pulls: int, episodes: int, seed: int = 0
) -> np.ndarray:
    """Payouts ``[episodes, pulls]`` of a policy, where arms pay 1 with probabilities from U(0, 1).

    What an arm has paid is how often it paid.
    """
    rng = np.random.default_rng(seed)
    probability = rng.random((episodes, arms))

    def pay(arm: np.ndarray) -> np.ndarray:
        return (rng.random(episodes) < probability[np.arange(episodes), arm]).astype(float)

    return _play(choose, pay, arms, pulls, episodes, rng)


def play_gaussian(
    choose: Choose,
    arms: int,
    pulls: int,
    mean_deviation: float,
    reward_deviation: float,
    episodes: int,
    seed: int = 0,
) -> np.ndarray:
    """Payouts ``[episodes, pulls]`` where they are normal around means that are normal around 0."""
    rng = np.random.default_rng(seed)
    mean = rng.normal(0, mean_deviation, (episodes, arms))

    def pay(arm: np.ndarray) -> np.ndarray:
        return rng.normal(mean[np.arange(episodes), arm], reward_deviation)

    return _play(choose, pay, arms, pulls, episodes, rng)


def _play(
    choose: Choose,
    pay: Callable[[np.ndarray], np.ndarray],
    arms: int,
    pulls: int,
    episodes: int,
    rng: np.random.Generator,
) -> np.ndarray:
    every = np.arange(episodes)
    sums, counts, paid = np.zeros((episodes, arms)), np.zeros((episodes, arms)), []
    for time in range(pulls):
        arm = choose(sums, counts, time, rng)
        paid.append(pay(arm))
        sums[every, arm] += paid[-1]
        counts[every, arm] += 1
    return np.stack(paid, axis=1)


# ----------------------------------------------------------------------------- Bernoulli arms


def optimum_states(arms: int, pulls: int) -> int:
    """Entries of the tables of :func:`bayes_optimal_tables`."""
    return (pulls + 1) ** (2 * arms)


def bayes_optimal_tables(arms: int, pulls: int) -> tuple[float, np.ndarray]:
    """The Bayes-optimal value of a Bernoulli bandit with arms from U(0, 1), and what it does.

    Backward induction over what has been seen. With w paid pulls and l others an arm's probability
    is Beta(1 + w, 1 + l), of mean p = (w + 1) / (w + losses + 2), and with n pulls to come

        V(s) = max over arms of  p (1 + V(s, w + 1)) + (1 - p) V(s, l + 1),   V = 0 after the last.

    Returns:
        The expected sum of payouts, and the arm to pull, int8 ``[pulls + 1] * (2 * arms)``, indexed
        by (w, l) of every arm in turn.

    Raises:
        ValueError: if there are more than :data:`MOST_STATES` states.
    """
    if (states := optimum_states(arms, pulls)) > MOST_STATES:
        raise ValueError(
            f"the optimum of {arms} arms and {pulls} pulls has {states:,} states, more than "
            f"{MOST_STATES:,}; take fewer, or Gittins indices, which are close to it"
        )
    size = pulls + 1
    done = np.indices((size,) * (2 * arms), np.int32).sum(axis=0)
    value = np.zeros((size,) * (2 * arms))
    action = np.zeros(value.shape, np.int8)
    for time in reversed(range(pulls)):
        here = done == time
        states_here = np.nonzero(here)
        q = np.empty((arms, len(states_here[0])))
        for arm in range(arms):
            won, lost = (list(states_here) for _ in range(2))
            won[2 * arm] = won[2 * arm] + 1
            lost[2 * arm + 1] = lost[2 * arm + 1] + 1
            w, losses = states_here[2 * arm], states_here[2 * arm + 1]
            p = (w + 1) / (w + losses + 2)
            q[arm] = p * (1 + value[tuple(won)]) + (1 - p) * value[tuple(lost)]
        value[here] = q.max(axis=0)
        action[here] = q.argmax(axis=0)
    return float(value.flat[0]), action


def bayes_optimal(arms: int, pulls: int) -> Choose:
    """The policy of :func:`bayes_optimal_tables`."""
    _, action = bayes_optimal_tables(arms, pulls)

    def choose(sums, counts, time, rng):
        won, lost = sums.astype(int), (counts - sums).astype(int)
        pairs = ((won[:, arm], lost[:, arm]) for arm in range(arms))
        return action[tuple(itertools.chain.from_iterable(pairs))].astype(int)

    return choose


def gittins_indices(pulls: int) -> np.ndarray:
    """Indices of a Bernoulli arm, by the pulls to come: float32 ``[pulls + 1, pulls, pulls]``.

    ``[n, w, l]`` is the price of a pull at which an arm that paid w times and l times did not is
    just worth pulling, if it may be pulled up to n times more and left at any time (Gittins 1979,
    with a finite horizon; Kaufmann, "On Bayesian index policies for sequential resource
    allocation", 2018). With all arms from one prior and a discount the policy of the largest index
    is optimal; with a finite horizon it is close to it.
    """
    paid, other = np.ogrid[0:pulls, 0:pulls]
    mean = ((paid + 1) / (paid + other + 2))[None]
    price = ((np.arange(_PRICES) + 0.5) / _PRICES)[:, None, None]
    index = np.zeros((pulls + 1, pulls, pulls), np.float32)
    # What the right to go on pulling is worth at every price, with n - 1 pulls to come.
    value = np.zeros((_PRICES, pulls + 1, pulls + 1), np.float32)
    for n in range(1, pulls + 1):
        size = pulls - n + 1
        m = mean[:, :size, :size]
        gain = m * (1 + value[:, 1:, :-1]) + (1 - m) * value[:, :-1, 1:] - price
        index[n, :size, :size] = (gain > 0).sum(axis=0) / _PRICES
        value = np.maximum(gain, 0).astype(np.float32)
    return index


def bernoulli_policies(pulls: int) -> dict[str, Choose]:
    """Policies of Bernoulli bandits with arms from U(0, 1), by name.

    Indices are among them up to :data:`MOST_PULLS`.
    """
    index = gittins_indices(pulls) if pulls <= MOST_PULLS else np.zeros((0, 0, 0))

    def gittins(sums, counts, time, rng):
        won, lost = sums.astype(int), (counts - sums).astype(int)
        return index[pulls - time, won, lost].argmax(axis=1)

    found: dict[str, Choose] = {"gittins": gittins} if pulls <= MOST_PULLS else {}
    return found | {"thompson": thompson, "ucb1": ucb1}


def thompson(
    sums: np.ndarray, counts: np.ndarray, time: int, rng: np.random.Generator
) -> np.ndarray:
    """The best arm of a task drawn from what is believed of Bernoulli arms (Thompson 1933)."""
    return rng.beta(sums + 1, counts - sums + 1).argmax(axis=1)


def ucb1(sums: np.ndarray, counts: np.ndarray, time: int, rng: np.random.Generator) -> np.ndarray:
    """The largest mean + √(2 ln t / n), every arm once before (Auer et al. 2002)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        bound = sums / counts + np.sqrt(2 * np.log(max(time, 1)) / counts)
    return np.where(counts == 0, np.inf, bound).argmax(axis=1)


# ------------------------------------------------------------------------------ Gaussian arms


def largest_normal(arms: int) -> float:
    """Mean of the largest of ``arms`` independent standard normal numbers.

    ``E max = ∫ x arms φ(x) Φ(x)^(arms - 1) dx``, by the trapezoidal rule, right to 1e-6.
    """
    x = np.linspace(-10, 10, 4001)
    density = np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
    below = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in x])
    return float(np.sum(x * arms * density * below ** (arms - 1)) * (x[1] - x[0]))


def gaussian_policies(
    pulls: int, mean_deviation: float, reward_deviation: float
) -> dict[str, Choose]:
    """Policies that know both deviations, by name.

    An arm's mean is believed N(m, v) with 1 / v = 1 / σ₀² + n / σ² and m = v · sum / σ².
    """

    def belief(sums, counts):
        variance = 1 / (1 / mean_deviation**2 + counts / reward_deviation**2)
        return variance * sums / reward_deviation**2, np.sqrt(variance)

    def thompson(sums, counts, time, rng):
        return rng.normal(*belief(sums, counts)).argmax(axis=1)

    def bayes_ucb(sums, counts, time, rng):
        """The largest quantile 1 - 1 / (t + 1) of what is believed (Kaufmann et al. 2012)."""
        mean, deviation = belief(sums, counts)
        return (mean + _normal_quantile(1 - 1 / (time + 2)) * deviation).argmax(axis=1)

    return {"thompson": thompson, "bayes_ucb": bayes_ucb}


def _normal_quantile(share: float) -> float:
    from statistics import NormalDist

    return NormalDist().inv_cdf(share)


# ------------------------------------------------------------------------------- one good arm


def _filtered(
    belief: np.ndarray, arm: np.ndarray, paid: np.ndarray, good: float, bad: float, hazard: float
) -> np.ndarray:
    """What is believed before the next pull, ``[E, arms]``: Bayes' rule, then the hazard.

    b'[k] ∝ b[k] P(paid | k is good, arm),   b''[k] = (1 - h) b'[k] + h / arms
    """
    arms = belief.shape[1]
    pays = np.where(np.arange(arms) == arm[:, None], good, bad)
    likelihood = np.where(paid[:, None] > 0, pays, 1 - pays)
    posterior = belief * likelihood
    posterior = posterior / posterior.sum(axis=1, keepdims=True)
    return (1 - hazard) * posterior + hazard / arms


def play_one_good_arm(
    arms: int,
    pulls: int,
    good: float,
    bad: float,
    hazard: float,
    believed_hazard: float,
    episodes: int,
    seed: int = 0,
) -> np.ndarray:
    """Payouts ``[episodes, pulls]`` of pulling the arm that is likeliest to be good.

    Args:
        arms, pulls, good, bad, hazard: of the bandit.
        believed_hazard: the rate that the filter reckons with.
        episodes: how many.
        seed: of the draws.
    """
    rng, every = np.random.default_rng(seed), np.arange(episodes)
    which = rng.integers(arms, size=episodes)
    belief, paid = np.full((episodes, arms), 1 / arms), []
    for _ in range(pulls):
        arm = belief.argmax(axis=1)
        pays = np.where(arm == which, good, bad)
        paid.append((rng.random(episodes) < pays).astype(float))
        belief = _filtered(belief, arm, paid[-1], good, bad, believed_hazard)
        switches = rng.random(episodes) < hazard
        which[every[switches]] = rng.integers(arms, size=int(switches.sum()))
    return np.stack(paid, axis=1)


def one_good_arm_value(
    pulls: int, good: float, bad: float, hazard: float, points: int = 2001
) -> np.ndarray:
    """The Bayes-optimal payout of each pull, ``[pulls]``, with two arms.

    The state is b, the belief that the first arm is the good one. Backward induction on a grid of
    ``points`` beliefs, linear in between, which is exact where the value function is:

        V_n(b) = max over arms of  E[paid] + E[V_{n-1}(b'')],   b'' by Bayes' rule and the hazard.

    Then the distribution over the grid is carried forward under the policy that is best.
    """
    grid = np.linspace(0, 1, points)
    belief = np.stack([grid, 1 - grid], axis=1)
    outcomes = {}
    for arm, paid in itertools.product(range(2), range(2)):
        pays = belief[:, arm] * good + (1 - belief[:, arm]) * bad
        chance = pays if paid else 1 - pays
        with np.errstate(invalid="ignore"):  # 0 / 0 where an outcome cannot be
            arms, payouts = np.full(points, arm), np.full(points, float(paid))
            after = _filtered(belief, arms, payouts, good, bad, hazard)[:, 0]
        outcomes[arm, paid] = chance, np.nan_to_num(after, nan=0.5)
    value = np.zeros(points)
    best: list[np.ndarray] = []
    for _ in range(pulls):
        q = [
            outcomes[arm, 1][0]
            + sum(chance * np.interp(after, grid, value) for chance, after in _both(outcomes, arm))
            for arm in range(2)
        ]
        value = np.maximum(*q)
        best.insert(0, q[1] > q[0] + 1e-12)
    mass = np.zeros(points)
    mass[points // 2] = 1.0  # the middle is 1/2: the number of points is odd
    earned = []
    for second in best:
        earned.append(float(mass @ np.where(second, outcomes[1, 1][0], outcomes[0, 1][0])))
        moved = np.zeros(points)
        for arm, here in ((0, mass * ~second), (1, mass * second)):
            for chance, after in _both(outcomes, arm):
                _spread(moved, after, here * chance)
        mass = moved
    return np.array(earned)


def _both(outcomes: dict, arm: int) -> list[tuple[np.ndarray, np.ndarray]]:
    return [outcomes[arm, 0], outcomes[arm, 1]]


def _spread(mass: np.ndarray, where: np.ndarray, amount: np.ndarray) -> None:
    """Adds ``amount`` to ``mass``, on an even grid over 0 … 1, keeping its mean ``where``."""
    place = where * (len(mass) - 1)
    low = np.minimum(place.astype(int), len(mass) - 2)
    share = place - low
    np.add.at(mass, low, amount * (1 - share))
    np.add.at(mass, low + 1, amount * share)

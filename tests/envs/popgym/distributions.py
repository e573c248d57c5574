"""Whether what is drawn has the distribution that it should have."""

import numpy as np


def chi2_bound(dof, deviations):
    """Mean and ``deviations`` standard deviations of χ², by Wilson & Hilferty's approximation."""
    return dof * (1 - 2 / (9 * dof) + deviations * np.sqrt(2 / (9 * dof))) ** 3


def assert_distribution(observed, expected):
    """χ² of sets of cells: a right distribution fails once in 10⁶; categories of 5 at least."""
    total = sum(observed.values())
    assert set(observed) <= set(expected)
    assert min(expected.values()) * total >= 5
    statistic = sum((observed[x] - p * total) ** 2 / (p * total) for x, p in expected.items())
    assert statistic < chi2_bound(len(expected) - 1, 4.75)

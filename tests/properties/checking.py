"""How properties are tested: on drawn examples, few in the quick and many in the slow tests."""

import functools
import warnings
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, Phase, given, settings


def for_all(*, quick: int, slow: int, **strategies) -> Callable:
    """A test of ``check(**drawn)`` with ``quick`` examples and, marked slow, with ``slow`` ones."""

    def decorate(check: Callable) -> Callable:
        @pytest.mark.parametrize("examples", [quick, pytest.param(slow, marks=pytest.mark.slow)])
        def test(examples):
            check_examples(check, examples, **strategies)

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        test.__module__ = check.__module__
        return test

    return decorate


def check_examples(check: Callable, examples: int, **strategies) -> None:
    """Call ``check(**drawn)`` with so many draws, the same ones in every run.

    So that a failure belongs to a change. What compiles takes longer than hypothesis expects of a
    test: there are no deadlines.
    """

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate, *([Phase.shrink] if examples > 100 else [])],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(**strategies)
    @functools.wraps(check)
    def run(**drawn):
        check(**drawn)

    with warnings.catch_warnings():
        # Under pytest beartype draws which entry of a list it looks at.
        warnings.filterwarnings("ignore", "Do not use the `random` module inside")
        run()

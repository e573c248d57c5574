"""What a function hands out stays what it was: its callers share it."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil

import flax.linen as nn
import pytest

import ssmrl.agents
import ssmrl.training

CHANGED = {
    "ssmrl.training.chaos.Outcome": "counted up while trainings are killed",
    "ssmrl.training.returns._Ledger": "counted up while episodes end",
}
"""And the settings of commands, which are put together from files and the command line."""


def classes(package):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if module.name != "ssmrl.training.config":
            for value in vars(importlib.import_module(module.name)).values():
                is_own = getattr(value, "__module__", None) == module.name
                is_plain = isinstance(value, type) and not issubclass(value, nn.Module)
                if is_own and is_plain and dataclasses.is_dataclass(value):
                    yield f"{module.name}.{value.__qualname__}", value


FOUND = dict(each for package in (ssmrl.agents, ssmrl.training) for each in classes(package))


def test_what_is_counted_up_is_there():
    assert FOUND.keys() >= CHANGED.keys()


@pytest.mark.parametrize("name", sorted(FOUND.keys() - CHANGED.keys()))
def test_results_and_options_are_frozen(name):
    assert FOUND[name].__dataclass_params__.frozen

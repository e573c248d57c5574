"""Options of the commands: what they are by default, and what they may be."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
from dataclasses import dataclass
from typing import Any

import pytest

from ssmrl import training
from ssmrl.training.config import (
    BenchmarkConfig,
    ChaosConfig,
    DiagnoseConfig,
    EnvConfig,
    EvaluateConfig,
    LoggerConfig,
    TensorboardConfig,
    TrainConfig,
    WandbConfig,
    check_ranges,
    option,
)

SEED = {"min": 0, "max": 2**31 - 1}
AT_LEAST_0, AT_LEAST_1, PATH = {"min": 0}, {"min": 1}, {"path": True}
ANYTHING: dict[str, Any] = {}

# Nothing derives these: whoever leaves an option out relies on its default, and whoever reads an
# error on its bounds.
OPTIONS = {
    EnvConfig: {
        "name": ("???", ANYTHING),
        "previous_action": (False, ANYTHING),
        "previous_reward": (False, ANYTHING),
        "first_flag": (False, ANYTHING),
        "observe": (None, ANYTHING),
        "observation_noise": (0.0, AT_LEAST_0),
        "flicker": (0.0, {"min": 0, "max": 1}),
        "observation_delay": (0, AT_LEAST_0),
        "action_delay": (0, AT_LEAST_0),
        "kwargs": ({}, ANYTHING),
    },
    LoggerConfig: {"name": ("none", ANYTHING)},
    WandbConfig: {
        "name": ("wandb", ANYTHING),
        "project": ("ssmrl", ANYTHING),
        "entity": (None, ANYTHING),
        "mode": (None, {"choices": ("offline", "online", "disabled")}),
        "tags": ([], ANYTHING),
    },
    TrainConfig: {
        "total_steps": (300_000, AT_LEAST_1),
        "seed": (0, SEED),
        "seeds": (1, AT_LEAST_1),
        "checkpoint_every": (100_000, AT_LEAST_0),
        "eval_every": (0, AT_LEAST_0),
        "eval_episodes": (64, AT_LEAST_1),
        "eval_max_steps": (None, AT_LEAST_1),
        "keep_checkpoints": (2, AT_LEAST_1),
        "keep_best": (False, ANYTHING),
        "resume": (False, {"choices": (False, True, "auto")}),
        "init_from": (None, PATH),
        "init_parts": ([], ANYTHING),
        "run_dir": (None, PATH),
        "devices": (1, {"min": 1, "text": "all"}),
        "sweep_metric": ("training_return", ANYTHING),
        "nonfinite": ("stop", {"choices": ("stop", "skip")}),
        "agent": ("???", ANYTHING),
        "memory": ("???", ANYTHING),
        "env": ("???", ANYTHING),
        "logger": ("???", ANYTHING),
    },
    EvaluateConfig: {
        "run": ("???", PATH),
        "step": (None, {"min": 0, "text": "best"}),
        "episodes": (256, AT_LEAST_1),
        "num_envs": (64, AT_LEAST_1),
        "max_steps": (None, AT_LEAST_1),
        "seed": (0, SEED),
        "greedy": (True, ANYTHING),
        "controls": (True, ANYTHING),
        "forget_every": ([], {"min": 1}),
        "video": (False, ANYTHING),
        "video_context": (16, AT_LEAST_1),
        "env": ("???", ANYTHING),
    },
    BenchmarkConfig: {
        "suite": ("popgym", ANYTHING),
        "ids": ([], ANYTHING),
        "memory": (["s5", "gru", "none"], ANYTHING),
        "agent": ("ppo", ANYTHING),
        "seeds": (3, AT_LEAST_1),
        "steps": (1_000_000, AT_LEAST_1),
        "experiment": ("popgym", ANYTHING),
        "overrides": ([], ANYTHING),
        "parallel": (1, AT_LEAST_1),
        "run_dir": (None, PATH),
        "out": (None, PATH),
        "published": ("popgym_gru.json", PATH),
        "report_only": (False, ANYTHING),
    },
    ChaosConfig: {
        "kills": (20, AT_LEAST_1),
        "kill_seed": (0, AT_LEAST_0),
        "chaos_dir": ("runs/chaos", PATH),
    },
    DiagnoseConfig: {
        "steps": (400, AT_LEAST_1),
        "seed": (0, SEED),
        "out": (None, PATH),
        "memory": ("???", ANYTHING),
    },
}


@pytest.mark.parametrize("config", OPTIONS, ids=lambda config: config.__name__)
def test_defaults_and_bounds_change_only_on_purpose(config):
    fields, default = dataclasses.fields(config), config()
    actual = {
        f.name: (getattr(default, f.name), {k: v for k, v in f.metadata.items() if k != "help"})
        for f in fields
    }
    assert actual == OPTIONS[config]


@dataclass
class Bounded:
    low: float = option(3.0, "inclusive", min=2)
    above: float = option(3.0, "exclusive", above=2)
    high: float = option(3.0, "inclusive", max=5)
    some: Any = option("a", "of a few", choices=("a", True))
    count: Any = option(3, "a number or a word", min=1, text="all")
    several: list[int] = option([], "of numbers", min=1)


@dataclass
class Nested:
    inner: Bounded = dataclasses.field(default_factory=Bounded)


@pytest.mark.parametrize(
    "changes",
    [{"low": 2}, {"above": 2.001}, {"high": 5}, {"some": True}, {"count": "all"}, {"count": 1}]
    + [{"several": [1, 5]}]
    + [{name: None} for name in ("low", "above", "high", "some", "count")],
)
def test_what_lies_on_a_bound_is_within(changes):
    check_ranges(Nested(Bounded(**changes)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"low": 1.999}, "inner.low=1.999: must be at least 2"),
        ({"low": float("nan")}, "inner.low=nan: must be at least 2"),
        ({"above": 2}, "inner.above=2: must be greater than 2"),
        ({"high": 5.001}, "inner.high=5.001: must be at most 5"),
        ({"high": float("nan")}, "inner.high=nan: must be at most 5"),
        ({"some": "b"}, "inner.some=b: must be one of a, true"),
        ({"count": "any"}, "inner.count=any: must be a whole number or all"),
        ({"count": 0}, "inner.count=0: must be at least 1"),
        ({"several": [5, 0]}, "inner.several=0: must be at least 1"),
    ],
)
def test_what_lies_outside_is_named(changes, message):
    with pytest.raises(ValueError) as error:
        check_ranges(Nested(Bounded(**changes)))
    assert str(error.value) == message


def test_a_default_that_can_change_is_everybodys_own():
    TrainConfig().init_parts.append("memory")
    assert TrainConfig().init_parts == []


# What is filled in bit by bit: on a command line, or by what comes of a training.
OPEN = {f"config.{config.__name__}" for config in (*OPTIONS, TensorboardConfig)}
OPEN |= {"chaos.Outcome", "returns._Ledger"}


def test_what_was_worked_out_once_is_not_changed_by_those_it_is_handed_to():
    frozen = {
        f"{module.name}.{name}".removeprefix("ssmrl.training."): kind.__dataclass_params__.frozen
        for module in pkgutil.walk_packages(training.__path__, "ssmrl.training.")
        for name, kind in vars(importlib.import_module(module.name)).items()
        if dataclasses.is_dataclass(kind) and kind.__module__ == module.name
    }
    assert {name for name, is_frozen in frozen.items() if not is_frozen} == OPEN
    assert {"benchmark.Job", "sweep.Job", "plotting.Curve", "cli.check.CommandLine"} <= set(frozen)

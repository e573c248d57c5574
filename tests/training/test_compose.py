"""What there is to choose from, and how choices and values become a configuration."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ssmrl.training.cli.compose import Composer
from ssmrl.training.config import EvaluateConfig, LoggerConfig, TrainConfig, option
from ssmrl.training.errors import UsageError
from tests.training.stub import STUB as OTHER_STUB

# Hydra keeps what is registered for the whole process: no memory of another test may be hidden.
STUB = dataclasses.replace(OTHER_STUB, list_memories=lambda: ["reel"])

TRAIN = """
defaults:
  - train_schema
  - _self_
  - agent: stub
  - memory: reel
  - env: stub/line
  - logger: none
  - experiment: null
  - override hydra/job_logging: none
total_steps: 7
"""
FILES = {
    "train.yaml": TRAIN,
    "evaluate.yaml": "defaults:\n  - evaluate_schema\n  - _self_\n  - env: run\n",
    "env/mine.yaml": "defaults:\n  - base_env\nname: stub/line\nfirst_flag: true\n",
    "experiment/deep/wide.yaml": "# @package _global_\ndefaults:\n  - override /env: stub/WIDE\n"
    "seed: 3\n",
    "experiment/none.yaml": "",
    "memory/reel.yaml": "defaults:\n  - base_reel\n  - _self_\nlayers: 5\n",
}


@pytest.fixture
def configs() -> Path:
    for name, text in FILES.items():
        path = Path("configs", name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return Path("configs")


@pytest.fixture
def train(configs) -> Composer:
    return Composer(STUB, configs, "train", TrainConfig)


def test_choices_are_files_and_what_is_registered(train, configs):
    assert train.groups == ["agent", "memory", "env", "logger", "experiment"]
    assert {group: train.choices(group) for group in train.groups} == {
        "agent": ["stub"],
        "memory": ["reel"],
        "env": ["mine", "stub/line", "stub/wide"],
        "logger": ["console", "none", "tensorboard", "wandb"],
        "experiment": ["deep/wide", "none"],
    }
    assert train.yaml_choices("agent") == []
    assert Composer(STUB, configs, "evaluate", EvaluateConfig).groups == ["env"]
    assert Composer(STUB, configs, None, Options).groups == []


def test_what_files_choose_is_read_from_their_defaults(train):
    assert train._defaults("experiment/none.yaml") == []
    assert train._defaults("experiment/deep/wide.yaml") == [("env", "stub/WIDE")]
    assert train._defaults("train.yaml") == [
        *(("agent", "stub"), ("memory", "reel"), ("env", "stub/line"), ("logger", "none")),
        *(("experiment", None), ("hydra/job_logging", "none")),
    ]


def test_files_are_what_others_build_on(train):
    built = train.build(train.compose([]))
    assert (built.total_steps, built.seed, built.memory.layers) == (7, 0, 5)
    assert (built.env.name, built.env.first_flag) == ("stub/line", False)
    assert built.logger == LoggerConfig("none")
    built = train.build(train.compose(["env=mine", "logger=console"]))
    assert (built.env.name, built.env.first_flag) == ("stub/line", True)
    assert built.logger == LoggerConfig("console")


@pytest.mark.parametrize(
    ("group", "choice", "spelt"),
    [
        ("experiment", "null", "null"),
        ("experiment", "None", "null"),
        ("experiment", "", "null"),
        ("experiment", "deep/wide", "deep/wide"),
        ("env", "mine", "mine"),
        ("env", "STUB/wide", "stub/wide"),
        ("logger", "wandb", "wandb"),
    ],
)
def test_a_choice_in_its_accepted_spelling(group, choice, spelt, train):
    assert train.choose(group, choice) == spelt


def test_choices_that_there_are_not_are_answered_with_those_that_there_are(train, configs):
    for group, choice, line in (
        ("agent", "null", "agent=null: no such agent\navailable: stub"),
        ("memory", "reels", "memory=reels: no such memory; did you mean reel?\navailable: reel"),
        ("experiment", "x", "experiment=x: no such experiment\navailable: deep/wide, none"),
        ("env", "run", "env=run: unknown environment 'run'; did you mean 'stub/line'?"),
    ):
        with pytest.raises(UsageError) as error:
            train.choose(group, choice)
        assert str(error.value) == line
    evaluate = Composer(STUB, configs, "evaluate", EvaluateConfig)
    assert evaluate.choose("env", "run") == "run"
    assert evaluate.choose("env", "stub/WIDE") == "stub/wide"
    empty = dataclasses.replace(STUB, list_agents=list)
    with pytest.raises(UsageError, match="^agent=x: no such agent\navailable: none yet$"):
        Composer(empty, configs, "train", TrainConfig).choose("agent", "x")


@dataclasses.dataclass
class Options:
    lr: float = option(0.5, "a rate", above=0)
    name: str = "a"
    memory: int = 1


def test_a_dataclass_alone_takes_values_for_its_keys(configs):
    plain = Composer(STUB, configs, None, Options)
    assert plain.build(plain.compose([])) == Options()
    # `memory` is a group to others.
    assert plain.build(plain.compose(["lr=2", "name=b", "memory=3"])) == Options(2.0, "b", 3)
    with pytest.raises(UsageError, match="^lr=0.0: must be greater than 0$"):
        plain.build(plain.compose(["lr=0"]))


def test_an_evaluation_needs_a_run(configs):
    evaluate = Composer(STUB, configs, "evaluate", EvaluateConfig)
    with pytest.raises(UsageError, match="missing mandatory value: run$"):
        evaluate.build(evaluate.compose([]))
    built = evaluate.build(evaluate.compose(["run=r"]))
    assert (built.run, built.env.name) == ("r", "run")

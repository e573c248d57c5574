"""What commands hand on, print and return, without the work that they are about."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from ssmrl.training.chaos import Outcome as Kills
from ssmrl.training.cli import benchmark_command, chaos_command, commands, diagnose_command
from ssmrl.training.cli.check import quote, unquote
from ssmrl.training.cli.compose import Composer
from ssmrl.training.cli.help import field_helps, help_text
from ssmrl.training.cli.messages import (
    composition_error,
    near_match,
    unknown_key,
)
from ssmrl.training.cli.outcome import Outcome, attempt, missing_package, run_command
from ssmrl.training.config import ChaosConfig, DiagnoseConfig, option
from ssmrl.training.errors import RunError, UsageError, first_line
from ssmrl.training.loop import TrainResult
from ssmrl.training.run import RunFolder
from ssmrl.training.run_training import _say_goodbye
from tests.training.stub import STUB
from tests.training.stub_train import CONFIGS, ROOT

# ------------------------------------------------------------------------------- how they end


def raising(error: BaseException):
    def action() -> int:
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (UsageError("no such key"), 2, "error: no such key\n"),
        (RunError("no space"), 1, "error: no space\n"),
        (
            ModuleNotFoundError("No module named 'pandas'", name="pandas.core"),
            1,
            'error: this needs pandas, which is not installed: pip install "ssmrl[train]"\n',
        ),
        (KeyboardInterrupt(), 128 + signal.SIGINT, "interrupted\n"),
    ],
)
def test_errors_have_a_line_and_a_code(error, code, said, capsys):
    assert run_command(raising(error)) == code
    assert capsys.readouterr() == ("", said)
    message = said.removeprefix("error: ").rstrip("\n")
    assert attempt(raising(error)) == Outcome(code, message)


def test_what_ends_well_ends_with_its_own_code():
    assert [run_command(lambda code=code: code) for code in (0, 1, 75)] == [0, 1, 75]


@pytest.mark.parametrize(
    ("module", "extra"),
    [
        *[(name, "train") for name in ("optax", "hydra", "yaml", "matplotlib", "rliable")],
        *[("pygame", "gymnasium"), ("mujoco", "brax"), ("mazelib", "popgym"), ("wandb", "wandb")],
        *[("tensorboardX", "tensorboard"), ("gymnax.environments.x", "gymnax")],
    ],
)
def test_a_package_is_brought_by_its_extra(module, extra):
    advice = missing_package(ModuleNotFoundError("", name=module))
    name = module.partition(".")[0]
    assert advice == f'this needs {name}, which is not installed: pip install "ssmrl[{extra}]"'


@pytest.mark.parametrize("module", [None, "", "trainer"])
def test_other_modules_are_brought_by_none(module):
    assert missing_package(ModuleNotFoundError("", name=module)) is None


# ----------------------------------------------------------------------------------- messages

TREE = OmegaConf.create(
    {
        "total_steps": 1,
        "memory": {"name": "tape", "layers": 1, "features": 2},
        "agent": {"name": "stub", "lr": 1.0, "layers": 3},
        "hydra": {"run": 1},
    }
)
GROUPS = ["agent", "memory", "logger"]


@pytest.mark.parametrize(
    ("where", "key", "hint", "listed"),
    [
        ("", "totl_steps", "; did you mean total_steps?", "top-level"),
        ("", "zzz", "", "top-level"),
        ("", "hydr", "", "top-level"),
        ("", "memry.layers", "; did you mean memory?", "top-level"),
        # A namesake is looked for in every group, the last that has it is named.
        ("", "lr", "; did you mean agent.lr?", "top-level"),
        ("", "layers", "; did you mean memory.layers?", "top-level"),
        ("memory", "memory.layerz", "; did you mean memory.layers?", "memory"),
        # In a group others are not asked.
        ("memory", "memory.lr", "; did you mean memory.layers?", "memory"),
        ("memory", "memory.zzz", "", "memory"),
    ],
)
def test_an_unknown_key_is_answered_with_what_was_meant(where, key, hint, listed):
    keys = {"top-level": "total_steps, memory, agent", "memory": "layers, features"}[listed]
    node = TREE[where] if where else TREE
    expected = f"unknown key {key}{hint}\n{listed} keys: {keys}"
    assert unknown_key(TREE, node, key, where, GROUPS) == expected


def test_near_matches_do_not_mind_capitals():
    assert near_match("GRUU", ["gru", "s5"]) == "; did you mean gru?"
    assert near_match("transformer", ["gru", "s5"]) == ""


def test_the_first_cause_is_told_in_its_first_line():
    cause = ValueError("  the cause\nand internals")
    middle = RuntimeError("in between")
    middle.__cause__ = cause
    error = KeyError("outside")
    error.__cause__ = middle
    assert composition_error(error) == "the cause"
    assert first_line(ZeroDivisionError()) == "ZeroDivisionError"


# -------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    "path", ["a", "it's", "a\\", "a\\\\'b", '"', "'", "''a", "a b,c=[d]", "${x}"[1:]]
)
def test_a_quoted_path_is_itself(path):
    assert unquote(quote(path)) == path


def test_what_is_not_whole_in_quotes_has_them_in_its_name(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert [unquote(text) for text in ("'", '"', "'a", "'a\"", "aba", "")] == [
        *("'", '"', "'a", "'a\"", "aba", "")
    ]
    assert unquote("~/runs") == "/home/me/runs"
    assert unquote("'a b'") == unquote('"a b"') == "a b"


# --------------------------------------------------------------------------------------- help


@dataclass
class Options:
    """Of a test.

    Attributes:
        name: not a key.
        lr, momentum: of the
            optimiser.
        other: see below

    Raises:
        nothing: at all.
    """

    lr: float = 0.1
    momentum: float = 0.9
    flag: bool = option(True, "a flag")
    nothing: int | None = option(None, "nothing yet")
    widths: list[int] = field(default_factory=lambda: [1, 2])


def test_help_comes_from_metadata_and_attributes():
    assert field_helps(Options) == {
        "name": "not a key.",
        "lr": "of the optimiser.",
        "momentum": "of the optimiser.",
        "other": "see below",
        "flag": "a flag",
        "nothing": "nothing yet",
    }


def test_help_shows_values_as_they_are_written():
    lines = help_text(Composer(STUB, CONFIGS, None, Options), [], "A usage").splitlines()
    assert lines == [
        "A usage",
        "",
        "Keys (key=value), with their values now:",
        "  lr=0.1                                   of the optimiser.",
        "  momentum=0.9                             of the optimiser.",
        "  flag=true                                a flag",
        "  nothing=null                             nothing yet",
        "  widths=[1, 2]",
    ]


@dataclass
class Wordy:
    option: int = option(1, " ".join(["word"] * 30))


def test_help_is_folded_into_columns():
    lines = help_text(Composer(STUB, CONFIGS, None, Wordy), [], "A usage").splitlines()[3:]
    # 110 columns hold 13 words behind 43 of the key.
    assert lines[0] == f"  {'option=1':<40} " + " ".join(["word"] * 13)
    assert lines[1] == " " * 43 + " ".join(["word"] * 13)
    assert lines[2] == " " * 43 + " ".join(["word"] * 4)


def test_choices_are_told_suite_by_suite():
    from ssmrl.training.cli.help import _wrap_choices

    names = ["a", "suite/deep/y", *(f"suite/name{i:02}" for i in range(20))]
    lines = _wrap_choices("env", names)
    assert lines[:2] == ["  env=a", "  env=suite/deep/y"]
    # 96 columns: 9 names of 8 characters with their commas and spaces behind `env=suite/`.
    assert lines[2] == "  env=suite/" + ", ".join(f"name{i:02}" for i in range(10)) + ","
    assert lines[3].startswith("      name10, ") and len(lines) == 5
    assert lines[-1] == "  env=gymnasium/<any gymnasium id>"
    assert _wrap_choices("memory", []) == ["  memory=(none yet)"]
    # Exactly full, and one character more.
    full = "x" * (96 - len("  memory=a, "))
    assert _wrap_choices("memory", ["a", full]) == [f"  memory=a, {full}"]
    assert _wrap_choices("memory", ["a", full + "x"]) == ["  memory=a,", f"      {full}x"]


# ---------------------------------------------------------------------------------- commands


@pytest.fixture
def kills(monkeypatch):
    """What `run_chaos` was asked for; it answers with `kills.outcome`."""

    class Asked:
        outcome = Kills(kills={"at a random moment": 2}, runs=1, iteration=20)

    def run_chaos(chaos, config, settings, train, components, say):
        Asked.chaos, Asked.config, Asked.settings, Asked.train = chaos, config, settings, train
        return Asked.outcome

    monkeypatch.setattr("ssmrl.training.chaos.run_chaos", run_chaos)
    return Asked


def test_chaos_tells_its_own_settings_from_those_of_the_training(kills, capsys):
    arguments = ["kills=3", "total_steps=60", "chaos_dir=c", "memory.layers=3"]
    assert chaos_command(arguments, STUB, CONFIGS, Path("train.py")) == 0
    assert kills.chaos == ChaosConfig(kills=3, chaos_dir="c")
    assert kills.settings == ["total_steps=60", "memory.layers=3"]
    assert (kills.config.total_steps, kills.config.memory.layers) == (60, 3)
    assert kills.train == Path("train.py")
    assert capsys.readouterr().out.startswith("2 kills (2 at a random moment): 1 of 1 runs")


def test_a_run_that_did_not_survive_is_told_and_has_a_code(kills, capsys):
    kills.outcome = Kills(runs=2, iteration=20, differences=["cut0: its metrics have gaps"])
    assert chaos_command([], STUB, CONFIGS, Path("train.py")) == 1
    out, err = capsys.readouterr()
    assert err == "cut0: its metrics have gaps\n" and ": 1 of 2 runs" in out


def test_chaos_has_help_and_answers_mistakes(capsys):
    assert chaos_command(["--help"], STUB, CONFIGS, Path("train.py")) == 0
    out = capsys.readouterr().out
    assert out.startswith("Kill a training and resume it: chaos.py [key=value ...]")
    assert "  kills=20" in out and "total_steps" not in out
    assert chaos_command(["kills=0"], STUB, CONFIGS, Path("train.py")) == 2
    assert chaos_command(["total_steps=0"], STUB, CONFIGS, Path("train.py")) == 2
    err = capsys.readouterr().err.splitlines()
    assert err == ["error: kills=0: must be at least 1", "error: total_steps=0: must be at least 1"]


def test_diagnose_hands_its_configuration_on(capsys):
    from ssmrl.experiment import COMPONENTS

    seen: list[DiagnoseConfig] = []

    def diagnose(*arguments: str) -> int:
        return diagnose_command(arguments, COMPONENTS, ROOT / "configs", seen.append)

    assert diagnose("steps=3", "memory=gru") == 0
    assert [(type(c), c.steps, c.memory.name) for c in seen] == [(DiagnoseConfig, 3, "gru")]
    assert diagnose("--help") == 0
    assert len(seen) == 1 and "Look at a memory: ssmrl diagnose" in capsys.readouterr().out
    assert diagnose("-m", "memory=gru") == 2
    assert capsys.readouterr().err == "error: -m: a diagnosis is of one memory\n"


# --------------------------------------------------------------------------------- what runs say


def test_a_runs_own_settings_are_taken_and_none_of_hydras():
    """Those can name classes for Hydra to make; a run's files are data."""
    config = {name: {"name": "x"} for name in ("agent", "memory", "env")}
    hydras = [
        "hydra.launcher._target_=os.system",
        "+hydra.x=1",
        "~hydra.y",
        "hydra/launcher=joblib",
    ]
    RunFolder("r").create(config, ["agent.lr=1", *hydras, "--multirun", "seed=3"])
    line = commands._expand_run(["run=r", "agent.lr=2"])
    assert line == ["agent.lr=1", "seed=3", "agent.lr=2", "run_dir='r'", "resume=true"]


@pytest.mark.parametrize(
    ("result", "says"),
    [
        (
            {},
            [
                "step 100: 40 steps/s per seed, compiled in 2.0 s",
                "finished: r",
                "next: ssmrl evaluate run=r video=true",
            ],
        ),
        (
            {"stopped_by": signal.SIGTERM, "step": 50},
            [
                "step 50: 40 steps/s per seed, compiled in 2.0 s",
                "stopped by SIGTERM; to continue: ssmrl train run=r",
            ],
        ),
        # Nothing was left to do: no speed.
        (
            {"steps_per_second": 0.0},
            ["finished: r", "next: ssmrl evaluate run=r video=true"],
        ),
    ],
)
def test_what_a_run_says_last(result, says, record, make_config):
    config = make_config(seeds=3, total_steps=100)
    usual = {"state": None, "step": 100, "compile_seconds": 2.0, "steps_per_second": 120.0}
    end = TrainResult(**{**usual, "stopped_by": None, "nonfinite": 0, **result})
    _say_goodbye(RunFolder("r"), config, end, record)
    assert record.messages == says


@pytest.mark.parametrize(
    ("command", "inside"), [(benchmark_command, "_benchmark"), (chaos_command, "_chaos")]
)
def test_a_signal_before_anything_is_under_way_has_the_code_to_requeue_on(
    command, inside, monkeypatch, capfd
):
    monkeypatch.setattr(commands, inside, lambda *_: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(SystemExit) as left:
        command([], STUB, CONFIGS, Path("train.py") if command is chaos_command else ("train",))
    assert left.value.code == 75 and "SIGTERM: nothing is under way" in capfd.readouterr().err

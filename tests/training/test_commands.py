"""What commands hand on, print and return, without the work that they are about."""

from __future__ import annotations

import io
import math
import os
import re
import signal
import sys
from dataclasses import dataclass, field, fields
from pathlib import Path
from types import SimpleNamespace

import pytest
from omegaconf import OmegaConf

from ssmrl.training.chaos import Outcome as Kills
from ssmrl.training.cli import (
    benchmark_command,
    chaos_command,
    commands,
    diagnose_command,
    evaluate_command,
    plot_command,
    train_command,
)
from ssmrl.training.cli.check import CommandLine, quote, unquote
from ssmrl.training.cli.compose import Composer
from ssmrl.training.cli.help import field_helps, help_text
from ssmrl.training.cli.messages import (
    composition_error,
    near_match,
    unknown_key,
)
from ssmrl.training.cli.outcome import Outcome, attempt, missing_package, run_command, say
from ssmrl.training.config import (
    ChaosConfig,
    DiagnoseConfig,
    EvaluateConfig,
    TrainConfig,
    option,
)
from ssmrl.training.errors import RunError, UsageError, first_line
from ssmrl.training.loop import TrainResult
from ssmrl.training.run import RunFolder
from ssmrl.training.run_training import _say_goodbye
from ssmrl.training.signals import REQUEUE
from ssmrl.training.sweep import Job, SweepFolder
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


def test_a_reader_that_has_gone_has_a_code_of_its_own(monkeypatch, capsys):
    class Gone(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Gone())
    assert attempt(raising(BrokenPipeError())) == Outcome(141, "its reader has gone")
    assert run_command(raising(BrokenPipeError())) == 141
    # What was done is done, where only the last line found nobody.
    assert run_command(lambda: 0) == 0
    say("a line")
    assert capsys.readouterr().err == ""


def test_progress_is_told_at_once(monkeypatch):
    said = []
    monkeypatch.setattr("builtins.print", lambda text, *, flush: said.append((text, flush)))
    say("a line")
    assert said == [("a line", True)]


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
    assert unquote("''") == unquote('""') == ""
    for several in ("'a'b", "'a','b'", "'a', b"):
        assert unquote(several) == several


# --------------------------------------------------------------------------------------- help


class Mixin: ...


@dataclass
class Options(Mixin):
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
    assert field_helps(None) == {}


GROUPS_OF_THE_STUB = """\
A usage
--import MODULE (or a .py file) brings environments, memories and agents of your own.

Groups (group=option):
  agent=stub
  memory=tape
  env=stub/line, wide
  env=gymnasium/<any gymnasium id>
  logger=console, none, tensorboard, wandb
  experiment=(none yet)

Keys (key=value), with their values now:
"""
AGENT_AND_MEMORY = """\
  agent.num_envs=4                         environments stepped side by side
  agent.lr=0.01                            learning rate
  agent.width=3                            inputs of the linear model
  agent.fail_at=0                          iteration whose loss is NaN; 0: none
  agent.slow=0.0                           seconds each iteration sleeps

  memory.features=8                        output features
  memory.layers=2                          layers"""


def test_help_of_a_command_with_groups():
    composer = Composer(STUB, CONFIGS, "train", TrainConfig)
    for arguments in ([], ["-h"], ["memory=tape,tape", "memory.layers=3"]):
        text = help_text(composer, arguments, "A usage")
        assert text.startswith(GROUPS_OF_THE_STUB)
        keys = text.removeprefix(GROUPS_OF_THE_STUB).split("\n\n")
        names = [
            line.partition("=")[0].strip() for line in keys[0].splitlines() if "=" in line[:42]
        ]
        assert names == [f.name for f in fields(TrainConfig) if f.name not in composer.groups]
        assert "\n\n".join(["", *keys[1:3]]).strip("\n") == AGENT_AND_MEMORY
        assert keys[3].splitlines()[0].startswith("  env.previous_action=false      ")
        assert keys[4:] == []  # the logger that is chosen has no options
    # Of a sweep the first choice.
    assert "logger.project" not in help_text(composer, ["logger=none,wandb"], "A usage")
    text = help_text(composer, ["env=stub/wide", "logger=wandb,none"], "A usage")
    assert "  logger.project=ssmrl                     wandb project" in text.splitlines()


def test_help_of_a_command_that_needs_a_run():
    text = help_text(Composer(STUB, CONFIGS, "evaluate", EvaluateConfig), [], "A usage")
    assert text.splitlines()[3:8] == [
        "Groups (group=option):",
        "  env=stub/line, wide",
        "  env=gymnasium/<any gymnasium id>",
        "",
        "Keys (key=value), with their values now:",
    ]
    # It need not be named to ask for help.
    assert "  run=???                                  the run's folder, e.g. runs/<id>" in text


def test_help_of_a_command_without_groups_has_every_key():
    @dataclass
    class Named:
        """Of one option.

        Attributes:
            name: of something
        """

        name: str = "x"

    text = help_text(Composer(STUB, CONFIGS, None, Named), [], "A usage")
    assert text.splitlines()[-1] == "  name=x                                   of something"


@dataclass
class Wordy:
    option: int = option(1, " ".join(["word"] * 30))


def test_help_is_folded_into_columns():
    lines = help_text(Composer(STUB, CONFIGS, None, Wordy), [], "A usage").splitlines()[3:]
    # 110 columns hold 13 words behind 43 of the key.
    assert lines[0] == f"  {'option=1':<40} " + " ".join(["word"] * 13)
    assert lines[1] == " " * 43 + " ".join(["word"] * 13)
    assert lines[2] == " " * 43 + " ".join(["word"] * 4)
    # Exactly full, and one character more.
    for length, count in ((110 - 43, 1), (111 - 43, 2)):

        @dataclass
        class Full:
            option: int = option(1, "a" * (length - 3) + " bb")

        lines = help_text(Composer(STUB, CONFIGS, None, Full), [], "A usage").splitlines()[3:]
        assert len(lines) == count


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


# ------------------------------------------------------------------------------ many processes


def test_processes_are_joined_before_anything_is_imported_unless_help_is_asked_for(monkeypatch):
    done: list[str] = []
    monkeypatch.setattr(commands.hosts, "place_from_environment", lambda: "a place")
    monkeypatch.setattr(commands.hosts, "join", lambda: done.append("joined"))
    monkeypatch.setattr(commands, "_train_together", lambda *_: done.append("trained") or 0)
    train = lambda *arguments: commands._train(list(arguments), STUB, CONFIGS)  # noqa: E731
    assert train("seed=1") == 0 and done == ["joined", "trained"]
    for flag in "-h", "--help":
        done.clear()
        assert train("-m", flag) == 0 and done == ["trained"]
    for flag in "-m", "--multirun":
        with pytest.raises(UsageError) as error:
            train("seed=1,2", flag)
        assert str(error.value) == (
            "-m: the jobs of a sweep are runs of one process each; start it from a single one, or "
            "set JAX_NUM_PROCESSES=1"
        )
    monkeypatch.setattr(commands.hosts, "place_from_environment", lambda: None)
    done.clear()
    assert train("-m", "seed=1,2") == 0 and done == ["joined", "trained"]


# --------------------------------------------------------------------------------------- sweeps


def sweep_of(*overrides: str, imports: tuple[str, ...] = ()) -> commands._Sweep:
    return commands._Sweep(CommandLine(list(overrides), True, ["-m"]), imports)


def test_a_sweep_is_in_the_folder_that_is_named_last_or_in_one_by_date(capsys):
    named = ["a=1,2", *(f"hydra.sweep.dir={name}" for name in ("x", "y", "'a b'"))]
    sweep = sweep_of(*named)
    assert sweep.line == CommandLine(named, True, ["-m"])
    assert Path("a b/sweep.json").exists() and not Path("x").exists() and not Path("y").exists()
    # The same ones again are another sweep, unless it is to be continued.
    first, second = (sweep_of("a=1,2").line.overrides[-1] for _ in range(2))
    paths = [text.removeprefix("hydra.sweep.dir='").removesuffix("'") for text in (first, second)]
    assert len(set(paths)) == 2 and all(Path(path).parent == Path("runs/sweeps") for path in paths)
    assert capsys.readouterr().out == ""
    for resume in ("resume=auto", "resume=true"):
        again = sweep_of("a=1,2", resume).line.overrides[-1]
        assert again in (first, second)
        path = again.removeprefix("hydra.sweep.dir='").removesuffix("'")
        assert capsys.readouterr().out == f"continuing the sweep in {path}\n"
    # A place that is named is the one that is meant, wherever else there is such a sweep.
    assert sweep_of("a=1,2", "hydra.sweep.dir=z", "resume=auto").line.overrides[-1] == "resume=auto"
    assert Path("z/sweep.json").exists() and capsys.readouterr().out == ""


def test_a_sweep_with_jobs_is_continued_only_when_it_is_asked_for():
    named = ["a=1,2", "hydra.sweep.dir=x"]
    sweep_of(*named)
    sweep_of(*named)  # without a job there is nothing to continue
    SweepFolder("x").write(Job(("a=1",)))
    with pytest.raises(UsageError, match="^x holds a sweep: continue it with resume=auto$"):
        sweep_of(*named)
    assert sweep_of(*named, "resume=true").close() == 0


@pytest.fixture
def run_job(monkeypatch, make_config):
    """Runs a job of a sweep in ``x``: what it returns, its record, and how it was trained."""
    task = SimpleNamespace(overrides=SimpleNamespace(task=["a=1", "resume=auto"]))
    monkeypatch.setattr("hydra.core.hydra_config.HydraConfig.get", lambda: task)
    value: list = [2.5]
    monkeypatch.setattr("ssmrl.training.sweep.sweep_value", lambda run, metric: value[0])
    trained: list[tuple] = []

    def run(outcome=0, *, of_metric=2.5, sweep=None, **config):
        value[0] = of_metric
        trained.clear()

        def train(config, overrides):
            trained.append((config.run_dir, config.resume, overrides))
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        sweep = sweep or sweep_of("a=1", "hydra.sweep.dir=x", "resume=auto")
        try:
            result = sweep.job(make_config(**config), train)
        except commands._SweepEnded:
            result = "ended"
        return result, SweepFolder("x").read(["a=1"]), list(trained)

    return run


def test_a_job_leaves_its_value_its_time_and_its_place(run_job):
    result, job, trained = run_job(run_dir="r")
    assert result == 2.5 and trained == [("r", False, ("a=1",))]
    assert job == Job(("a=1",), "r", 0, "", 2.5, job.seconds)
    assert 0 <= job.seconds < 60
    assert Path("x/runs.txt").read_text() == "r\n"
    # It is not done again, and says so.
    assert run_job(run_dir="other") == (2.5, job, [])


def test_a_job_without_a_value_is_compared_by_nothing(run_job, capsys):
    result, job, _ = run_job(of_metric=None, run_dir="r")
    assert math.isnan(result) and (job.code, job.value) == (0, None)
    again, _, trained = run_job(of_metric=2.5)
    assert math.isnan(again) and trained == []
    assert capsys.readouterr().out == "done already: a=1\n"


def test_a_job_that_failed_is_taken_up_in_its_place(run_job, capsys):
    Path("r").mkdir()
    result, job, trained = run_job(1, run_dir="r", resume=False)
    assert math.isnan(result) and (job.code, job.value) == (1, None)
    # What could not begin leaves no empty folder.
    assert not Path("r").exists() and trained[0][1] is False
    result, job, trained = run_job(ZeroDivisionError("a fault"), run_dir="elsewhere")
    assert math.isnan(result) and trained == [("r", "auto", ("a=1",))]
    assert (job.code, job.message) == (1, "ZeroDivisionError: a fault")
    assert "ZeroDivisionError: a fault" in capsys.readouterr().err
    Path("r/kept").mkdir(parents=True)
    assert run_job(UsageError("no"))[1].code == 2 and Path("r/kept").exists()
    assert Path("x/runs.txt").read_text() == "r\n"


def test_a_job_without_a_place_gets_one_of_the_runs(run_job):
    (run,) = [path for path, *_ in run_job(run_dir=None)[2]]
    assert re.fullmatch(r"runs/\d{8}-\d{6}-stub-tape-stub\.line", run)
    assert Path("x/runs.txt").read_text() == f"{run}\n"


@pytest.mark.parametrize(
    ("code", "ends"),
    [(1, False), (2, False), (128, False), (129, True), (130, True), (REQUEUE, True)],
)
def test_what_was_told_to_stop_ends_the_sweep(code, ends, run_job, monkeypatch):
    result, job, _ = run_job(code, run_dir="r")
    assert (result == "ended") == ends and job.code == code
    # In another process it is that of a launcher, which goes on with the others; modules of the
    # user's own are imported there.
    sweep, imported = sweep_of("a=1", "hydra.sweep.dir=x", "resume=auto", imports=("m",)), []
    monkeypatch.setattr(commands, "import_modules", imported.append)
    run_job(code, sweep=sweep)
    assert imported == []
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert math.isnan(run_job(code, sweep=sweep)[0]) and imported == [("m",)]


def test_a_sweep_says_what_failed_and_ends_with_the_worst_code(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["train.py", "-m", "a=1,2"])
    sweep = sweep_of("a=1,2", "hydra.sweep.dir=x")
    assert sweep.close() == 0  # no job has begun
    folder = SweepFolder("x")
    folder.write(Job(("a=1",), "r1", 0, value=1.0))
    folder.write(Job(("a=2",), "r2", None))
    capsys.readouterr()
    assert sweep.close() == 0
    out, err = capsys.readouterr()
    assert err == "" and out.splitlines() == [
        "best, training_return 1: python train.py a=1",
        "sweep: x/table.csv",
    ]
    folder.write(Job(("a=3", "b=1"), "r3", 3, "it burst\nreally"))
    folder.write(Job(("a=4",), "r4", 1))
    assert sweep.close() == 3
    assert capsys.readouterr().err.splitlines() == [
        "2 of 4 jobs failed:",
        "  a=3 b=1: it burst",
        "  a=4: ended with 1",
    ]
    other = sweep_of("a=1,2", "sweep_metric=loss/x=y", "hydra.sweep.dir=y")
    SweepFolder("y").write(Job(("a=1",), "r1", 0, value=1.0))
    assert other.close() == 0
    assert "best, loss/x=y 1: " in capsys.readouterr().out


def test_jobs_see_the_command_line_that_hydra_has_and_the_caller_his_own(monkeypatch):
    seen = []

    def run_training(config, *arguments, **options):
        seen.append(list(sys.argv))
        return SimpleNamespace(exit_code=0)

    monkeypatch.setattr("ssmrl.training.run_training.run_training", run_training)
    mine = ["train.py", "seed=7", "--other"]
    monkeypatch.setattr(sys, "argv", mine)
    assert train_command(["seed=1"], STUB, CONFIGS) == 0
    assert seen == [["train.py", "seed=1"]] and sys.argv is mine


# ---------------------------------------------------------------------------- which run is meant


def test_the_last_run_that_is_named_is_meant():
    named = ["run=a", "run=b", "seed=1", "run=c", "run='d e/'"]
    assert commands._run_path(named) == "d e"
    assert commands._run_path(["run=./x=y/"]) == "x=y"
    assert commands._run_path(["seed=1"]) is None
    assert commands._expand_run(["seed=1"]) == ["seed=1"]


def test_modules_that_a_run_was_trained_with_come_with_it_and_not_with_its_help(monkeypatch):
    seen = []

    def import_recorded(record, path, *, instead, say):
        seen.append((record["imports"], path, instead))

    monkeypatch.setattr(commands, "import_recorded", import_recorded)
    RunFolder("r").create(
        {name: {"name": "x"} for name in ("agent", "memory", "env")}, (), ["mine"]
    )
    assert commands._import_with([], ["run=r"]) == ()
    assert seen == [(["mine"], Path("r"), ())]
    commands._import_with([], ["run=r", "-h"])
    commands._import_with([], ["seed=1"])
    assert len(seen) == 1


# ------------------------------------------------------------------------------- other commands


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_of_every_command_ends_well(flag, capsys):
    assert train_command([flag], STUB, CONFIGS) == 0
    assert capsys.readouterr().out.startswith("Train an agent: ssmrl train [key=value ...] [-m]\n")
    assert evaluate_command([flag], STUB, CONFIGS) == 0
    out = capsys.readouterr().out
    assert out.startswith("Evaluate a run: ssmrl evaluate run=runs/<id> [key=value ...]\n")
    assert benchmark_command([flag], STUB, CONFIGS, ()) == 0
    out = capsys.readouterr().out
    assert out.startswith("Train memories on a suite: ssmrl benchmark suite=popgym memory=[s5,gru]")


def test_commands_without_sweeps_say_so(capsys):
    assert evaluate_command(["run=r", "-m"], STUB, CONFIGS) == 1  # there is no such run
    assert "r is not a run" in capsys.readouterr().err
    RunFolder("r").create({name: {"name": "x"} for name in ("agent", "memory", "env")})
    assert evaluate_command(["run=r", "-m"], STUB, CONFIGS) == 2
    assert capsys.readouterr().err == "error: -m: an evaluation is of one run\n"
    assert benchmark_command(["-m"], STUB, CONFIGS, ()) == 2
    line = "error: -m: a benchmark is a sweep already; write memory=[s5,gru]\n"
    assert capsys.readouterr().err == line


@pytest.fixture
def suite(monkeypatch):
    """``suite.run(failed)``: a benchmark of two environments of which so many fail."""
    calls = []

    def run_all(jobs, train, parallel):
        calls.append(("train", train, parallel))
        return jobs[: suite.failed]

    monkeypatch.setattr("ssmrl.training.benchmark.run_all", run_all)
    monkeypatch.setattr(
        "ssmrl.training.benchmark.report", lambda folder, *_: calls.append(("report", folder))
    )

    def run(failed=0, *arguments):
        suite.failed = failed
        calls.clear()
        asked = ["suite=stub", "memory=[tape]", "agent=stub", *arguments]
        code = benchmark_command([*asked, "published=null"], STUB, CONFIGS, ("train",))
        return code, [name for name, *_ in calls]

    suite = SimpleNamespace(run=run, calls=calls)
    return suite


def test_a_benchmark_reports_what_has_not_failed(suite, monkeypatch, capsys):
    monkeypatch.setattr(commands, "compose_training", lambda overrides, *_: None)
    assert suite.run() == (0, ["train", "report"])
    assert suite.calls == [
        ("train", ("train",), 1),
        ("report", Path("runs/benchmark/stub/results")),
    ]
    assert suite.run(1) == (1, ["train", "report"])
    assert suite.run(2) == (1, ["train"])
    assert suite.run(0, "report_only=true") == (0, ["report"])
    assert suite.run(0, "ids=[none]") == (2, [])
    line = "error: suite=stub ids=['none']: no such environment; suites are ['stub']\n"
    assert capsys.readouterr().err == line


def test_every_memory_of_a_benchmark_is_checked_once_before_the_first_run(suite, monkeypatch):
    checked = []
    monkeypatch.setattr(commands, "compose_training", lambda o, *_: checked.append(o))
    suite.run(0, "memory=[a,b]")
    assert [overrides[2] for overrides in checked] == ["memory=a", "memory=b"]


def test_published_figures_may_be_a_file_of_ones_own():
    Path("mine.json").touch()
    assert commands._published("mine.json", CONFIGS) == Path("mine.json")
    assert commands._published("none.json", CONFIGS) == Path("none.json")


# --------------------------------------------------------------------------------------- figures


def test_a_picture_goes_to_what_it_is_of():
    RunFolder("run").create({name: {"name": "x"} for name in ("agent", "memory", "env")})
    place = commands._default_picture
    run, folder = Path("run"), Path("folder")
    assert place([run], "training_return") == Path("run/curve.png")
    assert place([run], "eval/return") == Path("run/curve-eval-return.png")
    assert place([folder], "training_return") == Path("folder/comparison.png")
    assert place([folder, run], "trials") == Path("runs/comparison-trials.png")
    assert place([run, run, run], "training_return") == Path("runs/comparison.png")


def test_curves_over_trials_go_where_they_are_wanted(monkeypatch, capsys):
    monkeypatch.setattr("ssmrl.training.plotting.trial_panels", lambda runs: {"of": list(runs)})
    monkeypatch.setattr("ssmrl.training.plotting.plot_trials", lambda panels, path: path)
    for arguments, path in (([], "a/comparison-trials.png"), (["--out", "b.png"], "b.png")):
        assert plot_command(["a", "--trials", *arguments]) == 0
        assert capsys.readouterr().out == f"{path}\n"


def row(env: str, label: str, **values: float) -> dict:
    columns = {name: (value, None, None) for name, value in values.items()}
    flat = {
        f"{name}{end}": v
        for name, triple in columns.items()
        for end, v in zip(("", "_low", "_high"), triple, strict=True)
    }
    return {"env": env, "agent": "ppo", "memory": "s5", "label": label, "seeds": 1, **flat}


def cells(text: str) -> list[list[str]]:
    lines = [line for line in text.splitlines() if line[:1] in "┃│"]
    return [[cell.strip() for cell in re.split("[┃│]", line)[1:-1]] for line in lines]


def test_aggregates_are_a_table_with_what_there_is_of_them(capsys):
    both = {"mmer_iqm": 1.0, "mmer_mean": 2.0, "final_mean": 3.0}
    commands._print_aggregates([row("e", "ppo s5 lr=1", **both), row("f", "s5", **both)])
    names = ["environment", "agent", "memory", "seeds"]
    assert cells(capsys.readouterr().out) == [
        [*names, "MMER IQM", "MMER mean", "last tenth, mean"],
        ["e", "ppo", "s5 lr=1", "1", "1.000", "2.000", "3.000"],
        ["f", "ppo", "s5", "1", "1.000", "2.000", "3.000"],
    ]
    commands._print_aggregates([row("e" * 300, "s5", final_mean=3.0)])
    out = capsys.readouterr().out
    assert cells(out)[0] == [*names, "last tenth, mean"]
    # Without a terminal there are 160 columns, and nothing is cut off.
    assert {len(line) for line in out.splitlines()} == {160} and out.count("e" * 20) > 10

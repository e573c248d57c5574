"""What a command line is checked for, argument by argument, without running anything."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ssmrl.training.cli import check, compose_training
from ssmrl.training.cli.check import CommandLine, check_arguments
from ssmrl.training.cli.compose import Composer
from ssmrl.training.config import TrainConfig, option
from ssmrl.training.errors import UsageError
from tests.training.stub import STUB
from tests.training.stub_train import CONFIGS


@dataclasses.dataclass
class Inner:
    size: int = 1


@dataclasses.dataclass
class Options:
    place: str | None = option(None, "a path", path=True)
    widths: list[int] = dataclasses.field(default_factory=list)
    rates: list[float] = dataclasses.field(default_factory=list)
    inner: Inner = dataclasses.field(default_factory=Inner)
    count: Any = 1
    some: int | str = 1
    other: bool | str = False


@pytest.fixture(scope="module")
def composer() -> Composer:
    return Composer(STUB, CONFIGS, "train", TrainConfig)


@pytest.fixture(scope="module")
def plain() -> Composer:
    """Of a dataclass that is everything."""
    return Composer(STUB, CONFIGS, None, Options)


REFUSED = {
    "run_dir": "run_dir: settings are written key=value, e.g. memory=s5",
    "-x": "unknown option -x; options are -h, --help, -m, --multirun, --import MODULE; settings "
    "are written key=value",
    "total_steps={": "total_steps={: cannot be read (no viable alternative at input '{')",
    "seed=extend_list(1)": "seed=extend_list(1): cannot be read (HydraException while evaluating "
    "'extend_list(1)': Unknown function 'extend_list')",
    "~memory": "~memory: memory cannot be removed, only chosen",
    "~memory=tape": "~memory=tape: memory cannot be removed, only chosen",
    "memory=null": "memory=null: no such memory\navailable: tape",
    "memory=tape,tape": "memory=tape,tape: several choices are a sweep; add -m",
    "seed=1,2": "seed=1,2: several values are a sweep; add -m",
    "~seed": "~seed: keys cannot be added or removed, only set",
    "+new=1": "+new=1: keys cannot be added or removed, only set",
    "+memory.new=1": "+memory.new=1: keys cannot be added or removed, only set",
    "~env.kwargs.length": "~env.kwargs.length: keys cannot be added or removed, only set",
    "~env.kwargs": "~env.kwargs: keys cannot be added or removed, only set",
    "env.kwargs=3": "env.kwargs=3: Cannot assign int to Dict[str, Any]",
    "memory.layers.x=2": "unknown key memory.layers.x: memory.layers is a single value",
    "total_steps.x=1e2": "unknown key total_steps.x: total_steps is a single value",
    "memory.name=gru": "memory.name=gru: it is chosen by memory=...",
    "memory.zzz=1e2": "unknown key memory.zzz\nmemory keys: features, layers",
    "env.kwargsx=1": "unknown key env.kwargsx; did you mean env.kwargs?\nenv keys: previous_action,"
    " previous_reward, first_flag, observe, observation_noise, flicker, observation_delay,"
    " action_delay, kwargs",
    "hydra.zzz=3": "hydra.zzz=3: Key 'zzz' not in 'HydraConf'",
    "resume=1e0": "resume=1e0: Value '1.0' of type 'float' is incompatible with type hint "
    "'Union[bool, str]'",
    "total_steps=[1e2,0.5]": "total_steps=[100,0.5]: Value '[100, 0.5]' of type 'list' could not be"
    " converted to Integer",
    "-m seed=range(1,5,0)": "seed=range(1,5,0): range() arg 3 must not be zero",
    "-m seed=range(3,1)": "seed=range(3,1): a range with nothing in it",
    "-m seed=glob(*)": "seed=glob(*): ConfigLoader is not set",
    "-m total_steps=1e2,0.5": "total_steps=0.5: Value '0.5' of type 'float' could not be converted "
    "to Integer",
    "-m seed=interval(0,1)": "seed=0.0: Value '0.0' of type 'float' could not be converted to "
    "Integer",
    "-m agent.lr=interval(0.1,0)": "agent.lr=0.0: must be greater than 0.0",
    "-m agent.lr=interval(0,0.1)": "agent.lr=0.0: must be greater than 0.0",
}


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_wrong_is_said_word_for_word(line, composer):
    with pytest.raises(UsageError) as error:
        check_arguments(composer, line.split(" "))
    assert str(error.value) == REFUSED[line]


TAKEN = {
    "hydra.verbose=true": ["hydra.verbose=true"],
    "hydra/launcher=basic": ["hydra/launcher=basic"],
    "+memory=tape": ["memory=tape"],
    "devices=2e0": ["devices=2"],
    "devices=all": ["devices=all"],
    "run_dir=a,b c": ["run_dir='a,b c'"],
    "run_dir=null": ["run_dir=null"],
    "run_dir=None": ["run_dir=None"],
    "run_dir=": ["run_dir="],
    "env.kwargs.length=4": ["++env.kwargs.length=4"],
    "env.kwargs.a.b=4": ["++env.kwargs.a.b=4"],
    "+env.kwargs.length=4": ["+env.kwargs.length=4"],
    "env.kwargs={length:4}": ["++env.kwargs={length:4}"],
    "seed=1.5e1": ["seed=15"],
    "agent.lr=1e0": ["agent.lr=1e0"],
}


@pytest.mark.parametrize("argument", TAKEN)
def test_what_is_taken_and_how_it_is_handed_on(argument, composer):
    assert check_arguments(composer, [argument]) == CommandLine(TAKEN[argument], False, [])


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_a_sweep_is_handed_on_with_its_flag(flag, composer):
    line = check_arguments(composer, ["run_dir=a,b", flag, "seed=1e0,2", "init_from=a b"])
    assert line == CommandLine(["run_dir=a,b", "seed=1,2", "init_from='a b'"], True, [flag])
    line = check_arguments(composer, [flag, "agent.lr=interval(0.1,1)", "memory=tape,tape"])
    assert line.overrides == ["agent.lr=interval(0.1,1)", "memory=tape,tape"]


def test_options_of_an_environment_may_be_written_as_one():
    assert compose_training(["env.kwargs={length:4}"], STUB, CONFIGS).env.kwargs == {"length": 4}


def test_every_value_is_composed_once_with_the_first_of_all_others(composer, monkeypatch):
    jobs: list[Any] = []
    monkeypatch.setattr(check, "_check_job", lambda composer, parsed, job: jobs.append(job))
    check_arguments(composer, ["-m", "memory=tape,tape", "seed=0", "seeds=3,4,5", "devices=1,2"])
    first = ["memory=tape", "seed=0", "seeds=3", "devices=1"]
    assert jobs == [
        first,
        first,  # the second choice, which is the same
        ["memory=tape", "seed=0", "seeds=4", "devices=1"],
        ["memory=tape", "seed=0", "seeds=5", "devices=1"],
        ["memory=tape", "seed=0", "seeds=3", "devices=2"],
    ]


def test_the_first_of_several_values_that_cannot_be_composed_is_named(composer):
    for values in (["seed=x", "seeds=y"], ["seeds=2", "seed=x", "total_steps=y"]):
        with pytest.raises(UsageError, match="^seed=x: Value 'x' of type 'str' could not be"):
            check_arguments(composer, values)


def test_under_a_debugger_a_value_is_named_too(composer, monkeypatch):
    monkeypatch.setenv(
        "OC_CAUSE", "1"
    )  # what a debugger makes OmegaConf do: it keeps its own cause
    with pytest.raises(UsageError, match="^seed=x: Value 'x' of type 'str' could not be"):
        check_arguments(composer, ["seed=x"])


@pytest.mark.parametrize(
    ("argument", "written"),
    [
        ("widths=[1e2,64]", "widths=[100,64]"),
        ("widths=[1e2,0.5,null]", "widths=[100,0.5,null]"),
        ("rates=[1e2,64]", "rates=[1e2,64]"),
        ("inner.size=1e2", "inner.size=100"),
        ("count=1e2", "count=1e2"),  # of any type
        ("some=1e2", "some=100"),
        ("other=1e2", "other=1e2"),
        ("nothing=1e2", "nothing=1e2"),
        ("inner.size.x=1e2", "inner.size.x=1e2"),
    ],
)
def test_numbers_are_written_out_where_whole_ones_are_wanted(argument, written, plain):
    parsed = check._parse(argument)
    assert check._whole_numbers(plain, [parsed], [argument])[1] == [written]


def test_only_what_was_rewritten_is_read_anew(plain):
    texts = ["inner.size=1e2", "count=3", "inner.size=0.5"]
    parsed = [check._parse(text) for text in texts]
    read, written = check._whole_numbers(plain, parsed, texts)
    assert written == ["inner.size=100", "count=3", "inner.size=0.5"]
    assert read[0].value() == 100 and read[1:] == parsed[1:]


def test_numbers_stay_where_the_choices_do_not_compose(composer):
    """Which is said where the jobs are checked."""
    argument = "seed=1e2"
    parsed = [check._parse("memory=none_such"), check._parse(argument)]
    texts = ["memory=none_such", argument]
    assert check._whole_numbers(composer, parsed, texts) == (parsed, texts)
    with pytest.raises(UsageError, match="none_such"):
        check._check_job(composer, parsed, texts)


def test_a_group_of_keys_is_no_value(plain):
    with pytest.raises(UsageError) as error:
        check_arguments(plain, ["inner={size:2}"])
    assert str(error.value) == "inner={size:2}: inner is a group of keys, not a value"


def test_paths_of_a_dataclass_alone_are_quoted_too(plain):
    assert check_arguments(plain, ["place=a b"]).overrides == ["place='a b'"]
    assert check_arguments(plain, ["some=a"]).overrides == ["some=a"]


@pytest.mark.parametrize(
    ("choice", "extra"),
    [
        ("hydra/launcher=joblib", "joblib"),
        ("hydra/launcher=submitit_local", "submitit"),
        ("hydra/launcher=submitit_slurm", "submitit"),
        ("hydra/sweeper=optuna", "optuna"),
    ],
)
def test_a_plugin_that_is_not_installed_is_brought_by_its_extra(choice, extra, monkeypatch):
    answers: list[Any] = [None, ModuleNotFoundError("No module named 'hydra_plugins'"), object()]
    asked = []

    def find_spec(name):
        asked.append(name)
        answer = answers[len(asked) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    for _ in answers[:2]:
        with pytest.raises(UsageError) as error:
            check._check_plugin(check._parse(choice))
        assert str(error.value) == f'{choice}: not installed: pip install "ssmrl[{extra}]"'
    check._check_plugin(check._parse(choice))
    kind = choice.partition("=")[0].removeprefix("hydra/")
    assert asked == [f"hydra_plugins.hydra_{extra}_{kind}"] * 3
    # Others are Hydra's own.
    check._check_plugin(check._parse("hydra/launcher=basic"))
    assert len(asked) == 3

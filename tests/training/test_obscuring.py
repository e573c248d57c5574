"""Options that leave less to know, from the command line to the environments, and in evaluation."""

import dataclasses
from pathlib import Path

import pytest

from ssmrl.envs import VectorWrapper
from ssmrl.experiment import COMPONENTS
from ssmrl.training.cli import compose_training
from ssmrl.training.config import EnvConfig, check_ranges, obscuring
from ssmrl.training.errors import UsageError
from ssmrl.training.loading import make_venv
from ssmrl.training.run import config_differences
from ssmrl.training.run_evaluation import _evaluation_env

CONFIGS = Path(__file__).parent.parent.parent / "configs"
CARTPOLE = "env=popgym/position_only_cartpole_easy"


def compose(*overrides):
    return compose_training([CARTPOLE, *overrides], COMPONENTS, CONFIGS).env


def wrappers(env):
    """By name, the wrappers around the environments of a configuration."""
    venv, found = make_venv(COMPONENTS, env, 2), {}
    while isinstance(venv, VectorWrapper):
        found[type(venv).__name__] = venv
        venv = venv.venv
    return found


def test_every_option_arrives_where_it_belongs():
    assert set(wrappers(compose())) == {"EpisodeStatistics"}
    env = compose(
        *("env.observe=[1]", "env.observation_noise=0.25", "env.flicker=0.5"),
        *("env.observation_delay=2", "env.action_delay=3"),
    )
    found = wrappers(env)
    assert found["Observe"].observation_space.shape == (1,)
    assert found["ObservationNoise"]._scale == 0.25
    assert found["Flicker"]._probability == 0.5
    assert (found["ObservationDelay"]._delay, found["ActionDelay"]._delay) == (2, 3)
    assert obscuring(env) == {
        "observe": [1],
        "observation_noise": 0.25,
        "flicker": 0.5,
        "observation_delay": 2,
        "action_delay": 3,
    }


def test_mistakes_are_a_line():
    for option, expected in (
        ("env.flicker=2", "env.flicker=2.0: must be at most 1"),
        ("env.observation_noise=-1", "env.observation_noise=-1.0: must be at least 0"),
        ("env.action_delay=-1", "env.action_delay=-1: must be at least 0"),
    ):
        with pytest.raises(ValueError, match=expected):
            check_ranges(compose(option), "env.")
    for option in ("env.observe=[]", "env.observe=[9]"):
        with pytest.raises(UsageError, match=r"^env=popgym/\S+: observe=.* must be different ind"):
            make_venv(COMPONENTS, compose(option), 1)


def test_runs_from_before_there_were_these_options_go_on():
    now = {"agent": {"name": "a"}, "memory": {"name": "m", "remat": 0}, "seed": 0, "seeds": 1}
    now["env"] = dataclasses.asdict(EnvConfig(name="a/b"))
    before = now | {"memory": {"name": "m"}, "env": {"name": "a/b", "kwargs": {}}}
    before["env"] |= dict.fromkeys(("previous_action", "previous_reward", "first_flag"), False)
    assert config_differences(before, now) == []
    now["env"]["flicker"], now["memory"]["remat"] = 0.5, 64
    expected = {("env.flicker", 0.0, 0.5), ("memory.remat", 0, 64)}
    assert set(config_differences(before, now)) == expected


def test_evaluation_sees_what_training_saw_unless_told_otherwise():
    trained = EnvConfig(name="a/b", observe=[0], flicker=0.1, kwargs={"x": 1})
    same = _evaluation_env(EnvConfig(name="run"), trained)
    assert same == trained
    more = _evaluation_env(EnvConfig(name="run", flicker=0.4, kwargs={"y": 2}), trained)
    assert obscuring(more) == {"observe": [0], "flicker": 0.4}
    assert more.name == "a/b" and more.kwargs == {"x": 1, "y": 2}
    other = _evaluation_env(EnvConfig(name="c/d", action_delay=1), trained)
    assert obscuring(other) == {"observe": [0], "flicker": 0.1, "action_delay": 1}
    assert other.name == "c/d" and other.kwargs == {}

"""Every wrong option is one ValueError that names the option, what is expected, and what it got."""

import math
import re
from dataclasses import FrozenInstanceError, asdict

import numpy as np
import pytest

from ssmrl.agents import _AGENTS, UnknownAgentError, agent_config, list_agents, make_agent, register
from ssmrl.agents.dreamer import DreamerConfig, DreamerV3Config, R2IConfig
from ssmrl.agents.dreamer.dreamer import Dreamer
from ssmrl.agents.optimizer import OptimizerConfig
from ssmrl.agents.ppo import PPO as Agent
from ssmrl.agents.ppo import PPOConfig
from ssmrl.agents.pqn import PQNConfig
from ssmrl.agents.rollout import check_memory
from ssmrl.envs import EpisodeStatistics, VectorEnv, spaces
from ssmrl.memory import make_memory, memory_config
from tests.agents.scripted import Scripted, small_agent

NAN = math.nan
OPTIMIZER = [
    ("lr", -0.1, "at least 0"),
    ("lr", NAN, "at least 0"),
    ("lr_schedule", "exponential", "one of constant, linear, cosine"),
    ("ssm_lr_scale", -1.0, "at least 0"),
    ("ssm_lr_scale", NAN, "at least 0"),
    ("weight_decay", -1e-4, "at least 0"),
    ("weight_decay", NAN, "at least 0"),
    ("max_grad_norm", 0.0, "positive"),
    ("max_grad_norm", NAN, "positive"),
]
PPO = [
    ("num_envs", 0, "at least 1"),
    ("rollout_length", 0, "at least 1"),
    ("rollout_length", -8, "at least 1"),
    ("epochs", 0, "at least 1"),
    ("minibatches", 0, "at least 1"),
    ("minibatches", 7, "a divisor of the 64 windows"),
    ("minibatches", 128, "a divisor of the 64 windows"),
    ("window_length", 0, "a divisor of rollout_length = 128"),
    ("window_length", -1, "a divisor of rollout_length = 128"),
    ("window_length", 48, "a divisor of rollout_length = 128"),
    ("window_length", 256, "a divisor of rollout_length = 128"),
    ("discount", 1.01, "between 0 and 1"),
    ("discount", -0.1, "between 0 and 1"),
    ("discount", NAN, "between 0 and 1"),
    ("gae_lambda", 2.0, "between 0 and 1"),
    ("gae_lambda", NAN, "between 0 and 1"),
    ("clip", 0.0, "positive"),
    ("clip", NAN, "positive"),
    ("dual_clip", 1.0, "greater than 1"),
    ("dual_clip", NAN, "greater than 1"),
    ("value_clip", 0.0, "positive"),
    ("value_clip", NAN, "positive"),
    ("value_coefficient", -0.5, "at least 0"),
    ("value_coefficient", NAN, "at least 0"),
    ("entropy_coefficient", -0.1, "at least 0"),
    ("entropy_coefficient", NAN, "at least 0"),
    ("entropy_coefficient_final", -0.1, "at least 0"),
    ("advantage_scale", "epoch", "one of running, minibatch"),
    ("entropy_coefficient_final", NAN, "at least 0"),
    ("target_kl", NAN, "a number"),
    ("initial_log_std", NAN, "finite"),
    ("initial_log_std", math.inf, "finite"),
    ("encoder", [32, 0], "widths of at least 1"),
    ("actor", [-1], "widths of at least 1"),
    ("picture_encoder", "patch", "one of convolutions, patches"),
    ("picture_depth", 0, "at least 1"),
    ("critic", [0], "widths of at least 1"),
    ("activation", "swish", "one of"),
]


@pytest.mark.parametrize(
    ("config", "name", "value", "expected"),
    [(OptimizerConfig, *case) for case in OPTIMIZER]
    + [(PPOConfig, *case) for case in OPTIMIZER + PPO],
)
def test_bad_values(config, name, value, expected):
    message = rf"^agent\.{name} must be {re.escape(expected)}.*, got '?{re.escape(str(value))}'?$"
    with pytest.raises(ValueError, match=message):
        config(**{name: value})


@pytest.mark.parametrize(
    "options",
    [
        {"num_envs": 1, "rollout_length": 1, "minibatches": 1, "normalize_advantages": False},
        {"num_envs": 1, "rollout_length": 2, "minibatches": 1},
        {"discount": 0.0, "gae_lambda": 1.0},
        {"discount": 1.0, "gae_lambda": 0.0},
        {"window_length": 1, "minibatches": 64 * 128},
        {"window_length": 1, "minibatches": 64 * 64, "advantage_scale": "minibatch"},
        {"window_length": 128},
        {"lr": 0.0, "entropy_coefficient": 0.0, "value_coefficient": 0.0},
        {"encoder": [], "actor": [], "critic": []},
        {"value_clip": None, "target_kl": None, "entropy_coefficient_final": None},
    ],
)
def test_extreme_values_are_fine(options):
    config = PPOConfig(**options)
    assert all(getattr(config, name) == value for name, value in options.items())


@pytest.mark.parametrize(
    "options",
    [
        {"num_envs": 1, "rollout_length": 1, "minibatches": 1},
        {"num_envs": 2, "rollout_length": 1, "minibatches": 2, "advantage_scale": "minibatch"},
        {
            "num_envs": 1,
            "rollout_length": 4,
            "window_length": 1,
            "minibatches": 4,
            "advantage_scale": "minibatch",
        },
    ],
)
def test_one_transition_cannot_be_normalised(options):
    batch = options.get("advantage_scale", "rollout")  # A running scale's mean is the rollout's.
    holds = f"where a {batch} holds one transition .*, got True"
    with pytest.raises(ValueError, match=rf"^agent\.normalize_advantages must be false {holds}$"):
        PPOConfig(**options)
    PPOConfig(**options, normalize_advantages=False)


@pytest.mark.parametrize(
    "config", [OptimizerConfig, PPOConfig, PQNConfig, DreamerConfig, R2IConfig, DreamerV3Config]
)
def test_options_stay_what_they_were_checked_to_be(config):
    options = config()
    with pytest.raises(FrozenInstanceError):
        options.lr = -1.0


# Choices that nothing derives; a run that leaves an option out relies on them all the same.
DEFAULTS = {
    "lr": 2e-3,
    "lr_schedule": "linear",
    "ssm_lr_scale": 1.0,
    "weight_decay": 0.0,
    "max_grad_norm": 2.0,
    "num_envs": 64,
    "rollout_length": 128,
    "window_length": None,
    "epochs": 4,
    "minibatches": 8,
    "discount": 0.99,
    "gae_lambda": 0.8,
    "clip": 0.2,
    "dual_clip": None,
    "value_clip": None,
    "value_coefficient": 0.5,
    "entropy_coefficient": 0.01,
    "entropy_coefficient_final": None,
    "target_kl": None,
    "normalize_advantages": True,
    "advantage_scale": "running",
    "normalize_observations": False,
    "normalize_rewards": True,
    "normalize_values": False,
    "encoder": [128],
    "actor": [128],
    "critic": [128],
    "activation": "silu",
    "picture_encoder": "convolutions",
    "picture_depth": 16,
    "initial_log_std": -0.5,
}


def test_defaults_change_only_on_purpose():
    options = asdict(PPOConfig())
    assert {name: options[name] for name in DEFAULTS} == DEFAULTS


@pytest.mark.parametrize("config", [PPOConfig, PQNConfig])
def test_every_option_is_explained(config):
    documented = "".join(base.__doc__ or "" for base in config.__mro__)
    for name in config.__dataclass_fields__:
        assert name == "name" or re.search(rf"\b{name}\b", documented), name


def no_ends(**options):
    return Scripted(np.zeros((8, 4)), np.zeros((8, 4)), **options)


def test_wrong_number_of_environments():
    with pytest.raises(ValueError, match=r"environment has 4 copies, agent\.num_envs is 6"):
        small_agent(no_ends(), num_envs=6)


def test_actions_that_no_agent_can_take():
    space = spaces.Dict({"a": spaces.Box(0, 3, (2,), np.int32)})
    with pytest.raises(ValueError, match=r"cannot act in Box.*part \['a'\]\): .* must hold floats"):
        small_agent(no_ends(action_space=space))


def test_dropout_is_refused_not_ignored():
    with pytest.raises(ValueError, match=r"memory\.dropout=0\.9: .*set memory\.dropout=0$"):
        small_agent(no_ends(), "s5", memory_options={"dropout": 0.9})
    # As an object, a memory has it further inside, and no option of that name.
    check_memory(make_memory("s5", features=4, layers=2))
    with pytest.raises(ValueError, match=r"memory\.dropout=0\.9"):
        check_memory(make_memory("s5", features=4, layers=2, dropout=0.9))


def test_unknown_agent_and_near_match():
    assert "ppo" in list_agents()
    with pytest.raises(UnknownAgentError, match=r"unknown agent 'pp0'; did you mean 'ppo'\?.*ppo"):
        agent_config("pp0")
    with pytest.raises(UnknownAgentError, match=r"^unknown agent 'zzz'; available: \[.*'ppo'"):
        make_agent(PPOConfig(name="zzz"), None, None, total_steps=1)
    assert issubclass(UnknownAgentError, ValueError)
    assert agent_config("ppo") is PPOConfig


def test_a_name_is_given_to_one_agent_alone():
    where = ("ssmrl.agents.ppo", "PPOConfig", "make_ppo")
    with pytest.raises(ValueError, match="agent 'ppo' is registered already"):
        register("ppo", *where)
    try:
        register("mine", *where)
        assert "mine" in list_agents() and agent_config("mine") is PPOConfig
    finally:
        _AGENTS.pop("mine", None)


def test_updates_are_left_out_only_if_asked():
    env = EpisodeStatistics(no_ends())
    config = PPOConfig(num_envs=4, rollout_length=16, minibatches=1)
    asked = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ssmrl.agents.ppo.make_ppo", lambda *_, **options: asked.append(options))
        for options in ({}, {"skip_nonfinite": True}):
            make_agent(config, memory_config("none")(), env, total_steps=1, **options)
    assert [options["skip_nonfinite"] for options in asked] == [False, True]


def test_agents_made_by_hand_leave_no_update_out(monkeypatch):
    asked = []
    for module, name in (
        ("rollout_agent", "make_optimizer"),
        ("dreamer.dreamer", "make_dreamer_optimizer"),
    ):
        monkeypatch.setattr(f"ssmrl.agents.{module}.{name}", lambda *_, **how: asked.append(how))
    env, memory = EpisodeStatistics(no_ends()), make_memory("none", features=8)
    Agent(PPOConfig(num_envs=4, minibatches=1), memory, env, total_steps=1)
    config = DreamerConfig(size="pico", num_envs=4)
    Dreamer(config, memory, env)
    assert asked == [{"skip_nonfinite": False}] * 2


@pytest.mark.parametrize("total_steps", [1, 64, 65, 128])
def test_schedules_span_the_iterations_that_the_loop_makes(total_steps):
    """The loop goes on until total_steps is reached: it rounds iterations up."""
    env = EpisodeStatistics(no_ends())
    config = PPOConfig(num_envs=4, rollout_length=16, minibatches=1)
    agent = make_agent(config, memory_config("none")(), env, total_steps=total_steps)
    assert isinstance(env, VectorEnv)
    assert agent.steps_per_iteration == 64
    assert agent.iterations == math.ceil(total_steps / 64)

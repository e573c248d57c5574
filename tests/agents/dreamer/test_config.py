"""Options, sizes, and the agents that are configurations of Dreamer."""

import re
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from ssmrl.agents import agent_config, list_agents, make_agent
from ssmrl.agents.dreamer import SIZES, DreamerConfig, DreamerV3Config, R2IConfig, dreamer
from ssmrl.agents.dreamer.config import Size
from ssmrl.envs import EpisodeStatistics, make_vector, spaces
from ssmrl.experiment import COMPONENTS
from ssmrl.memory import memory_config
from ssmrl.training.cli import compose_training
from tests.agents.scripted import Scripted

CONFIGS = Path(__file__).parents[3] / "configs"

BAD = [
    ("size", "2m", "one of pico, nano, 1m"),
    ("posterior", "serial", "one of parallel, recurrent"),
    ("policy_inputs", "state", "one of output, hidden, full"),
    ("compute_dtype", "float16", "one of auto, float32, bfloat16"),
    ("num_envs", 0, "at least 1"),
    ("batch_length", 0, "at least 1"),
    ("rollout_length", 0, "at least 1, or null"),
    ("imagination_length", 0, "at least 1"),
    ("imagination_starts", 0, "at least 1, or null"),
    ("deter", 0, "at least 1, or null"),
    ("lr", -1.0, "at least 0"),
    ("free_bits", float("nan"), "at least 0"),
    ("return_lambda", 1.1, "between 0 and 1"),
    ("unimix", 1.0, "at least 0 and below 1"),
    ("policy_unimix", 1.0, "at least 0 and below 1"),
    ("clip", 0.0, "positive"),
    ("reward_scale", 0.0, "positive"),
    ("train_ratio", 0.0, "positive"),
    ("train_ratio", 2.0, "a whole number of updates per iteration, at least 1: a multiple of 4"),
    ("train_ratio", 30.0, "a multiple of 4"),
    ("replay_capacity", 1000, "at least 1024 for its windows"),
    ("horizon", 1, "above 1"),
    ("bins", 254, "odd and at least 3"),
    ("bounded_actions", "tanh", "one of squashed, clipped"),
    ("replay_storage", "disk", "one of device, host"),
    ("min_std", 2.0, "positive, at most max_std"),
]


@pytest.mark.parametrize(("name", "value", "expected"), BAD)
def test_bad_values(name, value, expected):
    message = rf"^agent\.{name} must be .*{re.escape(expected)}.*, got {value}$"
    with pytest.raises(ValueError, match=message):
        DreamerConfig(**{name: value})


def test_every_option_is_explained():
    for name in DreamerConfig.__dataclass_fields__:
        assert name == "name" or re.search(rf"\b{name}\b", DreamerConfig.__doc__ or ""), name


def test_updates_per_iteration():
    config = DreamerConfig(num_envs=8, rollout_length=32, batch_size=4, batch_length=16)
    assert config.steps_per_iteration == 256
    assert config.updates_per_iteration == 256 * 32 // (4 * 16)
    rare = DreamerConfig(num_envs=64, rollout_length=32, train_ratio=0.5)
    assert rare.updates_per_iteration == 1


def test_what_is_not_published_changes_only_on_purpose():
    config = DreamerConfig()
    assert config.replay_capacity == 200_000
    assert config.discount == pytest.approx(332 / 333)
    assert config.loss_weight("continue") == config.loss_weight("policy") == 1


def test_iterations_of_large_sizes_hold_one_update():
    lengths = {size: DreamerConfig(size=size).steps_per_rollout for size in SIZES}
    assert lengths == dict.fromkeys(SIZES, 2) | {"pico": 16, "nano": 16, "1m": 16}
    assert DreamerConfig(size="200m").updates_per_iteration == 1
    assert DreamerConfig(size="nano").updates_per_iteration == 8
    # 3/4, 1/16 and 2 updates a step: what is asked of a size is no less than whole updates.
    changes: list[dict] = [{"train_ratio": 48.0}, {"train_ratio": 4.0}, {"num_envs": 64}]
    configs = [DreamerConfig(**change) for change in changes]
    assert [c.steps_per_rollout for c in configs] == [4, 16, 1]
    assert [c.updates_per_iteration for c in configs] == [3, 1, 2]
    assert [c.steps_per_iteration for c in configs] == [64, 256, 64]
    configs += [DreamerConfig(size=size) for size in SIZES]
    # Whatever the size, as many updates an environment step as the ratio asks for.
    for c in configs:
        replayed = c.updates_per_iteration * c.batch_size * c.batch_length
        assert replayed == c.train_ratio * c.steps_per_iteration
    assert DreamerConfig(rollout_length=16).updates_per_iteration == 8


def test_an_iteration_collects_what_stands_for_its_rollout_length(monkeypatch):
    agent = make(DreamerConfig(num_envs=1, batch_size=2, batch_length=8, train_ratio=4.0))
    # Updates are not looked at, and take long to trace.
    monkeypatch.setattr(agent, "_update", lambda replay, changing, key: (changing, {}))
    state = jax.eval_shape(agent.init, jax.random.key(0))
    equations = jax.make_jaxpr(agent.iteration)(state).eqns
    # The updates are in a branch.
    assert [e.params["length"] for e in equations if e.primitive.name == "scan"] == [4]
    assert agent.steps_per_iteration == 4


def test_published_agents_are_configurations():
    assert {"dreamer", "dreamerv3", "r2i"} <= set(list_agents())
    assert agent_config("r2i") is R2IConfig and agent_config("dreamerv3") is DreamerV3Config
    v3, r2i = DreamerV3Config(), R2IConfig()
    assert (v3.posterior, v3.policy_inputs, v3.dynamics_weight) == ("recurrent", "output", 1.0)
    assert (r2i.posterior, r2i.policy_inputs, r2i.dynamics_weight) == ("parallel", "hidden", 0.5)
    assert (v3.replay_value_weight, r2i.replay_value_weight) == (0.3, 0.0)
    ours = DreamerConfig()
    assert (v3.bounded_actions, r2i.bounded_actions, ours.bounded_actions) == (
        *("clipped", "clipped"),
        "squashed",
    )
    for name in ("replay_context", "replay_online"):
        assert [getattr(c, name) for c in (v3, r2i, ours)] == [True, False, False]


# Hafner et al. 2023, the table of hyperparameters; the rest is in its code's configs.yaml.
PUBLISHED = {
    "num_envs": 16,
    "batch_size": 16,
    "batch_length": 64,
    "train_ratio": 32,
    "lr": 4e-5,
    "warmup": 1000,
    "clip": 0.3,
    "beta1": 0.9,
    "beta2": 0.999,
    "eps": 1e-20,
    "reconstruction_weight": 1,
    "reward_weight": 1,
    "reward_scale": 1,
    "ssm_lr_scale": 1,
    "dynamics_weight": 1,
    "representation_weight": 0.1,
    "free_bits": 1,
    "unimix": 0.01,
    "policy_unimix": 0.01,
    "bins": 255,
    "min_std": 0.1,
    "max_std": 1,
    "horizon": 333,
    "return_lambda": 0.95,
    "imagination_length": 15,
    "imagination_starts": None,
    "entropy_coefficient": 3e-4,
    "return_rate": 1 - 0.99,
    "slow_critic_rate": 1 - 0.98,
    "slow_critic_weight": 1,
    "replay_value_weight": 0.3,
    "continue_discount": True,
    "posterior": "recurrent",
    "joint_input": False,
    "policy_inputs": "output",
}


def test_the_numbers_are_the_published_ones():
    options = {name: getattr(DreamerV3Config(), name) for name in PUBLISHED}
    assert options == pytest.approx(PUBLISHED)


@pytest.mark.parametrize(
    ("size", "width"),
    [
        *[("1m", 64), ("12m", 256), ("25m", 384), ("50m", 512)],
        *[("100m", 768), ("200m", 1024), ("400m", 1536)],
    ],
)
def test_a_published_size_follows_from_one_width(size, width):
    """Hafner et al. 2023, the table of model sizes: 8 d, d, d / 16, d / 16."""
    expected = Size(8 * width, width, width // 16, width // 16, width, variables=32, layers=3)
    assert replace(SIZES[size], rollout_length=1) == replace(expected, rollout_length=1)


def test_the_small_sizes_have_one_layer_of_everything():
    """They are our own: a width for all layers, and the fewest of those."""
    for size, width, depth in (("pico", 64, 2), ("nano", 128, 4)):
        expected = Size(width, width, 8, depth, width, variables=4, layers=1)
        assert replace(SIZES[size], rollout_length=1) == replace(expected, rollout_length=1)


def test_the_nano_pair_differs_in_what_the_two_agents_publish_alone():
    def settings(experiment):
        return compose_training([f"experiment={experiment}"], COMPONENTS, CONFIGS)

    ours, theirs = settings("r2i_nano"), settings("dreamerv3_nano")
    assert (ours.memory.name, theirs.memory.name) == ("s5", "gru")
    differing = {
        name
        for name in DreamerConfig.__dataclass_fields__
        if getattr(ours.agent, name) != getattr(theirs.agent, name)
    }
    reads, weighs = {"joint_input", "policy_inputs"}, {"dynamics_weight", "replay_value_weight"}
    replays = {"replay_context", "replay_online"}
    assert differing == {"name", "posterior"} | reads | weighs | replays
    assert (ours.env, ours.total_steps) == (theirs.env, theirs.total_steps)
    assert ours.agent.size == "nano"


def make(config, memory="gru", env=None, **memory_options):
    env = env or Scripted(np.zeros((4, config.num_envs)), np.zeros((4, config.num_envs)))
    memory_cfg = memory_config(memory)(**memory_options)
    return make_agent(config, memory_cfg, EpisodeStatistics(env), total_steps=1000)


def test_the_size_sets_the_memory():
    assert make(DreamerConfig(size="1m")).memory.features == 512
    assert make(DreamerConfig(size="nano", deter=24)).memory.features == 24
    assert make(DreamerConfig(size="nano", deter=24), features=24).memory.features == 24
    message = r"memory\.features=99, but agent\.size=nano sets it to 128; .* agent\.deter=99"
    with pytest.raises(ValueError, match=message):
        make(DreamerConfig(size="nano"), features=99)


def test_the_replay_buffer_says_what_it_takes(monkeypatch):
    """Of 160,000 steps: 2 · 3 + 1 numbers of 4 bytes, the reward and three flags are 35 bytes;
    a GRU's carry of 128 numbers, z of 4 · 8 and the action are 644."""
    config = DreamerV3Config(size="nano", replay_capacity=160_000)
    [note] = make(config).training_notes(1)
    step, carry = 160_000 * 35 / 2**20, 160_000 * 644 / 2**20
    assert note == (
        f"replay buffer: 160,000 steps, {step + carry:.3g} MiB, {carry:.3g} MiB of it carries"
    )
    [note] = make(replace(config, replay_context=False)).training_notes(2)
    assert note == f"replay buffer: 320,000 steps, {2 * step:.3g} MiB"
    # 679 bytes a step: half of 50 MB for 36,818 of them.
    monkeypatch.setattr(dreamer, "device_memory", lambda: 50_000_000)
    message = (
        r"agent\.replay_capacity=160000 takes 104 MiB, 98\.3 MiB of it carries, and the device "
        r"has 47\.7 MiB; set agent\.replay_capacity=36818 or agent\.replay_context=false$"
    )
    with pytest.raises(ValueError, match=message):
        make(config).training_notes(1)
    monkeypatch.setattr(dreamer, "device_memory", lambda: 1_000_000)
    with pytest.raises(ValueError, match=r"set agent\.replay_context=false$"):
        make(config).training_notes(1)


def test_where_the_replay_buffer_begins_to_be_too_large(monkeypatch):
    """679 bytes a step, of two seeds; and what is proposed is no less than a buffer can be."""

    def notes(available, **options):
        monkeypatch.setattr(dreamer, "device_memory", lambda: available)
        config = DreamerV3Config(size="nano", replay_capacity=16_000, **options)
        return make(config).training_notes(2)

    assert notes(2 * 16_000 * 679) and notes(None)
    for half, way in ((1024, "agent.replay_capacity=1024 or "), (1023, "")):
        with pytest.raises(ValueError, match=rf"; set {way}agent\.replay_context=false$"):
            notes(2 * 2 * half * 679)
    with pytest.raises(ValueError, match="; set agent.replay_capacity=7999 or"):
        notes(2 * 16_000 * 679 - 1)


def test_a_replay_of_pictures_that_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    """A million steps of Memory Maze, 24,587 bytes each, on 16 GiB."""
    env = make_vector("memory_maze/9x9", 16)
    config = DreamerConfig(size="nano", replay_capacity=1_000_000)
    agent = make_agent(config, memory_config("s5")(), env, total_steps=1000)
    monkeypatch.setattr(dreamer, "device_memory", lambda: 64 * 2**30)
    assert agent.training_notes(1) == ["replay buffer: 1,000,000 steps, 22.9 GiB"]
    monkeypatch.setattr(dreamer, "device_memory", lambda: 16 * 2**30)
    message = (
        r"agent\.replay_capacity=1000000 takes 22\.9 GiB, and the device has 16 GiB; "
        r"set agent\.replay_capacity=349368$"
    )
    with pytest.raises(ValueError, match=message):
        agent.training_notes(1)


def test_dropout_is_refused_not_ignored():
    for config in (DreamerConfig(size="nano"), DreamerV3Config(size="nano")):
        with pytest.raises(ValueError, match=r"memory\.dropout=0\.9: .*set memory\.dropout=0$"):
            make(config, "s5", dropout=0.9)


def test_environments_that_do_not_fit():
    env = Scripted(np.zeros((4, 3)), np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"environment has 3 copies, agent\.num_envs is 16"):
        make(DreamerConfig(), env=env)
    env = Scripted(
        np.zeros((4, 16)),
        np.zeros((4, 16)),
        action_space=spaces.Dict({}),
    )
    with pytest.raises(ValueError, match="cannot act in Dict"):
        make(DreamerConfig(), env=env)

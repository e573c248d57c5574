"""The experiments in configs/experiment fit the library, and published ones their source."""

from pathlib import Path

import numpy as np
import pytest

from ssmrl.experiment import COMPONENTS
from ssmrl.training.cli import compose_training
from ssmrl.training.loading import as_dict, build_agent

CONFIGS = Path(__file__).parent.parent / "configs"
EXPERIMENTS = sorted(path.stem for path in (CONFIGS / "experiment").glob("*.yaml"))


def compose(name, *overrides):
    return compose_training([f"experiment={name}", *overrides], COMPONENTS, CONFIGS)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes(name):
    assert compose(name).total_steps > 0


@pytest.mark.parametrize("name", ["memory_maze_ppo_100m", "memory_maze_r2i_100m"])
@pytest.mark.parametrize("size", [9, 15])
def test_the_large_experiments_take_both_mazes_at_both_lengths(name, size):
    """Environment and agent are made of them, as by a training: they fit together."""
    for steps in (100_000_000, 400_000_000):
        config = compose(name, f"env=memory_maze/{size}x{size}", f"total_steps={steps}")
        assert config.total_steps == steps
    agent, env = build_agent(COMPONENTS, config)
    picture = env.unwrapped.observation_space
    assert picture.shape == (64, 64, 3) and picture.dtype == np.uint8
    assert agent.memory.features == (512 if "ppo" in name else 1024)


def test_r2i_on_memory_maze_has_the_published_sizes():
    """Samsami et al. 2024, its table of hyperparameters: what differs from POPGym's."""
    config = compose("memory_maze_r2i_100m")
    agent, memory = config.agent, config.memory
    assert (agent.batch_size, agent.batch_length, agent.train_ratio) == (4, 1024, 64)
    assert (agent.policy_inputs, agent.deter, agent.sizes.depth) == ("full", 1024, 48)
    assert (memory.layers, memory.state_size, memory.norm, memory.blocks) == (5, 512, "post", 8)
    # One update of 4,096 replayed steps for 64 of the environment.
    assert agent.updates_per_iteration == agent.steps_per_iteration / 64 == 4


def test_memory_maze_on_two_cores_is_an_easier_member_of_the_family():
    """What its comment says is easier is what differs from the environment's defaults."""
    config = compose("memory_maze_ppo")
    _, env = build_agent(COMPONENTS, config)
    params = env.unwrapped.params
    assert (params.targets, params.action_repeat, params.picture_size) == (2, 3, 32)
    assert config.agent.picture_encoder == "patches"


def test_large_batches_differ_from_the_benchmarks_settings_in_the_batches_alone():
    usual, large = (as_dict(compose(name)) for name in ("popgym", "popgym_large_batch"))
    agent = usual["agent"]
    assert large["agent"] == agent | {
        "rollout_length": 4 * agent["rollout_length"],
        "minibatches": agent["minibatches"] / 4,
    }
    assert {**large, "agent": agent} == usual

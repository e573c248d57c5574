"""The start of all agents."""

from pathlib import Path

import jax
import pytest

from ssmrl.experiment import COMPONENTS
from ssmrl.training.cli import compose_training
from ssmrl.training.loading import build_agent
from ssmrl.training.loop import seed_keys
from tests.programs import batched_decompositions

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.mark.parametrize("agent", ["ppo", "pqn", "dreamer", "r2i"])
def test_several_seeds_start_together_without_batches_of_decompositions(agent):
    """`ssmrl train seeds=2 devices=2` hung on a machine with two cores."""
    overrides = [f"agent={agent}", "memory=gru", "env=popgym/repeat_first_easy", "seeds=2"]
    built, _ = build_agent(COMPONENTS, compose_training(overrides, COMPONENTS, CONFIGS))
    assert batched_decompositions(jax.vmap(built.init), seed_keys(0, 2)) == []

"""One seed on several devices does what it does on one, and each device does its part alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# In a process of its own: how many devices a CPU is, is told to XLA once.
#
# Devices differ from one in the order of sums alone. Metrics are means, and differences of means,
# over up to 512 numbers of size 1 to 10. float32 rounds each to 6e-8 of it: sums in two orders are
# some sqrt(512) * 6e-8 = 1.4e-6 apart, and 2e-6 is the most that was seen in four iterations. An
# update is a rate of 1e-4 or less times a gradient's share of its own size, in which that rounding
# is as small: 7e-8 was seen after four. Actions are drawn from such logits; all came out the same.
# The bounds leave a factor of five and more; a learning rate off by a thousandth is beyond them.
SCRIPT = """
import json
import sys
from pathlib import Path

import jax

from tests.compiling import compile_quickly

compile_quickly()

from ssmrl.experiment import COMPONENTS
from ssmrl.training import loop
from ssmrl.training.cli import compose_training
from ssmrl.training.progress import SilentReporter
from ssmrl.training.run import read_metrics
from ssmrl.training.run_training import run_training
from tests.comparing import assert_runs_agree

settings, configs, iteration = json.loads(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
flops, places = [], []
compile_ = loop._Loop._compile


def noted(self, state):
    compiled, state, seconds = compile_(self, state)
    flops.append(compiled.cost_analysis()["flops"])
    places.append({len(x.sharding.device_set) for x in jax.tree.leaves(state.acting.observation)})
    return compiled, state, seconds


loop._Loop._compile = noted


def train(*arguments):
    config = compose_training([*settings, *arguments], COMPONENTS, configs)
    run_training(config, COMPONENTS, reporter=SilentReporter())


train("run_dir=one", f"total_steps={3 * iteration}")
train("run_dir=parts", f"total_steps={2 * iteration}", "devices=all")
train("run_dir=parts", f"total_steps={3 * iteration}", "devices=2", "resume=true")
assert places == [{1}, {4}, {2}], places
# What is not split is not a quarter of it.
assert flops[1] < 0.4 * flops[0], flops
assert flops[2] < 0.65 * flops[0], flops
assert len(read_metrics(Path("parts", "metrics.jsonl"))) == 3
assert_runs_agree("one", "parts", metrics=1e-5, params=1e-6)
"""
SETTINGS = {
    # Contexts, the online queue and the carries that updates refresh are all in this one.
    "dreamerv3": (
        *("agent.size=pico", "agent.num_envs=16", "agent.rollout_length=8", "agent.batch_size=16"),
        *("agent.batch_length=8", "agent.train_ratio=1", "agent.imagination_length=2"),
        *("agent.replay_capacity=384", "agent.bins=15", "memory=gru", "agent.warmup=100"),
    ),
    "ppo": (
        *("agent.num_envs=64", "agent.rollout_length=8", "agent.minibatches=2", "agent.epochs=2"),
        # The first half of the second run is told of fewer steps, and so would its schedule be.
        *("memory=gru", "memory.features=32", "agent.lr=1e-4", "agent.lr_schedule=constant"),
    ),
}


ITERATION = {"dreamerv3": 16 * 8, "ppo": 64 * 8}


@pytest.mark.parametrize("agent", [pytest.param("dreamerv3", marks=pytest.mark.slow), "ppo"])
def test_several_devices_do_what_one_does_and_a_checkpoint_goes_on_with_fewer(agent, tmp_path):
    settings = [f"agent={agent}", "env=popgym/repeat_first_easy", *SETTINGS[agent]]
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            SCRIPT,
            json.dumps(settings),
            str(ROOT / "configs"),
            str(ITERATION[agent]),
        ],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = subprocess.run(
        [sys.executable, str(ROOT / "scripts/train.py"), *settings, "devices=3"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    ).stderr
    which = "batch_size = 16" if agent == "dreamerv3" else "num_envs = 64"
    assert line == f"error: devices=3: agent.{which} must be divisible by 3 devices\n"

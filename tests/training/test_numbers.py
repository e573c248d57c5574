"""Numbers that go wrong, with real agents: told with step, environment and metric, or survived."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import ssmrl
from ssmrl.envs import Environment
from ssmrl.envs.spaces import Box, Discrete
from ssmrl.training.errors import NonFiniteError
from ssmrl.training.loading import load_run
from tests.api.small import DREAMER, PPO, PQN

pytestmark = pytest.mark.slow  # a training of each agent for every number: minutes
OPTIONS = {"ppo": PPO, "pqn": PQN, "dreamer": DREAMER}
NAME = "own.Faulty"


@struct.dataclass
class State:
    time: jax.Array


class Faulty(Environment):
    """Right at first, as the check before training plays it, and wrong at one step of an episode.

    Args:
        fault: of the reward or the observation at step `at`, a number that is none.
        length: of an episode, in steps; 0: it never ends.
    """

    at = 12

    def __init__(self, reward: float = 0.0, observation: float = 0.0, length: int = 16):
        self.reward, self.observation, self.length = reward, observation, length

    def reset_env(self, key, params):
        return jnp.zeros(2), State(jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        time = state.time + 1
        wrong = time == self.at
        obs = jnp.where(wrong, self.observation, jnp.sin(time * jnp.ones(2)))
        reward = jnp.where(wrong, self.reward, 0.1 * action)
        ended = time == self.length
        return obs, State(time), reward, ended, jnp.zeros((), bool), {}

    def observation_space(self, params):
        return Box(-np.inf, np.inf, (2,))

    def action_space(self, params):
        return Discrete(2)


def train(agent, env, **settings):
    return ssmrl.train(
        agent=agent,
        memory="none",
        env=env,
        agent_options=OPTIONS[agent] | settings.pop("options", {}),
        memory_options={} if agent == "dreamer" else {"features": 4},  # a Dreamer's size says it
        run_dir="runs/it",
        progress=settings.pop("progress", False),
        checkpoint_every=24,
        **{"total_steps": 96, **settings},
    )


def every(quick, *slow):
    """Cases, those behind the first in the slow tests only."""
    return [quick, *(pytest.param(*c, marks=pytest.mark.slow) for c in slow)]


WRONG = every(
    ("ppo", {"reward": np.nan}, "env/reward is nan"),
    ("ppo", {"reward": np.inf}, "env/reward is inf"),
    ("ppo", {"observation": np.nan}, "env/observation is nan"),
    ("ppo", {"observation": -np.inf}, "env/observation is inf"),
    ("pqn", {"reward": np.nan}, "env/reward is nan"),
    ("pqn", {"observation": np.inf}, "env/observation is inf"),
    ("dreamer", {"reward": -np.inf}, "env/reward is -inf"),
    ("dreamer", {"observation": np.nan}, "env/observation is nan"),
)


@pytest.mark.parametrize(("agent", "fault", "said"), WRONG)
def test_what_an_environment_gives_wrong_stops_with_its_name(agent, fault, said):
    """Step 12 of the episodes is in the second iteration, of 24 steps."""
    with pytest.raises(NonFiniteError) as error:
        train(agent, Faulty(**fault))
    line = str(error.value)
    assert line.startswith(f"step 48: {said} ({NAME} gave it); the last good checkpoint is of step")
    assert "\n" not in line
    assert ssmrl.load("runs/it", env=Faulty(**fault)).policy()(np.zeros(2), reset=True) in (0, 1)


@pytest.mark.parametrize(("agent", "fault", "said"), WRONG)
def test_what_an_environment_gives_wrong_is_skipped_if_asked(agent, fault, said, capsys):
    run = train(agent, Faulty(**fault), nonfinite="skip", progress=True)
    out = capsys.readouterr().out
    metric = said.partition(" ")[0]
    assert f"step 48: {metric} is not finite ({NAME} gave it); update skipped" in out
    assert "iterations had a non-finite metric and were skipped" in out
    policy = run.policy()
    assert all(policy(np.float32([t, -t])) in (0, 1) for t in range(3))
    state = load_run(run.path, run._components).state
    assert all(
        np.isfinite(leaf).all()
        for part in ("params", "optimizer")
        for leaf in jax.tree.leaves(getattr(state, part, ()))
    )


@pytest.mark.parametrize("agent", ["ppo", *every("x", ("pqn",), ("dreamer",))[1:]])
def test_a_loss_that_explodes_stops_with_its_name(agent):
    clip = "clip" if agent == "dreamer" else "max_grad_norm"
    with pytest.raises(NonFiniteError) as error:
        train(agent, Faulty(), options={"lr": 1e30, clip: 1e30}, total_steps=240)
    line = str(error.value)
    assert "gave it" not in line and "\n" not in line
    assert line.startswith("step ") and " is " in line


@pytest.mark.parametrize("agent", ["ppo", *every("x", ("pqn",), ("dreamer",))[1:]])
def test_an_environment_that_never_ends_is_told_of(agent, capsys):
    run = train(agent, Faulty(length=0), eval_every=96, eval_episodes=3, eval_max_steps=9,
                progress=True)  # fmt: skip
    out = capsys.readouterr().out
    assert "no episode has ended in 32 steps of each environment" in out
    assert "3 of 3 evaluation episodes had not ended after 9 steps (eval_max_steps)" in out
    assert "nan" not in out.lower()
    assert run.metrics["eval/unfinished"][-1] == 3


@pytest.mark.parametrize("agent", ["ppo", *every("x", ("pqn",), ("dreamer",))[1:]])
def test_episodes_of_one_step_are_learned_from(agent, capsys):
    run = train(agent, Faulty(length=1), progress=True)
    lengths = run.metrics["episode_length"]
    assert (lengths[np.isfinite(lengths)] == 1).all() and np.isfinite(lengths).any()
    assert "nan" not in capsys.readouterr().out.lower()
    assert run.evaluate(episodes=4)["length"] == 1

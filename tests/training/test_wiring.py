"""Who plays, with which draws: evaluations tell seeds, keys, steps and environments apart."""

from __future__ import annotations

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.training.config import EnvConfig, EvaluateConfig
from ssmrl.training.evaluation import Evaluator
from ssmrl.training.run import read_metrics
from ssmrl.training.run_evaluation import evaluate_run, print_evaluation
from ssmrl.training.run_training import run_training
from tests.training.stub import STUB, StubAgent, StubVectorEnv


class OneStep:
    """Episodes of one step whose return is the action plus what the reset drew."""

    is_host = False
    num_envs = 4

    def reset(self, key):
        start = 10.0 * jnp.floor(100 * jax.random.uniform(key, (self.num_envs,)))
        return start, start

    def step(self, state, action):
        done = jnp.ones(self.num_envs, bool)
        length = jnp.ones(self.num_envs, jnp.int32)
        episode = {"done": done, "return": state + action, "length": length}
        return state, state, action, done, ~done, {"episode": episode}


class Drawing(StubAgent):
    """Acts with a draw from the key that came; greedily with the number in its state."""

    def __init__(self):
        self.steps_per_iteration = 1

    def initialize_carry(self, batch_size):
        return jnp.zeros(batch_size)

    def act(self, state, carry, observation, reset, key, *, greedy):
        drawn = jax.random.uniform(key, observation.shape)
        return carry, jnp.broadcast_to(state, drawn.shape) if greedy else drawn


def test_every_step_and_environment_draws_its_own():
    evaluator = Evaluator(Drawing(), OneStep(), episodes=12, greedy=False)
    once, again, other = (
        evaluator(jnp.float32(0.5), jax.random.key(seed)).returns for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(once, again)
    actions = np.concatenate([once, other]) % 10
    assert len(np.unique(actions)) == 24
    # One start for each environment, another one with another key.
    starts = [set((x - x % 10)[i::4]) for x in (once, other) for i in range(4)]
    assert all(len(x) == 1 for x in starts) and len(set.union(*starts)) > 4


def test_greedy_play_is_the_state_s_own():
    evaluator = Evaluator(Drawing(), OneStep(), episodes=12)
    for state in (0.25, 0.75):
        np.testing.assert_array_equal(
            evaluator(jnp.float32(state), jax.random.key(1)).returns % 10, state
        )


# --------------------------------------------------------------------------------------- seeds


class Telling(StubAgent):
    """Every action is a number of its state: a return tells whose policy played."""

    def act(self, state, carry, observation, reset, key, *, greedy):
        return carry, jnp.broadcast_to(state["w"][0, 0], carry.shape)


class Saying(StubVectorEnv):
    """Says what was done last, and never what it could say besides."""

    def step(self, state, action):
        *rest, info = super().step(state, action)
        own = {"info/action": action, "info/never": jnp.full(self.num_envs, jnp.inf)}
        return *rest, info | {"episode": info["episode"] | own}


TELLING = dataclasses.replace(
    STUB,
    make_agent=lambda agent, memory, venv, **_: Telling(agent, memory, venv, False),
    make_vector=lambda name, num_envs, **options: Saying(num_envs, **options),
)


@pytest.fixture
def three_seeds(make_config, record):
    """A run of three seeds that was evaluated on the way, and the number of each seed's policy."""
    config = make_config(seeds=3, eval_every=100, eval_episodes=4, checkpoint_every=0)
    done = run_training(config, TELLING, reporter=record)
    return done.run, np.asarray(done.result.state["w"])[:, 0, 0]


LENGTHS = np.array([5.0, 10.0, 15.0, 20.0])  # of the stub's four environments


def test_evaluation_during_training_gives_each_seed_its_own_policy(three_seeds):
    run, numbers = three_seeds
    assert len(np.unique(numbers)) == 3
    last = read_metrics(run.metrics)[-1]
    assert last["step"] == 200
    np.testing.assert_allclose(last["eval/return"], numbers * LENGTHS.mean(), rtol=1e-5)
    np.testing.assert_allclose(last["eval/length"], [LENGTHS.mean()] * 3)
    np.testing.assert_allclose(last["eval/info/action"], numbers, rtol=1e-6)
    assert "eval/info/never" not in last


def test_evaluating_a_run_gives_each_seed_its_own_policy(three_seeds, capsys):
    run, numbers = three_seeds
    config = EvaluateConfig(run=str(run.path), episodes=4, num_envs=4, env=EnvConfig(name="run"))
    record = evaluate_run(config, TELLING, show=print_evaluation)
    returns = numbers[:, None] * LENGTHS
    assert record["episodes"] == 12
    for name, value in (("mean", returns.mean()), ("min", returns.min()), ("max", returns.max())):
        assert record[name] == pytest.approx(value, rel=1e-5), name
    own = [row["info"] for row in (record, *record["seeds"])]
    means = [pytest.approx(float(x), rel=1e-5) for x in (numbers.mean(), *numbers)]
    # Each seed does the same in every episode: nothing is left to be uncertain about.
    assert own == [{"action": {"mean": mean, "mean_interval": [mean] * 2}} for mean in means]
    assert json.loads(run.evaluations.read_text())[-1]["info"] == own[0]
    (row,) = [x for x in capsys.readouterr().out.splitlines() if "info/action, mean" in x]
    assert f" {numbers.mean():.4f}  [" in row

"""The controls of benchmarks/learning/memory_maze.py."""

import argparse
import json

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.learning.memory_maze import ALWAYS, RANDOM, Controls, earlier, hours
from ssmrl.envs import spaces


class Counting:
    """Its action is how many steps its carry has seen."""

    def initialize_carry(self, batch_size):
        return jnp.zeros(batch_size, jnp.int32)

    def act(self, state, carry, observation, reset, key, *, greedy):
        carry = jnp.where(reset, 0, carry) + 1
        return carry, carry


def test_a_control_remembers_so_many_steps_of_an_episode():
    """Every third step begins afresh, counted from each episode's own beginning; or never."""
    policy = Controls(Counting(), spaces.Discrete(6), [3, 3, ALWAYS])
    one, other = [1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0, 0, 1]
    resets = np.array([one, other, other], bool).T
    carry, actions = policy.initialize_carry(3), []
    for reset in resets:
        key = jax.random.key(0)
        carry, action = policy.act(None, carry, None, jnp.asarray(reset), key, greedy=False)
        actions.append(action)
    expected = [[1, 2, 3, 1, 2, 3, 1, 2], [1, 2, 1, 2, 3, 1, 2, 1], [1, 2, 1, 2, 3, 4, 5, 1]]
    np.testing.assert_array_equal(np.transpose(actions), expected)


def test_random_actions_are_drawn_for_each_environment():
    policy = Controls(Counting(), spaces.Discrete(6), [RANDOM] * 600 + [ALWAYS] * 3)
    carry, reset = policy.initialize_carry(603), jnp.zeros(603, bool)
    _, actions = policy.act(None, carry, None, reset, jax.random.key(0), greedy=False)
    counts = np.bincount(actions[:600], minlength=6)
    assert counts.size == 6 and counts.min() > 60
    assert (actions[600:] == 1).all()


def test_hours_are_steps_by_their_speed():
    lines = [
        {"step": 3600, "time/steps_per_second": 1.0},
        {"step": 3600, "eval/return": 1.0},
        {"step": 10_800, "time/steps_per_second": 4.0},
    ]
    assert hours(lines) == 1.5


def test_rows_of_earlier_runs_are_kept_if_of_the_same_study(tmp_path):
    output = tmp_path / "rows.json"
    arguments = argparse.Namespace(
        experiment="memory_maze_ppo", set=["seed=1"], forget_every=[50], output=output
    )
    assert earlier(arguments) == {}
    study = {"experiment": "memory_maze_ppo", "set": ["seed=1"], "forget_every": [50]}
    output.write_text(json.dumps(study | {"rows": {"s5": {"final": 1.0}}}))
    assert earlier(arguments) == {"s5": {"final": 1.0}}
    for other in ({"experiment": "x"}, {"set": []}, {"forget_every": [10]}):
        output.write_text(json.dumps(study | other | {"rows": {"s5": {"final": 1.0}}}))
        assert earlier(arguments) == {}

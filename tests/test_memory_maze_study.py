"""The controls of benchmarks/learning/memory_maze.py."""

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.learning.memory_maze import Forgetful, Uniform, hours
from ssmrl.envs import spaces


class Counting:
    """Its action is how many steps its carry has seen."""

    def initialize_carry(self, batch_size):
        return jnp.zeros(batch_size, jnp.int32)

    def act(self, state, carry, observation, reset, key, *, greedy):
        carry = jnp.where(reset, 0, carry) + 1
        return carry, carry


def test_a_forgetful_policy_remembers_so_many_steps_of_an_episode():
    """Every third step begins afresh, counted from each episode's own beginning."""
    policy = Forgetful(Counting(), 3)
    resets = np.array([[1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0, 0, 1]], bool).T
    carry, actions = policy.initialize_carry(2), []
    for reset in resets:
        carry, action = policy.act(None, carry, None, jnp.asarray(reset), None, greedy=False)
        actions.append(action)
    expected = [[1, 2, 3, 1, 2, 3, 1, 2], [1, 2, 1, 2, 3, 1, 2, 1]]
    np.testing.assert_array_equal(np.transpose(actions), expected)


def test_uniform_actions_are_drawn_for_each_environment():
    class Env:
        action_space = spaces.Discrete(6)

    policy = Uniform(Env())
    reset = jnp.zeros(600, bool)
    _, actions = policy.act(None, (), None, reset, jax.random.key(0), greedy=False)
    assert actions.shape == (600,) and np.bincount(actions, minlength=6).min() > 60


def test_hours_are_steps_by_their_speed():
    lines = [
        {"step": 3600, "time/steps_per_second": 1.0},
        {"step": 3600, "eval/return": 1.0},
        {"step": 10_800, "time/steps_per_second": 4.0},
    ]
    assert hours(lines) == 1.5

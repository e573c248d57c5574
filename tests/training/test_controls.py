"""Who plays beside an agent: against actions by hand. Those of trials: test_trials.py."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.envs import spaces
from ssmrl.training.controls import ForgetsEvery, RandomAgent


class Counting:
    """Its action is how many steps its carry has seen, and the number in its state."""

    def initialize_carry(self, batch_size):
        return jnp.zeros(batch_size, jnp.int32)

    def act(self, state, carry, observation, reset, key, *, greedy):
        assert observation == "seen" and greedy
        carry = jnp.where(reset, 0, carry) + 1
        return carry, carry + state


@pytest.mark.parametrize(
    ("every", "expected"),
    [
        (1, [[1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1, 1]]),
        (3, [[1, 2, 3, 1, 2, 3, 1, 2], [1, 2, 1, 2, 3, 1, 2, 1]]),
        (8, [[1, 2, 3, 4, 5, 6, 7, 8], [1, 2, 1, 2, 3, 4, 5, 1]]),
    ],
)
def test_a_memory_starts_afresh_so_many_steps_after_an_episodes_beginning(every, expected):
    agent = ForgetsEvery(Counting(), every)
    resets = np.array([[1, 0, 0, 0, 0, 0, 0, 0], [1, 0, 1, 0, 0, 0, 0, 1]], bool).T
    carry, actions = agent.initialize_carry(2), []
    for reset in resets:
        carry, action = agent.act(70, carry, "seen", jnp.asarray(reset), None, greedy=True)
        actions.append(action - 70)
    np.testing.assert_array_equal(np.transpose(actions), expected)


@pytest.mark.parametrize("every", [0, -1])
def test_never_and_backwards_are_refused(every):
    with pytest.raises(ValueError, match=f"^every={every}: must be at least 1$"):
        ForgetsEvery(Counting(), every)


def test_random_actions_are_drawn_for_each_environment():
    agent = RandomAgent(SimpleNamespace(action_space=spaces.Discrete(6)))
    reset = jnp.zeros(600, bool)
    draw = [agent.act(None, 0, None, reset, jax.random.key(i), greedy=True)[1] for i in (0, 1)]
    counts = np.bincount(draw[0], minlength=6)
    assert counts.size == 6 and counts.min() > 60
    assert (draw[0] == draw[1]).mean() < 0.4
    assert agent.initialize_carry(3).shape == (3, 0)

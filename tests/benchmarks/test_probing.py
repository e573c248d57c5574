"""Probes: what they read where it is plain to see, and where there is nothing to be read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.learning import probing
from ssmrl.envs.memory_maze import MemoryMaze
from ssmrl.memory import make_memory


@pytest.mark.parametrize("hidden", [(), (16,)])
def test_a_probe_reads_what_is_there_and_nothing_else(hidden):
    """Truths mixed up by a matrix can be read, those of another episode are worth nothing."""
    rng = np.random.default_rng(0)
    walls = np.repeat(rng.integers(0, 2, (300, 1, 3)), 2, axis=1).astype(np.float32)
    places = np.repeat(rng.normal(3, 1, (300, 1, 4)), 2, axis=1).astype(np.float32)
    known = np.concatenate([walls, places], axis=-1) @ rng.normal(size=(7, 9)).astype(np.float32)
    data = {"memory": known, "walls": walls, "places": places}
    other = data | {"memory": rng.permutation(known)}
    settings = {"hidden": hidden, "tested": 100, "updates": 2000}
    assert (probing.probe(data, "walls", **settings) > 0.95).all()
    assert (probing.probe(data, "places", **settings) < 0.3).all()
    assert (probing.probe(other, "walls", **settings) < 0.65).all()
    assert (probing.probe(other, "places", **settings) > 1.8).all()


def test_without_looking_the_likelier_bit_and_the_mean_place():
    """By hand: one wall of two in most mazes; a target at 0 or 2 of which 1 is the guess."""
    walls = np.array([[[1, 0]], [[1, 0]], [[0, 1]], [[1, 1]]], np.float32)
    places = np.array([[[0, 0]], [[2, 2]], [[1, 1]], [[3, 1]]], np.float32)
    data = {"walls": walls, "places": places}
    assert probing.without_looking(data, "walls", tested=1) == [0.5]
    assert probing.without_looking(data, "places", tested=1) == [4.0]


def test_what_is_to_be_known():
    """In the environment's own terms, those of its extra observations."""
    env = MemoryMaze(7, extra_observations=True, view="above", picture_size=16)
    obs, state = env.reset(jax.random.key(0))
    told = probing.truths(state)
    np.testing.assert_array_equal(told["walls"].reshape(7, 7), 1 - obs["maze_layout"])
    np.testing.assert_allclose(told["places"].reshape(-1, 2) - 1, obs["targets_pos"], atol=1e-5)
    seen = told["places from the agent"].reshape(-1, 2)
    np.testing.assert_allclose(seen, obs["targets_vec"], atol=1e-5)


def test_the_memory_is_heard_whatever_the_agent():
    """Its output, not that of what it is made of, at this step and with this carry."""
    memory = make_memory("s5", features=8, layers=2)
    carry = memory.initialize_carry((3,))
    x, reset = jax.random.normal(jax.random.key(0), (2, 3, 5)), jnp.zeros((2, 3), bool)
    params = memory.init(jax.random.key(1), carry, x, reset)

    class Agent:
        """Acts by the memory alone."""

        def act(self, state, carry, observation, reset, key, *, greedy):
            carry, y = memory.apply(state, carry, observation[None], reset[None])
            return carry, y.argmax(-1)[0]

    _, expected = memory.apply(params, carry, x, reset)
    for t in range(2):
        carry, heard = probing.read_memory(Agent(), params, carry, x[t], reset[t], None)
        np.testing.assert_allclose(heard, expected[t], atol=1e-5)

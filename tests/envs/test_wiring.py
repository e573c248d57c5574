"""That every environment, step, episode and seed draws its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from ssmrl.envs import Environment, EpisodeStatistics, JaxVectorEnv, ObservationExtras, spaces

STEPS, ENVS = 12, 5


@struct.dataclass
class State:
    time: jax.Array


class Echo(Environment):
    """What is seen, at a reset as at a step, is a number drawn from the key that came."""

    def observation_space(self, params):
        return spaces.Box(0.0, 1.0, ())

    def action_space(self, params):
        return spaces.Discrete(2)

    def reset_env(self, key, params):
        return jax.random.uniform(key), State(time=jnp.int32(0))

    def step_env(self, key, state, action, params):
        time = state.time + 1
        return jax.random.uniform(key), State(time=time), 1.0, action == 1, time >= 3, {}


def draws(venv, keys):
    """All numbers drawn for each of `keys`: at first, in every step, and for every new episode."""
    actions = jnp.asarray(np.random.default_rng(0).integers(0, 2, (STEPS, ENVS)))

    def play(key):
        first, state = venv.reset(key)

        def step(state, action):
            seen, state, _, terminated, truncated, info = venv.step(state, action)
            return state, (info["final_observation"], seen, terminated | truncated)

        return first, jax.lax.scan(step, state, actions)[1]

    first, (final, seen, done) = jax.tree.map(np.asarray, jax.jit(jax.vmap(play))(keys))
    assert 3 < done.sum() < done.size
    np.testing.assert_array_equal(seen[~done], final[~done])
    rows = zip(first, final, seen, done, strict=True)
    return [np.concatenate([f.ravel(), x.ravel(), s[d]]) for f, x, s, d in rows]


@pytest.mark.parametrize("block", [None, 2])
@pytest.mark.parametrize("wrapped", [False, True])
def test_no_two_draws_come_from_one_key(block, wrapped):
    venv = JaxVectorEnv(Echo(), None, ENVS, reset_block=block)
    if wrapped:
        venv = EpisodeStatistics(venv)
    keys = jax.vmap(jax.random.key)(jnp.array([0, 1, 0]))
    once, other, again = draws(venv, keys)
    np.testing.assert_array_equal(once, again)
    together = np.concatenate([once, other])
    assert len(np.unique(together)) == len(together)


def test_wrappers_keep_the_numbers_they_were_given():
    """Statistics and extras only add: observations, ends and rewards inside are the same."""
    plain = JaxVectorEnv(Echo(), None, ENVS)
    wrapped = EpisodeStatistics(ObservationExtras(plain, True, True, True))
    key, action = jax.random.key(3), jnp.array([0, 1, 0, 1, 0])
    seen, state = plain.reset(key)
    first, wrapped_state = wrapped.reset(key)
    np.testing.assert_array_equal(first["observation"], seen)
    for _ in range(4):
        seen, state, *results, info = plain.step(state, action)
        more, wrapped_state, *wrapped_results, wrapped_info = wrapped.step(wrapped_state, action)
        np.testing.assert_array_equal(more["observation"], seen)
        final = wrapped_info["final_observation"]["observation"]
        np.testing.assert_array_equal(final, info["final_observation"])
        for ours, theirs in zip(results, wrapped_results, strict=True):
            np.testing.assert_array_equal(ours, theirs)

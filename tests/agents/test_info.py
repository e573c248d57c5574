"""What an environment says of itself in `info` is among the metrics of every agent."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.agents import agent_config, make_agent
from ssmrl.agents.rollout import episode_metrics
from ssmrl.envs import EpisodeStatistics, JaxVectorEnv, ObservationExtras, spaces
from ssmrl.memory import memory_config
from ssmrl.training.loop import fetch_metrics
from tests.envs.counting import Counting


class Telling(Counting):
    """Success is whether action 1 ended the episode; the rest must not become metrics."""

    def step_env(self, key, state, action, params):
        *rest, _ = super().step_env(key, state, action, params)
        info = {
            "success": action == 1,
            "time": rest[1].time,
            "discount": jnp.float32(1),
            "position": jnp.zeros(2),
            "phase": jnp.complex64(0),
        }
        return *rest, info


def test_scalars_are_those_of_the_last_step_of_the_episodes_that_ended():
    venv = EpisodeStatistics(JaxVectorEnv(Telling(), None, 2))
    # The first is truncated at its third step, the second terminates at its second.
    actions = jnp.array([[0, 0], [0, 1], [0, 0]])

    @jax.jit
    def play(key):
        _, state = venv.reset(key)

        def step(state, action):
            _, state, *_, info = venv.step(state, action)
            return state, info["episode"]

        return jax.lax.scan(step, state, actions)[1]

    episode = play(jax.random.key(0))
    assert {name for name in episode if "/" in name} == {"info/success", "info/time"}
    metrics = episode_metrics(episode)
    assert float(metrics["info/success"]) == 0.5
    assert float(metrics["info/time"]) == 2.5
    none = episode_metrics(jax.tree.map(lambda x: x[:1], episode))
    # Not a NaN on the device, which would stop a program that looks for them.
    assert float(none["info/success"]) == np.inf
    assert np.isnan(fetch_metrics(none)["info/success"])


def test_episodes_of_which_nothing_is_said_do_not_count():
    episode = {
        "done": jnp.array([[True, True, True], [False, True, False]]),
        "return": jnp.zeros((2, 3)),
        "length": jnp.ones((2, 3), jnp.int32),
        "info/success": jnp.array([[1.0, 0.0, jnp.inf], [jnp.inf, 1.0, 0.0]]),
        "info/never": jnp.full((2, 3), jnp.inf),
    }
    metrics = fetch_metrics(episode_metrics(episode))
    with jax.debug_nans(True):  # No division of nothing by nothing, whatever is chosen behind it.
        nothing = jax.jit(episode_metrics)(episode | {"done": jnp.zeros((2, 3), bool)})
    assert nothing["episode_return"] == 0 and nothing["info/success"] == np.inf
    assert metrics["episodes"] == 4
    np.testing.assert_allclose(metrics["info/success"], 2 / 3)
    assert np.isnan(metrics["info/never"])


SIZES = {
    "ppo": {"num_envs": 2, "rollout_length": 4, "minibatches": 1, "epochs": 1},
    "pqn": {"num_envs": 2, "rollout_length": 4, "minibatches": 1, "epochs": 1},
    "dreamer": {
        "size": "pico",
        "num_envs": 2,
        "rollout_length": 4,
        "batch_size": 2,
        "batch_length": 4,
        "train_ratio": 1.0,
    },
}


@pytest.mark.parametrize("name", SIZES)
def test_every_agent_reports_them(name):
    venv = EpisodeStatistics(JaxVectorEnv(Telling(), None, 2))
    config, memory = agent_config(name)(**SIZES[name]), memory_config("gru")()
    agent = make_agent(config, memory, venv, total_steps=100)
    state = jax.eval_shape(agent.init, jax.random.key(0))
    _, metrics = jax.eval_shape(agent.iteration, state)
    reported = {key: value for key, value in metrics.items() if key.startswith("info/")}
    assert set(reported) == {"info/success", "info/time"}
    assert all((value.shape, value.dtype) == ((), jnp.float32) for value in reported.values())


class Silent(Telling):
    """Shows nothing but a number of its own that is not real."""

    def observation_space(self, params):
        return spaces.Discrete(5)

    def observe(self, state):
        return state.time


@pytest.mark.parametrize("name", SIZES)
def test_what_was_added_to_observations_is_not_the_environments(name):
    """A NaN in the previous action is the policy's, and `env/observation` says whose it is."""
    inside = JaxVectorEnv(Silent(continuous=name != "pqn"), None, 2)
    venv = EpisodeStatistics(ObservationExtras(inside, previous_action=True, previous_reward=True))
    config, memory = agent_config(name)(**SIZES[name]), memory_config("gru")()
    agent = make_agent(config, memory, venv, total_steps=100)
    state = jax.eval_shape(agent.init, jax.random.key(0))
    metrics = jax.eval_shape(agent.iteration, state)[1]
    assert {key for key in metrics if key.startswith("env/")} == {"env/reward"}

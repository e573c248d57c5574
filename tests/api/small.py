"""The smallest agents and environments that go through everything."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ssmrl.agents import agent_config, make_agent
from ssmrl.envs import Environment, make_vector
from ssmrl.envs.spaces import Box, Dict, Discrete, MultiDiscrete
from ssmrl.memory import memory_config

PPO = {
    "num_envs": 3,
    "rollout_length": 8,
    "minibatches": 1,
    "epochs": 1,
    "encoder": [4],
    "actor": [8],
    "critic": [4],
}
PQN = {name: value for name, value in PPO.items() if name != "actor"}
DREAMER = {
    "size": "pico",
    "deter": 8,
    "num_envs": 3,
    "rollout_length": 8,
    "replay_capacity": 96,
    "batch_size": 2,
    "batch_length": 4,
    "imagination_length": 2,
    "train_ratio": 8.0,
}


@struct.dataclass
class State:
    position: jax.Array
    time: jax.Array


class Drift(Environment):
    """A point that actions push about; it shows where it is and, in a flag, on which side.

    With `steps`, by -1, 0 or 1 in both directions, actions 0 to 2.
    """

    length = 5

    def __init__(self, steps: bool = False):
        self.steps = steps

    def reset_env(self, key, params):
        state = State(jax.random.normal(key, (2,)), jnp.zeros((), jnp.int32))
        return self.observe(state), state

    def step_env(self, key, state, action, params):
        push = action - 1 if self.steps else action
        state = State(state.position + 0.3 * push, state.time + 1)
        reward = -jnp.abs(state.position).sum()
        over = state.time >= self.length
        return self.observe(state), state, reward, over, jnp.zeros((), bool), {}

    def observe(self, state):
        side = (state.position[0] > 0).astype(jnp.int32)
        return {"position": state.position, "side": side}

    def observation_space(self, params):
        return Dict({"position": Box(-np.inf, np.inf, (2,)), "side": Discrete(2)})

    def action_space(self, params):
        return MultiDiscrete([3, 3]) if self.steps else Box(-1.0, 1.0, (2,))


def make(agent, memory, *, loud=True, **flags):
    """(agent, its state, its environments), untrained; `loud`: with actions of size 1."""
    options = {"ppo": PPO, "pqn": PQN}.get(agent, DREAMER)
    config = agent_config(agent)(**options)
    venv = make_vector(Drift(steps=agent == "pqn"), config.num_envs, **flags)
    made = make_agent(config, memory_config(memory)(**small(agent)), venv, total_steps=24)
    state = jax.jit(made.init)(jax.random.key(1))
    return made, make_loud(state) if loud else state, venv


def small(agent):
    """The options of the smallest memory; Dreamer's width is the agent's."""
    return {"layers": 1, **({} if agent == "dreamer" else {"features": 8})}


def make_loud(state):
    """Policies begin next to 0, where all agree: the layer that actions come from, amplified."""

    def leaf(path, x):
        name = jax.tree_util.keystr(path)
        # Two actions, or their means and deviations.
        return 50 * x if "actor" in name and "kernel" in name and x.shape[-1] in (2, 4) else x

    return state.replace(params=jax.tree_util.tree_map_with_path(leaf, state.params))


def observations(steps, num_envs, seed=0):
    """(observations of `Drift` [T, B, ...], resets [T, B]) of nobody in particular."""
    draw = np.random.default_rng(seed)
    position = draw.normal(size=(steps, num_envs, 2)).astype(np.float32)
    reset = draw.random((steps, num_envs)) < 0.05
    reset[0] = True
    return {"position": position, "side": (position[..., 0] > 0).astype(np.int32)}, reset

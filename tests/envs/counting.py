"""A tiny environment whose every number can be worked out by hand."""

import jax
import jax.numpy as jnp
from flax import struct

from ssmrl.envs import Environment, spaces


@struct.dataclass
class Params:
    limit: int = 3


@struct.dataclass
class State:
    time: jax.Array
    task: jax.Array


class Counting(Environment):
    """Observation ``[time, task]``, ``task`` drawn at reset. The reward is ``10 * time + action``.

    Action 1 terminates; the episode is truncated after ``limit`` steps.
    """

    default_params = Params()

    def __init__(self, continuous: bool = False):
        self.continuous = continuous

    def observation_space(self, params):
        return spaces.Box(0.0, 1000.0, (2,))

    def action_space(self, params):
        return spaces.Box(-1.0, 1.0, (2,)) if self.continuous else spaces.Discrete(2)

    def reset_env(self, key, params):
        state = State(time=jnp.int32(0), task=jax.random.randint(key, (), 0, 1000))
        return self.observe(state), state

    def step_env(self, key, state, action, params):
        action = action[0] if self.continuous else action
        state = State(time=state.time + 1, task=state.task)
        reward = 10.0 * state.time + action
        return self.observe(state), state, reward, action == 1, state.time >= params.limit, {}

    def observe(self, state):
        return jnp.stack([state.time, state.task]).astype(jnp.float32)

"""Environments whose right values and policies are known in advance."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from ssmrl.envs import Environment, spaces


@struct.dataclass
class Params:
    pass


@struct.dataclass
class State:
    time: jax.Array
    cue: jax.Array


class Probe(Environment):
    """Episodes of `length` steps with a cue, -1 or 1, drawn at their beginning.

    Subclasses say what is seen and rewarded; episodes terminate unless `truncates`.
    """

    default_params = Params()
    length = 1
    truncates = False

    def observation_space(self, params):
        return spaces.Box(-1.0, 1.0, (1,))

    def action_space(self, params):
        return spaces.Discrete(2)

    def reset_env(self, key, params):
        cue = 2.0 * jax.random.bernoulli(key).astype(jnp.float32) - 1
        state = State(time=jnp.int32(0), cue=cue)
        return self.observe(state), state

    def step_env(self, key, state, action, params):
        reward = self.reward(state, action)
        state = state.replace(time=state.time + 1)
        over = state.time >= self.length
        ends = (~over & over, over) if self.truncates else (over, ~over & over)
        return self.observe(state), state, jnp.float32(reward), *ends, {}

    def observe(self, state):
        return jnp.zeros(1)

    def reward(self, state, action):
        return 1.0


class ConstantReward(Probe):
    """One blind step for a reward of 1: V = 1."""


class Delayed(Probe):
    """Two steps, seen apart, and 1 at the end: V(first) = γ, V(second) = 1."""

    length = 2

    def observe(self, state):
        return state.time[None].astype(jnp.float32)

    def reward(self, state, action):
        return jnp.where(state.time == 1, 1.0, 0.0)


class CueReward(Probe):
    """One step; the cue is seen and is the reward: V = cue."""

    def observe(self, state):
        return state.cue[None]

    def reward(self, state, action):
        return state.cue


class ActionReward(Probe):
    """One blind step; action 1 earns 1, action 0 costs 1."""

    def reward(self, state, action):
        return 2.0 * action - 1


class Recall(Probe):
    """The cue is seen at the first of four steps only; naming it at the last earns 1, else costs 1.

    Whoever forgets earns 0 on average, and so does a constant answer.
    """

    length = 4

    def observation_space(self, params):
        return spaces.Box(-1.0, 1.0, (2,))

    def observe(self, state):
        return jnp.stack(
            [
                jnp.where(state.time == 0, state.cue, 0.0),
                jnp.where(state.time == self.length - 1, 1.0, 0.0),
            ]
        )

    def reward(self, state, action):
        right = 2.0 * action - 1 == state.cue
        return jnp.where(state.time == self.length - 1, jnp.where(right, 1.0, -1.0), 0.0)


class BlindForever(Probe):
    """1 at every step, and nothing to see; truncated after 8 steps.

    The end is a time limit that is no part of the task, so V = Σ γᵏ = 1 / (1 - γ) everywhere.
    """

    length = 8
    truncates = True


class BlindEight(BlindForever):
    """The same, but terminated, and the time is seen: V(t) = (1 - γ^(8-t)) / (1 - γ)."""

    truncates = False

    def observation_space(self, params):
        return spaces.Discrete(9)

    def observe(self, state):
        return state.time


class TimedEight(BlindEight):
    """The same, but truncated: a time limit that may be said to be part of the task."""

    truncates = True


class Aim(Probe):
    """One blind step; the reward is minus the squared distance from 0.7 and -1.2."""

    target = (0.7, -1.2)

    def action_space(self, params):
        return spaces.Box(-2.0, 2.0, (2,))

    def reward(self, state, action):
        return -jnp.sum((action - jnp.array(self.target)) ** 2)


class Crew(Probe):
    """One step; the cue is seen. An action of parts, of which each has its own right answer:

    - "aim": 130 in 100 … 200, and 1.5 without bounds
    - "crew": 1 at cue 1, 0 at cue -1, each counts 1; and (1, 2), each counts 1/2
    - "push": 101 above 100

    Distances cost their squares, with the range 100 … 200 as -1 … 1.
    """

    def action_space(self, params):
        low, high = np.float32([100, -np.inf]), np.float32([200, np.inf])
        return spaces.Dict(
            {
                "push": spaces.Box(100.0, np.inf, (1,)),
                "crew": spaces.Tuple([spaces.Discrete(2), spaces.MultiDiscrete([2, 3])]),
                "aim": spaces.Box(low, high),
            }
        )

    def observe(self, state):
        return state.cue[None]

    def reward(self, state, action):
        lever, buttons = action["crew"]
        right = (2.0 * lever - 1 == state.cue).astype(jnp.float32)
        pressed = jnp.mean((buttons == jnp.array([1, 2])).astype(jnp.float32))
        off = (action["aim"] - jnp.array([130, 1.5])) / jnp.array([50, 1])
        return right + pressed - jnp.sum(off**2) - jnp.sum((action["push"] - 101) ** 2)


class Buttons(Probe):
    """One step; the cue is seen. Right is (1, 2) at cue 1 and (0, 0) at cue -1; each counts 1."""

    def action_space(self, params):
        return spaces.MultiDiscrete([2, 3])

    def observe(self, state):
        return state.cue[None]

    def reward(self, state, action):
        right = jnp.where(state.cue > 0, jnp.array([1, 2]), jnp.array([0, 0]))
        return jnp.sum((action == right).astype(jnp.float32))

"""Controls: who plays beside an agent in an evaluation, to show what its memory is good for.

Each wraps an agent or stands in for one, and is evaluated like it (`ssmrl.training.agent.Player`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


class ForgetsEvery:
    """An agent whose memory starts afresh every so many steps of an episode: a control.

    What its return loses against the agent's own is earned by remembering longer than that. The
    observation stays as it is: also the first flag, where the environment appends one.

    Args:
        agent: whose policy.
        every: steps from one fresh start to the next, at least 1. With 1, every action is taken
            from the present observation alone.

    Raises:
        ValueError: ``every`` is not positive.
    """

    def __init__(self, agent: Any, every: int):
        if every < 1:
            raise ValueError(f"every={every}: must be at least 1")
        self.agent, self.every = agent, every

    def initialize_carry(self, batch_size: int) -> Any:
        """The agent's carry, and the steps since its last fresh start, int32 ``[B]``."""
        return self.agent.initialize_carry(batch_size), jnp.zeros(batch_size, jnp.int32)

    def act(
        self, state: Any, carry: Any, observation: Any, reset: Any, key: Any, *, greedy: bool
    ) -> tuple[Any, Any]:
        inner, age = carry
        age = jnp.where(reset | (age == self.every), 0, age)
        inner, action = self.agent.act(state, inner, observation, age == 0, key, greedy=greedy)
        return (inner, age + 1), action


class ForgetsTrials:
    """An agent to which every trial is the first of an episode: the control where there are any.

    Its memory is reset where a trial has ended, and what the observation says of the trial before,
    the last action and reward included, is what it says at an episode's beginning.

    Args:
        agent: whose policy.
        venv: the environments that it plays.
    """

    def __init__(self, agent: Any, venv: Any):
        self.agent = agent
        self._first = jax.jit(venv.reset)(jax.random.key(0))[0]

    def initialize_carry(self, batch_size: int) -> Any:
        return self.agent.initialize_carry(batch_size)

    def act(
        self, state: Any, carry: Any, observation: Any, reset: Any, key: Any, *, greedy: bool
    ) -> tuple[Any, Any]:
        ended = _trial_ended(observation)
        observation = _as_first(observation, self._first, ended)
        return self.agent.act(state, carry, observation, reset | ended, key, greedy=greedy)


def _trial_ended(observation: dict[str, Any]) -> jax.Array:
    """bool ``[B]``; previous action and such may be around the environment's own observation."""
    while "trial_ended" not in observation:
        observation = observation["observation"]
    return observation["trial_ended"] == 1


def _as_first(observation: dict[str, Any], first: dict[str, Any], ended: jax.Array) -> Any:
    """All but the task's own observation as at an episode's beginning, where a trial has ended."""

    def leaf(x: Any, y: Any) -> Any:
        return jnp.where(ended.reshape(-1, *[1] * (x.ndim - 1)), y, x)

    own = observation["observation"]
    if "trial_ended" not in observation:
        own = _as_first(own, first["observation"], ended)
    others = {name: jax.tree.map(leaf, x, first[name]) for name, x in observation.items()}
    return {**others, "observation": own}


class RandomAgent:
    """Draws every action from the action space, uniformly where it is bounded."""

    def __init__(self, venv: Any):
        self._space = venv.action_space

    def initialize_carry(self, batch_size: int) -> Any:
        return jnp.zeros((batch_size, 0))

    def act(
        self, state: Any, carry: Any, observation: Any, reset: Any, key: Any, *, greedy: bool
    ) -> tuple[Any, Any]:
        return carry, jax.vmap(self._space.sample)(jax.random.split(key, len(reset)))

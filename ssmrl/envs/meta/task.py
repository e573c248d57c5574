"""Environments whose episodes take place in a task, and any other environment as one of them."""

from __future__ import annotations

import abc
from typing import Any, TypeVar

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, PRNGKeyArray

from ssmrl.envs.environment import Environment, Leaf, Transition
from ssmrl.envs.spaces import Space

State = TypeVar("State")
Params = TypeVar("Params")


class TaskEnvironment(Environment[State, Params]):
    """A distribution over tasks, each an environment with episodes of its own.

    Such an episode is a *trial* of :class:`~ssmrl.envs.meta.trials.Trials`, which plays several in
    one task. A subclass writes :meth:`sample_task`, :meth:`reset_trial`, ``step_env`` and the
    spaces, and keeps the task in its state, under ``task``.
    """

    @abc.abstractmethod
    def sample_task(self, key: PRNGKeyArray, params: Params) -> Any:
        """Draw a task, a pytree of arrays."""

    @abc.abstractmethod
    def reset_trial(self, key: PRNGKeyArray, task: Any, params: Params) -> tuple[Any, State]:
        """Draw the first observation and state of a trial in ``task``."""

    def task_of(self, state: State) -> Any:
        """The task that a state belongs to."""
        return state.task

    def reset_env(self, key: PRNGKeyArray, params: Params) -> tuple[Any, State]:
        """A trial in a new task."""
        key_task, key_trial = jax.random.split(key)
        return self.reset_trial(key_trial, self.sample_task(key_task, params), params)

    def references(
        self, params: Params, trials: int, *, hazard: float, episodes: int, seed: int
    ) -> dict[str, np.ndarray]:
        """Returns by trial of policies that are known to be good, or bounds on all of them.

        Args:
            params: of the environment.
            trials: in one task, or in as many as ``hazard`` makes of it.
            hazard: probability that a new task is drawn between two trials.
            episodes: how many to play where a policy has to be played.
            seed: of tasks and draws.

        Returns:
            By name, float64 ``[E, trials]``: of ``E`` episodes, or ``E = 1`` for a number that is
            exact. Nothing where nothing is known.
        """
        del params, trials, hazard, episodes, seed
        return {}


@struct.dataclass
class EpisodeState:
    """``task``: the key of the episode's beginning, where it is repeated; ``inner``: its state."""

    task: Leaf
    inner: Any


class Episodes(TaskEnvironment[EpisodeState, Any]):
    """Any environment as a distribution over tasks: its trials are its episodes.

    Args:
        env: the environment.
        repeat: every trial begins where the first one did: the same maze, deck or mines, which a
            memory may know by then. What is drawn at a step is drawn anew. Otherwise trials have
            nothing but the rules in common.
    """

    def __init__(self, env: Environment, repeat: bool = True):
        self.env = env
        self.repeat = repeat

    @property
    def name(self) -> str:
        return self.env.name

    @property
    def default_params(self) -> Any:
        return self.env.default_params

    def check_params(self, params: Any) -> None:
        self.env.check_params(params)

    def observation_space(self, params: Any) -> Space:
        return self.env.observation_space(params)

    def action_space(self, params: Any) -> Space:
        return self.env.action_space(params)

    def sample_task(self, key: PRNGKeyArray, params: Any) -> PRNGKeyArray:
        return key

    def reset_trial(self, key: PRNGKeyArray, task: Any, params: Any) -> tuple[Any, EpisodeState]:
        obs, inner = self.env.reset_env(task if self.repeat else key, params)
        return obs, EpisodeState(task, inner)

    def step_env(
        self, key: PRNGKeyArray, state: EpisodeState, action: Any, params: Any
    ) -> Transition:
        obs, inner, *rest = self.env.step_env(key, state.inner, action, params)
        return (obs, EpisodeState(state.task, inner), *rest)

    def render(self, state: EpisodeState, params: Any) -> Array:
        return self.env.render(state.inner, params)

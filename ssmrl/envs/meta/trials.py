"""Trials: an episode is a sequence of trials in one task.

What an agent finds out in one trial is worth something in the next, if its memory carries it there:
the episode, and with it the carry, goes on over the boundaries between trials, and ends, with the
task, after the last. This is the setting of RL² (Duan et al., "RL²: Fast Reinforcement Learning via
Slow Reinforcement Learning", 2016; Wang et al., "Learning to Reinforcement Learn", 2016) and of Lu
et al., "Structured State Space Models for In-Context Reinforcement Learning" (2023).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from ssmrl.envs.batching import any_across_batch, select, strip_weak_types
from ssmrl.envs.drawing import BLACK, GREY, canvas, paint, pixel_grid
from ssmrl.envs.environment import Environment, Leaf, Transition
from ssmrl.envs.meta.task import Episodes, TaskEnvironment
from ssmrl.envs.spaces import Box, Dict, Discrete, Space
from ssmrl.envs.vector import check_positive
from ssmrl.envs.wrappers import as_elements, none_action, with_none

SPLITS = ("train", "held_out")

_BAR = 4
"""Height of the bar under a picture, in pixels."""

_TASKS = 19
"""Seed of the keys of a finite number of tasks: they are the same in every run."""


_MOST = 2**30
"""Trials, steps of one, and tasks to train in, at most."""

OPTIONS = ("trials", "max_trial_steps", "trial_discount", "hazard", "num_tasks", "split")
"""Options of :class:`Trials`."""


@struct.dataclass
class TrialsState:
    """``inner``: the state of the trial under way; ``task``: what all of them take place in."""

    inner: Any
    task: Any
    trial: Leaf
    """i32[]: how many trials have ended."""
    time: Leaf
    """i32[]: steps of the trial under way."""
    trial_return: Leaf
    """f32[]: its return so far."""
    first_return: Leaf
    """f32[]: the return of the first trial, so far."""


class Trials(Environment[TrialsState, Any]):
    """Episodes of ``trials`` trials in one task, of any environment.

    The observation is a dict:

    - ``observation``: of the environment inside; where a trial has ended, the first of the next.
    - ``previous_action``, ``previous_reward``: as :class:`~ssmrl.envs.ObservationExtras` has them,
      but those of a trial's last step are seen with the next trial's first observation: they are
      what the agent learns from. Nothing came before an episode's first observation.
    - ``trial_ended``: ``Discrete(2)``, 1 where the step before was a trial's last.
    - ``first``: ``Discrete(2)``, 1 at the first observation of an episode, a new task.

    ``terminated`` is true where the last trial ends, however it ends; ``truncated`` never is. At
    the boundaries before, neither is: an advantage estimate runs over them, since what was found
    out counts in later trials. ``info`` has ``trial``, the number of the trial that the step
    belonged to, and the returns so far of the first and of the last (or present) trial.

    Args:
        env: the environment; one that is no :class:`~ssmrl.envs.meta.task.TaskEnvironment` has each
            of its episodes repeated (:class:`~ssmrl.envs.meta.task.Episodes`).
        trials: how many an episode has.
        max_trial_steps: longest a trial may be, in steps; None for no other limit
            than the environment's own.
        trial_discount: what counts beyond a trial's end, beside the agent's γ, a number from 0
            (each trial for itself) to 1. It is in ``info`` at every step, for the advantage
            estimate: this where a trial ended, else 1. None: not there, which means 1.
        hazard: probability that a new task is drawn between two trials, without a sign.
        num_tasks: number of different tasks to train in; None for a new one every time.
        split: "train", or "held_out" for tasks that training has not seen: beyond ``num_tasks``.

    Raises:
        ValueError: for values out of their ranges; for a held-out split of nothing.
    """

    def __init__(
        self,
        env: Environment,
        trials: int,
        *,
        max_trial_steps: int | None = None,
        trial_discount: float | None = None,
        hazard: float = 0.0,
        num_tasks: int | None = None,
        split: str = "train",
    ):
        self.env = env if isinstance(env, TaskEnvironment) else Episodes(env)
        self.trials = _countable("trials", trials)
        self.max_trial_steps = _or_none(_countable, "max_trial_steps", max_trial_steps)
        self.trial_discount = _or_none(share, "trial_discount", trial_discount)
        self.hazard = share("hazard", hazard)
        self.num_tasks = _or_none(_countable, "num_tasks", num_tasks)
        if split not in SPLITS:
            raise ValueError(f"split must be one of {', '.join(SPLITS)}, got {split!r}")
        if split == "held_out" and num_tasks is None and not getattr(self.env, "held_out", ()):
            raise ValueError(
                "split=held_out, but nothing is held out: every task is new; give num_tasks, how "
                "many there are to train in"
            )
        self.split = split

    @property
    def name(self) -> str:
        return self.env.name

    @property
    def default_params(self) -> Any:
        return self.env.default_params

    def make_params(self, **overrides: Any) -> Any:
        return self.env.make_params(**overrides)

    def observation_space(self, params: Any) -> Dict:
        return Dict(
            {
                "observation": self.env.observation_space(params),
                "previous_action": with_none(self.action_space(params)),
                "previous_reward": Box(-np.inf, np.inf, (1,), np.float32),
                "trial_ended": Discrete(2),
                "first": Discrete(2),
            }
        )

    def action_space(self, params: Any) -> Space:
        return self.env.action_space(params)

    def reset_env(self, key: PRNGKeyArray, params: Any) -> tuple[dict[str, Any], TrialsState]:
        key_task, key_trial = jax.random.split(key)
        task = self._draw_task(key_task, params)
        obs, inner = self.env.reset_trial(key_trial, task, params)
        zero, nothing = jnp.int32(0), jnp.float32(0)
        state = TrialsState(inner, task, zero, zero, nothing, nothing)
        action = none_action(self.action_space(params))
        return self._observe(obs, action, nothing, jnp.asarray(False), jnp.asarray(True)), state

    def step_env(
        self, key: PRNGKeyArray, state: TrialsState, action: Any, params: Any
    ) -> Transition:
        action = as_elements(self.action_space(params), action)
        key_step, key_next = jax.random.split(key)
        obs, inner, reward, terminated, truncated, info = self.env.step_env(
            key_step, state.inner, action, params
        )
        reward, time = jnp.asarray(reward, jnp.float32), state.time + 1
        ended = terminated | truncated
        if self.max_trial_steps is not None:
            ended |= time >= self.max_trial_steps
        total = state.trial_return + reward
        first = jnp.where(state.trial == 0, total, state.first_return)
        info = {**info, "trial": state.trial, "first_trial_return": first}
        info["last_trial_return"] = total
        if self.trial_discount is not None:
            info["trial_discount"] = jnp.where(ended, jnp.float32(self.trial_discount), 1.0)
        trial = state.trial + ended
        over = trial >= self.trials
        obs, inner, task = self._next_trial(
            key_next, ended & ~over, (obs, inner, state.task), params
        )
        after = TrialsState(
            inner=inner,
            task=task,
            trial=trial,
            time=jnp.where(ended, 0, time),
            trial_return=jnp.where(ended, 0.0, total),
            first_return=first,
        )
        obs = self._observe(obs, action, reward, ended, jnp.zeros_like(ended))
        return obs, after, reward, over, jnp.zeros_like(over), info

    def _next_trial(
        self, key: PRNGKeyArray, begins: Bool[Array, ""], old: Any, params: Any
    ) -> tuple[Any, Any, Any]:
        """``old``, observation, state and task, with a new trial where one ``begins``."""

        old = strip_weak_types(old)

        def begin() -> Any:
            key_switch, key_task, key_trial = jax.random.split(key, 3)
            task = old[2]
            if self.hazard > 0:
                switches = jax.random.uniform(key_switch) < self.hazard
                task = select(switches, self._draw_task(key_task, params), task)
            new = strip_weak_types((*self.env.reset_trial(key_trial, task, params), task))
            return select(begins, new, old)

        # Where none of the environments that are stepped together begins one, none is drawn.
        return jax.lax.cond(any_across_batch(begins), begin, lambda: old)

    def _draw_task(self, key: PRNGKeyArray, params: Any) -> Any:
        """A task of the split: any, or one of a finite number, each of which has its own key."""
        if self.num_tasks is not None:
            trained = self.split == "train"
            low, high = (0, self.num_tasks) if trained else (self.num_tasks, 2**31 - 1)
            number = jax.random.randint(key, (), low, high)
            key = jax.random.fold_in(jax.random.key(_TASKS), number)
        return self.env.sample_task(key, params)

    def _observe(
        self, obs: Any, action: Any, reward: Array, trial_ended: Array, first: Array
    ) -> dict[str, Any]:
        return {
            "observation": obs,
            "previous_action": action,
            "previous_reward": reward[None],
            "trial_ended": trial_ended.astype(jnp.int32),
            "first": first.astype(jnp.int32),
        }

    def references(
        self, params: Any, *, episodes: int = 1000, seed: int = 0
    ) -> dict[str, Float[np.ndarray, "E trials"]]:
        """Returns by trial of policies that are known to be good, and bounds on all of them.

        Nothing where trials are cut, or tasks are a finite number: what is known is about the
        tasks and trials of the environment itself.

        Args:
            params: of the environment.
            episodes: how many to play where a policy has to be played.
            seed: of tasks and draws.
        """
        if self.max_trial_steps is not None or self.num_tasks is not None:
            return {}
        return self.env.references(
            params, self.trials, hazard=self.hazard, episodes=episodes, seed=seed
        )

    def render(self, state: TrialsState, params: Any) -> Array:
        """The picture of the environment inside, over a bar of the trials that have ended."""
        picture = self.env.render(state.inner, params)
        columns = pixel_grid(_BAR, picture.shape[1])[1]
        ended = columns * self.trials < state.trial * picture.shape[1]
        bar = paint(canvas(_BAR, picture.shape[1]), np.ones_like(columns, bool), GREY)
        return jnp.concatenate([picture, paint(bar, ended, BLACK)])


def _countable(name: str, value: Any) -> int:
    """A positive integer that 32 bits count, with room beyond it: tasks to hold out, say."""
    if check_positive(name, value) > _MOST:
        raise ValueError(f"{name} must be at most {_MOST}, got {value}")
    return int(value)


def _or_none(check: Any, name: str, value: Any) -> Any:
    return None if value is None else check(name, value)


def split_options(options: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Options of an environment's own, and those of :class:`Trials` among ``options``."""
    own = {name: value for name, value in options.items() if name not in OPTIONS}
    return own, {name: value for name, value in options.items() if name in OPTIONS}


def share(name: str, value: Any) -> float:
    """``value`` of an option, if it is a number from 0 to 1.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ValueError(f"{name} must be a number from 0 to 1, got {value!r}")
    return float(value)

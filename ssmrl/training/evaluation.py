"""How good a policy is: whole episodes, the same number in every environment, with an interval.

Counting the first K episodes to finish would favour short ones (which in many tasks are the
failures, in others the successes). Here each of B environments plays the same number of episodes,
and exactly those count. An episode that does not end within a number of steps counts with its
return up to there, as if the environment had that time limit, and is reported as unfinished:
leaving it out would favour short episodes again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssmrl.training.agent import Agent
from ssmrl.training.devices import compiler_options

_CHUNK = 128  # Steps per dispatch: long enough to hide its cost, short beside most episodes.
_LIMIT_FACTOR, _SMALLEST_LIMIT = 10, 10_000

# Fields in which environments declare the length of their longest episode.
_DECLARED = ("max_episode_steps", "max_steps_in_episode", "max_episode_length", "episode_length")


class EvaluationStoppedError(Exception):
    """An evaluation was asked to stop before its episodes had ended."""


@dataclass(frozen=True)
class EvaluationResult:
    """Undiscounted returns and lengths (in steps) of ``E`` episodes, float ``[E]`` and int ``[E]``.

    Episode ``e`` is the ``e // B``-th of environment ``e % B``. ``finished``, bool ``[E]``, is
    False where an episode had not ended after the most steps that one may take; its return and
    length are those up to there. Left out, all have ended.
    """

    returns: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray | None = None

    @property
    def unfinished(self) -> int:
        """How many episodes had not ended."""
        return 0 if self.finished is None else int((~self.finished).sum())


def default_max_steps(venv: Any, longest_seen: float = 0.0) -> int:
    """After how many steps an episode is called unfinished where nobody says: ten times the longest
    seen or declared, and at least 10,000.

    Args:
        venv: the environments; a limit in their parameters or their specification is found.
        longest_seen: length of the longest episode known, in steps.
    """
    inner = getattr(venv, "unwrapped", venv)
    sources = (inner, getattr(inner, "params", None))
    declared = [getattr(source, name, None) for source in sources for name in _DECLARED]
    lengths = [int(n) for n in declared if isinstance(n, (int, np.integer))]
    return max(_SMALLEST_LIMIT, _LIMIT_FACTOR * math.ceil(max([longest_seen, *lengths])))


def summarise(
    results: Sequence[EvaluationResult], *, confidence: float = 0.95, reps: int = 2000
) -> dict[str, Any]:
    """Mean and interquartile mean with bootstrap intervals; median, min, max, mean length.

    Args:
        results: one for each trained seed; episodes are resampled within each (stratified).
        confidence: the intervals' coverage.
        reps: bootstrap resamples.

    Returns:
        JSON values: ``{"episodes", "unfinished", "mean", "mean_interval": [low, high], "iqm",
        "iqm_interval": [low, high], "median", "min", "max", "length"}``.
    """
    returns = np.stack([result.returns for result in results], axis=1)
    return {
        "episodes": int(returns.size),
        "unfinished": sum(result.unfinished for result in results),
        **bootstrap(returns, confidence=confidence, reps=reps),
        "median": float(np.median(returns)),
        "min": float(returns.min()),
        "max": float(returns.max()),
        "length": float(np.mean([result.lengths.mean() for result in results])),
    }


def bootstrap(
    scores: np.ndarray, *, confidence: float = 0.95, reps: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Mean and IQM of ``scores [runs, tasks]`` with stratified bootstrap intervals (rliable).

    Runs are resampled within each task. With one run there is nothing to resample, and the
    intervals are null.
    """
    # rliable pulls in pandas, seaborn and arch: over a second that training need not pay.
    from rliable import library, metrics

    def aggregate(x: np.ndarray) -> np.ndarray:
        return np.array([metrics.aggregate_mean(x), metrics.aggregate_iqm(x)])

    scores = np.asarray(scores, dtype=np.float64)
    mean, iqm = aggregate(scores)
    result: dict[str, Any] = {"mean": float(mean), "iqm": float(iqm)}
    if scores.shape[0] < 2:
        return result | {"mean_interval": None, "iqm_interval": None}
    # rliable 1.2 draws from NumPy's global generator, whatever random_state it is given.
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        _, intervals = library.get_interval_estimates(
            {"scores": scores}, aggregate, reps=reps, confidence_interval_size=confidence
        )
    finally:
        np.random.set_state(before)
    low, high = intervals["scores"]
    return result | {
        "mean_interval": [float(low[0]), float(high[0])],
        "iqm_interval": [float(low[1]), float(high[1])],
    }


class Evaluator:
    """`evaluate`, compiled once and called for many states.

    Args:
        agent: whose policy.
        venv: the environments; host environments are stepped by the same code.
        episodes: rounded up to a multiple of ``venv.num_envs``.
        greedy: the policy's mode rather than a draw.
        max_steps: an episode that has not ended after so many steps is cut there. None: what
            `default_max_steps` says.

    Raises:
        ValueError: ``episodes`` or ``max_steps`` is not positive.
    """

    def __init__(
        self,
        agent: Agent,
        venv: Any,
        *,
        episodes: int,
        greedy: bool = True,
        max_steps: int | None = None,
    ):
        if episodes < 1:
            raise ValueError(f"episodes={episodes}: must be at least 1")
        if max_steps is not None and max_steps < 1:
            raise ValueError(f"max_steps={max_steps}: must be at least 1")
        self.agent, self.venv, self.greedy = agent, venv, greedy
        self.quota = -(-episodes // venv.num_envs)
        self.max_steps = max_steps
        self._begin = jax.jit(self._begin_impl)
        self._resume = jax.jit(self._resume_impl)
        self._chunk = jax.jit(self._chunk_impl, compiler_options=compiler_options())

    def __call__(
        self,
        state: Any,
        key: jax.Array,
        *,
        longest_seen: float = 0.0,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> EvaluationResult:
        """Play the episodes with the policy in ``state`` (one seed).

        Args:
            state: whose policy.
            key: draws the environments, and the actions when not greedy.
            longest_seen: for `default_max_steps`.
            should_stop: asked after every 128 steps.

        Raises:
            EvaluationStoppedError: ``should_stop`` said so.
        """
        limit = jnp.int32(self.limit(longest_seen))
        play = self._begin(key)
        while True:
            play = self._chunk(state, play, limit)
            missing = np.asarray(play["count"]) < self.quota
            if not missing.any():
                return EvaluationResult(
                    np.asarray(play["returns"], np.float64).reshape(-1),
                    np.asarray(play["lengths"]).reshape(-1),
                    np.asarray(play["finished"]).reshape(-1),
                )
            if should_stop():
                raise EvaluationStoppedError
            if np.asarray(play["cut"])[missing].all():
                # Whoever still has episodes to play sits in one that has been cut: all start anew.
                play = self._resume(play)

    def limit(self, longest_seen: float = 0.0) -> int:
        """The most steps of an episode."""
        return self.max_steps or default_max_steps(self.venv, longest_seen)

    def _begin_impl(self, key: jax.Array) -> dict[str, Any]:
        size = self.venv.num_envs
        reset_key, act_key = jax.random.split(key)
        return self._episodes_from(reset_key) | {
            "key": act_key,
            "count": jnp.zeros(size, jnp.int32),
            "returns": jnp.zeros((self.quota, size), jnp.float32),
            "lengths": jnp.zeros((self.quota, size), jnp.int32),
            "finished": jnp.zeros((self.quota, size), bool),
        }

    def _resume_impl(self, play: dict[str, Any]) -> dict[str, Any]:
        key, reset_key = jax.random.split(play["key"])
        return play | self._episodes_from(reset_key) | {"key": key}

    def _episodes_from(self, key: jax.Array) -> dict[str, Any]:
        """New episodes in all environments."""
        size = self.venv.num_envs
        observation, env_state = self.venv.reset(key)
        return {
            "env_state": env_state,
            "observation": observation,
            "reset": jnp.ones(size, bool),
            "carry": self.agent.initialize_carry(size),
            "cut": jnp.zeros(size, bool),
        }

    def _chunk_impl(self, state: Any, play: dict[str, Any], limit: jax.Array) -> dict[str, Any]:
        step = partial(self._step, state, limit)
        return jax.lax.scan(lambda p, _: (step(p), None), play, None, _CHUNK)[0]

    def _step(self, state: Any, limit: jax.Array, play: dict[str, Any]) -> dict[str, Any]:
        key, act_key = jax.random.split(play["key"])
        carry, action = self.agent.act(
            state, play["carry"], play["observation"], play["reset"], act_key, greedy=self.greedy
        )
        observation, env_state, _, _, _, info = self.venv.step(play["env_state"], action)
        episode = info["episode"]
        done = episode["done"]
        # An episode is written down once: where it ends, or where it is cut before.
        over = (done | (episode["length"] >= limit)) & ~play["cut"]
        # Rows past the quota are out of bounds, and mode="drop" leaves them out.
        row = jnp.where(over, play["count"], self.quota)
        column = jnp.arange(self.venv.num_envs)
        return {
            "env_state": env_state,
            "observation": observation,
            "reset": done,
            "carry": carry,
            "key": key,
            "cut": (play["cut"] | over) & ~done,
            "count": play["count"] + over,
            "returns": play["returns"].at[row, column].set(episode["return"], mode="drop"),
            "lengths": play["lengths"].at[row, column].set(episode["length"], mode="drop"),
            "finished": play["finished"].at[row, column].set(done, mode="drop"),
        }


def evaluate(
    agent: Agent, state: Any, venv: Any, *, episodes: int, key: jax.Array, greedy: bool = True
) -> EvaluationResult:
    """Play whole episodes and report each one's return and length.

    Args:
        agent: whose policy.
        state: of one seed, without a seeds axis.
        venv: ``B`` environments, JAX or host.
        episodes: at least this many; rounded up to a multiple of ``B``.
        key: draws the environments, and the actions when not ``greedy``.
        greedy: the policy's mode rather than a draw.
    """
    return Evaluator(agent, venv, episodes=episodes, greedy=greedy)(state, key)

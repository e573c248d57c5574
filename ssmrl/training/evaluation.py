"""How good a policy is: whole episodes, the same number in every environment, with an interval.

Counting the first K episodes to finish would favour short ones (which in many tasks are the
failures, in others the successes). Here each of B environments plays the same number of episodes,
and exactly those count.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssmrl.training.agent import Agent
from ssmrl.training.devices import compiler_options
from ssmrl.training.errors import RunError

_CHUNK = 128  # Steps per dispatch: long enough to hide its cost, short beside most episodes.


@dataclass(frozen=True)
class EvaluationResult:
    """Undiscounted returns and lengths (in steps) of ``E`` episodes, float ``[E]`` and int ``[E]``.

    Episode ``e`` is the ``e // B``-th of environment ``e % B``.
    """

    returns: np.ndarray
    lengths: np.ndarray


def summarise(
    results: Sequence[EvaluationResult], *, confidence: float = 0.95, reps: int = 2000
) -> dict[str, Any]:
    """Mean and interquartile mean with bootstrap intervals; median, min, max, mean length.

    Args:
        results: one for each trained seed; episodes are resampled within each (stratified).
        confidence: the intervals' coverage.
        reps: bootstrap resamples.

    Returns:
        JSON values: ``{"episodes", "mean", "mean_interval": [low, high], "iqm",
        "iqm_interval": [low, high], "median", "min", "max", "length"}``.
    """
    returns = np.stack([result.returns for result in results], axis=1)
    return {
        "episodes": int(returns.size),
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
        max_steps: give up after this many steps of each environment.
    """

    def __init__(
        self,
        agent: Agent,
        venv: Any,
        *,
        episodes: int,
        greedy: bool = True,
        max_steps: int = 10_000_000,
    ):
        if episodes < 1:
            raise ValueError(f"episodes={episodes}: must be at least 1")
        self.agent, self.venv, self.greedy = agent, venv, greedy
        self.quota = -(-episodes // venv.num_envs)
        self.max_steps = max_steps
        self._begin = jax.jit(self._begin_impl)
        self._chunk = jax.jit(self._chunk_impl, compiler_options=compiler_options())

    def __call__(self, state: Any, key: jax.Array) -> EvaluationResult:
        """Play the episodes with the policy in ``state`` (one seed).

        Raises:
            RunError: an environment did not finish its episodes within ``max_steps``.
        """
        play = self._begin(key)
        for _ in range(0, self.max_steps, _CHUNK):
            play = self._chunk(state, play)
            if int(play["count"].min()) >= self.quota:
                return EvaluationResult(
                    np.asarray(play["returns"], np.float64).reshape(-1),
                    np.asarray(play["lengths"]).reshape(-1),
                )
        raise RunError(
            f"an environment finished {int(play['count'].min())} of {self.quota} episodes in "
            f"{self.max_steps:,} steps"
        )

    def _begin_impl(self, key: jax.Array) -> dict[str, Any]:
        size = self.venv.num_envs
        reset_key, act_key = jax.random.split(key)
        observation, env_state = self.venv.reset(reset_key)
        return {
            "env_state": env_state,
            "observation": observation,
            "reset": jnp.ones(size, bool),
            "carry": self.agent.initialize_carry(size),
            "key": act_key,
            "count": jnp.zeros(size, jnp.int32),
            "returns": jnp.zeros((self.quota, size), jnp.float32),
            "lengths": jnp.zeros((self.quota, size), jnp.int32),
        }

    def _chunk_impl(self, state: Any, play: dict[str, Any]) -> dict[str, Any]:
        return jax.lax.scan(lambda p, _: (self._step(state, p), None), play, None, _CHUNK)[0]

    def _step(self, state: Any, play: dict[str, Any]) -> dict[str, Any]:
        key, act_key = jax.random.split(play["key"])
        carry, action = self.agent.act(
            state, play["carry"], play["observation"], play["reset"], act_key, greedy=self.greedy
        )
        observation, env_state, _, _, _, info = self.venv.step(play["env_state"], action)
        episode = info["episode"]
        # Rows past the quota are out of bounds, and mode="drop" leaves them out.
        row = jnp.where(episode["done"], play["count"], self.quota)
        column = jnp.arange(self.venv.num_envs)
        return {
            "env_state": env_state,
            "observation": observation,
            "reset": episode["done"],
            "carry": carry,
            "key": key,
            "count": play["count"] + episode["done"],
            "returns": play["returns"].at[row, column].set(episode["return"], mode="drop"),
            "lengths": play["lengths"].at[row, column].set(episode["length"], mode="drop"),
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

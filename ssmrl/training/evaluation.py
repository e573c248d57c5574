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
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from ssmrl.training.agent import Player
from ssmrl.training.config import TrainConfig
from ssmrl.training.devices import compiler_options

_CHUNK = 128  # Steps per dispatch: long enough to hide its cost, short beside most episodes.
_LIMIT_FACTOR, _SMALLEST_LIMIT = 10, 10_000

# Fields in which environments declare the length of their longest episode.
_DECLARED = ("max_episode_steps", "max_steps_in_episode", "max_episode_length", "episode_length")


class EvaluationStoppedError(Exception):
    """An evaluation was asked to stop before its episodes had ended."""


@runtime_checkable
class HasTrials(Protocol):
    """An environment whose episodes have trials, in one task each (`ssmrl.envs.meta.Trials`).

    In ``info["trial"]`` it says to which one a step belongs.
    """

    trials: int
    """How many."""

    def references(
        self, params: Any, *, episodes: int = ..., seed: int = ...
    ) -> dict[str, np.ndarray]:
        """Returns by trial ``[E, trials]`` of policies that are known to be good, by name."""
        ...


def find_trials(venv: Any) -> HasTrials | None:
    """The environment with trials that ``venv`` has copies of; None if it has no trials."""
    env = getattr(getattr(venv, "unwrapped", venv), "env", None)
    return env if isinstance(env, HasTrials) else None


@dataclass(frozen=True)
class EvaluationResult:
    """Undiscounted returns and lengths (in steps) of ``E`` episodes, float ``[E]`` and int ``[E]``.

    Episode ``e`` is the ``e // B``-th of environment ``e % B``. ``finished``, bool ``[E]``, is
    False where an episode had not ended after the most steps that one may take; its return and
    length are those up to there. Left out, all have ended. ``info`` has numbers of the
    environment's own (`ssmrl.envs.EpisodeStatistics`) by name, as they were in each episode's last
    step, float ``[E]``; NaN where the environment did not say. ``trials``, float ``[E, K]``, are
    the returns of the trials of an episode, where the environment has ``K`` of them
    (`ssmrl.training.trials`).
    """

    returns: np.ndarray
    lengths: np.ndarray
    finished: np.ndarray | None = None
    info: dict[str, np.ndarray] = field(default_factory=dict)
    trials: np.ndarray | None = None

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
        "iqm_interval": [low, high], "median", "min", "max", "length", "info"}``. ``info`` has
        ``{"mean", "mean_interval"}`` by name, for what the environment said of any episode.
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
        "info": _summarise_info(results, confidence, reps),
    }


def info_means(info: dict[str, np.ndarray]) -> dict[str, float]:
    """The mean of each number of `EvaluationResult.info` over the episodes that it was said of;
    none of those that it never was."""
    known = {name: values[~np.isnan(values)] for name, values in info.items()}
    return {name: float(values.mean()) for name, values in known.items() if values.size}


def _summarise_info(
    results: Sequence[EvaluationResult], confidence: float, reps: int
) -> dict[str, Any]:
    names = sorted({name for result in results for name in info_means(result.info)})
    if not names:
        return {}
    values = np.array([[result.info[name] for name in names] for result in results])
    scores = values.transpose(2, 0, 1)  # [episodes, seeds, names]

    def means(x: np.ndarray) -> np.ndarray:
        x = x.reshape(scores.shape)
        with np.errstate(invalid="ignore"):  # 0 / 0 where a resample has none of those said
            return np.nansum(x, axis=(0, 1)) / (~np.isnan(x)).sum(axis=(0, 1))

    ends = interval_ends(scores.reshape(len(scores), -1), means, confidence, reps, seed=0)
    return {
        name: {"mean": float(mean), "mean_interval": _interval(ends, i)}
        for i, (name, mean) in enumerate(zip(names, means(scores), strict=True))
    }


def bootstrap(
    scores: np.ndarray, *, confidence: float = 0.95, reps: int = 2000, seed: int = 0
) -> dict[str, Any]:
    """Mean and IQM of ``scores [runs, tasks]`` with stratified bootstrap intervals (rliable).

    Runs are resampled within each task. With one run there is nothing to resample, and the
    intervals are null.
    """
    # rliable pulls in pandas, seaborn and arch: over a second that training need not pay.
    from rliable import metrics

    def aggregate(x: np.ndarray) -> np.ndarray:
        return np.array([metrics.aggregate_mean(x), interquartile_mean(x)])

    scores = np.asarray(scores, dtype=np.float64)
    mean, iqm = aggregate(scores)
    ends = interval_ends(scores, aggregate, confidence, reps, seed)
    return {
        "mean": float(mean),
        "iqm": float(iqm),
        "mean_interval": _interval(ends, 0),
        "iqm_interval": _interval(ends, 1),
    }


def interquartile_mean(scores: np.ndarray) -> float:
    """The mean of the middle half of all scores: at each end a quarter, rounded down, is cut off.

    It is ``rliable.metrics.aggregate_iqm``, NaN where there is one; but SciPy checks its arguments
    for longer than it computes, 2,000 times for an interval.
    """
    flat = scores.ravel()
    if np.isnan(flat).any():
        return float("nan")
    cut = flat.size // 4
    return float(np.partition(flat, (cut, flat.size - cut - 1))[cut : flat.size - cut].mean())


def _interval(ends: np.ndarray | None, i: int) -> list[float] | None:
    """The ends of a single interval; None where it has none."""
    return None if ends is None or np.isnan(ends[:, i]).any() else [float(x) for x in ends[:, i]]


def interval_ends(
    scores: np.ndarray,
    aggregate: Callable[[np.ndarray], np.ndarray],
    confidence: float,
    reps: int,
    seed: int,
) -> np.ndarray | None:
    """Lower and upper ends ``[2, n]`` of the bootstrap intervals of the ``n`` numbers that
    ``aggregate`` makes of ``scores [runs, tasks]``; None for a single run."""
    from rliable import library

    if scores.shape[0] < 2:
        return None
    # rliable 1.2 draws from NumPy's global generator, whatever random_state it is given.
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        _, intervals = library.get_interval_estimates(
            {"scores": scores}, aggregate, reps=reps, confidence_interval_size=confidence
        )
    finally:
        np.random.set_state(before)
    return np.asarray(intervals["scores"])


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
        agent: Player,
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
        env = find_trials(venv)
        self.trials = 0 if env is None else env.trials
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
        info: dict[str, np.ndarray] = {}
        while True:
            play, own_by_step = self._chunk(state, play, limit)
            self._note(info, own_by_step)
            missing = np.asarray(play["count"]) < self.quota
            if not missing.any():
                return EvaluationResult(
                    np.asarray(play["returns"], np.float64).ravel(),
                    np.asarray(play["lengths"]).ravel(),
                    np.asarray(play["finished"]).ravel(),
                    {name: values.ravel() for name, values in info.items()},
                    self._by_trial(play),
                )
            if should_stop():
                raise EvaluationStoppedError
            if np.asarray(play["cut"])[missing].all():
                # Whoever still has episodes to play sits in one that has been cut: all start anew.
                play = self._resume(play)

    def _by_trial(self, play: dict[str, Any]) -> np.ndarray | None:
        """Returns ``[E, K]`` of an environment with trials."""
        returns = np.asarray(play["by_trial"], np.float64)
        return returns.reshape(-1, self.trials) if self.trials else None

    def limit(self, longest_seen: float = 0.0) -> int:
        """The most steps of an episode."""
        return self.max_steps or default_max_steps(self.venv, longest_seen)

    def _note(self, info: dict[str, np.ndarray], own_by_step: Any) -> None:
        """Put what the environments say of themselves into arrays of episodes.

        Here, and not in the program as the returns: what they say is known once they are stepped.

        Args:
            info: arrays ``[quota, B]`` by name; those that are not there yet are added.
            own_by_step: of a chunk; rows of those arrays ``[T, B]``, the quota where there is
                nothing to note, and values ``[T, B]`` by name.
        """
        rows, values = jax.device_get(own_by_step)
        step, column = np.nonzero(rows < self.quota)
        for name, value in values.items():
            own = info.setdefault(name, np.full((self.quota, self.venv.num_envs), np.nan))
            last = value[step, column]
            own[rows[step, column], column] = np.where(np.isfinite(last), last, np.nan)

    def _begin_impl(self, key: jax.Array) -> dict[str, Any]:
        size = self.venv.num_envs
        reset_key, act_key = jax.random.split(key)
        return self._episodes_from(reset_key) | {
            "key": act_key,
            "count": jnp.zeros(size, jnp.int32),
            "returns": jnp.zeros((self.quota, size), jnp.float32),
            "lengths": jnp.zeros((self.quota, size), jnp.int32),
            "finished": jnp.zeros((self.quota, size), bool),
            "by_trial": jnp.zeros((self.quota, size, self.trials), jnp.float32),
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

    def _chunk_impl(
        self, state: Any, play: dict[str, Any], limit: jax.Array
    ) -> tuple[dict[str, Any], Any]:
        step = partial(self._step, state, limit)
        return jax.lax.scan(lambda p, _: step(p), play, None, _CHUNK)

    def _step(
        self, state: Any, limit: jax.Array, play: dict[str, Any]
    ) -> tuple[dict[str, Any], Any]:
        key, act_key = jax.random.split(play["key"])
        carry, action = self.agent.act(
            state, play["carry"], play["observation"], play["reset"], act_key, greedy=self.greedy
        )
        observation, env_state, reward, _, _, info = self.venv.step(play["env_state"], action)
        episode = info["episode"]
        done = episode["done"]
        # An episode is written down once: where it ends, or where it is cut before.
        over = (done | (episode["length"] >= limit)) & ~play["cut"]
        # Rows past the quota are out of bounds, and mode="drop" leaves them out.
        row = jnp.where(over, play["count"], self.quota)
        column = jnp.arange(self.venv.num_envs)
        by_trial = play["by_trial"]
        if self.trials:
            # The episode under way is the one that is written down next; none where it was cut.
            now = jnp.where(play["cut"], self.quota, play["count"])
            by_trial = by_trial.at[now, column, info["trial"]].add(reward, mode="drop")
        own = {
            name.removeprefix("info/"): value
            for name, value in episode.items()
            if name.startswith("info/")
        }
        play = {
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
            "by_trial": by_trial,
        }
        return play, (row, own)


def evaluate(
    agent: Player, state: Any, venv: Any, *, episodes: int, key: jax.Array, greedy: bool = True
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


def evaluate_seeds(
    evaluator: Callable[[Any, jax.Array], EvaluationResult],
    config: TrainConfig,
    state: Any,
    key_of: Callable[[int], jax.Array],
) -> list[EvaluationResult]:
    """Evaluate every seed of a run on episodes of its own.

    Args:
        evaluator: plays them, an `Evaluator`.
        config: of the run; says which seeds.
        state: of all seeds, as the loop has it.
        key_of: a trained seed's key. With one key for all, the seeds would meet the same episodes,
            their returns would rise and fall together, and intervals that take them as independent
            would be too narrow.

    Returns:
        One result for each seed, in order.
    """
    return [
        evaluator(one_seed(state, i, config.seeds), key_of(config.seed + i))
        for i in range(config.seeds)
    ]


def one_seed(state: Any, index: int, seeds: int) -> Any:
    """The state of the seed at ``index``, without the axis that several seeds have."""
    return state if seeds == 1 else jax.tree.map(lambda leaf: leaf[index], state)

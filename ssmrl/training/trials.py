"""Evaluation by trial: what an agent's memory learns within an episode of several trials.

An environment with trials (`ssmrl.envs.meta`) says in ``info["trial"]`` which one a step belongs
to, and `Evaluator` sums rewards by it. A return that grows over the trials is no proof that a
memory carries something: beside the agent, the same agent plays whose memory is reset at every
trial, and one that guesses. What is known of the task's optimum comes from the environment.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ssmrl.training.controls import ForgetsTrials, RandomAgent
from ssmrl.training.evaluation import EvaluationResult, interval_ends

AGENT, MEMORY_RESET, RANDOM = "agent", "memory_reset", "random"
"""Whose returns are compared: the agent's, its own without a memory of earlier trials, and those of
uniformly random actions."""


def compare_trials(
    results: Sequence[EvaluationResult],
    controls: Mapping[str, Sequence[EvaluationResult]],
    references: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Returns by trial of an agent, of its controls, and of what is known to be good.

    Args:
        results: of the agent, one for each trained seed.
        controls: of others, by name; `RANDOM` among them.
        references: returns by trial ``[E, K]``, by name.

    Returns:
        JSON values, ``{"policies": {name: curve}, "references": {name: curve}}``. A curve has the
        mean return of an episode and its interval under ``"return"`` and ``"return_interval"``, and
        by trial under ``"mean"`` ``[K]`` and ``"interval"`` ``[K]`` of ``[low, high]``; intervals
        are null where there is one episode. Each reference also has ``"reached"``: how far the
        agent has come from guessing, 0, to it, 1; null where it is no better than that.
    """
    policies = {
        name: trial_curve(np.stack([_trials_of(result) for result in played], axis=1))
        for name, played in {AGENT: results, **controls}.items()
    }
    curves = {name: trial_curve(returns[:, None]) for name, returns in references.items()}
    agent, guess = policies[AGENT]["return"], policies[RANDOM]["return"]
    for curve in curves.values():
        better = curve["return"] - guess
        curve["reached"] = (agent - guess) / better if better > 1e-9 else None
    return {"policies": policies, "references": curves}


def _trials_of(result: EvaluationResult) -> np.ndarray:
    assert result.trials is not None
    return result.trials


def trial_curve(
    returns: np.ndarray, *, confidence: float = 0.95, reps: int = 1000
) -> dict[str, Any]:
    """Means with stratified bootstrap intervals of returns ``[episodes, seeds, K]`` by trial.

    Returns:
        A curve of `compare_trials`.
    """
    totals = returns.sum(axis=2, keepdims=True)
    scores = np.concatenate([totals, returns], axis=2).astype(np.float64)
    shape = scores.shape

    def means(x: np.ndarray) -> np.ndarray:
        return x.reshape(shape).mean(axis=(0, 1))

    ends = interval_ends(scores.reshape(shape[0], -1), means, confidence, reps, seed=0)
    mean = means(scores)
    intervals = [None] * len(mean) if ends is None else ends.T.tolist()
    return {
        "return": float(mean[0]),
        "return_interval": intervals[0],
        "mean": mean[1:].tolist(),
        "interval": intervals[1:],
    }


def play_controls(
    agent: Any, venv: Any, play: Callable[[Any], list[EvaluationResult]]
) -> dict[str, list[EvaluationResult]]:
    """Results of the controls by name.

    Where the end of a trial is not always seen when it comes, no memory can be reset by it: that
    control is left out, since it would be none.

    Args:
        agent: whose policy forgets.
        venv: the environments.
        play: evaluates every seed of the run with an agent.
    """
    controls = {RANDOM: play(RandomAgent(venv))}
    if not venv.hides_steps:
        controls = {MEMORY_RESET: play(ForgetsTrials(agent, venv)), **controls}
    return controls

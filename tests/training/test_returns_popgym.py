"""A policy that does not learn has the training return that the evaluator says it is worth.

For every environment of POPGym: those with episodes of random length are where a mean over the
episodes that ended in an iteration was off by up to 1.5.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from jax import lax

from ssmrl.envs import list_envs, make_vector
from ssmrl.training import streams
from ssmrl.training.evaluation import Evaluator
from ssmrl.training.returns import (
    STARTS,
    TrainingReturns,
    read_points,
    tallies,
    weighted_mean,
    window_means,
)
from tests.agents.scripted import small_agent
from tests.compiling import shipped_jit

POPGYM = [env for env in list_envs() if env.startswith("popgym/")]
LABYRINTH = "popgym/labyrinth_escape_hard"
QUICK = (LABYRINTH, "popgym/minesweeper_easy", "popgym/position_only_cartpole_easy")


def measure(
    env: str, num_envs: int, rollout: int, iterations: int, truth_episodes: int, jit=jax.jit
):
    """Points of a training with lr = 0, its iterations' means, and returns by the evaluator."""
    options = {"lr": 0.0, "rollout_length": rollout, "num_envs": num_envs}
    venv = make_vector(env, num_envs)
    agent = small_agent(venv, "none", iterations=iterations, **options)
    key = streams.training_key(0)

    @jit
    def run(key):
        return lax.scan(lambda s, _: agent.iteration(s), agent.init(key), length=iterations)

    state, metrics = jax.device_get(run(key))
    first = agent.init(key)
    jax.tree.map(np.testing.assert_array_equal, state.params, first.params)
    of_starts = {n.removeprefix(STARTS): x for n, x in metrics.items() if n.startswith(STARTS)}
    steps = iterations * agent.steps_per_iteration
    returns = TrainingReturns(1, agent.steps_per_iteration, steps)
    lines = []
    for i in range(iterations):
        lines += returns.add(tallies({n: x[i] for n, x in of_starts.items()}, 1))[1]
    evaluator = Evaluator(agent, venv, episodes=truth_episodes, greedy=False)
    truth = evaluator(state, streams.training_key(1)).returns
    ended = metrics["episode_return"][metrics["episodes"] > 0]
    return read_points(lines)[0], steps, ended, truth


def check(env: str, **sizes: Any) -> float:
    """Mean and maximum within their sampling errors; returns how far off the old maximum is.

    The mean over all episodes that count is within 4.5 standard errors of the truth. The maximum of
    the means of W windows is not: of W means with errors e it is above the truth by what the
    largest of W errors is. But none of W errors is beyond 4.5 e but for a chance of W / 300,000,
    so that the maximum is not, either.
    """
    points, steps, ended, truth = measure(env, **sizes)
    episodes = sum(point.episodes for point in points)
    windows = window_means(points, steps)
    assert len(windows) >= 2 and episodes >= 50
    # Every environment begins one in the first point: windows are too long to tell by their means
    # that episodes were put where they ended.
    assert points[0].start == 0 and points[0].episodes >= sizes["num_envs"]
    # Where all episodes return the same, rounding is what is left.
    deviation, error = truth.std(ddof=1), 4.5 * truth.std(ddof=1) / np.sqrt(truth.size) + 1e-6
    mean, value = weighted_mean(points), truth.mean()
    assert abs(mean - value) < 4.5 * deviation / np.sqrt(episodes) + error
    # Windows are of equal length; the smallest holds the episodes of the fewest points in a row.
    counts = np.array([point.episodes for point in points])
    per_window = len(points) // len(windows)
    fewest = np.convolve(counts, np.ones(per_window), "valid").min()
    assert abs(windows.max() - value) < 4.5 * deviation / np.sqrt(fewest) + error
    return (ended.max() - value) / (4.5 * deviation / np.sqrt(fewest) + error)


@pytest.mark.parametrize("env", QUICK)
def test_a_policy_that_does_not_learn_is_worth_what_it_is(env):
    off = check(env, num_envs=32, rollout=128, iterations=26, truth_episodes=32)
    # The maximum over iterations of what ended in them fails by far where few episodes do.
    assert env != LABYRINTH or off > 3


@pytest.mark.slow
@pytest.mark.parametrize("env", POPGYM)
def test_no_environment_has_a_biased_return(env):
    """With the windows of the published protocol, of 65,536 steps."""
    sizes = {"num_envs": 64, "rollout": 128, "iterations": 40, "truth_episodes": 256}
    check(env, jit=shipped_jit, **sizes)

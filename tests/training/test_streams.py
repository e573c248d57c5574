"""No two purposes share an episode, whatever the seeds and however many environments."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import jax
import numpy as np
import pytest

from ssmrl.training import streams
from ssmrl.training.config import EnvConfig, EvaluateConfig
from ssmrl.training.evaluation import EvaluationResult, Evaluator, evaluate_seeds, summarise
from ssmrl.training.loop import seed_keys
from ssmrl.training.run_evaluation import evaluate_run
from ssmrl.training.run_training import run_training
from tests.training.stub import STUB, StubAgent, StubConfig, StubMemoryConfig, StubVectorEnv
from tests.training.stub_train import ROOT


def words(key: jax.Array) -> tuple[int, ...]:
    return tuple(np.asarray(jax.random.key_data(key)).tolist())


SEEDS = (*range(12), 0x5EED, 2**31 - 1)
STEPS = (0, 1, 100, 2**32, 2**32 + 1)
KEYS = {
    "training": [streams.training_key(s) for s in SEEDS],
    "restart": [streams.restart_key(s, t) for s in SEEDS for t in STEPS],
    "while training": [streams.evaluation_while_training_key(s, t) for s in SEEDS for t in STEPS],
    "evaluation": [streams.evaluation_key(s, k) for s in SEEDS for k in SEEDS],
    "video": [streams.video_key(s, k) for s in SEEDS for k in SEEDS],
    "acting": [streams.acting_key(s) for s in SEEDS],
    "benchmark": [streams.benchmark_key(s) for s in SEEDS],
    # What somebody who has not read the module would use.
    "none": [jax.random.key(s) for s in SEEDS],
}


def test_a_number_once_used_is_not_given_to_another_purpose():
    """Runs that were begun with an earlier version go on with the same draws."""
    names = [purpose.name for purpose in streams._Purpose]
    assert names == [
        *("TRAINING", "RESTART", "EVALUATION_WHILE_TRAINING"),
        *("EVALUATION", "VIDEO", "ACTING", "BENCHMARK"),
    ]
    assert [int(purpose) for purpose in streams._Purpose] == [0x55A10000 + i for i in range(7)]


@pytest.mark.parametrize(
    ("step", "low", "high"), [(5, 5, 0), (2**31 + 5, 2**31 + 5, 0), (2**33 + 5, 5, 2)]
)
def test_a_step_is_folded_in_as_two_words(step, low, high):
    key = jax.random.fold_in(jax.random.key(3), 0x55A10001)
    key = jax.random.fold_in(jax.random.fold_in(key, low), high)
    assert words(streams.restart_key(3, step)) == words(key)


def test_children_of_a_key_are_the_same_however_they_are_made():
    """Why streams are needed at all: splitting one key in two ways gives the same keys."""
    key = jax.random.key(3)
    assert words(jax.random.split(key, 3)[0]) == words(jax.random.split(key, 2)[0])
    assert words(jax.random.split(key, 3)[1]) == words(jax.random.fold_in(key, 1))


def test_no_two_streams_meet_within_two_splits():
    """Keys, their first children (environments, draws) and grandchildren: all differ."""

    @jax.jit
    def family(key):
        children = jax.random.split(key, 8)
        grandchildren = jax.vmap(lambda child: jax.random.split(child, 8))(children).reshape(-1)
        return jax.random.key_data(jax.numpy.concatenate([key[None], children, grandchildren]))

    every = jax.vmap(family)(jax.numpy.stack(list(itertools.chain(*KEYS.values()))))
    rows = np.asarray(every).reshape(-1, 2)
    assert len(np.unique(rows, axis=0)) == len(rows) == 73 * sum(map(len, KEYS.values()))


def test_a_seed_has_the_same_key_alone_and_beside_others():
    keys = seed_keys(2**31 - 1, 2)
    assert words(keys[0]) == words(streams.training_key(2**31 - 1))
    assert words(keys[1]) == words(streams.training_key(np.uint32(2**31)))
    assert words(keys[0]) != words(keys[1])


def test_benchmarks_of_learning_have_a_stream_of_their_own():
    """What they play beside a training would else be the very episodes of another purpose."""
    folder = ROOT / "benchmarks/learning"
    texts = {path.name: path.read_text() for path in folder.glob("*.py")}
    # Scripted players meet no training; probes and minibatches are drawn, and nothing is played.
    own = [name for name, text in sorted(texts.items()) if "random.key(" in text]
    assert own == ["diagnosis.py", "popgym_optimum.py", "probing.py"]
    assert sum("benchmark_key(" in text for text in texts.values()) == 5


# --------------------------------------------------------------------------------- the wiring


class Spy(StubVectorEnv):
    """Notes the key of every reset, per environment, as `JaxVectorEnv` derives them."""

    seen: list[tuple[int, ...]] = []  # noqa: RUF012  # cleared by the test

    def reset(self, key):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(self.num_envs))
        jax.debug.callback(
            lambda rows: self.seen.extend(map(tuple, np.asarray(rows).tolist())),
            jax.random.key_data(keys),
        )
        return super().reset(key)


SPIED = dataclasses.replace(
    STUB, make_vector=lambda name, num_envs, **options: Spy(num_envs, **options)
)


def episodes_of(action) -> set[tuple[int, ...]]:
    """The first episodes that ``action`` begins; none may begin twice."""
    Spy.seen.clear()
    action()
    jax.effects_barrier()
    repeated = [key for key, count in Counter(Spy.seen).items() if count > 1]
    assert not repeated
    return set(Spy.seen)


def test_a_run_its_evaluations_and_its_video_begin_different_episodes(make_config, record):
    """Training with seeds 0 and 1, two evaluations of each; evaluate.py with seeds 0 and 1."""
    config = make_config(total_steps=40, eval_every=20, eval_episodes=4, seeds=2)

    def evaluate(seed, video):
        evaluate_run(
            EvaluateConfig(
                run="runs/test",
                env=EnvConfig(name="run"),
                seed=seed,
                num_envs=8,
                episodes=8,
                video=video,
            ),
            SPIED,
        )

    parts = [
        episodes_of(lambda: run_training(config, SPIED, reporter=record)),
        episodes_of(lambda: evaluate(0, video=True)),
        episodes_of(lambda: evaluate(1, video=False)),
    ]
    assert [len(part) for part in parts] == [2 * 4 + 2 * 2 * 4, 2 * 8 + 1, 2 * 8]
    assert len(set.union(*parts)) == sum(map(len, parts))


# ------------------------------------------------------------------------- honest intervals


class Lottery(StubVectorEnv):
    """One step; the reward is a standard normal draw of the environment, the policy is idle."""

    def reset(self, key):
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, np.arange(self.num_envs))
        observation, state = super().reset(key)
        return observation, state | {"prize": jax.vmap(jax.random.normal)(keys)}

    def step(self, state, action):
        observation, new, *rest, info = super().step(state, action)
        ones = jax.numpy.ones(self.num_envs, np.int32)
        info["episode"] = {"done": ones > 0, "return": state["prize"], "length": ones}
        return observation, new | {"prize": state["prize"]}, *rest, info


@pytest.fixture(scope="module")
def lottery():
    """An evaluator of 32 draws a seed, and a state of four seeds."""
    venv = Lottery(32)
    agent = StubAgent(StubConfig(), StubMemoryConfig(), venv, False)
    evaluator = Evaluator(agent, venv, episodes=32)
    return evaluator, {"unused": np.zeros(4)}


def draws(lottery, make_config, seed: int, key_of) -> list[EvaluationResult]:
    evaluator, state = lottery
    config = make_config(seeds=4, seed=seed)
    return evaluate_seeds(evaluator, config, state, key_of)


def test_intervals_over_seeds_hold_the_truth_as_often_as_they_say(lottery, make_config):
    """95 % intervals of four seeds, 60 times: 52 or more hold it with probability .99.

    A bootstrap of 32 draws a seed by percentiles covers about 94.5 %. With one key for all seeds
    it would be 67 %, 52 or more with probability .0005: the mean of four equal rows is as uncertain
    as one row, and the interval is half as wide as it should be.
    """
    covered = 0
    for seed in range(60):
        results = draws(lottery, make_config, 0, lambda k, s=seed: streams.evaluation_key(s, k))
        low, high = summarise(results, reps=200)["mean_interval"]
        covered += low <= 0.0 <= high
    assert covered >= 52


def test_seeds_trained_in_runs_of_their_own_are_independent_too(lottery, make_config):
    """evaluate.py's default seed for each of them: their episodes must not be the same."""
    runs = [
        draws(lottery, make_config, first, lambda k: streams.evaluation_key(0, k))
        for first in (0, 4)
    ]
    returns = np.stack([result.returns for run in runs for result in run])
    correlation = np.corrcoef(returns)[np.triu_indices(8, 1)]
    # 32 pairs of independent draws: the standard error is .18.
    assert np.abs(correlation).max() < 0.6

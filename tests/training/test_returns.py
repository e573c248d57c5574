"""The training return: episodes by when they began, against tables and plain bookkeeping."""

from __future__ import annotations

import dataclasses
import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.agents.rollout import episode_metrics, episode_starts
from ssmrl.training.loop import train
from ssmrl.training.plotting import read_curves
from ssmrl.training.returns import (
    WINDOW,
    Point,
    Tally,
    TrainingReturns,
    point_length,
    read_points,
    tallies,
    weighted_mean,
    window_length,
    window_means,
)
from ssmrl.training.run import RunFolder, read_metrics

# ----------------------------------------------------------------------------- what agents say


def test_the_episodes_of_a_rollout_by_when_they_began():
    """Four steps of four environments, by hand.

    The first ends episodes of two steps, the second one of six that began in the rollout before,
    the third one of thirteen that began three before, and then three of one step; the fourth's has
    been under way for nine steps and does not end.
    """
    done = [[0, 0, 1, 0], [1, 0, 1, 0], [0, 0, 1, 0], [1, 1, 1, 0]]
    length = [[1, 3, 13, 6], [2, 4, 1, 7], [1, 5, 1, 8], [2, 6, 1, 9]]
    returns = [[7, 7, 1.5, 7], [2, 7, 10, 7], [7, 7, 20, 7], [4, 0.5, 30, 7]]
    starts = episode_starts(
        {"done": jnp.array(done, bool), "length": jnp.array(length), "return": jnp.array(returns)}
    )
    assert starts["starts/episodes"] == 2 + 3 and starts["starts/return"] == 2 + 4 + 60
    assert starts["starts/ago"].tolist() == [0, 1, 3, 0]
    assert starts["starts/earlier_return"].tolist() == [0, 0.5, 1.5, 0]
    assert starts["starts/unfinished"] == 2  # after five steps before the rollout
    assert starts["starts/longest"] == 3  # thirteen steps: three rollouts after its first step's


def play(episodes: list[list[tuple[int, float]]], steps: int):
    """``info["episode"]`` of environments that play these (length, return), one after the other.

    And the same as a list of (first step, step after the last, return), those under way left out.
    """
    shape = (steps, len(episodes))
    record = {"done": np.zeros(shape, bool), "length": np.zeros(shape, np.int32)}
    record["return"] = np.full(shape, 1e6, np.float32)  # what must not be read
    table = []
    for b, row in enumerate(episodes):
        start = 0
        for length, value in row:
            end = min(start + length, steps)
            record["length"][start:end, b] = 1 + np.arange(end - start)
            if start + length <= steps:
                record["done"][end - 1, b] = True
                record["return"][end - 1, b] = value
                table.append((start, end, value))
            start = end
        assert start == steps, "not enough episodes"
    return record, table


split = jax.jit(episode_starts)


def tallies_of(records: list[dict[str, np.ndarray]], rollout: int) -> list[list[Tally]]:
    """Of each rollout, what `records`, one for each seed, have in it."""
    count = len(records[0]["done"]) // rollout
    cut = [
        [
            split({k: v[i * rollout : (i + 1) * rollout] for k, v in record.items()})
            for record in records
        ]
        for i in range(count)
    ]
    names = [name.removeprefix("starts/") for name in cut[0][0]]
    one = len(records) == 1
    return [
        tallies(
            {
                name: np.asarray(of[0][f"starts/{name}"])
                if one
                else np.stack([seed[f"starts/{name}"] for seed in of])
                for name in names
            },
            len(records),
        )
        for of in cut
    ]


def follow(returns: TrainingReturns, all_tallies, first: int = 0):
    """The records with their steps, and the lines of metrics."""
    records, lines = [], []
    for i, tally in enumerate(all_tallies, first):
        step = (i + 1) * returns.size
        record, points = returns.add(tally)
        records.append(json.loads(json.dumps({"step": step, **record})))
        lines += [{"step": step, **point} for point in points]
    return records, lines


# ------------------------------------------------------------------------------- where they go


def test_short_episodes_are_not_counted_before_the_long_ones_beside_them():
    """By hand: two environments, rollouts of 10 steps, points of one rollout (20 steps).

    The first plays ten episodes of one step, return 1, and then one of 100, return -1; the second
    one of 100 at once. In the first rollout ten end, all of return 1: the mean of what ended is 1.
    What began in it are those ten and one of return -1: 9/11. Nothing
    began in rollouts 2 to 9, and what began in 10 does not end.
    """
    row = [*[(1, 1.0)] * 10, (100, -1.0), (200, 0.0)]
    record, _ = play([row, [(100, -1.0), (200, 0.0)]], 240)
    returns = TrainingReturns(1, steps_per_iteration=20, total_steps=20)
    assert returns.length == 1
    _, lines = follow(returns, tallies_of([record], 10))
    points = read_points(lines)[0]
    assert points[:2] == [Point(0, 20, 11, 9 / 11), Point(20, 40, 1, -1.0)]
    # The first point was known after the long episode in it had ended, in step 100 of each,
    # and one that began in its last step had had the time to.
    assert lines[0]["step"] == 220
    assert [(p.start, p.episodes) for p in points[2:]] == [(20 * i, 0) for i in range(2, 10)]
    first = {name: jnp.asarray(x[:10]) for name, x in record.items()}
    assert episode_metrics(first)["episode_return"] == 1.0


def random_episodes(rng, envs: int, steps: int) -> list[list[tuple[int, float]]]:
    lengths = [rng.choice([1, 2, 7, 23, 40], steps) for _ in range(envs)]
    rows = [[(int(n), float(rng.integers(-8, 9)) / 8) for n in row] for row in lengths]
    for row in rows:
        ends = np.cumsum([n for n, _ in row])
        del row[int(np.searchsorted(ends, steps)) + 1 :]
    return rows


@pytest.fixture(scope="module")
def three_seeds():
    """Of three seeds with four environments each: tallies of 60 rollouts of 6 steps, and tables."""
    rng = np.random.default_rng(0)
    played = [play(random_episodes(rng, 4, 360), 360) for _ in range(3)]
    return tallies_of([record for record, _ in played], 6), [table for _, table in played]


def three(lines=(), step=0) -> TrainingReturns:
    """Points of four rollouts, 96 steps: a sixteenth of 1,500 steps."""
    return TrainingReturns(3, 24, 1500, lines, step)


def test_every_point_is_the_mean_of_what_began_in_it(three_seeds):
    all_tallies, tables = three_seeds
    _, lines = follow(three(), all_tallies)
    seeds = read_points(lines)
    for seed, table in enumerate(tables):
        points = seeds[seed]
        # The longest take 40 steps, 7 rollouts: of 15 points the last two are not known.
        assert [point.start for point in points] == [96 * i for i in range(13)]
        for point in points:
            # An environment's steps are a quarter of all.
            began = [r for start, _, r in table if point.start <= 4 * start < point.until]
            assert point.episodes == len(began)
            mean = np.mean(began) if began else math.nan
            assert point.value == pytest.approx(mean, abs=1e-12, nan_ok=True)
    assert all(lines[i]["step"] <= lines[i + 1]["step"] for i in range(len(lines) - 1))


@pytest.mark.parametrize("stopped", [1, 17, 18, 35])
def test_a_resume_in_the_middle_of_a_point_changes_nothing(three_seeds, stopped):
    all_tallies, _ = three_seeds
    records, lines = follow(three(), all_tallies)
    first_records, first_lines = follow(three(), all_tallies[:stopped])
    # As long as its points were, whatever the total is now.
    resumed = TrainingReturns(3, 24, 9_999_999, first_records, stopped * 24)
    assert resumed.is_whole
    other_records, other_lines = follow(resumed, all_tallies[stopped:], stopped)
    assert first_lines + other_lines == lines
    assert first_records + other_records == records


def test_without_what_was_before_only_later_points_count(three_seeds):
    """A run from before these records, resumed at rollout 18: points 0 to 4 are not known."""
    all_tallies, _ = three_seeds
    _, lines = follow(three(), all_tallies)
    resumed = three([], 18 * 24)
    assert not resumed.is_whole
    marker = {"step": 18 * 24, **resumed.abandon(18 * 24)}
    records, later = follow(resumed, all_tallies[18:], 18)
    assert read_points(later)[1] == read_points(lines)[1][5:]
    # Resumed once more, it still knows.
    again = three([marker, *records[:10]], 28 * 24)
    assert again.is_whole
    _, last = follow(again, all_tallies[28:], 28)
    assert last == [line for line in later if line["step"] > 28 * 24]


def test_points_with_episodes_that_were_lost_do_not_count():
    """A host environment starts afresh on a resume: whose episodes were under way are void.

    Rollouts of 10 steps, one point each. An episode of 25 steps began in rollout 1, step 15; the
    process ends after rollout 2, and a new one goes on with episodes of 5 steps.
    """
    record, _ = play([[(5, 1.0)] * 3 + [(25, 9.0)]], 40)
    before = tallies_of([record], 10)[:3]
    fresh, _ = play([[(5, 2.0)] * 8], 40)
    after = tallies_of([fresh], 10)
    returns = TrainingReturns(1, 10, 10)
    records, lines = follow(returns, before)
    marker = {"step": 30, **returns.abandon(30)}
    _, more = follow(returns, after, 3)
    expected = [Point(0, 10, 2, 1.0), *[Point(s, s + 10, 2, 2.0) for s in (30, 40, 50)]]
    assert read_points(lines + more)[0] == expected
    resumed = TrainingReturns(1, 10, 10, [*records, marker], 30)
    assert follow(resumed, after, 3)[1] == more
    # Where every last step ended an episode nothing was lost.
    returns = TrainingReturns(1, 10, 10)
    follow(returns, after[:2])
    returns.abandon(20)
    assert [p.start for p in read_points(follow(returns, after[:2], 2)[1])[0]] == [10, 20]


def test_a_return_that_is_no_number_is_no_point():
    tally = Tally([(0, 1, math.nan)], -1, 0)
    returns = TrainingReturns(1, 10, 10)
    record, points = returns.add([tally])
    line = {"step": 10, "seeds": [[[[0, 1, None]], -1, 0]], "point": 1}
    assert math.isnan(record["seeds"][0][0][0][2]) and math.isnan(points[0]["training_return"])
    assert read_points([points[0] | {"training_return": None}]) == {}
    TrainingReturns(1, 10, 10, [line], 10)


DAMAGED = {
    "what seeds did is missing": [{"step": 10, "point": 1}],
    "it is none": [{"step": 10, "point": 1, "seeds": None}],
    "seeds that are none": [{"step": 10, "point": 1, "seeds": [None]}],
    "points of nothing": [{"step": 10, "point": 0, "seeds": [[[], -1, 0]]}],
    "a line is missing": [{"step": 20, "point": 1, "seeds": [[[], -1, 0]]}],
    "another number of seeds": [{"step": 10, "point": 1, "seeds": [[[], -1, 0]] * 2}],
}


@pytest.mark.parametrize("how", DAMAGED)
def test_from_damaged_records_nothing_is_known(how):
    lines = DAMAGED[how]
    step = 20 if how == "a line is missing" else 10
    returns = TrainingReturns(1, 10, 480, lines, step)
    assert not returns.is_whole and returns.length == 3
    assert TrainingReturns(1, 10, 480).is_whole


def test_lines_that_say_no_point_are_passed_over():
    """Beside those that do, seed by seed."""
    nothing = line(3, 0, 10, 1.0, 1)
    read = read_points(
        [
            {"step": 1, "loss": 2.0},
            nothing | {"training_return_from": None},
            nothing | {"training_return_until": None},
            line(4, 10, 10, 1.0, 1),
            line(5, 20, 10, 1.0, 1),
            line(6, 10, 20, [1.0, 3.0, 4.0], [None, 2, 1]),
            line(7, 0, 10, [None, None, 6.0], [0, 1, 2]),
            line(8, 20, 30, 5.0, [1, 1]),  # One return of two seeds is the first's.
        ]
    )
    assert read[0][1] == Point(20, 30, 1, 5.0)
    assert read[0][0][:3] == (0, 10, 0) and math.isnan(read[0][0].value)
    assert read[1] == [Point(10, 20, 2, 3.0)]
    assert read[2] == [Point(0, 10, 2, 6.0), Point(10, 20, 1, 4.0)]


# -------------------------------------------------------------------------------- without bias


def test_it_has_no_bias_where_what_ended_has():
    """Half of the episodes take a step and return 1, half take 10 to 50 and return -1: 0 in all.

    Many trainings of ten rollouts of 25 steps with one environment. Whether a point counts must not
    depend on its own episodes either, so that the last ones are looked at, too.
    """
    rng, rollout, ended = np.random.default_rng(1), 25, []
    sums, counts = np.zeros(10), np.zeros(10)
    for _ in range(2000):
        long = rng.random(260) < 0.5
        lengths = np.where(long, rng.integers(10, 51, 260), 1)
        value = np.where(long, -1.0, 1.0)
        ends = np.cumsum(lengths)
        first, last = (ends - lengths) // rollout, (ends - 1) // rollout
        returns = TrainingReturns(1, rollout, 1)
        for i in range(10):
            here = last == i
            began = [
                (int(i - r), int((here & (first == r)).sum()), value[here & (first == r)].sum())
                for r in np.unique(first[here])
            ]
            under_way = first[(first <= i) & (last > i)]
            unfinished = int(i - under_way[0]) if under_way.size else -1
            longest = int(np.max((lengths[here] - 1 + 24) // 25, initial=0))
            for point in returns.add([Tally(began, unfinished, longest)])[1]:
                if episodes := point["training_return_episodes"]:
                    number = point["training_return_from"] // rollout
                    sums[number] += episodes * point["training_return"]
                    counts[number] += episodes
        ended.append(value[last == 0])
    assert (counts[:8] > 1000).all()
    means, errors = sums / np.maximum(counts, 1), 1 / np.sqrt(np.maximum(counts, 1))
    assert (np.abs(means) < 4 * errors)[counts > 0].all(), (means, errors)
    # By what ended in the first rollout most episodes are short ones.
    assert np.concatenate(ended).mean() > 0.5


# ------------------------------------------------------------------------------ windows, curves


@pytest.mark.parametrize(
    ("total", "size", "iterations", "window"),
    [
        (15_000_000, 8192, 8, 65_536),
        (1_000_000, 8192, 8, 65_536),  # 16 points would be of 62,500 steps, rounded up
        (300_000, 8192, 3, 65_536),
        (100_000, 8192, 1, 25_000),
        (80_000, 1024, 5, 20_000),
        (15_000_000, 100_000, 1, 65_536),
        (20, 20, 1, 5),
        (22, 20, 1, 6),
        (0, 20, 1, 0),
    ],
)
def test_how_many_steps_a_point_and_a_window_have(total, size, iterations, window):
    assert (point_length(total, size), window_length(total)) == (iterations, window)


def test_a_window_is_made_of_whole_points_weighted_by_their_episodes():
    """Points of 40,000 steps, windows of two. The second lacks a point, the last is half."""
    values = [(1, 0.0), (3, 4.0), (5, 9.0), None, (0, math.nan), (2, 1.0), (1, 100.0)]
    points = [
        Point(40_000 * i, 40_000 * (i + 1), *of) for i, of in enumerate(values) if of is not None
    ]
    np.testing.assert_array_equal(window_means(points, 300_000), [3.0, 1.0])
    assert weighted_mean(points) == (12 + 45 + 2 + 100) / 12
    # In a run shorter than four windows, of a quarter each: 30,000 steps, a point.
    np.testing.assert_array_equal(window_means(points, 120_000), [0.0, 4.0, 9.0, 1.0, 100.0])
    # Where there is no whole window, all that there is.
    np.testing.assert_array_equal(window_means(points[:1], 300_000), [0.0])
    assert window_means([], 300_000).size == 0


def line(step, start, until, value, episodes):
    companions = {"from": start, "until": until, "episodes": episodes}
    named = {f"training_return_{name}": x for name, x in companions.items()}
    return {"step": step, "training_return": value, **named}


def test_the_figures_of_a_run_are_weighted_by_episodes():
    """What an iteration's mean says counts for nothing. Points of 32,768 steps, two a window."""
    n = WINDOW // 2
    counts, values = [10, 30, 20, 20, 0, 9, 90], [1.0, 2.0, 3.0, 0.0, None, 5.0, 4.0]
    lines = [
        line((i + 2) * n, i * n, (i + 1) * n, value, episodes) | {"episode_return": 1e6}
        for i, (episodes, value) in enumerate(zip(counts, values, strict=True))
    ]
    run = RunFolder("runs/a")
    run.create({})
    run.metrics.write_text("".join(json.dumps(x) + "\n" for x in lines))
    (curve,) = read_curves(run.path)
    np.testing.assert_array_equal(curve.steps, [n * i for i in (1, 2, 3, 4, 6, 7)])
    np.testing.assert_array_equal(curve.windows, [1.75, 1.5, 5.0])
    assert curve.mmer == 5.0
    # The last tenth begins at 6.3 n.
    assert curve.final == 4.0
    early = dataclasses.replace(curve, steps=np.array([1.0, 2, 3, 4, 9, 9.5]))
    assert early.final == pytest.approx((9 * 5 + 90 * 4) / 99)


# ------------------------------------------------------------------------------------- the loop


class Player:
    """An agent whose four environments play drawn episodes of 1, 9 or 30 steps, five at a time."""

    steps_per_iteration = 20

    def init(self, key):
        return {"key": key, "age": jnp.zeros(4, jnp.int32), "length": jnp.full(4, 9)}

    def iteration(self, state):
        def step(state, _):
            key, draw = jax.random.split(state["key"])
            age = state["age"] + 1
            done = age >= state["length"]
            next_ = jax.random.choice(draw, jnp.array([1, 1, 9, 30]), (4,))
            episode = {"done": done, "length": age, "return": jnp.sin(age * 1.0) + age / 7}
            length = jnp.where(done, next_, state["length"])
            return {"key": key, "age": jnp.where(done, 0, age), "length": length}, episode

        state, episode = jax.lax.scan(step, state, length=5)
        return state, episode_metrics(episode)

    def restart(self, state, key):
        return self.init(key)

    def initialize_carry(self, batch_size):
        return jnp.zeros(batch_size)

    def act(self, state, carry, observation, reset, key, *, greedy):
        return carry, jnp.zeros(len(reset))


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_resumed_run_has_the_same_training_return(make_config, record, seeds):
    """Three rollouts a point, and 8 of 40 rollouts before the checkpoint."""

    def run(path, total, **options):
        config = make_config(
            total_steps=total, run_dir=path, seeds=seeds, checkpoint_every=160, **options
        )
        folder = RunFolder(path)
        if not folder.exists():
            folder.create({})
        train(Player(), config, folder, reporter=record)
        lines = read_metrics(folder.metrics)
        return folder, [{k: v for k, v in x.items() if not k.startswith("time/")} for x in lines]

    whole, expected = run("runs/whole", 800)
    parts, _ = run("runs/parts", 800)
    # A crash after the checkpoint of step 160: what was written since is done again.
    for path in parts.checkpoints.glob("*"):
        if path.name.isdigit() and int(path.name) > 160:
            path.rename(parts.path / f"lost-{path.name}")
    _, lines = run("runs/parts", 800, resume=True)
    assert lines == expected
    assert parts.episodes.read_bytes() == whole.episodes.read_bytes()
    points = read_points(lines)
    assert sorted(points) == list(range(seeds)) and all(len(ps) >= 8 for ps in points.values())
    assert not any(name.startswith("starts/") for x in lines for name in x)


def test_a_host_environment_loses_what_was_under_way(make_config, record):
    config = make_config(total_steps=400, checkpoint_every=0)
    run = RunFolder(config.run_dir)
    run.create({})
    train(Player(), config, run, reporter=record, is_host=True)
    before = read_points(read_metrics(run.metrics))[0]
    config = dataclasses.replace(config, total_steps=800, resume=True)
    train(Player(), config, run, reporter=record, is_host=True)
    points = read_points(read_metrics(run.metrics))[0]
    assert points[: len(before)] == before
    # Points are of two rollouts, 40 steps; the one that the resume is in begins at its step.
    assert next(p.start for p in points if p.start >= 400) == 400
    assert not any(before[-1].start + 40 < p.start < 400 for p in points)

"""Replay windows against a plain loop over episodes, and the ring buffer's edges."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.agents.dreamer import DreamerConfig
from ssmrl.agents.dreamer.dreamer import Carry
from ssmrl.agents.dreamer.replay import Replay, Step, Windows, bytes_per_step, unfold
from ssmrl.envs import spaces
from tests.agents.scripted import flags

# Ends at the first and last steps of windows, two and three in a row, in both ways, and never.
TERMINATED, TRUNCATED = flags(
    ["..E...U.", "E......X", "........", "EUE..EE.", "......UU", "UUUUUUUU"]
)


def steps_of(terminated, truncated, seed=0):
    """Steps `[T, B]` whose every number says where it comes from, and all distinct."""
    T, B = terminated.shape
    code = np.arange(T)[:, None] + 100.0 * np.arange(1, B + 1)
    done = terminated | truncated
    reset = np.concatenate([np.random.default_rng(seed).random((1, B)) < 0.5, done[:-1]])
    following = np.concatenate([code[1:], code[-1:] + 1])
    return Step(
        observation={"x": jnp.asarray(code), "wide": jnp.asarray(code)[..., None, None]},
        reset=jnp.asarray(reset),
        context=None,
        action=jnp.asarray(code + 0.25),
        reward=jnp.asarray(code + 0.5),
        terminated=jnp.asarray(terminated),
        truncated=jnp.asarray(truncated),
        final_observation={
            "x": jnp.asarray(np.where(done, code + 0.75, following)),
            "wide": jnp.asarray(np.where(done, code + 0.75, following))[..., None, None],
        },
    )


def observations_of(steps, b):
    """The observations of one environment, one after the other, each with what led to it."""
    rows, cause = [], None
    for t in range(len(steps.reward)):
        first = bool(steps.reset[t, b])
        known = first or cause is not None
        rows.append(
            {
                "observation": float(steps.observation["x"][t, b]),
                "reset": first,
                "action": None if first or cause is None else float(steps.action[cause, b]),
                "reward": 0.0 if first or cause is None else float(steps.reward[cause, b]),
                "known": known,
                "terminated": False,
                "last": False,
            }
        )
        cause = t
        if steps.terminated[t, b] or steps.truncated[t, b]:
            rows.append(
                {
                    "observation": float(steps.final_observation["x"][t, b]),
                    "reset": False,
                    "action": float(steps.action[t, b]),
                    "reward": float(steps.reward[t, b]),
                    "known": True,
                    "terminated": bool(steps.terminated[t, b]),
                    "last": True,
                }
            )
    return rows


@pytest.mark.parametrize("has_context", [False, True])
def test_windows_of_observations_against_a_loop(has_context):
    steps = steps_of(TERMINATED, TRUNCATED)
    batch = unfold(steps, has_context=has_context)
    T, B = TERMINATED.shape
    for b in range(B):
        rows = observations_of(steps, b)[:T]
        rows[0]["reset"] |= not has_context
        for t, row in enumerate(rows):
            assert batch.observation["x"][t, b] == row["observation"], (t, b)
            assert batch.observation["wide"][t, b, 0, 0] == row["observation"]
            if not row["reset"] and t:
                assert batch.action[t, b] == row["action"]
            for name in ("reset", "reward", "known", "terminated", "last"):
                assert getattr(batch, name)[t, b] == row[name], (name, t, b)


def test_an_episode_by_hand():
    """Two steps, then the episode terminates; the next one begins behind its final observation."""
    terminated = np.array([[False], [True], [False], [False]])
    batch = unfold(steps_of(terminated, terminated & False), has_context=False)
    columns = {
        "observation": [100, 101, 101.75, 102],  # the final observation of step 1 comes between
        "action": [None, 100.25, 101.25, None],  # what led there
        "reward": [0, 100.5, 101.5, 0],  # the last reward belongs to the final observation
        "reset": [True, False, False, True],
        "terminated": [False, False, True, False],
        "last": [False, False, True, False],
    }
    for name, column in columns.items():
        values = batch.observation["x"] if name == "observation" else getattr(batch, name)
        for value, expected in zip(values[:, 0], column, strict=True):
            assert expected is None or value == expected, name


def test_interrupted_episodes_end_where_they_are_known():
    """New episodes after a resume begin with a reset that no end goes before."""
    steps = steps_of(TERMINATED[:4, 2:3], TRUNCATED[:4, 2:3])
    steps = steps.replace(reset=jnp.array([[True], [False], [True], [False]]))
    batch = unfold(steps, has_context=False)
    assert batch.last[:, 0].tolist() == [False, True, False, False]
    assert not batch.terminated.any()
    assert batch.reward[2, 0] == 0


# -------------------------------------------------------------------------------- ring buffer

CONFIG = DreamerConfig(
    num_envs=3,
    rollout_length=4,
    batch_size=64,
    batch_length=5,
    replay_capacity=30,
    train_ratio=80.0,
)


def numbered(t, length=4):
    """Steps t … t + length - 1 of three environments, which never end."""
    time = jnp.arange(t, t + length)[:, None] + 1000 * jnp.arange(3)
    nothing = jnp.zeros((length, 3), bool)
    return Step(time, nothing, None, time, time * 1.0, nothing, nothing, time + 1)


@pytest.fixture(scope="module")
def filled():
    """(replay, the buffer after each of eight additions of four steps; it holds ten)."""
    replay = Replay(CONFIG)
    add = jax.jit(replay.add)
    states = [replay.init(jax.tree.map(lambda x: x[0], numbered(0)))]
    for t in range(0, 32, 4):
        states.append(add(states[-1], numbered(t)))
    return replay, states


def test_no_windows_before_there_is_a_whole_one(filled):
    replay, states = filled
    assert [bool(replay.ready(state)) for state in states] == [False, False] + [True] * 7


def test_windows_are_contiguous_and_the_oldest_steps_are_gone(filled):
    replay, states = filled
    sample = jax.jit(replay.sample)
    for written, state in zip(range(8, 36, 4), states[2:], strict=True):
        _, batch = sample(state, jax.random.key(written))
        start = np.asarray(batch.observation[0]) % 1000
        # One environment's steps in their order: never across the place of the next write.
        np.testing.assert_array_equal(
            batch.observation, batch.observation[0] + np.arange(5)[:, None]
        )
        oldest = max(0, written - 10)
        assert set(start) == set(range(oldest, written - 5 + 1))  # all of them, with 64 draws
        assert set(np.asarray(batch.observation[0]) // 1000) == {0, 1, 2}
        np.testing.assert_array_equal(batch.action[1:], batch.observation[:-1])
        assert batch.reset[0].all() and not batch.reset[1:].any()


def test_windows_can_go_on_from_stored_carries():
    """The carry at a window's start, and the action in front of it; nothing is started afresh."""

    def with_context(t):
        steps = numbered(t)
        return steps.replace(context=Carry((steps.action + 0.5,), steps.action, steps.action - 1))

    replay = Replay(CONFIG)
    state = replay.init(jax.tree.map(lambda x: x[0], with_context(0)))
    for t in (1, 5, 9):
        state = replay.add(state, with_context(t))
    context, batch = replay.sample(state, jax.random.key(0))
    assert not batch.reset.any() and not batch.known[0].any() and batch.known[1:].all()
    first = batch.observation[0]
    np.testing.assert_array_equal(context.memory[0], first + 0.5)
    np.testing.assert_array_equal(context.z, first)
    np.testing.assert_array_equal(batch.action, batch.observation - 1)


# ------------------------------------------------------------------------------- online queue


def online(**options):
    return replace(
        CONFIG, **({"replay_online": True, "batch_size": 4, "train_ratio": 5.0} | options)
    )


def test_new_steps_come_first_each_of_them_once():
    """Windows of 5 steps of 3 environments, in batches of 4; 4 steps come in at a time."""
    replay = Replay(online())
    sample, add = jax.jit(replay.draw), jax.jit(replay.add)
    state = replay.init(jax.tree.map(lambda x: x[0], numbered(0)))

    def starts(state, key):
        windows, state = sample(state, jax.random.key(key))
        assert (windows.start < 10).all()  # a place in the ring, where the carry is looked up
        _, batch = replay.read(state, windows)
        np.testing.assert_array_equal(
            batch.observation, batch.observation[0] + np.arange(5)[:, None]
        )
        return batch.observation[0].tolist(), state

    state = add(add(state, numbered(0)), numbered(4))
    # 8 steps: of each environment the first window. The fourth is drawn, and so are the next four.
    first, state = starts(state, 0)
    assert first[:3] == [0, 1000, 2000] and first[3] % 1000 in range(4)
    drawn = [starts(state, key)[0] for key in range(20)]
    assert {x % 1000 for row in drawn for x in row} == set(range(4))
    # 12 steps, of which the buffer has forgotten 2: the second windows. 20 steps: two of each.
    second, state = starts(add(state, numbered(8)), 1)
    assert second[:3] == [5, 1005, 2005]
    state = add(add(state, numbered(12)), numbered(16))
    third, state = starts(state, 2)
    fourth, state = starts(state, 3)
    assert third == [10, 1010, 2010, 15] and fourth[:2] == [1015, 2015]
    assert state.served == 12
    # Of what was overwritten before its turn, nothing is handed out: 36 steps, 26 … 35 are left.
    for t in range(20, 36, 4):
        state = add(state, numbered(t))
    late, state = starts(state, 4)
    assert late[:3] == [30, 1030, 2030] and late[3] % 1000 in range(26, 32)


def test_without_the_queue_all_is_drawn():
    replay = Replay(online(replay_online=False))
    state = replay.init(jax.tree.map(lambda x: x[0], numbered(0)))
    for t in (0, 4, 8):
        state = replay.add(state, numbered(t))
    firsts = {replay.sample(state, jax.random.key(k))[1].observation[0, 0].item() for k in range(9)}
    assert len(firsts) > 3


# ----------------------------------------------------------------------------- fresh contexts


def stored_with_ends():
    """Of 16 steps of six environments, with ends, the buffer holds 12; windows of 8."""
    config = replace(
        CONFIG, num_envs=6, batch_length=8, batch_size=5, replay_capacity=72, train_ratio=40 / 24
    )
    replay = Replay(config)
    both = [np.concatenate([x, x[::-1]]) for x in (TERMINATED, TRUNCATED)]
    steps = steps_of(*both)
    code = steps.observation["x"]
    steps = steps.replace(context=Carry((code - 0.5, code[..., None] - 0.5), code, code + 0.25))
    state = replay.init(jax.tree.map(lambda x: x[0], steps))
    for part in (slice(0, 8), slice(8, 16)):
        state = replay.add(state, jax.tree.map(lambda x, part=part: x[part], steps))
    return replay, state, jax.tree.map(np.asarray, steps)


@pytest.mark.parametrize("spoiled", [False, True])
def test_fresh_carries_replace_the_stored_ones_against_a_loop(spoiled):
    """The carry behind an observation is that number + 1/8; in front of a step, it is the one
    behind the observation before. Overlapping windows: number + window, so that the last is told.
    """
    replay, state, steps = stored_with_ends()
    # They overlap, and three of them reach around the end of the ring, whose oldest step is 4.
    windows = Windows(jnp.array([0, 0, 1, 3, 3]), jnp.array([4, 8, 6, 5, 7]))
    _, batch = replay.read(state, windows)
    seen = np.asarray(batch.observation["x"])
    fresh = seen + np.arange(5) / 8
    if spoiled:
        fresh[3, 1] = np.nan
    z = jnp.asarray(fresh + 1000)
    memory = (jnp.asarray(fresh), jnp.asarray(fresh)[..., None])
    after = jax.jit(replay.refresh)(state, windows, memory, z)

    expected = np.array(state.contexts.experience.z)  # [env, place]
    changed = 0
    for n in range(5):
        env, start = int(windows.env[n]), int(windows.start[n])
        if spoiled and n == 1:
            continue  # the window is left as it was, as a whole
        for t in range(1, 8):
            place = (start + t) % 12
            step = place if place >= 4 else place + 12  # the ring holds steps 4 … 15
            before = steps.observation["x"][step - 1, env]
            if steps.reset[step, env] or before not in seen[:, n]:
                continue
            expected[env, place] = before + n / 8 + 1000
            changed += 1
    assert changed > 10
    got = after.contexts.experience
    np.testing.assert_array_equal(got.z, expected)
    was = np.asarray(state.contexts.experience.z)
    rest = np.where(expected == was, was - 0.5, expected - 1000)
    np.testing.assert_array_equal(got.memory[0], rest)
    np.testing.assert_array_equal(got.memory[1][..., 0], rest)
    np.testing.assert_array_equal(got.action, state.contexts.experience.action)
    for name in ("steps", "added", "served"):
        for x, y in zip(
            jax.tree.leaves(getattr(after, name)),
            jax.tree.leaves(getattr(state, name)),
            strict=True,
        ):
            assert x is y or (x == y).all()


def test_bytes_of_a_step():
    """By hand: an observation of 3 float32 and 12 uint8, twice; a Discrete action and a reward of
    4 bytes each, three flags. Carries: 5 complex64, 7 float32."""
    observation = spaces.Dict(
        {"a": spaces.Box(-1.0, 1.0, (3,)), "b": spaces.Box(0, 9, (3, 4), np.uint8)}
    )
    carry = (jnp.zeros(5, jnp.complex64), jax.ShapeDtypeStruct((1, 7), jnp.float32))
    got = bytes_per_step(observation, spaces.Discrete(3), carry)
    assert got == (2 * (12 + 12) + 4 + 4 + 3, 40 + 28)
    _, state, _ = stored_with_ends()
    stored = sum(x.nbytes for x in jax.tree.leaves(state.contexts.experience)) / 72
    one = jax.tree.map(lambda x: x[0, 0], state.contexts.experience)
    assert bytes_per_step(observation, spaces.Discrete(3), one)[1] == stored


def test_pictures_are_kept_as_the_bytes_that_they_came_as():
    """In the ring, in what is read from it, and in what the capacity is said to take."""
    picture = spaces.Box(0, 255, (64, 64, 3), np.uint8)
    config = DreamerConfig(
        num_envs=2,
        batch_size=3,
        batch_length=4,
        rollout_length=16,
        train_ratio=6.0,
        replay_capacity=64,
    )
    replay = Replay(config)
    rng = np.random.default_rng(0)

    def steps(length):
        no = jnp.zeros((length, 2), bool)
        pictures = jnp.asarray(rng.integers(0, 256, (2, length, 2, 64, 64, 3), np.uint8))
        number = jnp.zeros((length, 2))
        return Step(
            observation=pictures[0],
            reset=no,
            context=None,
            action=no.astype(jnp.int32),
            reward=number,
            terminated=no,
            truncated=no,
            final_observation=pictures[1],
        )

    state = replay.init(jax.tree.map(lambda x: x[0], steps(1)))
    state = replay.add(state, stored := steps(16))
    ring = state.steps.experience
    assert ring.observation.dtype == ring.final_observation.dtype == jnp.uint8
    _, batch = replay.read(state, Windows(jnp.array([1, 0, 1]), jnp.array([0, 5, 12])))
    assert batch.observation.dtype == jnp.uint8
    np.testing.assert_array_equal(batch.observation[:, 1], stored.observation[5:9, 0])
    # Two pictures of 12,288 bytes; action and reward; three flags.
    step, _ = bytes_per_step(picture, spaces.Discrete(6), ())
    assert step == 2 * 12_288 + 4 + 4 + 3
    assert sum(x.nbytes for x in jax.tree.leaves(ring)) == 64 * step

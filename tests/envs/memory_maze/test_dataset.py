"""Datasets: what the files hold, that one entry leads to the next, and that writing goes on."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from ssmrl.envs.memory_maze import MemoryMaze, dataset
from ssmrl.envs.memory_maze.scripted import begin_wandering, go_to, wander
from tests.compiling import quick_jit

KEY = jax.random.key(3)
SMALL = {"size": 7, "picture_size": 16, "view": "above", "episode_length": 150}


@pytest.fixture(scope="module")
def episodes():
    return dataset.record(KEY, episodes=3, **SMALL)


def test_the_arrays_are_those_of_the_original(episodes):
    shapes = {
        "image": (16, 16, 3), "action": (6,), "reward": (), "maze_layout": (7, 7),
        "agent_pos": (2,), "agent_dir": (2,), "targets_pos": (2, 2), "targets_vec": (2, 2),
        "target_pos": (2,), "target_vec": (2,), "target_color": (3,),
    }  # fmt: skip
    small = {"image", "action", "maze_layout"}
    assert len(episodes) == 3
    for episode in episodes:
        assert {k: v.shape[1:] for k, v in episode.items()} == shapes
        assert {len(v) for v in episode.values()} == {151}
        for name, array in episode.items():
            assert array.dtype == (np.uint8 if name in small else np.float32), name
    assert (episodes[0]["maze_layout"][0] != episodes[1]["maze_layout"][0]).any()


def test_an_entry_follows_from_the_last_by_its_action(episodes):
    """Motion draws nothing: the actions alone, from the same start, lead to the same places."""
    env = MemoryMaze(7)
    params = env.make_params(**{k: v for k, v in SMALL.items() if k != "size"})

    @quick_jit
    def places(key, actions):
        def step(state, action):
            state = env.step_env(key, state, action, params)[1]
            return state, jnp.stack([state.body.x, state.body.y]) - 1

        return jax.lax.scan(step, env.reset_env(key, params)[1], actions)[1]

    for episode, key in zip(episodes, jax.random.split(KEY, 3), strict=True):
        assert not episode["action"][0].any() and episode["reward"][0] == 0
        assert (episode["action"][1:].sum(axis=-1) == 1).all()
        there = places(jax.random.split(key, 3)[0], episode["action"][1:].argmax(axis=-1))
        np.testing.assert_allclose(episode["agent_pos"][1:], there, atol=1e-4)
        changed = (episode["target_pos"][1:] != episode["target_pos"][:-1]).any(axis=-1)
        np.testing.assert_array_equal(episode["reward"][1:] > 0, changed)


def test_a_wanderer_sees_the_maze(episodes):
    """A third of the free cells in 150 steps; who only turned or stood would see one or two."""
    for episode in episodes:
        cells = np.unique(episode["agent_pos"].astype(int), axis=0)
        assert len(cells) > (episode["maze_layout"][0] == 1).sum() / 3


@pytest.fixture(scope="module")
def wandering():
    env = MemoryMaze(7)
    params = env.make_params(picture_size=16, view="above")
    state = env.reset_env(KEY, params)[1]
    start = begin_wandering(KEY, state)
    return state, start, quick_jit(jax.vmap(wander, (0, None, None, None)))


def test_without_noise_the_way_is_the_shortest(wandering):
    state, start, act = wandering
    after, action = act(KEY[None], start, state, 0.0)
    assert action[0] == go_to(state.maze, state.body, start.goal) and after.astray[0] == 0
    np.testing.assert_array_equal(after.goal[0], start.goal)


def test_going_astray_takes_one_to_four_steps(wandering):
    """With every action as likely, and the same one until it is over."""
    state, start, act = wandering
    after, action = act(jax.random.split(KEY, 4000), start, state, 1.0)
    assert stats.chisquare(np.bincount(action, minlength=6)).pvalue > 1e-3
    assert stats.chisquare(np.bincount(after.astray)).pvalue > 1e-3 and after.astray.max() == 3
    lost = start.replace(action=jnp.int32(3), astray=jnp.int32(2))
    after, action = act(KEY[None], lost, state, 0.0)
    assert action[0] == 3 and after.astray[0] == 1


def test_a_goal_that_is_reached_gives_way_to_any_free_cell(wandering):
    state, start, act = wandering
    there = start.replace(goal=jnp.stack([state.body.x, state.body.y]))
    after, _ = act(jax.random.split(KEY, 4000), there, state, 0.0)
    column, row = np.asarray(after.goal, int).T
    counts = np.zeros(state.maze.is_wall.shape, int)
    np.add.at(counts, (row, column), 1)
    free = ~np.asarray(state.maze.is_wall)
    assert counts[~free].sum() == 0 and stats.chisquare(counts[free]).pvalue > 1e-3
    np.testing.assert_array_equal(after.goal % 1, 0.5)


def test_an_interrupted_dataset_goes_on(tmp_path):
    """The same files as without interruption; those that are there are not touched."""
    options = {"at_once": 2, **SMALL, "episode_length": 3}
    assert dataset.write(tmp_path / "whole", KEY, 3, **options) == 3
    assert dataset.write(tmp_path / "parts", KEY, 1, **options) == 1
    (tmp_path / "parts" / "000002.partial").write_bytes(b"cut off")
    kept = (tmp_path / "parts" / "000000.npz").stat()
    assert dataset.write(tmp_path / "parts", KEY, 3, **options) == 2
    assert (tmp_path / "parts" / "000000.npz").stat() == kept
    names = [f"{n:06}.npz" for n in range(3)]
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == [*names, "dataset.json"]
    for name in names:
        with np.load(tmp_path / "whole" / name) as a, np.load(tmp_path / "parts" / name) as b:
            assert sorted(a.files) == sorted(b.files)
            for array in a.files:
                np.testing.assert_array_equal(a[array], b[array])


def test_a_dataset_goes_on_with_what_it_was_made_with_or_not_at_all(tmp_path):
    options = {"at_once": 2, **SMALL, "episode_length": 3}
    dataset.write(tmp_path, KEY, 1, **options)
    for other, message in [
        ({"episode_length": 4}, "episode_length 3 instead of 4"),
        ({"at_once": 1}, "at_once 2 instead of 1"),
        ({"noise": 0.2}, "noise 0.1 instead of 0.2"),
        ({"action_repeat": 2}, "action_repeat 1 instead of 2"),
    ]:
        with pytest.raises(ValueError, match=f"has episodes with {message}: take another"):
            dataset.write(tmp_path, KEY, 2, **options | other)
    with pytest.raises(ValueError, match=r"has episodes with key \[0, \d\] instead of \[0, 9\]"):
        dataset.write(tmp_path, jax.random.key(9), 2, **options)
    assert len(list(tmp_path.glob("*.npz"))) == 1
    # A default that is written out is no difference, nor is numpy's number.
    same = {"action_repeat": 1, "episode_length": np.int64(3)}
    assert dataset.write(tmp_path, KEY, 1, **options | same) == 0
    note = tmp_path / "dataset.json"
    for damaged in ("{", "3"):
        note.write_text(damaged)
        with pytest.raises(ValueError, match=r"no dataset.json that says what they were made with"):
            dataset.write(tmp_path, KEY, 2, **options)
    note.unlink()
    with pytest.raises(ValueError, match=r"no dataset.json that says what they were made with"):
        dataset.write(tmp_path, KEY, 2, **options)


def test_what_cannot_be(tmp_path):
    with pytest.raises(ValueError, match="needs episodes of at least 1, got 0"):
        dataset.record(KEY, episodes=0)
    with pytest.raises(ValueError, match="needs episodes of at least 1, got -2"):
        dataset.write(tmp_path / "new", KEY, episodes=-2)
    with pytest.raises(ValueError, match="needs at_once of at least 1, got 0"):
        dataset.write(tmp_path / "new", KEY, episodes=1, at_once=0)
    for noise in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match=f"needs a noise of 0 to 1, a chance, got {noise}"):
            dataset.write(tmp_path / "new", KEY, episodes=1, noise=noise)
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="needs a size of 7, 9"):
        dataset.record(KEY, size=8)

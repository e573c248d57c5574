"""The package itself beside ours, where it is installed: spaces, mazes, pictures, touches, motion.

`pip install "ssmrl[memory-maze]"`, or `make memory-maze`; without, the slow tests are skipped.
"""

import dataclasses
import io
import pickle
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs.adapters import memory_maze_original as adapter
from ssmrl.envs.adapters import memory_maze_worker as worker
from ssmrl.envs.memory_maze.environment import TOUCH_DISTANCE
from ssmrl.envs.memory_maze.motion import FORWARD, FORWARD_LEFT, LEFT, NOOP, Body, distance_to, move
from ssmrl.envs.memory_maze.picture import frame, frame_colour
from ssmrl.envs.memory_maze.scripted import oracle
from tests.compiling import quick_jit
from tests.envs.memory_maze.similarity import similarity

# ------------------------------------------------------------------ without the package


class FakeTask:
    """What stands for the package's process: observations are numbers, episodes last two steps."""

    def __init__(self, tasks, size, options, episode_length, *settings):
        self.time, self.seed = 0, None

    def reset(self, seed=None):
        self.seed, self.time = self.seed if seed is None else seed, 0
        return ("first", self.seed)

    def step(self, action):
        self.time += 1
        return ("seen", action), float(action), self.time == 2

    def close(self):
        pass


def served(monkeypatch, *requests):
    """What the worker answers."""
    monkeypatch.setattr(worker, "load_tasks", lambda: None)
    monkeypatch.setattr(worker, "Original", FakeTask)
    settings = {"size": 9, "options": {}, "episode_length": 2, "action_repeat": 1}
    settings |= {"frames": False, "image_only": True}
    made = ("make", settings | {"count": 2, "stock": True})
    inward = io.BytesIO(b"".join(pickle.dumps(x) for x in (made, *requests)))
    outward = io.BytesIO()
    worker.serve(inward, outward)
    outward.seek(0)
    return [pickle.load(outward) for _ in range(1 + len(requests))]


def test_the_worker_steps_all_and_begins_the_next_episode(monkeypatch):
    step = ("step", ([1, 2],))
    answers = served(monkeypatch, ("reset", ([7, 8],)), step, step, step)
    assert [kind for kind, _ in answers] == ["ok"] * 5
    assert answers[1][1] == [("first", 7), ("first", 8)]
    assert answers[2][1] == [(("seen", a), float(a), False, None) for a in (1, 2)]
    ended = [(("seen", a), float(a), True, ("first", s)) for a, s in ((1, 7), (2, 8))]
    assert answers[3][1] == ended
    assert answers[4][1] == answers[2][1]


@pytest.mark.parametrize(("limit", "rewards"), [(None, [3, 12, 13]), (5, [3, 7])])
def test_an_action_that_lasts_ends_with_the_episode(monkeypatch, limit, rewards):
    """Steps pay 0, 1, 2 … 7 and the package's time is up after eight: sums of three at a time."""

    class Package:
        """Stands for the package's task."""

        def __init__(self, **options):
            self.time = 0

        def reset(self):
            return SimpleNamespace(observation=0)

        def step(self, action):
            reward, self.time = self.time, self.time + 1
            last = self.time == 8
            return SimpleNamespace(
                observation=self.time, reward=reward, discount=1, last=lambda: last
            )

        def close(self):
            pass

    colours = SimpleNamespace(TARGET_COLORS=[[1, 0, 0]])
    monkeypatch.setitem(sys.modules, "memory_maze.maze", colours)
    env = worker.Original(SimpleNamespace(memory_maze_9x9=Package), 9, {}, limit, 3)
    env.reset(0)
    answers = [env.step(1) for _ in rewards]
    assert [reward for _, reward, _ in answers] == rewards
    assert [over for *_, over in answers] == [False] * (len(rewards) - 1) + [True]
    assert answers[-1][0] == (8 if limit is None else 5)


@pytest.mark.parametrize("image_only", [True, False])
def test_small_pictures_get_their_frame_here(monkeypatch, image_only):
    """The package would fill them with the target's colour; it is asked for them without."""
    asked = {}

    class Package:
        """Stands for the package's task."""

        def __init__(self, **options):
            asked.update(options)

        def reset(self):
            image = np.full((32, 32, 3), 9, np.uint8)
            observation = {"image": image, "target_color": np.array([170, 38, 30]) / 220}
            return SimpleNamespace(observation=observation)

    colours = SimpleNamespace(TARGET_COLORS=[[1, 0, 0]])
    monkeypatch.setitem(sys.modules, "memory_maze.maze", colours)
    tasks = SimpleNamespace(memory_maze_9x9=Package)
    env = worker.Original(tasks, 9, {}, None, frames=True, image_only=image_only)
    seen = env.reset(0)
    assert asked == {"image_only_obs": False, "target_color_in_image": False, "seed": 0}
    if not image_only:
        assert set(seen) == {"image", "target_color"}
        seen = seen["image"]
    edge = frame(32)
    np.testing.assert_array_equal(seen[edge], np.broadcast_to(frame_colour(0), (edge.sum(), 3)))
    assert (seen[~edge] == 9).all() and seen.dtype == np.uint8


def test_the_worker_says_what_went_wrong_and_goes_on(monkeypatch):
    answers = served(monkeypatch, ("step", ([1],)), ("reset", ([7, 8],)))
    assert answers[1][0] == "error" and answers[1][1].startswith("ValueError: zip()")
    assert answers[2][0] == "ok"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"python": "/no/python"}, "SSMRL_MEMORY_MAZE_PYTHON=/no/python does not run"),
        ({"quality": "good"}, "has no option 'quality'"),
        ({"targets": 2}, "has no option 'targets'"),
        ({"action_repeat": 0}, "needs an action_repeat of 1 to 1000, got 0$"),
        ({"episode_length": 1001}, "of 1 to 1000, where the original ends, got 1001"),
        ({"workers": 3}, "needs 1 to 2 workers, got 3"),
        ({"picture_size": 8}, "needs a picture_size of 16 to 512, got 8"),
    ],
)
def test_what_cannot_be(options, words):
    with pytest.raises((ValueError, ImportError), match=words) as caught:
        ssmrl.envs.make_vector("memory_maze_original/9x9", 2, **options)
    assert "\n" not in str(caught.value)


def test_more_environments_than_memory_holds():
    with pytest.raises(ValueError, match="5000 environments need 4[0-9]{3} GB of memory, and"):
        ssmrl.envs.make_vector("memory_maze_original/9x9", 5000)


def test_a_missing_package_is_named_with_its_extra(tmp_path):
    """In an interpreter without packages: `-I -S` finds none."""
    bare = tmp_path / "python"
    bare.write_text(f'#!/bin/sh\nshift\nexec "{sys.executable}" -c "$BARE" "$@"\n')
    code = "import pickle, sys; pickle.load(sys.stdin.buffer); "
    code += "pickle.dump(('missing', 'No module'), sys.stdout.buffer)"
    bare.chmod(0o755)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BARE", code)
        with pytest.raises(ImportError, match=r'\(No module\); pip install "ssmrl\[memory-maze\]"'):
            ssmrl.envs.make_vector("memory_maze_original/9x9", 1, python=str(bare))


def test_nothing_to_draw_with_is_told(tmp_path, monkeypatch):
    """As PyOpenGL fails without a library; and the package's own beginning is passed over."""
    package = tmp_path / "memory_maze"
    package.mkdir()
    (package / "__init__.py").write_text("raise RuntimeError('this wants the old gym')")
    (package / "tasks.py").write_text("raise AttributeError('None has\\nno glGetError')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("MUJOCO_GL", "egl")
    monkeypatch.setitem(sys.modules, "memory_maze", None)  # so that it is taken out again
    del sys.modules["memory_maze"]
    words = "cannot draw with MUJOCO_GL=egl .AttributeError: None has no glGetError.: apt-get inst"
    with pytest.raises(ImportError, match=words):
        worker.load_tasks()


def test_a_process_that_dies_is_told(tmp_path):
    dead = tmp_path / "python"
    dead.write_text("#!/bin/sh\nexit 3\n")
    dead.chmod(0o755)
    with pytest.raises(RuntimeError, match="the original's process ended with code 3"):
        ssmrl.envs.make_vector("memory_maze_original/9x9", 1, python=str(dead))


# --------------------------------------------------------------------- with the package


@pytest.fixture(scope="module")
def original():
    """Two environments of the package with extra observations, and ours, of 60 steps."""
    name, options = "9x9_extra_obs", {"episode_length": 60}
    try:
        theirs = ssmrl.envs.make_vector(f"memory_maze_original/{name}", 2, **options)
    except ImportError as error:
        pytest.skip(str(error))
    yield theirs, ssmrl.envs.make_vector(f"memory_maze/{name}", 2, **options)
    theirs.close()


@pytest.fixture(scope="module")
def walk(original):
    """60 steps of the scripted oracle: states before and after, observations, rewards, ends."""
    theirs, _ = original
    act = quick_jit(jax.vmap(oracle))
    obs, state = theirs.reset(jax.random.key(3))
    steps = []
    for _ in range(60):
        before = theirs.unwrapped.states()
        seen, state, reward, _, truncated, info = theirs.step(state, act(before))
        steps.append((before, obs, reward, truncated, info["final_observation"]))
        obs = seen
    return jax.device_get(jax.tree.map(lambda *x: np.stack(x), *steps)), obs


@pytest.mark.slow
def test_spaces_are_ours(original):
    theirs, ours = original
    assert theirs.observation_space == ours.observation_space
    assert theirs.action_space == ours.action_space
    assert theirs.unwrapped.max_episode_steps == 60


@pytest.mark.slow
def test_an_episode_of_theirs(original, walk):
    (before, obs, reward, truncated, final), following = walk
    assert truncated.sum() == 2 and truncated[-1].all() and reward.sum() >= 2
    assert (before.time[:, 0] == np.arange(60)).all()
    np.testing.assert_array_equal(obs["image"][1:], final["image"][:-1])
    assert (following["maze_layout"] != final["maze_layout"][-1]).any()


@pytest.mark.slow
def test_a_key_gives_the_same_episodes(original):
    theirs, _ = original
    first, again = (theirs.reset(jax.random.key(5))[0] for _ in range(2))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    assert (first["maze_layout"][0] != first["maze_layout"][1]).any()


@pytest.mark.slow
def test_ours_sees_the_same_at_the_same_place(original, walk):
    """The maze, the vectors and the frame exactly; the picture to the similarity of recordings."""
    _, ours = original
    (before, obs, *_), _ = walk
    env, params = ours.unwrapped.env, ours.unwrapped.params
    good = dataclasses.replace(params, quality="good")
    for chosen, least in ((params, 0.945), (good, 0.97)):
        see = quick_jit(jax.vmap(jax.vmap(lambda state, p=chosen: env.observe(state, p))))
        mine = jax.device_get(see(before))
        alike = similarity(mine["image"], obs["image"])
        print(chosen.quality, alike.mean())
        assert alike.mean() > least
        edge = frame(64)
        np.testing.assert_array_equal(mine["image"][:, :, edge], obs["image"][:, :, edge])
    for name in sorted(set(obs) - {"image"}):
        np.testing.assert_allclose(mine[name], obs[name], atol=1e-4, err_msg=name)


@pytest.mark.slow
def test_the_same_steps_are_rewarded(walk):
    """By how close the way came to the target, in every step of both environments."""
    (before, _, reward, *_), _ = walk
    body = before.body
    target = np.take_along_axis(before.maze.targets, before.current[..., None, None], axis=2)
    ways = jax.tree.map(lambda x: jnp.asarray(x[:-1].ravel()), body)
    ends = jax.tree.map(lambda x: jnp.asarray(x[1:].ravel()), body)
    near = jax.vmap(distance_to)(jnp.asarray(target[:-1].reshape(-1, 1, 2)), ways, ends)
    np.testing.assert_array_equal(
        np.asarray(near).ravel() < TOUCH_DISTANCE, reward[:-1].ravel() > 0
    )


@pytest.mark.slow
def test_scripted_actions_move_alike(original):
    """From rest at a start, ten steps: less than .03 cells and 2 degrees apart."""
    theirs, _ = original
    actions = [FORWARD, FORWARD, FORWARD_LEFT, LEFT, NOOP, LEFT, FORWARD, NOOP, FORWARD_LEFT, LEFT]
    _, state = theirs.reset(jax.random.key(8))
    first = theirs.unwrapped.states()
    body: Body = first.body
    go = quick_jit(jax.vmap(move, (0, None, 0)))
    for action in actions:
        _, state, *_ = theirs.step(state, jnp.full(2, action))
        body = go(body, jnp.int32(action), first.maze.is_wall)
    there = theirs.unwrapped.states().body
    assert np.hypot(body.x - there.x, body.y - there.y).max() < 0.03
    off = (np.asarray(body.heading - there.heading) + np.pi) % (2 * np.pi) - np.pi
    assert np.degrees(np.abs(off)).max() < 2


@pytest.mark.slow
@pytest.mark.parametrize("size", adapter.SIZES)
@pytest.mark.parametrize("variant", ["", "_vis", "_top", "_oracle", "_6cl"])
def test_every_variant_is_played(original, size, variant):
    name = f"{size}x{size}{variant}"
    theirs = ssmrl.envs.make_vector(f"memory_maze_original/{name}", 1, episode_length=2)
    try:
        obs, state = theirs.reset(jax.random.key(0))
        for _ in range(2):
            obs, state, *_ = theirs.step(state, jnp.zeros(1, jnp.int32))
        assert obs.shape[1:] == theirs.observation_space.shape and obs.std() > 5
        assert theirs.render(state).shape == (192, 384, 3)
    finally:
        theirs.close()


@pytest.mark.slow
def test_contacts_in_all_at_once_change_nothing():
    """An oracle-free walk, played with the package's own loop and with ours."""
    played = []
    for stock in (True, False):
        try:
            theirs = ssmrl.envs.make_vector(
                "memory_maze_original/9x9", 1, episode_length=40, stock_contacts=stock
            )
        except ImportError as error:
            pytest.skip(str(error))
        obs, state = theirs.reset(jax.random.key(0))
        seen, paid = [obs], []
        for action in np.random.default_rng(0).choice(6, 40, p=[0, 0.6, 0.1, 0.1, 0.1, 0.1]):
            obs, state, reward, *_ = theirs.step(state, jnp.full(1, action))
            seen.append(obs)
            paid.append(reward)
        played.append((np.stack(seen), np.stack(paid)))
        theirs.close()
    np.testing.assert_array_equal(played[0][0], played[1][0])
    np.testing.assert_array_equal(played[0][1], played[1][1])

"""The environment: rules, observations, options, errors, size, and other platforms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ssmrl.envs
from ssmrl.envs.memory_maze import EnvState, MemoryMaze
from ssmrl.envs.memory_maze.above import distances, shortest_path
from ssmrl.envs.memory_maze.environment import next_target
from ssmrl.envs.memory_maze.motion import FORWARD, NOOP, Body, at_rest
from ssmrl.envs.memory_maze.picture import COLOURS
from ssmrl.envs.memory_maze.scripted import begin_wandering, wander
from tests.compiling import quick_jit
from tests.envs.memory_maze.recorded import episodes, maze

BLIND = {"view": "above", "picture_size": 16}  # quick to compile where the picture does not matter


def state_at(size, episode, time, **changes):
    """Ours of a recorded state."""
    data = episodes(size)
    place, heading = data["pos"][episode, time] + 1, data["heading"][episode, time]
    state = EnvState(
        body=at_rest(place[0], place[1], heading),
        maze=maze(size, episode),
        colours=jnp.arange(data["targets"].shape[1]),
        current=jnp.int32(data["target"][episode, time]),
        time=jnp.int32(time),
    )
    return state.replace(**changes)


@pytest.fixture(scope="module")
def blind():
    env = MemoryMaze(9)
    params = env.make_params(**BLIND)
    return quick_jit(lambda key, state, action: env.step_env(key, state, action, params)[1:5])


def beside(state, target, distance):
    """The state with the agent at `distance` left of a target, facing it."""
    place = state.maze.targets[target]
    return state.replace(body=at_rest(place[0] - distance, place[1], jnp.float32(0)))


def test_touching(blind):
    """The target asked for pays 1 and another is asked for; a wrong one does nothing."""
    key, noop = jax.random.key(0), jnp.int32(NOOP)
    state = state_at(9, 0, 0, current=jnp.int32(1))
    for distance, pays in ((0.38, 1), (0.395, 0)):
        after, reward, terminated, truncated = blind(key, beside(state, 1, distance), noop)
        assert (reward, terminated, truncated) == (pays, False, False)
        assert (after.current != 1) == bool(pays) and after.time == 1
    after, reward, *_ = blind(key, beside(state, 0, 0.3), noop)
    assert reward == 0 and after.current == 1


def test_floating_targets_are_touched_with_the_head():
    """The original's oracle walks found them at .194 cells and nearer, and passed at .218."""
    env = MemoryMaze(9, low_walls=True)
    params = env.make_params(**BLIND)
    step = quick_jit(lambda *inputs: env.step_env(*inputs, params)[2])
    state = state_at(9, 0, 0, current=jnp.int32(1))
    for distance, pays in ((0.194, 1), (0.218, 0)):
        reward = step(jax.random.key(0), beside(state, 1, distance), jnp.int32(NOOP))
        assert reward == pays


def test_a_target_is_touched_on_the_way(blind):
    """The ends of the step are farther away than its middle."""
    state = state_at(9, 0, 0, current=jnp.int32(0))
    place = state.maze.targets[0]
    x, y = float(place[0]), float(place[1])
    body = Body(*(np.float32(v) for v in (x - 0.125, y + 0.38, 0.0, 1.0, 0.0)))
    assert np.hypot(0.125, 0.38) > 0.3873
    _, reward, *_ = blind(jax.random.key(0), state.replace(body=body), jnp.int32(FORWARD))
    assert reward == 1


def test_the_next_target():
    """Uniform among the others; with two touched, the third; with all, the same."""
    draw = quick_jit(jax.vmap(next_target, (0, None, None)))
    keys = jax.random.split(jax.random.key(0), 3000)
    counts = np.bincount(draw(keys, jnp.array([0, 1, 0, 0], bool), jnp.int32(1)), minlength=4)
    assert counts[1] == 0 and stats.chisquare(counts[[0, 2, 3]]).pvalue > 1e-3
    assert (draw(keys, jnp.array([1, 1, 0], bool), jnp.int32(0)) == 2).all()
    assert (draw(keys, jnp.array([1], bool), jnp.int32(0)) == 0).all()


def test_time_truncates(blind):
    state = state_at(9, 0, 0)
    key, noop = jax.random.key(0), jnp.int32(NOOP)
    for time, ended in ((998, False), (999, True)):
        _, _, terminated, truncated = blind(key, state.replace(time=jnp.int32(time)), noop)
        assert (terminated, truncated) == (False, ended)


def test_an_action_that_lasts_is_the_same_action_again(blind):
    """Three quarters of a second at once: places, time and rewards as one by one."""
    env = MemoryMaze(9)
    params = env.make_params(action_repeat=3, **BLIND)
    lasting = quick_jit(lambda *inputs: env.step_env(*inputs, params)[1:5])
    key, forward = jax.random.key(0), jnp.int32(FORWARD)
    state = beside(state_at(9, 0, 0, current=jnp.int32(0)), 0, 0.6)
    found = []
    by_one = state
    for _ in range(3):
        by_one, reward, *_ = blind(key, by_one, forward)
        found.append(float(reward))
    assert found == [0, 1, 0]
    after, reward, terminated, truncated = lasting(key, state, forward)
    assert (reward, terminated, truncated) == (1, False, False) and after.time == 3
    assert after.current != 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), after.body, by_one.body)
    # What would be found after the end of time pays nothing: the target is reached in two steps.
    for time, pays, ended in ((998, 1, True), (999, 0, True), (996, 1, False)):
        _, reward, _, truncated = lasting(key, state.replace(time=jnp.int32(time)), forward)
        assert (reward, truncated) == (pays, ended)


def test_a_lasting_action_can_find_several_targets():
    """With one target, which is asked for again at once, every step on it pays."""
    env = MemoryMaze(7)
    params = env.make_params(action_repeat=4, targets=1, **BLIND)
    _, state = env.reset_env(jax.random.key(0), params)
    step = quick_jit(lambda *inputs: env.step_env(*inputs, params)[1:5])
    after, reward, *_ = step(jax.random.key(0), beside(state, 0, 0.1), jnp.int32(NOOP))
    assert reward == 4 and reward.dtype == jnp.float32 and after.time == 4


@pytest.mark.parametrize(
    ("size", "targets", "length"),
    [(7, 2, 500), (9, 3, 1000), (11, 4, 2000), (13, 5, 3000), (15, 6, 4000)],
)
def test_published_settings(size, targets, length):
    env, params = ssmrl.envs.make(f"memory_maze/{size}x{size}")
    assert (params.targets, params.episode_length) == (targets, length)
    assert env.observation_space(params).shape == (64, 64, 3)
    assert env.observation_space(params).dtype == np.uint8
    assert env.action_space(params).n == 6


@pytest.mark.parametrize(
    ("id_", "shape"), [("9x9_hd", (256, 256, 3)), ("9x9_top", (256, 256, 3)), ("9x9", (64, 64, 3))]
)
def test_variants_with_another_picture(id_, shape):
    env, params = ssmrl.envs.make(f"memory_maze/{id_}")
    obs = jax.eval_shape(env.reset, jax.random.key(0))[0]
    assert obs.shape == env.observation_space(params).shape == shape


@pytest.fixture(scope="module")
def extra():
    """Extra observations with the path, as a function of a state."""
    env = MemoryMaze(9)
    params = env.make_params(extra_observations=True, show_path=True)
    return env, params, quick_jit(lambda state: env.observe(state, params))


def test_extra_observations(extra):
    """As recorded, from the original's own."""
    env, params, observe = extra
    data = episodes(9)
    for episode, time in ((0, 100), (4, 17)):
        state = state_at(9, episode, time)
        obs = observe(state)
        assert env.observation_space(params).contains(obs)
        np.testing.assert_allclose(obs["agent_pos"], data["pos"][episode, time], atol=1e-5)
        np.testing.assert_allclose(obs["agent_dir"], data["dir"][episode, time], atol=1e-5)
        np.testing.assert_allclose(obs["targets_pos"], data["targets"][episode], atol=1e-5)
        current = data["target"][episode, time]
        colour = data["target_rgb"][episode, current]
        np.testing.assert_allclose(obs["target_color"], colour, atol=1e-5)
        np.testing.assert_allclose(obs["target_vec"], obs["targets_vec"][current])
        np.testing.assert_array_equal(obs["target_pos"], obs["targets_pos"][current])
        np.testing.assert_array_equal(obs["maze_layout"] > 0, data["free"][episode, 1:-1, 1:-1])
        assert (obs["maze_layout"] == 2).sum() == shortest_path(
            state.maze, state.body, state.current
        ).sum()
        # Right and ahead, turned back to the world.
        ahead = data["dir"][episode, time]
        right = np.array([ahead[1], -ahead[0]])
        world = obs["targets_vec"][:, :1] * right + obs["targets_vec"][:, 1:] * ahead
        away = data["targets"][episode] - data["pos"][episode, time]
        np.testing.assert_allclose(world, away, atol=1e-4)


def test_the_oracles_map(extra):
    """In the upper right corner: red in the middle, green towards the target, white elsewhere."""
    _, _, observe = extra
    corner = np.asarray(observe(state_at(9, 4, 0))["image"])[:18, -18:].astype(int)
    middle = corner[8:10, 8:10]
    assert (middle[..., 0] >= 127).all() and (middle[..., 1] < 127).all()
    is_path = (corner[..., 1] >= 127) & (corner[..., 0] < 127) & (corner[..., 2] < 127)
    assert is_path.any()


def test_shortest_paths():
    """Steps fall by one along the path, from the agent's cell to the target's."""
    state = state_at(15, 0, 0)
    path = np.asarray(shortest_path(state.maze, state.body, jnp.int32(0)))
    steps = np.asarray(distances(state.maze.is_wall, state.maze.targets[0]))
    here = steps[int(state.body.y), int(state.body.x)]
    assert sorted(steps[path]) == list(range(here + 1))
    free = ~np.asarray(state.maze.is_wall)
    assert (steps[free] < 10_000).all() and (steps[~free] == 10_000).all()


def test_colours_are_shuffled():
    """Each is in each place as often, and no two targets share one."""
    env = MemoryMaze(7, shuffle_colours=True)
    params = env.make_params(**BLIND)
    reset = quick_jit(jax.vmap(lambda key: env.reset_env(key, params)[1].colours))
    colours = np.asarray(reset(jax.random.split(jax.random.key(0), 600)))
    assert (colours[:, 0] != colours[:, 1]).all()
    assert stats.chisquare(np.bincount(colours[:, 0], minlength=len(COLOURS))).pvalue > 1e-3


def test_an_episode_and_the_next():
    """Through the vector environment: auto-reset with another maze, final observation."""
    venv = ssmrl.envs.make_vector("memory_maze/7x7", 2, episode_length=3, **BLIND)
    obs, state = quick_jit(venv.reset)(jax.random.key(0))
    step = quick_jit(venv.step)
    assert obs.shape == (2, 16, 16, 3) and obs.dtype == np.uint8
    walls = [np.asarray(x) for x in jax.tree.leaves(state) if x.dtype == bool and x.ndim == 3]
    for time in range(3):
        obs, state, reward, terminated, truncated, info = step(state, jnp.array([1, 2]))
        assert not terminated.any() and truncated.all() == (time == 2)
    assert reward.shape == (2,) and (obs != info["final_observation"]).any()
    after = [np.asarray(x) for x in jax.tree.leaves(state) if x.dtype == bool and x.ndim == 3]
    assert any((a != b).any() for a, b in zip(walls, after, strict=True))


@pytest.mark.parametrize("size", [9, 15])
def test_memory_of_one_environment(size):
    """State and observation, in bytes: at most 64 KiB."""
    env = MemoryMaze(size)
    shapes = jax.tree.leaves(jax.eval_shape(env.reset, jax.random.key(0)))
    assert sum(x.size * x.dtype.itemsize for x in shapes) < 20_000


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"low_walls": True, "action_repeat": 2},
        {"extra_observations": True, "show_path": True, "shuffle_colours": True},
        {"view": "above"},
    ],
)
def test_states_keep_their_types_where_64_bits_are_allowed(options):
    """States fit a scan's carry, observations their space."""

    def play(key):
        env, params = ssmrl.envs.make("memory_maze/7x7", **options)
        first, state = env.reset_env(key, params)
        wandering = begin_wandering(key, state)
        after, action = wander(key, wandering, state)
        obs, state_after, reward, *ends, _ = env.step_env(key, state, action, params)
        sample = env.observation_space(params).sample(key)
        return (first, obs, sample), (state, state_after), (wandering, after), reward, ends

    # Once without, because JAX keeps what it made of an array of NumPy's, by the array.
    jax.eval_shape(play, jax.random.key(0))
    with jax.enable_x64(True):
        *trees, reward, ends = jax.eval_shape(play, jax.random.key(0))
    for same in trees:
        types = [[(x.shape, x.dtype) for x in jax.tree.leaves(tree)] for tree in same]
        assert all(each == types[0] for each in types)
    assert [x.dtype for x in (reward, *ends)] == [jnp.float32, jnp.bool, jnp.bool]


@pytest.fixture(scope="module")
def traced():
    """A step and a reset, with pictures."""
    env = MemoryMaze(7)
    key = jax.random.key(0)
    _, state = jax.eval_shape(env.reset, key)
    return jax.jit(env.step).trace(key, state, jnp.int32(0))


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_it_lowers_for_accelerators_without_callbacks(traced, platform):
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert "func.func public @main" in text and "callback" not in text


def test_what_cannot_be():
    with pytest.raises(ValueError, match="needs a size of 7, 9, 11, 13, 15 cells a side, got 10"):
        MemoryMaze(10)
    with pytest.raises(ssmrl.envs.UnknownEnvironmentError, match="memory_maze/1"):
        ssmrl.envs.make("memory_maze/10x10")
    for options, words in [
        ({"targets": 5}, "needs 1 to 4 targets, which its rooms can hold, got 5"),
        ({"targets": 0}, "needs 1 to 4 targets"),
        ({"targets": 2.5}, "needs an integer targets, got 2.5"),
        ({"episode_length": 0}, "needs an episode_length of 1 to 1000000000, got 0$"),
        ({"episode_length": 10**10}, "episode_length must be a number that 32 bits hold, got 1"),
        ({"episode_length": 2 * 10**9}, "needs an episode_length of 1 to 1000000000, got 2"),
        ({"action_repeat": 0}, "needs an action_repeat of 1 to 1000, got 0$"),
        ({"action_repeat": 1001}, "needs an action_repeat of 1 to 1000, got 1001$"),
        ({"picture_size": 8}, "needs a picture_size of 16 to 512, got 8"),
        ({"picture_size": 16, "show_path": True}, "at least 18 to show a path, got 16"),
        ({"quality": "best"}, "needs a quality out of fast, good, got 'best'"),
        ({"view": "below"}, "needs a view out of agent, above, got 'below'"),
        ({"shuffle_colours": 1}, "shuffle_colours must be true or false, got 1"),
        ({"low_walls": "yes"}, "low_walls must be true or false, got 'yes'"),
        ({"low_walls": np.array([True])}, "needs true or false for low_walls, got array"),
        ({"walls": 3}, "has no option 'walls'"),
    ]:
        with pytest.raises(ValueError, match=words) as caught:
            ssmrl.envs.make("memory_maze/9x9", **options)
        assert "\n" not in str(caught.value)


def test_it_is_filmed():
    """The view beside the maze from above, and a way to the target that ends in it."""
    env, params = ssmrl.envs.make("memory_maze/9x9")
    film = quick_jit(lambda state: env.render(state, params))(state_at(9, 4, 0))
    assert film.dtype == np.uint8 and film.shape[0] == 192 and film.shape[1] > 2 * 192

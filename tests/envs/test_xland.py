"""XLand-MiniGrid behind our interface: needs its package, which the tests' own extra leaves out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs.adapters import xland
from ssmrl.envs.meta import Trials
from ssmrl.envs.spaces import Discrete, MultiDiscrete

package = pytest.importorskip("xminigrid", reason="extra xland")


def test_the_table_is_the_packages_registry():
    assert sorted(xland.ENVIRONMENTS.values()) == sorted(package.registered_environments())
    assert ssmrl.envs.canonical_name("xland/MiniGrid-MemoryS16") == "xland/memory_s16"


def play(env, params, actions, key=0):
    """Observations, rewards, ends, and the states, from one reset."""
    obs, state = env.reset_env(jax.random.key(key), params)
    steps, states = [], [state]
    step = jax.jit(lambda state, action: env.step_env(jax.random.key(1), state, action, params))
    for action in actions:
        obs, state, *rest = step(state, jnp.int32(action))
        steps.append((obs, *rest))
        states.append(state)
    return steps, states


def test_steps_are_the_packages_own():
    env, params = ssmrl.envs.make("xland/memory_s8")
    theirs, their_params = package.make("MiniGrid-MemoryS8")
    actions = np.random.default_rng(0).integers(0, 3, 20)
    steps, _ = play(env, params, actions)
    key_trial = jax.random.split(jax.random.key(0))[1]  # the other one draws the task
    timestep = theirs.reset(their_params, key_trial)
    for (obs, reward, terminated, truncated, _), action in zip(steps, actions, strict=True):
        timestep = theirs.step(their_params, timestep, jnp.int32(action))
        np.testing.assert_array_equal(obs, timestep.observation)
        assert reward == timestep.reward
        assert (terminated | truncated) == timestep.last()
        if timestep.last():
            assert terminated == (timestep.discount == 0)
            break


def test_an_episode_is_truncated_where_nothing_is_reached():
    env, params = ssmrl.envs.make("xland/empty_5x5", max_steps=3)
    steps, _ = play(env, params, [1, 1, 1])  # turning only
    ends = np.array([(terminated, truncated) for _, _, terminated, truncated, _ in steps])
    np.testing.assert_array_equal(ends, [(0, 0), (0, 0), (0, 1)])
    assert all(reward == 0 for _, reward, *_ in steps)


def test_the_goal_pays_and_terminates():
    """From the upper left corner, looking right, of 3 × 3 places: two forward, right, two forward.
    1 - .9 · 5 / 20 by hand; in the last step allowed it is a termination all the same."""
    env, params = ssmrl.envs.make("xland/empty_5x5", max_steps=20)
    _, state = env.reset_env(jax.random.key(0), params)
    assert state.inner.state.agent.direction == 1
    steps, _ = play(env, params, [0, 0, 1, 0, 0])
    assert [bool(terminated) for _, _, terminated, _, _ in steps] == [False] * 4 + [True]
    np.testing.assert_allclose(steps[-1][1], 1 - 0.9 * 5 / 20, rtol=1e-6)
    params = env.make_params(max_steps=5)
    *_, (_, _, terminated, truncated, _) = play(env, params, [0, 0, 1, 0, 0])[0]
    assert terminated and not truncated


def test_tasks_are_drawn_and_stay_for_all_trials():
    env, params = ssmrl.envs.make("meta/xland", trials=3, max_steps=5)
    assert isinstance(env, Trials)
    keys = jax.random.split(jax.random.key(0), 64)
    tasks = jax.vmap(lambda key: env.env.sample_task(key, params))(keys)
    kinds, counts = np.unique(np.asarray(tasks.goal[:, 0]), return_counts=True)
    np.testing.assert_array_equal(kinds, [1, 3, 4])  # hold, stand beside, put beside
    assert counts.min() > 10
    lying = np.asarray(tasks.init_tiles)
    assert all(len({tuple(x) for x in tiles}) == 4 for tiles in lying.tolist())
    np.testing.assert_array_equal(tasks.goal[:, 1:3], lying[:, 0])
    both = np.asarray(tasks.goal[:, 0]) == 4
    np.testing.assert_array_equal(np.asarray(tasks.goal[:, 3:5])[both], lying[both, 1])
    _, state = env.reset_env(jax.random.key(3), params)
    first = env.env.task_of(state.inner)
    step = jax.jit(lambda state, key: env.step_env(key, state, jnp.int32(1), params))
    ended = []
    for i in range(15):
        _, state, _, terminated, *_ = step(state, jax.random.key(i))
        ended.append(bool(terminated))
        jax.tree.map(np.testing.assert_array_equal, env.env.task_of(state.inner), first)
    assert ended == [False] * 14 + [True]


def test_spaces_and_pictures():
    env, params = ssmrl.envs.make("xland/r1_9x9", view_size=7)
    assert env.action_space(params) == Discrete(6)
    space = env.observation_space(params)
    assert isinstance(space, MultiDiscrete) and space.shape == (7, 7, 2)
    obs, state = env.reset_env(jax.random.key(0), params)
    assert space.contains(obs)
    picture = np.asarray(env.render(state, params))
    assert picture.shape == (72, 56 + 4 + 72, 3) and len(np.unique(picture.reshape(-1, 3), axis=0))
    row, column = np.asarray(state.inner.state.agent.position)
    np.testing.assert_array_equal(picture[8 * row, 60 + 8 * column], 255)


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("xland/r1_9x9", {"rulesets": "trivial"}, "must be one of drawn, trivial-21k"),
        ("xland/r1_9x9", {"objects": 1}, "objects must be an integer from 2 to 12, got 1"),
        ("xland/r1_9x9", {"view_size": 4}, "odd view_size"),
        ("xland/empty_5x5", {"objects": 3}, "MiniGrid-Empty-5x5 has one task"),
        ("meta/xland", {"layout": "r3_9x9"}, "unknown environment 'xland/r3_9x9'"),
    ],
)
def test_what_makes_no_world_is_refused(name, options, says):
    with pytest.raises(ValueError, match=says):
        ssmrl.envs.make(name, **options)


def test_a_benchmark_is_the_packages(monkeypatch):
    """Rule sets by name come from its loader; what cannot be downloaded says so."""
    ruleset = xland.draw_ruleset(jax.random.key(7), 3)

    class Benchmark:
        def sample_ruleset(self, key):
            return ruleset

    monkeypatch.setattr(package, "load_benchmark", lambda name: Benchmark())
    env, params = ssmrl.envs.make("xland/r4_9x9", rulesets="trivial-21k")
    task = env.sample_task(jax.random.key(0), params)
    jax.tree.map(np.testing.assert_array_equal, task, ruleset)

    def fails(name):
        raise OSError("no network")

    monkeypatch.setattr(package, "load_benchmark", fails)
    with pytest.raises(RuntimeError, match="downloaded by xminigrid, and that failed: no network"):
        ssmrl.envs.make("xland/r4_9x9", rulesets="trivial-21k")

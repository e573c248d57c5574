"""Joined environments against their parts: which one is stepped, what is seen and done."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

import ssmrl.envs
from ssmrl.envs import Environment, spaces
from ssmrl.envs.drawing import gauges
from ssmrl.envs.meta import Joined, Member, Trials
from ssmrl.envs.meta.families import SUITES
from ssmrl.envs.meta.joined import one_hot, one_hot_size
from tests.compiling import quick_jit
from tests.unchecked import unchecked

HAS_GYMNAX = importlib.util.find_spec("gymnax") is not None


@struct.dataclass
class State:
    time: jax.Array


class Echo(Environment):
    """Shows `offset` + time, in `size` numbers; the reward is its action's number, or their sum."""

    def __init__(self, offset, size, action):
        self.offset, self.size, self.action = float(offset), size, action

    def observation_space(self, params):
        return spaces.Box(-np.inf, np.inf, (self.size,))

    def action_space(self, params):
        return self.action

    def reset_env(self, key, params):
        return self.observe(jnp.int32(0)), State(jnp.int32(0))

    def step_env(self, key, state, action, params):
        time, no = state.time + 1, jnp.asarray(False)
        reward = jnp.sum(jnp.asarray(action) * 1.0)
        return self.observe(time), State(time), reward, time >= 5, no, {}

    def observe(self, time):
        return jnp.full(self.size, self.offset) + time


TWO = {
    "three": Member(Echo(10, 2, spaces.Discrete(3)), reward_scale=0.5),
    "four": Member(Echo(20, 4, spaces.MultiDiscrete([2, 2]))),
}
MIXED = {**TWO, "real": Member(Echo(30, 3, spaces.Box(np.float32([0, 10]), np.float32([1, 30]))))}


def drawn(env, count=200):
    """States of as many tasks."""
    keys = jax.random.split(jax.random.key(0), count)
    return quick_jit(jax.vmap(lambda key: env.reset_env(key, env.default_params)))(keys)


def test_what_is_seen_is_the_task_s_map_of_its_own_environment():
    env = Joined(TWO, observation_width=6)
    obs, state = drawn(env)
    assert obs.shape == (200, 6)
    which = np.asarray(state.task.which)
    assert set(which) == {0, 1} and 60 < which.sum() < 140
    maps = np.asarray(state.task.observation)
    assert maps.shape == (200, 6, 4) and len({m.tobytes() for m in maps}) == 200
    shown = np.where(which[:, None] == 0, [[10, 10, 0, 0]], [[20, 20, 20, 20]])
    np.testing.assert_allclose(obs, np.einsum("bwd,bd->bw", maps, shown), rtol=1e-4, atol=1e-4)
    # One over the environment's own width: 2 and 4.
    for i, size in enumerate((2, 4)):
        assert maps[which == i].std() == pytest.approx(size**-0.5, rel=0.05)
    assert abs(maps.mean()) < 0.02

    step = quick_jit(jax.vmap(lambda s: env.step_env(jax.random.key(1), s, 0, env.default_params)))
    obs, after, *_ = step(state)
    shown = np.where(which[:, None] == 0, [[11, 11, 0, 0]], [[21, 21, 21, 21]])
    np.testing.assert_allclose(obs, np.einsum("bwd,bd->bw", maps, shown), rtol=1e-4, atol=1e-4)
    # The task's environment has moved, the other one has not.
    for i in range(2):
        np.testing.assert_array_equal(after.inner[i].inner.time, which == i)


def test_discrete_actions_are_permuted_and_each_own_one_can_be_taken():
    """Rewards are the own action's number, or the sum of two bits: 0 … 2, and 0, 1, 1, 2."""
    env = Joined(TWO)
    assert env.action_space(env.default_params) == spaces.Discrete(4)
    _, state = drawn(env)
    which, order = np.asarray(state.task.which), np.asarray(state.task.action)
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(4), (200, 1)))
    assert len({o.tobytes() for o in order}) == 24
    step = quick_jit(
        jax.vmap(lambda s, a: env.step_env(jax.random.key(1), s, a, env.default_params)[2])
    )
    rewards = np.stack([step(state, jnp.full(200, a)) for a in range(4)], axis=1)
    three = 0.5 * (order % 3)  # of reward_scale 1/2
    four = order // 2 + order % 2  # 0 … 3 are (0, 0), (0, 1), (1, 0), (1, 1)
    np.testing.assert_allclose(rewards, np.where(which[:, None] == 0, three, four))


def test_continuous_actions_are_joined_with_discrete_ones():
    env = Joined(MIXED, action_width=5)
    assert env.action_space(env.default_params) == spaces.Box(-1.0, 1.0, (5,))
    _, state = drawn(env)
    which, rows = np.asarray(state.task.which), np.asarray(state.task.action)
    assert rows.shape == (200, 4, 5)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=2), 1, rtol=1e-5)
    actions = np.random.default_rng(0).uniform(-1, 1, (200, 5)).astype(np.float32)
    step = quick_jit(
        jax.vmap(lambda s, a: env.step_env(jax.random.key(1), s, a, env.default_params)[2])
    )
    reward = np.asarray(step(state, jnp.asarray(actions)))
    scores = np.einsum("brw,bw->br", rows, actions)
    unit = (np.clip(scores[:, :2], -1, 1) + 1) / 2
    best = scores.argmax(axis=1)
    expected = [
        0.5 * scores[:, :3].argmax(axis=1),
        best // 2 + best % 2,
        unit[:, 0] + 10 + 20 * unit[:, 1],
    ]
    np.testing.assert_allclose(reward, np.choose(which, expected), rtol=1e-4)
    assert Joined(MIXED).action_width == 4  # as many as the largest number of an environment's own


def test_trials_are_of_one_environment_and_one_projection():
    env = Trials(Joined(TWO), 3)
    params = env.default_params
    _, state = env.reset_env(jax.random.key(2), params)
    step = quick_jit(lambda key, s: env.step_env(key, s, 1, params))
    first = jax.device_get(state.task)
    for time in range(12):
        _, state, *_ = step(jax.random.key(time), state)
        for a, b in zip(
            jax.tree.leaves(first.observation), jax.tree.leaves(state.task.observation), strict=True
        ):
            np.testing.assert_array_equal(a, b)
    assert state.trial == 2 and state.task.which == first.which


def test_held_out_environments_are_drawn_in_their_split_only():
    for split, names in (("train", {"three", "real"}), ("held_out", {"four"})):
        env = Joined(MIXED, held_out=["four"], split=split)
        _, state = drawn(env)
        assert {env.names[i] for i in np.asarray(state.task.which)} == names
    # Spaces are the same in both, or the agent could not act in the other.
    both = [Joined(MIXED, held_out=["real"], split=split) for split in ("train", "held_out")]
    assert both[0].action_space(None) == both[1].action_space(None) == spaces.Box(-1, 1, (4,))
    assert both[0].observation_space(None) == both[1].observation_space(None)
    env = Joined(MIXED, tasks=["four"])
    assert env.names == ["four"] and env.action_space(None) == spaces.Discrete(4)


def test_observations_of_all_kinds_become_vectors():
    """Discrete parts one-hot, bounded boxes to [-1, 1] by their bounds, others as they are."""
    space = spaces.Dict(
        {
            "a": spaces.Discrete(3),
            "b": spaces.Tuple([spaces.MultiDiscrete([2, 2]), spaces.Box(0.0, 4.0, (2,))]),
            "c": spaces.Box(np.float32([-np.inf, 1]), np.float32([5, 1])),
        }
    )
    obs = {
        "a": jnp.int32(2),
        "b": (jnp.int32([1, 0]), jnp.float32([0, 3])),
        "c": jnp.float32([7, 1]),
    }
    expected = [0, 0, 1, 0, 1, 1, 0, -1, 0.5, 7, 1]
    np.testing.assert_allclose(one_hot(space, obs), expected)
    assert one_hot_size(space) == len(expected)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"held_out": ["four"], "tasks": ["three", "four"]}, "four cannot be both trained in and"),
        ({"tasks": ["five"]}, "tasks has 'five'; there are three, four, real"),
        ({"held_out": ["five"]}, "held_out has 'five'"),
        ({"tasks": ["four", "four"]}, "tasks names an environment twice"),
        ({"tasks": []}, "tasks is empty"),
        ({"tasks": "four"}, r"tasks must be a list of names, \[four\] say, got 'four'"),
        ({"held_out": "four"}, r"held_out must be a list of names, \[four\] say, got 'four'"),
        ({"tasks": 4}, "tasks must be a list of names"),
        ({"held_out": None}, "held_out must be a list of names"),
        ({"held_out": ["three", "four", "real"]}, "tasks is empty"),
        ({"observation_width": 0}, "observation_width must be a positive integer"),
        ({"action_width": 0}, "action_width must be a positive integer"),
        ({"tasks": ["three"], "action_width": 2}, "the actions of three are all discrete"),
    ],
)
def test_bad_lists_and_widths_are_one_line(options, words):
    with unchecked(), pytest.raises(ValueError, match=words) as caught:
        Joined(MIXED, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("member", "words"),
    [
        (Echo(0, 2, spaces.Box(-np.inf, np.inf, (2,))), "wide cannot be joined: .*finite bounds"),
        (Echo(0, 2, spaces.Tuple([spaces.Discrete(2)])), "wide cannot be joined: .*several parts"),
        (Echo(0, 2000, spaces.Discrete(2)), "wide cannot be joined: .*2,000 numbers"),
    ],
)
def test_spaces_that_cannot_be_joined_are_one_line(member, words):
    with pytest.raises(ValueError, match=words):
        Joined({"wide": Member(member), **TWO})


# ------------------------------------------------------------------------------ by name


@pytest.mark.skipif(not HAS_GYMNAX, reason="gymnax caps jax; see constraints/README.md")
def test_classic_control_by_name():
    name = "meta/classic_control"
    discrete, params = ssmrl.envs.make(name, tasks=["cartpole", "acrobot"], held_out=["pendulum"])
    assert discrete.action_space(params) == spaces.Box(-1, 1, (3,))
    discrete, params = ssmrl.envs.make(name, tasks=["cartpole", "mountain_car"], trials=2)
    assert discrete.action_space(params) == spaces.Discrete(3) and discrete.trials == 2
    _, params = ssmrl.envs.make(name, tasks=["cartpole"], max_steps_in_episode=7)
    assert params[0].max_steps_in_episode == 7
    with pytest.raises(ValueError, match="mountain_car cannot be both trained in and held out"):
        ssmrl.envs.make(name, tasks=["mountain_car"], held_out=["mountain_car"])
    with pytest.raises(ValueError, match="split=held_out, but nothing is held out"):
        ssmrl.envs.make(name, tasks=["mountain_car"], split="held_out")
    with pytest.raises(ValueError, match="parameters can be set for one environment only"):
        ssmrl.envs.make(name, tasks=["cartpole", "mountain_car"], gravity=1.0)


@pytest.mark.skipif(not HAS_GYMNAX, reason="gymnax caps jax; see constraints/README.md")
def test_a_suite_hands_on_what_it_is_told():
    options = {"tasks": ["cartpole"], "held_out": ["pendulum"], "observation_width": 5}
    for split, drawn in (("train", ["cartpole"]), ("held_out", ["pendulum"])):
        env, params = ssmrl.envs.make("meta/classic_control", split=split, **options)
        assert [env.env.names[i] for i in env.env.drawn] == drawn
        assert env.observation_space(params)["observation"].shape == (5,)
    # Of a pole that stands and a pendulum that hangs, which costs π² in each of 200 steps.
    np.testing.assert_allclose(env.env.scales * [200, -200 * np.pi**2], [1, -0.5], rtol=0.25)
    env, params = ssmrl.envs.make("meta/classic_control", action_width=2, **options)
    assert env.action_space(params) == spaces.Box(-1, 1, (2,))


def test_any_task_distribution_can_be_projected():
    env, params = ssmrl.envs.make("meta/dark_room", projected=True, observation_width=7, size=5)
    obs, state = env.reset(jax.random.key(0), params)
    assert obs["observation"].shape == (7,) and state.task.observation.shape == (7, 10)
    assert env.action_space(params) == spaces.Discrete(5)
    picture = jax.eval_shape(lambda s: env.render(s, params), state)
    assert picture.shape[0] == 74  # with the bar of trials
    env, params = ssmrl.envs.make("meta/repeated", env="popgym/repeat_first_easy", projected=True)
    assert env.observation_space(params)["observation"].shape == (16,)
    for name in ("meta/dark_room", "meta/repeated"):
        with pytest.raises(ValueError, match="observation_width=7 is of a projection; add proj"):
            ssmrl.envs.make(name, observation_width=7)
        expected = "projected must be true or false, got 'no'"
        with unchecked(), pytest.raises(ValueError, match=expected):
            ssmrl.envs.make(name, projected="no")


def test_members_of_the_suites_exist_and_can_be_joined():
    known = set(ssmrl.envs.list_envs())
    for suite in SUITES.values():
        assert {name for name, _ in suite.members.values()} <= known
        assert set(suite.tasks) <= set(suite.members)
    wide, params = ssmrl.envs.make(
        "meta/popgym", tasks=["minesweeper", "position_only_pendulum"], held_out=["battleship"]
    )
    assert wide.action_space(params) == spaces.Box(-1, 1, (64,))


def test_the_picture_is_what_is_seen_beside_the_environment_that_the_task_is():
    """One with a picture, and one without, whose own observation is shown instead."""
    shown, _ = ssmrl.envs.make("popgym/position_only_cartpole_easy")
    bare = Echo(0.5, 3, spaces.Discrete(2))
    env = Joined({"shown": Member(shown), "bare": Member(bare)}, observation_width=5)
    params = env.default_params
    for which in (0, 1):
        task = env.sample_task(jax.random.key(which), params).replace(which=jnp.int32(which))
        _, state = env.reset_trial(jax.random.key(2), task, params)
        obs, state, *_ = env.step_env(jax.random.key(3), state, jnp.int32(1), params)
        picture = np.asarray(env.render(state, params))
        assert picture.shape == (64, 64 + 4 + 164, 3)
        view, truth = picture[:, :64], picture[:, 68:]
        np.testing.assert_array_equal(view, gauges(obs, 2.0, height=64, width=64))
        if which == 0:
            own = shown.render(state.inner[0].inner, params[0])
        else:
            own = gauges(jnp.full(3, 1.5), 2.0, height=64, width=64)
            assert (truth[:, 64:] == 255).all()
        np.testing.assert_array_equal(truth[:, : own.shape[1]], own)


def test_the_observation_of_the_environment_is_in_the_state():
    """Padded with zeros; a projection of it is what the agent sees."""
    short, long = Echo(3, 2, spaces.Discrete(2)), Echo(7, 5, spaces.Discrete(2))
    env = Joined({"short": Member(short), "long": Member(long)}, observation_width=4)
    params = env.default_params
    task = env.sample_task(jax.random.key(0), params).replace(which=jnp.int32(0))
    obs, state = env.reset_trial(jax.random.key(1), task, params)
    for time in range(3):
        np.testing.assert_array_equal(state.seen, [3 + time, 3 + time, 0, 0, 0])
        np.testing.assert_allclose(obs, task.observation @ state.seen, rtol=1e-5)
        obs, state, *_ = env.step_env(jax.random.key(2), state, jnp.int32(1), params)

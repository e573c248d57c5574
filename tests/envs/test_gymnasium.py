"""Python environments, stepped from inside compiled programs."""

import re

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs import EpisodeStatistics, UnknownEnvironmentError, spaces
from ssmrl.envs.adapters.gymnasium import HostEnvironmentError, HostVectorEnv
from ssmrl.envs.popgym import DIFFICULTIES, FAMILIES


class Scripted(gymnasium.Env):
    """Nested spaces that start elsewhere than at 0; it writes down what it was told."""

    observation_space = gymnasium.spaces.Dict(
        {
            "time": gymnasium.spaces.Discrete(100, start=5),
            "noise": gymnasium.spaces.Box(0, 1, (2,), np.float64),
        }
    )
    action_space = gymnasium.spaces.Tuple(
        [
            gymnasium.spaces.Discrete(3, start=-1),
            gymnasium.spaces.MultiDiscrete([2, 3]),
            gymnasium.spaces.Box(-1, 1, (1,), np.float64),
        ]
    )

    def __init__(self, fault=None, length=3):
        self.fault, self.length, self.seeds, self.actions = fault, length, [], []

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.seeds.append(seed)
        self.time = 0
        return self.observe(), {}

    def observe(self):
        return {"time": np.int64(5 + self.time), "noise": self.np_random.random(2)}

    def step(self, action):
        self.actions.append(action)
        assert self.action_space.contains(action)
        self.time += 1
        obs, reward = self.observe(), float(self.time)
        if self.fault == "raise" and self.time == 2:
            raise ZeroDivisionError("the pole is too long")
        if self.fault == "exit" and self.time == 2:
            raise SystemExit("the window was closed")
        if self.fault == "observation" and self.time == 2:
            obs["noise"][1] = np.nan
        if self.fault == "reward" and self.time == 2:
            reward = np.inf
        return obs, reward, self.time == self.length, False, {}


def scripted(num_envs=2, **kwargs):
    return HostVectorEnv(lambda: Scripted(**kwargs), num_envs, name="test/scripted")


def sample(venv, key):
    return jax.vmap(venv.action_space.sample)(jax.random.split(key, venv.num_envs))


def rollout(venv, steps, seed=0):
    @jax.jit
    def run(key):
        first = venv.reset(key)

        def body(carry, key):
            obs, state, *rest = venv.step(carry[1], sample(venv, key))
            return (obs, state), (obs, *rest)

        return first, jax.lax.scan(body, first, jax.random.split(jax.random.key(7), steps))

    return jax.device_get(run(jax.random.key(seed)))


def test_spaces_actions_and_auto_reset():
    venv = scripted()
    assert venv.observation_space == spaces.Dict(
        {"time": spaces.Discrete(100), "noise": spaces.Box(0, 1, (2,))}
    )
    assert venv.is_host
    (first, _), (_, (obs, reward, terminated, truncated, info)) = rollout(venv, 7)
    contains = jax.vmap(venv.observation_space.contains)
    assert contains(first).all() and jax.vmap(contains)(obs).all()
    np.testing.assert_array_equal(first["time"], [0, 0])
    np.testing.assert_array_equal(obs["time"][:, 0], [1, 2, 0, 1, 2, 0, 1])
    final = info["final_observation"]
    np.testing.assert_array_equal(final["time"][:, 0], [1, 2, 3, 1, 2, 3, 1])
    np.testing.assert_array_equal(reward[:, 1], [1, 2, 3, 1, 2, 3, 1])
    np.testing.assert_array_equal(terminated[:, 0], [0, 0, 1, 0, 0, 1, 0])
    assert not truncated.any()
    done = terminated | truncated
    np.testing.assert_array_equal(obs["noise"][~done], final["noise"][~done])
    assert (obs["noise"][done] != final["noise"][done]).all()
    # Every step arrived once and in order, in the environment's own terms.
    expected = jax.vmap(lambda key: sample(venv, key))(jax.random.split(jax.random.key(7), 7))
    for i, env in enumerate(venv._envs):
        assert len(env.actions) == 7 and env.seeds[1:] == [None, None]
        for t, (move, pair, force) in enumerate(env.actions):
            assert move == expected[0][t, i] - 1
            np.testing.assert_array_equal(pair, expected[1][t, i])
            np.testing.assert_allclose(force, expected[2][t, i])


def test_reproducible_per_seed_and_environment():
    noise = [
        rollout(scripted(n), 5, seed)[1][1][0]["noise"] for n, seed in ((3, 0), (2, 0), (2, 1))
    ]
    np.testing.assert_array_equal(noise[0][:, :2], noise[1])
    assert (noise[1] != noise[2]).all() and (noise[1][:, 0] != noise[1][:, 1]).all()


def test_agrees_with_gymnasium_stepped_by_hand():
    venv = ssmrl.envs.make_vector("gymnasium/CartPole-v1", 2, max_episode_steps=15).unwrapped
    _, (_, (obs, reward, terminated, truncated, info)) = rollout(venv, 60)
    assert terminated.any() and truncated.any()
    (first, _), _ = rollout(venv, 1)
    actions = jax.vmap(lambda key: sample(venv, key))(jax.random.split(jax.random.key(7), 60))
    for i in range(2):
        env = gymnasium.make("CartPole-v1", max_episode_steps=15)
        key = jax.random.fold_in(jax.random.key(0), i)
        seen, _ = env.reset(seed=int(jax.random.bits(key, (), jnp.uint32)))
        np.testing.assert_array_equal(first[i], seen)
        for t in range(60):
            seen, paid, ended, cut, _ = env.step(int(actions[t, i]))
            np.testing.assert_array_equal(info["final_observation"][t, i], seen)
            assert (reward[t, i], terminated[t, i], truncated[t, i]) == (paid, ended, cut)
            if ended or cut:
                seen, _ = env.reset()
            np.testing.assert_array_equal(obs[t, i], seen)


@pytest.mark.parametrize("name", ["cart_pole", "CartPole", "cartpole-v1", "CartPole-v1"])
def test_ids_of_gymnasium(name):
    assert ssmrl.envs.make_vector(f"gymnasium/{name}", 1).name == "gymnasium/CartPole-v1"


def test_unknown_version_is_unknown():
    with pytest.raises(UnknownEnvironmentError, match="did you mean 'gymnasium/CartPole-v"):
        ssmrl.envs.make_vector("gymnasium/CartPole-v77", 1)


@pytest.mark.parametrize("transform", [jax.vmap, lambda f: jax.jit(jax.vmap(f))])
def test_vmap_is_refused(transform):
    venv = EpisodeStatistics(scripted())
    with pytest.raises(ValueError, match="cannot be vmapped"):
        transform(venv.reset)(jax.random.split(jax.random.key(0), 2))
    _, state = venv.reset(jax.random.key(0))
    action = sample(venv, jax.random.key(0))
    with pytest.raises(ValueError, match="cannot be vmapped"):
        transform(lambda a: venv.step(state, a)[0])(jax.tree.map(lambda x: x[None], action))


CAUSES = {"raise": ZeroDivisionError, "exit": SystemExit}


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (
            "raise",
            "the pole is too long (ZeroDivisionError); "
            "raised by test/scripted, environment 0, step 2",
        ),
        (
            "exit",
            "the window was closed (SystemExit); raised by test/scripted, environment 0, step 2",
        ),
        (
            "observation",
            "test/scripted, environment 0, step 2: observation['noise'][1] must be finite, got nan",
        ),
        ("reward", "test/scripted, environment 0, step 2: reward must be finite, got inf"),
    ],
)
def test_faults_are_named(fault, message, caplog):
    venv = EpisodeStatistics(scripted(fault=fault))
    with pytest.raises(Exception, match=re.escape(message)):
        rollout(venv, 4)
    assert type(venv.failure) is HostEnvironmentError and str(venv.failure) == message
    assert isinstance(venv.failure.__cause__, CAUSES.get(fault, type(None)))
    # JAX would log two tracebacks before anybody knows.
    assert not caplog.records
    # Nothing is left behind: another environment still works.
    rollout(scripted(), 4)


def test_a_failure_is_forgotten_at_the_next_reset(caplog):
    venv = scripted(fault="reward")
    with pytest.raises(jax.errors.JaxRuntimeError):
        rollout(venv, 3)
    assert venv.failure is not None
    rollout(venv, 1)
    assert venv.failure is None


def test_a_step_without_a_reset_in_this_process_is_refused(caplog):
    venv = scripted()
    _, state = venv.reset(jax.random.key(0))
    restored = scripted()
    with pytest.raises(Exception, match="call reset and begin new episodes"):
        jax.block_until_ready(restored.step(state, sample(restored, jax.random.key(0))))
    with pytest.raises(HostEnvironmentError, match="was stepped before it was reset"):
        scripted()._host_step(None)


class Saying(gymnasium.Env):
    """Episodes of three steps; in the second ones it has no score."""

    observation_space = action_space = gymnasium.spaces.Discrete(2)

    def __init__(self, wrong=...):
        self.wrong, self.episode = wrong, 0

    def reset(self, *, seed=None, options=None):
        self.time, self.episode = 0, self.episode + 1
        return 0, {"is_success": False} if self.episode == 1 else {}

    def step(self, action):
        self.time += 1
        if self.wrong is not ...:
            return 0, 0.0, False, False, self.wrong
        infos = [{"success": None, "name": "b", "size": 3}, {}, {"success": np.bool_(action == 1)}]
        info = infos[self.time - 1]
        if self.episode == 1 and self.time == 2:
            info = {"score": np.array(7), "success": "not yet"}
        return 0, 0.0, self.time == 3, False, info


def test_numbers_of_the_environments_own_hold_for_the_rest_of_the_episode():
    venv = EpisodeStatistics(HostVectorEnv(Saying, 2, name="test/saying", info=["score"]))
    assert venv.unwrapped.own_scalars == ("success", "is_success", "score")
    _, (_, (*_, info)) = rollout(venv, 6)
    none, key = np.inf, jax.random.split(jax.random.key(7), 6)
    last = [np.asarray(sample(venv, key[t]), np.float32) for t in (2, 5)]
    assert (last[0] != last[0][::-1]).any() or (last[1] != last[1][::-1]).any()
    expected = {
        "success": [[none] * 2] * 2 + [last[0]] + [[none] * 2] * 2 + [last[1]],
        "is_success": [[0, 0]] * 3 + [[none] * 2] * 3,
        "score": [[none] * 2, [7, 7], [7, 7]] + [[none] * 2] * 3,
    }
    assert {name for name in info["episode"] if "/" in name} == {f"info/{x}" for x in expected}
    for name, values in expected.items():
        assert info[name].dtype == np.float32
        np.testing.assert_array_equal(info["episode"][f"info/{name}"], values, err_msg=name)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, "info must be a dict, got None"),
        ({"place": np.zeros(2)}, "info['place'] must be a real scalar, got float64[2]"),
        ({"place": "here"}, "info['place'] must be a real scalar, got 'here'"),
    ],
)
def test_wrong_info_is_named(said, message, caplog):
    wrong = HostVectorEnv(lambda: Saying(said), 1, name="x", info=["place"])
    with pytest.raises(Exception, match=re.escape(message)):
        rollout(wrong, 1)
    assert str(wrong.failure) == f"x, environment 0, step 1: {message}"


def test_names_of_info_are_checked_and_reach_the_environment():
    venv = ssmrl.envs.make_vector("gymnasium/CartPole-v1", 1, info=["score"])
    assert venv.unwrapped.own_scalars == ("success", "is_success", "score")
    with pytest.raises(ValueError, match="must be a list of names"):
        HostVectorEnv(Saying, 1, name="x", info="score")
    with pytest.raises(ValueError, match="the name episode"):
        HostVectorEnv(Saying, 1, name="x", info=["episode"])


def test_many_steps_of_many_environments():
    """Callbacks on the CPU have hung before, with large arrays above all: here 750 kB each way."""

    class Large(gymnasium.Env):
        observation_space = gymnasium.spaces.Box(0, 255, (64, 64, 3), np.uint8)
        action_space = gymnasium.spaces.Box(-1, 1, (3000,))

        def reset(self, *, seed=None, options=None):
            self.time = 0
            return np.zeros((64, 64, 3), np.uint8), {}

        def step(self, action):
            self.time += 1
            obs = np.full((64, 64, 3), self.time % 256, np.uint8)
            return obs, float(action[0]), False, self.time == 100, {}

    venv = EpisodeStatistics(HostVectorEnv(Large, 64, name="test/large"))

    @jax.jit
    def run(key):
        def body(carry, t):
            obs, state = carry
            action = jnp.full((64, 3000), obs[0, 0, 0, 0] / 256.0)
            obs, state, *_, info = venv.step(state, action)
            return (obs, state), (obs[:, 0, 0, 0], info["episode"])

        return jax.lax.scan(body, venv.reset(key), jnp.arange(2000))[1]

    seen, episode = jax.device_get(run(jax.random.key(0)))
    np.testing.assert_array_equal(seen, np.arange(1, 2001)[:, None] % 100 * np.ones((1, 64)))
    assert episode["done"].sum() == 20 * 64
    # The action was the observation before: 0, 1, …, 99 over 256.
    np.testing.assert_allclose(episode["return"][episode["done"]], 4950 / 256, rtol=1e-5)


@pytest.mark.parametrize("family", ["repeat_previous", "minesweeper", "position_only_pendulum"])
def test_popgym_original(family):
    venv = ssmrl.envs.make_vector(f"popgym_original/{family}_easy", 3, previous_action=True)
    (first, _), (_, (obs, reward, terminated, truncated, _)) = rollout(venv, 210)
    contains = jax.vmap(venv.observation_space.contains)
    assert contains(first).all() and jax.vmap(contains)(obs).all()
    assert (terminated | truncated).any() and np.isfinite(reward).all()


def test_popgym_original_has_the_same_spaces_as_ours():
    for family in FAMILIES:
        for difficulty in DIFFICULTIES:
            ours = ssmrl.envs.make_vector(f"popgym/{family}_{difficulty}", 1)
            theirs = ssmrl.envs.make_vector(f"popgym_original/{family}_{difficulty}", 1)
            assert ours.observation_space == theirs.observation_space
            assert ours.action_space == theirs.action_space


@pytest.mark.filterwarnings("ignore:Maze environments:DeprecationWarning")
def test_every_popgym_id_can_be_made():
    for name in ssmrl.envs.list_envs():
        if name.startswith("popgym_original/"):
            venv = ssmrl.envs.make_vector(name, 1)
            obs, _ = venv.reset(jax.random.key(0))
            assert jax.vmap(venv.observation_space.contains)(obs).all(), name


def test_pictures():
    venv = ssmrl.envs.make_vector("gymnasium/CartPole-v1", 1)
    _, state = venv.reset(jax.random.key(0))
    with pytest.raises(NotImplementedError, match="rgb_array"):
        venv.render(state)
    venv.close()


def test_every_environment_has_a_state_of_its_own():
    env = gymnasium.make("CartPole-v1")
    with pytest.raises(ValueError, match="mine: what makes an environment gave the same one twice"):
        HostVectorEnv(lambda: env, 2, name="mine")
    assert HostVectorEnv(lambda: env, 1, name="mine").num_envs == 1

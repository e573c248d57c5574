"""Our POPGym against the ``popgym`` package: same hidden state, same actions, same everything."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs.popgym import DIFFICULTIES
from ssmrl.envs.popgym._pictures import RIGHT, WRONG
from ssmrl.envs.popgym.position_only_cartpole import EnvState as CartPoleState
from tests.compiling import quick_jit
from tests.envs import policies_cards as policies
from tests.envs.popgym.table import TABLE
from tests.envs.popgym.upstream import few_and_many, record, replay, upstream

CARD_IDS = [f"{family}_{d}" for family in ("repeat_previous", "repeat_first") for d in DIFFICULTIES]
CARTPOLE_IDS = [f"position_only_cartpole_{difficulty}" for difficulty in DIFFICULTIES]


def bang_bang(env):
    """Actions that keep the pole up for long, so that time limits are seen too."""

    def choose(rng, t):
        x, x_dot, theta, theta_dot = env.state
        lean = theta + 0.3 * theta_dot + 0.02 * x + 0.1 * x_dot
        return int(lean > 0) if rng.random() > 0.1 else int(rng.integers(2))

    return choose


def cartpole_episode(id_, seed):
    env = upstream(id_)
    # Every other episode is random and short, the others are long: some fall, some reach the limit.
    choose = bang_bang(env) if seed % 2 else lambda rng, t: int(rng.integers(2))
    return record(env, seed, lambda env: np.array(env.state), choose)


@few_and_many
@pytest.mark.parametrize("id_", CARTPOLE_IDS)
def test_cartpole_agrees_with_upstream_step_by_step(id_, episodes):
    """In float32, from upstream's physics before each step."""
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    step = jax.jit(
        jax.vmap(lambda state, action: env.step_env(jax.random.key(0), state, action, params))
    )
    ends = set()
    for seed in range(episodes):
        episode = cartpole_episode(id_, seed)
        length = len(episode["action"])
        pad = params.max_episode_length - length  # one shape, one compilation
        physics = np.pad(episode["hidden"], ((0, pad), (0, 0)))
        state = CartPoleState(
            physics=jnp.asarray(physics, jnp.float32), time=jnp.arange(length + pad)
        )
        actions = jnp.asarray(np.pad(episode["action"], (0, pad)), jnp.int32)
        obs, _, reward, terminated, truncated, _ = step(state, actions)
        np.testing.assert_allclose(obs[:length], episode["obs"][1:], atol=1e-6)
        np.testing.assert_allclose(reward[:length], episode["reward"], atol=1e-6)
        np.testing.assert_array_equal(terminated[:length], episode["terminated"])
        np.testing.assert_array_equal(truncated[:length], episode["truncated"])
        ends.add((bool(terminated[length - 1]), bool(truncated[length - 1])))
    assert {(True, False), (False, True)} <= ends


@few_and_many
@pytest.mark.parametrize("id_", CARTPOLE_IDS)
def test_cartpole_agrees_with_upstream_over_whole_episodes(id_, episodes):
    """In float64, which is what upstream computes in, from upstream's first state alone.

    The pole doubles a difference about every 0.1 s: with the actions given, one rounding (ours and
    numpy's differ in the last bit of a sine) passes 1e-6 after 50 steps in float32 and 310 in
    float64. Medium and Hard are therefore played in stretches of 200 steps, each from upstream's
    state.
    """
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    ends, stretch = set(), 200
    with jax.enable_x64(True):
        run = jax.jit(partial(replay, env, params))
        for seed in range(episodes):
            episode = cartpole_episode(id_, seed)
            length = len(episode["action"])
            actions = np.pad(episode["action"], (0, params.max_episode_length - length))
            for begin in range(0, length, stretch):
                physics = jnp.asarray(episode["hidden"][begin])
                assert physics.dtype == jnp.float64
                state = CartPoleState(physics=physics, time=jnp.int32(begin))
                window = slice(begin, min(begin + stretch, length))
                played = jnp.asarray(actions[begin : begin + stretch], jnp.int32)
                ours = run(state, played)
                assert ours[0].dtype == ours[1].dtype == jnp.float32
                names = ("obs", "reward", "terminated", "truncated")
                for value, name in zip(ours, names, strict=True):
                    theirs = episode[name][1:] if name == "obs" else episode[name]
                    value = np.asarray(value[: window.stop - begin], np.float64)
                    np.testing.assert_allclose(value, theirs[window], atol=1e-6, rtol=0)
            ends.add((episode["terminated"][-1].item(), episode["truncated"][-1].item()))
    assert {(True, False), (False, True)} <= ends


@pytest.mark.parametrize("id_", CARTPOLE_IDS)
def test_cartpole_space_and_first_state(id_):
    theirs = upstream(id_).observation_space
    venv = ssmrl.envs.make_vector(f"popgym/{id_}", 4096)
    np.testing.assert_allclose(venv.observation_space.low, theirs.low)
    np.testing.assert_allclose(venv.observation_space.high, theirs.high)
    obs, state = venv.reset(jax.random.key(0))
    physics = np.asarray(state.inner.env.physics)
    np.testing.assert_array_equal(obs, physics[:, [0, 2]])
    assert (np.abs(physics) <= 0.05).all()
    # U(-.05, .05): mean 0 and variance .1²/12, within five standard errors of 4096 draws.
    np.testing.assert_allclose(physics.mean(0), 0, atol=5 * 0.1 / np.sqrt(12 * 4096))
    np.testing.assert_allclose(physics.var(0), 0.1**2 / 12, rtol=0.07)


EVERY_ID = [
    pytest.param(id_, marks=() if id_.endswith("_easy") else pytest.mark.slow) for id_ in TABLE
]


@pytest.mark.parametrize("id_", EVERY_ID)
def test_random_return(id_):
    """The mean over 4096 random episodes, within 4 standard errors.

    A false alarm has probability 6e-5 an id. The standard error is at most .0025, so that an
    error of .02 in the mean (one wrong answer in a hundred) is missed with probability below 1e-4;
    on the boards, where episodes differ more, it is .006 and an error of .05.
    """
    longest, expected, uncertainty = TABLE[id_]
    space = ssmrl.envs.make_vector(f"popgym/{id_}", 1).action_space
    policy = policies.random_policy(space)
    returns, lengths = policies.first_episodes(policy, f"popgym/{id_}", 4096, longest)
    error = np.hypot(returns.std() / np.sqrt(len(returns)), uncertainty)
    on_a_board = id_.startswith(("battleship", "minesweeper", "concentration"))
    assert error <= (0.006 if on_a_board else 0.0025)
    assert abs(returns.mean() - expected) <= 4 * error
    if "cartpole" not in id_ and not on_a_board:
        assert (lengths == longest).all()


@pytest.mark.parametrize("id_", CARD_IDS)
def test_a_perfect_memory_earns_one(id_):
    """The agent keeps the observations itself and answers by the rule alone."""
    venv = ssmrl.envs.make_vector(f"popgym/{id_}", 4)
    params = venv.unwrapped.params
    longest = TABLE[id_][0]

    @jax.jit
    def run(key):
        obs, state = venv.reset(key)
        seen = jnp.zeros((longest + 1, 4), jnp.int32)

        def body(carry, t):
            obs, state, seen = carry
            seen = seen.at[t].set(obs)
            asked = jnp.maximum(t - (params.k - 1), 0) if hasattr(params, "k") else 0
            obs, state, *_, info = venv.step(state, seen[asked])
            return (obs, state, seen), info["episode"]

        return jax.lax.scan(body, (obs, state, seen), jnp.arange(longest))[1]

    episode = run(jax.random.key(2))
    assert episode["done"][-1].all() and not episode["done"][:-1].any()
    np.testing.assert_allclose(episode["return"][-1], 1.0, atol=1e-4)


@pytest.mark.parametrize("id_", [*CARD_IDS, *CARTPOLE_IDS])
def test_an_episode_of_the_longest_length_ends_on_time(id_):
    """Card games terminate, CartPole is truncated: one step early is not the end, nor one late."""
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    longest = TABLE[id_][0]
    _, state = env.reset(jax.random.key(0))
    for time, is_end in ((longest - 2, False), (longest - 1, True)):
        before = replace(state, time=jnp.int32(time))
        *_, terminated, truncated, _ = env.step_env(jax.random.key(0), before, 0, params)
        assert (bool(terminated), bool(truncated)) == (
            (False, is_end) if "cartpole" in id_ else (is_end, False)
        )


@pytest.mark.parametrize("id_", TABLE)
@pytest.mark.parametrize("x64", [False, True])
def test_states_keep_their_types(id_, x64):
    """Whatever JAX's default float is: states fit a scan's carry, observations their space."""
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    with jax.enable_x64(x64):
        key = jax.random.key(0)
        obs, state = jax.eval_shape(lambda key: env.reset_env(key, params), key)
        action = jax.eval_shape(env.action_space(params).sample, key)
        step = lambda key, state, action: env.step_env(key, state, action, params)  # noqa: E731
        obs_after, state_after, reward, terminated, truncated, _ = jax.eval_shape(
            step, key, state, action
        )
        types = lambda tree: [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]  # noqa: E731
        sample = jax.eval_shape(env.observation_space(params).sample, key)
        assert types(state) == types(state_after)
        assert types(obs) == types(obs_after) == types(sample)
        assert types(reward) == [((), jnp.float32)]
        assert types((terminated, truncated)) == [((), jnp.bool)] * 2


@pytest.mark.parametrize("id_", EVERY_ID)
def test_pictures(id_):
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    render, step = quick_jit(env.render), quick_jit(env.step_env)
    _, state = env.reset(jax.random.key(0))
    first = np.asarray(render(state, params))
    assert first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] == 3
    assert len(np.unique(first.reshape(-1, 3), axis=0)) >= 3
    changed = False
    for t in range(70 if "previous_hard" in id_ else 10):
        key = jax.random.key(t)
        _, state, *_ = step(key, state, env.action_space(params).sample(key), params)
        changed |= bool((np.asarray(render(state, params)) != first).any())
    assert changed


def test_the_picture_tells_right_from_wrong():
    env, params = ssmrl.envs.make("popgym/repeat_previous_easy")
    render = quick_jit(env.render)
    _, state = env.reset(jax.random.key(0))
    for t in range(6):
        answer = env.answer(state, params)
        assert (t < 3) == (int(answer) == -1)
        right = jnp.maximum(answer, 0)
        for action, frame, other in ((right, RIGHT, WRONG), ((right + 1) % 4, WRONG, RIGHT)):
            _, after, reward, *_ = env.step_env(jax.random.key(0), state, action, params)
            colours = {tuple(c) for c in np.asarray(render(after, params)).reshape(-1, 3)}
            # Before k cards were seen nothing is asked: no frame, no reward.
            assert (tuple(frame) in colours) == (t >= 3) == (reward != 0)
            assert tuple(other) not in colours
        state = after

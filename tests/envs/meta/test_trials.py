"""Trials against tables worked out by hand: what is seen, what ends, what counts beyond an end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs import JaxVectorEnv
from ssmrl.envs.meta import Episodes, OneGoodArm, Trials
from tests.agents.scripted import collect, small_agent
from tests.compiling import quick_jit
from tests.envs.counting import Counting
from tests.unchecked import unchecked

NONE = 2  # of Counting's two actions


def play(env, actions, seed=0):
    """The observations `[T + 1, ...]`, and reward, terminated, truncated and info `[T]`."""
    params = env.default_params

    @quick_jit
    def run(key, actions):
        first, state = env.reset_env(jax.random.fold_in(key, 99), params)

        def step(state, inputs):
            obs, state, *rest = env.step_env(*inputs[:1], state, inputs[1], params)
            return state, (obs, *rest)

        keys = jax.random.split(key, len(actions))
        _, (obs, *rest) = jax.lax.scan(step, state, (keys, actions))
        return jax.tree.map(lambda x, y: jnp.concatenate([x[None], y]), first, obs), *rest

    return jax.device_get(run(jax.random.key(seed), jnp.asarray(actions, jnp.int32)))


def column(obs, name):
    return obs[name].ravel().tolist()


# ------------------------------------------------------------------------------ the table

ACTIONS = [0, 0, 0, 1, 0, 1]
"""Counting pays 10 · (steps so far) + action, ends at action 1 and is cut off after 3 steps:

step    0   1   2        3   4   5
action  0   0   0        1   0   1
reward 10  20  30       11  10  21
trial   0   0   0        1   2   2
ends            cut off  ×       ×, and the episode
"""


def test_a_hand_worked_episode_of_three_trials():
    obs, reward, terminated, truncated, info = play(Trials(Counting(), 3), ACTIONS)
    assert reward.tolist() == [10, 20, 30, 11, 10, 21]
    assert terminated.tolist() == [False] * 5 + [True]
    assert not truncated.any()
    assert obs["observation"][:, 0].tolist() == [0, 1, 2, 0, 0, 1, 2]
    assert column(obs, "previous_action") == [NONE, *ACTIONS]
    assert column(obs, "previous_reward") == [0, 10, 20, 30, 11, 10, 21]
    assert column(obs, "trial_ended") == [0, 0, 0, 1, 1, 0, 1]
    assert column(obs, "first") == [1, 0, 0, 0, 0, 0, 0]
    assert info["trial"].tolist() == [0, 0, 0, 1, 2, 2]
    assert info["last_trial_return"].tolist() == [10, 30, 60, 11, 10, 31]
    assert info["first_trial_return"].tolist() == [10, 30, 60, 60, 60, 60]
    assert "trial_discount" not in info


def test_all_trials_of_an_episode_are_one_task():
    obs, *_ = play(Trials(Counting(), 3), ACTIONS)
    assert len(set(obs["observation"][:, 1])) == 1
    obs, *_ = play(Trials(Episodes(Counting(), repeat=False), 3), ACTIONS)
    assert len(set(obs["observation"][:, 1])) == 3


def test_a_trial_is_cut_after_its_most_steps():
    obs, reward, terminated, truncated, info = play(
        Trials(Counting(), 3, max_trial_steps=2), [0] * 6
    )
    assert reward.tolist() == [10, 20, 10, 20, 10, 20]
    assert obs["observation"][:, 0].tolist() == [0, 1, 0, 1, 0, 1, 2]
    assert column(obs, "trial_ended") == [0, 0, 1, 0, 1, 0, 1]
    assert info["trial"].tolist() == [0, 0, 1, 1, 2, 2]
    assert terminated.tolist() == [False] * 5 + [True] and not truncated.any()


def test_what_counts_beyond_a_trial_is_said_where_one_ended():
    *_, info = play(Trials(Counting(), 3, trial_discount=0.25), ACTIONS)
    assert info["trial_discount"].tolist() == [1, 1, 0.25, 0.25, 1, 0.25]


# ------------------------------------------------------------------------------ many at once


def test_each_environment_of_a_batch_begins_its_own_trials():
    """Boundaries at different times; who begins none is left as it was."""
    env = Trials(Episodes(Counting(), repeat=False), 4)
    rows = [[0, 0, 0, 0, 0], [1, 1, 0, 1, 0], [0, 1, 0, 0, 1]]
    params = env.default_params
    keys = jax.random.split(jax.random.key(3), 3)
    step = lambda key, state, action: env.step_env(key, state, action, params)  # noqa: E731
    one, many = quick_jit(step), quick_jit(jax.vmap(step))
    _, batch = jax.vmap(lambda key: env.reset_env(key, params))(keys)
    singles = [env.reset_env(key, params)[1] for key in keys]
    for time in range(5):
        keys = jax.random.split(jax.random.key(time), 3)
        actions = jnp.asarray([row[time] for row in rows])
        together = many(keys, batch, actions)
        for i in range(3):
            alone = one(keys[i], singles[i], actions[i])
            for a, b in zip(
                jax.tree.leaves(alone),
                jax.tree.leaves(jax.tree.map(lambda x, i=i: x[i], together)),
                strict=True,
            ):
                if jnp.issubdtype(a.dtype, jax.dtypes.extended):
                    a, b = jax.random.key_data(a), jax.random.key_data(b)
                np.testing.assert_array_equal(a, b)
            singles[i] = alone[1]
        batch = together[1]


def test_an_agent_resets_its_memory_between_tasks_only_and_sees_no_end_before():
    venv = JaxVectorEnv(Trials(Counting(), 3, trial_discount=0.5), None, 4)
    agent = small_agent(venv, "none", rollout_length=16, discount=0.5)
    state = quick_jit(agent.init)(jax.random.key(0))
    rollout = quick_jit(lambda state: collect(agent, state))(state).rollout
    obs, discount = rollout.observation, np.asarray(rollout.discount)
    first, ended = (np.asarray(obs[name], bool) for name in ("first", "trial_ended"))
    assert ended.any() and first[1:].any()
    np.testing.assert_array_equal(rollout.reset, first)
    np.testing.assert_array_equal(np.asarray(rollout.terminated)[:-1], first[1:])
    assert not np.asarray(rollout.truncated).any()
    # γ = 1/2, and half of it where a trial ended, an episode's last one included.
    over = ended[1:] | first[1:]
    np.testing.assert_array_equal(discount[:-1], np.where(over, 0.25, 0.5))
    # The discounted return of the normalisation of rewards: G[t] = r[t] + what counts of G[t-1].
    running = np.zeros(4)
    for t in range(16):
        before = np.where(first[t], 0.0, discount[t - 1] * running) if t else 0.0
        running = np.asarray(rollout.reward)[t] + before
        np.testing.assert_allclose(rollout.discounted_return[t], running, rtol=1e-6)


def test_other_agents_refuse_what_they_would_not_notice():
    from ssmrl.agents.rollout import check_environment

    venv = ssmrl.envs.make_vector("meta/dark_room", 2, trial_discount=0.5)
    with pytest.raises(ValueError, match=r"trial_discount=0\.5, which only ppo and pqn read"):
        check_environment(venv, 2)
    check_environment(venv, 2, discounts_trials=True)
    check_environment(ssmrl.envs.make_vector("meta/dark_room", 2), 2)


# ------------------------------------------------------------------------------ tasks


def tasks(env, count=64):
    keys = jax.random.split(jax.random.key(5), count)
    states = jax.vmap(lambda key: env.reset_env(key, env.default_params)[1])(keys)
    return {task.tobytes() for task in np.asarray(jax.random.key_data(states.task))}


def test_a_finite_number_of_tasks_and_others_held_out():
    trained = tasks(Trials(Counting(), 2, num_tasks=3))
    held_out = tasks(Trials(Counting(), 2, num_tasks=3, split="held_out"))
    assert len(trained) == 3 and len(held_out) == 64
    assert not trained & held_out
    assert tasks(Trials(Counting(), 9, num_tasks=3)) == trained
    assert len(tasks(Trials(Counting(), 2))) == 64


@pytest.mark.parametrize(("hazard", "low", "high"), [(0.0, 0, 0), (0.25, 40, 160), (1.0, 160, 240)])
def test_tasks_switch_between_trials_with_the_hazard(hazard, low, high):
    """Of 400 boundaries: a new task is drawn at h of them, and half of those are another one."""
    env = Trials(OneGoodArm(), 401, hazard=hazard)
    params = env.default_params

    @quick_jit
    def run(key):
        _, state = env.reset_env(key, params)

        def step(state, key):
            state = env.step_env(key, state, 0, params)[1]
            return state, (state.task, state.inner.task)

        return jax.lax.scan(step, state, jax.random.split(key, 400))[1]

    task, played = map(np.asarray, run(jax.random.key(0)))
    np.testing.assert_array_equal(task, played)
    assert low <= (task[1:] != task[:-1]).any(axis=1).sum() <= high


# ------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"trials": 0}, "trials must be a positive integer, got 0"),
        ({"trials": 2.5}, r"trials must be a positive integer, got 2\.5"),
        ({"max_trial_steps": 0}, "max_trial_steps must be a positive integer, got 0"),
        ({"trial_discount": 1.5}, r"trial_discount must be a number from 0 to 1, got 1\.5"),
        ({"hazard": -0.1}, r"hazard must be a number from 0 to 1, got -0\.1"),
        ({"num_tasks": 0}, "num_tasks must be a positive integer, got 0"),
        ({"num_tasks": 2**31}, "num_tasks must be at most 1073741824, got 2147483648"),
        ({"trials": 2**31}, "trials must be at most 1073741824, got 2147483648"),
        ({"hazard": float("nan")}, "hazard must be a number from 0 to 1, got nan"),
        ({"split": "test"}, "split must be one of train, held_out, got 'test'"),
        ({"split": "held_out"}, "nothing is held out: .* give num_tasks"),
        ({"sise": 3}, "DarkRoom has no option 'sise'; did you mean 'size'"),
        ({"size": 1}, "DarkRoom needs 2 × 2 places"),
    ],
)
def test_bad_options_are_one_line(options, words):
    with unchecked(), pytest.raises(ValueError, match=words) as caught:
        ssmrl.envs.make("meta/dark_room", **options)
    assert "\n" not in str(caught.value)


def test_episodes_repeated_by_name():
    """MineSweeper's mines are the same in every trial; without `repeat` they are not."""
    for repeat, count in ((True, 1), (False, 5)):
        env, params = ssmrl.envs.make("meta/repeated", trials=6, max_trial_steps=5, repeat=repeat)
        _, state = env.reset_env(jax.random.key(1), params)
        mines = set()

        step = quick_jit(
            lambda key, state, env=env, params=params: env.step_env(
                key, state, jnp.zeros(2, jnp.int32), params
            )[1]
        )
        for time in range(30):
            state = step(jax.random.key(time), state)
            mines.add(np.asarray(state.inner.inner.mines).tobytes())
        assert (len(mines) == 1) if repeat else (len(mines) >= count)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"env": "gymnasium/CartPole-v1"}, "is a Python environment"),
        ({"env": "meta/dark_room"}, "env=meta/dark_room has trials already"),
        ({"env": "popgym/nothing"}, "unknown environment"),
        ({"repeat": "no"}, "repeat must be true or false, got 'no'"),
    ],
)
def test_what_cannot_be_repeated(options, words):
    with unchecked(), pytest.raises(ValueError, match=words):
        ssmrl.envs.make("meta/repeated", **options)

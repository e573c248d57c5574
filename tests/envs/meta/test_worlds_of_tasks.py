"""Random MDPs, dark rooms and carts: rules by hand, and what is best against brute force."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs.meta.bandit_policies import gaussian_policies, play_gaussian
from ssmrl.envs.meta.cartpole import DRAWN, CartPoleState, MetaCartPole
from ssmrl.envs.meta.dark_room import (
    DarkRoom,
    DarkRoomParams,
    DarkRoomState,
    informed_return,
    search_returns,
)
from ssmrl.envs.meta.mdp import MDP, MDPParams, MDPState, RandomMDP, plan, play_mdps
from ssmrl.envs.popgym import _cartpole
from tests.compiling import quick_jit

ZERO, KEY = jnp.int32(0), jax.random.key(0)


# ------------------------------------------------------------------------------ random MDPs


def test_a_step_of_an_mdp_follows_its_tables():
    env, params = RandomMDP(), MDPParams(states=3, actions=2, horizon=4)
    move = np.float32([[[0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 1, 0]], [[0.5, 0.25, 0.25]] * 2])
    task = MDP(jnp.asarray(move), jnp.asarray(np.float32([[1, -2], [3, 0], [0, 5]])))
    step = quick_jit(
        jax.vmap(
            lambda key, place, action, time: env.step_env(
                key, MDPState(task, place, time), action, params
            )
        )
    )
    keys = jax.random.split(jax.random.key(0), 5000)

    def outcomes(place, action, time=0):
        full = [jnp.full(5000, x, jnp.int32) for x in (place, action, time)]
        return step(keys, *full)

    for place, action, after, mean in ((0, 0, 1, 1), (0, 1, 2, -2), (1, 0, 0, 3), (1, 1, 1, 0)):
        obs, state, reward, terminated, truncated, _ = outcomes(place, action)
        assert (np.asarray(obs) == after).all() and (np.asarray(state.place) == after).all()
        assert reward.mean() == pytest.approx(mean, abs=0.06) and reward.std() == pytest.approx(
            1, abs=0.05
        )
        assert not terminated.any() and not truncated.any()
    obs, *_ = outcomes(2, 1)
    np.testing.assert_allclose(np.bincount(obs) / 5000, [0.5, 0.25, 0.25], atol=0.03)
    assert outcomes(2, 1, time=3)[4].all()


def test_mdps_are_drawn_as_published():
    env, params = RandomMDP(), MDPParams(states=4, actions=3)
    tasks = jax.vmap(lambda key: env.sample_task(key, params))(
        jax.random.split(jax.random.key(0), 500)
    )
    move, reward = np.asarray(tasks.transitions), np.asarray(tasks.rewards)
    np.testing.assert_allclose(move.sum(axis=-1), 1, rtol=1e-5)
    # Of the flat Dirichlet distribution over four: mean 1/4, variance 3 / (16 · 5).
    np.testing.assert_allclose(move.mean(axis=(0, 1, 2)), 0.25, atol=0.01)
    assert move.var() == pytest.approx(3 / 80, rel=0.05)
    assert reward.mean() == pytest.approx(1, abs=0.05) and reward.std() == pytest.approx(
        1, abs=0.05
    )


def test_a_plan_is_the_best_of_all_policies():
    """Two states, two actions, two steps: all 2⁴ policies are tried."""
    rng = np.random.default_rng(0)
    move, reward = rng.dirichlet([1, 1], (5, 2, 2)), rng.normal(size=(5, 2, 2))
    value, actions = plan(move, reward, 2)
    for e in range(5):
        tried = {}
        for first, *second in itertools.product(range(2), repeat=3):
            then = [reward[e, s, second[s]] for s in range(2)]
            tried[first, *second] = reward[e, 0, first] + move[e, 0, first] @ then
        best = max(tried, key=tried.get)
        assert value[e, 0] == pytest.approx(tried[best])
        assert actions[e, 0, 0] == best[0] and tuple(actions[e, 1]) == best[1:]


def test_who_knows_the_mdp_earns_in_the_environment_what_the_plan_says():
    env, params = ssmrl.envs.make("meta/random_mdp", states=4, actions=3, horizon=5, trials=1)
    keys = jax.random.split(jax.random.key(0), 3000)
    _, states = quick_jit(jax.vmap(lambda key: env.reset_env(key, params)))(keys)
    task = jax.device_get(states.task)
    value, actions = plan(task.transitions.astype(float), task.rewards.astype(float), 5)
    step = quick_jit(jax.vmap(lambda key, state, a: env.step_env(key, state, a, params)))
    total = 0
    for time in range(5):
        place = np.asarray(states.inner.place)
        action = jnp.asarray(actions[np.arange(3000), time, place])
        _, states, reward, *_ = step(jax.random.split(jax.random.key(time), 3000), states, action)
        total = total + np.asarray(reward)
    difference = total - value[:, 0]
    assert abs(difference.mean()) < 4 * difference.std() / np.sqrt(3000)


def test_posterior_sampling_learns_in_the_trials():
    found = play_mdps(4, 3, 5, trials=20, episodes=500)
    informed, sampling = found["informed"], found["posterior_sampling"]
    assert informed.shape == sampling.shape == (500, 20)
    assert (informed[:, 0] == informed[:, -1]).all()
    first, last, best = sampling[:, 0].mean(), sampling[:, -5:].mean(), informed.mean()
    assert first == pytest.approx(5.0, abs=0.5)  # rewards have mean 1
    assert first + 0.8 * (best - first) < last < best + 0.2


def test_posterior_sampling_of_one_state_is_that_of_a_bandit():
    """With one step in one state the arms have N(1, 1): 1 more than the bandit's."""
    found = play_mdps(1, 2, 1, trials=8, episodes=20_000)
    assert found["informed"][:, 0].mean() == pytest.approx(1 + 1 / np.sqrt(np.pi), abs=0.03)

    def greedy(sums, counts, time, rng):
        return (sums / (1 + counts)).argmax(axis=1)

    thompson = gaussian_policies(8, 1.0, 1.0)["thompson"]
    for name, choose in (("posterior_sampling", thompson), ("greedy", greedy)):
        expected = 1 + play_gaussian(choose, 2, 8, 1.0, 1.0, episodes=20_000).mean(axis=0)
        # Each mean's deviation is √2 / √20000 = .01. At first the greedy one earns .1 more.
        np.testing.assert_allclose(found[name].mean(axis=0), expected, atol=0.05)


def test_of_ten_states_and_five_actions_greed_learns_more_than_posterior_sampling():
    """Ten trials in the published setting, in which random actions earn 100: with two visits for
    each state and action there is little to plan with."""
    found = {name: x.sum(axis=1) for name, x in play_mdps(10, 5, 10, 10, episodes=400).items()}
    assert 125 < found["posterior_sampling"].mean() < 140  # deviations of the means: 1.2
    assert 154 < found["greedy"].mean() < 165 < found["informed"].mean()


# ------------------------------------------------------------------------------ dark rooms

STAY, UP, DOWN, LEFT, RIGHT = range(5)


def walk(params, goal, actions):
    env, key = DarkRoom(), jax.random.key(0)
    obs, state = env.reset_trial(key, jnp.asarray(goal, jnp.int32), params)
    rows = [(*np.asarray(obs).tolist(), None, None)]
    for action in actions:
        obs, state, reward, terminated, truncated, _ = env.step_env(key, state, action, params)
        assert not terminated
        rows.append((*np.asarray(obs).tolist(), float(reward), bool(truncated)))
    return rows


@pytest.mark.parametrize(("once", "last"), [(False, 1.0), (True, 0.0)])
def test_a_walk_in_the_dark(once, last):
    """A room of 3 × 3, from its middle, with walls; the goal is the corner at the upper left."""
    params = DarkRoomParams(size=3, horizon=5, once=once)
    assert walk(params, (0, 0), [UP, UP, LEFT, STAY, RIGHT]) == [
        (1, 1, None, None),
        (0, 1, 0.0, False),
        (0, 1, 0.0, False),
        (0, 0, 1.0, False),
        (0, 0, last, False),
        (0, 1, 0.0, True),
    ]
    assert walk(params, (2, 2), [DOWN, RIGHT])[-1] == (2, 2, 1.0, False)


def test_who_knows_the_goal_by_hand():
    """3 × 3 places with 4 steps: the middle, paid in all four; four sides at distance 1, four
    steps; four corners at distance 2, three. (4 + 4 · 4 + 4 · 3) / 9; and 1 where it pays once."""
    assert informed_return(3, 4, once=False) == pytest.approx(32 / 9)
    assert informed_return(3, 4, once=True) == 1
    assert informed_return(3, 1, once=True) == pytest.approx(5 / 9)


def test_the_search_finds_the_goal_and_goes_there_ever_after():
    returns = search_returns(5, 8, once=False, trials=6)
    assert returns.shape == (25, 6)
    assert returns[:, 0].mean() < returns[:, -1].mean() == informed_return(5, 8, once=False)
    assert (returns[:, -1] >= returns[:, 0]).all()


def test_a_search_by_hand():
    """2 × 2 places from the one at the lower right, three steps: stay, up, left, and in the next
    trial left at once. What is found is paid for from there on, and
    the goal at a distance of 2 for two steps in each trial afterwards."""
    returns = search_returns(2, 3, once=False, trials=3).reshape(2, 2, 3)
    assert returns[1, 1].tolist() == [3, 3, 3]
    assert returns[0, 1].tolist() == [2, 3, 3]
    assert returns[0, 0].tolist() == [1, 2, 2]
    assert returns[1, 0].tolist() == [0, 3, 3]


def test_goals_are_anywhere_and_stay():
    env, params = ssmrl.envs.make("meta/dark_room", size=3, trials=2, horizon=1)
    keys = jax.random.split(jax.random.key(0), 900)
    _, state = jax.vmap(lambda key: env.reset_env(key, params))(keys)
    goals = np.asarray(state.task) @ [3, 1]
    assert np.bincount(goals, minlength=9).min() > 60
    _, after, *_ = jax.vmap(lambda key, s: env.step_env(key, s, 1, params))(keys, state)
    np.testing.assert_array_equal(after.inner.task, state.task)
    np.testing.assert_array_equal(after.inner.position, np.ones((900, 2)))


# ------------------------------------------------------------------------------ carts


def test_usual_parameters_move_as_the_usual_cart_does():
    env, usual = MetaCartPole(), _cartpole.EnvParams()
    params = env.make_params(spread=1.0)
    task = env.sample_task(jax.random.key(0), params)
    np.testing.assert_allclose(np.abs(task), [1.0, 0.1, 0.5, 10.0], rtol=1e-6)
    start = jnp.float32([0.1, 0.5, 0.05, -0.3])
    for sign in (1.0, -1.0):
        signed = jnp.abs(task).at[3].multiply(sign)
        for action in (0, 1):
            obs, *_ = env.step_env(KEY, CartPoleState(signed, start, ZERO), action, params)
            pushed = action if sign > 0 else 1 - action
            np.testing.assert_allclose(obs, _cartpole.integrate(start, pushed, usual), rtol=1e-6)


def test_dynamics_are_drawn_within_the_spread_either_way():
    env = MetaCartPole()
    params = env.make_params(spread=3.0)
    tasks = np.asarray(
        jax.vmap(lambda key: env.sample_task(key, params))(
            jax.random.split(jax.random.key(0), 2000)
        )
    )
    exponent = np.log(np.abs(tasks) / [1.0, 0.1, 0.5, 10.0]) / np.log(3)
    assert np.abs(exponent).max() <= 1 + 1e-5
    np.testing.assert_allclose(exponent.std(axis=0), 1 / np.sqrt(3), rtol=0.05)  # uniform
    assert np.abs(np.corrcoef(exponent.T) - np.eye(len(DRAWN))).max() < 0.1
    assert (tasks[:, 3] > 0).mean() == pytest.approx(0.5, abs=0.05) and (tasks[:, :3] > 0).all()


@pytest.mark.parametrize(
    ("physics", "time", "terminated", "truncated"),
    [
        ([2.39, 1.0, 0, 0], 0, True, False),
        ([0, 0, -0.2, -1.0], 0, True, False),
        ([2.3, 0, 0.1, 0], 0, False, False),
        ([0, 0, 0, 0], 199, False, True),
    ],
)
def test_a_trial_ends_by_the_rules_of_the_cart(physics, time, terminated, truncated):
    env = MetaCartPole()
    state = CartPoleState(jnp.float32([1.0, 0.1, 0.5, 10.0]), jnp.float32(physics), jnp.int32(time))
    _, after, reward, *ends, _ = env.step_env(KEY, state, 1, env.default_params)
    assert [bool(end) for end in ends] == [terminated, truncated]
    assert after.time == time + 1 and float(reward) == pytest.approx(1 / 200)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("random_mdp", {}, {"informed", "posterior_sampling", "greedy"}),
        ("random_mdp", {"hazard": 0.1}, set()),
        ("dark_room", {}, {"informed", "search"}),
        ("dark_room", {"hazard": 0.1}, {"informed"}),
        ("cartpole", {}, {"bound"}),
        ("cartpole", {"max_trial_steps": 10}, set()),
        ("repeated", {}, set()),
    ],
)
def test_what_is_known_of_each(name, options, expected):
    env, params = ssmrl.envs.make(f"meta/{name}", **options)
    found = env.references(params, episodes=8)
    assert set(found) == expected
    assert all(x.ndim == 2 and x.shape[1] == env.trials for x in found.values())


def test_references_are_of_the_options_in_use():
    env, params = ssmrl.envs.make("meta/random_mdp", states=4, actions=2, horizon=3, trials=5)
    found = env.references(params, episodes=20, seed=3)
    expected = play_mdps(4, 2, 3, 5, 20, 3)
    assert found.keys() == expected.keys()
    for name, returns in found.items():
        np.testing.assert_array_equal(returns, expected[name])
    for once in (False, True):
        env, params = ssmrl.envs.make("meta/dark_room", size=5, horizon=8, once=once, trials=6)
        found = env.references(params)
        assert (found["informed"] == informed_return(5, 8, once)).all()
        np.testing.assert_array_equal(found["search"], search_returns(5, 8, once, 6))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("random_mdp", {"states": 1}, "needs 2 states"),
        (
            "random_mdp",
            {"horizon": 2**31},
            "horizon must be a number that 32 bits hold, got 2147483648",
        ),
        ("cartpole", {"spread": 0.5}, "a finite spread of at least 1"),
        ("cartpole", {"spread": np.inf}, "a finite spread of at least 1"),
        ("cartpole", {"spread": np.nan}, "spread must be a number, got nan"),
        ("cartpole", {"spread": "wide"}, "spread must be a number, got 'wide'"),
        ("dark_room", {"once": "no"}, "once must be true or false, got 'no'"),
        ("dark_room", {"horizon": 0}, "and a step"),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(ValueError, match=words):
        ssmrl.envs.make(f"meta/{name}", **options)


def test_pictures():
    for name in ("bernoulli_bandit", "random_mdp", "dark_room", "cartpole"):
        env, params = ssmrl.envs.make(f"meta/{name}")
        _, state = jax.eval_shape(lambda key, e=env, p=params: e.reset(key, p), jax.random.key(0))
        picture = jax.eval_shape(lambda s, e=env, p=params: e.render(s, p), state)
        assert picture.dtype == "uint8" and picture.shape[2] == 3
    env, params = ssmrl.envs.make("meta/bernoulli_bandit", arms=2, trials=4)
    _, state = env.reset_env(KEY, params)
    for _ in range(3):
        _, state, *_ = env.step_env(KEY, state, 0, params)
    bar = np.asarray(env.render(state, params))[64:]
    assert (bar[:, :99] == 30).all() and (bar[:, 99:] == 150).all()  # three of four, of 132 pixels
    room, params = DarkRoom(), DarkRoomParams(size=3)
    one, two = jnp.int32([0, 0]), jnp.int32([1, 1])
    picture = np.asarray(room.render(DarkRoomState(one, two, jnp.asarray(False), ZERO), params))
    assert picture.shape == (72, 72 + 4 + 72, 3)
    assert tuple(picture[36, 36]) == (30, 30, 30) and tuple(picture[4, 4]) == (150, 150, 150)
    assert tuple(picture[36, 112]) == (30, 30, 30) and tuple(picture[4, 80]) == (70, 200, 90)

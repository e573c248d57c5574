"""Bandits: what their best policies earn, worked out by hand and by simulation, and their rules."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs.meta import bandit_policies as policies
from tests.compiling import quick_jit

EPISODES = 4000


def mean_and_error(payouts):
    totals = payouts.sum(axis=1)
    return totals.mean(), totals.std() / np.sqrt(len(totals))


# ------------------------------------------------------------------------------ by hand


def test_the_optimum_of_few_pulls_by_hand():
    """A pull of an arm nobody knows pays 1/2. If it paid, it pays 2/3 next, else the other's 1/2
    is better: 1/2 + 1/2 · 2/3 + 1/2 · 1/2 = 13/12.

    Three pulls: after one that paid the rest is worth 2/3 (1 + 3/4) + 1/3 · 1/2 = 4/3 with the
    same arm again. After one that did not, the other arm is as if unknown: 1/2 (1 + 2/3) + 1/2 · x,
    where x = 1/3, what an arm pays that has failed once, or 1/2 if there is a third one. Together
    1/2 (1 + 4/3) + 1/2 · 1 = 5/3, or 1/2 (1 + 4/3) + 1/2 · 13/12 = 41/24 with three arms.
    """
    for pulls, expected in ((1, 1 / 2), (2, 13 / 12), (3, 5 / 3)):
        value, action = policies.bayes_optimal_tables(2, pulls)
        assert value == pytest.approx(expected)
        assert action.shape == (pulls + 1,) * 4
    assert action[1, 0, 0, 0] == 0 and action[0, 1, 0, 0] == 1
    assert policies.bayes_optimal_tables(3, 3)[0] == pytest.approx(41 / 24)


def test_indices_by_hand():
    """With one pull to come an arm is worth its mean. With two, of an unknown one the price is
    where 1/2 - λ + 1/2 (2/3 - λ) = 0: λ = 5/9."""
    index = policies.gittins_indices(4)
    assert index[1, 0, 0] == pytest.approx(1 / 2, abs=1 / 400)
    assert index[1, 2, 1] == pytest.approx(3 / 5, abs=1 / 400)
    assert index[2, 0, 0] == pytest.approx(5 / 9, abs=1 / 400)
    # The more pulls to come, the more it is worth to find out.
    assert (np.diff(index[1:, 0, 0]) > 0).all()


def test_two_pulls_of_one_good_arm_by_hand():
    """Good .8, bad .2. After a paid pull the arm is the good one with probability .8: again .8² +
    .2² = .68, and as much with the other one after a pull that did not pay. With a hazard of 1/2
    the belief is .65 by then: .65 · .8 + .35 · .2 = .59."""
    np.testing.assert_allclose(policies.one_good_arm_value(2, 0.8, 0.2, 0.0), [0.5, 0.68])
    np.testing.assert_allclose(policies.one_good_arm_value(2, 0.8, 0.2, 0.5), [0.5, 0.59])


def test_the_best_of_several_normal_arms():
    """The largest of two has mean 1 / √π, of three 3 / (2 √π)."""
    assert policies.largest_normal(2) == pytest.approx(1 / np.sqrt(np.pi), abs=1e-6)
    assert policies.largest_normal(3) == pytest.approx(1.5 / np.sqrt(np.pi), abs=1e-6)


def test_ucb_tries_every_arm_and_then_the_largest_bound():
    """At t = 4, of arms pulled 1, 2 and 1 times that paid 1, 1 and 0: 1 + √(2 ln 4) = 2.67."""
    sums, counts = np.array([[1.0, 1, 0]]), np.array([[1.0, 2, 1]])
    rng = np.random.default_rng(0)
    assert policies.ucb1(sums, counts, 4, rng).tolist() == [0]
    assert policies.ucb1(sums, counts * [1, 0, 1], 4, rng).tolist() == [1]
    # The bounds are .9 + √(2 ln 12 / 10) = 1.6 and 0 + √(2 ln 12 / 2) = 1.58.
    assert policies.ucb1(np.array([[9.0, 0]]), np.array([[10.0, 2]]), 12, rng).tolist() == [0]
    assert policies.ucb1(np.array([[8.0, 0]]), np.array([[10.0, 2]]), 12, rng).tolist() == [1]


# ------------------------------------------------------------------------------ played


def test_the_optimal_policy_earns_the_optimal_value_and_no_other_more():
    value, _ = policies.bayes_optimal_tables(2, 20)
    mean, error = mean_and_error(
        policies.play_bernoulli(policies.bayes_optimal(2, 20), 2, 20, EPISODES)
    )
    assert abs(mean - value) < 3 * error
    found = {
        name: mean_and_error(policies.play_bernoulli(choose, 2, 20, EPISODES, seed=1))
        for name, choose in policies.bernoulli_policies(20).items()
    }
    assert all(mean - 3 * error < value for mean, error in found.values())
    assert abs(found["gittins"][0] - value) < 3 * found["gittins"][1] + 0.005 * value
    assert found["thompson"][0] < value - 3 * found["thompson"][1]


def test_normal_policies_lie_between_guessing_and_knowing():
    best = 30 * policies.largest_normal(4)
    for choose in policies.gaussian_policies(30, 1.0, 0.5).values():
        mean, error = mean_and_error(policies.play_gaussian(choose, 4, 30, 1.0, 0.5, EPISODES))
        assert 0.6 * best < mean < best - 3 * error


@pytest.mark.parametrize("hazard", [0.0, 0.1])
def test_filtering_is_optimal_where_both_arms_tell_as_much(hazard):
    """good = 1 - bad: either arm tells as much as the other, so that the likelier one is best."""
    value = policies.one_good_arm_value(30, 0.8, 0.2, hazard).sum()
    mean, error = mean_and_error(
        policies.play_one_good_arm(2, 30, 0.8, 0.2, hazard, hazard, EPISODES)
    )
    assert abs(mean - value) < 3 * error
    if hazard:  # who believes that nothing switches does worse
        mean, _ = mean_and_error(policies.play_one_good_arm(2, 30, 0.8, 0.2, hazard, 0.0, EPISODES))
        assert mean < value - 3 * error


def test_an_optimum_that_is_too_large_says_what_to_take():
    with pytest.raises(ValueError, match=r"5 arms and 100 pulls has .* states.*Gittins"):
        policies.bayes_optimal_tables(5, 100)


# ------------------------------------------------------------------------------ environments


def payouts(name, arm, episodes=256, **options):
    """Rewards `[E, pulls]` of who always pulls `arm(task)`, and the tasks `[E, arms]`."""
    env, params = ssmrl.envs.make(name, **options)

    @quick_jit
    @jax.vmap
    def play(key):
        key, key_reset = jax.random.split(key)
        _, state = env.reset_env(key_reset, params)

        def step(state, key):
            task = state.task
            _, state, reward, terminated, *_ = env.step_env(key, state, arm(task), params)
            return state, (reward, terminated, task)

        return jax.lax.scan(step, state, jax.random.split(key, env.trials))[1]

    reward, terminated, task = jax.device_get(play(jax.random.split(jax.random.key(0), episodes)))
    assert terminated[:, -1].all() and not terminated[:, :-1].any()
    return reward, task


def test_the_best_arm_pays_what_the_bound_says():
    for name, best in (
        ("bernoulli_bandit", 4 / 5),
        ("gaussian_bandit", policies.largest_normal(4)),
    ):
        reward, _ = payouts(f"meta/{name}", jnp.argmax, arms=4, trials=20)
        error = reward.mean(axis=1).std() / np.sqrt(len(reward))
        assert abs(reward.mean() - best) < 4 * error
        env, params = ssmrl.envs.make(f"meta/{name}", arms=4, trials=20)
        bound = env.references(params, episodes=10)["best_arm"]
        assert bound.shape == (1, 20) and bound == pytest.approx(best)


def test_arms_pay_by_their_own_means():
    reward, task = payouts("meta/bernoulli_bandit", lambda _: 1, arms=3, trials=100)
    assert set(np.unique(reward)) == {0.0, 1.0}
    assert np.abs(reward.mean(axis=1) - task[:, 0, 1]).max() < 0.2
    options = {"arms": 3, "trials": 100, "mean_deviation": 5.0, "reward_deviation": 2.0}
    reward, task = payouts("meta/gaussian_bandit", lambda _: 2, **options)
    assert np.abs(reward.mean(axis=1) - task[:, 0, 2]).max() < 1.0
    assert reward.std(axis=1).mean() == pytest.approx(2.0, rel=0.05)
    assert task[:, 0].std() == pytest.approx(5.0, rel=0.15)


def test_one_arm_is_good_and_which_one_switches():
    options = {"arms": 3, "trials": 200, "good": 0.9, "bad": 0.3}
    reward, task = payouts("meta/switching_bandit", jnp.argmax, **options)
    np.testing.assert_allclose(np.sort(task, axis=-1), np.full_like(task, [0.3, 0.3, 0.9]), 1e-6)
    assert reward.mean() == pytest.approx(0.9, abs=0.01)
    # A draw is made with the default hazard of .05, and is another arm in two of three.
    switched = (task[:, 1:] != task[:, :-1]).any(axis=-1)
    assert switched.mean() == pytest.approx(0.05 * 2 / 3, rel=0.1)
    reward, _ = payouts("meta/switching_bandit", lambda _: 0, **options)
    assert reward.mean() == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        (
            "bernoulli_bandit",
            {"arms": 2, "trials": 10},
            {"best_arm", "bayes_optimal", "gittins", "thompson", "ucb1"},
        ),
        ("bernoulli_bandit", {"trials": 300}, {"best_arm", "thompson", "ucb1"}),
        ("bernoulli_bandit", {"hazard": 0.1}, set()),
        ("bernoulli_bandit", {"num_tasks": 4}, set()),
        ("gaussian_bandit", {"trials": 10}, {"best_arm", "thompson", "bayes_ucb"}),
        ("gaussian_bandit", {"hazard": 0.1}, set()),
        ("switching_bandit", {}, {"filter", "static_filter", "bayes_optimal"}),
        ("switching_bandit", {"arms": 3}, {"filter", "static_filter"}),
    ],
)
def test_what_is_known_of_each(name, options, expected):
    env, params = ssmrl.envs.make(f"meta/{name}", **options)
    found = env.references(params, episodes=8)
    assert set(found) == expected
    for returns in found.values():
        assert returns.shape in ((8, env.trials), (1, env.trials))


def test_references_are_of_the_options_in_use():
    env, params = ssmrl.envs.make("meta/bernoulli_bandit", arms=2, trials=3)
    found = env.references(params, episodes=4000)
    assert found["bayes_optimal"].sum(axis=1).mean() == pytest.approx(5 / 3, abs=0.06)
    assert found["gittins"].sum(axis=1).mean() == pytest.approx(5 / 3, abs=0.06)
    # Arms that differ by much more than their noise: the better one of both pays 2.8. The other
    # way round it is .06.
    options = {"arms": 2, "trials": 10, "mean_deviation": 5.0, "reward_deviation": 0.1}
    env, params = ssmrl.envs.make("meta/gaussian_bandit", **options)
    found = env.references(params, episodes=500)
    for name in ("thompson", "bayes_ucb"):
        assert found[name][:, 2:].mean() > 2
    for hazard in (0.0, 0.2):
        rule = {"arms": 2, "trials": 30, "good": 0.9, "bad": 0.4, "hazard": hazard}
        env, params = ssmrl.envs.make("meta/switching_bandit", **rule)
        found = env.references(params, episodes=50, seed=3)
        for name, believed in (("filter", hazard), ("static_filter", 0.0)):
            expected = policies.play_one_good_arm(2, 30, 0.9, 0.4, hazard, believed, 50, 3)
            np.testing.assert_array_equal(found[name], expected)
        expected = policies.one_good_arm_value(30, 0.9, 0.4, hazard)
        np.testing.assert_array_equal(found["bayes_optimal"], expected[None])


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("bernoulli_bandit", {"arms": 1}, "needs at least 2 arms, got 1"),
        ("gaussian_bandit", {"reward_deviation": 0.0}, "needs positive, finite deviations"),
        ("gaussian_bandit", {"mean_deviation": np.inf}, "needs positive, finite deviations"),
        ("gaussian_bandit", {"mean_deviation": np.nan}, "'s mean_deviation must be a number"),
        ("switching_bandit", {"bad": 0.9}, "needs 0 <= bad < good <= 1"),
    ],
)
def test_bad_options(name, options, words):
    with pytest.raises(ValueError, match=words):
        ssmrl.envs.make(f"meta/{name}", **options)

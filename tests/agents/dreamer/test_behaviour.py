"""Imagination, actor and critic against numbers worked out by hand and plain loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.agents.dreamer import behaviour
from ssmrl.agents.dreamer.behaviour import Actor, Critic, Imagined, ReturnRange, policy_features
from ssmrl.agents.dreamer.losses import two_hot_loss, two_hot_mean
from ssmrl.agents.dreamer.world_model import Latent
from ssmrl.envs import spaces
from ssmrl.networks.distributions import Categorical
from tests.agents.dreamer import cases
from tests.compiling import quick_jit


@pytest.mark.parametrize(
    ("memory", "sizes"),
    # z has 32 numbers, h 16; a state of S5 has 4 complex ones, a GRU's 16, none has none.
    [("s5", (48, 40, 56)), ("gru", (48, 48, 64)), ("none", (48, 32, 48))],
)
def test_policy_features(memory, sizes):
    model, _ = cases.world_model(memory)
    rng = np.random.default_rng(0)
    carry = jax.tree.map(
        lambda x: jnp.asarray(rng.normal(size=(3, 5, *x.shape)), x.dtype),
        model.memory.initialize_carry(()),
    )
    latent = Latent(carry, jnp.float32(rng.normal(size=(3, 5, 16))), jnp.zeros((3, 5, 4, 8)))
    for inputs, size in zip(("output", "hidden", "full"), sizes, strict=True):
        features = policy_features(model.memory, latent, inputs)
        assert features.shape == (3, 5, size)
        if inputs in ("output", "full"):
            np.testing.assert_array_equal(features[..., 32:48], latent.h)
    if memory == "s5":
        states = jax.tree.leaves(carry)[0]
        parts = features[..., 48:].reshape(3, 5, 4, 2)
        np.testing.assert_array_equal(parts[..., 0] + 1j * parts[..., 1], states)


def test_policies_have_a_floor_under_every_action():
    space = spaces.MultiDiscrete([2, 4])
    actor = Actor(space, cases.small_config(policy_unimix=0.1))
    features = 100.0 * jnp.ones(8)
    params = jax.tree.map(
        lambda x: 10 * x, cases.random_like(jax.eval_shape(actor.init, jax.random.key(0), features))
    )
    distribution = actor.apply(params, features)
    for logits, n in zip(distribution.logits, (2, 4), strict=True):
        assert np.exp(logits).min() >= 0.1 / n * 0.999
        np.testing.assert_allclose(np.exp(logits).sum(), 1, rtol=1e-5)


def test_continuous_policies_have_bounded_deviations():
    config = cases.small_config(min_std=0.2, max_std=0.7)
    actor = Actor(spaces.Box(-1.0, 1.0, (3,)), config)
    features = 100.0 * jax.random.normal(jax.random.key(1), (50, 8))
    params = jax.tree.map(
        lambda x: 10 * x, cases.random_like(jax.eval_shape(actor.init, jax.random.key(0), features))
    )
    log_std = actor.apply(params, features).log_std
    assert log_std.min() >= np.log(0.2) - 1e-6 and log_std.max() <= np.log(0.7) + 1e-6


def test_continuous_policies_begin_with_wide_deviations():
    """min + (max - min) · sigmoid(2), as the head's first outputs are next to nothing."""
    actor = Actor(spaces.Box(-1.0, 1.0, (3,)), cases.small_config(min_std=0.2, max_std=0.7))
    features = jax.random.normal(jax.random.key(1), (50, 8))
    log_std = actor.apply(actor.init(jax.random.key(0), features), features).log_std
    np.testing.assert_allclose(np.exp(log_std), 0.2 + 0.5 * 0.8808, rtol=0.02)


def test_an_untrained_critic_says_zero():
    critic = Critic(cases.small_config())
    features = jax.random.normal(jax.random.key(0), (5, 8))
    params = critic.init(jax.random.key(1), features)
    assert not two_hot_mean(critic.apply(params, features)).any()


# ------------------------------------------------------------------------------- imagination


def test_imagination_against_a_loop():
    """States count one step each; actions are the policy's; rewards are those of the states."""

    def dream(latent, action, noise):
        h = latent.h + 1
        return Latent((), h, jax.nn.one_hot(action[:, None] + 0 * noise[..., 0].astype(int), 4))

    def predict(features):
        return features[..., 0] * 10, jnp.where(features[..., 0] > 4, 0.0, 0.5)

    def evaluate(features):
        return features[..., 0] + 7

    def act(latent):
        allowed = jnp.where(jnp.arange(4) == latent.h.astype(int) % 4, 0.0, -jnp.inf)
        return latent.h * 100, Categorical((allowed,), ())

    config = cases.small_config(imagination_length=4, continue_discount=True)
    h = jnp.array([[1.0], [2.0]])
    start = Latent((), h, jnp.zeros((2, 1, 4)))
    got = behaviour.imagine(dream, predict, evaluate, act, start, config, jax.random.key(0))
    count = np.arange(5)[:, None] + np.array([1, 2])
    np.testing.assert_array_equal(got.policy_features[..., 0], count[:-1] * 100)
    np.testing.assert_array_equal(got.last_features[..., 0], count[-1] * 100)
    np.testing.assert_array_equal(got.slow_value, count[:-1] * 100 + 7)
    np.testing.assert_array_equal(got.raw_action, count[:-1] % 4)
    np.testing.assert_array_equal(got.reward, count * 10)
    np.testing.assert_array_equal(got.discount, np.where(count > 4, 0, 0.5))
    # A state counts as much as it is likely to be reached and alive: nothing behind the end.
    np.testing.assert_allclose(got.weight[:, 1], [0.5, 0.25, 0.125, 0, 0])
    # Without γ in the continue head, it comes in here, for each step: there is none to the start.
    config = cases.small_config(imagination_length=4, continue_discount=False, horizon=10)
    got = behaviour.imagine(dream, predict, evaluate, act, start, config, jax.random.key(0))
    going_on = np.where(count > 4, 0, 0.5)
    np.testing.assert_allclose(got.discount[0], going_on[0], rtol=1e-6)
    np.testing.assert_allclose(got.discount[1:], 0.9 * going_on[1:], rtol=1e-6)
    # γᵗ times the probability of being alive: ½, .9 · ¼, .81 · ⅛, .729 · 1/16; 0 behind the end.
    np.testing.assert_allclose(got.weight[:, 0], [0.5, 0.225, 0.10125, 0.0455625, 0], rtol=1e-5)


# ------------------------------------------------------------------------------------ losses


def test_return_range_by_hand():
    """Of 0 … 100, the percentiles are 5 and 95. Twice a step of 1/10 from 0: 0.19 of the way."""
    ranges, returns = ReturnRange.zeros(), jnp.arange(101.0)
    assert ranges.scale == 1
    for _ in range(2):
        ranges = ranges.update(returns, 0.1)
    np.testing.assert_allclose([ranges.low, ranges.high], [0.19 * 5, 0.19 * 95], rtol=1e-5)
    np.testing.assert_allclose(ranges.scale, 0.19 * 90, rtol=1e-5)
    spoiled = ranges.update(returns.at[3].set(jnp.nan), 0.1)
    assert (spoiled.low, spoiled.high) == (ranges.low, ranges.high)


def test_imagination_losses_by_hand():
    """One trajectory of two actions. The critic says 0, rewards are 1 and 3, γ = ½, λ = 1.

    R1 = 3 + ½·0 = 3, R0 = 1 + ½·3 = 2.5. The range is below 1 and does not scale. Weights ½ and ¼.
    """
    config = cases.small_config(
        imagination_length=2, return_lambda=1.0, entropy_coefficient=0.1, slow_critic_weight=1.0
    )
    imagined = Imagined(
        policy_features=jnp.array([[[0.0]], [[1.0]]]),  # the number of the state
        last_features=jnp.array([[2.0]]),
        raw_action=jnp.array([[0], [1]]),
        reward=jnp.array([[7.0], [1.0], [3.0]]),  # the first came before the start
        discount=jnp.full((3, 1), 0.5),
        slow_value=jnp.full((2, 1), np.expm1(20 / 7)),  # the bin above 0
    )

    def actor(logits, features):
        return Categorical((logits[features[:, 0].astype(int)],), ())

    def critic(logits, features):
        return logits[features[:, 0].astype(int)]

    def losses(params):
        args = (imagined, ReturnRange.zeros(), config, jax.random.key(0))
        return behaviour.imagination_losses(actor, critic, params, *args)

    policy_logits = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    params = {"actor": policy_logits, "critic": jnp.zeros((3, 15))}
    got, _, returns, metrics = quick_jit(losses)(params)
    np.testing.assert_allclose(returns[:, 0], [2.5, 3.0], rtol=1e-5)
    entropy = [-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)), np.log(2)]
    expected = [
        -0.5 * (np.log(0.25) * 2.5 + 0.1 * entropy[0]),
        -0.25 * (np.log(0.5) * 3.0 + 0.1 * entropy[1]),
    ]
    np.testing.assert_allclose(got["policy"], np.mean(expected), rtol=1e-5)
    np.testing.assert_allclose(metrics["entropy"], np.mean(entropy), rtol=1e-5)
    ln15 = np.log(15)  # the cross-entropy of an even critic against any code, twice
    np.testing.assert_allclose(got["value"], np.mean([0.5 * 2 * ln15, 0.25 * 2 * ln15]), rtol=1e-5)
    # d/dlogits of weight · 2 · cross-entropy: towards bins 7 and 8 (returns) and 8 (slow critic).
    gradient = quick_jit(jax.grad(lambda p: sum(losses(p)[0].values())))(params)
    share = np.array([2.5, 3.0]) / np.expm1(20 / 7)
    for state, weight in enumerate((0.5, 0.25)):
        towards = 2 / 15 - np.eye(15)[8] * (1 + share[state]) - np.eye(15)[7] * (1 - share[state])
        np.testing.assert_allclose(gradient["critic"][state], weight * towards / 2, atol=1e-6)
    assert not gradient["critic"][2].any()  # bootstraps have none


def test_critic_is_pulled_towards_returns_and_slow_critic():
    logits = jax.random.normal(jax.random.key(0), (15,))
    slow = jnp.float32(-3.0)
    got = behaviour.critic_loss(logits, slow, jnp.float32(2.0), 0.5)
    expected = two_hot_loss(logits, jnp.float32(2.0)) + 0.5 * two_hot_loss(logits, slow)
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    gradient = jax.grad(lambda s: behaviour.critic_loss(logits, s, jnp.float32(2.0), 0.5))(slow)
    assert not gradient.any()


def test_replay_value_loss_by_hand():
    """γ = ½, λ = ½; the episode is truncated at state 1, another begins at state 2.

    Only states 0 and 2 have a return: R0 = 2 + ½·20 = 12 (the bootstrap at the truncation),
    R2 = 8 + ½·40 = 28. With an even critic every loss is 2 ln 15; where there is none it is 0.
    """
    config = cases.small_config(horizon=2, return_lambda=0.5)
    reward = jnp.array([[1.0], [2.0], [0.0], [8.0]])
    bootstrap = jnp.array([[10.0], [20.0], [30.0], [40.0]])
    last = jnp.array([[False], [True], [False], [False]])
    even = jnp.zeros((4, 1, 15))
    sure = even.at[0, 0, 8].set(50.0)

    def loss(logits, terminated):
        return behaviour.replay_value_loss(
            reward, terminated, last, bootstrap, logits, even, config
        )

    np.testing.assert_allclose(
        loss(even, last & False)[:, 0], [2 * np.log(15), 0, 2 * np.log(15)], rtol=1e-5
    )
    # Truncated, the return of state 0 is 12, terminated it is 2: two_hot codes tell.
    for terminated, value in ((last & False, 12.0), (last, 2.0)):
        expected = two_hot_loss(sure[0, 0], jnp.float32(value)) + two_hot_loss(
            sure[0, 0], jnp.float32(0)
        )
        np.testing.assert_allclose(loss(sure, terminated)[0, 0], expected, rtol=1e-5)

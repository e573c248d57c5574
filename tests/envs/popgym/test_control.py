"""CartPole, Pendulum and the bandit against the ``popgym`` package.

Where the package draws as it steps (noise, payouts), our draws are put in the place of its own, so
that the comparison is exact; how ours are distributed is tested separately.
"""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import ssmrl.envs
from ssmrl.envs.popgym import DIFFICULTIES
from ssmrl.envs.popgym._cartpole import EnvState as CartPoleState
from ssmrl.envs.popgym._noise import NoisyState
from ssmrl.envs.popgym.multiarmed_bandit import EnvState as BanditState
from ssmrl.envs.popgym.position_only_pendulum import EnvState as PendulumState
from ssmrl.envs.popgym.position_only_pendulum import wrap
from tests.compiling import quick_jit
from tests.envs.test_popgym import bang_bang, few_and_many, record, replay, upstream


def ids(*families):
    return [f"{family}_{difficulty}" for family in families for difficulty in DIFFICULTIES]


def easy_and_slow(table):
    """The easy ids by default, the others, which differ in a parameter, in the slow tests."""
    slow = pytest.mark.slow
    return [pytest.param(id_, marks=() if id_.endswith("easy") else slow) for id_ in table]


class Injected:
    """An upstream environment that draws, after its reset, what it is given: one draw a step."""

    def __init__(self, env, draws):
        self.env, self.draws = env, iter(draws)

    def reset(self, seed):
        first = self.env.reset(seed=seed)
        self.env.np_random = self
        return first

    def step(self, action):
        return self.env.step(action)

    def normal(self, mean, sigma):
        return next(self.draws)

    def random(self):
        return next(self.draws)


@cache  # one compilation for all episodes
def batched_step(id_):
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    return quick_jit(jax.vmap(lambda key, state, action: env.step_env(key, state, action, params)))


def assert_steps_agree(id_, episode, states, keys):
    """Each of our steps, in float32, from upstream's state before it."""
    length = len(episode["action"])
    # One shape for all episodes: the padding's results are not looked at.
    pad = lambda x: np.pad(x, [(0, len(keys) - length)] + [(0, 0)] * (x.ndim - 1))  # noqa: E731
    obs, _, *ours = batched_step(id_)(keys, jax.tree.map(pad, states), pad(episode["action"]))
    assert ours[0].dtype == jnp.float32
    np.testing.assert_allclose(obs[:length], episode["obs"][1:], atol=1e-6, rtol=0)
    np.testing.assert_allclose(ours[0][:length], episode["reward"], atol=1e-6, rtol=0)
    np.testing.assert_array_equal(ours[1][:length], episode["terminated"])
    np.testing.assert_array_equal(ours[2][:length], episode["truncated"])


def step_keys(seed, length):
    return jax.random.split(jax.random.key(seed), length)


@cache
def batched_noise(id_):
    """From keys to our noise, as the package adds it; to None for a family without."""
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    if not hasattr(params, "noise_sigma"):
        return lambda keys: None
    noise = jax.jit(jax.vmap(lambda key: env.noise(key, params)))
    return lambda keys: np.asarray(noise(keys))


def as_noisy(states, noise):
    obs = np.zeros((len(states.time), 2), np.float32)
    return states if noise is None else NoisyState(states, obs)


@few_and_many
@pytest.mark.parametrize("id_", ids("velocity_only_cartpole", "noisy_position_only_cartpole"))
def test_cartpole_agrees_with_upstream(id_, episodes):
    limit = ssmrl.envs.make(f"popgym/{id_}")[1].max_episode_length
    ends = set()
    for seed in range(episodes):
        keys = step_keys(seed, limit)
        noise = batched_noise(id_)(keys)
        theirs = upstream(id_)
        # Every other episode is random and short, the others are long.
        choose = bang_bang(theirs) if seed % 2 else lambda rng, t: int(rng.integers(2))
        playing = theirs if noise is None else Injected(theirs, noise)
        episode = record(playing, seed, lambda _, env=theirs: np.array(env.state), choose)
        time = np.arange(len(episode["action"]), dtype=np.int32)
        states = CartPoleState(physics=episode["hidden"].astype(np.float32), time=time)
        assert_steps_agree(id_, episode, as_noisy(states, noise), keys)
        ends.add((bool(episode["terminated"][-1]), bool(episode["truncated"][-1])))
    assert {(True, False), (False, True)} <= ends


def swings(rng, t):
    """Torques that last, so that the pendulum turns over; some beyond what is allowed."""
    return np.array([3.0 * np.sin(t / 9) + rng.normal()], np.float32)


@few_and_many
@pytest.mark.parametrize("id_", ids("position_only_pendulum", "noisy_position_only_pendulum"))
def test_pendulum_agrees_with_upstream(id_, episodes):
    limit = ssmrl.envs.make(f"popgym/{id_}")[1].max_episode_length
    turned_over = False
    for seed in range(episodes):
        keys = step_keys(seed, limit)
        noise = batched_noise(id_)(keys)
        theirs = upstream(id_)
        playing = theirs if noise is None else Injected(theirs, noise)
        episode = record(playing, seed, lambda _, env=theirs: np.array(env.state), swings)
        turned_over |= np.abs(episode["hidden"][:, 0]).max() > np.pi
        angle = np.mod(episode["hidden"][:, 0] + np.pi, 2 * np.pi) - np.pi
        physics = np.stack([angle, episode["hidden"][:, 1]], axis=1).astype(np.float32)
        states = PendulumState(physics=physics, time=np.arange(limit, dtype=np.int32))
        assert_steps_agree(id_, episode, as_noisy(states, noise), keys)
        assert episode["truncated"][-1] and len(episode["action"]) == limit
    assert turned_over


@few_and_many
@pytest.mark.parametrize("id_", ids("position_only_pendulum"))
def test_pendulum_agrees_with_upstream_over_whole_episodes(id_, episodes):
    """In float64, which is what upstream computes in, from upstream's first state alone."""
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    with jax.enable_x64(True):
        run = jax.jit(lambda state, actions: replay(env, params, state, actions))
        for seed in range(episodes):
            episode = record(upstream(id_), seed, lambda env: np.array(env.state), swings)
            state = PendulumState(physics=jnp.asarray(episode["hidden"][0]), time=jnp.int32(0))
            assert state.physics.dtype == jnp.float64
            ours = run(state, jnp.asarray(episode["action"], jnp.float32))
            theirs = (episode["obs"][1:], *(episode[k] for k in ("reward", "terminated")))
            for mine, other in zip(ours, theirs, strict=False):
                np.testing.assert_allclose(mine, other, atol=1e-6, rtol=0)
            np.testing.assert_array_equal(ours[3], episode["truncated"])


@few_and_many
@pytest.mark.parametrize("id_", ids("multiarmed_bandit"))
def test_bandit_agrees_with_upstream(id_, episodes):
    _, params = ssmrl.envs.make(f"popgym/{id_}")
    limit, arms = params.max_episode_length, params.num_bandits
    uniform = jax.jit(jax.vmap(lambda key: jax.random.uniform(key, (), jnp.float32)))
    for seed in range(episodes):
        keys = step_keys(seed, limit)
        theirs = upstream(id_)
        draws = np.asarray(uniform(keys), np.float64)
        episode = record(
            Injected(theirs, draws),
            seed,
            lambda _, env=theirs: env.bandits,
            lambda rng, t: int(rng.integers(arms)),
        )
        time = np.arange(limit, dtype=np.int32)
        states = BanditState(episode["hidden"], time, np.zeros_like(time), np.zeros_like(time))
        assert_steps_agree(id_, episode, states, keys)
        assert episode["obs"][0] == 0 and 0 < episode["obs"].mean() < 1


def test_first_states_of_the_pendulum():
    """θ ~ U(-π, π), θ̇ ~ U(-1, 1): Kolmogorov-Smirnov over 100,000 draws, p > 1e-4.

    An interval 3% too short is missed with probability below 1e-4.
    """
    venv = ssmrl.envs.make_vector("popgym/position_only_pendulum_easy", 100_000)
    obs, state = jax.jit(venv.reset)(jax.random.key(0))
    angle, speed = np.asarray(state.inner.env.physics).T
    assert stats.kstest(angle / np.pi, stats.uniform(-1, 2).cdf).pvalue > 1e-4
    assert stats.kstest(speed, stats.uniform(-1, 2).cdf).pvalue > 1e-4
    np.testing.assert_allclose(obs, np.stack([np.cos(angle), np.sin(angle)], 1), atol=1e-6)


@pytest.mark.parametrize(
    "id_", easy_and_slow(ids("noisy_position_only_cartpole", "noisy_position_only_pendulum"))
)
def test_noise_is_normal_at_reset_and_in_steps_and_clipped(id_):
    """Kolmogorov-Smirnov over 100,000 draws, p > 1e-4.

    σ wrong by 5% is missed with probability below 1e-4.
    """
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    space = env.observation_space(params)
    keys = jax.random.split(jax.random.key(0), 50_000)
    noise = batched_noise(id_)(keys) / params.noise_sigma
    for entry in (noise.ravel(), (noise[:, 0] + noise[:, 1]) / np.sqrt(2)):
        assert stats.kstest(entry, stats.norm.cdf).pvalue > 1e-4

    @quick_jit
    @jax.vmap
    def reset_and_step(key):
        first, before = env.reset_env(key, params)
        action = jnp.zeros(env.action_space(params).shape, jnp.int32)
        obs, after, *_ = env.step_env(key, before, action, params)
        return (first, before.obs, before.hidden.physics), (obs, after.obs, after.hidden.physics)

    for obs, stored, physics in reset_and_step(keys[:20_000]):
        np.testing.assert_array_equal(obs, stored)
        assert jax.vmap(space.contains)(obs).all()
        # On the easy cart's pole the bound is 4.2 σ away.
        assert (obs == space.high).any() or id_ == "noisy_position_only_cartpole_easy"
        if "cartpole" in id_:  # x is nowhere near its bound: what was added can be read off
            added = np.asarray(obs[:, 0] - physics[:, 0]) / params.noise_sigma
            assert stats.kstest(added, stats.norm.cdf).pvalue > 1e-4


def test_payouts_are_uniform_and_paid_as_often_as_they_say():
    """Kolmogorov-Smirnov over 10,000 arms, 20 arms pulled 20,000 times; both p > 1e-4.

    Payout probabilities off by .02 are missed with probability below 1e-6.
    """
    env, params = ssmrl.envs.make("popgym/multiarmed_bandit_easy")
    keys = jax.random.split(jax.random.key(0), 20_000)
    state = jax.jit(jax.vmap(lambda key: env.reset_env(key, params)[1]))(keys[:1000])
    assert stats.kstest(np.asarray(state.bandits).ravel(), stats.uniform.cdf).pvalue > 1e-4
    probability = (np.arange(20, dtype=np.float32) + 0.5) / 20
    pulls = jax.vmap(jax.vmap(env.pays, (None, 0)), (0, None))(keys, probability)
    paid = np.asarray(pulls.sum(0))
    expected, variance = 20_000 * probability, 20_000 * probability * (1 - probability)
    # One draw decides for all arms: they are not independent, but each is as it should be.
    deviation = np.abs(paid - expected) / np.sqrt(variance)
    assert stats.norm.sf(deviation.max()) * 2 * 20 > 1e-4


@pytest.mark.parametrize("positions_at_reset", [True, False])
def test_velocity_only_shows_positions_at_reset_unless_told_not_to(positions_at_reset):
    options = {} if positions_at_reset else {"positions_at_reset": False}
    env, params = ssmrl.envs.make("popgym/velocity_only_cartpole_easy", **options)
    obs, state = quick_jit(lambda key: env.reset_env(key, params))(jax.random.key(0))
    np.testing.assert_array_equal(obs, state.physics[0 if positions_at_reset else 1 :: 2])
    obs, state, *_ = quick_jit(lambda s: env.step_env(jax.random.key(0), s, 1, params))(state)
    np.testing.assert_array_equal(obs, state.physics[1::2])
    theirs = upstream("velocity_only_cartpole_easy")
    first, _ = theirs.reset(seed=0)
    np.testing.assert_allclose(first, np.array(theirs.state)[[0, 2]], atol=1e-7)


def test_angles_are_wrapped():
    angles = np.array([0.0, 3.0, 3.2, -3.2, 2 * np.pi, 100.0], np.float32)
    wrapped = np.asarray(wrap(jnp.asarray(angles)))
    assert (wrapped >= -np.pi - 1e-6).all() and (wrapped <= np.pi + 1e-6).all()
    np.testing.assert_allclose(np.cos(wrapped), np.cos(angles), atol=1e-5)
    np.testing.assert_allclose(np.sin(wrapped), np.sin(angles), atol=1e-5)

"""Our POPGym against the ``popgym`` package: same hidden state, same actions, same everything."""

from dataclasses import replace
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs.adapters.popgym_original import FAMILIES, popgym_class
from ssmrl.envs.popgym import DIFFICULTIES
from ssmrl.envs.popgym._deck import DeckState
from ssmrl.envs.popgym.position_only_cartpole import EnvState as CartPoleState

CARDS = ("repeat_previous", "repeat_first")
CARD_IDS = [f"{family}_{difficulty}" for family in CARDS for difficulty in DIFFICULTIES]
CARTPOLE_IDS = [f"position_only_cartpole_{difficulty}" for difficulty in DIFFICULTIES]
EPISODES = 20
MANY_EPISODES = 200
few_and_many = pytest.mark.parametrize(
    "episodes", [EPISODES, pytest.param(MANY_EPISODES, marks=pytest.mark.slow)]
)


def upstream(id_):
    family, _, difficulty = id_.rpartition("_")
    return popgym_class(f"{FAMILIES[family]}{difficulty.capitalize()}")()


def record(env, seed, hidden, choose):
    """One upstream episode: hidden states before each step, actions, and what came of them."""
    rng = np.random.default_rng(seed)
    obs, _ = env.reset(seed=seed)
    steps = {"obs": [obs], "hidden": [], "action": [], "reward": [], "terminated": []}
    steps["truncated"], done = [], False
    while not done:
        steps["hidden"].append(hidden(env))
        action = choose(rng, len(steps["action"]))
        obs, reward, terminated, truncated, _ = env.step(action)
        done = terminated or truncated
        values = {"obs": obs, "action": action, "reward": reward, "terminated": terminated}
        for name, value in {**values, "truncated": truncated}.items():
            steps[name].append(value)
    return {name: np.array(values) for name, values in steps.items()}


def replay(env, params, state, actions):
    """Our episode from ``state``."""

    def body(state, action):
        out = env.step_env(jax.random.key(0), state, action, params)
        return out[1], (out[0], *out[2:5])

    return jax.lax.scan(body, state, actions)[1]


@few_and_many
@pytest.mark.parametrize("id_", CARD_IDS)
def test_card_games_agree_with_upstream(id_, episodes):
    theirs = upstream(id_)
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    run = jax.jit(partial(replay, env, params))
    assert env.observation_space(params).n == theirs.observation_space.n
    assert env.action_space(params).n == theirs.action_space.n
    rewarded = 0
    for seed in range(episodes):
        # Dealt from the end of the shuffled deck; suits as the deck itself numbers them.
        episode = record(
            theirs,
            seed,
            lambda env: env.deck.suits_idx[env.deck.idx[::-1]],
            lambda rng, t: int(rng.integers(4)),
        )
        state = DeckState(
            cards=jnp.asarray(episode["hidden"][0], jnp.int8),
            time=jnp.int32(0),
            last_action=jnp.int32(-1),
        )
        obs, reward, terminated, truncated = run(state, jnp.asarray(episode["action"], jnp.int32))
        assert episode["obs"][0] == state.cards[0]
        np.testing.assert_array_equal(obs, episode["obs"][1:])
        np.testing.assert_allclose(reward, episode["reward"], atol=1e-6)
        np.testing.assert_array_equal(terminated, episode["terminated"])
        np.testing.assert_array_equal(truncated, episode["truncated"])
        rewarded += np.count_nonzero(episode["reward"] > 0)
    assert rewarded > episodes  # right answers were among those compared


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


@pytest.mark.parametrize("family", CARDS)
def test_decks_are_shuffled_fairly(family):
    """Each deck has 13 cards a suit, and any suit is as likely as any other at any place."""
    venv = ssmrl.envs.make_vector(f"popgym/{family}_easy", 4000)
    _, state = venv.reset(jax.random.key(0))
    suits = np.asarray(state.inner.env.cards)
    counts = np.stack([(suits == suit).sum(axis=1) for suit in range(4)])
    assert (counts == 13).all() and suits.dtype == np.int8
    # χ² with 3 degrees of freedom at each of 52 places: 30 is exceeded once in 700 000.
    observed = np.stack([(suits == suit).sum(axis=0) for suit in range(4)])
    assert (((observed - 1000) ** 2 / 1000).sum(axis=0) < 30).all()


# Longest episode, mean return of random actions and the standard error of that mean. For the card
# games it is exact: right with probability 1/4. For CartPole it is upstream's, over 6000 episodes
# of the package: 22.17 ± .15 steps.
TABLE = {
    "repeat_previous_easy": (51, -0.5, 0),
    "repeat_previous_medium": (103, -0.5, 0),
    "repeat_previous_hard": (155, -0.5, 0),
    "repeat_first_easy": (51, -0.5, 0),
    "repeat_first_medium": (415, -0.5, 0),
    "repeat_first_hard": (831, -0.5, 0),
    "position_only_cartpole_easy": (200, 22.17 / 200, 0.15 / 200),
    "position_only_cartpole_medium": (400, 22.17 / 400, 0.15 / 400),
    "position_only_cartpole_hard": (600, 22.17 / 600, 0.15 / 600),
}


@pytest.mark.parametrize("id_", TABLE)
def test_random_return(id_):
    """The mean over 4096 random episodes, within 4 standard errors.

    A false alarm has probability 6e-5 an id. The standard error is at most .002, so that an error
    of .02 in the mean (one wrong answer in a hundred) is missed with probability below 1e-8.
    """
    longest, expected, uncertainty = TABLE[id_]
    returns, lengths = first_episodes(id_, num_envs=4096, steps=longest)
    error = np.hypot(returns.std() / np.sqrt(len(returns)), uncertainty)
    assert error <= 0.002
    assert abs(returns.mean() - expected) <= 4 * error
    if "cartpole" not in id_:
        assert (lengths == longest).all()


def first_episodes(id_, num_envs, steps):
    """Returns and lengths of each environment's first episode: no bias towards short ones."""
    venv = ssmrl.envs.make_vector(f"popgym/{id_}", num_envs)

    @jax.jit
    def run(key):
        def body(carry, key):
            state, over, total, length = carry
            action = jax.random.randint(key, (num_envs,), 0, venv.action_space.n)
            _, state, _, _, _, info = venv.step(state, action)
            now = info["episode"]["done"] & ~over
            total = jnp.where(now, info["episode"]["return"], total)
            length = jnp.where(now, info["episode"]["length"], length)
            return (state, over | now, total, length), None

        zeros = jnp.zeros(num_envs)
        carry = (venv.reset(key)[1], zeros > 0, zeros, zeros.astype(jnp.int32))
        return jax.lax.scan(body, carry, jax.random.split(jax.random.key(1), steps))[0][1:]

    over, total, length = jax.device_get(run(jax.random.key(0)))
    assert over.all()
    return total, length


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


@pytest.mark.parametrize("id_", TABLE)
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
def test_pictures(id_):
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    render = jax.jit(env.render)
    _, state = env.reset(jax.random.key(0))
    first = np.asarray(render(state, params))
    assert first.dtype == np.uint8 and first.ndim == 3 and first.shape[2] == 3
    assert len(np.unique(first.reshape(-1, 3), axis=0)) >= 3
    for t in range(70 if "previous_hard" in id_ else 40):
        _, state, *_ = env.step_env(jax.random.key(t), state, 1, params)
    assert (np.asarray(render(state, params)) != first).any()


def test_the_picture_tells_right_from_wrong():
    from ssmrl.envs.popgym._deck import _RIGHT, _WRONG

    env, params = ssmrl.envs.make("popgym/repeat_previous_easy")
    _, state = env.reset(jax.random.key(0))
    for t in range(6):
        answer = env.answer(state, params)
        assert (t < 3) == (int(answer) == -1)
        right = jnp.maximum(answer, 0)
        for action, frame, other in ((right, _RIGHT, _WRONG), ((right + 1) % 4, _WRONG, _RIGHT)):
            _, after, reward, *_ = env.step_env(jax.random.key(0), state, action, params)
            colours = {tuple(c) for c in np.asarray(env.render(after, params)).reshape(-1, 3)}
            # Before k cards were seen nothing is asked: no frame, no reward.
            assert (tuple(frame) in colours) == (t >= 3) == (reward != 0)
            assert tuple(other) not in colours
        state = after

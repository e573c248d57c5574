"""Control, bandit and labyrinths: spaces, pictures, random returns, and that they can be solved."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs.adapters.popgym_original import FAMILIES, popgym_class
from ssmrl.envs.batching import strip_weak_types
from ssmrl.envs.bsuite import EXPERIMENTS
from ssmrl.envs.popgym import DIFFICULTIES
from tests.compiling import quick_jit
from tests.envs import policies_games as policies
from tests.envs.policies_cards import first_episodes
from tests.envs.popgym.test_control import easy_and_slow

IDS = [f"{family}_{difficulty}" for family in policies.POLICIES for difficulty in DIFFICULTIES]
EASY_IDS = [id_ for id_ in IDS if id_.endswith("easy")]


def num_steps(id_):
    _, params = ssmrl.envs.make(f"popgym/{id_}")
    return params.max_episode_length - ("labyrinth" in id_)


@pytest.mark.filterwarnings("ignore:Maze environments:DeprecationWarning")
@pytest.mark.parametrize("id_", IDS)
def test_spaces_are_upstreams(id_):
    family, _, difficulty = id_.rpartition("_")
    theirs = popgym_class(f"{FAMILIES[family]}{difficulty.capitalize()}")()
    env, params = ssmrl.envs.make(f"popgym/{id_}")
    for ours, other in (
        (env.observation_space(params), theirs.observation_space),
        (env.action_space(params), theirs.action_space),
    ):
        assert ours == ssmrl.envs.spaces.from_gymnasium(other)
    assert env.name == f"{FAMILIES[family]}{difficulty.capitalize()}"


@pytest.mark.parametrize("id_", easy_and_slow(IDS))
def test_the_time_limit_is_one_step_early_for_nobody_and_late_for_nobody(id_):
    env, params = ssmrl.envs.make(f"popgym/{id_}")

    @quick_jit
    def last_step(time):
        _, state = env.reset_env(jax.random.key(0), params)
        at_time = lambda state: replace(state, time=time)  # noqa: E731
        hidden = hasattr(state, "hidden")
        state = replace(state, hidden=at_time(state.hidden)) if hidden else at_time(state)
        action = jnp.zeros(env.action_space(params).shape, jnp.int32)
        return env.step_env(jax.random.key(1), state, action, params)[3:5]

    for time, is_end in ((num_steps(id_) - 2, False), (num_steps(id_) - 1, True)):
        assert last_step(jnp.int32(time)) == (False, is_end)


@pytest.mark.parametrize("id_", EASY_IDS)
def test_pictures(id_):
    env, params = ssmrl.envs.make(f"popgym/{id_}")

    @quick_jit
    def pictures(key):
        def body(state, key):
            action = env.action_space(params).sample(key)
            return env.step_env(key, state, action, params)[1], env.render(state, params)

        return jax.lax.scan(body, env.reset_env(key, params)[1], jax.random.split(key, 40))[1]

    frames = np.asarray(pictures(jax.random.key(0)))
    assert frames.dtype == np.uint8 and frames.ndim == 4 and frames.shape[-1] == 3
    assert len(np.unique(frames[0].reshape(-1, 3), axis=0)) >= 3
    left, right = np.array_split(frames, 2, axis=2)
    assert (left != left[0]).any()
    # The arms' probabilities are hidden, but they do not change.
    assert (right != right[0]).any() != ("bandit" in id_)


# Mean return of random actions, and the standard error of it. For the bandit it is exact: half of
# the pulls of a random arm pay. Elsewhere it is upstream's, of 4000 (CartPole), 1500 (Pendulum) or
# 1000 (labyrinths) episodes of the package. Noise and what is seen change nothing of it.
CARTPOLE = (22.145, 0.19)
RANDOM_RETURN = {
    "labyrinth_escape_easy": (-0.397, 0.0239),
    "labyrinth_escape_medium": (-0.846, 0.0140),
    "labyrinth_escape_hard": (-0.948, 0.0082),
    "labyrinth_explore_easy": (-0.3518, 0.0059),
    "labyrinth_explore_medium": (-0.6129, 0.0040),
    "labyrinth_explore_hard": (-0.7463, 0.0029),
    "multiarmed_bandit_easy": (0.0, 0.0),
    "multiarmed_bandit_medium": (0.0, 0.0),
    "multiarmed_bandit_hard": (0.0, 0.0),
    **{
        f"{family}_cartpole_{difficulty}": tuple(steps / length for steps in CARTPOLE)
        for family, lengths in {
            "noisy_position_only": (200, 200, 200),
            "velocity_only": (200, 400, 600),
        }.items()
        for difficulty, length in zip(DIFFICULTIES, lengths, strict=True)
    },
    "position_only_pendulum_easy": (0.2398, 0.0046),
    "position_only_pendulum_medium": (0.2410, 0.0048),
    "position_only_pendulum_hard": (0.2411, 0.0050),
    "noisy_position_only_pendulum_easy": (0.2398, 0.0046),
    "noisy_position_only_pendulum_medium": (0.2398, 0.0046),
    "noisy_position_only_pendulum_hard": (0.2398, 0.0046),
}


@pytest.mark.slow
@pytest.mark.parametrize("id_", RANDOM_RETURN)
def test_random_return(id_):
    """The mean over 4096 random episodes, within 4 standard errors of upstream's (6e-5 an id).

    A difference of 8 standard errors is missed with probability below 1e-4: .2 in LabyrinthEscape,
    .05 in LabyrinthExplore, .04 in the pendulums, .01 in CartPole and .02 in the bandit.
    """
    expected, uncertainty = RANDOM_RETURN[id_]
    space = ssmrl.envs.make_vector(f"popgym/{id_}", 1).action_space
    policy = policies.random(space)
    returns, _ = first_episodes(policy, f"popgym/{id_}", 4096, num_steps(id_))
    error = np.hypot(returns.std() / np.sqrt(len(returns)), uncertainty)
    assert abs(returns.mean() - expected) <= 4 * error


# What a policy with the memory that the family needs gets in the mean of 64 episodes: measured over
# 256, less 5 standard errors of 64. Beside it, a policy without memory.
SOLVED = {
    "labyrinth_escape_easy": 0.94,
    "labyrinth_escape_medium": 0.87,
    "labyrinth_escape_hard": 0.80,
    "labyrinth_explore_easy": 0.96,
    "labyrinth_explore_medium": 0.92,
    "labyrinth_explore_hard": 0.86,
    "multiarmed_bandit_easy": 0.50,
    "multiarmed_bandit_medium": 0.64,
    "multiarmed_bandit_hard": 0.70,
    "noisy_position_only_cartpole_easy": 0.94,
    "noisy_position_only_cartpole_medium": 0.45,
    "noisy_position_only_cartpole_hard": 0.26,
    "noisy_position_only_pendulum_easy": 0.84,
    "noisy_position_only_pendulum_medium": 0.65,
    "noisy_position_only_pendulum_hard": 0.58,
    "position_only_cartpole_easy": 1.0,
    "position_only_cartpole_medium": 1.0,
    "position_only_cartpole_hard": 1.0,
    "position_only_pendulum_easy": 0.88,
    "position_only_pendulum_medium": 0.84,
    "position_only_pendulum_hard": 0.76,
    "velocity_only_cartpole_easy": 1.0,
    "velocity_only_cartpole_medium": 1.0,
    "velocity_only_cartpole_hard": 1.0,
}


@pytest.mark.parametrize("id_", easy_and_slow(SOLVED))
def test_a_policy_with_a_memory_solves_it(id_):
    _, params = ssmrl.envs.make(f"popgym/{id_}")
    policy = policies.POLICIES[id_.rpartition("_")[0]](params)
    steps = num_steps(id_)
    if "labyrinth" in id_:  # two squares a passage, each passed at most twice, and the ends
        steps = 4 * (params.maze_size // 2) ** 2 + 4
    returns, _ = first_episodes(policy, f"popgym/{id_}", 64, steps)
    assert returns.mean() >= SOLVED[id_] - 1e-4
    assert returns.max() <= 1 + 1e-4


NAMES = [f"popgym/{id_}" for id_ in EASY_IDS] + [f"bsuite/{id_}" for id_ in EXPERIMENTS]


@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_states_keep_their_types(name, x64):
    """What a scan carries; rewards are float32 whatever the default float."""

    def reset_and_step(key):
        env, params = ssmrl.envs.make(name)
        first = strip_weak_types(env.reset_env(key, params))
        action = env.action_space(params).sample(key)
        obs, state, reward, *_ = strip_weak_types(env.step_env(key, first[1], action, params))
        return first, (obs, state), reward

    with jax.enable_x64(x64):
        first, second, reward = jax.eval_shape(reset_and_step, jax.random.key(0))
    assert first == second and reward.dtype == jnp.float32


def test_parameters():
    for id_, options, message in (
        ("noisy_position_only_pendulum_easy", {"noise_sigma": -0.1}, "noise_sigma >= 0"),
        ("noisy_position_only_cartpole_easy", {"max_episode_length": 0}, "at least one step"),
        ("position_only_pendulum_easy", {"max_episode_length": 0}, "at least one step"),
        ("velocity_only_cartpole_easy", {"positions_at_reset": 1}, "must be true or false"),
        ("velocity_only_cartpole_easy", {"positions_at_reset": np.array([True])}, "True or False"),
        ("multiarmed_bandit_easy", {"num_bandits": 0}, "at least one arm"),
        ("multiarmed_bandit_easy", {"num_bandit": 3}, "did you mean 'num_bandits'"),
    ):
        with pytest.raises(ValueError, match=message):
            ssmrl.envs.make(f"popgym/{id_}", **options)
    _, params = ssmrl.envs.make("popgym/noisy_position_only_pendulum_hard")
    assert (params.noise_sigma, params.max_episode_length) == (0.3, 200)
    assert ssmrl.envs.canonical_name("popgym/VelocityOnlyCartpoleEasy").endswith("cartpole_easy")

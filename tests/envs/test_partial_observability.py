"""Wrappers that leave less to know, against tables worked by hand."""

import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from ssmrl.envs import Environment, JaxVectorEnv, VectorWrapper, make_vector, obscure, spaces
from ssmrl.envs import partial_observability as partial
from ssmrl.envs.environment import NoParams
from ssmrl.envs.meta import Trials
from tests.envs.counting import Counting, Params
from tests.envs.test_vector import play
from tests.envs.test_wiring import ENVS, draws
from tests.unchecked import unchecked

BRAX_SAYS_THAT_IT_IS_OLD = pytest.mark.filterwarnings("ignore:Brax System:UserWarning")

# Episodes of at most five steps; environment 1 wants to end its first one in its third step.
ACTIONS = np.zeros((8, 2), int)
ACTIONS[2, 1] = 1


def counting(num_envs=2):
    return JaxVectorEnv(Counting(), Params(limit=5), num_envs)


@struct.dataclass
class State:
    time: jax.Array


class Fixed(Environment):
    """Always shows `value`, an element of `space`; action 1 ends the episode, and so do 3 steps."""

    def __init__(self, space, value):
        self.space, self.value = space, value

    def observation_space(self, params):
        return self.space

    def action_space(self, params):
        return spaces.Discrete(2)

    def reset_env(self, key, params):
        return self.value, State(jnp.int32(0))

    def step_env(self, key, state, action, params):
        time = state.time + 1
        return self.value, State(time), 1.0, action == 1, time >= 3, {}


def fixed(space, value, num_envs=ENVS):
    return JaxVectorEnv(Fixed(space, jax.tree.map(jnp.asarray, value)), NoParams(), num_envs)


UNBOUNDED = spaces.Box(-np.inf, np.inf, (2,))


# ------------------------------------------------------------------------------------ observe


def test_only_what_is_observed_in_the_order_asked_for():
    plain_first, (plain, *_, plain_info) = play(counting(), ACTIONS)
    for entries in ([1, 0], [1], [0]):
        venv = obscure(counting(), observe=entries)
        first, (obs, *_, info) = play(venv, ACTIONS)
        np.testing.assert_array_equal(first, plain_first[:, entries])
        np.testing.assert_array_equal(obs, plain[..., entries])
        final = plain_info["final_observation"][..., entries]
        np.testing.assert_array_equal(info["final_observation"], final)
        assert venv.observation_space == spaces.Box(0.0, 1000.0, (len(entries),))
    space = spaces.Box(np.float32([1, 2, 3]), np.float32([4, 5, 6]))
    masked = obscure(fixed(space, np.float32([1, 2, 3])), observe=[2, 0]).observation_space
    assert masked == spaces.Box(np.float32([3, 1]), np.float32([6, 4]))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], "observe=[] must be different indices from 0 to 1, at least one"),
        ([2], "observe=[2] must be different indices from 0 to 1, at least one"),
        ([-1], "observe=[-1] must be different"),
        ([0, 0], "observe=[0,0] must be different"),
        ([0.5], "observe=[0.5] must be different"),
        (1, "observe=1 must be different"),
        ("speeds", "observe='speeds' must be positions, velocities, or indices such as [0,2]"),
        ("positions", "nobody said which of the 2 entries of Counting are positions; give their"),
    ],
)
def test_entries_that_are_not_there(entries, expected):
    with unchecked(), pytest.raises(ValueError, match=re.escape(expected)):
        obscure(counting(), observe=entries)


def test_of_trials_the_task_s_own_observation_is_masked():
    env = Trials(Counting(), 2)
    plain, masked = (obscure(JaxVectorEnv(env, None, 2), observe=x) for x in (None, [1]))
    (first, (obs, *_, info)), (first_seen, (seen, *_, seen_info)) = (
        play(venv, ACTIONS) for venv in (plain, masked)
    )
    pairs = [(first, first_seen), (obs, seen)]
    pairs += [(info["final_observation"], seen_info["final_observation"])]
    for whole, part in pairs:
        np.testing.assert_array_equal(part["observation"], whole["observation"][..., [1]])
        others = {name: x for name, x in whole.items() if name != "observation"}
        for name, x in others.items():
            np.testing.assert_array_equal(part[name], x)
        assert part.keys() == whole.keys()
    assert masked.observation_space["observation"] == spaces.Box(0.0, 1000.0, (1,))
    assert masked.observation_space["first"] == spaces.Discrete(2)
    venv = make_vector("meta/cartpole", 2, observe="positions")
    whole, _ = make_vector("meta/cartpole", 2).reset(jax.random.key(0))
    part, _ = venv.reset(jax.random.key(0))
    np.testing.assert_array_equal(part["observation"], whole["observation"][:, [0, 2]])


def test_entries_of_what_has_none():
    venv = fixed(spaces.Discrete(3), np.int32(1))
    with pytest.raises(ValueError, match=r"observe=\[0\] needs .* Box of one axis.*Discrete\(3\)"):
        obscure(venv, observe=[0])


GYMNAX = {
    "acrobot": ("velocity_1", "velocity_2"),
    "cartpole": ("x_dot", "theta_dot"),
    "mountain_car": ("velocity",),
    "mountain_car_continuous": ("velocity",),
    "pendulum": ("theta_dot",),
}


@pytest.mark.parametrize("id_", GYMNAX)
def test_velocities_of_gymnax_are_what_changes_with_them(id_):
    pytest.importorskip("gymnax")
    name = f"gymnax/{id_}"
    inner = make_vector(name, 1).unwrapped.env.inner
    _, state = inner.reset_env(jax.random.key(0), inner.default_params)
    faster = state.replace(**{field: getattr(state, field) + 0.3 for field in GYMNAX[id_]})
    seen = [np.asarray(inner.get_obs(s, inner.default_params)) for s in (state, faster)]
    size, positions, velocities = partial.LAYOUTS[name]
    assert seen[0].shape == (size,)
    np.testing.assert_array_equal(np.flatnonzero(seen[0] != seen[1]), velocities)
    assert sorted(positions + velocities) == list(range(size))


@BRAX_SAYS_THAT_IT_IS_OLD
@pytest.mark.parametrize(
    "id_",
    [
        *("ant", "half_cheetah", "hopper", "inverted_double_pendulum", "inverted_pendulum"),
        *("pusher", "reacher", "walker2d"),
    ],
)
def test_velocities_of_brax_are_what_changes_with_them(id_):
    envs = pytest.importorskip("brax.envs")
    from brax import base

    from ssmrl.envs.adapters.brax import ENVIRONMENTS

    env = envs.get_environment(ENVIRONMENTS[id_])
    q, qd = jnp.linspace(0.1, 0.9, env.sys.q_size()), jnp.linspace(0.1, 0.9, env.sys.qd_size())
    links = env.sys.num_links()
    turn = jnp.tile(jnp.array([1.0, 0, 0, 0]), (links, 1))
    x = base.Transform(pos=jnp.ones((links, 3)), rot=turn)

    def see(v):
        xd = base.Motion(ang=jnp.full((links, 3), v[0]), vel=jnp.full((links, 3), v[0]))
        return np.asarray(env._get_obs(SimpleNamespace(q=q, qd=v, x=x, xd=xd)))

    seen = [see(qd), see(qd + 1)]
    size, positions, velocities = partial.LAYOUTS[f"brax/{id_}"]
    assert seen[0].shape == (size,)
    np.testing.assert_array_equal(np.flatnonzero(seen[0] != seen[1]), velocities)
    assert sorted(positions + velocities) == list(range(size))


def test_no_entry_is_both_a_position_and_a_velocity():
    for size, positions, velocities in partial.LAYOUTS.values():
        assert not set(positions) & set(velocities)
        assert max(positions + velocities) < size


# ------------------------------------------------------------------------------------- delays


def test_observations_come_late():
    """Two steps: what is seen is the time two steps ago, and 0 until there is such a step."""
    _, (plain, *_, plain_info) = play(counting(), ACTIONS)
    first, (obs, reward, terminated, truncated, info) = play(
        obscure(counting(), observation_delay=2), ACTIONS
    )
    np.testing.assert_array_equal(first[:, 0], 0)
    # Episodes end in steps 5 (truncated) and 3 (terminated), and again in 8.
    np.testing.assert_array_equal(np.flatnonzero(truncated[:, 0]), [4])
    np.testing.assert_array_equal(np.flatnonzero(terminated[:, 1] | truncated[:, 1]), [2, 7])
    final = [[0, 0, 1, 2, 3, 0, 0, 1], [0, 0, 1, 0, 0, 1, 2, 3]]
    np.testing.assert_array_equal(info["final_observation"][..., 0].T, final)
    seen = [[0, 0, 1, 2, 0, 0, 0, 1], [0, 0, 0, 0, 0, 1, 2, 0]]
    np.testing.assert_array_equal(obs[..., 0].T, seen)
    # Rewards are not late, and tasks are those of the episodes: the old one's at its end.
    np.testing.assert_array_equal(reward, 10 * plain_info["final_observation"][..., 0] + ACTIONS)
    np.testing.assert_array_equal(obs[..., 1], plain[..., 1])
    tasks = [x["final_observation"][..., 1] for x in (info, plain_info)]
    np.testing.assert_array_equal(*tasks)


def test_actions_take_effect_late():
    """Two steps, and 0 until then. The action 1 of environment 1 in its third step ends the episode
    in the fifth, with a reward of 51, which the time limit does too; that of environment 0 in its
    first step ends it in the third, and the one of its second step is lost."""
    actions = ACTIONS.copy()
    actions[[0, 1], 0] = 1
    _, (obs, reward, terminated, truncated, _) = play(obscure(counting(), action_delay=2), actions)
    np.testing.assert_array_equal(reward[:, 0], [10, 20, 31, 10, 20, 30, 40, 50])
    np.testing.assert_array_equal(reward[:, 1], [10, 20, 30, 40, 51, 10, 20, 30])
    np.testing.assert_array_equal(np.flatnonzero(terminated[:, 0]), [2])
    np.testing.assert_array_equal(np.flatnonzero(truncated[:, 0]), [7])
    assert terminated[4, 1] and truncated[4, 1]
    np.testing.assert_array_equal(obs[:, 0, 0], [1, 2, 0, 1, 2, 3, 4, 0])


def test_the_action_that_is_none_is_within_the_space():
    class Pushed(Counting):
        def action_space(self, params):
            return spaces.Dict(
                {
                    "far": spaces.Box(np.float32([1, -2]), np.float32([3, -1]), (2,)),
                    "near": spaces.Box(-1.0, 1.0, (1,)),
                    "which": spaces.MultiDiscrete([2, 3]),
                }
            )

        def step_env(self, key, state, action, params):
            *rest, _ = super().step_env(key, state, 0, params)
            return *rest, {f"seen_{name}": x for name, x in action.items()}

    venv = obscure(JaxVectorEnv(Pushed(), None, 2), action_delay=1)
    actions = {
        "far": np.tile(np.float32([2, -1.5]), (2, 2, 1)),
        "near": np.ones((2, 2, 1), np.float32),
        "which": np.ones((2, 2, 2), np.int32),
    }
    _, state = venv.reset(jax.random.key(0))
    for t, expected in enumerate([{"far": [1, -1], "near": [0], "which": [0, 0]}, None]):
        now = jax.tree.map(lambda x, t=t: jnp.asarray(x[t]), actions)
        _, state, *_, info = venv.step(state, now)
        for name in actions:
            wanted = expected[name] if expected else actions[name][0, 0]
            np.testing.assert_array_equal(info[f"seen_{name}"], np.tile(wanted, (2, 1)))
    assert jax.vmap(venv.action_space.contains)(venv._still).all()


@pytest.mark.parametrize("name", ["observation_delay", "action_delay"])
@pytest.mark.parametrize("steps", [-1, 1.5, True])
def test_delays_are_whole_steps(name, steps):
    with (
        unchecked(),
        pytest.raises(ValueError, match=rf"{name}={steps} must be a number of steps, at least 0"),
    ):
        obscure(counting(), **{name: steps})


# ------------------------------------------------------------------------------------- chance


def test_noise_has_its_deviation_and_is_new_everywhere():
    """In every environment, step and episode, before and behind an auto-reset, for every seed."""
    space = spaces.Box(-np.inf, np.inf, ())
    venv = obscure(fixed(space, np.float32(3)), observation_noise=0.5)
    keys = jax.vmap(jax.random.key)(jnp.array([0, 1, 0]))
    once, other, again = (x - 3 for x in draws(venv, keys))
    np.testing.assert_array_equal(once, again)
    together = np.concatenate([once, other])
    assert len(np.unique(together)) == len(together) > 150
    # The deviation of so many numbers is good to about 6 %.
    assert abs(together.mean()) < 0.15
    np.testing.assert_allclose(together.std(), 0.5, rtol=0.2)


def test_two_sources_of_chance_are_independent():
    """The deviation of two noises is √2 times that of one; of the same one twice, double."""
    venv = fixed(UNBOUNDED, np.float32([0, 0]), num_envs=2000)
    venv = partial.ObservationNoise(partial.ObservationNoise(venv, 1.0), 1.0)
    first, _ = jax.jit(venv.reset)(jax.random.key(0))
    np.testing.assert_allclose(first.std(), 2**0.5, rtol=0.05)
    assert abs(np.corrcoef(first.T)[0, 1]) < 0.1


def test_noise_is_for_floats_and_stays_within_bounds():
    space = spaces.Dict(
        {
            "card": spaces.Discrete(3),
            "eye": spaces.Box(0, 255, (2,), np.uint8),
            "place": spaces.Tuple([spaces.Box(-1.0, 1.0, (2,))]),
        }
    )
    value = {"card": np.int32(2), "eye": np.uint8([3, 200]), "place": (np.float32([1, 0]),)}
    venv = obscure(fixed(space, value), observation_noise=0.3)
    assert venv.observation_space == space
    obs, _ = venv.reset(jax.random.key(0))
    np.testing.assert_array_equal(obs["card"], 2)
    np.testing.assert_array_equal(obs["eye"], np.tile([3, 200], (ENVS, 1)))
    assert jax.vmap(space.contains)(obs).all()
    (place,) = obs["place"]
    assert place.dtype == jnp.float32
    assert (place[:, 0] == 1).any() and (place[:, 1] != 0).all()
    with pytest.raises(ValueError, match=r"observation_noise=0.1 needs floats.*Discrete\(3\)"):
        obscure(fixed(spaces.Discrete(3), np.int32(1)), observation_noise=0.1)
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=f"observation_noise={bad} must be a deviation"):
            obscure(counting(), observation_noise=bad)


def test_flicker_hides_as_many_as_it_says():
    """Of a `Box` zeros are left; episodes' ends and beginnings are drawn for themselves."""
    venv = obscure(fixed(spaces.Box(1.0, 5.0, (2,)), np.float32([3, 2]), 200), flicker=0.3)
    assert venv.observation_space == spaces.Box(0.0, 5.0, (2,))
    first, (obs, _, terminated, truncated, info) = play(venv, np.zeros((6, 200), int))
    done, final = terminated | truncated, np.asarray(info["final_observation"])
    seen = np.concatenate([np.asarray(first), final.reshape(-1, 2), np.asarray(obs)[done]])
    hidden = (seen == 0).all(-1)
    assert ((seen == [3, 2]).all(-1) | hidden).all()
    np.testing.assert_allclose(hidden.mean(), 0.3, atol=0.05)
    np.testing.assert_array_equal(obs[~done], final[~done])
    at_ends = (final == 0).all(-1)[done], (np.asarray(obs) == 0).all(-1)[done]
    assert 0.2 < (at_ends[0] != at_ends[1]).mean() < 0.6  # .42 if they are independent


def test_flicker_of_what_is_discrete_is_a_value_more():
    space = spaces.Tuple([spaces.Discrete(3), spaces.MultiDiscrete([2, 4])])
    venv = obscure(fixed(space, (np.int32(2), np.int32([1, 3]))), flicker=1.0)
    assert venv.observation_space == spaces.Tuple(
        [spaces.Discrete(4), spaces.MultiDiscrete([3, 5])]
    )
    card, pair = venv.reset(jax.random.key(0))[0]
    np.testing.assert_array_equal(card, 3)
    np.testing.assert_array_equal(pair, np.tile([2, 4], (ENVS, 1)))
    for bad in (-0.1, 1.1, np.nan):
        with pytest.raises(ValueError, match=f"flicker={bad} must be a probability"):
            obscure(venv, flicker=bad)


# ------------------------------------------------------------------------------------ together


def test_they_are_in_order_and_only_those_asked_for():
    venv = counting()
    assert obscure(venv) is venv
    every = {
        "observe": [0],
        "observation_noise": 0.1,
        "flicker": 0.5,
        "observation_delay": 1,
        "action_delay": 1,
    }
    made = make_vector(Counting(), 2, previous_action=True, **every)
    kinds = []
    while isinstance(made, VectorWrapper):
        kinds.append(type(made).__name__)
        made = made.venv
    assert kinds == [
        *("EpisodeStatistics", "ObservationExtras", "ObservationDelay", "Flicker"),
        *("ObservationNoise", "Observe", "ActionDelay"),
    ]
    # The previous action is the one decided on, not the one that took effect.
    venv = make_vector(Counting(), 2, previous_action=True, action_delay=1)
    _, state = venv.reset(jax.random.key(0))
    obs, *_ = venv.step(state, jnp.array([1, 0]))
    np.testing.assert_array_equal(obs["previous_action"], [1, 0])


@BRAX_SAYS_THAT_IT_IS_OLD
@pytest.mark.filterwarnings("ignore:Accessing:DeprecationWarning")  # brax at mjx's insides
def test_brax_is_obscured_too():
    pytest.importorskip("brax")
    options = {"observe": "velocities", "observation_delay": 2, "backend": "spring"}
    venv = make_vector("brax/inverted_pendulum", 3, **options)
    assert venv.observation_space.shape == (2,)
    obs, state = jax.eval_shape(venv.reset, jax.random.key(0))
    action = jax.ShapeDtypeStruct((3, 1), jnp.float32)
    again, state_after, *_ = jax.eval_shape(venv.step, state, action)
    assert obs.shape == again.shape == (3, 2)
    assert jax.tree.map(jnp.shape, state_after) == jax.tree.map(jnp.shape, state)
    # Other entries than those known: the table is not for them.
    with pytest.raises(ValueError, match=r"which of the 29 entries of brax/ant are positions"):
        make_vector(
            "brax/ant", 1, observe="positions", exclude_current_positions_from_observation=False
        )

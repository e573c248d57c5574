"""The small worlds against episodes worked out by hand, their policies, pictures and errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs.worlds import POLICIES, WORLDS
from ssmrl.envs.worlds.doors_keys import LEFT, RIGHT, USE, WAIT
from ssmrl.envs.worlds.doors_keys import EnvState as DoorsState
from ssmrl.envs.worlds.hallway import BACK, FORWARD, LOWER, UPPER
from ssmrl.envs.worlds.hallway import EnvState as HallwayState
from ssmrl.envs.worlds.rooms import EnvState as RoomsState
from tests.compiling import quick_jit

ZERO = jnp.int32(0)
UPPER_SIGN, LOWER_SIGN, FORK, UPPER_GOAL, LOWER_GOAL = 0, 1, 6, 7, 8
TILES = range(2, 6)


def play(env, params, state, actions):
    """From `state`: obs, reward, terminated, truncated of each step."""

    @quick_jit
    def run(state, actions):
        def body(state, inputs):
            obs, state, *rest, _ = env.step_env(*inputs[:1], state, inputs[1], params)
            return state, (obs, *rest)

        keys = jax.random.split(jax.random.key(0), len(actions))
        return jax.lax.scan(body, state, (keys, actions))[1]

    return [np.asarray(x) for x in run(state, jnp.asarray(actions, jnp.int32))]


# ----------------------------------------------------------------------------------- hallway


@pytest.mark.parametrize(
    ("paying", "goal", "seen", "value"),
    [
        (0, UPPER, UPPER_GOAL, 1.0),
        (0, LOWER, LOWER_GOAL, -1.0),
        (1, UPPER, UPPER_GOAL, -1.0),
        (1, LOWER, LOWER_GOAL, 1.0),
    ],
)
def test_the_sign_says_which_goal_pays(paying, goal, seen, value):
    """Width 2: sign, two tiles, fork, goal. Goals cannot be entered before the fork."""
    env, params = ssmrl.envs.make("worlds/hallway", width=2)
    state = HallwayState(jnp.int32(paying), jnp.int32(-1), ZERO, ZERO, ZERO)
    assert env.observe(state, params) == paying
    actions = [BACK, goal, FORWARD, goal, BACK, FORWARD, FORWARD, FORWARD, FORWARD, goal]
    obs, reward, terminated, truncated = play(env, params, state, actions)
    sign = UPPER_SIGN if paying == 0 else LOWER_SIGN
    assert obs[[0, 1, 4]].tolist() == [sign] * 3
    assert all(tile in TILES for tile in obs[[2, 3, 5, 6]])
    assert obs[7:].tolist() == [FORK, FORK, seen]
    assert reward.tolist() == [0] * 9 + [value]
    assert terminated.tolist() == [False] * 9 + [True] and not truncated.any()


def test_dawdling_is_cut_off():
    """Width 1: four times the three steps that it takes, unless the last of them enters a goal."""
    env, params = ssmrl.envs.make("worlds/hallway", width=1)
    state = HallwayState(ZERO, jnp.int32(-1), ZERO, ZERO, ZERO)
    for last, ended in ((FORWARD, (False, True)), (UPPER, (True, False))):
        actions = [FORWARD] * 11 + [last]
        _, _, terminated, truncated = play(env, params, state, actions)
        assert (terminated[-1], truncated[-1]) == ended
        assert not terminated[:-1].any() and not truncated[:-1].any()


def test_signs_and_tiles_are_fair():
    """Each share within 5 standard errors of 10,000 draws; tiles change from step to step."""
    env, params = ssmrl.envs.make("worlds/hallway")
    keys = jax.random.split(jax.random.key(0), 10_000)
    obs, _ = quick_jit(jax.vmap(env.reset_env, (0, None)))(keys, params)
    np.testing.assert_allclose(np.bincount(obs, minlength=2) / 10_000, 0.5, atol=0.025)
    state = HallwayState(ZERO, jnp.int32(-1), ZERO, ZERO, ZERO)
    tiles = play(env, params, state, [FORWARD] + [FORWARD, BACK] * 5000)[0][1:]
    np.testing.assert_allclose(np.bincount(tiles, minlength=6)[2:] / 10_000, 0.25, atol=0.022)
    pairs = np.bincount(4 * (tiles[1:] - 2) + tiles[:-1] - 2, minlength=16) / 9_999
    np.testing.assert_allclose(pairs, 1 / 16, atol=0.0122)


# -------------------------------------------------------------------------------- doors, keys


def test_doors_open_once_their_key_was_taken_and_stay_open():
    """Two colours; the ring is door 1, key 0, key 1, door 0 (objects 3, 0, 1, 2)."""
    env, params = ssmrl.envs.make("worlds/doors_keys", keys=2, episode_length=15)
    none = jnp.zeros(2, bool)
    state = DoorsState(jnp.array([3, 0, 1, 2]), none, none, ZERO, ZERO)
    door_1, key_0, key_1, door_0 = (
        [0, 0, 0, 1, 0],
        [1, 0, 0, 0, 0],
        [0, 1, 0, 0, 0],
        [0, 0, 1, 0, 0],
    )
    empty, open_1, open_0 = [0] * 5, [0, 0, 0, 1, 1], [0, 0, 1, 0, 1]
    np.testing.assert_array_equal(env.observe(state, params), door_1)
    script = [
        (USE, door_1, 0),  # no key yet
        (LEFT, door_0, 0),  # round the ring
        (LEFT, key_1, 0),
        (WAIT, key_1, 0),  # left where it lies
        (LEFT, key_0, 0),
        (USE, empty, 0),
        (RIGHT, key_1, 0),
        (RIGHT, door_0, 0),
        (USE, open_0, 1),
        (USE, open_0, 0),  # paid once
        (RIGHT, door_1, 0),
        (USE, door_1, 0),  # the other key was not taken
        (LEFT, open_0, 0),  # still open
        (LEFT, key_1, 0),
        (USE, empty, 0),
    ]
    actions, seen, paid = zip(*script, strict=True)
    obs, reward, terminated, truncated = play(env, params, state, actions)
    np.testing.assert_array_equal(obs, seen)
    np.testing.assert_array_equal(reward, paid)
    assert not terminated.any() and truncated.tolist() == [False] * 14 + [True]
    # The same places without the first key: no door opens, and one visited twice is still shut.
    obs, reward, *_ = play(env, params, state, [LEFT, USE, LEFT, USE, RIGHT, USE, RIGHT, USE, WAIT])
    np.testing.assert_array_equal(obs[-2:], [open_1, open_1])
    np.testing.assert_array_equal(reward, [0, 0, 0, 0, 0, 0, 0, 1, 0])


def test_every_object_may_lie_anywhere():
    """10,000 rings of 6: each object at each place within 5 standard errors of 1/6."""
    env, params = ssmrl.envs.make("worlds/doors_keys", keys=3)
    keys = jax.random.split(jax.random.key(0), 10_000)
    _, state = quick_jit(jax.vmap(env.reset_env, (0, None)))(keys, params)
    assert (np.sort(state.objects, axis=1) == np.arange(6)).all()
    for place in range(6):
        share = np.bincount(state.objects[:, place], minlength=6) / 10_000
        np.testing.assert_allclose(share, 1 / 6, atol=0.0187)


# -------------------------------------------------------------------------------------- rooms


def test_rooms_stay_as_they_were():
    env, params = ssmrl.envs.make("worlds/rooms", rooms=4, colours=3, episode_length=7)
    state = RoomsState(jnp.array([0, 2, 2, 1]), ZERO, ZERO)
    obs, reward, terminated, truncated = play(env, params, state, [1, 1, 1, 1, 0, 0, 1])
    assert obs.tolist() == [2, 2, 1, 0, 1, 2, 1]
    assert not reward.any() and not terminated.any()
    assert truncated.tolist() == [False] * 6 + [True]


# --------------------------------------------------------------------------------- all worlds


@pytest.mark.parametrize("id_", WORLDS)
def test_batched_with_policies_inside_the_spaces_and_with_pictures(id_):
    options = {"hallway": {"width": 5}}.get(id_, {"episode_length": 9})
    venv = ssmrl.envs.make_vector(f"worlds/{id_}", 8, **options).unwrapped
    contains = jax.vmap(venv.observation_space.contains)
    is_action = jax.vmap(venv.action_space.contains)

    @quick_jit
    def run(key):
        obs, state = venv.reset(key)

        def body(state, key):
            keys = jax.random.split(key, 8)
            action = jax.vmap(POLICIES[id_], (0, 0, None))(keys, state.env, venv.params)
            picture = venv.env.render(jax.tree.map(lambda x: x[0], state.env), venv.params)
            obs, state, reward, terminated, truncated, _ = venv.step(state, action)
            inside = contains(obs) & is_action(action)
            return state, (inside, terminated | truncated, reward, picture)

        return contains(obs), jax.lax.scan(body, state, jax.random.split(key, 25))[1]

    first, (inside, done, reward, pictures) = run(jax.random.key(0))
    assert first.all() and inside.all()
    # Four steps that only look at the sign, six to the fork, one into the goal.
    ends = {"hallway": [10, 21]}.get(id_, [8, 17])
    assert (np.flatnonzero(done[:, 0]) == ends).all() and (done == done[:, :1]).all()
    assert np.unique(reward).tolist() == {"hallway": [-1, 0, 1], "doors_keys": [0, 1]}.get(id_, [0])
    assert pictures.dtype == jnp.uint8 and (pictures != pictures[0]).any()


@pytest.mark.parametrize(
    ("id_", "options"),
    [
        ("hallway", {"width": 0}),
        ("hallway", {"colours": 0}),
        ("hallway", {"colours": 5}),
        ("doors_keys", {"keys": 0}),
        ("doors_keys", {"keys": 8}),
        ("doors_keys", {"episode_length": 0}),
        ("rooms", {"rooms": 0}),
        ("rooms", {"colours": 1}),
        ("rooms", {"episode_length": 0}),
    ],
)
def test_impossible_parameters(id_, options):
    with pytest.raises(ValueError, match=f"{id_} needs"):
        ssmrl.envs.make(f"worlds/{id_}", **options)

"""Auto-reset over a batch, and the wrappers, against tables worked by hand."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs import EpisodeStatistics, JaxVectorEnv, ObservationExtras, spaces
from ssmrl.envs.vector import VectorEnv, VectorState
from ssmrl.envs.wrappers import EpisodeStatisticsState
from tests.envs.counting import Counting, Params
from tests.envs.test_batching import primitives


def play(venv, actions, key=0):
    """Steps through ``actions [T, B]`` in a scan; gives the first observation and all that came."""

    @jax.jit
    def run(key, actions):
        first = venv.reset(key)

        def body(carry, action):
            obs, state, *rest = venv.step(carry[1], action)
            return (obs, state), (obs, *rest)

        return first, jax.lax.scan(body, first, actions)

    (obs, state), ((last_obs, last_state), steps) = run(jax.random.key(key), jnp.asarray(actions))
    assert jax.tree.structure((obs, state)) == jax.tree.structure((last_obs, last_state))
    return obs, steps


# Environment 0 is truncated at its third step; environment 1 terminates at its second, and the
# episode after that at its first; environment 2 ends both ways in its third step.
ACTIONS = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0]])
TERMINATED = np.array([[0, 0, 0], [0, 1, 0], [0, 1, 1], [0, 0, 0]], bool)
TRUNCATED = np.array([[0, 0, 0], [0, 0, 0], [1, 0, 1], [0, 0, 0]], bool)
FINAL_TIME = np.array([[1, 1, 1], [2, 2, 2], [3, 1, 3], [1, 1, 1]])
TIME = np.array([[1, 1, 1], [2, 0, 2], [0, 0, 0], [1, 1, 1]])


def test_auto_reset_table():
    venv = JaxVectorEnv(Counting(), None, 3)
    first, (obs, reward, terminated, truncated, info) = play(venv, ACTIONS)
    np.testing.assert_array_equal(first[:, 0], 0)
    np.testing.assert_array_equal(terminated, TERMINATED)
    np.testing.assert_array_equal(truncated, TRUNCATED)
    np.testing.assert_array_equal(obs[..., 0], TIME)
    np.testing.assert_array_equal(info["final_observation"][..., 0], FINAL_TIME)
    np.testing.assert_array_equal(reward, 10 * FINAL_TIME + ACTIONS)
    assert reward.dtype == jnp.float32 and terminated.dtype == truncated.dtype == jnp.bool_
    # The final observation still belongs to the old task, the observation to a new one.
    task = np.concatenate([first[None, :, 1], obs[..., 1]])
    np.testing.assert_array_equal(info["final_observation"][..., 1], task[:-1])
    np.testing.assert_array_equal(task[1:] != task[:-1], TERMINATED | TRUNCATED)


def test_episode_statistics_table():
    _, (*_, info) = play(EpisodeStatistics(JaxVectorEnv(Counting(), None, 3)), ACTIONS)
    episode = info["episode"]
    np.testing.assert_array_equal(episode["done"], TERMINATED | TRUNCATED)
    np.testing.assert_array_equal(episode["length"], FINAL_TIME)
    np.testing.assert_array_equal(
        episode["return"], [[10, 10, 10], [30, 31, 30], [60, 11, 61], [10, 10, 10]]
    )
    assert episode["return"].dtype == jnp.float32 and episode["length"].dtype == jnp.int32


def test_observation_extras_table():
    venv = ObservationExtras(JaxVectorEnv(Counting(), None, 3), True, True, True)
    space = venv.observation_space
    assert space == spaces.Dict(
        {
            "observation": spaces.Box(0.0, 1000.0, (2,)),
            "previous_action": spaces.Discrete(3),
            "previous_reward": spaces.Box(-np.inf, np.inf, (1,)),
            "first": spaces.Discrete(2),
        }
    )
    first, (obs, *_, info) = play(venv, ACTIONS)
    assert jax.vmap(space.contains)(first).all()
    assert jax.vmap(jax.vmap(space.contains))(obs).all()
    np.testing.assert_array_equal(first["previous_action"], [2, 2, 2])
    np.testing.assert_array_equal(first["previous_reward"], np.zeros((3, 1)))
    np.testing.assert_array_equal(first["first"], [1, 1, 1])
    # Where an episode began: "none" (2), no reward, first. Elsewhere what led here.
    np.testing.assert_array_equal(
        obs["previous_action"], [[0, 0, 0], [0, 2, 0], [2, 2, 2], [0, 0, 0]]
    )
    np.testing.assert_array_equal(
        obs["previous_reward"][..., 0], [[10, 10, 10], [20, 0, 20], [0, 0, 0], [10, 10, 10]]
    )
    np.testing.assert_array_equal(obs["first"], [[0, 0, 0], [0, 1, 0], [1, 1, 1], [0, 0, 0]])
    np.testing.assert_array_equal(obs["observation"][..., 0], TIME)
    # The observation that ended an episode belongs to it, and so do its extras.
    final = info["final_observation"]
    np.testing.assert_array_equal(final["previous_action"], ACTIONS)
    np.testing.assert_array_equal(final["previous_reward"][..., 0], 10 * FINAL_TIME + ACTIONS)
    np.testing.assert_array_equal(final["first"], 0)
    np.testing.assert_array_equal(final["observation"][..., 0], FINAL_TIME)


def test_observation_extras_of_continuous_actions_are_zero_at_first():
    venv = ObservationExtras(JaxVectorEnv(Counting(continuous=True), None, 1), True)
    assert set(venv.observation_space.spaces) == {"observation", "previous_action"}
    actions = np.array([[[0.5, -0.25]], [[1.0, 0.75]], [[0.25, 0.125]]], np.float32)
    first, (obs, *_, info) = play(venv, actions)
    np.testing.assert_array_equal(first["previous_action"], np.zeros((1, 2)))
    np.testing.assert_array_equal(
        obs["previous_action"][:, 0], [[0.5, -0.25], [0, 0], [0.25, 0.125]]
    )
    np.testing.assert_array_equal(info["final_observation"]["previous_action"], actions)


def test_extras_keep_their_types_where_64_bits_are_allowed():
    venv = ssmrl.envs.make_vector(
        "popgym/repeat_first_easy", 2, previous_action=True, previous_reward=True
    )
    with jax.enable_x64(True):
        obs, state = jax.eval_shape(venv.reset, jax.random.key(0))
        after = jax.eval_shape(venv.step, state, jnp.zeros(2, jnp.int32))[0]
    types = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (obs, after)]
    assert types[0] == types[1]


def test_extras_of_nested_action_spaces():
    from ssmrl.envs.wrappers import none_action, with_none

    space = spaces.Dict(
        {
            "a": spaces.MultiDiscrete([2, 3]),
            "b": spaces.Tuple([spaces.Box(1.0, 2.0, (2,)), spaces.Discrete(4)]),
        }
    )
    none = none_action(space)
    np.testing.assert_array_equal(none["a"], [2, 3])
    np.testing.assert_array_equal(none["b"][0], [0, 0])
    assert none["b"][1] == 4
    assert with_none(space).contains(none) and not space.contains(none)
    assert with_none(space)["b"][0] == spaces.Box(0.0, 2.0, (2,))
    with pytest.raises(ValueError, match="at least one extra"):
        ObservationExtras(JaxVectorEnv(Counting(), None, 1))


def test_vector_environments_reset_and_step():
    for missing in ("reset", "step"):
        methods = {"reset": lambda *_: None, "step": lambda *_: None}
        del methods[missing]
        with pytest.raises(TypeError, match=missing):
            type("Half", (VectorEnv,), methods)()


def test_the_first_environment_is_the_one_that_is_drawn():
    class Drawn(Counting):
        def render(self, state, params):
            return jnp.full((1, 1, 3), state)

    venv = JaxVectorEnv(Drawn(), None, 2)
    state = VectorState(env=jnp.array([3, 5]), key=None, time=None)
    assert venv.render(state)[0, 0, 0] == 3 and venv.render(state, 1)[0, 0, 0] == 5
    extras = ObservationExtras(venv, first_flag=True)
    assert extras.render(state)[0, 0, 0] == 3
    counted = EpisodeStatisticsState(inner=state, episode_return=None, episode_length=None)
    assert EpisodeStatistics(extras).render(counted)[0, 0, 0] == 3
    assert inspect.signature(VectorEnv.render).parameters["index"].default == 0


def test_bounds_of_continuous_actions_make_room_for_zero_and_nothing_else():
    from ssmrl.envs.wrappers import with_none

    actions = spaces.Box(np.array([0.25, -3, -2]), np.array([0.5, -1, 0.5]), (3,))
    expected = spaces.Box(np.array([0, -3, -2]), np.array([0.5, 0, 0.5]), (3,))
    assert with_none(actions) == expected


def test_an_environments_episodes_do_not_depend_on_how_many_there_are():
    actions = np.random.default_rng(0).integers(0, 2, (40, 8))
    for make in (lambda n: JaxVectorEnv(Counting(), None, n), popgym("repeat_previous_easy")):
        many, few = play(make(8), actions), play(make(3), actions[:, :3])
        for a, b in zip(jax.tree.leaves(many[1]), jax.tree.leaves(few[1]), strict=True):
            np.testing.assert_array_equal(a[:, :3], b)
        np.testing.assert_array_equal(many[0][:3], few[0])
        other = play(make(3), actions[:, :3], key=1)
        assert (np.asarray(other[1][0]) != np.asarray(few[1][0])).any()


@pytest.mark.parametrize("block", [1, 3, 32])
def test_episodes_do_not_depend_on_how_many_are_drawn_at_a_time(block):
    """Nor does their number: 32 is what whole batches, drawn at once, would be."""
    env, params = ssmrl.envs.make("popgym/position_only_cartpole_easy")
    actions = np.random.default_rng(0).integers(0, 2, (60, 12))
    blocks = play(JaxVectorEnv(env, params, 12, reset_block=block), actions)
    default = play(JaxVectorEnv(env, params, 12), actions)
    done = blocks[1][2]
    assert done.sum() > 12 and (np.asarray(done).sum(axis=1) > 1).any()
    for a, b in zip(jax.tree.leaves(blocks), jax.tree.leaves(default), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_gradients_pass_through_auto_resets():
    """A loop of unknown length has no reverse mode; what is differentiated must avoid it."""

    class Leaky(Counting):
        """The reward is the observation, which is the sum of the actions so far."""

        def observation_space(self, params):
            return spaces.Box(-np.inf, np.inf, (1,))

        def reset_env(self, key, params):
            return super().reset_env(key, params)[0][:1], jnp.zeros(2)

        def step_env(self, key, state, action, params):
            state = state + jnp.stack([action[0], 1.0])
            return state[:1], state, state[0], state[1] >= 3, False, {}

    venv = JaxVectorEnv(Leaky(continuous=True), None, 20, reset_block=4)

    def total(actions):
        body = lambda state, action: venv.step(state, action)[1:3]  # noqa: E731
        return jax.lax.scan(body, venv.reset(jax.random.key(0))[1], actions)[1].sum()

    gradient = jax.jit(jax.grad(total))(jnp.ones((6, 20, 2)))
    # An action counts in its own step and in those that follow until the third.
    np.testing.assert_array_equal(gradient[..., 0], np.tile([[3], [2], [1]] * 2, (1, 20)))


def popgym(id_):
    return lambda n: ssmrl.envs.make_vector(f"popgym/{id_}", n)


def test_vmapped_over_seeds_it_gives_the_same_and_still_branches():
    venv = ssmrl.envs.make_vector(
        "popgym/position_only_cartpole_easy", 4, previous_action=True, first_flag=True
    )
    actions = jnp.asarray(np.random.default_rng(1).integers(0, 2, (60, 4)))

    def run(key):
        def body(state, action):
            obs, state, *rest = venv.step(state, action)
            return state, (obs, *rest)

        return jax.lax.scan(body, venv.reset(key)[1], actions)[1]

    keys = jax.random.split(jax.random.key(3), 3)
    together = jax.jit(jax.vmap(run))(keys)
    assert together[2].any()  # there were resets
    for i, key in enumerate(keys):
        alone = jax.jit(run)(key)
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[i], b, atol=1e-6)
    assert "cond" in primitives(jax.make_jaxpr(jax.vmap(run))(keys).jaxpr)
    assert "cond" in primitives(jax.make_jaxpr(jax.vmap(jax.vmap(run)))(keys[None]).jaxpr)


def test_new_episodes_are_drawn_only_when_one_ended():
    draws = []

    class Noisy(Counting):
        def reset_env(self, key, params):
            jax.debug.callback(lambda: draws.append(1))
            return super().reset_env(key, params)

    venv = JaxVectorEnv(Noisy(), Params(limit=10), 2)
    play(venv, np.zeros((25, 2), int))
    jax.effects_barrier()
    # At reset and after steps 10 and 20, once for the batch; not at every one of the 25.
    assert len(draws) == 3


def test_state_is_arrays_and_survives_a_round_trip():
    venv = ssmrl.envs.make_vector("popgym/repeat_first_easy", 3, previous_reward=True)
    _, state = venv.reset(jax.random.key(0))
    leaves, structure = jax.tree.flatten(state)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    stored = [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in leaves
    ]
    back = [
        jax.random.wrap_key_data(s)
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        else jnp.asarray(s)
        for s, x in zip(stored, leaves, strict=True)
    ]
    action = jnp.array([0, 1, 2])
    ours, theirs = venv.step(state, action), venv.step(jax.tree.unflatten(structure, back), action)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert (a == b).all()


def test_old_style_keys_work_too():
    venv = JaxVectorEnv(Counting(), None, 3)
    new, old = venv.reset(jax.random.key(5))[0], venv.reset(jax.random.PRNGKey(5))[0]
    np.testing.assert_array_equal(new, old)


def test_gymnax_style_loop():
    """The single environment answers as gymnax's do: auto-reset, and the same things in info."""
    env, params = ssmrl.envs.make("popgym/repeat_previous_easy")
    obs, state = env.reset(jax.random.key(0), params)
    for t in range(52):
        key = jax.random.key(t)
        obs, state, _, terminated, truncated, info = env.step(key, state, 0, params)
        assert {"final_observation", "terminated", "truncated"} <= set(info)
        assert bool(terminated) == (t == 50) and not truncated
        if t == 50:
            assert state.time == 0 and obs == state.cards[0]
    assert state.time == 1
    assert env.num_actions == 4 and env.name == "RepeatPreviousEasy"
    assert env.reset(jax.random.key(0))[1].cards.shape == (52,)


@pytest.mark.parametrize("num_envs", [0, -1, True])
def test_impossible_numbers_of_environments(num_envs):
    with pytest.raises(ValueError, match="num_envs must be a positive integer"):
        ssmrl.envs.make_vector("popgym/repeat_first_easy", num_envs)


@pytest.mark.parametrize("block", [0, -4, True])
def test_impossible_blocks(block):
    with pytest.raises(ValueError, match="reset_block must be a positive integer"):
        JaxVectorEnv(Counting(), None, 3, reset_block=block)


def test_wrappers_are_in_order_and_pass_on_what_they_are():
    venv = ssmrl.envs.make_vector("popgym/RepeatFirstEasy", 2, first_flag=True)
    assert isinstance(venv, EpisodeStatistics) and isinstance(venv.venv, ObservationExtras)
    assert isinstance(venv.unwrapped, JaxVectorEnv) and not venv.is_host
    assert venv.name == "popgym/repeat_first_easy" and venv.num_envs == 2
    _, state = venv.reset(jax.random.key(0))
    assert venv.render(state, 1).shape == venv.unwrapped.render(state.inner, 1).shape
    venv.close()

"""gymnax's environments behind our interface: all 26 of them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl.envs
from ssmrl.envs import drawing
from ssmrl.envs.adapters.gymnax import ENVIRONMENTS, make_gymnax

gymnax = pytest.importorskip("gymnax", reason="gymnax caps jax; see constraints/README.md")

OFFLINE = sorted(set(ENVIRONMENTS) - {"mnist_bandit"})
# A time limit below the rules' own end, so that few steps see both kinds of ending.
STEPS, NUM_ENVS = 12, 3


def types(tree):
    return [(x.shape, x.dtype, getattr(x, "weak_type", False)) for x in jax.tree.leaves(tree)]


def test_table_is_gymnaxs_registry():
    assert sorted(ENVIRONMENTS.values()) == sorted(gymnax.registered_envs)


def test_both_names_reach_it():
    for name in ("gymnax/cartpole", "gymnax/CartPole-v1", "GYMNAX/cart_pole"):
        assert ssmrl.envs.canonical_name(name) == "gymnax/cartpole"
    for id_, gymnax_id in ENVIRONMENTS.items():
        assert ssmrl.envs.canonical_name(f"gymnax/{gymnax_id}") == f"gymnax/{id_}"


LONG_TO_COMPILE = {"asterix", "freeway", "seaquest"}


@pytest.mark.parametrize(
    "id_",
    [
        pytest.param(id_, marks=pytest.mark.slow if id_ in LONG_TO_COMPILE else ())
        for id_ in OFFLINE
    ],
)
def test_reset_and_steps_under_jit_and_scan(id_):
    venv = ssmrl.envs.make_vector(f"gymnax/{id_}", NUM_ENVS, max_steps_in_episode=5)
    space = venv.observation_space

    @jax.jit
    def rollout(key):
        first = venv.reset(key)

        def body(carry, key):
            keys = jax.random.split(key, NUM_ENVS)
            action = jax.vmap(venv.action_space.sample)(keys)
            obs, state, reward, terminated, truncated, info = venv.step(carry[1], action)
            out = (obs, reward, terminated, truncated, info["final_observation"], info["episode"])
            return (obs, state), out

        return first, jax.lax.scan(body, first, jax.random.split(key, STEPS))

    first, (last, (obs, reward, terminated, truncated, final_obs, episode)) = rollout(
        jax.random.key(0)
    )
    assert types(first) == types(last)
    assert not any(weak for _, _, weak in types(first))
    contains = jax.vmap(space.contains)
    assert contains(first[0]).all()
    assert jax.vmap(contains)(obs).all() and jax.vmap(contains)(final_obs).all()
    assert obs.dtype == space.dtype and reward.dtype == jnp.float32
    assert terminated.dtype == truncated.dtype == jnp.bool_
    done = terminated | truncated
    np.testing.assert_array_equal(obs[~done], final_obs[~done])
    # Five steps at most: both limits of a time limit are seen in twelve.
    assert done.any() and (episode["length"] <= 5).all()
    assert (episode["length"][truncated & ~terminated] == 5).all()


@pytest.mark.parametrize("id_", ["cartpole", "breakout", "umbrella_chain", "catch"])
def test_transitions_are_gymnaxs(id_):
    theirs, params = gymnax.make(ENVIRONMENTS[id_])
    ours, our_params = make_gymnax(ENVIRONMENTS[id_])
    key = jax.random.key(1)
    _, state = theirs.reset_env(key, params)
    our_obs, our_state = ours.reset_env(key, our_params)
    for _ in range(8):
        key, key_action, key_step = jax.random.split(key, 3)
        action = theirs.action_space(params).sample(key_action)
        obs, state, reward, terminated, _ = theirs.step_env(key_step, state, action, params)
        our = ours.step_env(key_step, our_state, action, our_params)
        our_obs, our_state, our_reward, our_terminated, our_truncated, _ = our
        np.testing.assert_allclose(our_obs, obs, atol=1e-6)
        assert float(our_reward) == float(reward)
        assert bool(our_terminated) == bool(terminated)
        assert bool(our_truncated) == bool(theirs.is_truncated(state, params))
        for a, b in zip(jax.tree.leaves(our_state), jax.tree.leaves(state), strict=True):
            np.testing.assert_array_equal(a, b)


def test_time_limit_truncates_and_fall_terminates():
    venv = ssmrl.envs.make_vector("gymnax/cartpole", 1, max_steps_in_episode=3)
    _, state = venv.reset(jax.random.key(0))
    flags = []
    for _ in range(3):
        _, state, _, terminated, truncated, _ = venv.step(state, jnp.zeros(1, jnp.int32))
        flags.append((bool(terminated[0]), bool(truncated[0])))
    assert flags == [(False, False), (False, False), (False, True)]

    venv = ssmrl.envs.make_vector("gymnax/cartpole", 1)
    _, state = venv.reset(jax.random.key(0))
    for _ in range(30):
        _, state, _, terminated, truncated, _ = venv.step(state, jnp.zeros(1, jnp.int32))
        if terminated[0]:
            break
    assert terminated[0] and not truncated[0]


def test_the_values_of_a_users_own_are_looked_at(monkeypatch):
    from gymnax.environments.classic_control.cartpole import CartPole

    class Flying(CartPole):
        def reset_env(self, key, params):
            obs, state = super().reset_env(key, params)
            return obs.at[2].set(jnp.nan), state

    with pytest.raises(
        ssmrl.envs.EnvironmentFault, match=r"reset: observation\[2\] must be finite"
    ):
        ssmrl.envs.make_vector(Flying(), 2)
    # gymnax's own have been played by the tests above.
    monkeypatch.setattr(
        "ssmrl.envs.registry.first_steps_fault", lambda venv: pytest.fail("was played")
    )
    ssmrl.envs.make_vector(CartPole(), 2)


def test_mnist_bandit_says_that_it_downloads(monkeypatch):
    def fail(*args, **kwargs):
        raise OSError("no route")

    monkeypatch.setattr("gymnax.utils.load_mnist._download", fail)
    with pytest.raises(RuntimeError, match="downloads its data"):
        ssmrl.envs.make("gymnax/MNISTBandit-bsuite")


def test_options():
    env, params = ssmrl.envs.make("gymnax/deep_sea", size=4, max_steps_in_episode=7)
    assert env.observation_space(params).shape == (4, 4)
    assert params.max_steps_in_episode == 7
    with pytest.raises(ValueError, match="did you mean 'max_steps_in_episode'"):
        ssmrl.envs.make("gymnax/cartpole", max_steps_in_episod=7)


COLOURS = {
    drawing.WHITE: "white",
    drawing.GREY: "grey",
    drawing.BLACK: "black",
    drawing.ORANGE: "orange",
    drawing.GREEN: "green",
}


@pytest.mark.parametrize(
    ("id_", "state", "seen"),
    [
        # The pole stands on a cart in the middle, 24 pixels a metre; and leans to the right.
        ("cartpole", {"x": 0.0, "theta": 0.0}, {(48, 64): "black", (30, 64): "orange"}),
        ("cartpole", {"x": 1.0, "theta": 1.5}, {(48, 88): "black", (42, 105): "orange"}),
        ("pendulum", {"theta": 0.0}, {(32, 32): "black", (10, 32): "orange", (54, 32): "white"}),
        ("pendulum", {"theta": np.pi / 2}, {(32, 10): "orange", (32, 54): "white"}),
        # Both links hang; both stand, above the line; the upper to the right, the lower down.
        (
            "acrobot",
            {"joint_angle1": 0.0, "joint_angle2": 0.0},
            {(40, 32): "black", (55, 32): "orange", (18, 5): "green", (10, 32): "white"},
        ),
        (
            "acrobot",
            {"joint_angle1": np.pi, "joint_angle2": 0.0},
            {(25, 32): "black", (8, 32): "orange", (55, 32): "white"},
        ),
        (
            "acrobot",
            {"joint_angle1": np.pi / 2, "joint_angle2": -np.pi / 2},
            {(32, 40): "black", (40, 46): "orange", (40, 32): "white"},
        ),
        # The valley's lowest point is at -π / 6; the goal at .5 of -1.2 to .6.
        ("mountain_car", {"position": -np.pi / 6}, {(56, 48): "black", (62, 48): "grey"}),
        ("mountain_car", {"position": -1.0}, {(23, 120): "green", (40, 48): "white"}),
        ("mountain_car_continuous", {"position": 0.4}, {(23, 117): "green", (24, 113): "black"}),
    ],
)
def test_pictures_of_classic_control(id_, state, seen):
    env, params = ssmrl.envs.make(f"gymnax/{id_}")
    _, first = env.reset(jax.random.key(0), params)
    like = {name: jnp.full_like(getattr(first, name), value) for name, value in state.items()}
    picture = np.asarray(env.render(first.replace(**like), params))
    assert picture.dtype == np.uint8
    assert {place: COLOURS[tuple(picture[place].tolist())] for place in seen} == seen


def test_what_has_no_picture_says_so():
    env, params = ssmrl.envs.make("gymnax/catch")
    _, state = env.reset(jax.random.key(0), params)
    with pytest.raises(NotImplementedError, match="Catch-bsuite has no picture"):
        env.render(state, params)

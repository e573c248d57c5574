"""The world model against a plain loop, and what resets cut off."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.agents.dreamer import observations, offline
from ssmrl.agents.dreamer.losses import straight_through_sample, symlog, unimix
from ssmrl.agents.dreamer.replay import Batch
from ssmrl.agents.dreamer.world_model import Start, WorldModel, initial_start, open_loop
from ssmrl.envs import spaces
from ssmrl.memory import make_memory
from ssmrl.networks.encoders import PICTURE_ENCODERS
from tests.agents.dreamer import cases
from tests.agents.dreamer.cases import B, T
from tests.compiling import quick_jit

# One environment each: resets nowhere, at 0, mid, L-2, L-1, and everywhere.
RESETS = np.zeros((T, B), bool)
RESETS[0, 1] = RESETS[T // 2, 2] = RESETS[T - 2, 3] = RESETS[T - 1, 4] = True
RESETS[:, 5] = True
KINDS = [("s5", "parallel"), ("gru", "recurrent"), ("s5", "recurrent"), ("none", "parallel")]
every_kind = pytest.mark.parametrize(("memory", "posterior"), KINDS)


def step_by_hand(model, params, first, carry, z, observation, action, noise):
    """One step of one environment, with the equations of the module's docstring."""

    def call(name, x):
        return model.apply(params, x, method=lambda m, x: getattr(m, name)(x))

    def log_probability(logits):
        return unimix(logits.reshape(4, 8), 0.01)

    if first:
        carry, z, action = model.memory.initialize_carry((1,)), 0 * z, 0 * action
    u = call("input", jnp.concatenate([z.ravel(), action]))
    carry, y = model.apply(
        params, carry, u[None, None], jnp.array([[first]]), method=lambda m, *a: m.memory(*a)
    )
    code = call("encoder", observation)
    seen = code if model.config.posterior == "parallel" else jnp.concatenate([y[0, 0], code])
    posterior = log_probability(call("posterior", seen))
    z = straight_through_sample(posterior, noise)
    return carry, (y[0, 0], z, log_probability(call("prior", y[0, 0])), posterior)


@every_kind
def test_sequences_against_a_plain_loop(memory, posterior):
    model, params = cases.world_model(memory, posterior)
    observation, action, noise = cases.draw_sequence()
    start = cases.used_start(model)
    seen = cases.observe(memory, posterior)(
        params, start, observation, action, jnp.asarray(RESETS), noise
    )
    got = (seen.latent.h, seen.latent.z, seen.prior, seen.posterior)
    steps = [quick_jit(partial(step_by_hand, model, params, first)) for first in (False, True)]
    for b in range(B):
        carry, z = jax.tree.map(lambda x, b=b: x[b : b + 1], start.memory), start.z[b]
        for t in range(T):
            inputs = (x[t, b] for x in (observation, action, noise))
            carry, expected = steps[int(RESETS[t, b])](carry, z, *inputs)
            z = expected[1]
            for x, y in zip(got, expected, strict=True):
                np.testing.assert_allclose(x[t, b], y, atol=2e-5)


@every_kind
def test_acting_is_training_one_step_at_a_time(memory, posterior):
    model, params = cases.world_model(memory, posterior)
    observation, action, noise = cases.draw_sequence()
    reset = jnp.asarray(RESETS)
    start = first = cases.used_start(model)
    see = cases.observe(memory, posterior)
    whole = see(params, start, observation, action, reset, noise)
    for t in range(T):
        rows = [x[t : t + 1] for x in (observation, action, reset, noise)]
        latent = see(params, start, *rows).latent
        jax.tree.map(
            lambda x, y, t=t: np.testing.assert_allclose(x[0], y[t], atol=2e-5),
            latent,
            whole.latent,
        )
        start = Start(jax.tree.map(lambda x: x[0], latent.memory), latent.z[0])
    assert jax.tree.structure(start) == jax.tree.structure(first)


@every_kind
@pytest.mark.parametrize("at", [0, T // 2, T - 2, T - 1])
def test_nothing_before_a_reset_changes_anything_after_it(memory, posterior, at):
    model, params = cases.world_model(memory, posterior)
    see = cases.observe(memory, posterior)
    reset = jnp.asarray(np.arange(T)[:, None] == at) & jnp.ones((T, B), bool)
    (o, a, noise), (other_o, other_a, _) = cases.draw_sequence(0), cases.draw_sequence(1)
    before = (jnp.arange(T) < at)[:, None, None]
    # The action at the reset led to the episode that is over: it belongs to what is before.
    led_there = (jnp.arange(T) <= at)[:, None, None]
    one = see(params, cases.used_start(model, 1), o, a, reset, noise)
    mixed_o, mixed_a = jnp.where(before, other_o, o), jnp.where(led_there, other_a, a)
    two = see(params, cases.used_start(model, 2), mixed_o, mixed_a, reset, noise)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(x[at:], y[at:]), one, two)
    if memory != "none" and at:
        assert (np.asarray(one.latent.h)[:at] != np.asarray(two.latent.h)[:at]).any()


@every_kind
def test_no_gradient_crosses_a_reset(memory, posterior):
    model, params = cases.world_model(memory, posterior)
    o, a, noise = cases.draw_sequence()
    start, at = cases.used_start(model), T // 2
    reset = jnp.broadcast_to((jnp.arange(T) == at)[:, None], (T, B))

    def later(o, a, memory_state, z):
        seen = model.apply(params, Start(memory_state, z), o, a, reset, noise, method="observe")
        parts = (seen.latent.h, seen.latent.z, seen.prior, seen.posterior)
        return sum((x[at:] ** 2).sum() for x in parts)

    real = jax.tree.map(lambda x: x.real, start.memory)
    gradient = quick_jit(
        jax.grad(lambda o, a, m, z: later(o, a, _as(m, start.memory), z), (0, 1, 2, 3))
    )
    g_o, g_a, g_memory, g_z = gradient(o, a, real, start.z)
    assert not g_o[:at].any() and not g_a[: at + 1].any() and not g_z.any()
    assert not any(x.any() for x in jax.tree.leaves(g_memory))
    assert g_o[at:].any() and g_a[at + 1 :].any()


def _as(real, like):
    return jax.tree.map(lambda x, y: x.astype(y.dtype), real, like)


@pytest.mark.parametrize(("memory", "posterior"), KINDS[:2])
def test_imagination_goes_on_as_observation_does(memory, posterior):
    """The memory is the same whether a step is seen or imagined; only z's source is not."""
    model, params = cases.world_model(memory, posterior)
    o, a, noise = cases.draw_sequence()
    nothing = jnp.zeros((T, B), bool)
    seen = cases.observe(memory, posterior)(params, cases.used_start(model), o, a, nothing, noise)
    latent = jax.tree.map(lambda x: x[2], seen.latent)
    dream = quick_jit(lambda *inputs: model.apply(params, *inputs, method="imagine"))
    following = dream(latent, a[3], noise[3])
    np.testing.assert_allclose(following.h, seen.latent.h[3], atol=2e-5)
    z = straight_through_sample(seen.prior[3], noise[3])
    np.testing.assert_array_equal(following.z.argmax(-1), z.argmax(-1))


def test_memory_input_is_masked_where_an_episode_begins():
    """NaN in what came before a reset must not get through: chosen, not multiplied by 0."""
    model, params = cases.world_model("s5", "parallel")
    z, action = jnp.full((1, 4, 8), jnp.nan), jnp.full((1, 2), jnp.nan)
    u = model.apply(params, z, action, jnp.array([True]), method="_memory_input")
    assert np.isfinite(u).all()


def test_inputs_side_by_side():
    """Without a joint input, the first half of u is z's alone, the second the action's."""
    config = cases.small_config(joint_input=False)
    memory = make_memory("gru", features=16)
    model = WorldModel(cases.OBSERVATIONS, cases.ACTIONS, memory, config)
    inputs = (jnp.zeros((1, 1, 3)), jnp.zeros((1, 1, 2)), jnp.ones((1, 1), bool), jnp.zeros(()))
    start = initial_start(memory, config, 1)
    params = cases.random_like(jax.eval_shape(model.init, jax.random.key(0), start, *inputs))

    def u(z, action):
        return model.apply(params, z, action, jnp.array([False]), method="_memory_input")[0]

    slopes = jax.jacobian(u, (0, 1))(jnp.ones((1, 4, 8)), jnp.ones((1, 2)))
    width = config.sizes.hidden
    of_z, of_action = ((x.reshape(2 * width, -1) != 0).any(1) for x in slopes)
    np.testing.assert_array_equal(of_z, np.arange(2 * width) < width)
    np.testing.assert_array_equal(of_action, ~of_z)


# ------------------------------------------------------------------------------------ losses


def batch_of(observation, action, reset, **options):
    nothing = jnp.zeros(reset.shape, bool)
    defaults = {"reward": jnp.zeros(reset.shape), "known": ~nothing, "terminated": nothing}
    return Batch(observation, reset, action, last=nothing, **(defaults | options))


def test_losses_are_about_the_batch():
    model, params = cases.world_model("s5", "parallel")
    o, a, noise = cases.draw_sequence()
    start = initial_start(model.memory, model.config, B)
    known = jnp.asarray(np.arange(T)[:, None] > 0) & jnp.ones((T, B), bool)
    reward = jnp.zeros((T, B)).at[3, 2].set(5.0)
    terminated = jnp.zeros((T, B), bool).at[5, 1].set(True)
    reset = jnp.asarray(RESETS)

    @quick_jit
    def losses(reward, terminated):
        batch = batch_of(o, a, reset, reward=reward, terminated=terminated, known=known)
        return model.apply(params, start, batch, noise, method="losses")[1]

    got = losses(reward, terminated)
    plain = losses(jnp.zeros((T, B)), jnp.zeros((T, B), bool))
    assert {name: x.shape for name, x in got.items()} == dict.fromkeys(got, (T, B))
    changed = {name: np.argwhere(got[name] != plain[name]).tolist() for name in got}
    # A reward concerns the observation it came with, and an end its final observation: no other.
    assert changed.pop("reward") == [[3, 2]] and changed.pop("continue") == [[5, 1]]
    assert not any(changed.values())
    assert not got["reward"][0].any()
    assert (got["dynamics"] >= 1).all() and (got["representation"] >= 1).all()


def test_reconstruction_loss_by_hand():
    """Box: (symlog(e - 1) - 3)² = 4. Card, even odds: ln 2. Picture: 192 numbers, 0.5 off."""
    space = spaces.Dict(
        {
            "box": spaces.Box(-np.inf, np.inf, (1,)),
            "card": spaces.Discrete(2),
            "picture": spaces.Box(0, 255, (8, 8, 3), np.uint8),
        }
    )
    observation = {
        "box": jnp.array([np.e - 1], jnp.float32),
        "card": jnp.int32(1),
        "picture": jnp.full((8, 8, 3), 255, jnp.uint8),
    }
    prediction = {"0": jnp.array([3.0]), "1": jnp.zeros(2), "2": jnp.full((8, 8, 3), 0.5)}
    loss = observations.reconstruction_loss(space, prediction, observation)
    np.testing.assert_allclose(loss, 4 + np.log(2) + 192 * 0.25, rtol=1e-5)
    box, card, picture = observations.most_likely(space, prediction)
    np.testing.assert_allclose(symlog(box), [3.0], rtol=1e-5)
    assert card == 0 and picture.shape == (8, 8, 3)


@pytest.mark.parametrize(
    ("space", "value", "target", "sigmoid"),
    [
        # 3/4 of the way from low to high, as a picture from 0 to 1, whatever type and layout.
        (spaces.Box(0, 4, (8, 9, 2), np.uint8), 3, 0.75, True),
        (spaces.Box(0, 1, (2, 8, 9), np.bool_), 1, 1.0, True),
        (spaces.Box(-5.0, 15.0, (1, 8, 9, 2)), 10.0, 0.75, True),
        # No bounds, no sigmoid: symlogs of anything.
        (spaces.Box(0.0, np.inf, (8, 9, 2)), np.e**2 - 1, 2.0, False),
        # A vector's integer, a quarter of its range below the middle.
        (spaces.Box(-2, 6, (), np.int32), 0, -np.log(1.25), None),
        (spaces.Box(-2.0, 6.0, ()), -1.0, -np.log(2), None),
    ],
)
def test_the_decoder_can_reach_what_is_to_be_reconstructed(space, value, target, sigmoid):
    observation = jnp.full((3, *space.shape), value, space.dtype)
    features = jax.random.normal(jax.random.key(0), (3, 5))
    decoder = observations.Decoder(space, 1, 4, 2)
    params = jax.eval_shape(decoder.init, jax.random.key(1), features)
    params = jax.tree.map(lambda x: jnp.full(x.shape, 100.0), params)
    prediction = decoder.apply(params, features)
    shape = (3, 1) if sigmoid is None else (3, 8, 9, 2)
    assert prediction["0"].shape == shape
    # Far from 0 everywhere: only a sigmoid keeps that at 1.
    assert (prediction["0"].max() == 1) == bool(sigmoid)
    exact = {"0": jnp.full(shape, target, jnp.float32)}
    loss = observations.reconstruction_loss(space, exact, observation)
    np.testing.assert_allclose(loss, 0, atol=1e-10)
    off = {"0": exact["0"] + 0.5}
    loss = observations.reconstruction_loss(space, off, observation)
    np.testing.assert_allclose(loss, 0.25 * np.prod(shape[1:]), rtol=1e-5)
    (likely,) = observations.most_likely(space, exact)
    np.testing.assert_allclose(likely, target if sigmoid else value, rtol=1e-5)


@pytest.mark.parametrize("name", PICTURE_ENCODERS)
def test_the_world_model_sees_the_same_picture_in_every_layout_type_and_range(name):
    picture = np.random.default_rng(0).integers(0, 256, (3, 12, 10, 2)).astype(np.uint8)
    shifted = np.moveaxis(picture, -1, 1).astype(np.float32) / 64 - 2
    space = spaces.Box(0, 255, (12, 10, 2), np.uint8)
    encoder = observations.SymlogEncoder(space, 1, 4, 2, picture_encoder=name)
    code, params = encoder.init_with_output(jax.random.key(0), jnp.asarray(picture))
    other = encoder.clone(space=spaces.Box(-2.0, 255 / 64 - 2, (2, 12, 10)))
    np.testing.assert_array_equal(other.apply(params, jnp.asarray(shifted)), code)
    assert np.ptp(code, axis=0).max() > 0.1


@pytest.mark.parametrize("name", PICTURE_ENCODERS)
def test_an_agent_s_option_says_how_pictures_go_in_and_come_out(name):
    config = cases.small_config(picture_encoder=name)
    space = spaces.Box(0, 255, (8, 8, 3), np.uint8)
    model = WorldModel(space, cases.ACTIONS, make_memory("none", features=16), config)
    start = initial_start(model.memory, config, 1)
    inputs = (jnp.zeros((1, 1, 8, 8, 3), jnp.uint8), jnp.zeros((1, 1, 2)), jnp.ones((1, 1), bool))
    shapes = jax.eval_shape(model.init, jax.random.key(0), start, *inputs, 0.0)["params"]
    layers = {part: str(sorted(shapes[part])) for part in ("encoder", "decoder")}
    kind = {"convolutions": "Picture", "patches": "Patch"}[name]
    assert layers == {part: f"['{kind}{part.title()}_0']" for part in layers}


def test_what_people_are_shown_of_a_prediction():
    """Pictures from 0 to 1 in one layout, without bounds too; vectors in the units of the space."""
    space = spaces.Dict(
        {
            "a": spaces.Box(0, 200, (1, 8, 9), np.uint8),
            "b": spaces.Box(-np.inf, np.inf, (1, 8, 9)),
            "c": spaces.Box(0, 10, (2, 3), np.int32),
        }
    )
    rows = jnp.arange(2.0)
    observation = {
        "a": jnp.full((2, 1, 8, 9), 50, jnp.uint8),
        "b": jnp.broadcast_to(10 + 20 * rows[:, None, None, None], (2, 1, 8, 9)),
        "c": jnp.full((2, 2, 3), 4, jnp.int32),
    }
    picture = jnp.ones((2, 8, 9, 1))
    prediction = {"0": 0.5 * picture, "1": symlog(25 * picture), "2": symlog(jnp.zeros((2, 6)))}
    a, b, c = observations.compare(space, observation, prediction)
    np.testing.assert_allclose(a, [0.25 * picture, 0.5 * picture])
    np.testing.assert_allclose(b[0], picture * rows[:, None, None, None])
    np.testing.assert_allclose(b[1], 0.75 * picture, rtol=1e-5)
    np.testing.assert_allclose(c, [np.full((2, 6), 4), np.full((2, 6), 5)])


def test_carries_that_nobody_asks_for_are_not_computed(monkeypatch):
    """For some memories they are most of the work; what is learned and seen is the same."""
    model, _ = cases.world_model("s5", "parallel")
    o, a, _ = cases.draw_sequence()

    class Called(Exception):
        pass

    def apply(self, *_, every_carry=True, **__):
        assert not every_carry
        raise Called

    monkeypatch.setattr(WorldModel, "apply", apply)
    batch = batch_of(o, a, jnp.asarray(RESETS))
    for call in (
        lambda: open_loop(model, {}, o, a, 3),
        lambda: offline.world_model_loss(model, {}, batch, jax.random.key(0)),
    ):
        with pytest.raises(Called):
            call()


def test_a_picture_of_one_shade_is_black_and_what_is_brighter_is_white():
    space = spaces.Box(-np.inf, np.inf, (1, 8, 9))
    prediction = {"0": symlog(jnp.full((2, 8, 9, 1), 6.0))}
    ((seen, said),) = observations.compare(space, jnp.full((2, 1, 8, 9), 5.0), prediction)
    assert not seen.any() and (said > 1).all()


def test_encoders_see_pictures_around_zero_and_vectors_first(monkeypatch):
    """Pictures with bounds from -0.5 to 0.5, without bounds as their symlog."""
    seen = []

    def encode(picture):
        seen.append(np.asarray(picture))
        return jnp.zeros((2, 3))

    networks = {"convolutions": (lambda depth, dtype: encode, None)}
    monkeypatch.setattr(observations, "PICTURE_NETWORKS", networks)
    space = spaces.Dict(
        {
            "a": spaces.Box(0, 255, (8, 8, 1), np.uint8),
            "b": spaces.Box(-np.inf, np.inf, (8, 8, 1)),
            "c": spaces.Box(-1.0, 1.0, (2,)),
        }
    )
    picture = jnp.stack([jnp.zeros((8, 8, 1), jnp.uint8), jnp.full((8, 8, 1), 255, jnp.uint8)])
    observation = {"a": picture, "b": jnp.full((2, 8, 8, 1), 3.0), "c": jnp.ones((2, 2))}
    encoder = observations.SymlogEncoder(space, 1, 4, 2)
    code, _ = encoder.init_with_output(jax.random.key(0), observation)
    np.testing.assert_allclose(seen[0], picture / 255 - 0.5)
    np.testing.assert_allclose(seen[1], np.full((2, 8, 8, 1), np.log(4)), rtol=1e-6)
    assert code.shape == (2, 4 + 3 + 3) and code[:, :4].any() and not code[:, 4:].any()


@pytest.mark.parametrize(
    ("space", "action", "expected"),
    [
        (spaces.Discrete(3), jnp.int32(2), [0, 0, 1]),
        (spaces.MultiDiscrete([2, 3]), jnp.array([1, 0]), [0, 1, 1, 0, 0]),
        (spaces.Box(0.0, 4.0, (2,)), jnp.array([0.0, 3.0]), [-1, 0.5]),
        (spaces.Box(-np.inf, np.inf, (2,)), jnp.array([0.5, -8.0]), [np.log(1.5), -np.log(9)]),
        # Each entry by its own bounds: the middle of 100 … 200, and a distance of 3 from each one.
        (
            spaces.Box(np.float32([100, 100, -np.inf]), np.float32([200, np.inf, 5])),
            jnp.array([150.0, 103.0, 2.0]),
            [0, np.log(4), -np.log(4)],
        ),
        (
            spaces.Dict({"b": spaces.Discrete(2), "a": spaces.Tuple([spaces.Box(0.0, 4.0, (1,))])}),
            {"b": jnp.int32(1), "a": (jnp.array([3.0]),)},
            [0.5, 0, 1],
        ),
    ],
)
def test_actions_as_vectors(space, action, expected):
    np.testing.assert_allclose(observations.encode_action(space, action), expected, rtol=1e-6)


SPACES = {
    "everything": spaces.Dict(
        {
            "a": spaces.Box(-1.0, 1.0, (2, 2)),
            "b": spaces.Tuple([spaces.Discrete(3), spaces.MultiDiscrete([2, 4])]),
            "c": spaces.Box(0, 255, (9, 12, 1), np.uint8),
            "nothing": spaces.Box(0.0, 1.0, (0,)),
        }
    ),
    "pictures": spaces.Box(0.0, 1.0, (16, 16, 3)),
}


@pytest.mark.parametrize("space", [spaces.Dict({}), spaces.Box(0.0, 1.0, (2, 0))], ids=repr)
def test_observations_of_nothing_are_refused_by_name(space):
    encoder = observations.SymlogEncoder(space, 1, 4, 4)
    value = jax.tree.map(lambda part: jnp.zeros((3, 2, *part.shape)), spaces.as_tree(space))
    with pytest.raises(ValueError, match="^no numbers to encode in observations of"):
        encoder.init(jax.random.key(0), value)


@pytest.mark.parametrize(
    ("name", "actions"),
    [
        ("everything", spaces.Tuple([spaces.MultiDiscrete([2, 3]), spaces.Box(0, np.inf, (2,))])),
        pytest.param("pictures", spaces.Discrete(3), marks=pytest.mark.slow),
    ],
)
def test_any_observations_and_actions(name, actions):
    space = SPACES[name]
    config = cases.small_config()
    memory = make_memory("gru", features=16)
    model = WorldModel(space, actions, memory, config)
    start = initial_start(memory, config, 2)

    def draw(space):
        keys = jax.random.split(jax.random.key(0), (3, 2))
        return jax.vmap(jax.vmap(space.sample))(keys)

    observation, action, reset = draw(space), draw(actions), jnp.zeros((3, 2), bool).at[0].set(True)

    noise = jnp.zeros(())
    inputs = (start, observation, action, reset, noise)
    params = cases.random_like(jax.eval_shape(model.init, jax.random.key(0), *inputs))

    @quick_jit
    def run(params):
        batch = batch_of(observation, action, reset)
        latent, losses = model.apply(params, start, batch, noise, method="losses")
        return losses, model.apply(params, latent.features, method="decode")

    losses, prediction = run(params)
    assert all(np.isfinite(x).all() and x.shape == (3, 2) for x in losses.values())
    decoded = observations.most_likely(space, prediction)
    for value, expected in zip(decoded, observations.leaves(space, observation), strict=True):
        assert value.shape == expected[1].shape

"""Learning a world model from arrays: what is collected, that it learns, and looking ahead."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from ssmrl.agents.dreamer import offline
from ssmrl.agents.dreamer.dreamer import make_dreamer_optimizer
from ssmrl.agents.dreamer.offline import collect, init_params, train, world_model_loss
from ssmrl.agents.dreamer.replay import Batch
from ssmrl.agents.dreamer.world_model import Start, WorldModel, initial_start, open_loop
from ssmrl.envs import JaxVectorEnv, make
from ssmrl.envs.worlds import POLICIES
from ssmrl.memory import make_memory
from tests.agents.dreamer import cases
from tests.compiling import quick_jit
from tests.envs.counting import Counting

KINDS = [("s5", "parallel"), ("gru", "recurrent")]


def test_windows_hold_whole_episodes_with_their_final_observations():
    """Counting is cut off after three steps: observations 0 1 2 3, and again from 0."""
    venv = JaxVectorEnv(Counting(), None, 4)
    batch, states = collect(venv, lambda key, state, params: jnp.int32(0), jax.random.key(0), 6)
    steps = np.asarray(batch.observation)[..., 0]
    assert (steps.T == [0, 1, 2, 3, 0, 1]).all()
    assert (np.asarray(batch.reset).T == [True, False, False, False, True, False]).all()
    assert batch.action.shape == (6, 4)
    assert {len(x) for x in jax.tree.leaves(states)} == {6}


def test_actions_and_rewards_come_with_what_they_led_to():
    """Width 3: four steps at the sign, four to the fork, and one into the upper goal."""
    venv = JaxVectorEnv(*make("worlds/hallway", width=3), 16)
    batch, states = collect(venv, POLICIES["hallway"], jax.random.key(0), 10)
    assert (np.asarray(states.position[:9]).T == [0, 0, 0, 0, 0, 1, 2, 3, 4]).all()
    assert (np.asarray(batch.action[1:]).T == [0, 0, 0, 0, 1, 1, 1, 1, 2]).all()
    paying = np.asarray(states.paying[0])
    assert (batch.observation[:5] == paying).all() and (batch.observation[9] == 7).all()
    np.testing.assert_array_equal(batch.reward[9], np.where(paying == 0, 1, -1))
    assert not batch.reward[:9].any()
    assert batch.terminated[9].all() and not batch.terminated[:9].any()


def test_every_window_is_learned_from(monkeypatch):
    """Of 5 windows of 2 steps each: what is learned is a mark on each that was chosen."""
    window, nothing = jnp.broadcast_to(jnp.arange(5), (2, 5)), jnp.zeros((2, 5))
    data = Batch(window, *[nothing] * 6)
    monkeypatch.setattr(offline, "init_params", lambda *_: jnp.zeros(5))
    monkeypatch.setattr(
        offline,
        "world_model_loss",
        lambda model, params, batch, key: params[batch.observation[0]].sum(),
    )
    marks, losses = train(
        small_model("gru", "recurrent"),
        optax.sgd(1.0),
        data,
        jax.random.key(0),
        updates=40,
        batch_size=3,
    )
    assert losses.shape == (40,) and (marks < -10).all() and marks.sum() == -40 * 3


def small_model(memory: str, posterior: str, **options):
    env, params = make("worlds/hallway", width=3)
    config = cases.small_config(posterior=posterior, size="pico", free_bits=0.0, **options)
    backbone = make_memory(memory, features=16, **cases.MEMORIES[memory])
    spaces = (env.observation_space(params), env.action_space(params))
    return WorldModel(*spaces, backbone, config)


@pytest.mark.parametrize(
    ("memory", "posterior"),
    [("s5", "parallel"), pytest.param("gru", "recurrent", marks=pytest.mark.slow)],
)
def test_it_learns_which_goal_pays(memory, posterior):
    """Width 2, from the sign on: no reward is wrong by half, seen or dreamt."""
    # With few bins, ±1 would hardly differ from 0 in their two-hot codes.
    options = {"lr": 5e-3, "beta2": 0.99, "bins": 63, "reward_weight": 9.0}
    model = small_model(memory, posterior, **options)
    venv = JaxVectorEnv(*make("worlds/hallway", width=2, colours=1), 256)

    @quick_jit
    def run(key):
        keys = jax.random.split(key, 3)
        data, test = (collect(venv, POLICIES["hallway"], k, 9)[0] for k in keys[:2])
        optimizer = make_dreamer_optimizer(model.config, model.memory, skip_nonfinite=False)
        params, losses = train(model, optimizer, data, keys[2], updates=300, batch_size=32)
        features = [open_loop(model, params, test.observation, test.action, n) for n in (9, 5)]
        rewards = [model.apply(params, x, method="predict")[0] for x in features]
        return losses, jnp.stack(rewards) - test.reward

    losses, error = run(jax.random.key(0))
    assert losses[-1] < losses[0] / 2
    assert (np.abs(error) < 0.5).mean() > 0.99


@pytest.mark.parametrize(("memory", "posterior"), KINDS)
def test_open_loop_is_observing_and_then_imagining(memory, posterior):
    model, params = cases.world_model(memory, posterior)
    o, a, _ = cases.draw_sequence()
    context = 3
    features = quick_jit(lambda *x: open_loop(model, *x, context))(params, o, a)
    start = initial_start(model.memory, model.config, cases.B)
    reset = jnp.zeros((cases.T, cases.B), bool).at[0].set(True)
    see, zero = cases.observe(memory, posterior), jnp.zeros(())
    latent = see(params, start, *(x[:context] for x in (o, a, reset)), zero).latent
    np.testing.assert_allclose(features[:context], latent.features, atol=2e-5)
    latent = jax.tree.map(lambda x: x[-1], latent)
    dream = quick_jit(lambda *inputs: model.apply(params, *inputs, method="imagine"))
    for t in range(context, cases.T):
        latent = dream(latent, a[t], zero)
        np.testing.assert_allclose(features[t], latent.features, atol=2e-5)
    # What happened after the context has no part in it; with all of it seen, it has.
    changed = quick_jit(lambda *x: open_loop(model, *x, context))(params, o.at[context:].add(1), a)
    np.testing.assert_array_equal(features, changed)
    whole = quick_jit(lambda *x: open_loop(model, *x, cases.T))(params, o, a)
    expected = see(params, start, o, a, reset, zero).latent.features
    np.testing.assert_allclose(whole, expected, atol=2e-5)


@pytest.mark.parametrize(("memory", "posterior"), KINDS)
def test_the_last_carry_alone_is_the_last_of_all(memory, posterior):
    model, params = cases.world_model(memory, posterior)
    o, a, noise = cases.draw_sequence()
    reset = jnp.zeros((cases.T, cases.B), bool).at[0].set(True)
    start = cases.used_start(model)
    inputs = (params, start, o, a, reset, noise)
    whole = cases.observe(memory, posterior)(*inputs).latent
    short = quick_jit(
        lambda params, *x: model.apply(params, *x, every_carry=False, method="observe")
    )(*inputs).latent
    if posterior == "parallel":
        assert {len(x) for x in jax.tree.leaves(short.memory)} == {1}
    ends = [Start(jax.tree.map(lambda x: x[-1], x.memory), x.z[-1]) for x in (whole, short)]
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-5), *ends)
    np.testing.assert_allclose(short.features, whole.features, atol=2e-5)


def test_every_weight_is_of_its_own_loss():
    """One more of a weight adds that loss once more, and leaves the others as they are.

    The reward's is that of a uniform guess, ln 15, on all steps but the first: no action led there.
    """
    model = small_model("s5", "parallel")
    venv = JaxVectorEnv(*make("worlds/hallway", width=3), 4)
    batch, _ = collect(venv, POLICIES["hallway"], jax.random.key(0), 6)
    start, key = initial_start(model.memory, model.config, 4), jax.random.key(2)
    noise = jax.random.gumbel(key, (len(batch.reset), *start.z.shape))
    names = ("reconstruction", "reward", "dynamics", "representation")
    more = [{f"{name}_weight": model.config.loss_weight(name) + 1} for name in names]
    models = [model, *(model.clone(config=replace(model.config, **weight)) for weight in more)]

    @quick_jit
    def run():
        params = init_params(model, batch, jax.random.key(1))
        _, losses = model.apply(params, start, batch, noise, method="losses")
        return losses, [world_model_loss(heavy, params, batch, key) for heavy in models]

    losses, (total, *totals) = run()
    added = {name: heavy - total for name, heavy in zip(names, totals, strict=True)}
    for name in names:
        np.testing.assert_allclose(added[name], losses[name].mean(), rtol=1e-3, atol=1e-5)
    known = np.mean(np.asarray(batch.known))
    np.testing.assert_allclose(added["reward"], known * np.log(15), rtol=1e-4)

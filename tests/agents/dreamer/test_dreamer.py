"""Dreamer as a whole: what it stores, when it learns, that it resumes, and how it acts."""

from dataclasses import replace
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ssmrl.agents import make_agent
from ssmrl.agents.dreamer import DreamerConfig, dreamer
from ssmrl.agents.dreamer.behaviour import Actor, Critic
from ssmrl.agents.dreamer.replay import Batch, ReplayState, Windows
from ssmrl.agents.dreamer.world_model import Latent, Start, WorldModel
from ssmrl.envs import EpisodeStatistics, JaxVectorEnv, VectorEnv, spaces
from ssmrl.envs.adapters.gymnasium import HostVectorEnv
from ssmrl.memory import memory_config
from ssmrl.training.agent import Agent, RestartableAgent
from ssmrl.training.checkpoint import Checkpointer
from ssmrl.training.loop import over_seeds, seed_keys
from tests.agents import probes
from tests.agents.dreamer.cases import MEMORIES, random_like, small_config
from tests.agents.scripted import Scripted, assert_trees_close, flags, scalars
from tests.compiling import quick_jit
from tests.training.test_checkpoint import bits

TERMINATED, TRUNCATED = flags(
    ["..E...U.", "E......X", "........", "EUE..EE.", "......UU", "UUUUUUUU"]
)


def small_agent(env: VectorEnv, memory: str = "s5", **options):
    config: DreamerConfig = small_config(**({"num_envs": env.num_envs} | options))
    memory_cfg = memory_config(memory)(**MEMORIES[memory])
    return make_agent(config, memory_cfg, EpisodeStatistics(env), total_steps=1000)


@cache
def scripted(memory: str = "s5", **options):
    """An agent of a scripted environment, its first state, and its compiled iteration."""
    env = Scripted(TERMINATED, TRUNCATED, action_space=spaces.MultiDiscrete([2, 3]))
    defaults = {"batch_length": 12, "imagination_starts": 5, "train_ratio": 2.0}
    defaults["reward_scale"] = 3.0
    agent = small_agent(env, memory, **(defaults | options))
    return agent, quick_jit(agent.init)(jax.random.key(0)), quick_jit(agent.iteration)


@pytest.fixture
def plain():
    """An agent whose parts tests replace."""
    return small_agent(Scripted(TERMINATED, TRUNCATED), imagination_starts=None)


def test_every_network_begins_with_a_key_of_its_own(plain, monkeypatch):
    keys = []
    monkeypatch.setattr(dreamer, "policy_features", lambda *_: None)
    for network in (Actor, Critic):
        monkeypatch.setattr(network, "init", lambda self, key, features: keys.append(key))
    monkeypatch.setattr(
        WorldModel, "init_with_output", lambda self, key, *_: (keys.append(key), ((None,), None))[1]
    )
    plain._init_params(jax.random.key(0), plain._begin_episodes(jax.random.key(1)))
    assert len({tuple(jax.random.key_data(key).tolist()) for key in keys}) == 3


def test_windows_and_starts_are_split_over_devices(plain, monkeypatch):
    """Windows by their second axis, as time comes first, contexts and starts by their first."""
    asked = []
    monkeypatch.setattr(
        dreamer, "split_batch", lambda tree, axis: asked.append((tree, axis)) or tree
    )
    monkeypatch.setattr(plain.replay, "draw", lambda replay, key: (None, replay))
    monkeypatch.setattr(plain.replay, "read", lambda *_: ("context", "batch"))
    monkeypatch.setattr(plain.replay, "refresh", lambda replay, *_: replay)
    latent = Latent(memory=None, h=jnp.zeros(()), z=jnp.zeros(()))
    monkeypatch.setattr(plain, "_learn", lambda *given: (given, {}, latent))
    replay = ReplayState(steps=None, added=jnp.zeros(()), contexts=None, served=jnp.zeros(()))
    given = ((jax.random.key(0), jax.random.key(1)), None)
    (learned, *_), _ = plain._update(replay, ("learned", None, jnp.zeros(())), given)
    assert learned[:3] == ("learned", "context", "batch")
    assert sorted(asked) == [("batch", 1), ("context", 0)]

    asked.clear()
    count = plain.config.batch_length * plain.config.batch_size
    places = jnp.arange(count).reshape(plain.config.batch_length, plain.config.batch_size)
    latent = Latent(memory=places, h=places[..., None], z=places)
    for starts in (None, count, count + 1, 5):
        config = replace(plain.config, imagination_starts=starts)
        monkeypatch.setattr(plain, "config", config)
        chosen, found = plain._choose_starts(latent, jax.random.key(0))
        assert len(set(chosen.tolist())) == len(chosen) == min(starts or count, count)
        assert starts == 5 or chosen.tolist() == list(range(count))
        np.testing.assert_array_equal(found.memory, chosen)
        np.testing.assert_array_equal(found.h[:, 0], chosen)
    assert [axis for _, axis in asked] == [0] * 4


@pytest.mark.parametrize("weight", [0.0, 0.25])
def test_a_loss_of_no_weight_is_left_out(plain, monkeypatch, weight):
    c = replace(plain.config, replay_value_weight=weight)
    monkeypatch.setattr(plain, "config", c)
    monkeypatch.setattr(WorldModel, "apply", lambda *_, **how: (None, {"reward": jnp.ones(3)}))
    monkeypatch.setattr(plain, "_choose_starts", lambda *_: (None, None))
    monkeypatch.setattr(plain, "_imagine", lambda *_: None)
    monkeypatch.setattr(dreamer, "imagination_losses", lambda *_: ({}, None, [None], {}))
    monkeypatch.setattr(plain, "_replay_value_loss", lambda *_: jnp.full(3, 8.0))
    params, batch = {"world": None, "critic": None}, Batch(*[jnp.zeros(())] * 7)
    total, (_, metrics, _) = plain._loss(None, None, None, batch, jax.random.key(0), params)
    assert ("loss/replay_value" in metrics) is (weight > 0)
    assert total == 1 + 8 * weight


def test_it_is_an_agent():
    agent, *_ = scripted()
    assert isinstance(agent, Agent) and isinstance(agent, RestartableAgent)
    assert agent.steps_per_iteration == 6 * 8


def test_what_is_stored_is_what_happened():
    """Rows of the environment's tables; final observations where episodes ended."""
    agent, state, _ = scripted()
    env = agent.env.unwrapped
    keys = jax.random.split(jax.random.key(1), 8)
    _, (steps, _) = quick_jit(partial(lax.scan, partial(agent._collect_step, state.params)))(
        state.acting, keys
    )
    done = TERMINATED | TRUNCATED
    np.testing.assert_array_equal(steps.observation, env.observation)
    np.testing.assert_array_equal(steps.reset, np.concatenate([done[:0], [[True] * 6], done[:-1]]))
    np.testing.assert_allclose(steps.reward, 3 * env.reward, rtol=1e-6)
    np.testing.assert_array_equal(steps.terminated, TERMINATED)
    np.testing.assert_array_equal(steps.truncated, TRUNCATED)
    following = np.roll(env.observation, -1, axis=0)
    expected = np.where(done[..., None], env.final, following)
    np.testing.assert_array_equal(steps.final_observation, expected)
    assert steps.context is None


@pytest.mark.parametrize(
    ("memory", "options"),
    [("s5", {}), ("gru", {"posterior": "recurrent", "joint_input": False})],
)
def test_fresh_carries_of_the_acting_parameters_are_those_that_acting_had(memory, options):
    """Without luck in the latents, looking at a window again gives the carries that were stored,
    from whatever they are overwritten with, for either posterior."""
    env = Scripted(TERMINATED, TRUNCATED, action_space=spaces.MultiDiscrete([2, 3]))
    options = {"replay_context": True, "batch_size": 6, "train_ratio": 1.0} | options
    agent = small_agent(env, memory, **options)
    state = quick_jit(agent.init)(jax.random.key(0))
    params = state.params | {"world": random_like(state.params["world"])}

    @quick_jit
    def run():
        _, (steps, _) = lax.scan(
            partial(agent._collect_step, params), state.acting, jax.random.split(state.key, 16)
        )
        stored = agent.replay.add(state.replay, steps)
        windows = Windows(jnp.arange(6), jnp.array([8, 8, 5, 3, 8, 8]))
        _, batch = agent.replay.read(stored, windows)
        time = jnp.arange(1000 // 6)[None, :]

        def spoil(x):  # all but the carries that windows start from
            kept = (time == windows.start[:, None]).reshape(*x.shape[:2], *[1] * (x.ndim - 2))
            return jnp.where(kept, x, x + 7)

        ring = jax.tree.map(spoil, stored.contexts.experience)
        ring = ring.replace(action=stored.contexts.experience.action)
        spoiled = stored.replace(contexts=stored.contexts.replace(experience=ring))
        context, again = agent.replay.read(spoiled, windows)
        seen = agent.world.apply(
            params["world"],
            Start(context.memory, context.z),
            batch.observation,
            batch.action,
            batch.reset,
            0.0,
            method="observe",
        )
        fresh = agent.replay.refresh(spoiled, windows, seen.latent.memory, seen.latent.z)
        return stored, spoiled, fresh, windows, batch, again

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "gumbel", lambda key, shape=(), dtype=float: jnp.zeros(shape))
        stored, spoiled, fresh, windows, batch, again = run()
    assert_trees_close(batch, again)
    ring, was, got = (x.contexts.experience for x in (stored, spoiled, fresh))
    done = np.tile(TERMINATED | TRUNCATED, (2, 1))
    renewed = 0
    for n, start in enumerate(np.asarray(windows.start)):
        shift = 0
        for t in range(start + 1, start + 8):
            shift += done[t - 1, n]
            new = not done[t - 1, n] and t - 1 - start + shift < 8
            renewed += new
            expected = ring if new else was
            for x, y in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
                np.testing.assert_allclose(x[n, t], y[n, t], rtol=1e-4, atol=1e-5)
    assert renewed > 20


def test_it_learns_once_there_is_a_window():
    agent, state, iteration = scripted()
    before = state
    rows = []
    for _ in range(3):
        state, metrics = iteration(state)
        rows.append(metrics)
        same = jax.tree.map(lambda x, y: bool((x == y).all()), before.params, state.params)
        changed = not all(jax.tree.leaves(same))
        # The buffer holds 8 steps after the first iteration, and a window has 12.
        assert changed == (len(rows) > 1)
        assert metrics["updates"] == (agent.config.updates_per_iteration if changed else 0)
    assert all(x.shape == () and x.dtype == jnp.float32 for x in scalars(metrics).values())
    finite = [v for k, v in scalars(metrics).items() if not k.startswith("episode")]
    assert np.isfinite(finite).all()
    assert metrics["loss/total"] != 0 and rows[0]["loss/total"] == 0
    assert rows[0]["episodes"] == (TERMINATED | TRUNCATED).sum()
    # The slow critic follows the critic.
    slow, fast = jax.tree.leaves(state.slow_critic), jax.tree.leaves(state.params["critic"])
    assert any((x != y).any() for x, y in zip(slow, fast, strict=True))


def test_resuming_is_exact_and_includes_the_replay(tmp_path):
    agent, state, iteration = scripted()
    for _ in range(2):
        state, _ = iteration(state)
    writer = Checkpointer(tmp_path / "checkpoints")
    writer.save(96, state)
    writer.close()
    reader = Checkpointer(tmp_path / "checkpoints", read_only=True)
    restored, _, _ = reader.restore(jax.eval_shape(agent.init, jax.random.key(0)))
    reader.close()
    assert jax.tree.leaves(restored.replay)[0].any()
    assert bits(iteration(restored)[0]) == bits(iteration(state)[0])


def test_greedy_acting_needs_no_luck():
    agent, state, _ = scripted()
    state = state.replace(
        params=jax.tree.map(
            lambda x: x + 0.1 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), state.params
        )
    )
    observation = jnp.asarray(agent.env.unwrapped.observation[0])
    act = quick_jit(agent.act, static_argnames="greedy")

    def play(key, greedy):
        carry, reset = agent.initialize_carry(6), jnp.ones(6, bool)
        actions = []
        for k in jax.random.split(jax.random.key(key), 5):
            carry, action = act(state, carry, observation, reset, k, greedy=greedy)
            reset = jnp.zeros(6, bool)
            actions.append(action)
        return np.stack(actions)

    np.testing.assert_array_equal(play(0, True), play(1, True))
    assert (play(0, False) != play(1, False)).any()


def test_open_loop_predictions_see_the_context_only():
    agent, state, _ = scripted()
    rng = np.random.default_rng(0)
    observation = jnp.float32(rng.normal(size=(7, 3)))
    action = jnp.asarray(rng.integers(0, 2, (7, 2)), jnp.int32)
    predict = quick_jit(agent.open_loop, static_argnames="context")
    [(truth, predicted)] = predict(state, observation, action, context=3)
    np.testing.assert_array_equal(truth, observation)
    assert predicted.shape == (7, 3)
    [(_, again)] = predict(state, observation.at[3:].add(1.0), action, context=3)
    np.testing.assert_array_equal(again, predicted)
    [(_, other)] = predict(state, observation, action.at[4].set(1 - action[4]), context=3)
    np.testing.assert_array_equal(other[:4], predicted[:4])
    assert (other[4:] != predicted[4:]).any()


# ------------------------------------------------------------------------------------- slow


@pytest.mark.slow
def test_behaviour_does_not_move_the_world_model():
    agent, state, iteration = scripted()
    state, _ = iteration(iteration(state)[0])
    start, batch = agent.replay.sample(state.replay, jax.random.key(0))

    @quick_jit
    def gradient(params):
        def behaviour(params):
            key = jax.random.key(1)
            _, (_, metrics, _) = agent._loss(
                state.slow_critic, state.returns, start, batch, key, params
            )
            return metrics["loss/policy"] + metrics["loss/value"]

        return jax.grad(behaviour)(params)

    got = gradient(state.params)
    assert not any(x.any() for x in jax.tree.leaves(got["world"]))
    assert any(x.any() for x in jax.tree.leaves(got["actor"]))
    assert any(x.any() for x in jax.tree.leaves(got["critic"]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("memory", "options"),
    [
        ("gru", {"posterior": "recurrent", "policy_inputs": "full"}),
        ("none", {"policy_inputs": "hidden"}),
        ("s5", {"policy_inputs": "full", "replay_context": True, "replay_value_weight": 0.0}),
        ("gru", {"replay_context": True, "replay_online": True, "bounded_actions": "clipped"}),
    ],
)
def test_all_kinds_learn_without_a_nan(memory, options):
    probe = probes.Aim()  # continuous actions
    probe.length = 4
    agent = small_agent(JaxVectorEnv(probe, None, 6), memory, **options)
    state, iteration = quick_jit(agent.init)(jax.random.key(0)), quick_jit(agent.iteration)
    for _ in range(3):
        before, (state, metrics) = state, iteration(state)
    assert all(np.isfinite(v) for k, v in scalars(metrics).items() if "episode_" not in k)
    assert metrics["updates"] > 0
    if agent.config.replay_context:
        # The first two iterations' steps, whose carries only the third's update can change.
        old, new = (x.replay.contexts.experience.z[:, :16] for x in (before, state))
        assert (old != new).any()
    # One update of four windows in each iteration, of six that came in.
    assert state.replay.served == (12 if agent.config.replay_online else 0)


@pytest.mark.slow
def test_seeds_train_side_by_side():
    agent, *_ = scripted()
    state = jax.jit(over_seeds(agent.init))(seed_keys(3, 2))
    iteration = quick_jit(jax.vmap(agent.iteration))
    for _ in range(2):
        state, metrics = iteration(state)
    assert metrics["updates"].shape == (2,) and (metrics["updates"] > 0).all()
    assert metrics["loss/total"][0] != metrics["loss/total"][1]


@pytest.mark.slow
def test_host_environments_and_new_episodes_after_a_resume():
    gymnasium = pytest.importorskip("gymnasium")
    env = HostVectorEnv(lambda: gymnasium.make("CartPole-v1"), 6, name="gymnasium/CartPole-v1")
    agent = small_agent(env)
    state, iteration = quick_jit(agent.init)(jax.random.key(0)), quick_jit(agent.iteration)
    for _ in range(2):
        state, metrics = iteration(state)
    assert metrics["updates"] > 0
    state = quick_jit(agent.restart)(state, jax.random.key(1))
    assert state.acting.reset.all()
    _, metrics = iteration(state)
    assert np.isfinite(metrics["loss/total"])

"""Tuple and Dict actions through everything that handles an action; see also `probes.Crew`."""

from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.agents.dreamer import behaviour
from ssmrl.envs import JaxVectorEnv, ObservationExtras, spaces
from ssmrl.envs.spaces import as_tree
from ssmrl.training.evaluation import Evaluator
from tests.agents import probes
from tests.agents.dreamer.cases import small_config
from tests.agents.dreamer.test_dreamer import small_agent as small_dreamer
from tests.agents.scripted import scalars, small_agent, start
from tests.compiling import quick_jit

CREW = probes.Crew().action_space(None)


def is_action_of(space, actions, leading):
    """Whether `actions` [*leading, ...] have the structure, shapes and dtypes of `space`."""
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), actions)
    expected = jax.tree.map(lambda s: ((*leading, *s.shape), s.dtype), as_tree(space))
    return shapes == expected


def test_spaces_as_trees():
    tree = as_tree(CREW)
    assert tree == {
        "push": CREW["push"],
        "crew": (CREW["crew"][0], CREW["crew"][1]),
        "aim": CREW["aim"],
    }
    assert jax.tree.structure(tree) == jax.tree.structure(CREW.sample(jax.random.key(0)))
    assert as_tree(spaces.Discrete(2)) == spaces.Discrete(2)


def test_ppo_on_a_host_environment_that_is_told_its_previous_action():
    """The environment itself asserts that it gets elements of its space, starts off 0 included."""
    pytest.importorskip("gymnasium")
    from tests.envs.test_gymnasium import scripted

    env = ObservationExtras(scripted(2), previous_action=True)
    agent = small_agent(env, "none", rollout_length=4)
    state, metrics = quick_jit(agent.iteration)(start(agent))
    assert metrics["episodes"] == 2 and np.isfinite(metrics["loss/total"])
    told = np.asarray(env.unwrapped._envs[0].actions[-1][1])
    seen = state.acting.observation["previous_action"]
    np.testing.assert_array_equal(seen[1][0], told)
    result = Evaluator(agent, agent.env, episodes=2, greedy=False)(state, jax.random.key(0))
    np.testing.assert_array_equal(result.returns, [6, 6])


@cache
def dreamer(**options):
    defaults = {"batch_length": 8, "imagination_starts": 5}
    env = ObservationExtras(JaxVectorEnv(probes.Crew(), None, 6), previous_action=True)
    return small_dreamer(env, "gru", **(defaults | options))


def test_dreamer_stores_and_hands_over_every_part():
    agent = dreamer()
    state = jax.eval_shape(agent.init, jax.random.key(0))
    assert is_action_of(CREW, state.acting.carry.action, (6,))
    assert is_action_of(CREW, agent.initialize_carry(3).action, (3,))
    after, metrics = jax.eval_shape(agent.iteration, state)
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, state)
    assert all(x.shape == () for x in scalars(metrics).values())
    _, batch = jax.eval_shape(agent.replay.sample, state.replay, jax.random.key(0))
    assert is_action_of(CREW, batch.action, (8, 4))


def test_the_log_probability_of_dreamers_actor_is_its_parts():
    """On imagined trajectories, of which an action of parts must come through whole."""
    config = small_config(policy_unimix=0.5)
    actor = behaviour.Actor(CREW, config)
    features = jnp.float32(np.random.default_rng(0).normal(size=(5, 7)))
    params = actor.init(jax.random.key(0), features)
    params = jax.tree.map(lambda x: x + jnp.sin(jnp.arange(x.size).reshape(x.shape)), params)
    policy = actor.apply(params, features)
    raw = policy.sample(seed=jax.random.key(1))
    assert jax.vmap(CREW.contains)(policy.action(raw)).all()
    parts = jax.tree.map(lambda part, value: part.log_prob(value), policy.parts, raw)
    np.testing.assert_allclose(policy.log_prob(raw), sum(jax.tree.leaves(parts)), rtol=1e-5)
    # Half of every discrete part is uniform; a Normal's mean is what the layer says.
    lever, buttons = policy.parts["crew"]
    for logits in (*lever.logits, *buttons.logits):
        share = jax.nn.softmax(logits)
        assert (share >= 0.5 / share.shape[-1] - 1e-6).all() and np.ptp(share) > 0.01
    assert np.abs(policy.parts["aim"].mean).max() > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"bounded_actions": "clipped", "replay_context": True}])
def test_dreamer_learns_from_actions_of_parts(options):
    agent = dreamer(**options)
    state, iteration = quick_jit(agent.init)(jax.random.key(0)), quick_jit(agent.iteration)
    for _ in range(3):
        state, metrics = iteration(state)
    assert all(np.isfinite(v) for k, v in scalars(metrics).items() if "episode_" not in k)
    assert metrics["updates"] > 0

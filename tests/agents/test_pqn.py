"""PQN's options, choices and λ-returns, and that its update sees what acting saw."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct

from ssmrl.agents import make_agent
from ssmrl.agents.pqn import PQNConfig, pqn
from ssmrl.agents.rollout_agent import RolloutConfig
from ssmrl.envs import EpisodeStatistics, JaxVectorEnv, spaces
from ssmrl.memory import memory_config
from tests.agents import probes
from tests.agents.scripted import Scripted, assert_trees_close, flags, small_agent, start
from tests.agents.test_ppo_rollout import MEMORIES, TERMINATED, TRUNCATED
from tests.compiling import quick_jit


def scripted_agent(memory="none", *, action_space=None, **options):
    env = Scripted(TERMINATED, TRUNCATED, action_space=action_space)
    memory_options = MEMORIES[memory]
    return small_agent(env, memory, kind=PQNConfig, memory_options=memory_options, **options)


# ------------------------------------------------------------------------------ options

# Choices that nothing derives; a run that leaves an option out relies on them all the same.
DEFAULTS = {
    "lr": 2e-3,
    "lr_schedule": "linear",
    "max_grad_norm": 0.5,
    "num_envs": 64,
    "rollout_length": 128,
    "window_length": None,
    "epochs": 4,
    "minibatches": 8,
    "discount": 0.99,
    "return_lambda": 0.5,
    "epsilon": 1.0,
    "epsilon_final": 0.01,
    "epsilon_decay": 0.2,
    "layer_norm": True,
    "normalize_observations": False,
    "normalize_rewards": True,
    "encoder": [128],
    "critic": [128],
    "activation": "silu",
}


def test_defaults_change_only_on_purpose():
    assert {name: getattr(PQNConfig(), name) for name in DEFAULTS} == DEFAULTS
    # What both agents share is the same unless it is said here; PPO's own are tested with it.
    base = RolloutConfig()
    own = {name for name in DEFAULTS if getattr(base, name, None) != DEFAULTS[name]}
    assert own - {"return_lambda", "epsilon", "epsilon_final", "epsilon_decay"} == {
        *("lr", "layer_norm")
    }


@pytest.mark.parametrize("name", ["return_lambda", "epsilon", "epsilon_final", "epsilon_decay"])
@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan")])
def test_shares_are_between_0_and_1(name, value):
    with pytest.raises(ValueError, match=rf"^agent\.{name} must be between 0 and 1, got {value}$"):
        PQNConfig(**{name: value})
    assert all(getattr(PQNConfig(**{name: x}), name) == x for x in (0.0, 1.0))


def test_actions_that_have_no_value_each():
    box = spaces.Box(-1.0, 1.0, (2,))
    expected = r"^agent=pqn has a value for every action: cannot number .*Box.*; use agent=ppo$"
    with pytest.raises(ValueError, match=expected):
        scripted_agent(action_space=box)
    with pytest.raises(ValueError, match=r"^agent=pqn .* 1000000 combinations.*; use agent=ppo$"):
        scripted_agent(action_space=spaces.MultiDiscrete([1000, 1000]))


def test_layer_norm_is_in_front_of_and_behind_the_memory_or_nowhere():
    for layer_norm in (True, False):
        agent = scripted_agent("none", layer_norm=layer_norm)
        params = jax.eval_shape(agent.init, jax.random.key(0)).params["params"]
        for part in (params["ObservationEncoder_0"]["MLP_0"], params["critic"]):
            assert ("LayerNorm_0" in part) == layer_norm


# ------------------------------------------------------------------------------ choices


def choose(agent, q, *, iteration=0, seed=0, greedy=False):
    """The numbers and the notes of choices by `q` [B, num_actions]."""
    state = jax.eval_shape(agent.init, jax.random.key(0)).replace(iteration=jnp.int32(iteration))
    return agent._choose(state, q[None], jax.random.key(seed), greedy=greedy)


def test_epsilon_goes_down_a_line_and_stays():
    """From .9 to .1 over half of 10 iterations: .9 - .16 i."""
    agent = scripted_agent(epsilon=0.9, epsilon_final=0.1, epsilon_decay=0.5, iterations=10)
    for i, expected in ((0, 0.9), (1, 0.74), (3, 0.42), (5, 0.1), (9, 0.1)):
        np.testing.assert_allclose(agent._epsilon(jnp.int32(i)), expected, rtol=1e-6)
    at_once = scripted_agent(epsilon=0.9, epsilon_final=0.1, epsilon_decay=0.0)
    np.testing.assert_allclose(at_once._epsilon(jnp.arange(3)), [0.9, 0.1, 0.1], rtol=1e-6)


def test_choices_are_the_best_action_or_any():
    """ε = .3 and five actions: the best is taken with probability .7 + .06, others with .06."""
    agent = scripted_agent(
        action_space=spaces.Discrete(5), epsilon=0.3, epsilon_final=0.8, epsilon_decay=1.0
    )
    draws = 40_000
    q = jnp.tile(jnp.array([0.1, 0.0, 2.0, 1.9, -1.0]), (draws, 1))
    action, noted = choose(agent, q)
    np.testing.assert_array_equal(action, noted["number"])
    np.testing.assert_array_equal(noted["q"], q[0][action])
    shares = np.bincount(action, minlength=5) / draws
    # The largest deviation of a share is √(.76 · .24 / 40000) = .002.
    np.testing.assert_allclose(shares, [0.06, 0.06, 0.76, 0.06, 0.06], atol=0.01)
    # Later they are other shares, with another key other draws, and greedy none at all.
    later, _ = choose(agent, q, iteration=5)
    assert abs((later == 2).mean() - (1 - 0.55 * 0.8)) < 0.01
    other, _ = choose(agent, q, seed=1)
    assert (other != action).mean() > 0.2
    best, _ = choose(agent, q, greedy=True)
    assert (best == 2).all()


def test_actions_of_several_parts_are_the_best_combination():
    """Of 2 × 3 the one numbered 4 is (1, 1), though 0 and 2 beat it on average in each part."""
    agent = scripted_agent(action_space=spaces.MultiDiscrete([2, 3]))
    q = jnp.array([[5.0, 0.0, 5.0, 0.0, 6.0, 0.0]])
    action, noted = choose(agent, q, greedy=True)
    np.testing.assert_array_equal(action, [[1, 1]])
    assert noted["number"] == 4 and noted["q"] == 6


def test_every_environment_step_and_iteration_draws_its_own():
    agent = scripted_agent(action_space=spaces.Discrete(4000), epsilon=1.0, epsilon_final=1.0)
    look = quick_jit(agent._collect)
    state = start(agent)
    acting, _, first = look(state)
    _, _, second = look(state.replace(acting=acting))
    draws = np.concatenate([first.number, second.number]).ravel()
    # 96 of 4000: about one pair is equal. If steps or environments shared draws, most would be.
    assert draws.size == 2 * 8 * 6 and len(np.unique(draws)) > 85


# ------------------------------------------------------------------------------ λ-returns


def test_returns_of_a_hand_worked_table(monkeypatch):
    """γ = λ = 1/2, r = 1 at every step, V(o₀), V(o₁), V(o₂), V(o₃) = 1, 2, 4, 8, V(final) = 6.

    G[t] = 1 + 1/2 (1/2 V(o[t+1]) + 1/2 G[t+1]), G₂ = 1 + 1/2 · 8 = 5 unless an episode ends at t.

    nothing ends:    G₂ = 5, G₁ = 1 + (4 + 5)/4 = 13/4, G₀ = 1 + (2 + 13/4)/4 = 37/16
    terminated at 1: G₂ = 5, G₁ = 1,                    G₀ = 1 + (2 + 1)/4 = 7/4
    truncated at 1:  G₂ = 5, G₁ = 1 + 6/2 = 4,          G₀ = 1 + (2 + 4)/4 = 5/2
    both at 1:       as terminated
    terminated at 2: G₂ = 1, G₁ = 1 + (4 + 1)/4 = 9/4,  G₀ = 1 + (2 + 9/4)/4 = 33/16
    truncated at 2:  G₂ = 4, G₁ = 1 + (4 + 4)/4 = 3,    G₀ = 1 + (2 + 3)/4 = 9/4
    """
    terminated, truncated = flags(["...", ".E.", ".U.", ".X.", "..E", "..U"])
    agent = scripted_agent(num_envs=6, discount=0.5, return_lambda=0.5)
    ones = jnp.ones((3, 6))
    rollout = pqn.Transition(
        observation=ones,
        reset=ones,
        value=jnp.array([[1.0], [2.0], [4.0]]) * ones,
        reward=ones,
        terminated=jnp.asarray(terminated),
        truncated=jnp.asarray(truncated),
        final_value=jnp.where(terminated | truncated, 6.0, 0.0),
        discount=0.5 * ones,
        discounted_return=ones,
        episode={},
        number=ones,
        q=ones,
    )
    state = jax.eval_shape(agent.init, jax.random.key(0))
    normalizers = agent._new_normalizers(jnp.zeros(3))  # nothing seen: a unit of 1
    monkeypatch.setattr(agent, "_apply", lambda *_: (None, None, jnp.full((1, 6), 8.0)))
    acting = state.acting.replace(observation=ones, reset=ones[0])
    _, target = agent._advantages(state, acting, normalizers, rollout, agent.config.return_lambda)
    expected = [
        [37 / 16, 7 / 4, 5 / 2, 7 / 4, 33 / 16, 9 / 4],
        [13 / 4, 1, 4, 1, 9 / 4, 3],
        [5, 5, 5, 5, 1, 4],
    ]
    np.testing.assert_array_equal(target, expected)  # all are exact in binary


# ------------------------------------------------------------------------------ the update


@struct.dataclass
class Seen(pqn.Window):
    """A window with what acting thought."""

    q: jax.Array
    value: jax.Array


@pytest.mark.parametrize(
    ("memory", "window", "normalize"), [("s5", 4, True), ("gru", 4, False), ("gru", None, True)]
)
def test_update_recomputes_what_acting_computed(memory, window, normalize):
    """In the second rollout, too, whose windows start from a carry that was handed on."""
    agent = scripted_agent(memory, window_length=window, normalize_observations=normalize)

    @quick_jit
    def look(state):
        acting, starts, rollout = agent._collect(state)
        windows = agent._cut_windows(Seen, starts, rollout, target=rollout.q)
        args = windows.carry, windows.observation, windows.reset
        _, q, value = agent._apply(state.params, state.normalizers, *args)
        chosen = jnp.take_along_axis(q, windows.number[..., None], -1)[..., 0]
        loss, _ = agent._loss(state.normalizers, windows, jax.random.key(0), state.params)
        normalizers = agent._update_normalizers(state.normalizers, rollout)
        state = state.replace(acting=acting, normalizers=normalizers)
        return state, (chosen - windows.q, value - windows.value, windows.q), loss

    state = start(agent, random=True)
    for _ in range(2):
        state, (difference, value_difference, q), loss = look(state)
        scale = 1e-5 * max(1, np.abs(q).max())
        np.testing.assert_allclose(difference, 0, atol=scale)
        np.testing.assert_allclose(value_difference, 0, atol=scale)
        assert loss < scale**2  # of q against q
        assert q.std() > 0.1  # not trivially so


def test_loss_of_a_hand_worked_batch(monkeypatch):
    """Q of actions 1, 0: 2 and 5, targets 4 and 4: half the mean of 4 and 1 is 5/4."""
    agent = scripted_agent()
    q = jnp.array([[[9.0, 2.0, 1.0]], [[5.0, 1.0, 6.0]]])
    monkeypatch.setattr(agent, "_apply", lambda *_: (None, q, q.max(-1)))
    number = jnp.array([[1], [0]])
    zeros = jnp.zeros((2, 1))
    batch = pqn.Window(
        carry=(), observation=zeros, reset=zeros, number=number, target=jnp.full((2, 1), 4.0)
    )
    normalizers = agent._new_normalizers(zeros)
    loss, metrics = agent._loss(normalizers, batch, jax.random.key(0), None)
    assert loss == metrics["loss/total"] == 1.25
    assert metrics["q/chosen"] == 3.5 and metrics["q/greedy"] == 7.5
    assert metrics["q/error"] == 1.5


@pytest.mark.slow
def test_vmapped_seeds_are_each_seed_alone():
    env = EpisodeStatistics(JaxVectorEnv(probes.Recall(), None, 4))
    config = PQNConfig(num_envs=4, rollout_length=8, minibatches=2, epochs=2, encoder=[8])
    agent = make_agent(config, memory_config("gru")(features=8), env, total_steps=100)
    keys = jax.random.split(jax.random.key(0), 2)

    def run(key):
        return agent.iteration(agent.init(key))

    both, single = quick_jit(jax.vmap(run))(keys), quick_jit(run)
    for i in range(2):
        mine = jax.tree.map(lambda x, i=i: x[i], both)
        assert_trees_close(mine, single(keys[i]), rtol=1e-4, atol=1e-5)

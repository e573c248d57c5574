"""Whole iterations of PQN against a plain reference: steps in a loop, λ-returns from their
definition, Adam by hand. The network alone is PQN's own, called one step at a time.

Actions are read off the environment, as with PPO, whose reference collects and steps Adam.
"""

from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.agents.pqn import PQNConfig
from tests.agents import test_ppo_wiring as ppo_wiring
from tests.agents.scripted import (
    Recording,
    assert_one_trajectory,
    assert_trees_close,
    small_agent,
    start,
)
from tests.compiling import quick_jit


def network_step(agent, params, units, carry, observation, reset):
    mean, std = units[0]
    observation = jnp.clip((observation - mean) / std, -10, 10)
    carry, q = agent.network.apply(params, carry, observation[None], reset[None])
    return carry, q[0], q[0].max(-1)


def loss(agent, params, units, carry, batch):
    rows = []
    for observation, reset in zip(batch["observation"], batch["reset"], strict=True):
        carry, q, _ = network_step(agent, params, units, carry, observation, reset)
        rows.append(q)
    q = jnp.stack(rows)
    chosen = (q * jax.nn.one_hot(batch["action"], q.shape[-1])).sum(-1)
    error = chosen - batch["target"]
    return 0.5 * (error**2).mean(), {
        "q/chosen": chosen.mean(),
        "q/greedy": q.max(-1).mean(),
        "q/error": jnp.abs(error).mean(),
    }


@cache
def programs(agent):
    gradient = jax.value_and_grad(partial(loss, agent), has_aux=True)
    return quick_jit(partial(network_step, agent)), quick_jit(gradient)


def returns_by_loop(rows, next_value, gamma, lam):
    """G[t] = r[t] + γ ((1 - λ) V[t+1] + λ G[t+1]), one environment and step at a time."""
    result = np.zeros(rows["reward"].shape)
    steps, size = result.shape
    for b in range(size):
        following = value = next_value[b]
        for t in reversed(range(steps)):
            if rows["terminated"][t, b]:
                future = 0.0
            elif rows["truncated"][t, b]:
                future = rows["final_value"][t, b]
            else:
                future = (1 - lam) * value + lam * following
            result[t, b] = following = rows["reward"][t, b] + gamma * future
            value = rows["value"][t, b]
    return result


@dataclass
class Reference(ppo_wiring.Reference):
    """PQN as its paper tells it, in float64 but for the network."""

    def __post_init__(self):
        super().__post_init__()
        self.step, self.gradient = programs(self.agent)

    def value_statistics(self):
        return np.float32(0), np.float32(1)

    def iterate(self, actions):
        """One iteration of whole batches; also checks the actions that ε = 0 leaves no choice."""
        c = self.config
        units, rows, carries, next_value, ended = self.collect(actions)
        self.observations.append(rows["observation"])
        self.returns.append(rows["return"])
        rows["reward"] = rows["reward"] / (np.std(self.returns) if c.normalize_rewards else 1.0)
        target = returns_by_loop(rows, next_value, c.discount, c.return_lambda)
        rows["target"] = np.float32(target)
        starts = range(0, c.rollout_length, c.window)
        cut = {k: np.concatenate([x[t : t + c.window] for t in starts], 1) for k, x in rows.items()}
        carry = jax.tree.map(lambda *x: jnp.concatenate(x), *[carries[t] for t in starts])
        told = []
        for i in range(c.epochs):
            (value, metrics), gradient = self.gradient(self.params, units, carry, cut)
            norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradient)))
            number = self.iteration * c.epochs + i
            rate = c.lr * (1 - number / (self.agent.iterations * c.epochs))
            told.append(
                metrics | {"loss/total": value, "gradient_norm": norm, "learning_rate": rate}
            )
            self.adam(gradient, norm, rate, number + 1)
        metrics = {name: np.mean([m[name] for m in told]) for name in told[0]}
        share = min(self.iteration / (c.epsilon_decay * self.agent.iterations), 1)
        metrics |= {
            "epsilon": c.epsilon + share * (c.epsilon_final - c.epsilon),
            "episodes": len(ended),
            "env/observation": np.abs(rows["observation"]).max(),
        }
        if len(ended):
            metrics |= {"episode_return": ended[:, 0].mean(), "episode_length": ended[:, 1].mean()}
        self.iteration += 1
        return metrics


EVERYTHING = {
    "kind": PQNConfig,
    "memory_options": {"learned_initial_carry": True},
    "discount": 0.9,
    "return_lambda": 0.7,
    "lr": 0.02,
    "weight_decay": 0.1,
    "normalize_observations": True,
    "normalize_rewards": True,
}


def test_iterations_with_everything_equal_the_reference():
    env = Recording(ppo_wiring.TERMINATED, ppo_wiring.TRUNCATED)
    agent = small_agent(
        env, "gru", iterations=4, epochs=2, window_length=4, epsilon_decay=0.5, **EVERYTHING
    )
    state, iteration = start(agent, random=True), quick_jit(agent.iteration)
    reference = Reference(agent, state.params)
    for i in range(3):
        state, metrics = iteration(state)
        expected = reference.iterate(env.taken(8))
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=5e-4, atol=1e-5, err_msg=name)
        assert {name for name in metrics if not name.startswith("starts/")} - set(expected) <= {
            *("env/reward", "explained_variance", "episode_return", "episode_length")
        }
        assert_trees_close(state.params, reference.params, rtol=1e-3, atol=1e-4)
        assert_trees_close(state.acting.carry, reference.carry, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(state.acting.reset, reference.reset)
        assert state.iteration == i + 1


@pytest.fixture(scope="module")
def greedy():
    env = Recording(ppo_wiring.TERMINATED, ppo_wiring.TRUNCATED)
    agent = small_agent(env, "gru", epsilon=0.0, epsilon_final=0.0, **EVERYTHING)
    state = start(agent, random=True)
    # Without biases behind the memory, so that no action is the best everywhere.
    params = state.params["params"]
    critic = {
        name: {k: 0 * x if k == "bias" else x for k, x in layer.items()}
        for name, layer in params["critic"].items()
    }
    state = state.replace(params={"params": params | {"critic": critic}})
    return agent, state, quick_jit(agent.iteration)


def test_acting_and_evaluation_do_what_training_does(greedy):
    assert_one_trajectory(*greedy)


def test_how_much_was_foretold_is_about_the_chosen_actions(greedy):
    agent, state, iteration = greedy
    _, metrics = iteration(state)
    _, rows, _, next_value, _ = Reference(agent, state.params).collect(agent.env.unwrapped.taken(8))
    unit = rows["return"].std()
    rows["reward"] = rows["reward"] / unit
    target = returns_by_loop(rows, next_value, 0.9, 0.7)
    expected = 1 - (target - rows["value"]).var() / target.var()  # greedy: Q is the value
    np.testing.assert_allclose(metrics["explained_variance"], expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(metrics["env/reward"], rows["reward"].mean() * unit, rtol=1e-4)

"""Whole iterations of PPO against a plain reference: steps in a loop, statistics of all data seen,
GAE from its definition, Adam by hand. The network alone is PPO's own, called one step at a time.

Actions are drawn by the agent and read off the environment, so that nothing here knows which key
draws what. Which windows make a minibatch is not known either; that is one of a few possibilities.
"""

from dataclasses import dataclass, field
from functools import cache, partial
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.envs import spaces
from tests.agents.scripted import (
    Recording,
    assert_one_trajectory,
    assert_trees_close,
    flags,
    small_agent,
    start,
)
from tests.agents.test_ppo_rollout import advantages_by_loop
from tests.compiling import quick_jit

# Two rollouts of 8; ends at both sides of both kinds of edges, of windows of 4 and of rollouts.
TERMINATED, TRUNCATED = flags(
    ["..E....U..U....E", "...UE..X.......U", "..............U.", "U..U...EE..E...."]
)


def network_step(agent, params, units, carry, observation, reset):
    (mean, std), (value_mean, value_std) = units
    observation = jnp.clip((observation - mean) / std, -10, 10)
    carry, distribution, value = agent.network.apply(params, carry, observation[None], reset[None])
    return carry, distribution.logits[0][0], value_std * value[0] + value_mean


def loss(agent, params, units, carry, batch, entropy_coefficient):
    c, unit = agent.config, units[1][1]
    logits, values = [], []
    for observation, reset in zip(batch["observation"], batch["reset"], strict=True):
        carry, row, value = network_step(agent, params, units, carry, observation, reset)
        logits.append(row)
        values.append(value)
    value = jnp.stack(values)
    log_probability = jax.nn.log_softmax(jnp.stack(logits))
    log_prob = jnp.take_along_axis(log_probability, batch["action"][..., None], -1)[..., 0]
    entropy = -(jnp.exp(log_probability) * log_probability).sum(-1).mean()
    advantage = batch["advantage"]
    if c.advantage_scale == "minibatch":
        advantage = (advantage - advantage.mean()) / advantage.std()
    ratio = jnp.exp(log_prob - batch["log_prob"])
    cut = jnp.minimum(jnp.maximum(ratio, 1 - c.clip), 1 + c.clip)
    policy = -jnp.where(ratio * advantage < cut * advantage, ratio, cut) * advantage
    policy = jnp.where((advantage < 0) & (ratio > c.dual_clip), -c.dual_clip * advantage, policy)
    near = batch["value"] + jnp.clip(
        value - batch["value"], -c.value_clip * unit, c.value_clip * unit
    )
    errors = jnp.stack([value - batch["target"], near - batch["target"]]) / unit
    value_loss = 0.5 * (errors**2).max(0).mean()
    total = policy.mean() + c.value_coefficient * value_loss - entropy_coefficient * entropy
    log_ratio = jnp.log(ratio)
    return total, {
        "loss/total": total,
        "loss/policy": policy.mean(),
        "loss/value": value_loss,
        "entropy": entropy,
        "approx_kl": (ratio - 1 - log_ratio).mean(),
        "clip_fraction": ((ratio < 1 - c.clip) | (ratio > 1 + c.clip)).mean(),
    }


@cache
def programs(agent):
    """The compiled step, and loss with its gradient."""
    gradient = jax.value_and_grad(partial(loss, agent), has_aux=True)
    return quick_jit(partial(network_step, agent)), quick_jit(gradient)


@dataclass
class Reference:
    """PPO as its paper tells it, in float64 but for the network."""

    agent: object
    params: dict
    observations: list = field(default_factory=list)
    returns: list = field(default_factory=list)
    targets: list = field(default_factory=list)
    advantages: list = field(default_factory=list)
    iteration: int = 0

    def __post_init__(self):
        self.config, self.env = self.agent.config, self.agent.env.unwrapped
        size = self.env.num_envs
        self.carry = self.agent.initialize_carry(size)
        self.reset = np.ones(size, bool)
        self.running, self.episode = np.zeros(size), np.zeros((2, size))
        zeros = jax.tree.map(np.zeros_like, self.params)
        self.moments = [zeros, zeros]
        self.step, self.gradient = programs(self.agent)

    # The statistics of everything so far, instead of running ones.

    def observation_statistics(self):
        if not (self.config.normalize_observations and self.observations):
            return np.zeros(3, np.float32), np.ones(3, np.float32)
        seen = np.concatenate(self.observations).reshape(-1, 3).astype(np.float64)
        return np.float32(seen.mean(0)), np.float32(seen.std(0))

    def value_statistics(self):
        if not (self.config.normalize_values and self.targets):
            return np.float32(0), np.float32(1)
        return np.float32(np.mean(self.targets)), np.float32(np.std(self.targets))

    # One iteration, in the order of the paper.

    def collect(self, actions):
        c, env = self.config, self.env
        units = self.observation_statistics(), self.value_statistics()
        names = ["observation", "reset", "action", "log_prob", "value", "reward", "final_value"]
        rows = {name: [] for name in (*names, "terminated", "truncated", "carry", "return")}
        ended = []
        first = self.iteration * c.rollout_length
        for t in range(first, first + c.rollout_length):
            now = t % env.length
            observation = env.observation[now]
            rows["carry"].append(self.carry)
            carry, logits, value = self.step(
                self.params, units, self.carry, observation, self.reset
            )
            action = actions[t - first]
            log_prob = np.take_along_axis(
                np.asarray(jax.nn.log_softmax(logits)), action[:, None], 1
            )
            reward = env.reward[now] + action
            terminated, truncated = env.terminated[now], env.truncated[now]
            done = terminated | truncated
            # A truncated episode's future: one more look, with the carry that has seen it all.
            _, _, final = self.step(
                self.params, units, carry, env.final[now], np.zeros(len(done), bool)
            )
            self.running = c.discount * self.running + reward
            self.episode = self.episode + np.stack([reward, np.ones(len(done))])
            values = observation, self.reset, action, log_prob[:, 0], value, reward, final
            for name, x in zip(names, values, strict=True):
                rows[name].append(np.asarray(x))
            for name, x in (
                ("terminated", terminated),
                ("truncated", truncated),
                ("return", self.running),
            ):
                rows[name].append(x)
            ended += list(self.episode[:, done].T)
            self.running = np.where(done, 0, self.running)
            self.episode = np.where(done, 0, self.episode)
            self.carry, self.reset = carry, done
        following = env.observation[(now + 1) % env.length]
        _, _, next_value = self.step(self.params, units, self.carry, following, self.reset)
        carries = rows.pop("carry")
        rows = {name: np.stack(x) for name, x in rows.items()}
        rows["final_value"] *= rows["truncated"] & ~rows["terminated"]
        return units, rows, carries, np.asarray(next_value), np.array(ended)

    def iterate(self, actions, orders=None):
        """One iteration; `orders` `[epochs * minibatches, windows]` says what minibatches hold."""
        c = self.config
        units, rows, carries, next_value, ended = self.collect(actions)
        self.observations.append(rows["observation"])
        self.returns.append(rows["return"])
        unit = np.std(self.returns) if c.normalize_rewards else 1.0
        advantage = advantages_by_loop(
            rows["reward"] / unit,
            rows["value"],
            next_value,
            rows["final_value"],
            rows["terminated"],
            rows["truncated"],
            c.discount,
            c.gae_lambda,
        )
        target = advantage + rows["value"]
        self.advantages.append(advantage)
        if c.advantage_scale == "running":  # Of minibatches see `loss`.
            advantage = (advantage - advantage.mean()) / np.std(self.advantages)
        rows |= {"advantage": np.float32(advantage), "target": np.float32(target)}
        # Window i is that of environment i % B, beginning at step (i // B) * window.
        size, window = self.env.num_envs, c.window
        starts = range(0, c.rollout_length, window)
        cut = {k: np.concatenate([x[t : t + window] for t in starts], 1) for k, x in rows.items()}
        carry = jax.tree.map(lambda *x: jnp.concatenate(x), *[carries[t] for t in starts])
        count = size * len(starts)
        orders = [range(count)] * c.epochs if orders is None else orders
        metrics = []
        for i, chosen in enumerate(orders):
            chosen = np.array(chosen)
            batch = {name: x[:, chosen] for name, x in cut.items()}
            start = jax.tree.map(lambda x, chosen=chosen: x[chosen], carry)
            entropy = self.entropy_coefficient()
            (_, told), gradient = self.gradient(self.params, units, start, batch, entropy)
            norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradient)))
            number = self.iteration * len(orders) + i
            rate = c.lr * (1 - number / (self.agent.iterations * len(orders)))
            metrics.append(told | {"gradient_norm": norm, "learning_rate": rate})
            self.adam(gradient, norm, rate, number + 1)
        metrics = {name: np.mean([m[name] for m in metrics]) for name in metrics[0]}
        metrics["explained_variance"] = 1 - (target - rows["value"]).var() / target.var()
        metrics |= {
            "episodes": len(ended),
            "env/reward": rows["reward"].mean(),
            "env/observation": np.abs(rows["observation"]).max(),
        }
        if len(ended):
            metrics |= {"episode_return": ended[:, 0].mean(), "episode_length": ended[:, 1].mean()}
        if c.normalize_values:
            self.rescale(target)
        self.iteration += 1
        return metrics

    def entropy_coefficient(self):
        c, share = self.config, self.iteration / self.agent.iterations
        return c.entropy_coefficient + share * (c.entropy_coefficient_final - c.entropy_coefficient)

    def adam(self, gradient, norm, rate, count):
        """AdamW (Loshchilov and Hutter 2019, algorithm 2) of a gradient clipped to its norm."""
        c = self.config
        gradient = jax.tree.map(lambda g: g * min(1, c.max_grad_norm / norm), gradient)
        first, second = self.moments
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g**2, second, gradient)

        def move(p, m, v):
            m, v = m / (1 - 0.9**count), v / (1 - 0.999**count)
            return p - rate * (m / (np.sqrt(v) + 1e-5) + c.weight_decay * p)

        self.params = jax.tree.map(move, self.params, first, second)
        self.moments = [first, second]

    def rescale(self, target):
        """PopArt: the same predictions in the new units."""
        (old_mean, old_std), self.targets = self.value_statistics(), [*self.targets, target]
        mean, std = self.value_statistics()
        head = self.params["params"]["critic"]["output"]  # of this iteration's own tree
        head["kernel"] = head["kernel"] * old_std / std
        head["bias"] = (head["bias"] * old_std + old_mean - mean) / std


def assert_same_metrics(metrics, expected):
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=5e-4, atol=1e-5, err_msg=name)
    # Of when episodes began: tests/training/test_returns.py.
    started = metrics["starts/episodes"] + (metrics["starts/ago"] > 0).sum()
    assert started == expected["episodes"]
    others = {name for name in metrics if not name.startswith("starts/")} - set(expected)
    assert others <= {"episode_return", "episode_length"}


EVERYTHING = {
    "memory_options": {"learned_initial_carry": True},
    "max_grad_norm": 0.5,
    "discount": 0.9,
    "gae_lambda": 0.8,
    "clip": 0.05,
    "dual_clip": 1.06,
    "value_clip": 0.05,
    "value_coefficient": 0.7,
    "entropy_coefficient": 0.3,
    "entropy_coefficient_final": 0.1,
    "lr": 0.02,
    "weight_decay": 0.1,
    "normalize_observations": True,
    "normalize_rewards": True,
    "normalize_values": True,
}


def test_two_iterations_with_everything_equal_the_reference():
    """Whole batches, so that their order says nothing; all normalisers and schedules."""
    env = Recording(TERMINATED, TRUNCATED)
    agent = small_agent(env, "gru", iterations=4, epochs=2, window_length=4, **EVERYTHING)
    state, iteration = start(agent, random=True), quick_jit(agent.iteration)
    reference = Reference(agent, state.params)
    for i in range(3):  # the third goes through the first one's table again
        state, metrics = iteration(state)
        expected = reference.iterate(env.taken(8))
        assert 0.01 < expected["clip_fraction"] < 0.99
        assert_same_metrics(metrics, expected)
        assert_trees_close(state.params, reference.params, rtol=1e-3, atol=1e-4)
        assert_trees_close(state.acting.carry, reference.carry, rtol=1e-3, atol=1e-4)
        np.testing.assert_array_equal(state.acting.reset, reference.reset)
        assert state.iteration == i + 1


@pytest.fixture(
    scope="module", params=["running", pytest.param("minibatch", marks=pytest.mark.slow)]
)
def in_minibatches(request):
    """Four windows in two minibatches: the agent, its first state, and two iterations of it."""
    env = Recording(TERMINATED, TRUNCATED)
    options = EVERYTHING | {"advantage_scale": request.param}
    agent = small_agent(env, "gru", iterations=4, epochs=1, minibatches=2, **options)
    state, iteration = start(agent, random=True), quick_jit(agent.iteration)
    after, metrics = iteration(state)
    return agent, state, iteration, after, metrics, env.taken(8)


def test_each_window_is_in_one_minibatch(in_minibatches):
    agent, state, _, after, metrics, actions = in_minibatches
    fitting = []
    for first in combinations(range(4), 2):
        reference = Reference(agent, jax.tree.map(np.asarray, state.params))
        second = [i for i in range(4) if i not in first]
        expected = reference.iterate(actions, orders=[first, second])
        close = [
            np.allclose(a, b, rtol=1e-3, atol=1e-4)
            for a, b in zip(*map(jax.tree.leaves, (after.params, reference.params)), strict=True)
        ]
        fitting += [expected] if all(close) else []
    assert len(fitting) == 1
    assert_same_metrics(metrics, fitting[0])


# ---------------------------------------------------------------------------- one trajectory


@pytest.fixture(scope="module")
def in_minibatches_of_sure_actions(in_minibatches):
    """The same with a policy in which draws make no difference."""
    agent, state, iteration, *_ = in_minibatches
    params = state.params["params"]
    actor = params["actor"]
    sure = {"output": jax.tree.map(lambda x: 1e5 * x, actor["output"])}
    state = state.replace(params={"params": params | {"actor": actor | sure}})
    return agent, state, iteration


def test_acting_and_evaluation_do_what_training_does(in_minibatches_of_sure_actions):
    assert_one_trajectory(*in_minibatches_of_sure_actions)


# ------------------------------------------------------------------------------------- draws


def test_every_environment_step_and_iteration_draws_its_own(in_minibatches):
    """A policy that sees nothing: two of its continuous actions are equal if the draws were."""
    env = Recording(TERMINATED, TRUNCATED, action_space=spaces.Box(-1.0, 1.0, (2,)))
    agent = small_agent(env, "none", lr=0.0)
    state = start(agent)
    params = state.params["params"]
    blind = {"actor": jax.tree.map(jnp.zeros_like, params["actor"])}
    state = state.replace(params={"params": params | blind})
    iteration = quick_jit(agent.iteration)

    def play(state):
        state, _ = iteration(state)
        return iteration(state)[0], env.taken(16)

    def keyed(seed):
        return state.replace(acting=state.acting.replace(key=jax.random.key(seed)))

    (_, once), (_, again), (_, other) = map(play, (keyed(0), keyed(0), keyed(1)))
    np.testing.assert_array_equal(once, again)
    draws = np.concatenate([once, other]).ravel()
    assert len(np.unique(draws)) == draws.size == 2 * 16 * 4 * 2


def test_minibatches_are_drawn_anew(in_minibatches):
    """Updates depend on the key, though actions, which have but one choice, do not."""
    _, state, iteration, *_ = in_minibatches
    params = state.params["params"]
    output = params["actor"]["output"]
    sure = {"output": output | {"bias": output["bias"].at[0].add(1e4)}}
    state = state.replace(params={"params": params | {"actor": params["actor"] | sure}})
    results = []
    for seed in (0, 0, 1, 2, 3):
        acting = state.acting.replace(key=jax.random.key(seed))
        _, metrics = iteration(state.replace(acting=acting))
        results.append(float(metrics["gradient_norm"]))
    assert results[0] == results[1]
    assert len(set(results)) > 2

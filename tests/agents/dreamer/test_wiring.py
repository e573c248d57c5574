"""Whole iterations of Dreamer against a plain reference: acting, replay, every loss, the gradient
and the optimiser, one step, one state and one window at a time.

Layers and heads are Dreamer's own, and so is what they say; how they are put together, and all that
is computed from them, is written down here once more. Draws are fixed by their shape, so that it
does not matter which key they come from; that keys differ where they should is a test of its own.
"""

from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.lax import stop_gradient

from ssmrl.agents import make_agent
from ssmrl.agents.dreamer.config import SIZES, Size
from ssmrl.envs import EpisodeStatistics, spaces
from ssmrl.memory import memory_config
from tests.agents.dreamer.cases import random_like, small_config
from tests.agents.scripted import (
    Recording,
    assert_one_trajectory,
    assert_trees_close,
    flags,
)
from tests.compiling import quick_jit

# Two rollouts of 6 steps of 2 environments. Of the first the final observations push the last steps
# out of the window; the second begins in the middle of an episode, or at its start.
TERMINATED, TRUNCATED = flags([".E..U..E....", "..X..U...U.."])
ROLLOUT, HORIZON, WINDOWS = 6, 2, 3
VARIABLES, CLASSES = 2, 3

KINDS = {
    "parallel": {"posterior": "parallel", "imagination_starts": None},
    "recurrent": {
        "posterior": "recurrent",
        "joint_input": False,
        "policy_inputs": "full",
        "replay_context": True,
        "imagination_starts": 5,
        "continue_discount": False,
    },
}


def tiny_agent(**options):
    env = Recording(TERMINATED, TRUNCATED, action_space=spaces.Discrete(3))
    defaults = {
        "size": "tiny",
        "deter": None,
        "num_envs": 2,
        "rollout_length": ROLLOUT,
        "batch_size": WINDOWS,
        "batch_length": ROLLOUT,
        "train_ratio": 2.0 * WINDOWS / 2,  # two updates an iteration
        "replay_capacity": 2 * ROLLOUT,  # the window of each environment is the last rollout
        "imagination_length": HORIZON,
        "reward_scale": 3.0,
        "reward_weight": 0.8,
        "reconstruction_weight": 0.7,
        "replay_value_weight": 0.6,
        "dynamics_weight": 0.9,
        "free_bits": 0.02,
        "unimix": 0.05,
        "policy_unimix": 0.1,
        "horizon": 5,
        "return_lambda": 0.7,
        "return_rate": 0.5,
        "entropy_coefficient": 0.2,
        "slow_critic_rate": 0.3,
        "slow_critic_weight": 0.5,
        "lr": 0.02,
        "warmup": 3,
        "eps": 1e-2,  # or the sign of a gradient that is almost 0 would count in full
        "bins": 41,
    }
    config = small_config(**(defaults | options))
    memory = memory_config("gru")(learned_initial_carry=True)
    return make_agent(config, memory, EpisodeStatistics(env), total_steps=1000)


# -------------------------------------------------------------------------------- fixed draws


def table(shape):
    """Numbers by their shape alone; half of Gumbel's, which do not reach what floors leave over."""
    return jnp.float32(0.5 * np.random.default_rng(list(shape)).gumbel(size=shape))


def order(count):
    return np.roll(np.arange(count)[::-1], 3)


@pytest.fixture(scope="module")
def fixed_draws():
    """Random numbers that everybody can know; sizes and layers so small that they compile fast."""

    def categorical(key, logits, axis=-1, shape=None, **_):
        drawn = jnp.argmax(logits + table(logits.shape), axis)
        return jnp.broadcast_to(drawn, drawn.shape if shape is None else shape)

    def randint(key, shape, minval, maxval, dtype=int):
        return minval + jnp.arange(np.prod(shape)).reshape(shape) % (maxval - minval)

    with pytest.MonkeyPatch.context() as patch:
        tiny = Size(
            deter=6, hidden=5, classes=CLASSES, depth=1, units=5, variables=VARIABLES, layers=1
        )
        patch.setitem(SIZES, "tiny", tiny)
        patch.setattr(jax.random, "gumbel", lambda key, shape=(), dtype=float: table(shape))
        patch.setattr(jax.random, "categorical", categorical)
        patch.setattr(jax.random, "randint", randint)
        patch.setattr(jax.random, "permutation", lambda key, x, **_: jnp.asarray(order(x)))
        yield


# ------------------------------------------------------------------------------- plain pieces


def mixed(logits, share):
    """log of (1 - share) softmax + share / n."""
    return jnp.log((1 - share) * jax.nn.softmax(logits) + share / logits.shape[-1])


def symlog(x):
    return jnp.where(x < 0, -jnp.log(1 - x), jnp.log(1 + x))


def centres(count):
    grid = np.linspace(-20, 20, count)
    return np.float32(np.sign(grid) * (np.exp(np.abs(grid)) - 1))


@jax.jit
def expected_value(logits):
    """Σ p · bin, large bins of opposite sign first."""
    bins, p = centres(logits.shape[-1]), jax.nn.softmax(logits)
    half = len(bins) // 2
    return sum((p[..., -1 - i] - p[..., i]) * bins[-1 - i] for i in range(half))


@jax.jit
def cross_entropy(logits, value):
    """Of the code that puts a value between its two neighbouring bins."""
    bins = jnp.asarray(centres(logits.shape[-1]))
    i = jnp.clip(jnp.sum(value[..., None] >= bins, -1) - 1, 0, len(bins) - 2)
    share = (value - bins[i]) / (bins[i + 1] - bins[i])
    logp = jax.nn.log_softmax(logits)
    low, high = (jnp.take_along_axis(logp, j[..., None], -1)[..., 0] for j in (i, i + 1))
    return -((1 - share) * low + share * high)


@jax.jit
def divergence(p, q):
    return (jnp.exp(p) * (p - q)).sum((-2, -1))


def straight_through(logp, noise):
    hard = jax.nn.one_hot(jnp.argmax(stop_gradient(logp) + noise, -1), CLASSES)
    return hard + jnp.exp(logp) - stop_gradient(jnp.exp(logp))


def flat(z):
    return z.reshape(len(z), VARIABLES * CLASSES)


# ---------------------------------------------------------------- one step, by the layers


def advance(world, config, memory, z, action, reset):
    """(memory's carry, h, prior) after z and action; an episode's first step sees neither."""
    went_on = ~reset[:, None]
    z, action = jnp.where(went_on, flat(z), 0), jnp.where(went_on, jax.nn.one_hot(action, 3), 0)
    if config.joint_input:
        u = world.input(jnp.concatenate([z, action], -1))
    else:
        u = jnp.concatenate([world.input_z(z), world.input_action(action)], -1)
    memory, h = world.memory(memory, u[None], reset[None])
    prior = world.prior(h[0]).reshape(len(z), VARIABLES, CLASSES)
    return memory, h[0], mixed(prior, config.unimix)


def see(config, world, memory, z, observation, action, reset, noise):
    memory, h, prior = advance(world, config, memory, z, action, reset)
    code = world.encoder(observation)
    read = code if config.posterior == "parallel" else jnp.concatenate([h, code], -1)
    posterior = world.posterior(read).reshape(prior.shape)
    posterior = mixed(posterior, config.unimix)
    return (memory, h, straight_through(posterior, noise)), prior, posterior


def dream(config, world, state, action, noise):
    memory, _, z = state
    reset = jnp.zeros(len(z), bool)
    memory, h, prior = advance(world, config, memory, z, action, reset)
    return memory, h, straight_through(prior, noise)


def heads(world, state):
    """Logits of the reward, logit of going on, and what is said of the observation."""
    _, h, z = state
    features = jnp.concatenate([h, flat(z)], -1)
    return world.reward(features), world.going_on(features)[:, 0], world.decode(features)["0"]


def readable(agent, state):
    """What the policy reads."""
    memory, h, z = state
    parts = [flat(z)]
    if agent.config.policy_inputs in ("output", "full"):
        parts.append(h)
    if agent.config.policy_inputs in ("hidden", "full"):
        parts.append(agent.memory.state_features(memory))
    return jnp.concatenate(parts, -1)


class Layers:
    """What the agent's layers say, compiled once each: parameters come first."""

    def __init__(self, agent):
        apply, config = agent.world.apply, agent.config

        def of_world(function):
            return jax.jit(lambda params, *inputs: apply(params, *inputs, method=function))

        self.see = of_world(lambda *inputs: see(config, *inputs))
        self.dream = of_world(lambda *inputs: dream(config, *inputs))
        self.heads = of_world(heads)
        self.read = jax.jit(partial(readable, agent))
        self.policy = jax.jit(lambda params, x: agent.actor.apply(params, x).logits[0])
        self.critic = jax.jit(agent.critic.apply)


def draw(logits):
    return jnp.argmax(logits + table(logits.shape), -1)


def act(layers, params, memory, z, action, observation, reset):
    noise = table((len(reset), VARIABLES, CLASSES))
    inputs = memory, z, observation, action, reset, noise
    state = layers.see(params["world"], *inputs)[0]
    return state[0], state[2], draw(layers.policy(params["actor"], layers.read(state)))


# ------------------------------------------------------------------------------------ the losses


def loss(layers, c, params, slow_critic, low_high, start, batch):
    """The sum of all losses of one batch, as the paper of DreamerV3 lists them."""
    gamma = 1 - 1 / c.horizon
    losses, states = world_losses(layers, c, params["world"], start, batch, gamma)

    # Imagination, from all states of the batch or from some of them.
    everywhere = jax.tree.map(lambda *x: jnp.concatenate(x), *states)  # time by time
    chosen = np.arange(ROLLOUT * WINDOWS)
    if c.imagination_starts is not None:
        chosen = order(len(chosen))[: c.imagination_starts]
    frozen = stop_gradient(params)
    state = stop_gradient(jax.tree.map(lambda x: x[chosen], everywhere))
    trajectory, actions = [state], []
    for _ in range(HORIZON):
        actions.append(draw(layers.policy(frozen["actor"], layers.read(state))))
        noise = table((len(chosen), VARIABLES, CLASSES))
        state = layers.dream(frozen["world"], state, actions[-1], noise)
        trajectory.append(state)
    trajectory = stop_gradient(trajectory)
    told = [layers.heads(frozen["world"], s)[:2] for s in trajectory]
    reward = [expected_value(r) for r, _ in told]
    discount = [jax.nn.sigmoid(logit) for _, logit in told]
    if not c.continue_discount:  # γ for every step, and none for being at the start
        discount = [discount[0], *[gamma * x for x in discount[1:]]]
    features = [layers.read(s) for s in trajectory]
    value = [expected_value(layers.critic(frozen["critic"], x)) for x in features]
    returns = value[-1:]
    for h in reversed(range(HORIZON)):
        mix = (1 - c.return_lambda) * value[h + 1] + c.return_lambda * returns[0]
        returns.insert(0, reward[h + 1] + discount[h + 1] * mix)
    returns.pop()

    low, high = np.array([0.05, 0.95]) * (HORIZON * len(chosen) - 1)
    ordered = jnp.sort(jnp.concatenate(returns))
    new = [ordered[int(p)] * (1 - p % 1) + ordered[int(np.ceil(p))] * (p % 1) for p in (low, high)]
    low_high = [
        (1 - c.return_rate) * a + c.return_rate * b for a, b in zip(low_high, new, strict=True)
    ]
    scale = jnp.maximum(1.0, low_high[1] - low_high[0])
    weight, policy_loss, value_loss, entropies = 1.0, [], [], []
    for h in range(HORIZON):
        weight = weight * discount[h]
        logp = jax.nn.log_softmax(layers.policy(params["actor"], features[h]))
        entropies.append(-(jnp.exp(logp) * logp).sum(-1))
        advantage = (returns[h] - value[h]) / scale
        gain = jnp.take_along_axis(logp, actions[h][:, None], -1)[:, 0] * advantage
        policy_loss.append(-weight * (gain + c.entropy_coefficient * entropies[-1]))
        logits = layers.critic(params["critic"], features[h])
        slow = expected_value(layers.critic(slow_critic, features[h]))
        towards, pull = cross_entropy(logits, returns[h]), cross_entropy(logits, slow)
        value_loss.append(weight * (towards + c.slow_critic_weight * pull))
    losses |= {"policy": jnp.stack(policy_loss).mean(), "value": jnp.stack(value_loss).mean()}
    losses["replay_value"] = replay_value(
        layers, c, params["critic"], slow_critic, states, batch, chosen, returns[0]
    )
    weights = {
        "reconstruction": c.reconstruction_weight,
        "reward": c.reward_weight,
        "continue": 1.0,
        "dynamics": c.dynamics_weight,
        "representation": c.representation_weight,
        "policy": 1.0,
        "value": 1.0,
        "replay_value": c.replay_value_weight,
    }
    total = sum(weights[name] * losses[name] for name in weights)
    metrics = {f"loss/{name}": x for name, x in losses.items()} | {
        "loss/total": total,
        "entropy": jnp.stack(entropies).mean(),
        "imagined/return": jnp.stack(returns).mean(),
        "imagined/reward": jnp.stack(reward[1:]).mean(),
        "imagined/value": jnp.stack(value).mean(),
        "imagined/return_range": scale,
        "imagined/advantage": jnp.abs(jnp.stack(returns) - jnp.stack(value[:-1])).mean() / scale,
    }
    return total, (low_high, metrics)


def world_losses(layers, c, params, start, batch, gamma):
    """The world model's losses, and the states `(carry, h, z)` of the windows, step by step."""
    memory, z = start
    noise = table((ROLLOUT, WINDOWS, VARIABLES, CLASSES))
    rows, states = {}, []
    for t in range(ROLLOUT):
        now = {name: x[t] for name, x in batch.items()}
        inputs = memory, z, now["observation"], now["action"], now["reset"], noise[t]
        state, prior, posterior = layers.see(params, *inputs)
        memory, _, z = state
        reward, going_on, predicted = layers.heads(params, state)
        alive = jnp.where(now["terminated"], 0.0, gamma if c.continue_discount else 1.0)
        divergences = {
            "dynamics": divergence(stop_gradient(posterior), prior),
            "representation": divergence(posterior, stop_gradient(prior)),
        }
        row = {name: jnp.maximum(x, c.free_bits) for name, x in divergences.items()}
        row |= {
            "reconstruction": ((predicted - symlog(now["observation"])) ** 2).sum(-1),
            "reward": jnp.where(now["known"], cross_entropy(reward, now["reward"]), 0.0),
            "continue": -alive * jnp.log(jax.nn.sigmoid(going_on))
            - (1 - alive) * jnp.log(jax.nn.sigmoid(-going_on)),
        }
        for name, x in row.items():
            rows.setdefault(name, []).append(x)
        states.append(state)
    return {name: jnp.stack(x).mean() for name, x in rows.items()}, states


def replay_value(layers, c, params, slow_critic, states, batch, chosen, imagined):
    """The critic's loss on replayed states; their returns end in imagined ones where there are."""
    gamma = 1 - 1 / c.horizon
    logits = [layers.critic(params, layers.read(s)) for s in states]
    slow = [expected_value(layers.critic(slow_critic, layers.read(s))) for s in states]
    values = jnp.concatenate([stop_gradient(expected_value(x)) for x in logits])
    bootstrap = values.at[chosen].set(imagined).reshape(ROLLOUT, WINDOWS)
    following, losses = bootstrap[-1], []
    for t in reversed(range(ROLLOUT - 1)):
        following = jnp.where(batch["last"][t + 1], bootstrap[t + 1], following)
        mix = (1 - c.return_lambda) * bootstrap[t + 1] + c.return_lambda * following
        alive = jnp.where(batch["terminated"][t + 1], 0.0, gamma)
        following = stop_gradient(batch["reward"][t + 1] + alive * mix)
        pull = cross_entropy(logits[t], stop_gradient(slow[t]))
        row = cross_entropy(logits[t], following) + c.slow_critic_weight * pull
        losses.append(jnp.where(batch["last"][t], 0.0, row))
    return jnp.stack(losses).mean()


# ---------------------------------------------------------------------------------- an iteration


@cache
def programs(agent):
    layers = Layers(agent)
    # Compiled whole, the loss with its loops unrolled would take longer than its layers.
    gradient = jax.value_and_grad(partial(loss, layers, agent.config), has_aux=True)
    return quick_jit(partial(act, layers)), gradient


def window(rows, context, env):
    """One environment's rollout as observations, each with what led to it."""
    seen = []
    for t, (observation, reset, action, reward) in enumerate(rows):
        begins = reset or (t == 0 and context is None)
        caused = t > 0 and not reset
        seen.append(
            {
                "observation": observation,
                "reset": begins,
                "action": rows[t - 1][2] if t > 0 else context or 0,
                "reward": rows[t - 1][3] if caused else 0.0,
                "known": reset or t > 0,
                "terminated": False,
                "last": False,
            }
        )
        terminated, final = env(t)
        if final is not None:
            end = {"observation": final, "reset": False, "action": action, "reward": reward}
            seen.append(end | {"known": True, "terminated": terminated, "last": True})
    return seen[: len(rows)]


@dataclass
class Reference:
    agent: object
    params: dict
    slow_critic: dict
    low_high: list
    updates: int = 0
    time: int = 0

    def __post_init__(self):
        self.env = self.agent.env.unwrapped
        carry = self.agent.initialize_carry(2)
        self.memory, self.z, self.action = carry.memory, carry.z, carry.action
        self.reset, self.episode = np.ones(2, bool), np.zeros((2, 2))
        # In NumPy, which has nothing to compile.
        self.params, self.slow_critic = jax.device_get((self.params, self.slow_critic))
        self.squares = self.momentum = jax.tree.map(np.zeros_like, self.params)
        self.act, self.gradient = programs(self.agent)

    def collect(self):
        c, env = self.agent.config, self.env
        rows, contexts, ended = [[], []], None, []
        for t in range(self.time, self.time + ROLLOUT):
            contexts = contexts or (self.memory, self.z, self.action)
            observation = env.observation[t]
            inputs = self.memory, self.z, self.action, observation, self.reset
            self.memory, self.z, self.action = jax.device_get(self.act(self.params, *inputs))
            earned = env.reward[t] + np.asarray(self.action)
            for b in range(2):
                reward = c.reward_scale * earned[b]
                rows[b].append((observation[b], self.reset[b], self.action[b], reward))
            self.reset = env.terminated[t] | env.truncated[t]
            self.episode = self.episode + np.stack([earned, np.ones(2)])
            ended += list(self.episode[:, self.reset].T)
            self.episode = np.where(self.reset, 0, self.episode)
        return rows, contexts, np.array(ended)

    def batch(self, rows, contexts):
        """Windows of environments 0, 1, 0, as the fixed draws have it."""
        stored, windows = self.agent.config.replay_context, []
        for b in (0, 1, 0):

            def end(t, b=b):
                terminated, truncated = (x[self.time + t, b] for x in (TERMINATED, TRUNCATED))
                ended = terminated or truncated
                return terminated, self.env.final[self.time + t, b] if ended else None

            context = int(contexts[2][b]) if stored else None
            windows.append(window(rows[b], context, end))
        batch = {
            name: np.stack([np.stack([w[t][name] for w in windows]) for t in range(ROLLOUT)])
            for name in windows[0][0]
        }
        if stored:
            return jax.tree.map(lambda x: x[np.array([0, 1, 0])], contexts[:2]), batch
        start = self.agent.initialize_carry(WINDOWS)
        return (start.memory, start.z), batch

    def iterate(self):
        rows, contexts, ended = self.collect()
        start, batch = self.batch(rows, contexts)
        told = []
        for _ in range(2):
            arguments = self.params, self.slow_critic, self.low_high, start, batch
            results = jax.device_get(self.gradient(*arguments))
            (_, (self.low_high, metrics)), gradient = results
            norm = np.sqrt(sum(float((g**2).sum()) for g in jax.tree.leaves(gradient)))
            told.append(metrics | {"gradient_norm": norm})
            self.laprop(gradient)
        now, reward_scale = slice(self.time, self.time + ROLLOUT), self.agent.config.reward_scale
        self.time += ROLLOUT
        metrics = {name: np.mean([m[name] for m in told]) for name in told[0]}
        return metrics | {
            "updates": 2,
            "episodes": len(ended),
            "episode_return": ended[:, 0].mean(),
            "episode_length": ended[:, 1].mean(),
            "env/reward": np.mean([row[3] for of in rows for row in of]) / reward_scale,
            "env/observation": np.abs(self.env.observation[now]).max(),
        }

    def laprop(self, gradient):
        """Each tensor's gradient cut to a share of its norm; LaProp; the slow critic behind."""
        c = self.agent.config
        self.updates += 1
        rate = c.lr * min(1, self.updates / c.warmup)

        def cut(g, p):
            limit = c.clip * max(1e-3, np.sqrt((p**2).sum()))
            return g * min(1, limit / max(np.sqrt((g**2).sum()), 1e-30))

        gradient = jax.tree.map(cut, gradient, self.params)
        self.squares = jax.tree.map(
            lambda n, g: c.beta2 * n + (1 - c.beta2) * g**2, self.squares, gradient
        )
        self.momentum = jax.tree.map(
            lambda m, g, n: (
                c.beta1 * m + (1 - c.beta1) * g / (np.sqrt(n / (1 - c.beta2**self.updates)) + c.eps)
            ),
            self.momentum,
            gradient,
            self.squares,
        )
        self.params = jax.tree.map(
            lambda p, m: p - rate * m / (1 - c.beta1**self.updates), self.params, self.momentum
        )
        self.slow_critic = jax.tree.map(
            lambda slow, new: slow + c.slow_critic_rate * (new - slow),
            self.slow_critic,
            self.params["critic"],
        )


@cache
def beginning(kind):
    """An agent, its state with random parameters, and its compiled iteration."""
    agent = tiny_agent(**KINDS[kind])
    shapes = jax.eval_shape(agent.init, jax.random.key(0))
    params = random_like(shapes.params)
    for layer in (params["world"]["params"]["reward"], params["critic"]["params"]["NormedMLP_0"]):
        # Bins reach to 4.9e8: without this, all values would be of what rounding leaves of them.
        layer["output"]["bias"] = layer["output"]["bias"] - 1.5 * jnp.abs(jnp.arange(41.0) - 20)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(agent), "_init_params", lambda *_: params)
        state = quick_jit(agent.init)(jax.random.key(0))
    # A slow critic of its own, and a range that is above 1 for three of four updates.
    state = state.replace(
        slow_critic=random_like(params["critic"], seed=1),
        returns=state.returns.replace(low=jnp.float32(-4.0), high=jnp.float32(6.0)),
    )
    return agent, state, quick_jit(agent.iteration)


@pytest.mark.parametrize("kind", KINDS)
def test_two_iterations_equal_the_reference(fixed_draws, kind):
    agent, state, iteration = beginning(kind)
    low_high = [float(state.returns.low), float(state.returns.high)]
    reference = Reference(agent, state.params, state.slow_critic, low_high)
    for _ in range(2):
        state, metrics = iteration(state)
        expected = reference.iterate()
        # Of when episodes began: tests/training/test_returns.py.
        started = metrics["starts/episodes"] + (metrics["starts/ago"] > 0).sum()
        assert started == expected["episodes"]
        assert {name for name in metrics if not name.startswith("starts/")} == set(expected)
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
        carry = state.acting.carry
        np.testing.assert_array_equal(carry.action, reference.action)
        assert_trees_close(carry.memory, reference.memory, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(state.acting.reset, reference.reset)
        assert_trees_close(state.params, reference.params, rtol=1e-3, atol=1e-5)
        assert_trees_close(state.slow_critic, reference.slow_critic, rtol=1e-3, atol=1e-5)
        ranges = [state.returns.low, state.returns.high]
        np.testing.assert_allclose(ranges, reference.low_high, rtol=1e-4)


# ---------------------------------------------------------------------------- one trajectory


@pytest.mark.parametrize("kind", KINDS)
def test_acting_and_evaluation_do_what_training_does(fixed_draws, kind):
    """Where what is most likely is far ahead of all else, but for the floors."""
    agent, state, iteration = beginning(kind)
    params = jax.tree.map(lambda x: x, state.params)
    for layer in (params["world"]["params"]["posterior"], params["actor"]["params"]["NormedMLP_0"]):
        output = layer["output"]
        layer["output"] = {"kernel": 1e5 * output["kernel"], "bias": 0 * output["bias"]}
    assert_one_trajectory(agent, state.replace(params=params), iteration)


# -------------------------------------------------------------------------------------- keys


def test_every_environment_step_window_and_state_draws_its_own():
    """With draws that are counted, not fixed: no two of an iteration come from one key."""
    seen = []
    gumbel = jax.random.gumbel

    def watched(key, shape=(), dtype=float):
        jax.debug.callback(lambda k: seen.append(np.asarray(k)), jax.random.key_data(key))
        return gumbel(key, shape, dtype)

    agent = tiny_agent(**KINDS["parallel"] | {"size": "pico", "deter": 8})
    state = quick_jit(agent.init)(jax.random.key(0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax.random, "gumbel", watched)
        iteration = quick_jit(agent.iteration)
        for _ in range(2):
            state, _ = iteration(state)
    jax.effects_barrier()
    # In each of two iterations: 6 steps of acting, and in each of 2 updates a batch and 2 dreams.
    keys = np.stack(seen)
    assert len(keys) == 2 * (ROLLOUT + 2 * (1 + HORIZON))
    assert len(np.unique(keys, axis=0)) == len(keys)

"""Recurrent PPO in one file, in the style of purejaxrl, with a memory of ours in the middle.

    python examples/recurrent_ppo.py

Read it for where the memory goes. (1) While acting it is called with T = 1. (2) For learning it is
called once over the whole rollout, from the carry *before* the first step. (3) `reset[t]` is True
where observation t begins an episode, which is the `done` of step t - 1. That is all.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

import ssmrl.envs
from ssmrl.memory import make_memory

ENVS, STEPS, EPOCHS = 32, 52, 4
GAMMA, LAMBDA, CLIP, ENTROPY = 0.99, 0.95, 0.2, 0.01
MEMORY = {"name": "s5", "features": 32, "layers": 2}


class ActorCritic(nn.Module):
    """Symbols `[T, B]` to logits `[T, B, A]` and values `[T, B]`."""

    symbols: int
    actions: int

    @nn.compact
    def __call__(self, carry, obs, reset):
        x = jax.nn.one_hot(obs, self.symbols)
        carry, y = make_memory(**MEMORY)(carry, x, reset)
        return carry, nn.Dense(self.actions)(y), nn.Dense(1)(y)[..., 0]


class Rollout(NamedTuple):
    """What was seen and done, `[T, B]` each."""

    obs: jax.Array
    reset: jax.Array
    action: jax.Array
    log_prob: jax.Array
    value: jax.Array
    reward: jax.Array
    done: jax.Array


def log_prob_of(logits, action):
    """Log probability of `action` `[...]` under `logits` `[..., A]`."""
    log_probs = nn.log_softmax(logits)
    return jnp.take_along_axis(log_probs, action[..., None], axis=-1)[..., 0]


def collect(model, venv, params, loop, key):
    """STEPS steps of acting; `loop` is (environment state, observation, carry, reset)."""

    def step(loop, key):
        env_state, obs, carry, reset = loop
        carry, logits, value = model.apply(params, carry, obs[None], reset[None])  # (1)
        action = jax.random.categorical(key, logits[0])
        new_obs, env_state, reward, terminated, truncated, _ = venv.step(env_state, action)
        done = terminated | truncated
        taken = log_prob_of(logits[0], action)
        record = Rollout(obs, reset, action, taken, value[0], reward, done)
        return (env_state, new_obs, carry, done), record  # (3)

    loop, rollout = jax.lax.scan(step, loop, jax.random.split(key, STEPS))
    _, obs, carry, reset = loop
    last_value = model.apply(params, carry, obs[None], reset[None])[2][0]
    return loop, rollout, last_value


def advantages_of(rollout, last_value):
    """Generalised advantage estimation."""

    def step(carry, inputs):
        advantage, next_value = carry
        reward, value, done = inputs
        delta = reward + GAMMA * next_value * (1 - done) - value
        advantage = delta + GAMMA * LAMBDA * (1 - done) * advantage
        return (advantage, value), advantage

    start = (jnp.zeros_like(last_value), last_value)
    inputs = (rollout.reward, rollout.value, rollout.done)
    return jax.lax.scan(step, start, inputs, reverse=True)[1]


def loss(params, model, carry, rollout, advantages):
    """PPO's clipped objective over whole sequences."""
    _, logits, value = model.apply(params, carry, rollout.obs, rollout.reset)  # (2)
    ratio = jnp.exp(log_prob_of(logits, rollout.action) - rollout.log_prob)
    scaled = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
    clipped = jnp.clip(ratio, 1 - CLIP, 1 + CLIP)
    policy = -jnp.minimum(ratio * scaled, clipped * scaled).mean()
    error = jnp.square(value - (advantages + rollout.value)).mean()
    probs = nn.softmax(logits)
    entropy = -(probs * nn.log_softmax(logits)).sum(-1).mean()
    return policy + 0.5 * error - ENTROPY * entropy


def train(iterations: int = 120, seed: int = 0, env: str = "popgym/repeat_previous_easy"):
    """The mean episodic return at every iteration."""
    venv = ssmrl.envs.make_vector(env, ENVS)
    model = ActorCritic(venv.observation_space.n, venv.action_space.n)
    memory = make_memory(**MEMORY)
    init_key, env_key, key = jax.random.split(jax.random.key(seed), 3)
    obs, env_state = venv.reset(env_key)
    carry, reset = memory.initialize_carry((ENVS,)), jnp.ones(ENVS, bool)
    params = model.init(init_key, carry, obs[None], reset[None])
    optimizer = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(2e-3))

    def iteration(state, key):
        params, moments, loop = state
        start = loop[2]  # the carry before the first step, which learning begins from
        loop, rollout, last_value = collect(model, venv, params, loop, key)
        advantages = advantages_of(rollout, last_value)

        def epoch(state, _):
            params, moments = state
            gradients = jax.grad(loss)(params, model, start, rollout, advantages)
            updates, moments = optimizer.update(gradients, moments)
            return (optax.apply_updates(params, updates), moments), None

        (params, moments), _ = jax.lax.scan(epoch, (params, moments), length=EPOCHS)
        returns = rollout.reward.sum() / jnp.maximum(rollout.done.sum(), 1)
        return (params, moments, loop), returns

    state = (params, optimizer.init(params), (env_state, obs, carry, reset))
    return jax.jit(lambda s: jax.lax.scan(iteration, s, jax.random.split(key, iterations))[1])(
        state
    )


if __name__ == "__main__":
    returns = train()
    first, last = float(returns[:5].mean()), float(returns[-5:].mean())
    print(f"return: {first:.2f} at first, {last:.2f} at last")

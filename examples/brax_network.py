"""A policy network in brax's form with a memory inside, acting in a brax environment.

    python examples/brax_network.py

brax's agents take a `FeedForwardNetwork`: a pair of functions, `init(key)` and `apply(processor,
params, obs)`. A recurrent one takes the carry and the reset along, and returns the next carry; a
rollout scans over both. The reset comes from brax's `done`, one step later.
"""

import brax.envs
import flax.linen as nn
import jax
import jax.numpy as jnp
from brax.training.networks import FeedForwardNetwork

from ssmrl.memory import make_memory


class Policy(nn.Module):
    """Observations `[T, B, F]` to the parameters of an action distribution `[T, B, outputs]`."""

    outputs: int

    def setup(self):
        self.memory = make_memory("s5", features=32, layers=1)
        self.head = nn.Dense(self.outputs)

    def __call__(self, carry, obs, reset):
        carry, y = self.memory(carry, obs, reset)
        return carry, self.head(y)


def initialize_carry(batch: int):
    """The carry of new episodes."""
    return make_memory("s5", features=32, layers=1).initialize_carry((batch,))


def make_policy_network(outputs: int, observation_size: int) -> FeedForwardNetwork:
    """As brax's factories make them, with `apply(processor, params, carry, obs, reset)`."""
    policy = Policy(outputs)

    def init(key):
        x, reset = jnp.zeros((1, 1, observation_size)), jnp.ones((1, 1), bool)
        return policy.init(key, initialize_carry(1), x, reset)

    def apply(processor_params, params, carry, obs, reset):
        del processor_params  # no normalisation of observations here
        return policy.apply(params, carry, obs, reset)

    return FeedForwardNetwork(init=init, apply=apply)


def rollout(steps: int = 50, batch: int = 4, seed: int = 0) -> jax.Array:
    """Rewards `[steps, batch]` of an untrained policy, episodes starting afresh where they end."""
    env = brax.envs.create("fast", batch_size=batch, auto_reset=True, episode_length=20)
    network = make_policy_network(env.action_size, env.observation_size)
    init_key, reset_key = jax.random.split(jax.random.key(seed))
    params = network.init(init_key)

    def step(loop, _):
        state, carry, reset = loop
        carry, y = network.apply(None, params, carry, state.obs[None], reset[None])
        state = env.step(state, jnp.tanh(y[0]))
        return (state, carry, state.done.astype(bool)), state.reward

    @jax.jit
    def run(key):
        start = (env.reset(key), initialize_carry(batch), jnp.ones(batch, bool))
        return jax.lax.scan(step, start, length=steps)[1]

    return run(reset_key)


if __name__ == "__main__":
    print(f"mean reward {float(rollout().mean()):.3f}")

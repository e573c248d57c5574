"""The world model: what happened so far as a latent state, and what may come next.

    u[t] = SiLU(norm(Linear[z[t-1], a[t-1]]))         input of the memory; or one layer for each
    h[t] = memory(u[0 … t])
    z[t] ~ q(z | o[t])  or  q(z | h[t], o[t])         posterior, parallel or recurrent
    z[t] ~ p(z | h[t])                                prior: imagination
    o[t], r[t], c[t] ~ heads(h[t], z[t])              decoder, reward, continue

The recurrent posterior with a GRU is DreamerV3's (Hafner et al. 2023); the parallel one is S4WM's
(Deng et al. 2023) and R2I's (Samsami et al. 2024): with all z known in advance, the memory sees
the whole window in one call. Where an episode begins, z[t-1] and a[t-1] are masked and the memory
starts afresh, in the same function for acting and for training.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array, lax

from ssmrl.agents.dreamer.config import DreamerConfig
from ssmrl.agents.dreamer.losses import (
    kl_losses,
    straight_through_sample,
    two_hot_loss,
    two_hot_mean,
    unimix,
)
from ssmrl.agents.dreamer.observations import (
    Decoder,
    SymlogEncoder,
    encode_action,
    reconstruction_loss,
)
from ssmrl.agents.dreamer.replay import Batch
from ssmrl.envs.batching import select
from ssmrl.envs.environment import Leaf
from ssmrl.envs.spaces import Space
from ssmrl.memory import Memory
from ssmrl.networks.normed import NormedMLP


@struct.dataclass
class Latent:
    """A state of the world model. Leaves `[*leading, ...]`."""

    memory: Any
    """The memory's carry behind u[t]."""
    h: Leaf
    """Its output `[*leading, deter]`."""
    z: Leaf
    """One-hot `[*leading, variables, classes]`."""

    @property
    def features(self) -> Array:
        """What the heads read: (h, z) `[*leading, deter + variables * classes]`."""
        return jnp.concatenate([self.h.astype(jnp.float32), flatten_z(self.z)], -1)


@struct.dataclass
class Start:
    """What the world model goes on from: the memory's carry `[B, ...]`, and z `[B, ...]`."""

    memory: Any
    z: Leaf


@struct.dataclass
class Observed:
    """Latents of a sequence, with log-probabilities `[T, B, variables, classes]` of z."""

    latent: Latent
    prior: Leaf
    posterior: Leaf


class WorldModel(nn.Module):
    """Encoder, posterior, memory, prior and heads.

    Attributes:
        observation_space, action_space: of one environment.
        memory: the backbone.
        config: hyperparameters.
        dtype: of activations.
    """

    observation_space: Space
    action_space: Space
    memory: Memory
    config: DreamerConfig
    dtype: Any = jnp.float32

    def setup(self):
        c, size = self.config, self.config.sizes
        code = size.variables * size.classes
        shape = (size.layers, size.units, size.depth, c.picture_encoder, self.dtype)
        self.encoder = SymlogEncoder(self.observation_space, *shape)
        self.decoder = Decoder(self.observation_space, *shape, state=self.memory.features)
        if c.joint_input:
            self.input = NormedMLP(1, size.hidden, dtype=self.dtype)
        else:
            self.input_z = NormedMLP(1, size.hidden, dtype=self.dtype)
            self.input_action = NormedMLP(1, size.hidden, dtype=self.dtype)
        self.posterior = NormedMLP(1, size.hidden, code, dtype=self.dtype)
        self.prior = NormedMLP(min(2, size.layers), size.hidden, code, dtype=self.dtype)
        self.reward = NormedMLP(1, size.units, c.bins, 0.0, dtype=self.dtype)
        self.going_on = NormedMLP(1, size.units, 1, dtype=self.dtype)

    def __call__(self, start: Start, observation, action, reset, noise):
        """Everything once, to create parameters."""
        latent = self.observe(start, observation, action, reset, noise).latent
        return latent, self.decoder(latent.features), self.predict(latent.features)

    # ........................................................................ seeing

    def observe(
        self, start: Start, observation, action, reset: Array, noise, every_carry: bool = True
    ) -> Observed:
        """Latents of a sequence of observations; one step of it is acting.

        Args:
            start: from `initial_start` or the last latent of the window before.
            observation: leaves `[T, B, ...]`.
            action: leaves `[T, B, ...]`, the one that led to each observation.
            reset: bool `[T, B]`, True where the observation begins an episode.
            noise: Gumbel draws `[T, B, variables, classes]`, or 0 for the most likely z.
            every_carry: the memory's carries behind all observations. Without it a parallel
                posterior gives the last one alone, with leading axis 1, and a memory need not
                compute the others, which for some is most of the work.
        """
        codes = self.encoder(observation)
        actions = encode_action(self.action_space, action)
        noise = jnp.broadcast_to(noise, (*reset.shape, *start.z.shape[1:]))
        if self.config.posterior == "parallel":
            return self._observe_parallel(start, codes, actions, reset, noise, every_carry)
        scan = nn.scan(
            WorldModel._observe_step, variable_broadcast="params", split_rngs={"params": False}
        )
        return scan(self, start, (codes, actions, reset, noise))[1]

    def _observe_parallel(
        self, start: Start, codes, actions, reset, noise, every_carry: bool
    ) -> Observed:
        posterior = self._log_probability(self.posterior(codes))
        z = straight_through_sample(posterior, noise)
        previous_z = jnp.concatenate([start.z[None], z[:-1]])
        u = self._memory_input(previous_z, actions, reset)
        last, h, *carries = self.memory(start.memory, u, reset, return_carries=every_carry)
        prior = self._log_probability(self.prior(h))
        memory = carries[0] if every_carry else jax.tree.map(lambda x: x[None], last)
        return Observed(Latent(memory, h, z), prior, posterior)

    def _observe_step(self, start: Start, inputs) -> tuple[Start, Observed]:
        code, action, reset, noise = inputs
        u = self._memory_input(start.z, action, reset)
        carry, h = self.memory(start.memory, u[None], reset[None])
        posterior = self.posterior(jnp.concatenate([h[0], code.astype(h.dtype)], -1))
        posterior = self._log_probability(posterior)
        z = straight_through_sample(posterior, noise)
        prior = self._log_probability(self.prior(h[0]))
        return Start(carry, z), Observed(Latent(carry, h[0], z), prior, posterior)

    def _memory_input(self, z: Array, action: Array, reset: Array) -> Array:
        """u from what came before, `[*leading, ...]`; nothing came before a reset."""
        z, action = select(reset, (jnp.zeros_like(z), jnp.zeros_like(action)), (z, action))
        z = flatten_z(z)
        if self.config.joint_input:
            return self.input(jnp.concatenate([z, action], -1))
        return jnp.concatenate([self.input_z(z), self.input_action(action)], -1)

    def _log_probability(self, logits: Array) -> Array:
        size = self.config.sizes
        logits = logits.reshape(*logits.shape[:-1], size.variables, size.classes)
        return unimix(logits, self.config.unimix)

    # ........................................................................ imagining

    def imagine(self, latent: Latent, action: Any, noise: Array | float) -> Latent:
        """The next latent `[N, ...]` after an action `[N, ...]`, from the prior.

        Args:
            noise: Gumbel draws `[N, variables, classes]`, or 0 for the most likely z.
        """
        reset = jnp.zeros(latent.h.shape[:-1], bool)
        u = self._memory_input(latent.z, encode_action(self.action_space, action), reset)
        carry, h = self.memory(latent.memory, u[None], reset[None])
        prior = self._log_probability(self.prior(h[0]))
        return Latent(carry, h[0], straight_through_sample(prior, noise))

    # ........................................................................ predicting

    def predict(self, features: Array) -> tuple[Array, Array]:
        """Mean reward, and the discount (or the probability) of going on, both `[*leading]`."""
        going_on = nn.sigmoid(self.going_on(features)[..., 0])
        return two_hot_mean(self.reward(features)), going_on

    def decode(self, features: Array) -> Any:
        """The prediction of the observation; see `observations.Prediction`."""
        return self.decoder(features)

    def losses(
        self, start: Start, batch: Batch, noise, every_carry: bool = True
    ) -> tuple[Latent, dict[str, Array]]:
        """The latents of a batch, and each loss `[T, B]` by its name, without its weight."""
        c = self.config
        inputs = (batch.observation, batch.action, batch.reset, noise)
        seen = self.observe(start, *inputs, every_carry)
        features = seen.latent.features
        dynamics, representation = kl_losses(seen.posterior, seen.prior, c.free_bits)
        going_on = 1.0 - batch.terminated
        if c.continue_discount:
            going_on = going_on * c.discount
        reward = two_hot_loss(self.reward(features), batch.reward)
        losses = {
            "reconstruction": reconstruction_loss(
                self.observation_space, self.decoder(features), batch.observation
            ),
            "reward": jnp.where(batch.known, reward, 0.0),
            "continue": binary_loss(self.going_on(features)[..., 0], going_on),
            "dynamics": dynamics,
            "representation": representation,
        }
        return seen.latent, losses


def initial_start(memory: Memory, config: DreamerConfig, batch_size: int) -> Start:
    """A start for new episodes; the first observation must still come with a reset."""
    size = config.sizes
    z = jnp.zeros((batch_size, size.variables, size.classes), jnp.float32)
    return Start(memory.initialize_carry((batch_size,)), z)


def open_loop(model: WorldModel, params: Any, observation, action, context: int) -> Array:
    """Features `[T, B, K]` of episodes whose beginning is seen, the rest imagined.

    Every draw is the most likely value.

    Args:
        model, params: the world model.
        observation: leaves `[T, B, ...]`, from the episodes' first on.
        action: leaves `[T, B, ...]`, the one that led to each observation; the first is unused.
        context: how many observations are seen, 1 to T; with T of them nothing is imagined.
    """
    world: Any = partial(model.apply, params)
    beginning = jax.tree.map(lambda x: x[:context], (observation, action))
    length, batch_size = jax.tree.leaves(action)[0].shape[:2]
    reset = jnp.broadcast_to((jnp.arange(context) == 0)[:, None], (context, batch_size))
    start = initial_start(model.memory, model.config, batch_size)
    seen = world(start, *beginning, reset, jnp.zeros(()), every_carry=False, method="observe")
    if context == length:
        return seen.latent.features

    def step(latent, action):
        latent = world(latent, action, 0.0, method="imagine")
        return latent, latent.features

    last = jax.tree.map(lambda x: x[-1], seen.latent)
    _, imagined = lax.scan(step, last, jax.tree.map(lambda x: x[context:], action))
    return jnp.concatenate([seen.latent.features, imagined])


def flatten_z(z: Array) -> Array:
    """`[*leading, variables, classes]` → `[*leading, variables * classes]`."""
    return z.reshape(*z.shape[:-2], -1)


def binary_loss(logit: Array, target: Array) -> Array:
    """Cross-entropy of σ(logit) against a probability, without overflow for large logits."""
    return -target * jax.nn.log_sigmoid(logit) - (1 - target) * jax.nn.log_sigmoid(-logit)

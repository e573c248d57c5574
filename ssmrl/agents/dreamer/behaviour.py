"""Actor and critic, learned from what the world model imagines.

DreamerV3 (Hafner et al. 2023), section "Actor critic learning": REINFORCE on λ-returns that are
normalised by their range, and a critic of two-hot codes, regularised towards its own average.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array, lax

from ssmrl.agents.dreamer.config import DreamerConfig
from ssmrl.agents.dreamer.losses import (
    lambda_return,
    lambda_returns,
    mean_over_rows,
    two_hot_loss,
    two_hot_mean,
    unimix,
)
from ssmrl.agents.dreamer.observations import elementary_spaces, split_logits
from ssmrl.agents.dreamer.world_model import Latent, flatten_z
from ssmrl.envs.environment import Leaf
from ssmrl.envs.spaces import Box, Space
from ssmrl.memory import Memory
from ssmrl.networks.distributions import (
    action_distribution,
    parameter_size,
    scale_size,
    split_parameters,
)
from ssmrl.networks.normed import NormedMLP


def policy_features(memory: Memory, latent: Latent, inputs: str) -> Array:
    """What actor and critic read, `[*leading, K]`: z, and as `inputs` says

    "output": h, the memory's output; "hidden": x, the memory's state as real numbers; "full": both
    (Samsami et al. 2024, section 3.2). A memory without state has an x of no numbers.
    """
    parts = [flatten_z(latent.z)]
    if inputs in ("output", "full"):
        parts.append(latent.h.astype(jnp.float32))
    if inputs in ("hidden", "full") and jax.tree.leaves(latent.memory):
        parts.append(memory.state_features(latent.memory))
    return jnp.concatenate(parts, -1)


class Actor(nn.Module):
    """Policy features `[*leading, K]` → a distribution over actions."""

    space: Space
    config: DreamerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Array) -> Any:
        c, size, outputs = self.config, self.config.sizes, parameter_size(self.space)
        heads = outputs + scale_size(self.space)
        x = NormedMLP(size.layers, size.units, heads, 0.01, dtype=self.dtype)(features)
        parameters, spread = jnp.split(x, [outputs], axis=-1)
        std = c.min_std + (c.max_std - c.min_std) * nn.sigmoid(spread + 2)
        return action_distribution(
            self.space,
            self._explore(parameters),
            jnp.log(std),
            clip=c.bounded_actions == "clipped",
        )

    def _explore(self, parameters: Array) -> Array:
        """`parameters` with the logits of discrete parts mixed with the uniform."""
        spaces = elementary_spaces(self.space)
        parts = []
        for space, part in zip(spaces, split_parameters(self.space, parameters), strict=True):
            logits = [] if isinstance(space, Box) else split_logits(space, part)
            parts += [unimix(x, self.config.policy_unimix) for x in logits] or [part]
        return jnp.concatenate(parts, -1)


class Critic(nn.Module):
    """Policy features `[*leading, K]` → logits `[*leading, bins]` of the value's two-hot code."""

    config: DreamerConfig
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Array) -> Array:
        c, size = self.config, self.config.sizes
        return NormedMLP(size.layers, size.units, c.bins, 0.0, dtype=self.dtype)(features)


# ------------------------------------------------------------------------------- imagination


@struct.dataclass
class Imagined:
    """Trajectories of H + 1 states from N starts. Nothing here has a gradient."""

    policy_features: Leaf
    """`[H, N, K]`, of all states but the last: those that actor and critic learn from."""
    last_features: Leaf
    """`[N, K]`, of the last state."""
    raw_action: Any
    """Leaves `[H, N, ...]`, taken in these states."""
    reward: Leaf
    """`[H + 1, N]`, on arrival in each state."""
    discount: Leaf
    """`[H + 1, N]`, γ times the probability that the episode goes on at each state.

    At the start the γ is there with `continue_discount` alone, where one head gives both, as
    published: it scales the losses of actor and critic, and no return."""
    slow_value: Leaf
    """`[H, N]`, the slow critic's estimate of the return from all states but the last."""

    @property
    def weight(self) -> Array:
        """How much each state counts `[H + 1, N]`: nothing once the episode has ended."""
        return jnp.cumprod(self.discount, axis=0)


def imagine(
    dream: Callable[[Latent, Any, Array], Latent],
    predict: Callable[[Array], tuple[Array, Array]],
    evaluate: Callable[[Array], Array],
    act: Callable[[Latent], tuple[Array, Any]],
    start: Latent,
    config: DreamerConfig,
    key: Array,
) -> Imagined:
    """Follow the policy in the world model for H steps.

    What is said about a state is computed where the state is, not for all states afterwards: only
    one step's features and logits are in memory then, and they are still in a processor's cache.

    Args:
        dream: (latent, action, noise) → the next latent, `WorldModel.imagine`.
        predict: features → reward and discount, `WorldModel.predict`.
        evaluate: policy features → the slow critic's value.
        act: latent → policy features and the distribution over actions.
        start: latents `[N, ...]`.
        config: hyperparameters.
        key: of the draws of actions and latents.
    """

    def step(latent, key):
        key_action, key_latent = jax.random.split(key)
        features, distribution = act(latent)
        raw = distribution.sample(seed=key_action)
        noise = jax.random.gumbel(key_latent, latent.z.shape)
        following = dream(latent, distribution.action(raw), noise)
        return following, (features, raw, predict(latent.features), evaluate(features))

    keys = jax.random.split(key, config.imagination_length)
    end, (features, raw, predicted, slow_value) = lax.scan(step, start, keys)
    reward, discount = jax.tree.map(
        lambda rows, row: jnp.concatenate([rows, row[None]]), predicted, predict(end.features)
    )
    if not config.continue_discount:
        # γ is the price of a step: arriving costs it, being at the start does not.
        discount = discount.at[1:].multiply(config.discount)
    imagined = Imagined(features, act(end)[0], raw, reward, discount, slow_value)
    return lax.stop_gradient(imagined)


# ------------------------------------------------------------------------------------ losses


@struct.dataclass
class ReturnRange:
    """Running 5th and 95th percentile of imagined returns."""

    low: Leaf
    high: Leaf

    @classmethod
    def zeros(cls) -> "ReturnRange":
        """Before any return."""
        return cls(jnp.zeros((), jnp.float32), jnp.zeros((), jnp.float32))

    def update(self, returns: Array, rate: float) -> "ReturnRange":
        """Move both by `rate` towards the percentiles of `returns`.

        Returns that hold NaN or infinity are left out: they would spoil all that follow.
        """
        low, high = jnp.percentile(returns, jnp.array([5.0, 95.0]))
        finite = jnp.isfinite(returns).all()

        def towards(old, new):
            return jnp.where(finite, (1 - rate) * old + rate * new, old).astype(old.dtype)

        return ReturnRange(towards(self.low, low), towards(self.high, high))

    @property
    def scale(self) -> Array:
        """What returns are divided by: their range, at least 1, so that noise stays small."""
        return jnp.maximum(1.0, self.high - self.low)


def critic_loss(logits: Array, slow_value: Array, returns: Array, slow_weight: float) -> Array:
    """Cross-entropy `[...]` towards the returns, and towards the slow critic's own prediction."""
    towards_returns = two_hot_loss(logits, lax.stop_gradient(returns))
    return towards_returns + slow_weight * two_hot_loss(logits, lax.stop_gradient(slow_value))


def _value_loss(critic, config: DreamerConfig, params, following, row):
    """The critic's loss in one state, and its λ-return, from those of the following state.

    Going backwards, a return is known when its state's turn comes: one look of the critic at each
    state gives both its value, for the returns before, and the loss.
    """
    features, reward, discount, slow_value, weight = row
    bootstrap, onwards = following
    returns = lambda_return(reward, discount, bootstrap, onwards, config.return_lambda)
    logits = critic(params, features)
    loss = weight * critic_loss(logits, slow_value, returns, config.slow_critic_weight)
    told = (lax.stop_gradient(two_hot_mean(logits)), returns)
    return loss.mean(), (told, told)


def _policy_loss(actor, config: DreamerConfig, params, carry, row):
    """REINFORCE with an entropy bonus in one state, and the entropy."""
    features, raw_action, advantage, weight, key = row
    distribution = actor(params, features)
    entropy = distribution.entropy(seed=key)
    gain = distribution.log_prob(raw_action) * advantage
    loss = -weight * (gain + config.entropy_coefficient * entropy)
    return loss.mean(), (carry, lax.stop_gradient(entropy.mean()))


def imagination_losses(
    actor: Callable[[Any, Array], Any],
    critic: Callable[[Any, Array], Array],
    params: dict[str, Any],
    imagined: Imagined,
    ranges: ReturnRange,
    config: DreamerConfig,
    key: Array,
) -> tuple[dict[str, Array], ReturnRange, Array, dict[str, Array]]:
    """Losses of actor and critic on imagined trajectories.

    Args:
        actor: (parameters, policy features) → the distribution over actions.
        critic: (parameters, policy features) → logits.
        params: of "actor" and "critic".
        imagined: the trajectories.
        ranges: the running percentiles of returns.
        config: hyperparameters.
        key: for entropies that have to be estimated.

    Returns:
        mean losses by name, the new percentiles, the returns `[H, N]`, and metrics.
    """
    features, weight = imagined.policy_features, imagined.weight[:-1]
    end = lax.stop_gradient(two_hot_mean(critic(params["critic"], imagined.last_features)))
    rows = (features, imagined.reward[1:], imagined.discount[1:], imagined.slow_value, weight)
    loss = partial(_value_loss, critic, config)
    value_loss, (value, returns) = mean_over_rows(loss, True, params["critic"], (end, end), rows)
    ranges = ranges.update(returns, config.return_rate)
    advantage = (returns - value) / ranges.scale
    rows = (features, imagined.raw_action, advantage, weight, jax.random.split(key, len(features)))
    loss = partial(_policy_loss, actor, config)
    policy_loss, entropy = mean_over_rows(loss, False, params["actor"], (), rows)
    losses = {"policy": policy_loss, "value": value_loss}
    metrics = {
        "entropy": entropy.mean(),
        "imagined/return": returns.mean(),
        "imagined/reward": imagined.reward[1:].mean(),
        "imagined/value": jnp.concatenate([value, end[None]]).mean(),
        "imagined/return_range": ranges.scale,
        "imagined/advantage": jnp.abs(advantage).mean(),
    }
    return losses, ranges, returns, metrics


def replay_value_loss(
    reward: Array,
    terminated: Array,
    last: Array,
    bootstrap: Array,
    logits: Array,
    slow_logits: Array,
    config: DreamerConfig,
) -> Array:
    """The critic's loss on the replayed steps themselves, `[T - 1, B]`.

    Args:
        reward, terminated, last: `[T, B]`, see `replay.Batch`.
        bootstrap: `[T, B]`, an estimate of the return from each state.
        logits, slow_logits: of critic and slow critic `[T, B, bins]`.
        config: hyperparameters.
    """
    discount = config.discount * (1.0 - terminated)
    returns = lambda_returns(reward, discount, bootstrap, last, config.return_lambda)
    slow_value = two_hot_mean(slow_logits[:-1])
    loss = critic_loss(logits[:-1], slow_value, returns, config.slow_critic_weight)
    # Behind an episode's last observation comes another episode: no return leads there.
    return jnp.where(last[:-1], 0.0, loss)

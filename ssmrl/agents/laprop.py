"""LaProp with adaptive gradient clipping: the optimiser of world models.

Ziyin, Wang, Ueda, "LaProp: Separating Momentum and Adaptivity in Adam" (2020); clipping as in Brock
et al., "High-Performance Large-Scale Image Recognition Without Normalization" (2021), by the norms
of whole tensors instead of their rows, as in DreamerV3.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array


def clip_by_tensor_norm(share: float, smallest: float = 1e-3) -> optax.GradientTransformation:
    """Scale each tensor's gradient down to `share` of the tensor's own norm.

    Args:
        share: largest allowed |gradient| / |parameter|.
        smallest: norm that smaller parameters, such as zeros at the start, are counted as.
    """

    def update(gradients, state, params=None):
        def clip(gradient, parameter):
            limit = share * jnp.maximum(smallest, jnp.linalg.norm(parameter.ravel()))
            norm = jnp.linalg.norm(gradient.ravel())
            return gradient / jnp.maximum(1.0, norm / limit)

        return jax.tree.map(clip, gradients, params), state

    return optax.GradientTransformation(lambda _: optax.EmptyState(), update)


class LaPropState(NamedTuple):
    """Updates so far, mean of the normalised gradients, mean of the squared gradients."""

    updates: Array
    momentum: Any
    squares: Any


def scale_by_laprop(beta1: float, beta2: float, eps: float) -> optax.GradientTransformation:
    """Momentum over gradients that have been normalised already (LaProp, algorithm 1).

    n ← β₂ n + (1 - β₂) g²;  m ← β₁ m + (1 - β₁) g / (√n̂ + ε);  the update is m̂, where ˆ divides
    by 1 - βᵗ. Adam normalises the momentum instead, which is unstable for small ε.
    """

    def init(params):
        zeros = jax.tree.map(jnp.zeros_like, params)
        return LaPropState(jnp.zeros((), jnp.int32), zeros, zeros)

    def update(gradients, state, params=None):
        del params
        count = state.updates + 1
        squares = jax.tree.map(
            lambda n, g: beta2 * n + (1 - beta2) * g**2, state.squares, gradients
        )
        # Under jax_enable_x64 a power of an integer has 64 bits, and so would all that it divides.
        unbias, unbias_momentum = ((1 - beta**count).astype(jnp.float32) for beta in (beta2, beta1))
        normalised = jax.tree.map(
            # A gradient that has always been 0 stays 0, whatever ε is.
            lambda g, n: jnp.where(n > 0, g / (jnp.sqrt(n / unbias) + eps), 0.0),
            gradients,
            squares,
        )
        momentum = jax.tree.map(
            lambda m, g: beta1 * m + (1 - beta1) * g, state.momentum, normalised
        )
        updates = jax.tree.map(lambda m: m / unbias_momentum, momentum)
        return updates, LaPropState(count, momentum, squares)

    return optax.GradientTransformation(init, update)


def laprop(
    learning_rate: optax.Schedule | float,
    *,
    beta1: float = 0.9,
    beta2: float = 0.999,
    eps: float = 1e-20,
    clip: float = 0.3,
) -> optax.GradientTransformation:
    """Clip, normalise, average, step.

    Args:
        learning_rate: a number or a schedule of the updates so far.
        beta1, beta2, eps: see `scale_by_laprop`.
        clip: see `clip_by_tensor_norm`.
    """
    return optax.chain(
        clip_by_tensor_norm(clip),
        scale_by_laprop(beta1, beta2, eps),
        optax.scale_by_learning_rate(learning_rate),
    )

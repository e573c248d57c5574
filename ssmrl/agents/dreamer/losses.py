"""The pieces of Dreamer's objective: plain functions on arrays.

Hafner et al., "Mastering Diverse Domains through World Models" (2023), cited here as DreamerV3.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

LARGEST_SYMLOG = 20.0
"""Bins of two-hot targets reach to symexp(±20) = ±4.9e8."""


# ------------------------------------------------------------------------------------- scales


def symlog(x: Array) -> Array:
    """sign(x) · ln(|x| + 1) (DreamerV3, equation 9): squashes large values, keeps small ones."""
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def symexp(x: Array) -> Array:
    """sign(x) · (exp|x| - 1), the inverse of `symlog`."""
    return jnp.sign(x) * jnp.expm1(jnp.abs(x))


# ------------------------------------------------------------------------------------ two-hot


def symexp_bins(count: int) -> np.ndarray:
    """Centres `[count]` of the bins: symexp of an even grid, exactly symmetric about 0.

    Args:
        count: odd and at least 3, so that 0 is a bin.

    Raises:
        ValueError: for another count.
    """
    if count < 3 or count % 2 == 0:
        raise ValueError(f"two-hot targets need an odd number of bins, at least 3; got {count}")
    positive = np.expm1(np.linspace(0, LARGEST_SYMLOG, count // 2 + 1))
    return np.concatenate([-positive[:0:-1], positive]).astype(np.float32)


def two_hot(value: Array, bins: np.ndarray) -> Array:
    """`value` `[...]` as weights `[..., bins]` on its two neighbours (DreamerV3, equation 10).

    The weights' mean of the bins is the value; values outside the bins go to the nearest one.
    """
    value = jnp.clip(value, bins[0], bins[-1])
    above = jnp.clip(jnp.searchsorted(bins, value, side="right"), 1, len(bins) - 1)
    centres = jnp.asarray(bins)
    low, high = centres[above - 1], centres[above]
    share = ((value - low) / (high - low))[..., None]
    one_hot = jax.nn.one_hot
    return one_hot(above - 1, len(bins)) * (1 - share) + one_hot(above, len(bins)) * share


def two_hot_loss(logits: Array, target: Array) -> Array:
    """Cross-entropy `[...]` of `logits` `[..., bins]` against the two-hot code of `target`."""
    code = two_hot(target, symexp_bins(logits.shape[-1]))
    return -jnp.sum(code * jax.nn.log_softmax(logits), axis=-1)


def two_hot_mean(logits: Array) -> Array:
    """The mean `[...]` of the distribution over bins.

    Bins of opposite sign are added up first: their centres reach 10^8, and in any other order
    rounding would make even a symmetric distribution's mean far from 0.
    """
    bins = symexp_bins(logits.shape[-1])
    probability = jax.nn.softmax(logits)
    middle = len(bins) // 2
    positive, negative = probability[..., middle + 1 :], probability[..., :middle][..., ::-1]
    return jnp.sum((positive - negative) * bins[middle + 1 :], axis=-1)


# ------------------------------------------------------------------------------- categoricals


def unimix(logits: Array, share: float) -> Array:
    """Log-probabilities `[..., classes]` of `logits` mixed with `share` of the uniform.

    No class ever has probability 0, so that no KL divergence is infinite and no action is lost.
    """
    if share == 0:
        return jax.nn.log_softmax(logits)
    probability = (1 - share) * jax.nn.softmax(logits) + share / logits.shape[-1]
    return jnp.log(probability)


def straight_through_sample(log_probability: Array, noise: Array | float) -> Array:
    """One-hot draws `[..., classes]` whose gradient is that of the probabilities.

    Args:
        log_probability: normalised, `[..., classes]`.
        noise: standard Gumbel draws for a sample (the argmax of log p + noise is one); 0 for the
            most likely class.
    """
    chosen = jnp.argmax(lax.stop_gradient(log_probability) + noise, axis=-1)
    probability = jnp.exp(log_probability)
    one_hot = jax.nn.one_hot(chosen, log_probability.shape[-1], dtype=probability.dtype)
    return one_hot + (probability - lax.stop_gradient(probability))


def categorical_kl(p: Array, q: Array) -> Array:
    """KL(p ‖ q) `[...]` in nats, from log-probabilities `[..., variables, classes]`."""
    return jnp.sum(jnp.exp(p) * (p - q), axis=(-2, -1))


def kl_losses(posterior: Array, prior: Array, free_bits: float) -> tuple[Array, Array]:
    """The dynamics and the representation loss `[...]` (DreamerV3, equation 5).

    The first trains the prior towards the posterior, the second the posterior towards the prior;
    below `free_bits` nats neither has a gradient.

    Args:
        posterior, prior: log-probabilities `[..., variables, classes]`.
        free_bits: in nats, for all variables together.
    """
    dynamics = categorical_kl(lax.stop_gradient(posterior), prior)
    representation = categorical_kl(posterior, lax.stop_gradient(prior))
    return jnp.maximum(dynamics, free_bits), jnp.maximum(representation, free_bits)


# ------------------------------------------------------------------------------------ returns


def lambda_return(
    reward: Array, discount: Array, bootstrap: Array, following: Array, return_lambda: float
) -> Array:
    """The λ-return one step before `following`, the λ-return from the state that the step led to.

    Args:
        reward, discount, bootstrap: of that state, see `lambda_returns`.
        following: the λ-return from there on.
        return_lambda: λ.
    """
    return reward + discount * ((1 - return_lambda) * bootstrap + return_lambda * following)


def lambda_returns(
    reward: Array, discount: Array, bootstrap: Array, last: Array, return_lambda: float
) -> Array:
    """λ-returns (DreamerV3, equation 7) of all steps but the final one.

    R[t] = reward[t+1] + discount[t+1] · ((1 - λ) · bootstrap[t+1] + λ · R[t+1]), where the sequence
    is cut (and λ counts as 0) behind its end and where `last[t+1]`.

    Args:
        reward: `[T, ...]`; reward[t] came with state t.
        discount: `[T, ...]`; γ times the probability that the episode goes on at state t.
        bootstrap: `[T, ...]`; an estimate of the return from state t on.
        last: bool `[T, ...]`; state t is its episode's last, what follows belongs to another.
        return_lambda: λ.

    Returns:
        `[T - 1, ...]`.
    """

    def step(following, inputs):
        reward_t, discount_t, bootstrap_t, last_t = inputs
        # Chosen, not multiplied by 0: nothing of the next episode gets in.
        following = jnp.where(last_t, bootstrap_t, following)
        value = lambda_return(reward_t, discount_t, bootstrap_t, following, return_lambda)
        return value, value

    rows = jax.tree.map(lambda x: x[1:], (reward, discount, bootstrap, last))
    return lax.scan(step, bootstrap[-1], rows, reverse=True)[1]


# --------------------------------------------------------------------------------------- rows


RowLoss = Callable[[Any, Any, Any], tuple[Array, tuple[Any, Any]]]


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def mean_over_rows(loss: RowLoss, reverse: bool, params: Any, carry: Any, rows: Any):
    """The mean of `loss` over rows, and its gradient, with one row in memory at a time.

    A loss that is a mean is differentiated together with its value, row after row: the gradients
    are summed up, and what a row's gradient needs is never kept. Differentiating a loop, JAX would
    keep it for all rows, which for logits of 255 bins is most of an update's memory.

    Args:
        loss: (parameters, carry, row) → a mean `[]` of one row, and (the next carry, anything to
            tell). It must not close over anything that is traced.
        reverse: go from the last row to the first.
        params: a pytree; the only argument that has a gradient, and in `loss` alone.
        carry: for the first call.
        rows: a pytree of leaves `[R, ...]`, of equal weight.

    Returns:
        the mean over rows, and what was told of them, leaves `[R, ...]`.
    """

    def step(carry, row):
        value, (carry, told) = loss(params, carry, row)
        return carry, (value, told)

    values, told = lax.scan(step, carry, rows, reverse=reverse)[1]
    return values.mean(), told


def _mean_over_rows_forward(loss, reverse, params, carry, rows):
    def step(state, row):
        total, carry = state
        (value, (carry, told)), gradient = jax.value_and_grad(loss, has_aux=True)(
            params, carry, row
        )
        return (jax.tree.map(jnp.add, total, gradient), carry), (value, told)

    zeros = jax.tree.map(jnp.zeros_like, params)
    (total, _), (values, told) = lax.scan(step, (zeros, carry), rows, reverse=reverse)
    return (values.mean(), told), jax.tree.map(lambda g: g / len(values), total)


def _mean_over_rows_backward(loss, reverse, gradient, cotangents):
    # A loss of 64 bits must not make a gradient of 64 bits of parameters that have 32.
    scale = cotangents[0]
    return jax.tree.map(lambda g: (scale * g).astype(g.dtype), gradient), None, None


mean_over_rows.defvjp(_mean_over_rows_forward, _mean_over_rows_backward)

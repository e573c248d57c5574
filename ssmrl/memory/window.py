"""The last few inputs of an episode: frame stacks, and the short convolutions of gated memories."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import STATE_DTYPE


def last_inputs(x: Array, history: Array, reset: Array) -> tuple[list[Array], Array]:
    """What was seen 0, 1, ... L steps ago in the same episode, zeros before it began.

    Args:
        x: `[T, *batch, F]`.
        history: the last L inputs before `x`, zeros before their episode began,
            `[*batch, L, F]`, the newest first.
        reset: bool `[T, *batch]`.

    Returns:
        A list of L + 1 arrays like `x`, and the history after every step, `[T, *batch, L, F]`.
    """
    lags = [x]
    newest_first = jnp.moveaxis(history, -2, 0)
    for lag in range(history.shape[-2]):
        # What was `lag` steps ago at t - 1 is lag + 1 steps ago at t, unless t begins an episode.
        before = jnp.concatenate([newest_first[lag][None].astype(x.dtype), lags[-1][:-1]])
        lags.append(jnp.where(reset[..., None], 0, before))
    # All are stacked and the oldest is cut off: there is nothing to stack else where L is 0.
    histories = jnp.stack([lag.astype(STATE_DTYPE) for lag in lags], axis=-2)[..., :-1, :]
    return lags, histories


class CausalConv(nn.Module):
    """A depthwise convolution over the last inputs of the episode, `y = Σ_l w_l x[t-l] + b`.

    w starts uniform in ±1/√width, which is PyTorch's default and thus that of Mamba and of those
    that took the convolution over from it; b starts at 0, which is not.

    Carry: the history of `last_inputs`, float32 `[*batch, width - 1, F]`, the newest first.
    """

    width: int = 4

    def initialize_carry(self, batch_shape: tuple[int, ...], features: int) -> Array:
        return jnp.zeros((*batch_shape, self.width - 1, features), STATE_DTYPE)

    @nn.compact
    def __call__(self, history: Array, x: Array, reset: Array) -> tuple[Array, Array]:
        """The histories after every step `[T, *batch, width - 1, F]`, and y like `x`."""
        bound = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        kernel = self.param("kernel", bound, (self.width, x.shape[-1]), STATE_DTYPE)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), STATE_DTYPE)
        lags, histories = last_inputs(x, history, reset)
        kernel = kernel.astype(x.dtype)
        y = sum(weight * lag for weight, lag in zip(kernel, lags, strict=True))
        return histories, y + bias.astype(x.dtype)

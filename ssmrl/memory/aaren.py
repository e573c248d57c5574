"""Aaren: softmax attention of a learned query, as an associative scan.

Feng et al., "Attention as an RNN" (2024), section 3.2 and figure 3. Over the steps of an episode,

    s[t] = q·k[t]        y[t] = W_o (Σ_{j ≤ t} e^{s[j]} v[j] / Σ_{j ≤ t} e^{s[j]})

For numerical stability the sums are kept relative to the largest score m: the carry (m, u, w)
stands for (Σ e^s, Σ e^s v) = e^m (u, w).
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, AssociativeMemory, DTypeLike
from ssmrl.memory.linear import Dense

LOWEST = -1e30
"""The largest score of no steps; finite, since the difference of two infinities is no number."""


class Aaren(AssociativeMemory):
    """Attention as a recurrence, without the block around it.

    Attributes:
        features: width of the output.
        heads: number H of queries, each with its share of the values.
        dtype: dtype of the projections; None means the input's. The recurrence is float32.

    Carry: `{"m", "u": float32 [*batch, H, 1], "w": float32 [*batch, H, V]}`.
    """

    heads: int = 4
    dtype: DTypeLike | None = None

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> dict[str, Array]:
        if self.heads < 1 or self.features % self.heads:
            raise ValueError(
                f"Aaren: features {self.features} must be a positive multiple of heads {self.heads}"
            )
        shape = (*batch_shape, self.heads)
        return {
            "m": jnp.full((*shape, 1), LOWEST, STATE_DTYPE),
            "u": jnp.zeros((*shape, 1), STATE_DTYPE),
            "w": jnp.zeros((*shape, self.features // self.heads), STATE_DTYPE),
        }

    def encode(self, x: Array) -> dict[str, Array]:
        H, dtype = self.heads, x.dtype if self.dtype is None else self.dtype
        inputs = Dense(2 * self.features, dtype=dtype, use_bias=False, name="input")(x)
        k, v = jnp.split(inputs.astype(STATE_DTYPE).reshape(*x.shape[:-1], H, -1), 2, axis=-1)
        q = self.param("query", nn.initializers.normal(1.0), k.shape[-2:], STATE_DTYPE)
        score = jnp.sum(q * k, axis=-1, keepdims=True) * k.shape[-1] ** -0.5
        return {"m": score, "u": jnp.ones_like(score), "w": v}

    def decode(self, states: dict[str, Array], x: Array) -> Array:
        dtype = x.dtype if self.dtype is None else self.dtype
        mean = (states["w"] / states["u"]).reshape(*x.shape[:-1], -1).astype(dtype)
        return Dense(self.features, dtype=dtype, name="output")(mean).astype(x.dtype)

    def combine(self, left, right):
        m = jnp.maximum(left["m"], right["m"])
        scales = (jnp.exp(left["m"] - m), jnp.exp(right["m"] - m))
        merged = {name: scales[0] * left[name] + scales[1] * right[name] for name in ("u", "w")}
        return {"m": m} | merged

    def identity(self, like):
        zeros = {name: jnp.zeros_like(like[name]) for name in ("u", "w")}
        return {"m": jnp.full_like(like["m"], LOWEST)} | zeros

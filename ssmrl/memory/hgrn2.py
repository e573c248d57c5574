"""HGRN2: gated linear recurrence with an outer-product state and keys tied to the decay.

Qin et al., "HGRN2: Gated Linear RNNs with State Expansion" (2024), equation 6:

    f[t] = β + (1 - β) σ(W_f x[t])
    S[t] = diag(f[t]) S[t-1] + (1 - f[t]) v[t]ᵀ
    y[t] = W_o norm(S[t]ᵀ q[t]),        q = σ(W_q x), v = silu(W_v x), norm = LayerNorm
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.memory.linear import Dense
from ssmrl.memory.outer_product import LOWEST_LOG_DECAY, OuterProductMemory, Steps


class HGRN2(OuterProductMemory):
    """HGRN2's recurrence, without the block around it.

    Attributes:
        lower_bound: β, the smallest share of a channel that is kept; in the paper it grows with
            depth.
    """

    lower_bound: float = 0.01

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Array:
        lowest = float(np.exp(LOWEST_LOG_DECAY))
        if not lowest <= self.lower_bound < 1:
            raise ValueError(
                f"HGRN2: lower_bound must be in [{lowest:.4f}, 1), got {self.lower_bound}"
            )
        return super().initialize_carry(batch_shape)

    def project(self, x):
        H, K, dtype = self.heads, self.keys, x.dtype if self.dtype is None else self.dtype
        inputs = Dense(2 * H * K + self.features, dtype=dtype, use_bias=False, name="input")(x)
        q, f, v = map(self.split_heads, jnp.split(inputs, [H * K, 2 * H * K], axis=-1))
        forget = self.lower_bound + (1 - self.lower_bound) * nn.sigmoid(f)
        accept = (1 - self.lower_bound) * nn.sigmoid(-f)
        return Steps(nn.sigmoid(q), accept, nn.silu(v), jnp.log(forget))

    def read(self, y, x):
        dtype = x.dtype if self.dtype is None else self.dtype
        y = nn.LayerNorm(dtype=dtype, name="norm")(y.reshape(*x.shape[:-1], -1))
        return Dense(self.features, dtype=dtype, use_bias=False, name="output")(y)

"""Linear attention: softmax attention with the softmax replaced by a feature map.

Katharopoulos et al., "Transformers are RNNs" (2020), equations 16 to 20:

    S[t] = S[t-1] + φ(k[t]) v[t]ᵀ        z[t] = z[t-1] + φ(k[t])
    y[t] = W_o (S[t]ᵀ φ(q[t]) / z[t]ᵀ φ(q[t])),        φ(x) = elu(x) + 1
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import STATE_DTYPE
from ssmrl.memory.linear import Dense
from ssmrl.memory.outer_product import OuterProductMemory, Steps


class LinearAttention(OuterProductMemory):
    """Linear attention, without the block around it.

    Carry: float32 `[*batch, H, K, V + 1]`; the last column is z.
    """

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Array:
        shape = (*batch_shape, self.heads, self.keys, self.value_size + 1)
        return jnp.zeros(shape, STATE_DTYPE)

    def project(self, x):
        H, K, dtype = self.heads, self.keys, x.dtype if self.dtype is None else self.dtype
        inputs = Dense(2 * H * K + self.features, dtype=dtype, name="input")(x)
        q, k, v = map(self.split_heads, jnp.split(inputs, [H * K, 2 * H * K], axis=-1))
        # z is one more value that is always 1.
        v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
        return Steps(nn.elu(q) + 1, nn.elu(k) + 1, v, jnp.zeros_like(q[..., :1]))

    def read(self, y, x):
        dtype = x.dtype if self.dtype is None else self.dtype
        mean = y[..., :-1] / (y[..., -1:] + 1e-6)
        return Dense(self.features, dtype=dtype, name="output")(mean.reshape(*x.shape[:-1], -1))

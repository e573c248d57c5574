"""GLA: gated linear attention, in which every key channel has a decay that depends on the input.

Yang et al., "Gated Linear Attention Transformers with Hardware-Efficient Training" (2023),
equation 3 and section 4.4:

    α[t] = σ(W₂ W₁ x[t] + b)^(1/16)
    S[t] = diag(α[t]) S[t-1] + k[t] v[t]ᵀ
    y[t] = W_o (norm(S[t]ᵀ q[t]) ⊙ silu(W_g x[t]))
"""

import flax.linen as nn
import jax.numpy as jnp

from ssmrl.memory.base import STATE_DTYPE
from ssmrl.memory.linear import Dense
from ssmrl.memory.outer_product import OuterProductMemory, Steps

TEMPERATURE = 16.0
GATE_RANK = 16


class GLA(OuterProductMemory):
    """Gated linear attention, without the block around it."""

    def project(self, x):
        H, K, dtype = self.heads, self.keys, x.dtype if self.dtype is None else self.dtype
        sizes = [H * K, 2 * H * K, 2 * H * K + self.features]
        width = sizes[-1] + GATE_RANK
        inputs = Dense(width, dtype=dtype, use_bias=False, name="input")(x)
        q, k, v, low = jnp.split(inputs, sizes, axis=-1)
        gate = Dense(H * K, dtype=dtype, name="decay")(low).astype(STATE_DTYPE)
        log_decay = nn.log_sigmoid(gate) / TEMPERATURE
        q, k, v, log_decay = map(self.split_heads, (q, k, v, log_decay))
        return Steps(q * K**-0.5, k, v, log_decay)

    def read(self, y, x):
        return self.gated_output(y, x)

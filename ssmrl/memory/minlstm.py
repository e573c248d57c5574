"""minLSTM: an LSTM whose gates do not read the state, and which is therefore a linear recurrence.

Feng et al., "Were RNNs All We Needed?" (2024), section 3.2, with gates that sum to one:

    f = σ(W_f x + b_f)      i = σ(W_i x + b_i)
    h' = f / (f + i) ⊙ h + i / (f + i) ⊙ (W_h x + b_h)
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, ScanMemory
from ssmrl.memory.linear import Dense


class MinLSTM(ScanMemory):
    """A minimal long short-term memory.

    Attributes:
        features: width H of the state and the output.
        dtype: of the matrix product; None means the input's. States stay float32.

    Carry: float32 `[*batch, H]`.
    """

    dtype: DTypeLike | None = None

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Array:
        return jnp.zeros((*batch_shape, self.features), STATE_DTYPE)

    def encode(self, x: Array) -> tuple[Array, Array]:
        dtype = x.dtype if self.dtype is None else self.dtype
        gates = Dense(3 * self.features, dtype=dtype, name="input")(x).astype(STATE_DTYPE)
        forget, accept, candidate = jnp.split(gates, 3, axis=-1)
        # σ(f) / (σ(f) + σ(i)) = σ(log σ(f) - log σ(i)), which cannot become 0 / 0.
        balance = nn.log_sigmoid(forget) - nn.log_sigmoid(accept)
        return nn.sigmoid(balance), nn.sigmoid(-balance) * candidate

    def decode(self, states: Array, x: Array) -> Array:
        return states.astype(x.dtype)

"""minGRU: a GRU whose gate does not read the state, and which is therefore a linear recurrence.

Feng et al., "Were RNNs All We Needed?" (2024), section 3.1:

    z = σ(W_z x + b_z)        h' = (1 - z) ⊙ h + z ⊙ (W_h x + b_h)
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, ScanMemory
from ssmrl.memory.linear import Dense


class MinGRU(ScanMemory):
    """A minimal gated recurrent unit.

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
        both = Dense(2 * self.features, dtype=dtype, name="input")(x).astype(STATE_DTYPE)
        gate, candidate = jnp.split(both, 2, axis=-1)
        return nn.sigmoid(-gate), nn.sigmoid(gate) * candidate

    def decode(self, states: Array, x: Array) -> Array:
        return states.astype(x.dtype)

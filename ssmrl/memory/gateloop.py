"""GateLoop: a linear recurrence whose complex decay depends on the input.

Katsch, "GateLoop: Fully Data-Controlled Linear Recurrence for Sequence Modeling" (2023), with as
many heads as channels (section 3.3), so keys, queries and values are single numbers:

    h[t] = a[t] h[t-1] + k[t] v[t],   a[t] = σ(α[t]) exp(i β[t])       (equations 8, 9, 21)
    y[t] = W_o (Re(q[t] h[t]) ⊙ silu(g[t]))

α, β, k, v, q and g are linear in x[t].
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, ScanMemory
from ssmrl.memory.linear import Dense


class GateLoop(ScanMemory):
    """A gate loop, without the block around it.

    Attributes:
        features: width H of the state and the output.
        dtype: dtype of the matrix products; None means the input's. States stay complex64.

    Carry: complex64 `[*batch, H]`.
    """

    dtype: DTypeLike | None = None

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Array:
        return jnp.zeros((*batch_shape, self.features), jnp.complex64)

    def encode(self, x: Array) -> tuple[Array, Array]:
        dtype = x.dtype if self.dtype is None else self.dtype
        inputs = Dense(4 * self.features, dtype=dtype, name="input")(x).astype(STATE_DTYPE)
        alpha, beta, k, v = jnp.split(inputs, 4, axis=-1)
        # Added to α so that episodes are not forgotten before anything is learned: σ(3) = .95.
        modulus = nn.sigmoid(alpha + 3)
        decay = jax.lax.complex(modulus * jnp.cos(beta), modulus * jnp.sin(beta))
        return decay, jax.lax.complex(k * v, jnp.zeros_like(k))

    def decode(self, states: Array, x: Array) -> Array:
        dtype = x.dtype if self.dtype is None else self.dtype
        q, gate = jnp.split(Dense(2 * self.features, dtype=dtype, name="query")(x), 2, axis=-1)
        read = (q.astype(STATE_DTYPE) * states.real).astype(dtype)
        y = Dense(self.features, dtype=dtype, name="output")(read * nn.silu(gate))
        return y.astype(x.dtype)

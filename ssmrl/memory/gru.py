"""GRU: the gated recurrent unit, one step after the other.

Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder" (2014), in the form with
the reset gate behind the recurrent product (as cuDNN and PyTorch have it):

    r = σ(W_r x + U_r h + b_r)            z = σ(W_z x + U_z h + b_z)
    n = tanh(W_n x + b_n + r ⊙ (U_n h + c_n))        h' = (1 - z) ⊙ n + z ⊙ h

The input products of all steps are one matrix product in front of the loop, and so are the weight
gradients behind it: the loop itself holds only what depends on the step before.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, Memory
from ssmrl.memory.linear import Dense


class GRU(Memory):
    """A gated recurrent unit.

    Attributes:
        features: width H of the state and the output.
        learned_initial_carry: start episodes from a learned state instead of zeros.
        dtype: of the input product; None means the input's. The recurrence is float32.

    Carry: float32 `[*batch, H]`.
    """

    learned_initial_carry: bool = False
    dtype: DTypeLike | None = None

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Array:
        return jnp.zeros((*batch_shape, self.features), STATE_DTYPE)

    def unroll(self, carry, x, reset, return_carries):
        H = self.features
        dtype = x.dtype if self.dtype is None else self.dtype
        gates = Dense(3 * H, dtype=dtype, name="input")(x).astype(STATE_DTYPE)
        U = self.param("U", _orthogonal_gates, (H, 3 * H), STATE_DTYPE)
        c = self.param("c", nn.initializers.zeros, (H,), STATE_DTYPE)
        start = jnp.zeros((H,), STATE_DTYPE)
        if self.learned_initial_carry:
            start = self.param("initial_carry", nn.initializers.zeros, (H,), STATE_DTYPE)
        h = gru_scan(gates, U, c, carry, reset[..., None], start)
        return h[-1], h.astype(x.dtype), h


def _orthogonal_gates(key, shape, dtype):
    """An orthogonal matrix for each of the three gates."""
    orthogonal = nn.initializers.orthogonal()
    H = shape[0]
    gates = jax.vmap(lambda k: orthogonal(k, (H, H), dtype))(jax.random.split(key, 3))
    return jnp.moveaxis(gates, 0, 1).reshape(shape)


@jax.custom_vjp
def gru_scan(gates, U, c, h0, reset, start):
    """States h `[T, *batch, H]` from the input products `gates` `[T, *batch, 3H]` (order r, z, n).

    Args: U `[H, 3H]`, c `[H]`, h0 `[*batch, H]`, reset bool `[T, *batch, 1]`, start `[H]`.
    """
    return _forward(gates, U, c, h0, reset, start)[0]


def _gates(gates, h, U, c):
    H = h.shape[-1]
    recurrent = h @ U
    r, z = jnp.split(nn.sigmoid(gates[..., : 2 * H] + recurrent[..., : 2 * H]), 2, axis=-1)
    candidate = recurrent[..., 2 * H :] + c
    return r, z, candidate, jnp.tanh(gates[..., 2 * H :] + r * candidate)


def _forward(gates, U, c, h0, reset, start):
    def step(h, inputs):
        gates_t, reset_t = inputs
        h = jnp.where(reset_t, start, h)
        r, z, candidate, n = _gates(gates_t, h, U, c)
        h_next = (1 - z) * n + z * h
        return h_next, (h_next, (h, r, z, candidate, n))

    _, (states, saved) = lax.scan(step, h0, (gates, reset))
    return states, (saved, U, reset)


def _backward(residuals, h_bar):
    (previous, *gates), U, reset = residuals

    def step(into, inputs):
        h_bar_t, h, reset_t, (r, z, candidate, n) = inputs
        g = h_bar_t + into
        n_bar = g * (1 - z) * (1 - n * n)
        z_bar = g * (h - n) * z * (1 - z)
        r_bar = n_bar * candidate * r * (1 - r)
        recurrent_bar = jnp.concatenate([r_bar, z_bar, n_bar * r], axis=-1)
        into = g * z + recurrent_bar @ U.T
        return jnp.where(reset_t, 0, into), (recurrent_bar, n_bar, jnp.where(reset_t, into, 0))

    zeros = jnp.zeros_like(h_bar[0])
    h0_bar, (recurrent_bar, n_bar, start_bar) = lax.scan(
        step, zeros, (h_bar, previous, reset, tuple(gates)), reverse=True
    )
    H = zeros.shape[-1]
    leading = tuple(range(h_bar.ndim - 1))
    gates_bar = jnp.concatenate([recurrent_bar[..., : 2 * H], n_bar], axis=-1)
    U_bar = jnp.tensordot(previous, recurrent_bar, (leading, leading))
    c_bar = recurrent_bar[..., 2 * H :].sum(leading)
    return gates_bar, U_bar, c_bar, h0_bar, None, start_bar.sum(leading)


gru_scan.defvjp(_forward, _backward)

"""mLSTM: the LSTM with a matrix memory and exponential gates.

Beck et al., "xLSTM: Extended Long Short-Term Memory" (2024), equations 19 to 27:

    C[t] = f[t] C[t-1] + i[t] k[t] v[t]ᵀ        n[t] = f[t] n[t-1] + i[t] k[t]
    h[t] = C[t]ᵀ q[t] / max(|n[t]ᵀ q[t]|, 1),   log i = w_i x,   log f = log σ(w_f x)
    y[t] = W_o (norm(h[t]) ⊙ σ(W_g x[t]))

C and n are kept divided by exp(m), where m[t] = max(log f[t] + m[t-1], log i[t]) (equation 15).
With the gates divided accordingly the recurrence is the same, and no exponential overflows.

As in the authors' code, the gates' weights are zero at first. Their biases make log i a normal
number with standard deviation .1, and f = σ(b) with b from 3 to 6, in equal steps over the heads.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmrl.memory.base import STATE_DTYPE
from ssmrl.memory.linear import Dense
from ssmrl.memory.outer_product import OuterProductMemory, Steps
from ssmrl.scan import operator_scan


class MLSTM(OuterProductMemory):
    """A matrix LSTM cell, without the block around it.

    Carry: `{"C": float32 [*batch, H, K, V + 1], "m": float32 [*batch, H]}`; C's last column is n.
    """

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> dict[str, Array]:
        shape = (*batch_shape, self.heads)
        return {
            "C": jnp.zeros((*shape, self.keys, self.value_size + 1), STATE_DTYPE),
            "m": jnp.zeros(shape, STATE_DTYPE),
        }

    def unroll(self, carry, x, reset, return_carries):
        H, K, dtype = self.heads, self.keys, x.dtype if self.dtype is None else self.dtype
        inputs = Dense(2 * H * K + self.features, dtype=dtype, name="input")(x)
        q, k, v = map(self.split_heads, jnp.split(inputs, [H * K, 2 * H * K], axis=-1))
        zeros = nn.initializers.zeros
        gates = Dense(2 * H, dtype=dtype, kernel_init=zeros, bias_init=_gate_biases, name="gates")
        log_i, f = jnp.split(gates(x).astype(STATE_DTYPE), 2, axis=-1)
        m, accept, log_decay = stabilized(log_i, nn.log_sigmoid(f), carry["m"], reset)
        v = jnp.concatenate([v, jnp.ones_like(v[..., :1])], axis=-1)
        steps = Steps(q, k * (K**-0.5 * accept)[..., None], v, log_decay[..., None])
        last, y, states = self.attend(steps, carry["C"], reset, return_carries)
        h = normalized(y[..., :-1], y[..., -1:], m[..., None])
        h = nn.RMSNorm(dtype=dtype, name="norm")(h).reshape(*x.shape[:-1], -1)
        h = h * nn.sigmoid(Dense(self.features, dtype=dtype, name="gate")(x))
        y = Dense(self.features, dtype=dtype, name="output")(h).astype(x.dtype)
        carries = {"C": states, "m": m} if return_carries else None
        return {"C": last, "m": m[-1]}, y, carries


def stabilized(log_i: Array, log_f: Array, m0: Array, reset: Array) -> tuple[Array, Array, Array]:
    """m, the input gate exp(log i - m), and the log of the forget gate, log f + m[t-1] - m ≤ 0."""
    zero = jnp.zeros((), log_i.dtype)
    state = (jnp.zeros_like(m0), m0)
    _, m = operator_scan(_max_plus, (log_f, log_i), state, reset, (zero, zero))
    before = jnp.concatenate([m0[None], m[:-1]])
    before = jnp.where(reset[..., None], 0, before)
    return m, jnp.exp(log_i - m), log_f + before - m


def normalized(y: Array, weight: Array, m: Array) -> Array:
    """y / max(|weight|, e^-m), with both sides multiplied by e^min(m, 0).

    That takes the place of an exponential of a positive number, which overflows once m is below
    -88. The factor cancels, and therefore has no gradient.
    """
    lower = lax.stop_gradient(jnp.minimum(m, 0))
    factor = jnp.exp(lower)
    return y * factor / jnp.maximum(jnp.abs(weight) * factor, jnp.exp(lower - m))


def _max_plus(left, right):
    """Compose m → max(m + f, i)."""
    (f_left, i_left), (f_right, i_right) = left, right
    return f_left + f_right, jnp.maximum(i_left + f_right, i_right)


def _gate_biases(key, shape, dtype):
    """Those of the input gates, near exp(0), and of the forget gates, open."""
    heads = shape[0] // 2
    accept = 0.1 * jax.random.normal(key, (heads,), dtype)
    return jnp.concatenate([accept, jnp.linspace(3, 6, heads, dtype=dtype)])

"""RG-LRU: the real-gated linear recurrent unit, in the recurrent block of Griffin.

De et al., "Griffin: Mixing Gated Linear Recurrences with Local Attention for Efficient Language
Models" (2024), section 2.4 and figure 2:

    u = conv(W_u x)
    r = σ(W_r u + b_r)        i = σ(W_i u + b_i)        log a = -c softplus(Λ) ⊙ r
    h' = a ⊙ h + √(1 - a²) ⊙ (i ⊙ u)
    y = W_o (h' ⊙ gelu(W_g x))

Where the paper and the authors' public code (recurrentgemma) differ, this follows the paper: a at r
= 1 is initialised uniformly between .9 and .999 (in the code that is the range of a^(1/c), which
puts a between .43 and .992), and the first input of an episode is scaled by √(1 - a²) like every
other (in the code it is not scaled). The short convolution is initialised like Mamba's; that of the
code has a variance of .01 / width.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, Memory
from ssmrl.memory.linear import Dense
from ssmrl.memory.window import CausalConv
from ssmrl.scan import Method, linear_scan

SHARPNESS = 8.0
"""The constant c."""
STEEPEST = 1000.0
"""Bound of the derivative of √(1 - a²), which is infinite at a = 1."""


class RGLRU(Memory):
    """Griffin's recurrent block, without the residual block around it.

    Attributes:
        features: width H of the state and the output.
        conv_width: width of the short convolution, in steps.
        dtype: dtype of the matrix products; None means the input's. States stay float32.
        scan_method: "sequential", "associative", or "auto": the first on CPUs, else the second.

    Carry: `{"conv": float32 [*batch, conv_width - 1, H], "h": float32 [*batch, H]}`.
    """

    conv_width: int = 4
    dtype: DTypeLike | None = None
    scan_method: Method = "auto"

    ssm_parameters = ("decay_weight",)

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> dict[str, Array]:
        H = self.features
        conv = CausalConv(self.conv_width, parent=None).initialize_carry(batch_shape, H)
        return {"conv": conv, "h": jnp.zeros((*batch_shape, H), STATE_DTYPE)}

    def unroll(self, carry, x, reset, return_carries):
        H, dtype = self.features, x.dtype if self.dtype is None else self.dtype
        u, gate = jnp.split(Dense(2 * H, dtype=dtype, name="input")(x), 2, axis=-1)
        conv, u = CausalConv(self.conv_width, name="conv")(carry["conv"], u, reset)
        gates = nn.sigmoid(Dense(2 * H, dtype=dtype, name="gates")(u).astype(STATE_DTYPE))
        recurrence, accept = jnp.split(gates, 2, axis=-1)
        weight = self.param("decay_weight", _uniform_decays, (H,))
        log_a = -SHARPNESS * nn.softplus(weight) * recurrence
        b = sqrt_one_minus_square(log_a) * accept * u.astype(STATE_DTYPE)
        h = linear_scan(jnp.exp(log_a), b, carry["h"], reset, method=self.scan_method)
        y = Dense(H, dtype=dtype, name="output")(h.astype(dtype) * nn.gelu(gate))
        carries = {"conv": conv, "h": h}
        return jax.tree.map(lambda leaf: leaf[-1], carries), y.astype(x.dtype), carries


@jax.custom_jvp
def sqrt_one_minus_square(log_a: Array) -> Array:
    """√(1 - a²) of log a ≤ 0, with the derivative with respect to log a bounded by `STEEPEST`."""
    return jnp.sqrt(-jnp.expm1(2 * log_a))


@sqrt_one_minus_square.defjvp
def _bounded_derivative(primals, tangents):
    (log_a,), (tangent,) = primals, tangents
    y = sqrt_one_minus_square(log_a)
    return y, -jnp.exp(2 * log_a) / jnp.maximum(y, 1 / STEEPEST) * tangent


def _uniform_decays(key: Array, shape: tuple[int, ...]) -> Array:
    """Λ such that a is uniform in [.9, .999] at r = 1 (section 2.4)."""
    a = jax.random.uniform(key, shape, STATE_DTYPE, 0.9, 0.999)
    return jnp.log(jnp.expm1(-jnp.log(a) / SHARPNESS)).astype(STATE_DTYPE)

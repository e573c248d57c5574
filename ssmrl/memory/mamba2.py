"""Mamba-2: state space duality, a selective memory with one decay for each head.

Dao and Gu, "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured
State Space Duality" (2024), sections 6 and 7.1:

    g, u, Δ = W_in x          [u, b, c] = silu(conv(...))          Δ = softplus(Δ + δ)
    S[t] = exp(-Δ e^A) S[t-1] + b (Δ u)ᵀ         per head; b, c are shared by the heads
    y = W_out norm((S[t]ᵀ c + D u) ⊙ silu(g))

Initial values (the authors' code): e^A uniform between 1 and 16, softplus(δ) log-uniform, D = 1.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import STATE_DTYPE
from ssmrl.memory.linear import Dense, bounded_exp
from ssmrl.memory.mamba import inverse_softplus_step
from ssmrl.memory.outer_product import OuterProductMemory, Steps
from ssmrl.memory.window import CausalConv


class Mamba2(OuterProductMemory):
    """Mamba-2's block, without the residual block around it.

    Attributes:
        expand: channels D of the recurrence, as a multiple of `features`.
        conv_width: width of the short convolution, in steps.
        dt_min: smallest initial step Δ; they are drawn log-uniformly.
        dt_max: largest initial step Δ.

    Carry: `{"conv": float32 [*batch, conv_width - 1, D + 2K], "S": float32 [*batch, H, K, D/H]}`.
    """

    key_size: int | None = 32
    expand: int = 2
    conv_width: int = 4
    dt_min: float = 1e-3
    dt_max: float = 1e-1

    ssm_parameters = ("log_A", "step_bias")

    @property
    def channels(self) -> int:
        """D."""
        return self.expand * self.features

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> dict[str, Array]:
        if min(self.expand, self.conv_width) < 1:
            raise ValueError(
                "Mamba2: expand and conv_width must be at least 1, got "
                f"{self.expand} and {self.conv_width}"
            )
        H, K, V = self.heads, self.keys, self.expand * self.value_size
        conv = CausalConv(self.conv_width, parent=None)
        return {
            "conv": conv.initialize_carry(batch_shape, self.channels + 2 * K),
            "S": jnp.zeros((*batch_shape, H, K, V), STATE_DTYPE),
        }

    def unroll(self, carry, x, reset, return_carries):
        D, H, K = self.channels, self.heads, self.keys
        dtype = x.dtype if self.dtype is None else self.dtype
        inputs = Dense(2 * D + 2 * K + H, dtype=dtype, use_bias=False, name="input")(x)
        gate, mixed, step = jnp.split(inputs, [D, 2 * D + 2 * K], axis=-1)
        conv, mixed = CausalConv(self.conv_width, name="conv")(carry["conv"], mixed, reset)
        u, b, c = jnp.split(nn.silu(mixed).astype(STATE_DTYPE), [D, D + K], axis=-1)
        u = self.split_heads(u)
        steps = self.select(u, b, c, step.astype(STATE_DTYPE))
        last, y, states = self.attend(steps, carry["S"], reset, return_carries)
        skip = self.param("D", nn.initializers.ones, (H, 1), STATE_DTYPE)
        y = (y + skip * u).reshape(*x.shape[:-1], D).astype(dtype) * nn.silu(gate)
        y = nn.RMSNorm(dtype=dtype, name="norm")(y)
        y = Dense(self.features, dtype=dtype, use_bias=False, name="output")(y).astype(x.dtype)
        carries = {"conv": conv, "S": states} if return_carries else None
        return {"conv": conv[-1], "S": last}, y, carries

    def select(self, u: Array, b: Array, c: Array, step: Array) -> Steps:
        """The steps from u `[T, *batch, H, D/H]`, b and c `[T, *batch, K]`, Δ `[T, *batch, H]`."""
        step, log_decay = selective_decay(self, step)
        return Steps(c[..., None, :], b[..., None, :], u * step[..., None], log_decay[..., None])


def selective_decay(module: nn.Module, inputs: Array, slowest: float = 1.0) -> tuple[Array, Array]:
    """Δ = softplus(inputs + δ) and the log decay -Δ e^A, for each head, like `inputs`.

    Args:
        module: has `dt_min` and `dt_max`, and gets the parameters `step_bias` and `log_A`.
        inputs: `[..., H]`.
        slowest: e^A starts uniform between it and 16.
    """
    shape, bounds = inputs.shape[-1:], (module.dt_min, module.dt_max)
    step = nn.softplus(inputs + module.param("step_bias", inverse_softplus_step, shape, *bounds))
    return step, -step * bounded_exp(module.param("log_A", _log_of_uniform, shape, slowest))


def _log_of_uniform(key: Array, shape: tuple[int, ...], low: float) -> Array:
    """The logarithm of what is uniform in (low, 16]."""
    return jnp.log(16 - (16 - low) * jax.random.uniform(key, shape, STATE_DTYPE))

"""FFM: fast and forgetful memory.

Morad et al., "Reinforcement Learning with Fast and Forgetful Memory" (2023), equations 4 to 14:

    x̃ = ℓ₁(x) ⊙ σ(ℓ₂(x))                                       [m]
    S[t] = Γ ⊙ S[t-1] + x̃ 1ᵀ,     Γ_jk = exp(-α_j + i ω_k)      [m, c], complex
    y = LN(ℓ₃[Re S, Im S]) ⊙ σ(ℓ₄(x)) + ℓ₅(x) ⊙ (1 - σ(ℓ₄(x)))

Initialised as in the authors' PyTorch code, which works in double precision. The rates α are spaced
evenly, from the largest that does not overflow double precision within 1024 steps (with it a trace
halves in one step) to one that leaves 1 % of a trace after 1024 steps. The periods 2π/ω are spaced
evenly from 1 to 1024 steps.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, ScanMemory
from ssmrl.memory.linear import Dense, bounded_exp, pair_product

LONGEST = 1024
"""Steps over which traces start to fade to 1 % (the slowest) or turn once (the slowest)."""
MARGIN = 0.01
"""What the authors keep away, twice, from rates at which `LONGEST` steps overflow."""


class FFM(ScanMemory):
    """Fast and forgetful memory, without a block around it: it has its own skip connection.

    Attributes:
        features: width H of the output.
        trace_size: number m of traces.
        context_size: number c of frequencies that each trace is seen at.
        dtype: dtype of the matrix products; None means the input's. States stay complex64.

    Carry: complex64 `[*batch, m, c]`.
    """

    trace_size: int = 32
    context_size: int = 4
    dtype: DTypeLike | None = None

    ssm_parameters = ("log_decay", "frequency")

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Array:
        if self.trace_size < 1 or self.context_size < 1:
            raise ValueError(
                "FFM: trace_size and context_size must be at least 1, got "
                f"{self.trace_size} and {self.context_size}"
            )
        return jnp.zeros((*batch_shape, self.trace_size, self.context_size), jnp.complex64)

    def encode(self, x: Array) -> tuple[Array, Array]:
        dtype = x.dtype if self.dtype is None else self.dtype
        both = Dense(2 * self.trace_size, dtype=dtype, name="input")(x).astype(STATE_DTYPE)
        value, gate = jnp.split(both, 2, axis=-1)
        trace = (value * nn.sigmoid(gate))[..., None]
        inputs = jnp.broadcast_to(trace, (*trace.shape[:-1], self.context_size))
        return self._decay(), jax.lax.complex(inputs, jnp.zeros_like(inputs))

    def decode(self, states: Array, x: Array) -> Array:
        H, dtype = self.features, x.dtype if self.dtype is None else self.dtype
        flat, init = states.reshape(*x.shape[:-1], -1), nn.initializers.lecun_normal()
        read = self.param("read", init, (2 * flat.shape[-1], H), STATE_DTYPE)
        bias = self.param("read_bias", nn.initializers.zeros, (H,), STATE_DTYPE)
        read = pair_product(flat, read, dtype).astype(dtype) + bias.astype(dtype)
        # In two passes over the features XLA's CPU backend is faster, and it is more accurate.
        norm = nn.LayerNorm(use_bias=False, use_scale=False, use_fast_variance=False, dtype=dtype)
        read = norm(read)
        around = Dense(H, dtype=dtype, name="around")(x)
        gate = Dense(H, dtype=dtype, name="gate")(x)
        return (around + nn.sigmoid(gate) * (read - around)).astype(x.dtype)

    def _decay(self) -> Array:
        """Γ `[m, c]`."""
        fastest = np.log(np.finfo(np.float64).max) / LONGEST - 2 * MARGIN
        slowest = -np.log(0.01) / LONGEST
        rates = np.linspace(fastest, slowest, self.trace_size)
        periods = np.linspace(1, LONGEST, self.context_size)
        log_decay = self.param("log_decay", lambda _: jnp.asarray(np.log(rates), STATE_DTYPE))
        turns = 2 * np.pi / periods
        frequency = self.param("frequency", lambda _: jnp.asarray(turns, STATE_DTYPE))
        modulus = jnp.exp(-bounded_exp(log_decay))[:, None]
        return jax.lax.complex(modulus * jnp.cos(frequency), modulus * jnp.sin(frequency))

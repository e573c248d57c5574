"""LRU: the linear recurrent unit.

Orvieto et al., "Resurrecting Recurrent Neural Networks for Long Sequences" (2023):

    h[t] = λ ⊙ h[t-1] + γ ⊙ (B x[t]),        y[t] = Re(C h[t]) + D ⊙ x[t]

with λ = exp(-exp(ν) + i exp(θ)), initialised in a ring of the unit disk (Lemma 3.2). γ is learned
as its logarithm and initialised with √(1 - |λ|²) (equation 7). The real and the imaginary parts of
B and C have initial variances of 1/(2F) and 1/N, which makes up for taking the real part of y
(appendix A).

Matrix products are computed on pairs of real numbers; see `ssmrl.memory.s5`.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, ScanMemory
from ssmrl.memory.diagonal import DIAGONAL_PARAMETERS, DiagonalOptions
from ssmrl.memory.linear import bounded_exp, join_pair, pair_product, product, skip


class LRU(DiagonalOptions, ScanMemory):
    """A linear recurrent unit, without the block around it.

    Attributes:
        features: width H of the output.
        state_size: number N of states; None means `features`.
        r_min: smallest initial |λ|; λ is drawn uniformly from the ring.
        r_max: largest initial |λ|.
        max_phase: largest initial angle of λ, in radians; angles are drawn uniformly from 0 on.
        dtype: dtype of the matrix products; None means the input's. States stay complex64.

    Carry: complex64 `[*batch, N]`; float32 where `complex_state` is off.
    """

    state_size: int | None = None
    r_min: float = 0.9
    r_max: float = 0.999
    max_phase: float = 2 * np.pi
    dtype: DTypeLike | None = None

    ssm_parameters = (*DIAGONAL_PARAMETERS, "log_phase", "log_gamma")

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Array:
        size = self.features if self.state_size is None else self.state_size
        if size < 1 or not 0 <= self.r_min < self.r_max <= 1:
            raise ValueError(
                f"LRU: needs state_size >= 1 and 0 <= r_min < r_max <= 1, got {size}, "
                f"{self.r_min}, {self.r_max}"
            )
        dtype = jnp.complex64 if self.complex_state else STATE_DTYPE
        return jnp.zeros((*batch_shape, size), dtype)

    def encode(self, x: Array) -> tuple[Array, Array]:
        size, parts = self.initialize_carry(()).shape[-1], 2 if self.complex_state else 1
        init = nn.initializers.variance_scaling(1 / parts, "fan_in", "normal")
        B = self.param("B", init, (x.shape[-1], parts * size), STATE_DTYPE)
        decay, gamma = self._decay(size)
        inputs = product(x, B * jnp.tile(gamma, parts), self.dtype)
        return self.polarize(decay), join_pair(inputs) if self.complex_state else inputs

    def decode(self, states: Array, x: Array) -> Array:
        parts, multiply = (2, pair_product) if self.complex_state else (1, product)
        dtype = x.dtype if self.dtype is None else self.dtype
        # Variance 1/N in the real and in the imaginary part each (appendix A).
        init = nn.initializers.variance_scaling(parts, "fan_in", "normal")
        C = self.param("C", init, (parts * states.shape[-1], self.features), STATE_DTYPE)
        return multiply(states, C, dtype).astype(x.dtype) + skip(self, x, dtype)

    def _decay(self, size: int) -> tuple[Array, Array]:
        """λ and γ, both `[N]`."""
        low, high = self.r_min**2, self.r_max**2

        def start(key):  # uniform on the ring, hence uniform in |λ|²
            return -0.5 * jnp.log(jax.random.uniform(key, (size,), STATE_DTYPE, low, high))

        rate = self.rate(start, fastest=-0.5 * np.log(low) if low else 100.0)
        log_gamma = self.param("log_gamma", lambda _: 0.5 * jnp.log(-jnp.expm1(-2 * rate)))
        log_decay = -rate
        if self.complex_state:
            phase = self.param("log_phase", _log_uniform, (size,), self.max_phase)
            log_decay = jax.lax.complex(-rate, bounded_exp(phase))
        return jnp.exp(log_decay * self.step_rescale), bounded_exp(log_gamma)


def _log_uniform(key: Array, shape: tuple[int, ...], high: float) -> Array:
    """The logarithm of what is uniform in (0, high]."""
    return jnp.log(high * (1 - jax.random.uniform(key, shape, STATE_DTYPE)))

"""Mamba: a selective state space model (S6).

Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), algorithm 2;
for the block around it see `ssmrl.memory.selective`:

    Δ = softplus(W_Δ (W_r u) + b_Δ)          b = W_b u       c = W_c u
    h[t] = exp(A Δ) ⊙ h[t-1] + b (Δ ⊙ u)ᵀ,       A = -exp(log A) < 0

Initial values (section 3.6 and the authors' code): A = -1, -2, ... -N in every channel (S4D-Real),
softplus(b_Δ) log-uniform, W_Δ uniform in ±1/√rank, D = 1.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.memory.base import STATE_DTYPE
from ssmrl.memory.blockwise import outer, weighted_sum
from ssmrl.memory.linear import Dense, bounded_exp
from ssmrl.memory.selective import SelectiveMemory


class Mamba(SelectiveMemory):
    """Mamba's block, without the residual block around it.

    Attributes:
        dt_rank: width of the bottleneck before Δ; None means features / 16, rounded up.
        dt_min: smallest initial step Δ; they are drawn log-uniformly.
        dt_max: largest initial step Δ.
    """

    dt_rank: int | None = None
    dt_min: float = 1e-3
    dt_max: float = 1e-1

    ssm_parameters = ("log_A",)

    def select(self, u):
        N, rank = self.state_size, self.dt_rank or -(-self.features // 16)
        small = Dense(rank + 2 * N, dtype=u.dtype, use_bias=False, name="select")(u)
        low, b, c = jnp.split(small, [rank, rank + N], axis=-1)
        bias = lambda key, shape, dtype: inverse_softplus_step(key, shape, self.dt_min, self.dt_max)  # noqa: E731
        init = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
        layer = Dense(self.channels, dtype=u.dtype, kernel_init=init, bias_init=bias, name="step")
        step = layer(low)
        return (nn.softplus(step.astype(STATE_DTYPE)), b.astype(STATE_DTYPE)), c

    def constants(self):
        start = np.broadcast_to(np.log(np.arange(1, self.state_size + 1)), self._shape)
        log_A = self.param("log_A", lambda _: jnp.asarray(start, STATE_DTYPE))
        return -bounded_exp(log_A).T

    @property
    def _shape(self) -> tuple[int, int]:
        return self.channels, self.state_size

    @staticmethod
    def elements(selected, u, constants):
        step, b = selected
        return _decay(step, constants), outer(b, step * u)


@jax.custom_vjp
def _decay(step: Array, A: Array) -> Array:
    """exp(A Δ) `[..., N, D]` from Δ `[..., D]` and A `[N, D]`.

    Its gradient uses the exponentials that there are: XLA's CPU backend would compute them again in
    each of the sums, one by one.
    """
    return jnp.exp(step[..., None, :] * A)


def _decay_forward(step, A):
    a = _decay(step, A)
    return a, (a, step, A)


def _decay_backward(saved, a_bar):
    a, step, A = saved
    exponent_bar = a * a_bar
    step_bar = weighted_sum(exponent_bar * A, jnp.ones_like(a[..., 0]))
    A_bar = exponent_bar * step[..., None, :]
    return step_bar, A_bar.sum(tuple(range(a.ndim - A.ndim)))


_decay.defvjp(_decay_forward, _decay_backward)


def inverse_softplus_step(key: Array, shape: tuple[int, ...], low: float, high: float) -> Array:
    """Biases such that softplus of them is log-uniform between `low` and `high` (section 3.6)."""
    step = jnp.exp(jax.random.uniform(key, shape, STATE_DTYPE, np.log(low), np.log(high)))
    return step + jnp.log(-jnp.expm1(-step))

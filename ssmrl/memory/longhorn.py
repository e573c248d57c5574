"""Longhorn: a state space model that solves an online regression step by step.

Liu et al., "Longhorn: State Space Models are Amortized Online Learners" (2024), equations 10 and 11
and algorithm 1; for the block around it see `ssmrl.memory.selective`:

    k = W_k u        q = W_q u        β = σ(W_β (W_r u) + b_β)
    ε = β / (1 + β kᵀk)
    h[t] = (1 - (k ⊙ k) εᵀ) ⊙ h[t-1] + k (ε ⊙ u)ᵀ,       y = hᵀ q
"""

import flax.linen as nn
import jax.numpy as jnp

from ssmrl.memory.base import STATE_DTYPE
from ssmrl.memory.blockwise import outer
from ssmrl.memory.linear import Dense
from ssmrl.memory.selective import SelectiveMemory


class Longhorn(SelectiveMemory):
    """Longhorn's block, without the residual block around it.

    Attributes:
        beta_rank: width of the bottleneck before β; None means features / 16, rounded up.
    """

    beta_rank: int | None = None

    def select(self, u):
        N, rank = self.state_size, self.beta_rank or -(-self.features // 16)
        small = Dense(rank + 2 * N, dtype=u.dtype, use_bias=False, name="select")(u)
        low, k, q = jnp.split(small, [rank, rank + N], axis=-1)
        k = k.astype(STATE_DTYPE)
        beta = nn.sigmoid(Dense(self.channels, dtype=u.dtype, name="beta")(low).astype(STATE_DTYPE))
        rate = beta / (1 + beta * jnp.sum(k * k, axis=-1, keepdims=True))
        return (rate, k), q

    @staticmethod
    def elements(selected, u, constants):
        rate, k = selected
        return 1 - outer(k * k, rate), outer(k, rate * u)

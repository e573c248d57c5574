"""Block GRU: DreamerV3's recurrence, wide but with a block-diagonal recurrent matrix.

Hafner et al., "Mastering Diverse Domains through World Models" (2023), section "World model
learning": with J blocks h = (h₁ … h_J), and the input x (already embedded),

    s = SiLU(norm(W h))                                a summary of the state that all blocks see
    g = SiLU(norm(Block[h, s, x]))                     block j sees (h_j, s, x)
    r, c, z = Block g;   h' = σ(z - 1) ⊙ tanh(σ(r) ⊙ c) + (1 - σ(z - 1)) ⊙ h

The shift of z by -1 makes an untrained memory keep its state for longer. Norms are RMSNorm.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, Memory
from ssmrl.memory.linear import block_dense

EPSILON = 1e-4


class BlockGRU(Memory):
    """A gated recurrent unit with a block-diagonal recurrent matrix.

    Attributes:
        features: width H of the state and the output, a multiple of `blocks`.
        blocks: number J of blocks; None means the greatest common divisor of 8 and H.
        summary: width of the summary s; None means H / 8, at least 4.
        learned_initial_carry: start episodes from a learned state instead of zeros.
        dtype: dtype of the matrix products; None means the input's. The state is float32.

    Carry: float32 `[*batch, H]`.
    """

    blocks: int | None = None
    summary: int | None = None
    learned_initial_carry: bool = False
    dtype: DTypeLike | None = None

    @property
    def block_count(self) -> int:
        """J."""
        count = math.gcd(8, self.features) if self.blocks is None else self.blocks
        if count < 1 or self.features % count:
            raise ValueError(
                f"BlockGRU: features {self.features} must be a multiple of blocks {count}"
            )
        return count

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Array:
        width = self.block_count * (self.features // self.block_count)  # raises unless it divides
        return jnp.zeros((*batch_shape, width), STATE_DTYPE)

    def unroll(self, carry, x, reset, return_carries):
        H = self.features
        start = jnp.zeros((H,), STATE_DTYPE)
        if self.learned_initial_carry:
            start = self.param("initial_carry", nn.initializers.zeros, (H,), STATE_DTYPE)

        def step(self, h, inputs):
            x_t, reset_t = inputs
            h = self._step(jnp.where(reset_t[..., None], start.astype(h.dtype), h), x_t)
            return h, h

        scan = nn.scan(step, variable_broadcast="params", split_rngs={"params": False})
        last, states = scan(self, carry, (x, reset))
        return last, states.astype(x.dtype), states

    def _step(self, h: Array, x: Array) -> Array:
        """The next state `[*batch, H]`."""
        H, J = self.features, self.block_count
        dtype = x.dtype if self.dtype is None else self.dtype
        summary = max(4, H // 8) if self.summary is None else self.summary
        s = nn.Dense(summary, dtype=dtype, name="summarize")(h)
        s = nn.silu(nn.RMSNorm(EPSILON, dtype=dtype, name="norm_summary")(s))
        shared = jnp.concatenate([s, x.astype(dtype)], -1)[..., None, :]
        shared = jnp.broadcast_to(shared, (*h.shape[:-1], J, shared.shape[-1]))
        blocks = h.astype(dtype).reshape(*h.shape[:-1], J, H // J)
        g = block_dense(self, "hidden", jnp.concatenate([blocks, shared], -1), H // J)
        g = g.reshape(*h.shape[:-1], H)
        g = nn.silu(nn.RMSNorm(EPSILON, dtype=dtype, name="norm_hidden")(g))
        gates = block_dense(self, "gates", g.reshape(blocks.shape), 3 * H // J)
        gates = gates.astype(h.dtype).reshape(*h.shape[:-1], J, 3, H // J)
        r, c, z = (gates[..., i, :].reshape(h.shape) for i in range(3))
        update = nn.sigmoid(z - 1)
        return update * jnp.tanh(nn.sigmoid(r) * c) + (1 - update) * h

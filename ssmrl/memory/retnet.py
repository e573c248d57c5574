"""RetNet: retention, linear attention with a fixed decay for each head and rotary positions.

Sun et al., "Retentive Network: A Successor to Transformer for Large Language Models" (2023),
equations 5 to 8:

    S[t] = γ S[t-1] + (R[t] k[t]) v[t]ᵀ,     γ = 1 - 2^(-5 - head)
    y[t] = W_o (norm(S[t]ᵀ R[t] q[t]) ⊙ silu(W_g x[t])),     R[t] rotates by the position
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.memory.base import STATE_DTYPE
from ssmrl.memory.linear import Dense
from ssmrl.memory.outer_product import OuterProductMemory, Steps
from ssmrl.memory.position import positions, rotary_angles, rotate


class RetNet(OuterProductMemory):
    """Multi-scale retention, without the block around it.

    Carry: `{"S": float32 [*batch, H, K, V], "position": uint32 [*batch]}`; the next position.
    """

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> dict[str, Array]:
        if self.keys % 2:
            raise ValueError(f"RetNet: keys turn in pairs, key_size {self.keys} must be even")
        return {
            "S": super().initialize_carry(batch_shape),
            "position": jnp.zeros(batch_shape, jnp.uint32),
        }

    def unroll(self, carry, x, reset, return_carries):
        position = positions(carry["position"], reset)
        steps = self.retain(x, rotary_angles(position, self.keys)[..., None, :])
        last, y, states = self.attend(steps, carry["S"], reset, return_carries)
        carries = {"S": states, "position": position + 1} if return_carries else None
        y = self.gated_output(y, x).astype(x.dtype)
        return {"S": last, "position": position[-1] + 1}, y, carries

    def retain(self, x: Array, angles: Array) -> Steps:
        """Turned queries and keys, values, and the heads' decays."""
        H, K, dtype = self.heads, self.keys, x.dtype if self.dtype is None else self.dtype
        inputs = Dense(2 * H * K + self.features, dtype=dtype, use_bias=False, name="input")(x)
        q, k, v = map(self.split_heads, jnp.split(inputs, [H * K, 2 * H * K], axis=-1))
        of_heads = jnp.asarray(np.log1p(-(2.0 ** (-5 - np.arange(H)))), STATE_DTYPE)[:, None]
        log_decay = jnp.broadcast_to(of_heads, (*x.shape[:-1], H, 1))
        return Steps(rotate(q, angles) * K**-0.5, rotate(k, angles), v, log_decay)

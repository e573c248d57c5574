"""GRU: the gated recurrent unit, computed step by step.

Cho et al., "Learning Phrase Representations using RNN Encoder-Decoder" (2014), in the form in
which the reset gate is applied after the recurrent product (as in cuDNN and PyTorch):

    r = σ(W_r x + U_r h + b_r)            z = σ(W_z x + U_z h + b_z)
    n = tanh(W_n x + b_n + r ⊙ (U_n h + c_n))        h' = (1 - z) ⊙ n + z ⊙ h
"""

import flax.linen as nn
import jax.numpy as jnp

from ssmrl.memory.recurrent import GatedCell


class GRU(GatedCell):
    """A gated recurrent unit. Carry: `{"h": float32 [*batch, H]}`."""

    gates = 3

    @staticmethod
    def cell(state, inputs, recurrent):
        h, (r_x, z_x, n_x), (r_h, z_h, n_h) = state["h"], inputs, recurrent
        z = nn.sigmoid(z_x + z_h)
        n = jnp.tanh(n_x + nn.sigmoid(r_x + r_h) * n_h)
        return {"h": n + z * (h - n)}

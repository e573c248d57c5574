"""LSTM: long short-term memory, computed step by step.

Hochreiter and Schmidhuber, "Long Short-Term Memory" (1997), with the forget gate of Gers,
Schmidhuber and Cummins, "Learning to Forget" (2000), which is open at first (Jozefowicz,
Zaremba and Sutskever, "An Empirical Exploration of Recurrent Network Architectures", 2015):

    i = σ(W_i x + U_i h + b_i)        f = σ(W_f x + U_f h + b_f + 1)
    g = tanh(W_g x + U_g h + b_g)     o = σ(W_o x + U_o h + b_o)
    c' = f ⊙ c + i ⊙ g                h' = o ⊙ tanh(c')
"""

import flax.linen as nn
import jax.numpy as jnp

from ssmrl.memory.recurrent import GatedCell


class LSTM(GatedCell):
    """Long short-term memory. Carry: `{"c", "h"}`, float32 `[*batch, H]` each."""

    gates = 4
    state_names = ("c", "h")

    @staticmethod
    def cell(state, inputs, recurrent):
        i, f, g, o = map(jnp.add, inputs, recurrent)
        c = nn.sigmoid(f + 1) * state["c"] + nn.sigmoid(i) * jnp.tanh(g)
        return {"c": c, "h": nn.sigmoid(o) * jnp.tanh(c)}

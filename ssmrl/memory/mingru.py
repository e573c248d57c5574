"""minGRU: a GRU whose gate does not depend on the state, which makes it a linear recurrence.

Feng et al., "Were RNNs All We Needed?" (2024), section 3.1:

    z = σ(W_z x + b_z)        h' = (1 - z) ⊙ h + z ⊙ (W_h x + b_h)
"""

import flax.linen as nn
from jax import Array

from ssmrl.memory.minimal import MinimalCell


class MinGRU(MinimalCell):
    """A minimal gated recurrent unit.

    Attributes:
        features: width H of the state and the output.
        dtype: dtype of the matrix product; None means the input's. States stay float32.

    Carry: float32 `[*batch, H]`.
    """

    inputs = 2

    @staticmethod
    def gate(gates: list[Array]) -> tuple[Array, Array]:
        (update,) = gates
        return nn.sigmoid(-update), nn.sigmoid(update)

"""minLSTM: an LSTM whose gates do not depend on the state, which makes it a linear recurrence.

Feng et al., "Were RNNs All We Needed?" (2024), section 3.2, with gates that sum to one:

    f = σ(W_f x + b_f)      i = σ(W_i x + b_i)
    h' = f / (f + i) ⊙ h + i / (f + i) ⊙ (W_h x + b_h)
"""

import flax.linen as nn
from jax import Array

from ssmrl.memory.minimal import MinimalCell


class MinLSTM(MinimalCell):
    """A minimal long short-term memory.

    Attributes:
        features: width H of the state and the output.
        dtype: dtype of the matrix product; None means the input's. States stay float32.

    Carry: float32 `[*batch, H]`.
    """

    inputs = 3

    @staticmethod
    def gate(gates: list[Array]) -> tuple[Array, Array]:
        forget, accept = gates
        # σ(f) / (σ(f) + σ(i)) = σ(log σ(f) - log σ(i)), which cannot become 0 / 0.
        balance = nn.log_sigmoid(forget) - nn.log_sigmoid(accept)
        return nn.sigmoid(balance), nn.sigmoid(-balance)

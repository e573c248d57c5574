"""Dense layers with root-mean-square normalisation, as world models use them."""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.linear import Dense
from ssmrl.networks.mlp import activation_function

EPSILON = 1e-4
"""Of the normalisations: what is much smaller is not blown up, and gradients stay bounded."""


class NormedMLP(nn.Module):
    """Dense → RMSNorm → activation, `layers` times; with `outputs` a last linear layer "output".

    Attributes:
        layers: number of hidden layers; 0 for none.
        units: their width.
        outputs: width of the linear output layer, or None for none.
        output_scale: factor on the output layer's initial weights; 0 makes them zero.
        activation: one of `ssmrl.networks.mlp.ACTIVATIONS`.
        dtype: of the hidden layers; the outputs are float32.
    """

    layers: int
    units: int
    outputs: int | None = None
    output_scale: float = 1.0
    activation: str = "silu"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        activate = activation_function(self.activation)
        x = x.astype(self.dtype)
        for i in range(self.layers):
            x = Dense(self.units, dtype=self.dtype, name=f"dense_{i}")(x)
            x = activate(nn.RMSNorm(EPSILON, dtype=self.dtype, name=f"norm_{i}")(x))
        if self.outputs is None:
            return x
        init = nn.initializers.zeros
        if self.output_scale > 0:
            init = nn.initializers.variance_scaling(
                self.output_scale**2, "fan_in", "truncated_normal"
            )
        output = Dense(self.outputs, dtype=jnp.float32, kernel_init=init, name="output")
        return output(x.astype(jnp.float32))

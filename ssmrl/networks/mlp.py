"""Multilayer perceptrons with orthogonal initialisation."""

from collections.abc import Callable

import flax.linen as nn
import numpy as np
from jax import Array

from ssmrl.memory.linear import Dense, orthogonal

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "elu": nn.elu,
    "gelu": nn.gelu,
    "leaky_relu": nn.leaky_relu,
    "relu": nn.relu,
    "silu": nn.silu,
    "tanh": nn.tanh,
}


def activation_function(name: str) -> Callable[[Array], Array]:
    """One of `ACTIVATIONS`.

    Raises:
        ValueError: for any other name.
    """
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}; choose one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]


class MLP(nn.Module):
    """Dense layers with activations; with `outputs` a last linear layer called "output".

    Attributes:
        hidden: widths of the hidden layers.
        activation: one of `ACTIVATIONS`.
        outputs: width of the linear output layer, or None for none.
        output_scale: gain of the output layer's orthogonal initialisation.
        layer_norm: normalise in front of every activation (Ba et al. 2016).
    """

    hidden: tuple[int, ...]
    activation: str = "silu"
    outputs: int | None = None
    output_scale: float = 1.0
    layer_norm: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        activate = activation_function(self.activation)
        for width in self.hidden:
            x = Dense(width, kernel_init=orthogonal(np.sqrt(2)))(x)
            x = activate(nn.LayerNorm()(x) if self.layer_norm else x)
        if self.outputs is None:
            return x
        init = orthogonal(self.output_scale)
        return Dense(self.outputs, kernel_init=init, name="output")(x)

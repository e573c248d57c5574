"""One residual block, and the stack of them: both are memories themselves."""

from collections.abc import Callable

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import Carry, Memory
from ssmrl.memory.linear import Dense

NORMS = ("none", "pre", "post")
GLUS = ("none", "half", "full")
ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "none": lambda x: x,
    "gelu": nn.gelu,
    "silu": nn.silu,
    "relu": nn.relu,
    "tanh": nn.tanh,
}


class ResidualBlock(Memory):
    """A memory inside a residual block; with everything switched off, the memory alone.

    g = activation(memory(norm(x)));  y = x + glu(g), where (Smith et al. 2023, section 3.3)
    full: glu(g) = W₁g ⊙ σ(W₂g);  half: glu(g) = g ⊙ σ(W₂g);  none: glu(g) = g.

    Attributes:
        memory: the memory inside, of the same width.
        residual: add the input (projected where the width changes).
        norm: LayerNorm before the memory ("pre"), after the sum ("post"), or "none".
        activation: one of `ACTIVATIONS`.
        glu: "full", "half" or "none".
    """

    memory: Memory
    residual: bool = True
    norm: str = "none"
    activation: str = "gelu"
    glu: str = "full"

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        return self.memory.initialize_carry(batch_shape)

    def unroll(self, carry, x, reset, return_carries):
        _check_choice("norm", self.norm, NORMS)
        _check_choice("glu", self.glu, GLUS)
        _check_choice("activation", self.activation, tuple(ACTIVATIONS))
        if self.residual and x.shape[-1] != self.features:
            x = Dense(self.features, dtype=x.dtype, name="embed")(x)
        inner = nn.LayerNorm(dtype=x.dtype, name="norm")(x) if self.norm == "pre" else x
        last, g, *carries = self.memory(carry, inner, reset, return_carries)
        y = self._glu(ACTIVATIONS[self.activation](g))
        y = x + y if self.residual else y
        y = nn.LayerNorm(dtype=x.dtype, name="norm")(y) if self.norm == "post" else y
        return last, y, carries[0] if carries else None

    def _glu(self, g: Array) -> Array:
        if self.glu == "none":
            return g
        if self.glu == "half":
            return g * nn.sigmoid(Dense(self.features, dtype=g.dtype, name="glu")(g))
        both = Dense(2 * self.features, dtype=g.dtype, name="glu")(g)
        value, gate = jnp.split(both, 2, axis=-1)
        return value * nn.sigmoid(gate)


class Stack(Memory):
    """Memories one behind the other. Carry: the tuple of their carries."""

    layers: tuple[Memory, ...]

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        return tuple(layer.initialize_carry(batch_shape) for layer in self.layers)

    def unroll(self, carry, x, reset, return_carries):
        last, carries = [], []
        for layer, layer_carry in zip(self.layers, carry, strict=True):
            layer_last, x, *layer_carries = layer(layer_carry, x, reset, return_carries)
            last.append(layer_last)
            carries += layer_carries
        return tuple(last), x, tuple(carries)


def _check_choice(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"unknown {what} {value!r}; choose one of {', '.join(choices)}")

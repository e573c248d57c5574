"""Gated memories with a state of N numbers a channel whose decays depend on the input.

Gu and Dao, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces" (2023), figure 3:

    u, g = W_in x                u = silu(conv(u))
    h[t] = a[t] ⊙ h[t-1] + b[t]              [N, D], a and b from u[t]
    y = W_out ((hᵀ c + D ⊙ u) ⊙ silu(g))     c [N] from u[t]

The matrix h is the transpose of the authors': channels are many, and lie side by side.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, Memory
from ssmrl.memory.blockwise import read_blockwise, weighted_sum
from ssmrl.memory.linear import Dense
from ssmrl.memory.window import CausalConv
from ssmrl.scan import Method


class SelectiveMemory(Memory):
    """The block of Mamba around a recurrence that a subclass writes as `select` and `elements`.

    Attributes:
        features: width H of the output.
        expand: channels D of the recurrence, as a multiple of H.
        state_size: number N of states per channel.
        conv_width: width of the short convolution, in steps.
        dtype: dtype of the matrix products; None means the input's. States stay float32.
        scan_method: "sequential", "associative", or "auto": the first on CPUs, else the second.

    Carry: `{"conv": float32 [*batch, conv_width - 1, D], "h": float32 [*batch, N, D]}`.
    """

    expand: int = 2
    state_size: int = 16
    conv_width: int = 4
    dtype: DTypeLike | None = None
    scan_method: Method = "auto"

    @property
    def channels(self) -> int:
        """D."""
        return self.expand * self.features

    def select(self, u: Array) -> tuple[Any, Array]:
        """What `elements` needs beside u, leaves `[T, *batch, ...]`, and c `[T, *batch, N]`."""
        raise NotImplementedError

    @staticmethod
    def elements(selected: Any, u: Array, constants: Any) -> tuple[Array, Array]:
        """a and b `[T, *batch, N, D]` from u `[T, *batch, D]` and what `select` returned."""
        raise NotImplementedError

    def constants(self) -> Any:
        """Parameters that `elements` reads."""
        return None

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> dict[str, Array]:
        if min(self.expand, self.state_size, self.conv_width) < 1:
            raise ValueError(
                f"{type(self).__name__}: expand, state_size and conv_width must be at least 1, got "
                f"{self.expand}, {self.state_size}, {self.conv_width}"
            )
        D = self.channels
        conv = CausalConv(self.conv_width, parent=None).initialize_carry(batch_shape, D)
        return {"conv": conv, "h": jnp.zeros((*batch_shape, self.state_size, D), STATE_DTYPE)}

    def unroll(self, carry, x, reset, return_carries):
        D, dtype = self.channels, x.dtype if self.dtype is None else self.dtype
        u, gate = jnp.split(Dense(2 * D, dtype=dtype, use_bias=False, name="input")(x), 2, axis=-1)
        conv, u = CausalConv(self.conv_width, name="conv")(carry["conv"], u, reset)
        u = nn.silu(u)
        selected, c = self.select(u)
        wide = u.astype(STATE_DTYPE)
        skip = self.param("D", nn.initializers.ones, (D,), STATE_DTYPE)
        constants = self.constants()
        last, read, states = read_blockwise(
            lambda inputs: self.elements(inputs[0], inputs[1], constants),
            lambda h, inputs: weighted_sum(h, inputs[2]),
            (selected, wide, c.astype(STATE_DTYPE)),
            carry["h"],
            reset,
            method=self.scan_method,
            return_states=return_carries,
        )
        y = (read + skip * wide).astype(dtype) * nn.silu(gate)
        y = Dense(self.features, dtype=dtype, use_bias=False, name="output")(y).astype(x.dtype)
        carries = {"conv": conv, "h": states} if return_carries else None
        return {"conv": conv[-1], "h": last}, y, carries

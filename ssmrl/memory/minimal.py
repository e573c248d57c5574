"""Gated cells without a recurrent product: what minGRU and minLSTM share."""

from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, ScanMemory
from ssmrl.memory.linear import Dense


class MinimalCell(ScanMemory):
    """A cell whose gates read the input alone: a subclass writes `gate`. The output is the state.

    Attributes:
        features: width H of the state and the output.
        dtype: dtype of the matrix product; None means the input's. States stay float32.

    Carry: float32 `[*batch, H]`.
    """

    dtype: DTypeLike | None = None

    inputs: ClassVar[int]
    """Number of input products, each of width H; the last one is the candidate."""

    @staticmethod
    def gate(gates: list[Array]) -> tuple[Array, Array]:
        """What is kept of the state and taken of the candidate, from all inputs but the last."""
        raise NotImplementedError

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Array:
        return jnp.zeros((*batch_shape, self.features), STATE_DTYPE)

    def encode(self, x: Array) -> tuple[Array, Array]:
        dtype = x.dtype if self.dtype is None else self.dtype
        inputs = Dense(self.inputs * self.features, dtype=dtype, name="input")(x)
        *gates, candidate = jnp.split(inputs.astype(STATE_DTYPE), self.inputs, axis=-1)
        keep, take = self.gate(gates)
        return keep, take * candidate

    def decode(self, states: Array, x: Array) -> Array:
        return states.astype(x.dtype)

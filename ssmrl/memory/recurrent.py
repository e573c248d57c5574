"""Gated cells one step after the other: what GRU and LSTM share.

The input products of all steps are one matrix product in front of the loop, and so are the weight
gradients behind it: the loops hold only what depends on the step before. Every gate is an array of
its own by then: XLA's CPU backend is several times slower on a cell that cuts its gates out of one.
"""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, Memory
from ssmrl.memory.linear import Dense, orthogonal

State = dict[str, Array]
Gates = tuple[Array, ...]
Cell = Callable[[State, Gates, Gates], State]


class GatedCell(Memory):
    """A cell whose gates read the input and the state `h`: a subclass writes `cell`.

    Attributes:
        features: width H of the state and the output.
        learned_initial_carry: start episodes from a learned state instead of zeros.
        dtype: dtype of the input product; None means the input's. The recurrence is float32.
    """

    learned_initial_carry: bool = False
    dtype: DTypeLike | None = None

    gates: ClassVar[int]
    """Number of gates, each of width H."""
    state_names: ClassVar[tuple[str, ...]] = ("h",)
    """Parts of the state, `[*batch, H]` each; `h` is what the gates and the output read."""

    @staticmethod
    def cell(state: State, inputs: Gates, recurrent: Gates) -> State:
        """The next state from each gate's W x + b and U h + c, all `[*batch, H]`."""
        raise NotImplementedError

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> State:
        zeros = jnp.zeros((*batch_shape, self.features), STATE_DTYPE)
        return dict.fromkeys(self.state_names, zeros)

    def unroll(self, carry, x, reset, return_carries):
        H, width = self.features, self.gates * self.features
        dtype = x.dtype if self.dtype is None else self.dtype
        inputs = Dense(width, dtype=dtype, name="input")(x).astype(STATE_DTYPE)
        U = self.param("U", _orthogonal_gates, (H, width), STATE_DTYPE)
        c = self.param("c", nn.initializers.zeros, (width,), STATE_DTYPE)
        inputs = split_gates(inputs, H)
        states = recurrent_scan(self.cell, inputs, U, c, carry, reset[..., None], self._start())
        last = jax.tree.map(lambda leaf: leaf[-1], states)
        return last, states["h"].astype(x.dtype), states

    def _start(self) -> State:
        H = self.features
        if not self.learned_initial_carry:
            return self.initialize_carry(())
        init, size = nn.initializers.zeros, len(self.state_names)
        start = self.param("initial_carry", init, (size, H), STATE_DTYPE)
        return dict(zip(self.state_names, start, strict=True))


def split_gates(x: Array, width: int) -> Gates:
    """`[..., gates H]` → of every gate `[..., H]`."""
    return tuple(jnp.split(x, x.shape[-1] // width, axis=-1))


def _orthogonal_gates(key, shape, dtype):
    """An orthogonal matrix for each gate."""
    H, width = shape
    keys = jax.random.split(key, width // H)
    gates = jax.vmap(lambda k: orthogonal()(k, (H, H), dtype))(keys)
    return jnp.moveaxis(gates, 0, 1).reshape(shape)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def recurrent_scan(cell: Cell, inputs: Gates, U, c, state0: State, reset, start: State) -> State:
    """States `[T, *batch, H]` of `cell` from the input products.

    Args:
        cell: see `GatedCell.cell`; elementwise.
        inputs: of every gate `[T, *batch, H]`.
        U, c: `[H, gates H]` and `[gates H]`, the recurrent product.
        state0: the state before the first step.
        reset: bool `[T, *batch, 1]`.
        start: the state that a reset starts from, leaves `[H]`.
    """
    return _forward(cell, inputs, U, c, state0, reset, start)[0]


def _forward(cell, inputs, U, c, state0, reset, start):
    def step(state, xs):
        inputs_t, reset_t = xs
        state = jax.tree.map(partial(jnp.where, reset_t), start, state)
        recurrent = split_gates(state["h"] @ U + c, U.shape[0])
        next_state = cell(state, inputs_t, recurrent)
        return next_state, (next_state, state, recurrent)

    _, (states, previous, recurrent) = lax.scan(step, state0, (inputs, reset))
    return states, (inputs, previous, recurrent, U, reset)


def _backward(cell, residuals, states_bar):
    inputs, previous, recurrent, U, reset = residuals

    def step(into, xs):
        state_bar, inputs_t, state, recurrent_t, reset_t = xs
        state_bar = jax.tree.map(jnp.add, state_bar, into)
        _, pull_back = jax.vjp(cell, state, inputs_t, recurrent_t)
        into, inputs_bar, recurrent_bar = pull_back(state_bar)
        recurrent_bar = jnp.concatenate(recurrent_bar, axis=-1)
        into = into | {"h": into["h"] + recurrent_bar @ U.T}
        start_bar = jax.tree.map(lambda leaf: jnp.where(reset_t, leaf, 0), into)
        into = jax.tree.map(lambda leaf: jnp.where(reset_t, 0, leaf), into)
        return into, (inputs_bar, recurrent_bar, start_bar)

    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf[0]), previous)
    xs = (states_bar, inputs, previous, recurrent, reset)
    state0_bar, (inputs_bar, recurrent_bar, start_bar) = lax.scan(step, zeros, xs, reverse=True)
    rows = recurrent_bar.reshape(-1, recurrent_bar.shape[-1])
    h = previous["h"].reshape(-1, U.shape[0])
    leading = tuple(range(reset.ndim - 1))
    start_bar = jax.tree.map(lambda leaf: leaf.sum(leading), start_bar)
    return inputs_bar, h.T @ rows, rows.sum(0), state0_bar, None, start_bar


recurrent_scan.defvjp(_forward, _backward)

"""Elementwise recurrences whose states are many times larger than what goes in and comes out."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax.numpy as jnp
from jax import Array, lax

from ssmrl.scan import Method, linear_scan, scan_in_blocks

BLOCK_ON_CPU, BLOCK = 16, 128
"""Steps whose states are held at once."""


def outer(rows: Array, columns: Array) -> Array:
    """`rows ⊗ columns`, `[..., N]` and `[..., D]` → `[..., N, D]`.

    As a product, because its gradient then is one as well: as a sum over an axis of a broadcast
    array, XLA's CPU backend takes several times as long for it.
    """
    return jnp.einsum("...n,...d->...nd", rows, columns, precision=lax.Precision.HIGHEST)


def weighted_sum(states: Array, weights: Array) -> Array:
    """Rows of a matrix added up, `[..., N, D]` by weights `[..., N]` → `[..., D]`; see `outer`."""
    return jnp.einsum("...nd,...n->...d", states, weights, precision=lax.Precision.HIGHEST)


def read_blockwise(
    elements: Callable[[Any], tuple[Array, Array]],
    read: Callable[[Array, Any], Array],
    inputs: Any,
    state: Array,
    reset: Array,
    *,
    method: Method,
    return_states: bool,
) -> tuple[Array, Array, Array | None]:
    """`y[t] = read(h[t], x[t])` with h the linear recurrence of `elements(x)`.

    States are held for one block of steps at a time and computed again for the gradient, unless
    they are asked for. A CPU goes step by step even then: a step's elements stay in its cache.

    Args:
        elements: decays and increments `[t, *batch, *state]` of inputs `[t, *batch, ...]`.
        read: y `[t, *batch, ...]` from states and inputs.
        inputs: a pytree, leaves `[T, *batch, ...]`.
        state: `[*batch, *state]`.
        reset: bool `[T, *batch]`.
        method: see `ssmrl.scan.linear_scan`.
        return_states: also return all states.

    Returns:
        The last state, y, and the states `[T, *batch, *state]` or None.
    """

    def whole(h, block):
        x, flags = block
        states = linear_scan(*elements(x), h, flags, method=method)
        return states[-1], (read(states, x), states)

    def without_states(h, block):
        last, (y, _) = whole(h, block)
        return last, y

    if return_states:
        last, (y, states) = whole(state, (inputs, reset))
        return last, y, states
    step_by_step = partial(scan_in_blocks, without_states, block=1)
    last, y = lax.platform_dependent(
        state,
        (inputs, reset),
        cpu=partial(scan_in_blocks, step_by_step, block=BLOCK_ON_CPU),
        default=partial(scan_in_blocks, without_states, block=BLOCK),
    )
    return last, y, None

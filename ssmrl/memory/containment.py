"""Keeping what is not finite inside its episode, where products sum over several episodes.

A recurrence forgets at a reset by selecting. A matrix product over a stretch of steps forgets by
weights of zero, and 0 · NaN is NaN. So: take what is not finite out, compute, and put NaN back
wherever the recurrence would have had it: from that step to the end of the episode.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax


def contain(inputs: Any, state: Any, reset: Array) -> tuple[Any, Any, Array]:
    """`inputs` and `state` with zeros for what is not finite, and where that taints the results.

    Args:
        inputs: a pytree of leaves `[T, *batch, ...]`.
        state: what the first episode continues from, leaves `[*batch, ...]`.
        reset: bool `[T, *batch]`.

    Returns:
        `inputs` and `state`, finite, and tainted, bool `[T, *batch]`: the step comes after
        something not finite in its episode, or at it.
    """
    batch_axes = reset.ndim - 1
    # A fresh cache is a constant. XLA would reduce it while compiling, for many seconds.
    bad_state = ~_finite(lax.optimization_barrier(state), batch_axes)
    bad = ~_finite(inputs, batch_axes + 1)
    time = jnp.arange(1, reset.shape[0] + 1).reshape(-1, *(1,) * batch_axes)
    # The last bad step and the last reset, counted from 1; 0 is the state before.
    last_bad = lax.cummax(jnp.where(bad, time, jnp.where(bad_state, 0, -1)))
    last_reset = lax.cummax(jnp.where(reset, time, 0))
    return _zeroed(inputs), _zeroed(state), last_bad >= last_reset


def taint(y: Array, tainted: Array) -> Array:
    """`y` `[*leading, ...]` with NaN where `tainted` `[*leading]`."""
    flags = tainted.reshape(tainted.shape + (1,) * (y.ndim - tainted.ndim))
    return jnp.where(flags, jnp.asarray(jnp.nan, y.dtype), y)


def _finite(tree: Any, axes: int) -> Array:
    """Whether everything behind the first `axes` axes is finite, in all leaves."""
    rows = [
        jnp.isfinite(leaf).all(axis=tuple(range(axes, leaf.ndim))) for leaf in jax.tree.leaves(tree)
    ]
    return jnp.stack(rows).all(axis=0)


def _zeroed(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: jnp.where(jnp.isfinite(leaf), leaf, 0), tree)

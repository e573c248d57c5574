"""Two primitives for programs that are batched over environments and, outside, over seeds."""

from __future__ import annotations

from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

T = TypeVar("T")


@jax.custom_batching.custom_vmap
def any_across_batch(x: Bool[Array, "..."]) -> Bool[Array, ""]:
    """Whether any entry of ``x`` is True, in this program *and in every program vmapped alongside*.

    ``lax.cond`` on a predicate that ``vmap`` has batched becomes a select, which pays for both
    branches at every step. The result of this function is never batched: under ``vmap`` it reduces
    over the mapped axis too, so the ``cond`` stays a ``cond``. It is meant for branches that leave
    unaffected entries as they were, so that running the expensive branch for a neighbour's sake
    changes nothing.
    """
    return jnp.any(x)


@any_across_batch.def_vmap
def _any_across_batch_vmap(axis_size: int, in_batched: list[bool], x: Array) -> tuple[Array, bool]:
    del axis_size, in_batched
    # Through the function itself: an outer vmap must meet the same rule again.
    return any_across_batch(x), False


def select(mask: Bool[Array, "*B"], on_true: T, on_false: T) -> T:
    """``on_true`` where ``mask``, else ``on_false``, leaf by leaf.

    Args:
        mask: as many leading axes as the leaves share, e.g. ``[B]``.
        on_true, on_false: pytrees of one structure, leaves ``[*B, ...]``; typed keys are fine.
    """

    def leaf(a: Any, b: Any) -> Any:
        return jnp.where(jnp.reshape(mask, mask.shape + (1,) * (a.ndim - mask.ndim)), a, b)

    return jax.tree.map(leaf, on_true, on_false)


def strip_weak_types(tree: T) -> T:
    """Every leaf as an array that remembers no Python scalar: what a scan carry must be."""

    def leaf(x: Any) -> Any:
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            return x
        return jax.lax.convert_element_type(x, x.dtype)

    return jax.tree.map(leaf, tree)

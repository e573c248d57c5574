"""Primitives for programs that are batched over environments and, outside, over seeds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

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


def replace_in_blocks(
    mask: Bool[Array, "B"], draw: Callable[[Int[Array, "..."]], T], tree: T, block_size: int
) -> T:
    """``tree`` with ``draw(index)`` in the entries that ``mask`` marks, paid for by the block.

    Marked entries are drawn ``block_size`` at a time, as many times as it takes: with few of them
    marked this costs a fraction of drawing all and selecting. Under ``vmap`` every program makes as
    many turns as the one that needs most, and the loop's predicate stays unbatched. Gradients flow
    through the entries kept, none through those drawn (a loop of unknown length has no reverse
    mode).

    Args:
        mask: which entries to replace.
        draw: from indices ``[block_size]`` to a pytree like ``tree``, leaves ``[block_size, ...]``.
            An entry may depend on its own index alone; the last block is filled up with arbitrary
            indices, whose entries are thrown away.
        tree: leaves ``[B, ...]``; typed keys are fine.
        block_size: how many to draw at a time.
    """
    size = mask.shape[0]
    if block_size >= size:
        return select(mask, draw(jnp.arange(size)), tree)
    num_slots = -(-size // block_size) * block_size
    # The marked indices in order, then ``size``, which gathers clamp and scatters drop.
    (marked,) = jnp.nonzero(mask, size=num_slots, fill_value=size)
    count = jnp.sum(mask)

    def is_unfinished(carry: tuple[Array, T]) -> Array:
        return any_across_batch(carry[0] < count)

    def replace_block(carry: tuple[Array, T]) -> tuple[Array, T]:
        begin, replaced = carry
        index = jax.lax.dynamic_slice(marked, (begin,), (block_size,))
        put = lambda old, new: old.at[index].set(new, mode="drop")  # noqa: E731
        fresh = draw(jnp.minimum(index, size - 1))
        return begin + block_size, jax.tree.map(put, replaced, fresh)

    begin = (jnp.int32(0), jax.lax.stop_gradient(tree))
    _, replaced = jax.lax.while_loop(is_unfinished, replace_block, begin)
    return select(mask, replaced, tree)


def strip_weak_types(tree: T) -> T:
    """Every leaf as an array that remembers no Python scalar: what a scan carry must be."""

    def leaf(x: Any) -> Any:
        x = jnp.asarray(x)
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            return x
        return jax.lax.convert_element_type(x, x.dtype)

    return jax.tree.map(leaf, tree)

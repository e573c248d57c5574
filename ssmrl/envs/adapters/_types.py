"""Keeping the dtypes of other packages' states fixed, as a scan carry needs them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def stable_types(reset: Callable[[Any], Any], step: Callable[[Any, Any], Any]) -> tuple[Any, Any]:
    """The dtypes that a state can keep through resets and steps.

    Some environments count from a Python ``0`` or answer an int where they began with a float. Each
    leaf gets the narrowest dtype that holds both what ``reset`` and what ``step`` give.

    Args:
        reset: ``key -> state``.
        step: ``key, state -> state``.

    Returns:
        The structure of a state with a dtype at each leaf; what ``reset`` gives, as
        ShapeDtypeStructs.
    """
    key = jax.random.key(0)
    first = jax.eval_shape(reset, key)
    later = jax.eval_shape(step, key, first)
    return jax.tree.map(_joint_dtype, first, later), first


def _joint_dtype(a: Any, b: Any) -> Any:
    if a.dtype == b.dtype:  # also what keeps typed keys, which do not promote
        return a.dtype
    return jnp.promote_types(a.dtype, b.dtype)


def cast(tree: Any, dtypes: Any) -> Any:
    """The leaves of ``tree`` as strongly typed arrays of ``dtypes``."""

    def leaf(x: Any, dtype: Any) -> Any:
        if jnp.issubdtype(dtype, jax.dtypes.extended):
            return x
        return jax.lax.convert_element_type(jnp.asarray(x), dtype)

    return jax.tree.map(leaf, tree, dtypes)

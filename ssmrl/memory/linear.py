"""Linear layers over sequences, their starts, and complex numbers as the real pairs in them.

Unless a memory's module says otherwise, linear layers start as flax's do, LeCun normal with biases
of zero, whatever the authors' framework does by default: PyTorch draws weights of a third of that
variance, and biases too.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmrl.memory.base import STATE_DTYPE


def flat_dot_general(lhs: Array, rhs: Array, dimension_numbers, *args, **kwargs) -> Array:
    """`lax.dot_general` of a Dense layer, with all leading axes of `lhs` merged into one.

    The result is the same. The gradient with respect to the kernel then contracts one axis instead
    of two (time and batch), which XLA's CPU backend does about a third faster. In a program for
    several devices the axes stay: merged, those that each device has a part of the batch of could
    not be told from times, and every device would compute all of it.
    """
    if not jax.sharding.get_abstract_mesh().empty:
        numbers = (((lhs.ndim - 1,), (0,)), ((), ()))
        return lax.dot_general(lhs, rhs, numbers, *args, **kwargs)
    leading = lhs.shape[:-1]
    flat = lax.dot_general(
        lhs.reshape(-1, lhs.shape[-1]), rhs, (((1,), (0,)), ((), ())), *args, **kwargs
    )
    return flat.reshape(*leading, rhs.shape[-1])


Dense = partial(nn.Dense, dot_general=flat_dot_general)
"""flax's Dense, computed by `flat_dot_general`. No subclass: under pytest the annotations of this
package's classes are checked at run time, and those of flax's Dense cannot be."""


def orthogonal(scale: float = 1.0) -> Callable[..., Array]:
    """flax's initialiser of that name, one matrix after the other where `vmap` asks for several.

    An initialiser draws `[..., rows, columns]` of (key, shape, dtype), with orthonormal rows or
    columns, whichever are fewer, times `scale` (Saxe et al., "Exact solutions to the nonlinear
    dynamics of learning in deep linear neural networks", 2014).

    On CPUs JAX shares a batch's decompositions out among the threads that also run the program, and
    waits for them on one of these: on a machine with two, two batches at once wait forever.
    """
    draw = nn.initializers.orthogonal(scale)

    def initializer(key: Array, shape: tuple[int, ...], dtype: Any = STATE_DTYPE) -> Array:
        return jax.custom_batching.sequential_vmap(lambda key: draw(key, shape, dtype))(key)

    return initializer


LARGEST_LOG = 40.0
"""Products of a few e^40 still are single precision numbers."""


def bounded_exp(x: Array) -> Array:
    """e^x of a parameter that is the logarithm of something positive: a rate, a step, a scale.

    With x held to ±`LARGEST_LOG` it is neither 0 nor infinite, whose products with each other are
    NaN, in gradients at the latest. A rate of e^40 leaves nothing after one step, one of e^-40
    everything after a billion.
    """
    return jnp.exp(jnp.clip(x, -LARGEST_LOG, LARGEST_LOG))


def product(x: Array, matrix: Array, dtype=None) -> Array:
    """`x @ matrix` `[..., K] @ [K, M]`: factors in `dtype` (None: as x), accumulated in float32."""
    dtype = x.dtype if dtype is None else dtype
    return flat_dot_general(
        x.astype(dtype), matrix.astype(dtype), None, preferred_element_type=STATE_DTYPE
    )


def pair_product(x: Array, matrix: Array, dtype=None) -> Array:
    """`split_pair(x) @ matrix`, complex [..., N] by [2N, M], without the pair in memory."""
    n = x.shape[-1]
    return product(x.real, matrix[:n], dtype) + product(x.imag, matrix[n:], dtype)


def block_dense(module: nn.Module, name: str, x: Array, outputs: int) -> Array:
    """A linear layer for each of J blocks, `[*batch, J, K]` → `[*batch, J, outputs]`."""
    init = nn.initializers.lecun_normal(batch_axis=0)
    kernel = module.param(name, init, (*x.shape[-2:], outputs), STATE_DTYPE)
    bias = module.param(f"{name}_bias", nn.initializers.zeros, (x.shape[-2], outputs))
    blocks = jnp.einsum("...jk,jko->...jo", x, kernel.astype(x.dtype))
    return blocks + bias.astype(x.dtype)


def skip(module: nn.Module, x: Array, dtype=None) -> Array:
    """`D x` as state space models have it: D a vector, or a matrix where the width changes."""
    width = module.features
    if x.shape[-1] == width:
        D = module.param("D", nn.initializers.normal(1.0), (width,), STATE_DTYPE)
        return D.astype(x.dtype) * x
    init = nn.initializers.lecun_normal()
    D = module.param("D", init, (x.shape[-1], width), STATE_DTYPE)
    return product(x, D, dtype).astype(x.dtype)


def join_pair(pair: Array) -> Array:
    """[..., 2N] (real | imaginary) → complex [..., N]."""
    n = pair.shape[-1] // 2
    return lax.complex(pair[..., :n], pair[..., n:])


def split_pair(x: Array) -> Array:
    """Complex [..., N] → [..., 2N] (real | imaginary)."""
    return jnp.concatenate([x.real, x.imag], axis=-1)

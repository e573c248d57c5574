"""Linear recurrences with resets: plain functions on arrays.

Everything here computes

    h[t] = a[t] * (h_init if reset[t] else h[t-1]) + b[t],      h[-1] = h0,

time-major, with any trailing shape. `reset[t]` is True where `b[t]` belongs to the first step of an
episode. A reset *selects* (`jnp.where`) and never multiplies, so that a NaN or an infinity in one
episode cannot reach the next one: `0 * NaN` is NaN, `where(True, 0, NaN)` is 0.

Two forms give the same numbers up to rounding: one step after the other, and a parallel prefix
(Blelloch, "Prefix sums and their applications", 1990; for recurrences with resets Lu et al.,
"Structured State Space Models for In-Context Reinforcement Learning", 2023, appendix B). CPUs are
faster with the first, accelerators with the second; `method="auto"` chooses when the program is
lowered for a platform.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Inexact

Method = Literal["auto", "sequential", "associative"]
METHODS: tuple[Method, ...] = ("auto", "sequential", "associative")

Element = TypeVar("Element")
Combine = Callable[[Element, Element], Element]


def linear_scan(
    a: Inexact[Array, "..."],
    b: Inexact[Array, "T *shape"],
    h0: Inexact[Array, "*shape"],
    reset: Bool[Array, "T *batch"] | None = None,
    *,
    h_init: Inexact[Array, "..."] | None = None,
    method: Method = "auto",
) -> Inexact[Array, "T *shape"]:
    """All states of the elementwise linear recurrence with resets.

    Args:
        a: decays, either `[T, *shape]` (or broadcastable to it, with as many axes as `b`), or
            constant in time with at most the axes of `h0`. A decay is never broadcast in memory
            where the platform's form can avoid it: neither over time nor over the state.
        b: inputs `[T, *shape]`.
        h0: the state before the first step, `[*shape]`.
        reset: `[T, *batch]`, where `batch` is a prefix of `shape`; None means no resets.
        h_init: the state that a reset starts from, broadcastable to `[*shape]`; None means zeros.
        method: "sequential", "associative", or "auto" (sequential on CPU and for T = 1, else
            associative; decided at lowering).

    Returns:
        h `[T, *shape]`, in the common dtype of `a` and `b`. The last entry is the carry for a
        following window. The gradient is the same recurrence run backwards, and saves `a` and `h`
        only.

    Raises:
        ValueError: for an unknown method, an empty sequence, integers, a complex start of a real
            recurrence, or shapes that do not fit.
    """
    a, b, h0 = jnp.asarray(a), jnp.asarray(b), jnp.asarray(h0)
    h_init = None if h_init is None else jnp.asarray(h_init)
    dtype = jnp.result_type(a, b)
    _check(a, b, h0, reset, h_init, method, dtype)
    a, b, h0 = a.astype(dtype), b.astype(dtype), h0.astype(dtype)
    if reset is None:
        reset = jnp.zeros(b.shape[:1] + (1,) * (b.ndim - 1), bool)
    else:
        reset = reset.reshape(reset.shape + (1,) * (b.ndim - reset.ndim))
    if h_init is not None:
        h_init = h_init.astype(dtype).reshape((1,) * (h0.ndim - h_init.ndim) + h_init.shape)
    constant = a.ndim < b.ndim
    if constant:  # align the axes with h0's, so that cotangents need no guessing
        a = a.reshape((1,) * (h0.ndim - a.ndim) + a.shape)
    else:
        a = jnp.broadcast_to(a, b.shape[:1] + a.shape[1:])
    if b.shape[0] == 1:
        method = "sequential"
    return _linear_scan(method, constant, a, b, h0, reset, h_init)


def _check(a, b, h0, reset, h_init, method, dtype) -> None:
    if method not in METHODS:
        raise ValueError(f"linear_scan: unknown method {method!r}; choose one of {METHODS}")
    if b.ndim < 1 or b.shape[0] == 0:
        raise ValueError(f"linear_scan: b must be [T, ...] with T >= 1, got shape {b.shape}")
    if h0.shape != b.shape[1:]:
        raise ValueError(f"linear_scan: h0 has shape {h0.shape}, b asks for {b.shape[1:]}")
    _check_broadcasts("a", a, b.shape if a.ndim >= b.ndim else h0.shape)
    if not jnp.issubdtype(dtype, jnp.inexact):
        raise ValueError(f"linear_scan: a and b must be floating point or complex, got {dtype}")
    for name, start in (("h0", h0), ("h_init", h_init)):
        if jnp.iscomplexobj(start) and not jnp.issubdtype(dtype, jnp.complexfloating):
            raise ValueError(f"linear_scan: {name} is {start.dtype}, but a and b are {dtype}")
    if h_init is not None:
        _check_broadcasts("h_init", h_init, h0.shape)
    if reset is None:
        return
    if reset.ndim < 1 or reset.shape != b.shape[: reset.ndim]:
        raise ValueError(f"linear_scan: reset has shape {reset.shape}, not a prefix of {b.shape}")
    if reset.dtype != jnp.bool_:
        raise ValueError(f"linear_scan: reset must be bool, got {reset.dtype}")


def _check_broadcasts(name, x, shape) -> None:
    pairs = zip(reversed(x.shape), reversed(shape), strict=False)
    if x.ndim > len(shape) or any(n not in (1, m) for n, m in pairs):
        raise ValueError(f"linear_scan: {name} has shape {x.shape}, which does not fit {shape}")


@partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _linear_scan(method, constant, a, b, h0, reset, h_init):
    forms = partial(_sequential, constant), partial(_associative, constant)
    return by_platform(method, *forms, a, b, h0, reset, h_init)


def _forward(method, constant, a, b, h0, reset, h_init):
    h = _linear_scan(method, constant, a, b, h0, reset, h_init)
    return h, (a, h, h0, reset, h_init)


def _backward(method, constant, saved, h_bar):
    """g[t] = h_bar[t] + a[t+1] g[t+1], cut where step t+1 began an episode; g is b's cotangent."""
    forms = partial(_sequential_backward, constant), partial(_associative_backward, constant)
    a_bar, b_bar, h0_bar, h_init_bar = by_platform(method, *forms, *saved, h_bar)
    return a_bar, b_bar, h0_bar, None, h_init_bar


_linear_scan.defvjp(_forward, _backward)


def by_platform(method: Method, sequential: Callable, associative: Callable, *arrays):
    """The named one of two functions, of `arrays`; for "auto" the first on CPUs, else the second.

    Which platform it is for is only known when the program is lowered.

    Raises:
        ValueError: for an unknown method.
    """
    if method == "auto":
        return lax.platform_dependent(*arrays, cpu=sequential, default=associative)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r} of a scan; choose one of {METHODS}")
    return (sequential if method == "sequential" else associative)(*arrays)


def _sequential(constant, a, b, h0, reset, h_init):
    """One step after the other: the least arithmetic, and what a CPU does best."""

    def step(h, inputs):
        b_t, reset_t, *a_t = inputs
        h = (a if constant else a_t[0]) * jnp.where(reset_t, _start(h_init, h), h) + b_t
        return h, h

    return lax.scan(step, h0, (b, reset) if constant else (b, reset, a))[1]


def _sequential_backward(constant, a, h, h0, reset, h_init, h_bar):
    """The reversed recurrence, one pass over the memory.

    The carry holds step t+1 while the loop is at t, so that h[t], the state which step t+1 read,
    comes without a shifted copy of the sequence.
    """

    def pull_back(a_next, g_next, reset_next, h):
        """The cotangents of a[t+1], h[t] and h_init through step t+1."""
        into = a_next * g_next
        a_bar = g_next * jnp.where(reset_next, _start(h_init, h), h)
        a_bar = a_bar if constant else _sum_to(a_bar, a_next)
        h_init_bar = None if h_init is None else jnp.where(reset_next, into, 0)
        return a_bar, jnp.where(reset_next, 0, into), h_init_bar

    def step(carry, inputs):
        (a_next, g_next, reset_next), sums = carry
        h_bar_t, h_t, reset_t, *a_t = inputs
        a_bar, into, h_init_bar = pull_back(a_next, g_next, reset_next, h_t)
        g = h_bar_t + into
        sums = jax.tree.map(jnp.add, sums, (a_bar if constant else None, h_init_bar))
        return ((a_t[0] if a_t else a, g, reset_t), sums), (g, None if constant else a_bar)

    zeros = jnp.zeros_like(h0)
    after_the_end = (a if constant else jnp.zeros_like(a[0]), zeros, jnp.zeros_like(reset[0]))
    sums = (zeros if constant else None, None if h_init is None else zeros)
    xs = (h_bar, h, reset) if constant else (h_bar, h, reset, a)
    (first, sums), (g, a_bars) = lax.scan(step, (after_the_end, sums), xs, reverse=True)
    a_bar, h0_bar, h_init_bar = pull_back(*first, h0)
    a_sum, h_init_sum = jax.tree.map(jnp.add, sums, (a_bar if constant else None, h_init_bar))
    a_bar = a_sum if constant else jnp.concatenate([a_bar[None], a_bars[:-1]])
    return _sum_to(a_bar, a), g, h0_bar, _sum_to(h_init_sum, h_init)


def _associative(constant, a, b, h0, reset, h_init, reverse=False):
    """Parallel prefix over ((a, b), reset): logarithmic depth, for accelerators."""
    if constant:
        a = jnp.broadcast_to(a, b.shape)
    else:  # all that the flags ask for, and no more
        a = jnp.broadcast_to(a, jnp.broadcast_shapes(a.shape, reset.shape))
    first = -1 if reverse else 0
    # Put the starting states into the elements; the flags then only have to select, which keeps
    # the operator associative whatever h_init is.
    if h_init is not None:
        b = b + jnp.where(reset, a * h_init, 0)
    b = b.at[first].add(jnp.where(reset[first], 0, a[first] * h0))
    elements = ((a, b), reset)
    (_, h), _ = lax.associative_scan(resettable(affine_combine), elements, reverse=reverse)
    return h


def _associative_backward(constant, a, h, h0, reset, h_init, h_bar):
    def next_step(x):
        return jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])

    a_next = a if constant else next_step(a)
    zeros = jnp.zeros_like(h0)
    g = _associative(constant, a_next, h_bar, zeros, next_step(reset), None, reverse=True)
    previous = jnp.concatenate([h0[None], h[:-1]])
    a_bar = g * jnp.where(reset, _start(h_init, previous), previous)
    into = a * g
    h_init_bar = None if h_init is None else jnp.where(reset, into, 0)
    return (
        _sum_to(a_bar, a),
        g,
        jnp.where(reset[0], 0, into[0]),
        _sum_to(h_init_bar, h_init),
    )


def _start(h_init, like):
    return jnp.zeros((), like.dtype) if h_init is None else h_init


def _sum_to(x, like):
    """Undo broadcasting: sum `x` down to the shape of `like`; None stays None."""
    if x is None:
        return None
    shape = like.shape
    x = x.sum(tuple(range(x.ndim - len(shape))))
    stretched = tuple(i for i, n in enumerate(shape) if n == 1 and x.shape[i] != 1)
    return x.sum(stretched, keepdims=True)


def affine_combine(left, right):
    """Compose two affine maps `h → a h + b`, the left one applied first (elementwise)."""
    (a_left, b_left), (a_right, b_right) = left, right
    return a_right * a_left, a_right * b_left + b_right


def affine_identity(like):
    """The identity map of `affine_combine` in the shapes and dtypes of the element `like`."""
    a, b = like
    return jnp.ones_like(a), jnp.zeros_like(b)


def resettable(combine: Combine) -> Combine:
    """Give any associative `combine` reset flags: where an episode starts, the left is forgotten.

    Elements become `(element, flag)`; `flag` must broadcast against every leaf of `element`. Flags
    are OR-ed, so that a merged stretch knows that it contains a start. The result is associative
    whenever `combine` is, and selects rather than multiplies.
    """

    def combine_with_resets(left: tuple[Any, Array], right: tuple[Any, Array]):
        (x_left, flag_left), (x_right, flag_right) = left, right
        return _combine_where(~flag_right, combine, x_left, x_right), flag_left | flag_right

    return combine_with_resets


def _combine_where(flag: Array, combine: Combine, left: Any, right: Any) -> Any:
    """`combine(left, right)` where `flag`, and `right` alone elsewhere, in gradients too.

    A left side that is left out is not even an argument of `combine`: its derivative there may be
    NaN, and a cotangent of 0 times NaN would reach the right side.
    """
    merged = combine(_select(flag, left, right), right)
    return _select(flag, merged, right)


def _select(flag: Array, on_true: Any, on_false: Any) -> Any:
    """`jnp.where` of pytrees."""
    return jax.tree.map(partial(jnp.where, flag), on_true, on_false)


def operator_scan(
    combine: Combine,
    elements: Element,
    state: Element,
    reset: Bool[Array, "T *batch"],
    start: Element,
    *,
    method: Method = "auto",
) -> Element:
    """Prefixes of any associative operator, with resets.

        s[t] = combine(start if reset[t] else s[t-1], x[t]),      s[-1] = state

    States and elements are of one kind: a state is what all elements so far merge into.

    Args:
        combine: the associative operator; its left argument comes first in time.
        elements: x, a pytree of leaves `[T, *batch, ...]`, all with the same number of axes.
        state: what the steps before merge into, leaves `[*batch, ...]`.
        reset: `[T, *batch]`.
        start: what an episode starts from, leaves broadcastable to those of `state`.
        method: see `linear_scan`.

    Returns:
        s, leaves `[T, *batch, ...]`.

    Raises:
        ValueError: for an unknown method or an empty sequence.
    """
    if reset.shape[0] == 0:
        raise ValueError(f"operator_scan: needs T >= 1 steps, got reset of shape {reset.shape}")
    ndim = jax.tree.leaves(elements)[0].ndim
    reset = reset.reshape(reset.shape + (1,) * (ndim - reset.ndim))

    def sequential(elements, state, reset, start):
        def step(state, inputs):
            element, flag = inputs
            state = combine(_select(flag, start, state), element)
            return state, state

        return lax.scan(step, state, (elements, reset))[1]

    def associative(elements, state, reset, start):
        # Every episode's start goes into its first element; then the flags only have to select.
        elements = _combine_where(reset, combine, start, elements)
        first = jax.tree.map(lambda leaf: leaf[0], elements)
        first = _combine_where(~reset[0], combine, state, first)
        elements = jax.tree.map(lambda leaf, new: leaf.at[0].set(new), elements, first)
        return lax.associative_scan(resettable(combine), (elements, reset))[0]

    if reset.shape[0] == 1:
        method = "sequential"
    return by_platform(method, sequential, associative, elements, state, reset, start)


def scan_in_blocks(
    body: Callable[[Any, Any], tuple[Any, Any]], carry: Any, inputs: Any, block: int
) -> tuple[Any, Any]:
    """`body(carry, inputs)` over stretches of `block` steps, one after the other.

    Equal to one call over the whole sequence when `body` handles sequences of any length. What
    `body` computes inside is computed again for the gradient and never stored for more than one
    block (Chen et al., "Training Deep Nets with Sublinear Memory Cost", 2016): for states that
    are many times larger than inputs and outputs.

    Args:
        body: `(carry, inputs [t, ...]) -> (carry, outputs [t, ...])`, for t = `block` and for what
            remains at the end.
        carry: a pytree.
        inputs: a pytree of leaves `[T, ...]`.
        block: steps in a block, at least 1.

    Returns:
        The last carry and the outputs, leaves `[T, ...]`.

    Raises:
        ValueError: for an empty sequence, or blocks without steps.
    """
    steps = jax.tree.leaves(inputs)[0].shape[0]
    if min(steps, block) < 1:
        raise ValueError(f"scan_in_blocks: needs T >= 1 and block >= 1, got {steps} and {block}")
    body = jax.checkpoint(body, prevent_cse=False)
    count, whole = steps // block, steps // block * block
    # No reshape to -1: leaves may be without elements, of a batch without entries.
    blocks = jax.tree.map(lambda leaf: leaf[:whole].reshape(count, block, *leaf.shape[1:]), inputs)
    rest = jax.tree.map(lambda leaf: leaf[whole:], inputs)
    outputs = []
    if whole == block:  # a loop of one turn costs copies and hides constants from the compiler
        carry, y = body(carry, jax.tree.map(lambda leaf: leaf[0], blocks))
        outputs.append(y)
    elif whole:
        carry, y = lax.scan(body, carry, blocks)
        outputs.append(jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), y))
    if whole < steps:
        carry, y = body(carry, rest)
        outputs.append(y)
    return carry, jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *outputs)

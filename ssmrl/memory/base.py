"""The memory interface, and what all memories share.

    carry = memory.initialize_carry(batch_shape)              # a pytree; needs no parameters
    carry, y = memory.apply(params, carry, x, reset)          # x [T, *batch, F], reset [T, *batch]

`reset[t]` is True where `x[t]` is the first observation of an episode: the carry is replaced by the
initial one *before* `x[t]` is consumed. `T == 1` is acting, `T > 1` is training; there is no other
entry. Calling with `x[:k]` and then `x[k:]`, the carry handed on, equals one call with `x`.
"""

import math
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from ssmrl.scan import Method, affine_combine, affine_identity, linear_scan, operator_scan

Carry = Any
DTypeLike = Any

STATE_DTYPE = jnp.float32
"""States are float32 (or complex64) whatever the activations are: errors add up over time."""


class Memory(nn.Module):
    """A sequence model with a carry and resets; the module's docstring has the interface.

    Subclasses write `initialize_carry` and `unroll`.
    """

    features: int

    ssm_parameters: ClassVar[tuple[str, ...]] = ()
    """Names of parameters that set time scales: their own optimiser group, without weight decay."""

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        """The carry for a batch of new sequences; the first step must still come with a reset."""
        raise NotImplementedError(f"{type(self).__name__} lacks initialize_carry")

    def unroll(
        self, carry: Carry, x: Array, reset: Array, return_carries: bool
    ) -> tuple[Carry, Array, Carry | None]:
        """Consume `x`: the last carry, `y`, and where asked for the carries after every step."""
        raise NotImplementedError(f"{type(self).__name__} lacks unroll")

    @nn.compact
    def __call__(
        self,
        carry: Carry,
        x: Float[Array, "T *batch F"],
        reset: Bool[Array, "T *batch"],
        return_carries: bool = False,
    ):
        """Run over a sequence.

        Args:
            carry: from `initialize_carry(batch)` or from the previous window.
            x: inputs `[T, *batch, F]`, T and F >= 1; a batch may have no entries.
            reset: `[T, *batch]`, True where `x[t]` begins an episode.
            return_carries: also return the carries after every step.

        Returns:
            `(carry, y)` with y `[T, *batch, features]`; with `return_carries` also the pytree of
            carries, every leaf `[T, *batch, ...]`.

        Raises:
            ValueError: where shapes or dtypes break the contract, those that `unroll` gives too,
                saying what was expected.
        """
        check_inputs(self, carry, x, reset)
        unroll = self._unroll_nothing if 0 in x.shape[1:-1] else self.unroll
        result = unroll(carry, x, reset, return_carries)
        check_outputs(self, carry, x, result)
        last, y, carries = result
        return (last, y, carries) if return_carries else (last, y)

    def _unroll_nothing(self, carry, x, reset, return_carries):
        """`unroll` for a batch without entries: that of one of zeros, of which nothing is kept.

        Parameters are the same as for any batch, and no memory has to divide by its size.
        """
        batch = x.shape[1:-1]
        filled = tuple(max(size, 1) for size in batch)
        x = jnp.zeros((x.shape[0], *filled, x.shape[-1]), x.dtype)
        reset = jnp.ones(x.shape[:-1], bool)
        last, *rest = self.unroll(self.initialize_carry(filled), x, reset, return_carries)
        kept = tuple(slice(size) for size in batch)
        last = jax.tree.map(lambda leaf: leaf[kept], last)
        return last, *jax.tree.map(lambda leaf: leaf[:, *kept], rest)

    def all_ssm_parameters(self) -> frozenset[str]:
        """`ssm_parameters` of this memory and of every memory inside it."""
        parts = filter(_is_memory, jax.tree.leaves(vars(self), is_leaf=_is_memory))
        return frozenset(self.ssm_parameters).union(*(part.all_ssm_parameters() for part in parts))

    def state_features(self, carry: Carry) -> Float[Array, "*leading K"]:
        """The carry as real features: every leaf flattened, complex numbers as (real, imaginary).

        Integers and flags, which count steps and mark what is there, are left out. `carry` may have
        any leading axes ([*batch] or [T, *batch]). Without any state, K is 0.
        """
        shapes = jax.eval_shape(lambda: self.initialize_carry(()))
        rows = [
            _flat(leaf, leaf.ndim - len(shape.shape))
            for leaf, shape in zip(jax.tree.leaves(carry), jax.tree.leaves(shapes), strict=True)
            if jnp.issubdtype(leaf.dtype, jnp.inexact)
        ]
        return jnp.concatenate(rows, axis=-1) if rows else jnp.zeros((0,), STATE_DTYPE)


class AssociativeMemory(Memory):
    """A memory whose state follows an associative operator: encode → combine → decode.

    A subclass writes `encode` (inputs to elements), `decode` (states to outputs), `combine` and
    `identity`. The scan, resets, windows and acting come from here. States and elements are of one
    kind; an episode starts from `initialize_carry`.

    Attributes:
        scan_method: "sequential", "associative", or "auto": the first on CPUs, else the second.
    """

    scan_method: Method = "auto"

    def encode(self, x: Array) -> Any:
        """Elements, leaves `[T, *batch, ...]`."""
        raise NotImplementedError(f"{type(self).__name__} lacks encode")

    def decode(self, states: Any, x: Array) -> Array:
        """Outputs `[T, *batch, features]` from the states after every step."""
        raise NotImplementedError(f"{type(self).__name__} lacks decode")

    def combine(self, left: Any, right: Any) -> Any:
        """The associative operator; `left` comes first in time."""
        raise NotImplementedError(f"{type(self).__name__} lacks combine")

    def identity(self, like: Any) -> Any:
        """The operator's identity, in the shapes of `like`."""
        raise NotImplementedError(f"{type(self).__name__} lacks identity")

    def scan(self, elements: Any, carry: Carry, reset: Array) -> Carry:
        """The states after every step."""
        start = self.initialize_carry(())
        return operator_scan(self.combine, elements, carry, reset, start, method=self.scan_method)

    def unroll(self, carry, x, reset, return_carries):
        states = self.scan(self.encode(x), carry, reset)
        return jax.tree.map(lambda leaf: leaf[-1], states), self.decode(states, x), states


class ScanMemory(AssociativeMemory):
    """A memory whose state follows an elementwise linear recurrence `h' = a h + b`.

    A subclass writes `encode` (inputs to decays a and increments b, `[T, *batch, *state]`; a decay
    that is constant may leave out the leading axes) and `decode` (states to outputs).

    Attributes:
        learned_initial_carry: start episodes from a learned state instead of zeros.
    """

    learned_initial_carry: bool = False

    def combine(self, left: Any, right: Any) -> Any:
        return affine_combine(left, right)

    def identity(self, like: Any) -> Any:
        return affine_identity(like)

    def scan(self, elements: Any, carry: Carry, reset: Array) -> Carry:
        a, b = elements
        initial = self._initial_state(carry) if self.learned_initial_carry else None
        return linear_scan(a, b, carry, reset, h_init=initial, method=self.scan_method)

    def _initial_state(self, carry: Array) -> Array:
        shape = jax.eval_shape(lambda: self.initialize_carry(())).shape
        if jnp.iscomplexobj(carry):
            pair = self.param("initial_carry", nn.initializers.zeros, (*shape, 2), STATE_DTYPE)
            return jax.lax.complex(pair[..., 0], pair[..., 1])
        return self.param("initial_carry", nn.initializers.zeros, shape, STATE_DTYPE)


def check_inputs(memory: Memory, carry: Carry, x: Array, reset: Array) -> None:
    """Raise a ValueError that names the first breach of the contract, if there is one."""
    name = type(memory).__name__
    if x.ndim < 2 or 0 in (x.shape[0], x.shape[-1]):
        raise ValueError(
            f"{name}: x must be [T, *batch, F] with T >= 1 and F >= 1, got shape {x.shape}"
        )
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"{name}: x must be floating point, got {x.dtype}; encode it first")
    if reset.shape != x.shape[:-1] or reset.dtype != jnp.bool_:
        raise ValueError(
            f"{name}: reset must be bool {x.shape[:-1]} (True where x[t] begins an episode), "
            f"got {reset.dtype} {reset.shape}"
        )
    expected = jax.eval_shape(lambda: memory.initialize_carry(x.shape[1:-1]))
    if jax.tree.structure(expected) != jax.tree.structure(carry):
        raise ValueError(
            f"{name}: the carry is not this memory's: expected {jax.tree.structure(expected)}, "
            f"got {jax.tree.structure(carry)}; use memory.initialize_carry(batch_shape)"
        )
    for want, got in zip(jax.tree.leaves(expected), jax.tree.leaves(carry), strict=True):
        if want.shape != jnp.shape(got):
            raise ValueError(
                f"{name}: a carry leaf has shape {jnp.shape(got)}, but x with batch shape "
                f"{x.shape[1:-1]} asks for {want.shape}; use memory.initialize_carry(batch_shape)"
            )


def check_outputs(memory: Memory, carry: Carry, x: Array, result: Any) -> None:
    """Raise a ValueError that says what is wrong with what `unroll` gave, if something is.

    A memory of a user's own would otherwise fail far away from its cause, or not at all.
    """
    name = type(memory).__name__
    if not isinstance(result, tuple) or len(result) != 3:
        got = f"{len(result)} values" if isinstance(result, tuple) else type(result).__name__
        raise ValueError(f"{name}: unroll must return (carry, y, carries or None), got {got}")
    last, y, _ = result
    expected = (*x.shape[:-1], memory.features)
    if jnp.shape(y) != expected:
        raise ValueError(
            f"{name}: unroll must give y of shape [T, *batch, features], here {expected}, "
            f"got {jnp.shape(y)}"
        )
    if jax.tree.structure(last) != jax.tree.structure(carry):
        raise ValueError(
            f"{name}: unroll must give a carry like that of initialize_carry: expected "
            f"{jax.tree.structure(carry)}, got {jax.tree.structure(last)}"
        )
    for before, after in zip(jax.tree.leaves(carry), jax.tree.leaves(last), strict=True):
        was, now = ((jnp.shape(leaf), jnp.result_type(leaf)) for leaf in (before, after))
        # With 64 bits enabled, inputs in double precision make states of it.
        wider = jax.config.jax_enable_x64 and was[1].kind == now[1].kind
        if was != now and not (wider and was[0] == now[0]):
            raise ValueError(
                f"{name}: unroll must give a carry like that of initialize_carry: a leaf was "
                f"{was[1]} {was[0]}, and is {now[1]} {now[0]} now"
            )


def _is_memory(x: Any) -> bool:
    return isinstance(x, Memory)


def _flat(leaf: Array, leading: int) -> Array:
    """The leaf as real numbers, all but the first `leading` axes merged into one."""
    if jnp.iscomplexobj(leaf):
        leaf = jnp.stack([leaf.real, leaf.imag], axis=-1)
    # No reshape to -1: a batch without entries does not tell how wide that is.
    shape = (*leaf.shape[:leading], math.prod(leaf.shape[leading:]))
    return leaf.astype(STATE_DTYPE).reshape(shape)

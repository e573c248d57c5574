"""Spaces of observations and actions: small, immutable, and usable inside ``jit``.

The attributes are gymnax's and gymnasium's (``n``, ``nvec``, ``shape``, ``dtype``, ``low``,
``high``, ``spaces``), so code written for either reads ours. ``sample`` and ``contains`` are for
*one* element; ``jax.vmap`` them over a batch. Elements of :class:`Dict` are plain dicts, elements
of :class:`Tuple` plain tuples, so that every element is a pytree of arrays.
"""

from __future__ import annotations

import abc
import functools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, PRNGKeyArray

_NO = np.asarray(False)
_INT32 = np.iinfo(np.int32)


class Space(abc.ABC):
    """The set of values that an observation or an action can take."""

    @abc.abstractmethod
    def sample(self, key: PRNGKeyArray) -> Any:
        """Draw one element."""

    @abc.abstractmethod
    def contains(self, x: Any) -> Bool[Array, ""]:
        """Whether ``x`` is an element: structure, shape and kind of dtype as well as values."""

    @abc.abstractmethod
    def _key(self) -> tuple:
        """What equality and the hash are about."""

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash((type(self).__name__, self._key()))

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} is immutable; build a new one")

    def _set(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            object.__setattr__(self, name, value)


def _is_integer(x: Any) -> bool:
    return jnp.issubdtype(jnp.result_type(x), jnp.integer)


def _as_array(x: Any) -> Any | None:
    """``x`` if it is array-like, None if it is something else (a dict, say)."""
    return x if isinstance(x, (jax.Array, np.ndarray, np.generic, int, float, bool)) else None


class Discrete(Space):
    """The integers ``0 … n-1`` as int32 scalars.

    Raises:
        ValueError: if ``n`` is not a positive integer.
    """

    n: int
    shape: tuple[int, ...]
    dtype: np.dtype

    def __init__(self, n: int):
        if isinstance(n, bool) or int(n) != n or not 1 <= n <= _INT32.max:
            raise ValueError(f"Discrete needs a positive number of values in int32, got {n!r}")
        self._set(n=int(n), shape=(), dtype=np.dtype(np.int32))

    def sample(self, key: PRNGKeyArray) -> Array:
        return jax.random.randint(key, (), 0, self.n, self.dtype)

    def contains(self, x: Any) -> Bool[Array, ""]:
        if _as_array(x) is None or jnp.shape(x) != () or not _is_integer(x):
            return jnp.asarray(_NO)
        x = jnp.asarray(x)
        return (x >= 0) & (x < self.n)

    def _key(self) -> tuple:
        return (self.n,)

    def __repr__(self) -> str:
        return f"Discrete({self.n})"


class MultiDiscrete(Space):
    """int32 arrays of the shape of ``nvec`` whose entry ``i`` runs over ``0 … nvec[i]-1``.

    Raises:
        ValueError: if ``nvec`` is empty or holds anything but positive integers.
    """

    nvec: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype

    def __init__(self, nvec: Any):
        array = np.array(nvec)
        whole = array.size > 0 and array.dtype.kind in "iu"
        if not whole or (array < 1).any() or (array > _INT32.max).any():
            raise ValueError(
                f"MultiDiscrete needs positive numbers of values in int32, got {nvec!r}"
            )
        array = array.astype(np.int32)
        array.setflags(write=False)
        self._set(nvec=array, shape=array.shape, dtype=np.dtype(np.int32))

    def sample(self, key: PRNGKeyArray) -> Array:
        return jax.random.randint(key, self.shape, 0, self.nvec, self.dtype)

    def contains(self, x: Any) -> Bool[Array, ""]:
        if _as_array(x) is None or jnp.shape(x) != self.shape or not _is_integer(x):
            return jnp.asarray(_NO)
        x = jnp.asarray(x)
        return jnp.all((x >= 0) & (x < self.nvec))

    def _key(self) -> tuple:
        return (self.shape, tuple(self.nvec.ravel().tolist()))

    def __repr__(self) -> str:
        return f"MultiDiscrete({self.nvec.tolist()})"


class Box(Space):
    """Arrays of one shape and dtype between ``low`` and ``high``, both included.

    Args:
        low: scalar or array broadcast to ``shape``; ``-inf`` for no bound, which a dtype other than
            a float turns into its smallest value.
        high: likewise; ``inf`` for no bound.
        shape: shape of an element; taken from the bounds if left out.
        dtype: dtype of an element: float, integer, or bool, whose values are 0 and 1.

    Raises:
        ValueError: if a bound does not broadcast to ``shape``, is NaN, is not a value of a dtype
            other than a float, or if ``low > high`` somewhere.
    """

    low: np.ndarray
    high: np.ndarray
    shape: tuple[int, ...]
    dtype: np.dtype

    def __init__(
        self, low: Any, high: Any, shape: Sequence[int] | None = None, dtype: Any = np.float32
    ):
        low, high, dtype = np.asarray(low), np.asarray(high), np.dtype(dtype)
        shape = np.broadcast_shapes(low.shape, high.shape) if shape is None else tuple(shape)
        try:
            bounds = [np.array(np.broadcast_to(b, shape)) for b in (low, high)]
        except ValueError:
            raise ValueError(
                f"Box bounds of shapes {low.shape} and {high.shape} do not broadcast to {shape}"
            ) from None
        if np.isnan(bounds[0]).any() or np.isnan(bounds[1]).any() or (bounds[0] > bounds[1]).any():
            raise ValueError(f"Box needs low <= high everywhere, got low={low} and high={high}")
        bounds = [_bound_as(dtype, bound) for bound in bounds]
        for bound in bounds:
            bound.setflags(write=False)
        self._set(low=bounds[0], high=bounds[1], shape=tuple(map(int, shape)), dtype=dtype)

    def sample(self, key: PRNGKeyArray) -> Array:
        """Uniform where bounded; a shifted exponential with one bound; a normal with none."""
        if self.dtype.kind in "iub":
            return self._sample_integers(key)
        low, high = self.low, self.high
        has_low, has_high = np.isfinite(low), np.isfinite(high)
        k_uniform, k_exponential, k_normal = jax.random.split(key, 3)
        span = np.where(has_low & has_high, high.astype(np.float64) - low, 1.0)
        unit = jax.random.uniform(k_uniform, self.shape)
        # A range that float32 does not hold is gone through by halves.
        wide = span > np.finfo(np.float32).max
        way = unit * np.where(wide, span / 2, span).astype(np.float32)
        half = np.where(has_low, low, 0.0).astype(np.float32) + way
        uniform = jnp.clip(jnp.where(wide, half + way, half), low, high)
        tail = jax.random.exponential(k_exponential, self.shape)
        above, below = np.where(has_low, low, 0.0) + tail, np.where(has_high, high, 0.0) - tail
        normal = jax.random.normal(k_normal, self.shape)
        one_sided = jnp.where(has_low, above, jnp.where(has_high, below, normal))
        draw = jnp.where(has_low & has_high, uniform, one_sided)
        return draw.astype(jax.dtypes.canonicalize_dtype(self.dtype))

    def _sample_integers(self, key: PRNGKeyArray) -> Array:
        """Uniform. JAX draws in 32 bits: of wider ranges the part that these hold."""
        dtype = jax.dtypes.canonicalize_dtype(self.dtype)
        limits = np.iinfo(np.int32 if dtype.kind == "b" or dtype.itemsize > 4 else dtype)
        low, high = (
            np.clip(bound, limits.min, limits.max).astype(np.int64)
            for bound in (self.low, self.high)
        )
        # From 0 on and without a sign, where the widest range has room: its size alone has none.
        count = high - low + 1
        is_full = count > np.iinfo(np.uint32).max
        limited = jax.random.randint(
            key, self.shape, 0, np.where(is_full, 1, count).astype(np.uint32), np.uint32
        )
        steps = jnp.where(is_full, jax.random.bits(key, self.shape, np.uint32), limited)
        # Whole numbers wrap around, so that the sum is right whichever sign `low` has.
        return (low.astype(np.uint32) + steps).astype(dtype)

    def contains(self, x: Any) -> Bool[Array, ""]:
        if _as_array(x) is None or jnp.shape(x) != self.shape:
            return jnp.asarray(_NO)
        if self.dtype.kind in "iu" and not _is_integer(x):
            return jnp.asarray(_NO)
        x = jnp.asarray(x)
        return jnp.all((x >= self.low) & (x <= self.high))

    def _key(self) -> tuple:
        return (self.shape, self.dtype.name, self.low.tobytes(), self.high.tobytes())

    def __repr__(self) -> str:
        low, high = (_bound_repr(bound) for bound in (self.low, self.high))
        return f"Box({low}, {high}, {self.shape}, {self.dtype.name})"


def _bound_as(dtype: np.dtype, bound: np.ndarray) -> np.ndarray:
    """``bound`` in ``dtype``; what an integer cannot be is refused, never wrapped around.

    Raises:
        ValueError: for a finite bound that is not a value of ``dtype``, an integer or bool.
    """
    if dtype.kind not in "iub":
        with np.errstate(over="ignore"):  # beyond the largest float there is no bound
            return bound.astype(dtype)
    limits = np.iinfo(dtype) if dtype.kind != "b" else None
    smallest, largest = (0, 1) if limits is None else (limits.min, limits.max)
    ends = np.where(bound > 0, largest, smallest)
    finite = np.isfinite(bound)
    # In Python's integers: no dtype of numpy's holds all that may come.
    for value in np.unique(bound[finite]).tolist():
        if value != int(value) or not smallest <= value <= largest:
            raise ValueError(f"Box bound {value} is no {dtype.name}")
    return np.where(finite, np.where(finite, bound, 0).astype(dtype), ends).astype(dtype)


def _bound_repr(bound: np.ndarray) -> str:
    if bound.size and (bound == bound.flat[0]).all():
        return repr(bound.flat[0].item())
    return np.array2string(bound, threshold=6).replace("\n", "")


class Dict(Space):
    """A dict of elements of named spaces.

    Raises:
        ValueError: if a value is not a :class:`Space`.
    """

    spaces: Mapping[str, Space]

    def __init__(self, spaces: Mapping[str, Any]):
        for name, space in spaces.items():
            if not isinstance(space, Space):
                raise ValueError(f"Dict entry {name!r} is not a space: {space!r}")
        self._set(spaces=MappingProxyType(dict(spaces)))

    def __getitem__(self, name: str) -> Space:
        return self.spaces[name]

    def sample(self, key: PRNGKeyArray) -> dict[str, Any]:
        keys = jax.random.split(key, max(len(self.spaces), 1))
        return {name: s.sample(k) for k, (name, s) in zip(keys, self.spaces.items(), strict=False)}

    def contains(self, x: Any) -> Bool[Array, ""]:
        if not isinstance(x, Mapping) or set(x) != set(self.spaces):
            return jnp.asarray(_NO)
        return _all(space.contains(x[name]) for name, space in self.spaces.items())

    def _key(self) -> tuple:
        return tuple(sorted(self.spaces.items()))

    def __repr__(self) -> str:
        return f"Dict({dict(self.spaces)})"


class Tuple(Space):
    """A tuple of elements of spaces.

    Raises:
        ValueError: if an entry is not a :class:`Space`.
    """

    spaces: tuple[Space, ...]

    def __init__(self, spaces: Sequence[Any]):
        for space in spaces:
            if not isinstance(space, Space):
                raise ValueError(f"Tuple entry is not a space: {space!r}")
        self._set(spaces=tuple(spaces))

    def __getitem__(self, index: int) -> Space:
        return self.spaces[index]

    def sample(self, key: PRNGKeyArray) -> tuple[Any, ...]:
        keys = jax.random.split(key, max(len(self.spaces), 1))
        return tuple(s.sample(k) for k, s in zip(keys, self.spaces, strict=False))

    def contains(self, x: Any) -> Bool[Array, ""]:
        if not isinstance(x, (tuple, list)) or len(x) != len(self.spaces):
            return jnp.asarray(_NO)
        return _all(space.contains(part) for space, part in zip(self.spaces, x, strict=True))

    def _key(self) -> tuple:
        return self.spaces

    def __repr__(self) -> str:
        return f"Tuple({self.spaces})"


def _all(conditions: Any) -> Bool[Array, ""]:
    result = jnp.asarray(True)
    for condition in conditions:
        result = result & condition
    return result


def as_tree(space: Space) -> Any:
    """The pytree of elementary spaces that has the structure of an element of ``space``.

    An elementary space stands for itself; :class:`Dict` becomes a dict, :class:`Tuple` a tuple. So
    ``jax.tree.map(f, as_tree(space), element)`` visits each leaf together with its own space.
    """
    if isinstance(space, Dict):
        return {name: as_tree(part) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(map(as_tree, space.spaces))
    return space


def flat_size(space: Space) -> int:
    """Numbers in one element of ``space``, counting a discrete value as one."""
    if isinstance(space, Dict):
        return sum(map(flat_size, space.spaces.values()))
    if isinstance(space, Tuple):
        return sum(map(flat_size, space.spaces))
    return math.prod(space.shape)


def _unbounded(bound: Any) -> np.ndarray:
    """``bound`` with infinity where a package wrote its largest number for "no bound"."""
    bound = np.asarray(bound)
    if bound.dtype.kind == "f":
        limit = np.finfo(np.float32).max
        return np.where(np.abs(bound) >= limit, np.copysign(np.inf, bound), bound)
    if bound.dtype.kind in "iu" and bound.dtype.itemsize == 8:
        limits = np.iinfo(bound.dtype)
        floats = np.where(bound == limits.max, np.inf, bound.astype(np.float64))
        return np.where((bound == limits.min) & (limits.min < 0), -np.inf, floats)
    return bound


def _foreign_box(space: Any) -> Box:
    """Our Box for another package's: 64-bit types become 32-bit ones, bool becomes uint8.

    64-bit integers that int32 does not hold become float32, which holds them rounded: exactly up to
    2**24, to seven digits beyond. So do those without bounds, which are no error.
    """
    low, high, dtype = _unbounded(space.low), _unbounded(space.high), np.dtype(space.dtype)
    if dtype.kind == "b":
        dtype = np.dtype(np.uint8)
    elif dtype.kind in "iu" and dtype.itemsize == 8:
        fits = bool((low >= _INT32.min).all() and (high <= _INT32.max).all())
        dtype = np.dtype(np.int32 if fits else np.float32)
    elif dtype == np.float64:
        dtype = np.dtype(np.float32)
    return Box(low, high, space.shape, dtype)


def from_gymnax(space: Any) -> Space:
    """The same space in our classes, from a gymnax space (told by its attributes).

    Raises:
        ValueError: for a kind of space that gymnax 1.x does not have.
    """
    if hasattr(space, "spaces"):
        if isinstance(space.spaces, Mapping):
            return Dict({name: from_gymnax(s) for name, s in space.spaces.items()})
        return Tuple([from_gymnax(s) for s in space.spaces])
    if hasattr(space, "n"):
        return Discrete(int(space.n))
    if hasattr(space, "low"):
        return _foreign_box(space)
    raise ValueError(f"no space of ours corresponds to {space!r}")


def gymnasium_kind(space: Any) -> str:
    """The name of gymnasium's class that ``space`` is an instance of, subclasses included."""
    return _gymnasium_kind(type(space))  # type: ignore[arg-type]  # classes are hashable


@functools.cache  # the adapter asks at every step
def _gymnasium_kind(cls: type) -> str:
    for base in cls.__mro__:
        if base.__module__.startswith("gymnasium.spaces"):
            return base.__name__
    return cls.__name__


def from_gymnasium(space: Any) -> Space:
    """The same space in our classes, from a gymnasium space (told by its class name).

    ``Discrete`` and ``MultiDiscrete`` that start above or below 0 are shifted to start at 0 (the
    adapter shifts actions and observations alike); ``MultiBinary`` becomes ``MultiDiscrete`` of
    twos. A ``Box`` of 64-bit integers becomes int32 if they fit, else float32.

    Raises:
        ValueError: for spaces whose elements are not arrays of one shape (Text, Graph, Sequence,
            and such).
    """
    kind = gymnasium_kind(space)
    if kind == "Dict":
        return Dict({name: from_gymnasium(s) for name, s in space.spaces.items()})
    if kind == "Tuple":
        return Tuple([from_gymnasium(s) for s in space.spaces])
    if kind == "Discrete":
        return Discrete(int(space.n))
    if kind == "MultiDiscrete":
        return MultiDiscrete(space.nvec)
    if kind == "MultiBinary":
        return MultiDiscrete(np.full(space.shape, 2))
    if kind == "Box":
        return _foreign_box(space)
    raise ValueError(f"a gymnasium space of kind {kind} has no fixed array form: {space!r}")

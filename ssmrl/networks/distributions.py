"""Distributions over actions; the one place that imports distrax, when one is first used.

Every distribution here has

    raw = distribution.sample(seed=key)       # what the agent stores
    distribution.log_prob(raw)                # log density of the *action*
    distribution.entropy(seed=key)
    distribution.mode()                       # raw
    distribution.action(raw)                  # what the environment gets

`raw` and the action differ only where the entries of a box have bounds: there `raw` is the value in
front of the squashing, because inverting a saturated tanh would lose it. For Tuple and Dict spaces
both are pytrees of the space's structure, and the parts are independent of each other.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple, as_tree


def parameter_size(space: Space) -> int:
    """How many numbers the policy head must give for one action of `space`: logits and means.

    Those of the parts of a Tuple or Dict stand side by side, in the order of `jax.tree.leaves`.

    Raises:
        ValueError: for spaces that no agent here can act in.
    """
    parts = jax.tree_util.tree_flatten_with_path(as_tree(space))[0]
    if not parts:
        raise ValueError(f"cannot act in {space!r}: it has no parts, so there is nothing to choose")
    return sum(_part_size(part, jax.tree_util.keystr(path)) for path, part in parts)


def scale_size(space: Space) -> int:
    """How many standard deviations an action of `space` needs: one for each entry of its boxes."""
    return sum(math.prod(part.shape) for part in _parts(space) if isinstance(part, Box))


def action_distribution(
    space: Space, parameters: Array, log_std: Array | None = None, *, clip: bool = False
) -> Any:
    """The distribution over actions `[*leading, ...]` from head outputs.

    Args:
        space: the space of one action.
        parameters: logits and means `[*leading, parameter_size(space)]`.
        log_std: log standard deviations `[..., scale_size(space)]`, for spaces with boxes only.
        clip: box entries with two bounds are clipped to them instead of squashed by a tanh, see
            `ClippedNormal`.
    """
    if scale_size(space) and log_std is None:
        raise ValueError(f"actions in {space!r} need log_std")
    parameter_size(space)  # Names what cannot be acted in.
    parts, structure = jax.tree.flatten(as_tree(space))
    heads = split_parameters(space, parameters)
    is_box = [isinstance(part, Box) for part in parts]
    scales: Any = [None] * len(parts)
    if log_std is not None:
        sizes = [scale_size(part) for part in parts]
        scales = jnp.split(log_std, np.cumsum(sizes)[:-1], axis=-1)
    normal = ClippedNormal if clip else SquashedNormal
    distributions = [
        normal(part, head, scale) if box else _categorical(part, head)
        for part, box, head, scale in zip(parts, is_box, heads, scales, strict=True)
    ]
    tree = jax.tree.unflatten(structure, distributions)
    return Product(tree) if isinstance(space, Dict | Tuple) else tree


def split_parameters(space: Space, parameters: Array) -> list[Array]:
    """Head outputs `[*leading, parameter_size(space)]` of each elementary space."""
    sizes = [parameter_size(part) for part in _parts(space)]
    return jnp.split(parameters, np.cumsum(sizes)[:-1], axis=-1)


def _parts(space: Space) -> list[Any]:
    return jax.tree.leaves(as_tree(space))


def _part_size(space: Space, place: str) -> int:
    """`parameter_size` of an elementary space; `place` says where it is in the whole."""
    if isinstance(space, Discrete):
        return space.n
    if isinstance(space, MultiDiscrete):
        return int(np.sum(space.nvec))
    at = f" (the action's part {place})" if place else ""
    if not isinstance(space, Box):
        raise ValueError(
            f"cannot act in {space!r}{at}: actions must be Discrete, MultiDiscrete or Box, or a "
            "Tuple or Dict of those"
        )
    if not np.issubdtype(space.dtype, np.floating) or (space.low >= space.high).any():
        raise ValueError(
            f"cannot act in {space!r}{at}: a Box of actions must hold floats, with low < high in "
            "every entry; make integers Discrete or MultiDiscrete, leave out fixed entries"
        )
    if not math.prod(space.shape):
        raise ValueError(f"cannot act in {space!r}{at}: it has no entries; leave it out")
    return math.prod(space.shape)


# ----------------------------------------------------------------------------------- products


@dataclass(frozen=True)
class Product:
    """Independent distributions over the parts of an action; `parts` is a pytree of them."""

    parts: Any

    def _map(self, function: Any, *trees: Any) -> Any:
        return jax.tree.map(function, self.parts, *trees)

    def _keys(self, seed: Array) -> Any:
        leaves, structure = jax.tree.flatten(self.parts)
        return jax.tree.unflatten(structure, list(jax.random.split(seed, len(leaves))))

    def sample(self, seed: Array) -> Any:
        return self._map(lambda part, key: part.sample(seed=key), self._keys(seed))

    def log_prob(self, raw: Any) -> Array:
        return sum(jax.tree.leaves(self._map(lambda part, value: part.log_prob(value), raw)))

    def entropy(self, seed: Array) -> Array:
        entropies = self._map(lambda part, key: part.entropy(seed=key), self._keys(seed))
        return sum(jax.tree.leaves(entropies))

    def mode(self) -> Any:
        return self._map(lambda part: part.mode())

    def action(self, raw: Any) -> Any:
        return self._map(lambda part, value: part.action(value), raw)


# ----------------------------------------------------------------------------------- discrete


@dataclass(frozen=True)
class Categorical:
    """Independent categoricals over the entries of an action of shape `shape` (`()` for one)."""

    logits: tuple[Array, ...]
    shape: tuple[int, ...]

    def _parts(self) -> list[Any]:
        import distrax

        return [distrax.Categorical(logits=logits) for logits in self.logits]

    def _join(self, values: list[Array]) -> Array:
        stacked = jnp.stack(values, axis=-1).astype(jnp.int32)
        return stacked.reshape(*stacked.shape[:-1], *self.shape)

    def sample(self, seed: Array) -> Array:
        keys = jax.random.split(seed, len(self.logits))
        return self._join([p.sample(seed=k) for p, k in zip(self._parts(), keys, strict=True)])

    def log_prob(self, raw: Array) -> Array:
        flat = raw.reshape(*raw.shape[: raw.ndim - len(self.shape)], -1)
        return sum(p.log_prob(flat[..., i]) for i, p in enumerate(self._parts()))

    def entropy(self, seed: Array) -> Array:
        return sum(part.entropy() for part in self._parts())

    def mode(self) -> Array:
        return self._join([part.mode() for part in self._parts()])

    def action(self, raw: Array) -> Array:
        return raw


def _categorical(space: Any, logits: Array) -> Categorical:
    if isinstance(space, Discrete):
        return Categorical((logits,), ())
    splits = np.cumsum(np.ravel(space.nvec))[:-1]
    return Categorical(tuple(jnp.split(logits, splits, axis=-1)), space.shape)


# -------------------------------------------------------------------------------------- boxes


@dataclass(frozen=True)
class Bounds:
    """The bounds of a box's entries, flat `[K]`; 0 where there is none.

    The largest number of float32, which some write for "no bound", is none.
    """

    low: np.ndarray
    high: np.ndarray
    has_low: np.ndarray
    has_high: np.ndarray

    @classmethod
    def of(cls, space: Box) -> "Bounds":
        """In float64, so that the width of the widest box in float32 is finite."""
        low, high = (np.ravel(bound).astype(np.float64) for bound in (space.low, space.high))
        limit = np.finfo(np.float32).max
        has_low, has_high = low > -limit, high < limit
        return cls(np.where(has_low, low, 0), np.where(has_high, high, 0), has_low, has_high)

    @property
    def two(self) -> np.ndarray:
        """bool `[K]`: bounded on both sides."""
        return self.has_low & self.has_high

    @property
    def only_low(self) -> np.ndarray:
        """bool `[K]`."""
        return self.has_low & ~self.has_high

    @property
    def only_high(self) -> np.ndarray:
        """bool `[K]`."""
        return self.has_high & ~self.has_low

    @property
    def origin(self) -> np.ndarray:
        """The middle between two bounds; the only bound; 0."""
        return (self.low + self.high) / np.where(self.two, 2, 1)

    @property
    def half_range(self) -> np.ndarray:
        """Of entries with two bounds; 1 elsewhere."""
        return np.where(self.two, self.high - self.low, 2) / 2


@dataclass(frozen=True)
class SquashedNormal:
    """A diagonal normal whose entries are each squashed into their own bounds. `raw` is `u`:

        bounds on both sides    middle + half the range · tanh u
        a lower one alone       low + softplus(u)
        an upper one alone      high - softplus(-u)
        none                    u

    The softplus, and not an exponential, because far from the bound it is the identity: there one
    bound is like none, and an action's spread does not grow with its distance from the bound.
    """

    space: Box
    mean: Array
    log_std: Array

    def _normal(self) -> Any:
        import distrax

        std = jnp.broadcast_to(jnp.exp(self.log_std), self.mean.shape)
        return distrax.Independent(distrax.Normal(self.mean, std), 1)

    def _unit(self, raw: Array) -> Array:
        """Where between its two bounds an entry is, -1 … 1."""
        return jnp.tanh(raw)

    def _log_unit_slope(self, raw: Array) -> Array:
        """log d `_unit` / d raw."""
        # log(1 - tanh² u) = 2 (log 2 - u - softplus(-2u)) holds where the left side underflows.
        return 2 * (math.log(2) - raw - jax.nn.softplus(-2 * raw))

    def _log_volume_change(self, raw: Array) -> Array:
        """log |d action / d raw|, summed over the action's entries."""
        bounds = Bounds.of(self.space)
        change = jnp.zeros_like(raw)
        if bounds.two.any():
            slope = self._log_unit_slope(raw) + np.log(bounds.half_range).astype(np.float32)
            change = jnp.where(bounds.two, slope, change)
        # d softplus(u) / du = sigmoid(u)
        if bounds.only_low.any():
            change = jnp.where(bounds.only_low, jax.nn.log_sigmoid(raw), change)
        if bounds.only_high.any():
            change = jnp.where(bounds.only_high, jax.nn.log_sigmoid(-raw), change)
        return jnp.sum(change, axis=-1)

    def sample(self, seed: Array) -> Array:
        return self._normal().sample(seed=seed)

    def log_prob(self, raw: Array) -> Array:
        return self._normal().log_prob(raw) - self._log_volume_change(raw)

    def entropy(self, seed: Array) -> Array:
        """The normal's, exactly, plus a one-sample estimate of what the squashing changes."""
        normal = self._normal()
        return normal.entropy() + self._log_volume_change(normal.sample(seed=seed))

    def mode(self) -> Array:
        """The median, which squashing keeps; there is no closed form for the mode behind it."""
        return self.mean

    def action(self, raw: Array) -> Array:
        bounds = Bounds.of(self.space)
        offset = raw
        if bounds.two.any():
            scaled = bounds.half_range.astype(np.float32) * self._unit(raw)
            offset = jnp.where(bounds.two, scaled, offset)
        if bounds.only_low.any():
            offset = jnp.where(bounds.only_low, jax.nn.softplus(raw), offset)
        if bounds.only_high.any():
            offset = jnp.where(bounds.only_high, -jax.nn.softplus(-raw), offset)
        flat = bounds.origin.astype(np.float32) + offset
        action = flat.reshape(*raw.shape[:-1], *self.space.shape).astype(self.space.dtype)
        # In the space's own dtype: a bound that is rounded afterwards can be left by the rounding.
        return jnp.clip(action, self.space.low, self.space.high)


@dataclass(frozen=True)
class ClippedNormal(SquashedNormal):
    """DreamerV3's: entries with two bounds are N(tanh(mean), std), clipped to -1 … 1 and scaled.

    Log-probability and entropy are those of the normal in front of the clipping, as published
    (Hafner et al. 2023, public code, `bounded_normal`). Entries with fewer bounds are those of
    `SquashedNormal`.
    """

    def _normal(self) -> Any:
        return SquashedNormal(self.space, self.mode(), self.log_std)._normal()

    def mode(self) -> Array:
        """The normal's mean: the mode, as long as nothing is clipped."""
        return jnp.where(Bounds.of(self.space).two, jnp.tanh(self.mean), self.mean)

    def _unit(self, raw: Array) -> Array:
        return jnp.clip(raw, -1, 1)

    def _log_unit_slope(self, raw: Array) -> Array:
        return jnp.zeros_like(raw)

"""Distributions over actions; the one place that imports distrax, when one is first used.

Every distribution here has

    raw = distribution.sample(seed=key)       # what the agent stores
    distribution.log_prob(raw)                # log density of the *action*
    distribution.entropy(seed=key)
    distribution.mode()                       # raw
    distribution.action(raw)                  # what the environment gets

`raw` and the action differ only where actions are squashed by a tanh: there `raw` is the value in
front of it, because inverting a saturated tanh would lose it.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.envs.spaces import Box, Discrete, MultiDiscrete, Space


def parameter_size(space: Space) -> int:
    """How many numbers the policy head must give for one action of `space`.

    Raises:
        ValueError: for spaces that no agent here can act in.
    """
    if isinstance(space, Discrete):
        return space.n
    if isinstance(space, MultiDiscrete):
        return int(np.sum(space.nvec))
    if isinstance(space, Box):
        if not np.issubdtype(space.dtype, np.floating) or (space.low >= space.high).any():
            raise ValueError(
                f"cannot act in {space!r}: a Box of actions must hold floats, with low < high in "
                "every entry; make integers Discrete or MultiDiscrete, leave out fixed entries"
            )
        return math.prod(space.shape)
    raise ValueError(
        f"cannot act in {space!r}: actions must be Discrete, MultiDiscrete or Box; "
        "flatten other spaces in a wrapper"
    )


def action_distribution(space: Space, parameters: Array, log_std: Array | None = None):
    """The distribution over actions `[*leading, ...]` from head outputs `[*leading, K]`.

    Args:
        space: the space of one action.
        parameters: logits, or means for boxes.
        log_std: log standard deviation `[K]`, for boxes only.
    """
    if isinstance(space, Discrete):
        return Categorical((parameters,), ())
    if isinstance(space, MultiDiscrete):
        splits = np.cumsum(np.ravel(space.nvec))[:-1]
        return Categorical(tuple(jnp.split(parameters, splits, axis=-1)), space.shape)
    if isinstance(space, Box):
        if log_std is None:
            raise ValueError("actions in a Box need log_std")
        return SquashedNormal(space, parameters, log_std)
    raise ValueError(f"no action distribution for {space!r}")


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


@dataclass(frozen=True)
class SquashedNormal:
    """A diagonal normal; where the box is bounded on both sides, squashed into it by a tanh.

    In a box without bounds, actions are the normal's own; one-sided bounds are met by clipping.
    """

    space: Box
    mean: Array
    log_std: Array

    def _normal(self) -> Any:
        import distrax

        std = jnp.broadcast_to(jnp.exp(self.log_std), self.mean.shape)
        return distrax.Independent(distrax.Normal(self.mean, std), 1)

    def _half_range(self) -> np.ndarray:
        return np.ravel(self.space.high.astype(np.float64) - self.space.low) / 2

    def _log_volume_change(self, raw: Array) -> Array:
        """log |d action / d raw|, summed over the action's entries."""
        if not self.space.is_bounded:
            return jnp.zeros(raw.shape[:-1])
        # log(1 - tanh² u) = 2 (log 2 - u - softplus(-2u)) holds where the left side underflows.
        tanh = 2 * (math.log(2) - raw - jax.nn.softplus(-2 * raw))
        return jnp.sum(tanh + np.log(self._half_range()).astype(np.float32), axis=-1)

    def sample(self, seed: Array) -> Array:
        return self._normal().sample(seed=seed)

    def log_prob(self, raw: Array) -> Array:
        return self._normal().log_prob(raw) - self._log_volume_change(raw)

    def entropy(self, seed: Array) -> Array:
        """Exact without bounds; else the normal's plus a one-sample estimate of the tanh's part."""
        normal = self._normal()
        return normal.entropy() + self._log_volume_change(normal.sample(seed=seed))

    def mode(self) -> Array:
        """The median, which tanh keeps; there is no closed form for the mode behind a tanh."""
        return self.mean

    def action(self, raw: Array) -> Array:
        low, high = np.ravel(self.space.low), np.ravel(self.space.high)
        if self.space.is_bounded:
            middle = ((low.astype(np.float64) + high) / 2).astype(np.float32)
            flat = middle + self._half_range().astype(np.float32) * jnp.tanh(raw)
        else:
            flat = raw
        flat = jnp.clip(flat, low, high)
        return flat.reshape(*raw.shape[:-1], *self.space.shape).astype(self.space.dtype)

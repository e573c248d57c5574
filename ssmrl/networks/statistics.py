"""Running mean and variance of pytrees of arrays, updated by batches."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct


@struct.dataclass
class RunningStatistics:
    """Mean and sum of squared deviations of everything seen so far, leaf by leaf."""

    count: Any
    """float [], samples so far."""
    mean: Any
    squares: Any

    @classmethod
    def zeros(cls, like: Any) -> "RunningStatistics":
        """Nothing seen yet; `like` gives structure and shapes of one sample."""
        zeros = jax.tree.map(lambda x: jnp.zeros(jnp.shape(x), jnp.float32), like)
        return cls(jnp.zeros((), jnp.float32), zeros, zeros)

    def update(self, batch: Any) -> "RunningStatistics":
        """Take in samples with any leading axes (Chan et al. 1979, the parallel update).

        A batch that holds NaN or infinity is left out as a whole: it would spoil all that follow.
        """

        def leaf(mean, squares, x):
            x = x.astype(jnp.float32).reshape(-1, *mean.shape)
            # Measured from the first sample, or rounding would give a constant a deviation.
            n, batch_mean = x.shape[0], x[0] + (x - x[0]).mean(0)
            delta = batch_mean - mean
            total = self.count + n
            squares = squares + ((x - batch_mean) ** 2).sum(0) + delta**2 * self.count * n / total
            return mean + delta * (n / total), squares, total

        triples = [
            leaf(*leaves)
            for leaves in zip(*map(jax.tree.leaves, (self.mean, self.squares, batch)), strict=True)
        ]
        if not triples:
            return self
        means, squares, totals = zip(*triples, strict=True)
        rebuild = jax.tree.structure(self.mean).unflatten
        new = RunningStatistics(totals[0], rebuild(means), rebuild(squares))
        finite = jnp.array([jnp.isfinite(x).all() for x in squares]).all()
        return jax.tree.map(lambda x, old: jnp.where(finite, x, old), new, self)

    @property
    def std(self) -> Any:
        """Standard deviations; 1 where nothing varied yet."""

        def leaf(squares):
            variance = squares / jnp.maximum(self.count, 1)
            return jnp.where(variance > 1e-12, jnp.sqrt(jnp.maximum(variance, 1e-12)), 1.0)

        return jax.tree.map(leaf, self.squares)

"""What diagonal state space models share: how their decays are parameterised."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.memory.base import STATE_DTYPE
from ssmrl.memory.linear import LARGEST_LOG, bounded_exp

Initializer = Callable[[Array], Array]

DIAGONAL_PARAMETERS = ("log_decay", "decay_weight", "frequency", "log_step", "B")
"""Names of the parameters that set time scales (see `Memory.ssm_parameters`)."""

REPARAMETERIZATIONS = ("exp", "softplus", "stable")


class DiagonalOptions(nn.Module):
    """Options of a diagonal recurrence; real parts of log λ are -rate < 0, whatever is learned.

    Attributes:
        complex_state: complex states in conjugate pairs, which can oscillate; otherwise real ones,
            which only decay.
        reparameterization: rate = exp(w), softplus(w), or "stable", 1 / (w² + b), under which the
            gradient of a long memory stays bounded (Wang and Li, "StableSSM: Alleviating the Curse
            of Memory in State-Space Models through Stable Reparameterization", 2024, section 3.3).
        polarized: fix one channel's decay at 0 and another's at 1, so that one has the present
            input and the other a sum over the whole episode (Wang et al., "Understanding and
            Mitigating Bottlenecks of State Space Models through the Lens of Recency and
            Over-smoothing", 2025, section 4).
        step_rescale: factor on all steps Δ, for using a trained memory at another sampling rate
            (Smith et al. 2023, section 6.2).
    """

    complex_state: bool = True
    reparameterization: str = "exp"
    polarized: bool = False
    step_rescale: float = 1.0

    def rate(self, start: Initializer, fastest: float) -> Array:
        """Learned positive rates, at first `start(key)`, none of which is above `fastest`."""
        if self.reparameterization == "exp":
            return bounded_exp(self.param("log_decay", lambda key: jnp.log(start(key))))
        if self.reparameterization == "softplus":
            # The inverse of softplus, log(exp(r) - 1), without overflow.
            inverse = lambda rate: rate + jnp.log(-jnp.expm1(-rate))  # noqa: E731
            weight = self.param("decay_weight", lambda key: inverse(start(key)))
            return nn.softplus(jnp.maximum(weight, -LARGEST_LOG))
        if self.reparameterization == "stable":
            bound = 0.5 / fastest  # w = 0 decays twice as fast as the fastest does at first
            inverse = lambda rate: jnp.sqrt(1 / rate - bound)  # noqa: E731
            weight = self.param("decay_weight", lambda key: inverse(start(key)))
            return 1 / (jnp.square(weight) + bound)
        raise ValueError(
            f"{type(self).__name__}: unknown reparameterization {self.reparameterization!r}; "
            f"choose one of {', '.join(REPARAMETERIZATIONS)}"
        )

    def polarize(self, decay: Array) -> Array:
        """`decay` `[..., N]`, where asked for with its first two channels held at 0 and 1."""
        if not self.polarized:
            return decay
        channel = jnp.arange(decay.shape[-1])
        return jnp.where(channel == 0, 0, jnp.where(channel == 1, 1, decay))


def log_uniform(key: Array, shape: tuple[int, ...], low: float, high: float) -> Array:
    """Logarithms of steps Δ that are log-uniform between `low` and `high`."""
    return jax.random.uniform(key, shape, STATE_DTYPE, np.log(low), np.log(high))


def discretize(method: str, eigenvalue: Array, step: Array) -> tuple[Array, Array]:
    """The decay per step, and the factor that turns B into its discrete form.

    Args:
        method: "zoh" (zero-order hold) or "bilinear" (Smith et al. 2023, equation 6 and appendix).
        eigenvalue: Λ, with negative real parts.
        step: Δ, broadcastable to `eigenvalue`.

    Raises:
        ValueError: for another method.
    """
    if method == "zoh":
        # Not (decay - 1) / eigenvalue: where a state hardly decays, nothing is left of decay - 1.
        return jnp.exp(eigenvalue * step), jnp.expm1(eigenvalue * step) / eigenvalue
    if method == "bilinear":
        half = eigenvalue * (step / 2)
        return (1 + half) / (1 - half), step / (1 - half)
    raise ValueError(f"unknown discretization {method!r}; choose 'zoh' or 'bilinear'")


def lost_power(method: str, eigenvalue: Array, step: Array) -> Array:
    """1 - |Λ̄|², what a state loses of its power in a step; arguments as of `discretize`.

    Not from Λ̄, of which little is left where a state hardly decays.
    """
    if method == "zoh":
        return -jnp.expm1(2 * jnp.real(eigenvalue) * step)
    half = eigenvalue * (step / 2)
    return -4 * jnp.real(half) / jnp.square(jnp.abs(1 - half))

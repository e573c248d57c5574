"""S4D: S4 with a diagonal state matrix.

Gu, Gupta, Goel, Ré, "On the Parameterization and Initialization of Diagonal State Space Models"
(2022). For the equations and the ways to compute them see `ssmrl.memory.siso`.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmrl.memory.base import STATE_DTYPE
from ssmrl.memory.diagonal import (
    DIAGONAL_PARAMETERS,
    DiagonalOptions,
    discretize,
    log_uniform,
)
from ssmrl.memory.linear import bounded_exp, join_pair
from ssmrl.memory.s5 import hippo_legs_eigen
from ssmrl.memory.siso import SystemBank, as_real, as_row, doubled

INITIALIZATIONS = ("legs", "lin", "inv", "real")


class S4D(DiagonalOptions, SystemBank):
    """Diagonal systems, of which one state of every conjugate pair is kept.

    Attributes:
        initialization: of Λ (section 4): "legs", the eigenvalues of HiPPO-LegS' normal part; "lin",
            -1/2 + iπn; "inv", -1/2 + i M/π (M / (2n + 1) - 1), where M counts both halves of the
            conjugate pairs; "real", -(n + 1), which is what real states start from always.
        discretization: "zoh" or "bilinear".
    """

    initialization: str = "legs"
    discretization: str = "zoh"

    ssm_parameters = DIAGONAL_PARAMETERS

    @property
    def has_complex_states(self) -> bool:
        return self.complex_state

    def system(self):
        shape = self.features, self.states
        start = np.broadcast_to(self._eigenvalues(), shape)
        rate = self.rate(lambda _: jnp.asarray(-start.real, STATE_DTYPE), float(-start.real.min()))
        eigenvalue = -rate
        if self.has_complex_states:
            frequency = self.param("frequency", lambda _: jnp.asarray(start.imag, STATE_DTYPE))
            eigenvalue = lax.complex(-rate, frequency)
        log_step = self.param("log_step", log_uniform, shape[:1], self.dt_min, self.dt_max)
        step = bounded_exp(log_step)[:, None] * self.step_rescale
        decay, scale = discretize(self.discretization, eigenvalue, step)
        B, C = self.input_and_output()
        return {"decay": self.polarize(decay), "B": B * scale, "C": C}

    def input_and_output(self) -> tuple[Array, Array]:
        """B, which starts at 1, and C, both `[H, N]`; states left out double the output."""
        H, N = self.features, self.states
        if not self.has_complex_states:
            B = self.param("B", nn.initializers.ones, (H, N), STATE_DTYPE)
            return B, self.param("C", nn.initializers.normal(1.0), (H, N), STATE_DTYPE)
        ones = np.repeat([1.0, 0.0], N)  # the real parts, then the imaginary ones
        B = join_pair(self.param("B", lambda _: jnp.tile(jnp.asarray(ones, STATE_DTYPE), (H, 1))))
        normal = nn.initializers.normal(np.sqrt(0.5))
        return B, 2 * join_pair(self.param("C", normal, (H, 2 * N), STATE_DTYPE))

    def step(self, system, x, u):
        return system["decay"] * x + system["B"] * u[..., None]

    def powers(self, system, steps):
        decay = system["decay"]
        stack = doubled(jnp.ones_like(decay), decay, jnp.multiply, jnp.square, steps)
        stack = jnp.moveaxis(stack, 0, 1)  # [H, L, N]
        rows = as_row(stack * (system["C"] * decay)[:, None])
        return rows, as_real(stack * system["B"][:, None])

    def advance(self, system, steps):
        decay = lax.integer_pow(system["decay"], steps)
        return lambda x: decay * x

    def _eigenvalues(self) -> np.ndarray:
        N = self.states
        n = np.arange(N)
        if self.initialization == "real" or not self.has_complex_states:
            return -(n + 1.0) + 0j
        if self.initialization == "legs":
            return hippo_legs_eigen(2 * N)[0]
        if self.initialization == "lin":
            return -0.5 + 1j * np.pi * n
        if self.initialization == "inv":
            return -0.5 + 2j * N / np.pi * (2 * N / (2 * n + 1) - 1)
        raise ValueError(
            f"{type(self).__name__}: unknown initialization {self.initialization!r}; choose one of "
            f"{', '.join(INITIALIZATIONS)}"
        )

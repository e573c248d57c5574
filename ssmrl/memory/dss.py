"""DSS: diagonal state spaces, in the form that does not depend on the window (DSS-exp).

Gupta, Gu, Berant, "Diagonal State Spaces are as Effective as Structured State Spaces" (2022),
proposition 1 (a) and section 3: the kernel is K[l] = Re(Σ_n w_n (e^{λ_n Δ} - 1) / λ_n e^{λ_n l Δ}),
which is S4D's with B = 1 and C = w. The N complex states are independent of each other; none of
them stands for a conjugate pair.

As in the authors' code, λ is initialised with those eigenvalues of HiPPO-LegS' normal part that
have positive imaginary parts, and the real and imaginary parts of w with standard normal numbers.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import STATE_DTYPE
from ssmrl.memory.linear import join_pair
from ssmrl.memory.s4d import S4D


class DSS(S4D):
    """Diagonal state spaces with one vector w in the place of B and C."""

    @property
    def parts(self) -> int:
        return 1

    def input_and_output(self) -> tuple[Array, Array]:
        H, N = self.features, self.states
        if not self.has_complex_states:
            C = self.param("C", nn.initializers.normal(1.0), (H, N), STATE_DTYPE)
            return jnp.ones_like(C), C
        normal = nn.initializers.normal(1.0)
        C = join_pair(self.param("C", normal, (H, 2 * N), STATE_DTYPE))
        return jnp.ones_like(C), C

"""S4: structured state spaces, HiPPO-LegS as a diagonal matrix plus one of rank one.

Gu, Goel, Ré, "Efficiently Modeling Long Sequences with Structured State Spaces" (2021):

    A = Λ - P Pᴴ        Ā = (I - Δ/2 A)⁻¹ (I + Δ/2 A)        B̄ = (I - Δ/2 A)⁻¹ Δ B

Woodbury's identity makes a step of the recurrence linear in the number of states (appendix C.2).
The kernel of a window of L steps is the inverse Fourier transform of its generating function at the
roots of unity, a handful of Cauchy kernels (appendix C.3). With z on the unit circle,
E = (1 - z) - Δ/2 (1 + z) Λ and s = Δ/2 (1 + z),

    C̃ (I - z Ā)⁻¹ B̄ = Δ (C̃ E⁻¹ B - s C̃ E⁻¹ P · Pᴴ E⁻¹ B / (1 + s Pᴴ E⁻¹ P)),    C̃ = C (I - Ā^L)

which has no pole at z = -1. Only one state of every conjugate pair is kept. For resets and
other ways to compute this see `ssmrl.memory.siso`.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmrl.memory.base import STATE_DTYPE
from ssmrl.memory.diagonal import log_uniform
from ssmrl.memory.linear import bounded_exp, join_pair, split_pair
from ssmrl.memory.s5 import hippo_legs_eigen
from ssmrl.memory.siso import SystemBank, as_row, doubled


class S4(SystemBank):
    """Structured state spaces, without the block around them."""

    ssm_parameters = ("log_decay", "frequency", "P", "B", "log_step")

    def system(self):
        H, N = self.features, self.states
        eigenvalues, vectors = hippo_legs_eigen(2 * N)
        n = np.arange(2 * N)
        low_rank = vectors.conj().T @ np.sqrt(n + 0.5)
        inputs = vectors.conj().T @ np.sqrt(2 * n + 1)
        start = np.tile(eigenvalues, (H, 1))
        log_decay = self.param("log_decay", lambda _: jnp.asarray(np.log(-start.real), STATE_DTYPE))
        frequency = self.param("frequency", lambda _: jnp.asarray(start.imag, STATE_DTYPE))
        log_step = self.param("log_step", log_uniform, (H,), self.dt_min, self.dt_max)
        normal = nn.initializers.normal(np.sqrt(0.5))
        return {
            "eigenvalue": lax.complex(-bounded_exp(log_decay), frequency),
            "P": self._numbers("P", low_rank),
            "B": self._numbers("B", inputs),
            "C": 2 * join_pair(self.param("C", normal, (H, 2 * N), STATE_DTYPE)),
            "step": bounded_exp(log_step)[:, None],
        }

    def _numbers(self, name: str, start: np.ndarray) -> Array:
        """Complex parameters `[H, N]`, the same for every system at first."""
        pair = np.tile(np.concatenate([start.real, start.imag]), (self.features, 1))
        return join_pair(self.param(name, lambda _: jnp.asarray(pair, STATE_DTYPE)))

    def step(self, system, x, u):
        half, P, B = system["step"] / 2, system["P"], system["B"]
        moved = x + half * (system["eigenvalue"] * x - P * _inner(P, x))
        return _solve(system, moved + 2 * half * B * u[..., None])

    def powers(self, system, steps):
        A = self._dense(system)  # [H, M, M], from the left
        ones = jnp.ones((self.features,), STATE_DTYPE)
        B = split_pair(self.step(system, jnp.zeros_like(system["B"]), ones))
        columns = doubled(B, A.mT, _times, _square, steps)
        rows = doubled(_times(as_row(system["C"]), A), A, _times, _square, steps)
        return jnp.moveaxis(rows, 0, 1), jnp.moveaxis(columns, 0, 1)

    def kernel(self, system, rows, columns):
        steps = rows.shape[1]
        truncated = join_pair(as_row(system["C"]) - rows[:, -1]).conj()
        turn = np.exp(-2j * np.pi * np.arange(steps // 2 + 1) / steps)
        turn = jnp.asarray(turn, system["B"].dtype)[:, None]
        step, P, B = (system[name][:, None] for name in ("step", "P", "B"))
        spread = step / 2 * (1 + turn)

        def cauchy(weights):
            """Σ w / E over all states, `[H, L/2 + 1]`; the mirror images' weights are conjugate."""
            eigenvalue = system["eigenvalue"][:, None]
            E, mirrored = ((1 - turn) - spread * x for x in (eigenvalue, eigenvalue.conj()))
            return jnp.sum(weights / E + weights.conj() / mirrored, axis=-1)

        C = truncated[:, None] / 2  # the factor 2 of C stood for the mirror images
        spread_only = spread[..., 0]
        correction = cauchy(C * P) * cauchy(P.conj() * B)
        correction *= spread_only / (1 + spread_only * cauchy(P.conj() * P))
        return jnp.fft.irfft(step[..., 0] * (cauchy(C * B) - correction), steps, axis=-1)

    def advance(self, system, steps):
        power, A = None, self._dense(system)
        while steps:
            if steps & 1:
                power = A if power is None else power @ A
            A, steps = A @ A, steps >> 1
        return lambda x: join_pair(jnp.einsum("hij,bhj->bhi", power, split_pair(x)))

    def _dense(self, system) -> Array:
        """Ā as real matrices `[H, M, M]` over (real | imaginary)."""
        basis = join_pair(jnp.eye(2 * self.states, dtype=STATE_DTYPE))[:, None]
        images = self.step(system, basis, jnp.zeros((1, self.features), STATE_DTYPE))
        return jnp.moveaxis(split_pair(images), 0, -1)


def _inner(P: Array, x: Array) -> Array:
    """Pᴴ x over all states: twice the real part of the sum over those that are kept."""
    return 2 * jnp.sum((P.conj() * x).real, axis=-1, keepdims=True)


def _solve(system: dict[str, Array], x: Array) -> Array:
    """(I - Δ/2 A)⁻¹ x by Woodbury's identity."""
    half, P = system["step"] / 2, system["P"]
    inverse = 1 / (1 - half * system["eigenvalue"])
    along = half / (1 + half * _inner(P, inverse * P))
    return inverse * (x - P * (along * _inner(P, inverse * x)))


def _times(rows: Array, A: Array) -> Array:
    """Rows `[..., H, M]` times `[H, M, M]` from the right."""
    return jnp.einsum("...hm,hmk->...hk", rows, A)


def _square(A: Array) -> Array:
    return A @ A

"""Banks of single-input, single-output state space models: what S4, S4D and DSS share.

Each of H features has a system of its own with N complex states,

    x[t] = Ā x[t-1] + B̄ u[t],      y[t] = Re(C x[t]) + D u[t]

which is also a convolution, y = K * u with K[l] = Re(C Ā^l B̄) (Gu, Goel, Ré, "Efficiently Modeling
Long Sequences with Structured State Spaces", 2021, section 2.4). A window in which no episode
begins after its first step is computed by FFT, any other by the recurrence.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, Memory
from ssmrl.memory.containment import contain, taint
from ssmrl.memory.linear import Dense, join_pair, split_pair
from ssmrl.scan import scan_in_blocks

FORMS = ("auto", "recurrence", "convolution")
BLOCK = 16
"""Steps of the recurrence that are kept for the gradient at once."""

System = dict[str, Array]


class SystemBank(Memory):
    """H systems side by side: a subclass writes `system`, `step` and `powers`.

    Attributes:
        features: number H of systems, and width of the output.
        state_size: number of real states of each system.
        dt_min, dt_max: the step Δ of each system starts log-uniform between these.
        form: "auto" chooses between "recurrence" and "convolution" by whether an episode begins
            after the first step of the window. "convolution" is right only where none does.
        dtype: of the input's projection, which is there where widths differ; None means the
            input's. States are complex64 and everything that touches them is float32.

    Carry: complex64 `[*batch, H, N]`.
    """

    state_size: int = 64
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    form: str = "auto"
    dtype: DTypeLike | None = None

    @property
    def has_complex_states(self) -> bool:
        """Whether the carry is complex."""
        return True

    @property
    def parts(self) -> int:
        """Real states that one of the N stands for: 2 where half of each conjugate pair is kept."""
        return 2 if self.has_complex_states else 1

    @property
    def states(self) -> int:
        """N, the complex states of each system."""
        name = type(self).__name__
        if self.state_size < self.parts or self.state_size % self.parts:
            raise ValueError(
                f"{name}: state_size must be a positive multiple of {self.parts}, "
                f"got {self.state_size}"
            )
        if self.form not in FORMS:
            raise ValueError(f"{name}: unknown form {self.form!r}; choose one of {FORMS}")
        return self.state_size // self.parts

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Array:
        dtype = jnp.complex64 if self.has_complex_states else STATE_DTYPE
        return jnp.zeros((*batch_shape, self.features, self.states), dtype)

    def system(self) -> System:
        """The discrete system from the parameters; `C` `[H, N]` is part of it."""
        raise NotImplementedError(f"{type(self).__name__} lacks system")

    def step(self, system: System, x: Array, u: Array) -> Array:
        """Ā x + B̄ u for x `[*batch, H, N]` and u `[*batch, H]`."""
        raise NotImplementedError(f"{type(self).__name__} lacks step")

    def powers(self, system: System, steps: int) -> tuple[Array, Array, Array]:
        """What a window of L steps does, in real numbers: a state is (real | imaginary), `[M]`.

        Returns:
            K `[H, L]`, the rows that read C Ā^(t+1) x `[H, L, M]`, and the columns Ā^k B̄
            `[H, L, M]`.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks powers")

    def advance(self, system: System, steps: int, x: Array) -> Array:
        """Ā^steps x, x `[*batch, H, N]`."""
        raise NotImplementedError(f"{type(self).__name__} lacks advance")

    def unroll(self, carry, x, reset, return_carries):
        if x.shape[-1] != self.features:
            dtype = x.dtype if self.dtype is None else self.dtype
            x = Dense(self.features, dtype=dtype, name="embed")(x)
        u, system = x.astype(STATE_DTYPE), self.system()
        D = self.param("D", nn.initializers.normal(1.0), (self.features,), STATE_DTYPE)
        last, y, carries = self._run(system, carry, u, reset, return_carries)
        return last, (y + D * u).astype(x.dtype), carries

    def _run(self, system: System, carry: Array, u: Array, reset: Array, return_states: bool):
        if return_states:
            return self._recurrence(system, carry, u, reset, return_states=True)
        if self.form == "recurrence" or u.shape[0] == 1:
            return *self._recurrence(system, carry, u, reset), None
        if self.form == "convolution":
            return *self._convolution(system, carry, u, reset), None
        forms = (self._recurrence, self._convolution)
        return *lax.cond(reset[1:].any(), *forms, system, carry, u, reset), None

    def _recurrence(self, system, carry, u, reset, return_states=False):
        def step(x, inputs):
            u_t, reset_t = inputs
            x = self.step(system, jnp.where(reset_t[..., None, None], 0, x), u_t)
            y = jnp.sum((system["C"] * x).real, axis=-1)
            return x, (y, x) if return_states else y

        def block(x, inputs):
            return lax.scan(step, x, inputs)

        if return_states:
            last, (y, states) = block(carry, (u, reset))
            return last, y, states
        return scan_in_blocks(block, carry, (u, reset), BLOCK)

    def _convolution(self, system, carry, u, reset):
        """Right where no episode begins after the first step."""
        L, batch = u.shape[0], u.shape[1:-1]
        carry = jnp.where(reset[0][..., None, None], 0, carry)
        unbroken = jnp.zeros_like(reset)
        u, carry, tainted = contain(u, carry, unbroken)
        u, carry = u.reshape(L, -1, self.features), carry.reshape(-1, *carry.shape[len(batch) :])
        kernel, rows, columns = self.powers(system, L)
        y = fft_convolution(kernel, u) + jnp.einsum("hlm,bhm->lbh", rows, as_real(carry))
        moved = jnp.einsum("hlm,lbh->bhm", columns[:, ::-1], u)
        moved = join_pair(moved) if self.has_complex_states else moved
        last = self.advance(system, L, carry) + moved
        last = taint(last.reshape(*batch, *last.shape[1:]), tainted[-1])
        return last, taint(y.reshape(L, *batch, -1), tainted)


def fft_convolution(kernel: Array, u: Array) -> Array:
    """y[t] = Σ_{s ≤ t} K[t - s] u[s] from K `[H, L]` and u `[L, B, H]`."""
    L = u.shape[0]
    size = 2 * L  # room for what a circular convolution would wrap around
    spectrum = jnp.fft.rfft(kernel.T, size, axis=0)[:, None] * jnp.fft.rfft(u, size, axis=0)
    return jnp.fft.irfft(spectrum, size, axis=0)[:L]


def doubled(first: Array, power: Array, multiply: Any, square: Any, steps: int) -> Array:
    """x, x p, x p², ... `[steps, ...]` in a logarithmic number of products.

    Args:
        first: x.
        power: p.
        multiply: `(stack of x, p) -> stack of x p`.
        square: `p -> p²`.
        steps: how many.
    """
    stack = first[None]
    while stack.shape[0] < steps:
        stack = jnp.concatenate([stack, multiply(stack, power)])
        power = square(power)
    return stack[:steps]


def as_real(x: Array) -> Array:
    """Complex [..., N] → (real | imaginary) [..., 2N]; real numbers as they are."""
    return split_pair(x) if jnp.iscomplexobj(x) else x

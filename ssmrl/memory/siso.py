"""Banks of single-input, single-output state space models: what S4, S4D and DSS share.

Each of H features has a system of its own with N complex states,

    x[t] = Ā x[t-1] + B̄ u[t],      y[t] = Re(C x[t]) + D u[t]

which is also a convolution, y = K * u with K[l] = Re(C Ā^l B̄) (Gu, Goel, Ré, "Efficiently Modeling
Long Sequences with Structured State Spaces", 2021, section 2.4). Three ways to compute it agree:

- the recurrence, whose states are N times the size of u;
- one convolution by FFT, where no episode begins after the window's first step;
- chunks of a few steps, each a product with a small Toeplitz matrix, states passed from chunk to
  chunk. Steps before the first start of an episode in a chunk see all of the chunk, since the
  product is causal; those after it see the chunk without what came before. Where more than one
  episode begins in a chunk, the product is replaced by a sum over lags within the same episode.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, Memory
from ssmrl.memory.containment import contain, taint
from ssmrl.memory.linear import Dense, join_pair, split_pair
from ssmrl.scan import scan_in_blocks

FORMS = ("chunks", "convolution", "recurrence")
CHUNK = 16
"""Steps of a chunk, and of the recurrence that are kept for the gradient at once."""
TOGETHER = 64
"""Chunks of all environments that are computed at once: enough to fill matrix products. For the
gradient the states of only so many are held, and computed again."""

System = dict[str, Array]


class SystemBank(Memory):
    """H systems side by side: a subclass writes `system`, `step` and `powers`.

    Attributes:
        features: number H of systems, and width of the output.
        state_size: number of real states of each system.
        dt_min: smallest initial step Δ of a system; they are drawn log-uniformly.
        dt_max: largest initial step Δ of a system.
        form: "chunks", "convolution" or "recurrence". A convolution cannot reset within a window:
            where an episode begins after its first step, chunks take its place.
        dtype: dtype of the input's projection, if there is one (where widths differ); None means
            the input's. States are complex64 and everything that touches them is float32.

    Carry: complex64 `[*batch, H, N]`.
    """

    state_size: int = 64
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    form: str = "chunks"
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

    def powers(self, system: System, steps: int) -> tuple[Array, Array]:
        """What L steps do to and with the state, in real numbers: (real | imaginary), `[M]`.

        Returns:
            The rows that read C Ā^(t+1) x, and the columns Ā^k B̄, both `[H, L, M]`.
        """
        raise NotImplementedError(f"{type(self).__name__} lacks powers")

    def kernel(self, system: System, rows: Array, columns: Array) -> Array:
        """K `[H, L]` from what `powers` returned."""
        return jnp.einsum("hm,hlm->hl", as_row(system["C"]), columns)

    def advance(self, system: System, steps: int) -> Callable[[Array], Array]:
        """The map x → Ā^steps x, x `[*batch, H, N]`."""
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
        if self.form == "chunks":
            return *self._chunks(system, carry, u, reset), None
        forms = (self._chunks, self._convolution)
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
        return scan_in_blocks(block, carry, (u, reset), CHUNK)

    def _convolution(self, system, carry, u, reset):
        """Right where no episode begins after the first step."""
        (L, *batch, H), shape = u.shape, carry.shape
        carry = jnp.where(reset[0][..., None, None], 0, carry)
        u, carry, tainted = contain(u, carry, jnp.zeros_like(reset))
        u, carry = u.reshape(L, -1, H), carry.reshape(-1, *shape[len(batch) :])
        rows, columns = self.powers(system, L)
        kernel = self.kernel(system, rows, columns)
        y = fft_convolution(kernel, u) + jnp.einsum("hlm,bhm->lbh", rows, as_real(carry))
        moved = jnp.einsum("hlm,lbh->bhm", columns[:, ::-1], u)
        last = self.advance(system, L)(carry) + self._as_state(moved)
        y = y.reshape(L, *batch, H)
        return taint(last.reshape(shape), tainted[-1]), taint(y, tainted)

    def _chunks(self, system, carry, u, reset):
        """Chunk by chunk, of which some are computed at a time; what remains is a shorter one."""
        (T, *batch, H), shape = u.shape, carry.shape
        u, carry, tainted = contain(u, carry, reset)
        entries, size = math.prod(batch), min(T, CHUNK)
        rows, columns = self.powers(system, size)
        tools = rows, columns, self.kernel(system, rows, columns)
        advance = self.advance(system, size)  # not in the loop, where it would be made again
        inputs = u.reshape(T, entries, H), reset.reshape(T, entries)
        carry, whole = carry.reshape(entries, *shape[-2:]), T // size * size
        last, y = scan_in_blocks(
            partial(self._whole_chunks, tools, advance),
            carry,
            jax.tree.map(lambda leaf: leaf[:whole], inputs),
            size * max(1, TOGETHER // entries),
        )
        if whole < T:
            shorter = [tool[:, : T - whole] for tool in tools]
            inputs = jax.tree.map(lambda leaf: leaf[whole:], inputs)
            last, rest = self._whole_chunks(shorter, self.advance(system, T - whole), last, inputs)
            y = jnp.concatenate([y, rest])
        y = y.reshape(T, *batch, H)
        return taint(last.reshape(shape), tainted[-1]), taint(y, tainted)

    def _whole_chunks(self, tools, advance, carry, inputs):
        """The last state and y, from u `[T, B, H]` and resets.

        Args:
            tools: the rows and columns of `powers` and the kernel, of c steps, a divisor of T.
            advance: x → Ā^c x.
            carry: the state before, `[B, H, N]`.
            inputs: u and the resets.
        """
        (rows, columns, kernel), (u, reset) = tools, inputs
        size, toeplitz = kernel.shape[1], _toeplitz(kernel)
        u, flags = (v.reshape(-1, size, *v.shape[1:]) for v in (u, reset))  # [n, c, B, ...]
        episode = jnp.cumsum(flags, axis=1, dtype=jnp.int32)  # [n, c, B], 0 before any start
        # The last state of a chunk is made of what its last episode has seen.
        recent = jnp.where((episode == episode[:, -1:])[..., None], u, 0)
        moved = self._as_state(jnp.einsum("hsm,nsbh->nbhm", columns[:, ::-1], recent))
        before, last = _states_between(advance, carry, moved, episode[:, -1] > 0)
        unbroken = jnp.einsum("hts,nsbh->ntbh", toeplitz, u)
        unbroken += jnp.einsum("htm,nbhm->ntbh", rows, as_real(before))
        begun = lax.cond(
            (episode[:, -1] > 1).any(),
            lambda: _sum_over_lags(kernel, u, episode),
            lambda: jnp.einsum("hts,nsbh->ntbh", toeplitz, recent),
        )
        y = jnp.where((episode > 0)[..., None], begun, unbroken)
        return last, y.reshape(-1, *y.shape[2:])

    def _as_state(self, x: Array) -> Array:
        return join_pair(x) if self.has_complex_states else x


def _states_between(advance, carry: Array, moved: Array, broken: Array) -> tuple[Array, Array]:
    """The state before every chunk `[n, B, H, N]`, and the last state `[B, H, N]`."""

    def step(x, inputs):
        moved_n, broken_n = inputs
        return jnp.where(broken_n[:, None, None], 0, advance(x)) + moved_n, x

    last, before = lax.scan(step, carry, (moved, broken))
    return before, last


def _sum_over_lags(kernel: Array, u: Array, episode: Array) -> Array:
    """Σ_l K[l] u[t - l] over the steps of the same episode: u `[n, c, B, H]`, K `[H, c]`."""
    y = kernel[:, 0] * u
    for lag in range(1, u.shape[1]):
        earlier = jnp.pad(u[:, :-lag], ((0, 0), (lag, 0), (0, 0), (0, 0)))
        before = jnp.pad(episode[:, :-lag], ((0, 0), (lag, 0), (0, 0)), constant_values=-1)
        y += kernel[:, lag] * jnp.where((before == episode)[..., None], earlier, 0)
    return y


def _toeplitz(kernel: Array) -> Array:
    """`[H, t, s]`, K[t - s] where s ≤ t, from K `[H, c]`."""
    time = np.arange(kernel.shape[-1])
    lag = time[:, None] - time
    return jnp.where(lag >= 0, kernel[:, np.maximum(lag, 0)], 0)


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


def as_row(x: Array) -> Array:
    """The real row whose product with `as_real(state)` is Re(x state)."""
    return as_real(x.conj())

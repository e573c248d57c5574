"""LMU: the Legendre memory unit, in its linear form.

Voelker, Kajić, Eliasmith, "Legendre Memory Units" (2019), equations 2 and 5; without the nonlinear
path from the output back into the memory, as in Chilkuri and Eliasmith, "Parallelizing Legendre
Memory Unit Training" (2021), equations 18 to 20:

    u[t] = W_u x[t] + b_u                              [d]
    m[t] = Ā m[t-1] + B̄ u[t]ᵀ                          [d, N], N Legendre coefficients a channel
    y[t] = W_m m[t] + W_x x[t] + b

A and B (HiPPO-LegT) keep a sliding window of θ steps as Legendre coefficients; Ā = exp(A / θ) and B̄
are their zero-order hold. These matrices are not learned.
"""

from functools import lru_cache, partial

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from ssmrl.memory.base import STATE_DTYPE, AssociativeMemory, DTypeLike
from ssmrl.memory.linear import Dense
from ssmrl.scan import by_platform, operator_scan


class LMU(AssociativeMemory):
    """A Legendre memory unit, without the block around it.

    Attributes:
        features: width H of the output.
        channels: number d of signals that are remembered.
        order: number N of Legendre coefficients that each is remembered by.
        theta: length θ of the window in steps.
        dtype: dtype of the matrix products before and after the memory; None means the input's.

    Carry: float32 `[*batch, d, N]`.
    """

    channels: int = 8
    order: int = 32
    theta: float = 128.0
    dtype: DTypeLike | None = None

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Array:
        if self.channels < 1 or self.order < 1 or self.theta <= 0:
            raise ValueError(
                "LMU: channels and order must be at least 1 and theta positive, got "
                f"{self.channels}, {self.order} and {self.theta}"
            )
        return jnp.zeros((*batch_shape, self.channels, self.order), STATE_DTYPE)

    def encode(self, x: Array) -> tuple[Array, Array]:
        """(Āᵀ `[T, *1, N, N]`, u B̄ᵀ `[T, *batch, d, N]`)."""
        dtype = x.dtype if self.dtype is None else self.dtype
        A, B = legendre_window(self.order, self.theta)
        u = Dense(self.channels, dtype=dtype, name="input")(x).astype(STATE_DTYPE)
        decay = jnp.asarray(A.T, STATE_DTYPE)
        shape = (x.shape[0], *(1 for _ in x.shape[1:-1]), *decay.shape)
        return jnp.broadcast_to(decay, shape), u[..., None] * jnp.asarray(B, STATE_DTYPE)

    def decode(self, states: Array, x: Array) -> Array:
        dtype = x.dtype if self.dtype is None else self.dtype
        flat = states.reshape(*x.shape[:-1], -1).astype(dtype)
        both = jnp.concatenate([flat, x.astype(dtype)], axis=-1)
        return Dense(self.features, dtype=dtype, name="output")(both).astype(x.dtype)

    def combine(self, left, right):
        (A_left, b_left), (A_right, b_right) = left, right
        return A_left @ A_right, b_left @ A_right + b_right

    def identity(self, like):
        A, b = like
        return jnp.broadcast_to(jnp.eye(A.shape[-1], dtype=A.dtype), A.shape), jnp.zeros_like(b)

    def scan(self, elements, carry, reset):
        forms = (_one_by_one, partial(_by_operator, self.combine))
        return by_platform(self.scan_method, *forms, *elements, carry, reset)


def _one_by_one(A, b, carry, reset):
    """A matrix is the same at every step: only vectors are multiplied by it."""
    A = A.reshape(-1, *A.shape[-2:])[0]

    def step(m, inputs):
        b_t, reset_t = inputs
        m = jnp.where(reset_t[..., None, None], 0, m) @ A + b_t
        return m, m

    return lax.scan(step, carry, (b, reset))[1]


def _by_operator(combine, A, b, carry, reset):
    A = jnp.broadcast_to(A, (*reset.shape, *A.shape[-2:]))  # flags choose among both alike
    eye = jnp.eye(A.shape[-1], dtype=A.dtype)
    state = (jnp.broadcast_to(eye, A.shape[1:]), carry)
    start = (eye, jnp.zeros(b.shape[-2:], b.dtype))
    return operator_scan(combine, (A, b), state, reset, start, method="associative")[1]


@lru_cache(maxsize=16)
def legendre_window(order: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """Ā `[N, N]` and B̄ `[N]`: a window of `theta` steps, held over one step (equation 2)."""
    import scipy.linalg  # not at the top: jax brings it along, but does not import it

    n = np.arange(order)
    scale = (2 * n + 1)[:, None]
    sign = np.where(n[:, None] < n[None, :], -1.0, (-1.0) ** (n[:, None] - n[None, :] + 1))
    A, B = scale * sign, scale * (-1.0) ** n[:, None]
    # The hold of [A B; 0 0] gives both at once.
    both = np.zeros((order + 1, order + 1))
    both[:order, :order], both[:order, order:] = A, B
    held = scipy.linalg.expm(both / theta)
    return held[:order, :order], held[:order, order]

"""S5: a diagonal multi-input, multi-output state space model.

Smith, Warrington, Linderman, "Simplified State Space Layers for Sequence Modeling" (2023); resets
as in Lu et al., "Structured State Space Models for In-Context Reinforcement Learning" (2023).

    x[t] = Λ̄ x[t-1] + B̄ u[t],      y[t] = 2 Re(C̃ x[t]) + D u[t]

Λ̄ is diagonal and complex; only one of each conjugate pair of states is kept, hence the 2 Re.
Matrix products are done on real pairs: complex ones are many times slower on CPUs and miss the
matrix units of accelerators. Only the elementwise recurrence is complex.
"""

from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, ScanMemory
from ssmrl.memory.linear import product


class S5(ScanMemory):
    """The S5 state space model, without the block around it (see `ssmrl.memory.block`).

    Attributes:
        features: width H of the output.
        state_size: number of real states P (P/2 conjugate pairs are kept); None means `features`.
        blocks: J; the state matrix starts as J copies of a HiPPO-LegS matrix of size P/J.
        discretization: "zoh" or "bilinear".
        dt_min, dt_max: the step Δ of each state starts log-uniform between these.
        dtype: of the matrix products' factors; None means the input's. States stay complex64.

    Carry: complex64 `[*batch, P/2]`.
    """

    state_size: int | None = None
    blocks: int = 1
    discretization: str = "zoh"
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dtype: DTypeLike | None = None

    ssm_parameters = ("log_decay", "frequency", "log_step", "B")

    @property
    def pairs(self) -> int:
        """Number N of complex states that are kept."""
        size = self.features if self.state_size is None else self.state_size
        if size < 2 or self.blocks < 1 or size % (2 * self.blocks):
            raise ValueError(
                f"S5: state_size {size} must be a positive multiple of 2 * blocks = "
                f"{2 * self.blocks}"
            )
        return size // 2

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Array:
        return jnp.zeros((*batch_shape, self.pairs), jnp.complex64)

    def encode(self, x: Array) -> tuple[Array, Array]:
        decay, input_scale = self._discretize()
        _, vectors = hippo_legs_eigen(2 * self.pairs // self.blocks)
        project = _input_initializer(vectors, self.blocks)
        pair = self.param("B", project, (x.shape[-1], 2 * self.pairs), STATE_DTYPE)
        B = _stack(_complex(pair) * input_scale)
        return decay, _complex(product(x, B, self.dtype))

    def decode(self, states: Array, x: Array) -> Array:
        _, vectors = hippo_legs_eigen(2 * self.pairs // self.blocks)
        init = _output_initializer(vectors, self.blocks)
        C = self.param("C", init, (2 * self.pairs, self.features), STATE_DTYPE)
        dtype = x.dtype if self.dtype is None else self.dtype
        y = product(_stack(states), C, dtype).astype(x.dtype)
        if x.shape[-1] == self.features:
            D = self.param("D", nn.initializers.normal(1.0), (self.features,), STATE_DTYPE)
            return y + D.astype(x.dtype) * x
        shape = (x.shape[-1], self.features)
        D = self.param("D", nn.initializers.lecun_normal(), shape, STATE_DTYPE)
        return y + product(x, D, dtype).astype(x.dtype)

    def _discretize(self) -> tuple[Array, Array]:
        """Λ̄ `[N]`, and the factor `[N]` that turns B̃ into B̄ (Smith et al., equation 6)."""
        eigenvalues, _ = hippo_legs_eigen(2 * self.pairs // self.blocks)
        start = np.tile(eigenvalues, self.blocks)
        # Re Λ = -exp(log_decay) < 0 whatever is learned, so that no state can grow.
        log_decay = self.param("log_decay", lambda _: jnp.asarray(np.log(-start.real), STATE_DTYPE))
        frequency = self.param("frequency", lambda _: jnp.asarray(start.imag, STATE_DTYPE))
        log_step = self.param("log_step", _log_uniform, (self.pairs,), self.dt_min, self.dt_max)
        eigenvalue = jax.lax.complex(-jnp.exp(log_decay), frequency)
        step = jnp.exp(log_step)
        if self.discretization == "zoh":
            decay = jnp.exp(eigenvalue * step)
            return decay, (decay - 1) / eigenvalue
        if self.discretization == "bilinear":
            half = eigenvalue * (step / 2)
            return (1 + half) / (1 - half), step / (1 - half)
        raise ValueError(
            f"S5: unknown discretization {self.discretization!r}; choose 'zoh' or 'bilinear'"
        )


@lru_cache(maxsize=16)
def hippo_legs_eigen(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues `[size/2]` and eigenvectors `[size, size/2]` of the normal part of HiPPO-LegS.

    S = A + P Pᵀ is -1/2 on the diagonal plus a skew-symmetric matrix, so that `eigh(-i S)` gives
    the imaginary parts; those above zero are kept (Gu et al., "On the Parameterization and
    Initialization of Diagonal State Space Models", 2022; Smith et al., appendix B.1.1).
    """
    n = np.arange(size)
    root = np.sqrt(2 * n + 1)
    A = -np.tril(root[:, None] * root[None, :], -1) - np.diag(n + 1.0)
    P = np.sqrt(n + 0.5)
    S = A + P[:, None] * P[None, :]
    frequency, vectors = np.linalg.eigh(-1j * S)
    keep = slice(size // 2, None)  # eigh sorts: the upper half has positive imaginary parts
    eigenvalues = np.mean(np.diag(S)) + 1j * frequency[keep]
    return eigenvalues, vectors[:, keep]


def _log_uniform(key: Array, shape: tuple[int, ...], low: float, high: float) -> Array:
    return jax.random.uniform(key, shape, STATE_DTYPE, np.log(low), np.log(high))


def _input_initializer(vectors: np.ndarray, blocks: int):
    """B̃ = V* B with B real, LeCun normal over the inputs; as `[F, 2N]` (real | imaginary)."""

    def init(key, shape, dtype):
        inputs, block = shape[0], vectors.shape[0]
        B = jax.random.normal(key, (inputs, blocks, block)) / np.sqrt(inputs)
        return _stack(_rotate(B, vectors.conj())).reshape(shape).astype(dtype)

    return init


def _output_initializer(vectors: np.ndarray, blocks: int):
    """C̃ = C V with C complex, LeCun normal over the states; as `[2N, H]` so that y = [x] @ it.

    The rows hold (2 Re C̃, -2 Im C̃): y = 2 Re(C̃ x) is then one real product.
    """

    def init(key, shape, dtype):
        outputs, block = shape[1], vectors.shape[0]
        pair = jax.random.normal(key, (2, outputs, blocks, block)) / np.sqrt(2 * blocks * block)
        re, im = _rotate(pair[0], vectors), _rotate(pair[1], vectors)
        C = jax.lax.complex(re.real - im.imag, re.imag + im.real)
        return _stack(2 * C.conj()).T.astype(dtype)

    return init


def _rotate(matrix: Array, vectors: np.ndarray) -> Array:
    """`matrix @ vectors` block by block, [..., J, P/J] → [..., N], complex, by real products."""
    re, im = matrix @ vectors.real, matrix @ vectors.imag
    return jax.lax.complex(re, im).reshape(*matrix.shape[:-2], -1)


def _complex(pair: Array) -> Array:
    """[..., 2N] (real | imaginary) → complex [..., N]."""
    n = pair.shape[-1] // 2
    return jax.lax.complex(pair[..., :n], pair[..., n:])


def _stack(x: Array) -> Array:
    """Complex [..., N] → [..., 2N] (real | imaginary)."""
    return jnp.concatenate([x.real, x.imag], axis=-1)

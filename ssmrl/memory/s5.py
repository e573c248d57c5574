"""S5: a diagonal multi-input, multi-output state space model.

Smith, Warrington, Linderman, "Simplified State Space Layers for Sequence Modeling" (2023); resets
as in Lu et al., "Structured State Space Models for In-Context Reinforcement Learning" (2023).

    x[t] = Λ̄ x[t-1] + B̄ u[t],      y[t] = 2 Re(C̃ x[t]) + D u[t]

Λ̄ is diagonal and complex; only one of each conjugate pair of states is kept, hence the 2 Re.
Matrix products are computed on pairs of real numbers, because complex products are many times
slower on CPUs and cannot use the matrix units of accelerators. Only the elementwise recurrence is
complex.

Initialised as in the authors' code: Λ with the eigenvalues of HiPPO-LegS' normal part, Δ
log-uniformly, the real B and both parts of the complex C as LeCun normal before they are
transformed to the basis of eigenvectors. There B's fan-in is the number of states P, its matrix
being [P, F]; here it is the number of inputs F, which is the same if P = F.
"""

from functools import lru_cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, ScanMemory
from ssmrl.memory.diagonal import (
    DIAGONAL_PARAMETERS,
    DiagonalOptions,
    discretize,
    log_uniform,
    lost_power,
)
from ssmrl.memory.linear import (
    bounded_exp,
    join_pair,
    pair_product,
    product,
    skip,
    split_pair,
)


class S5(DiagonalOptions, ScanMemory):
    """The S5 state space model, without the block around it (see `ssmrl.memory.block`).

    Attributes:
        features: width H of the output.
        state_size: number of real states P (P/2 conjugate pairs are kept); None means `features`.
        blocks: J; the state matrix starts as J copies of a HiPPO-LegS matrix of size P/J.
        discretization: "zoh" or "bilinear".
        normalized: B̄ = sqrt(1 - |Λ̄|²) B̃ instead, as in LRU (Orvieto et al. 2023, section 3.4):
            with white inputs of variance 1 every state has variance 1. As published, an input is
            added to a state with a weight of about Δ (.001 to .1): what is seen once hardly changes
            it at first, so an agent that learns from rewards is slow to use it (docs/recipe.md).
        dt_min: smallest initial step Δ of a state; they are drawn log-uniformly.
        dt_max: largest initial step Δ of a state.
        dtype: dtype of the matrix products; None means the input's. States stay complex64.

    Carry: complex64 `[*batch, P/2]`; where `complex_state` is off, float32 `[*batch, P]`, with
    rates that start as 1, 2, ... P/J in every block (S4D-Real, Gu et al. 2022, section 4.1).
    """

    state_size: int | None = None
    blocks: int = 1
    discretization: str = "zoh"
    normalized: bool = False
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dtype: DTypeLike | None = None

    ssm_parameters = DIAGONAL_PARAMETERS

    @property
    def states(self) -> int:
        """Number N of states that are kept: of complex pairs one each."""
        size = self.features if self.state_size is None else self.state_size
        parts = 2 if self.complex_state else 1
        if size < 1 or self.blocks < 1 or size % (parts * self.blocks):
            raise ValueError(
                f"S5: state_size {size} must be a positive multiple of {parts} * blocks = "
                f"{parts * self.blocks}"
            )
        return size // parts

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Array:
        dtype = jnp.complex64 if self.complex_state else STATE_DTYPE
        return jnp.zeros((*batch_shape, self.states), dtype)

    def encode(self, x: Array) -> tuple[Array, Array]:
        decay, input_scale = self._discretize()
        if not self.complex_state:
            shape = (x.shape[-1], self.states)
            B = self.param("B", nn.initializers.lecun_normal(), shape, STATE_DTYPE)
            return self.polarize(decay), product(x, B * input_scale, self.dtype)
        _, vectors = hippo_legs_eigen(2 * self.states // self.blocks)
        project = _input_initializer(vectors, self.blocks)
        pair = self.param("B", project, (x.shape[-1], 2 * self.states), STATE_DTYPE)
        B = split_pair(join_pair(pair) * input_scale)
        return self.polarize(decay), join_pair(product(x, B, self.dtype))

    def decode(self, states: Array, x: Array) -> Array:
        init, rows, multiply = nn.initializers.lecun_normal(), self.states, product
        if self.complex_state:
            _, vectors = hippo_legs_eigen(2 * self.states // self.blocks)
            init = _output_initializer(vectors, self.blocks)
            rows, multiply = 2 * self.states, pair_product
        C = self.param("C", init, (rows, self.features), STATE_DTYPE)
        dtype = x.dtype if self.dtype is None else self.dtype
        return multiply(states, C, dtype).astype(x.dtype) + skip(self, x, dtype)

    def _discretize(self) -> tuple[Array, Array]:
        """Λ̄ `[N]`, and the factor `[N]` that turns B̃ into B̄ (Smith et al., equation 6)."""
        start = np.tile(self._eigenvalues(), self.blocks)
        rate = self.rate(lambda _: jnp.asarray(-start.real, STATE_DTYPE), -start.real.min())
        log_step = self.param("log_step", log_uniform, (self.states,), self.dt_min, self.dt_max)
        eigenvalue = -rate
        if self.complex_state:
            frequency = self.param("frequency", lambda _: jnp.asarray(start.imag, STATE_DTYPE))
            eigenvalue = jax.lax.complex(-rate, frequency)
        step = bounded_exp(log_step) * self.step_rescale
        decay, input_scale = discretize(self.discretization, eigenvalue, step)
        if self.normalized:
            input_scale = jnp.sqrt(lost_power(self.discretization, eigenvalue, step))
        return decay, input_scale

    def _eigenvalues(self) -> np.ndarray:
        """Of one block, at first."""
        size = self.states // self.blocks
        return hippo_legs_eigen(2 * size)[0] if self.complex_state else -(np.arange(size) + 1.0)


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


def _input_initializer(vectors: np.ndarray, blocks: int):
    """B̃ = V* B with B real, LeCun normal over the inputs; as `[F, 2N]` (real | imaginary)."""

    def init(key, shape, dtype):
        inputs, block = shape[0], vectors.shape[0]
        B = jax.random.normal(key, (inputs, blocks, block)) / np.sqrt(inputs)
        return split_pair(_rotate(B, vectors.conj())).reshape(shape).astype(dtype)

    return init


def _output_initializer(vectors: np.ndarray, blocks: int):
    """C̃ = C V with C's real and imaginary parts LeCun normal over the P states; as `[2N, H]`.

    The rows hold (2 Re C̃, -2 Im C̃): y = 2 Re(C̃ x) is then one real product.
    """

    def init(key, shape, dtype):
        outputs, block = shape[1], vectors.shape[0]
        pair = jax.random.normal(key, (2, outputs, blocks, block)) / np.sqrt(blocks * block)
        re, im = _rotate(pair[0], vectors), _rotate(pair[1], vectors)
        C = jax.lax.complex(re.real - im.imag, re.imag + im.real)
        return split_pair(2 * C.conj()).T.astype(dtype)

    return init


def _rotate(matrix: Array, vectors: np.ndarray) -> Array:
    """`matrix @ vectors` block by block, [..., J, P/J] → [..., N], complex, by real products."""
    re, im = matrix @ vectors.real, matrix @ vectors.imag
    return jax.lax.complex(re, im).reshape(*matrix.shape[:-2], -1)

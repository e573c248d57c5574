"""SHM: stable Hadamard memory, a matrix that is calibrated and updated element by element.

Le et al., "Stable Hadamard Memory: Revitalizing Memory-Augmented Agents for Reinforcement Learning"
(2024), equations 5 to 9:

    C[t] = 1 + tanh(θ[t] w_c(x[t])ᵀ)          U[t] = η(x[t]) v(x[t]) k(x[t])ᵀ
    M[t] = M[t-1] ⊙ C[t] + U[t]               y[t] = W_o M[t] q(x[t])

Keys and queries are relu(W x), divided by their sums; η is a single sigmoid gate. θ[t] is one of L
learned rows. The paper draws it at random at every step, so that the product of all C has
expectation one. Here the rows take turns, in an order that spreads them evenly (Weyl, 1916), so
that acting, training and a repeated call agree; and they are centred, which makes their mean
exactly zero. θ is initialised as Glorot uniform over [L, N], as in the authors' code.
"""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, Memory
from ssmrl.memory.blockwise import outer, read_blockwise, weighted_sum
from ssmrl.memory.linear import Dense
from ssmrl.memory.position import positions
from ssmrl.scan import Method

GOLDEN = np.uint32(2654435769)
"""2³² divided by the golden ratio: multiples of it are spread evenly over the 32-bit integers."""


class SHM(Memory):
    """A stable Hadamard memory, without the block around it.

    Attributes:
        features: width H of the output.
        memory_size: rows and columns N of the matrix.
        rows: number L of rows θ, a power of two.
        dtype: dtype of the projections; None means the input's. The recurrence is float32.
        scan_method: "sequential", "associative", or "auto": the first on CPUs, else the second.

    Carry: `{"M": float32 [*batch, N, N], "position": uint32 [*batch]}`, the next step's position.
    """

    memory_size: int = 32
    rows: int = 128
    dtype: DTypeLike | None = None
    scan_method: Method = "auto"

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> dict[str, Array]:
        N, L = self.memory_size, self.rows
        if N < 1 or L < 2 or L & (L - 1):
            raise ValueError(
                f"SHM: memory_size must be at least 1 and rows a power of two above 1, got {N}, {L}"
            )
        return {
            "M": jnp.zeros((*batch_shape, N, N), STATE_DTYPE),
            "position": jnp.zeros(batch_shape, jnp.uint32),
        }

    def unroll(self, carry, x, reset, return_carries):
        N, dtype = self.memory_size, x.dtype if self.dtype is None else self.dtype
        inputs = Dense(4 * N + 1, dtype=dtype, use_bias=False, name="input")(x)
        parts = jnp.split(inputs.astype(STATE_DTYPE), [N, 2 * N, 3 * N, 4 * N], axis=-1)
        (q, k), (v, w, eta) = map(_shares, parts[:2]), parts[2:]
        position = positions(carry["position"], reset)
        last, y, states = read_blockwise(
            _calibrate_and_update,
            lambda M, steps: weighted_sum(jnp.swapaxes(M, -1, -2), steps["q"]),
            {"q": q, "k": k, "v": v * nn.sigmoid(eta), "w": w, "theta": self._theta(position)},
            carry["M"],
            reset,
            method=self.scan_method,
            return_states=return_carries,
        )
        carries = {"M": states, "position": position + 1} if return_carries else None
        y = Dense(self.features, dtype=dtype, name="output")(y.astype(dtype)).astype(x.dtype)
        return {"M": last, "position": position[-1] + 1}, y, carries

    def _theta(self, position: Array) -> Array:
        """θ `[T, *batch, N]`."""
        init = nn.initializers.glorot_uniform()
        theta = self.param("theta", init, (self.rows, self.memory_size), STATE_DTYPE)
        bits = int(np.log2(self.rows))
        return (theta - theta.mean(axis=0))[(position * GOLDEN) >> (32 - bits)]


def _shares(x: Array) -> Array:
    """The positive part of `x` `[..., N]`, divided by its sum."""
    x = nn.relu(x)
    return x / (jnp.sum(x, axis=-1, keepdims=True) + 1e-5)


def _calibrate_and_update(steps: dict[str, Array]) -> tuple[Array, Array]:
    calibration = 1 + jnp.tanh(outer(steps["theta"], steps["w"]))
    return calibration, outer(steps["v"], steps["k"])

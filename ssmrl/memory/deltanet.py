"""DeltaNet and Gated DeltaNet: linear attention that replaces what a key recalls (the delta rule).

Schlag, Irie, Schmidhuber, "Linear Transformers Are Secretly Fast Weight Programmers" (2021),
equation 24; Yang, Kautz, Hatamizadeh, "Gated Delta Networks: Improving Mamba2 with Delta Rule"
(2024), equation 10:

    S[t] = α[t] (I - β[t] k[t] k[t]ᵀ) S[t-1] + β[t] k[t] v[t]ᵀ        y[t] = S[t]ᵀ q[t]

with keys and queries of length 1; DeltaNet has α = 1. Within a chunk the corrections
w[t] = β[t] (v[t] - α[t] S[t-1]ᵀ k[t]) solve a triangular system (Yang et al., "Parallelizing Linear
Transformers with the Delta Rule over Sequence Length", 2024, section 3.2); with them as values the
rest is linear attention.
"""

from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from ssmrl.memory.base import STATE_DTYPE
from ssmrl.memory.linear import Dense
from ssmrl.memory.mamba2 import selective_decay
from ssmrl.memory.outer_product import OuterProductMemory, chunk_by_platform, sum_in_episode
from ssmrl.memory.window import CausalConv


class DeltaSteps(NamedTuple):
    """What drives the recurrence, float32.

    Attributes:
        q, k: `[T, *batch, H, K]`, of length 1.
        v: `[T, *batch, H, V]`.
        beta: β in (0, 1), `[T, *batch, H, 1]`.
        log_decay: log α ≤ 0, `[T, *batch, H, 1]`.
    """

    q: Array
    k: Array
    v: Array
    beta: Array
    log_decay: Array


class DeltaNet(OuterProductMemory):
    """The delta rule, without the block around it.

    Attributes:
        conv_width: width of the short convolution over queries, keys and values, in steps.

    Carry: `{"conv": float32 [*batch, conv_width - 1, 2HK + HV], "S": float32 [*batch, H, K, V]}`.
    """

    conv_width: int = 4

    gates_per_head = 1

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> dict[str, Array]:
        if self.conv_width < 1:
            raise ValueError(
                f"{type(self).__name__}: conv_width must be at least 1, got {self.conv_width}"
            )
        conv = CausalConv(self.conv_width, parent=None)
        width = 2 * self.heads * self.keys + self.features
        return {
            "conv": conv.initialize_carry(batch_shape, width),
            "S": super().initialize_carry(batch_shape),
        }

    def unroll(self, carry, x, reset, return_carries):
        H, K, dtype = self.heads, self.keys, x.dtype if self.dtype is None else self.dtype
        width = 2 * H * K + self.features
        both = width + self.gates_per_head * H
        inputs = Dense(both, dtype=dtype, use_bias=False, name="input")(x)
        mixed, gates = jnp.split(inputs, [width], axis=-1)
        conv, mixed = CausalConv(self.conv_width, name="conv")(carry["conv"], mixed, reset)
        q, k, v = map(self.split_heads, jnp.split(nn.silu(mixed), [H * K, 2 * H * K], axis=-1))
        beta, log_decay = self.gates(gates.astype(STATE_DTYPE))
        steps = DeltaSteps(_unit(q), _unit(k), v, beta, log_decay)
        if return_carries or reset.shape[0] == 1:
            last, y, states = _step_by_step(steps, carry["S"], reset)
        else:
            last, y = chunk_by_platform(_chunks, self.chunk_size, steps, carry["S"], reset)
        carries = {"conv": conv, "S": states} if return_carries else None
        return {"conv": conv[-1], "S": last}, self.read(y, x).astype(x.dtype), carries

    def gates(self, inputs: Array) -> tuple[Array, Array]:
        """β and log α `[T, *batch, H, 1]` from `[T, *batch, gates_per_head H]`."""
        beta = nn.sigmoid(inputs)[..., None]
        return beta, jnp.zeros_like(beta)

    def read(self, y, x):
        dtype = x.dtype if self.dtype is None else self.dtype
        y = nn.RMSNorm(dtype=dtype, name="norm")(y).reshape(*x.shape[:-1], -1)
        return Dense(self.features, dtype=dtype, use_bias=False, name="output")(y)


class GatedDeltaNet(DeltaNet):
    """The delta rule with Mamba-2's decay from the input, α = exp(-e^A softplus(w x + δ)).

    e^A starts uniform between 0 and 16, as in the authors' code (Mamba-2's starts at 1).

    Attributes:
        dt_min: smallest initial softplus(δ); they are drawn log-uniformly.
        dt_max: largest initial softplus(δ).
    """

    dt_min: float = 1e-3
    dt_max: float = 1e-1

    gates_per_head = 2
    ssm_parameters = ("log_A", "step_bias")

    def gates(self, inputs):
        beta, step = jnp.split(inputs, 2, axis=-1)
        _, log_decay = selective_decay(self, step, slowest=0.0)
        return nn.sigmoid(beta)[..., None], log_decay[..., None]

    def read(self, y, x):
        return self.gated_output(y, x)


def _unit(x: Array) -> Array:
    """`x` `[..., K]` divided by its length."""
    return x * lax.rsqrt(jnp.sum(x * x, axis=-1, keepdims=True) + 1e-6)


def _step_by_step(steps: DeltaSteps, state: Array, reset: Array) -> tuple[Array, Array, Array]:
    """The last state, y, and all states `[T, *batch, H, K, V]`, by the recurrence itself."""

    def step(S, inputs):
        (q, k, v, beta, log_decay), reset_t = inputs
        S = jnp.where(reset_t[..., None, None, None], 0, S) * jnp.exp(log_decay)[..., None]
        recalled = jnp.sum(S * k[..., None], axis=-2)
        S = S + k[..., None] * (beta * (v - recalled))[..., None, :]
        return S, (jnp.sum(S * q[..., None], axis=-2), S)

    last, (y, states) = lax.scan(step, state, (steps, reset))
    return last, y, states


def _chunks(steps: DeltaSteps, state: Array, episode: Array) -> tuple[Array, Array]:
    """y `[n, B, H, c, V]` and the last state: products over chunks, a loop from chunk to chunk.

    Everything that does not read the state is computed for all chunks together.
    """
    q, k, v, beta, log_decay = steps
    G = sum_in_episode(log_decay, episode)[..., 0]  # [n, B, H, c]
    same = (episode[..., :, None] == episode[..., None, :])[:, :, None]
    weights = jnp.exp(jnp.where(jnp.tril(same), G[..., :, None] - G[..., None, :], -jnp.inf))
    earlier = jnp.tril(weights, -1)
    # (I + β tril(K Kᵀ ⊙ weights)) w = β (v - e^G S_inᵀ k): both right-hand sides at once.
    from_state = (jnp.exp(G) * (episode == 0)[:, :, None])[..., None]
    right = beta * jnp.concatenate([v, from_state * k], axis=-1)
    solved = invert_unit_lower(beta * (k @ k.mT) * earlier) @ right
    values, recalls = jnp.split(solved, [v.shape[-1]], axis=-1)
    to_the_end = k * jnp.exp(jnp.where(same[..., -1, :], G[..., -1:] - G, -jnp.inf))[..., None]
    kept = from_state[..., -1:, :]
    parts = (q @ k.mT * weights, q * from_state, values, recalls, to_the_end, kept)

    def chunk(S, inputs):
        scores, queries, values, recalls, to_the_end, kept = inputs
        corrections = values - recalls @ S
        y = scores @ corrections + queries @ S
        return S * kept + to_the_end.mT @ corrections, y

    last, y = lax.scan(chunk, state, parts)
    return y, last


def invert_unit_lower(lower: Array) -> Array:
    """(I + L)⁻¹ for strictly lower triangular L `[..., c, c]`, by doubling the inverted blocks:

        [A 0; C D]⁻¹ = [A⁻¹ 0; -D⁻¹ C A⁻¹ D⁻¹]

    Products only. A triangular solver would go one matrix at a time, and jax's on CPUs, which calls
    LAPACK from inside the program, was seen to wait for ever.
    """
    size = lower.shape[-1]
    padded = 1 << (size - 1).bit_length()
    batch = lower.shape[:-2]
    pad = [(0, 0)] * len(batch) + [(0, padded - size)] * 2
    blocks = jnp.pad(lower, pad)
    inverse = jnp.ones((*batch, padded, 1, 1), lower.dtype)
    width = 1
    while width < padded:
        pairs = padded // (2 * width)
        square = blocks.reshape(*batch, pairs, 2, width, pairs, 2, width)
        # C of every pair: rows of its second half, columns of its first, on the diagonal of pairs.
        corner = jnp.moveaxis(jnp.diagonal(square[..., 1, :, :, 0, :], axis1=-4, axis2=-2), -1, -3)
        first, second = inverse[..., 0::2, :, :], inverse[..., 1::2, :, :]
        below = -second @ corner @ first
        above = jnp.zeros_like(below)
        inverse = jnp.concatenate(
            [
                jnp.concatenate([first, above], axis=-1),
                jnp.concatenate([below, second], axis=-1),
            ],
            axis=-2,
        )
        width *= 2
    return inverse[..., 0, :size, :size]

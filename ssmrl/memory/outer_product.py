"""Memories whose state is a matrix of keys and values, in a chunked form made of matrix products.

    S[t] = diag(a[t]) S[t-1] + k[t] v[t]ᵀ,        y[t] = S[t]ᵀ q[t]              per head

Linear attention and its descendants differ in the decay a[t] (none, a constant, a number, or one
number per key channel) and in how q, k, v come from x. Within a chunk, with G the running sum of
log a,

    y[t] = Σ_{s ≤ t} (q[t] ⊙ e^{G[t] - G[s]})ᵀ k[s] v[s] + (q[t] ⊙ e^{G[t]})ᵀ S_in

(Yang et al., "Gated Linear Attention Transformers with Hardware-Efficient Training", 2023, section
3; Dao and Gu, "Transformers are SSMs", 2024, section 6). Sums run over steps of the same episode.
"""

from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, Memory
from ssmrl.memory.containment import contain, taint
from ssmrl.memory.linear import Dense
from ssmrl.scan import linear_scan

CHUNK_ON_CPU, CHUNK = 32, 64
"""On two CPU cores 32 beats 16 for linear attention, Mamba-2 and DeltaNet; the first two gain a
little more from 64, the last loses (`python -m benchmarks.speed.memory --parts chunks`). Elsewhere
64 is a guess: it fills matrix units."""
LOWEST_LOG_DECAY = -5.0
"""Where each key channel has its own decay, log a is kept above this: .7 % a step."""
CHUNK_OF_VECTORS = 16
"""Longest chunk there: e^{±5 · 16 / 2} is what single precision holds with room for sums."""


class Steps(NamedTuple):
    """What drives the recurrence, float32.

    Attributes:
        q, k: `[T, *batch, H, K]`, or `[T, *batch, 1, K]` where the heads share them.
        v: `[T, *batch, H, V]`.
        log_decay: log a ≤ 0, `[T, *batch, H, 1]` or `[T, *batch, H, K]`.
    """

    q: Array
    k: Array
    v: Array
    log_decay: Array


class OuterProductMemory(Memory):
    """Heads with a matrix each: a subclass writes `project` and `read`.

    Attributes:
        features: width of the output.
        heads: number H of heads.
        key_size: width K of a head's keys and queries; None means that of its values.
        chunk_size: steps in a chunk of the parallel form; None means 32 on CPUs and 64 elsewhere
            (16 where every key channel has its own decay).
        dtype: dtype of the projections; None means the input's. The recurrence is float32.

    Carry: float32 `[*batch, H, K, V]`, the matrices.
    """

    heads: int = 4
    key_size: int | None = None
    chunk_size: int | None = None
    dtype: DTypeLike | None = None

    @property
    def value_size(self) -> int:
        """Width V of a head's values."""
        if self.heads < 1 or self.features % self.heads:
            raise ValueError(
                f"{type(self).__name__}: features {self.features} must be a positive multiple of "
                f"heads {self.heads}"
            )
        return self.features // self.heads

    @property
    def keys(self) -> int:
        """Width K of a head's keys."""
        size = self.value_size if self.key_size is None else self.key_size
        if size < 1:
            raise ValueError(f"{type(self).__name__}: key_size must be at least 1, got {size}")
        return size

    def project(self, x: Array) -> Steps:
        """What drives the recurrence."""
        raise NotImplementedError(f"{type(self).__name__} lacks project")

    def read(self, y: Array, x: Array) -> Array:
        """The output `[T, *batch, features]` from y `[T, *batch, H, V]`."""
        raise NotImplementedError(f"{type(self).__name__} lacks read")

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Any:
        return jnp.zeros((*batch_shape, self.heads, self.keys, self.value_size), STATE_DTYPE)

    def unroll(self, carry, x, reset, return_carries):
        last, y, states = self.attend(self.project(x), carry, reset, return_carries)
        return last, self.read(y, x).astype(x.dtype), states

    def attend(self, steps: Steps, state: Array, reset: Array, return_states: bool):
        """The last state, y `[T, *batch, H, V]`, and where asked for all states."""
        if return_states or reset.shape[0] == 1:
            return step_by_step(steps, state, reset)
        return *chunk_by_chunk(steps, state, reset, self.chunk_size), None

    def gated_output(self, y: Array, x: Array) -> Array:
        """W_o (norm(y) ⊙ silu(W_g x)), every head normalised by itself."""
        dtype = x.dtype if self.dtype is None else self.dtype
        y = nn.RMSNorm(dtype=dtype, name="norm")(y).reshape(*x.shape[:-1], -1)
        gate = nn.silu(Dense(self.features, dtype=dtype, use_bias=False, name="gate")(x))
        return Dense(self.features, dtype=dtype, use_bias=False, name="output")(y * gate)

    def split_heads(self, x: Array) -> Array:
        """[..., H * K] → [..., H, K], in the precision of states."""
        return x.reshape(*x.shape[:-1], self.heads, -1).astype(STATE_DTYPE)


def step_by_step(steps: Steps, state: Array, reset: Array) -> tuple[Array, Array, Array]:
    """The last state, y, and all states `[T, *batch, H, K, V]`, by the recurrence itself."""
    q, k, v, log_decay = steps
    decay = jnp.exp(floored(log_decay))[..., None]
    states = linear_scan(decay, k[..., None] * v[..., None, :], state, reset)
    return states[-1], jnp.sum(q[..., None] * states, axis=-2), states


def chunk_by_chunk(
    steps: Steps, state: Array, reset: Array, chunk_size: int | None
) -> tuple[Array, Array]:
    """The same last state and y without ever holding all states."""
    if steps.log_decay.shape[-1] == 1:
        return chunk_by_platform(_by_weights, chunk_size, steps, state, reset)
    if chunk_size is not None and chunk_size > CHUNK_OF_VECTORS:
        raise ValueError(
            f"chunk_size must be at most {CHUNK_OF_VECTORS} where every key channel has its own "
            f"decay, got {chunk_size}"
        )
    return chunk_by_platform(_by_scaling, chunk_size, steps, state, reset, CHUNK_OF_VECTORS)


def chunk_by_platform(
    compute, chunk_size: int | None, steps, state: Array, reset: Array, longest: int = CHUNK
) -> tuple[Array, Array]:
    """`_over_chunks` with the given length, or with the one that suits the platform."""
    if chunk_size is not None:
        if chunk_size < 1:
            raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
        return _over_chunks(compute, chunk_size, steps, state, reset)
    return lax.platform_dependent(
        steps,
        state,
        reset,
        cpu=partial(_over_chunks, compute, min(CHUNK_ON_CPU, longest)),
        default=partial(_over_chunks, compute, longest),
    )


def floored(log_decay: Array) -> Array:
    """`log_decay`, above `LOWEST_LOG_DECAY` where every key channel has its own."""
    one_number = log_decay.shape[-1] == 1
    return log_decay if one_number else jnp.maximum(log_decay, LOWEST_LOG_DECAY)


def _over_chunks(compute, size, steps, state, reset):
    """`compute` over chunks, with time, batch and heads in the order that products want.

    Args:
        compute: (steps `[n, B, H, c, ...]`, state `[B, H, K, V]`, episode `[n, B, c]`) → y
            `[n, B, H, c, V]` and the last state. `episode` counts the resets in a chunk so far.
    """
    T, batch = reset.shape[0], reset.shape[1:]
    size = min(size, T)
    steps, state, tainted = contain(steps, state, reset)
    chunks = jax.tree.map(lambda leaf: _chunked(leaf, size, len(batch)), steps)
    flags = _chunked(reset[..., None, None], size, len(batch))[:, :, 0, :, 0]
    episode = jnp.cumsum(flags, axis=-1, dtype=jnp.int32)
    y, last = compute(chunks, state.reshape(-1, *state.shape[len(batch) :]), episode)
    y = jnp.moveaxis(y, 3, 1).reshape(-1, *batch, y.shape[2], y.shape[-1])[:T]
    return taint(last.reshape(state.shape), tainted[-1]), taint(y, tainted)


def _chunked(x: Array, size: int, batch_axes: int) -> Array:
    """[T, *batch, H, K] → [n, B, H, c, K].

    Zeros fill the last chunk: a key of zero that does not decay leaves the state as it is.
    """
    x = jnp.pad(x, [(0, -x.shape[0] % size)] + [(0, 0)] * (x.ndim - 1))
    x = x.reshape(x.shape[0] // size, size, -1, *x.shape[1 + batch_axes :])
    return jnp.moveaxis(x, 1, 3)


def sum_in_episode(x: Array, episode: Array) -> Array:
    """Running sums of x `[n, B, H, c, K]` over the steps of the same episode.

    The differences of plain running sums are the same but for rounding; their gradients would reach
    the steps before a reset by that rounding, where they have to be zero.
    """
    visible = jnp.tril(episode[..., :, None] == episode[..., None, :])[:, :, None]
    return jnp.matmul(visible.astype(x.dtype), x, precision="highest")


def _states_between(
    kept: Array, k: Array, v: Array, decay: Array, state: Array, episode: Array
) -> Array:
    """The state before the first chunk and after every chunk, `[n + 1, B, H, K, V]`.

    Args:
        kept: weight of each step in the chunk's last state, 0 for steps of earlier episodes.
        decay: of the whole chunk, `[n, B, H, K or 1]`.
    """
    inputs = (k * kept).mT @ v
    states = linear_scan(decay[..., None], inputs, state, episode[..., -1] > 0)
    return jnp.concatenate([state[None], states])


def _by_weights(steps: Steps, state: Array, episode: Array) -> tuple[Array, Array]:
    """Chunks with one decay a head: weights e^{G[t] - G[s]}, all exponents ≤ 0."""
    q, k, v, log_decay = steps
    G = sum_in_episode(log_decay, episode)[..., 0]  # [n, B, H, c]
    same = episode[..., :, None] == episode[..., None, :]
    visible = jnp.tril(same)[:, :, None]
    weights = jnp.exp(jnp.where(visible, G[..., :, None] - G[..., None, :], -jnp.inf))
    to_the_end = jnp.exp(jnp.where(same[:, :, None, -1], G[..., -1:] - G, -jnp.inf))
    states = _states_between(to_the_end[..., None], k, v, jnp.exp(G[..., -1:]), state, episode)
    first = jnp.exp(G) * (episode == 0)[:, :, None]
    y = (q @ k.mT * weights) @ v + (q * first[..., None]) @ states[:-1]
    return y, states[-1]


def _by_scaling(steps: Steps, state: Array, episode: Array) -> tuple[Array, Array]:
    """Chunks with a decay for each key channel: e^{G[t] - G[s]} = e^{G[t] - M} e^{M - G[s]}.

    M, half of the sum over the episode's steps in the chunk, halves the exponents;
    `LOWEST_LOG_DECAY` bounds them.
    """
    q, k, v, log_decay = steps
    G = sum_in_episode(floored(log_decay), episode)  # [n, B, H, c, K]
    same = episode[..., :, None] == episode[..., None, :]
    # M cancels and has no gradient but for rounding; one for all would carry that across resets.
    total = jnp.matmul(same[:, :, None].astype(G.dtype), floored(log_decay), precision="highest")
    middle = lax.stop_gradient(total / 2)
    scores = (q * jnp.exp(G - middle)) @ (k * jnp.exp(middle - G)).mT
    scores = jnp.where(jnp.tril(same)[:, :, None], scores, 0)
    kept = same[:, :, None, -1, :, None]
    to_the_end = jnp.exp(jnp.where(kept, G[..., -1:, :] - G, -jnp.inf))
    states = _states_between(to_the_end, k, v, jnp.exp(G[..., -1, :]), state, episode)
    first = jnp.exp(G) * (episode == 0)[:, :, None, :, None]
    return scores @ v + (q * first) @ states[:-1], states[-1]

"""Transformer: attention to the last steps of the episode, with a rolling key/value cache.

Vaswani et al., "Attention Is All You Need" (2017); positions as in Su et al., "RoFormer" (2021) or
Press et al., "Train Short, Test Long" (ALiBi, 2022). Step t sees steps t - W + 1 ... t of its own
episode. Norm, feed-forward layer and GTrXL's gates (Parisotto et al., "Stabilizing Transformers for
Reinforcement Learning", 2020) belong to the block around it.

A sequence is cut into stretches of at most W steps; each sees itself and the W steps before it.
The cost is therefore linear in its length. Positions are counted within the two stretches: only
differences matter to rotary embeddings and to ALiBi, and numbers stay small for ever.
"""

from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, Memory
from ssmrl.memory.containment import contain, taint
from ssmrl.memory.linear import Dense
from ssmrl.memory.position import rotary_angles, rotate

POSITIONS = ("rotary", "alibi", "none")


class Transformer(Memory):
    """Windowed causal self-attention, without the block around it.

    Attributes:
        features: width of the output.
        heads: number H of heads.
        window: number W of steps that are seen, the current one included.
        positions: "rotary", "alibi" or "none".
        dtype: of the projections; None means the input's. Scores and cache are float32.

    Carry: `{"k", "v": float32 [*batch, W - 1, H, D], "valid": bool [*batch, W - 1]}`, oldest first;
    `valid` marks steps of the current episode.
    """

    heads: int = 4
    window: int = 128
    positions: str = "rotary"
    dtype: DTypeLike | None = None

    @property
    def head_size(self) -> int:
        """Width D of a head."""
        if self.heads < 1 or self.features % self.heads:
            raise ValueError(
                f"Transformer: features {self.features} must be a positive multiple of heads "
                f"{self.heads}"
            )
        return self.features // self.heads

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> dict[str, Array]:
        if self.window < 1:
            raise ValueError(f"Transformer: window must be at least 1, got {self.window}")
        if self.positions not in POSITIONS:
            raise ValueError(
                f"Transformer: unknown positions {self.positions!r}; choose one of "
                f"{', '.join(POSITIONS)}"
            )
        if self.positions == "rotary" and self.head_size % 2:
            raise ValueError(
                f"Transformer: rotary positions turn pairs, features / heads = {self.head_size} "
                "must be even"
            )
        shape = (*batch_shape, self.window - 1)
        zeros = jnp.zeros((*shape, self.heads, self.head_size), STATE_DTYPE)
        return {"k": zeros, "v": zeros, "valid": jnp.zeros(shape, bool)}

    def unroll(self, carry, x, reset, return_carries):
        batch, dtype = x.shape[1:-1], x.dtype if self.dtype is None else self.dtype
        inputs = Dense(3 * self.features, dtype=dtype, use_bias=False, name="input")(x)
        inputs = inputs.reshape(x.shape[0], -1, 3, self.heads, self.head_size).astype(STATE_DTYPE)
        q, k, v = jnp.moveaxis(inputs, 2, 0)
        entries = q.shape[1]  # no reshape to -1: with W = 1 the cache has no elements
        flat_carry = jax.tree.map(
            lambda leaf: leaf.reshape(entries, *leaf.shape[len(batch) :]), carry
        )
        flags = reset.reshape(reset.shape[0], -1)
        seen = _Seen.join(flat_carry, k, v, flags)
        y = self._attend(q, seen, flags).reshape(*x.shape[:-1], self.features)
        y = Dense(self.features, dtype=dtype, name="output")(y.astype(dtype)).astype(x.dtype)

        def carry_after(steps):
            leaves = seen.caches(steps, self.window)
            return jax.tree.map(
                lambda leaf: leaf.reshape(len(steps), *batch, *leaf.shape[2:]), leaves
            )

        last = jax.tree.map(lambda leaf: leaf[0], carry_after(np.arange(-1, 0) + x.shape[0]))
        return last, y, carry_after(np.arange(x.shape[0])) if return_carries else None

    def _attend(self, q: Array, seen: "_Seen", reset: Array) -> Array:
        """[T, B, H, D]: a stretch of at most W queries at a time, and the W keys before it."""
        T, W = q.shape[0], self.window
        size = min(T, W)
        (q, k, v), tainted = seen.contained(q, reset)
        q, k, v, episode = (_stretches(leaf, size, W) for leaf in (q, k, v, seen.episode))
        q, here = q[:, W:], np.arange(W, W + size)
        there = np.arange(W + size)
        distance = here[:, None] - there
        visible = (distance >= 0) & (distance < W) & _equal(episode[:, W:], episode)
        if self.positions == "rotary":
            angles = rotary_angles(jnp.asarray(there), self.head_size)[:, None, None]
            q, k = rotate(q, angles[W:]), rotate(k, angles)
        scores = jnp.einsum("nibhd,njbhd->nbhij", q, k) * self.head_size**-0.5
        if self.positions == "alibi":
            scores -= _slopes(self.heads)[:, None, None] * np.maximum(distance, 0)
        weights = nn.softmax(jnp.where(visible, scores, -jnp.inf))
        y = jnp.einsum("nbhij,njbhd->nibhd", weights, v)
        return taint(y.reshape(-1, *y.shape[2:])[:T], tainted)


class _Seen(NamedTuple):
    """The W - 1 steps of the cache, then the steps of the window; time comes first.

    Attributes:
        k, v: `[W - 1 + T, B, H, D]`.
        episode: counts resets, `[W - 1 + T, B]`; -1 where the cache holds nothing.
    """

    k: Array
    v: Array
    episode: Array

    @classmethod
    def join(cls, carry: dict[str, Array], k: Array, v: Array, reset: Array) -> "_Seen":
        cached = {name: jnp.moveaxis(leaf, 1, 0) for name, leaf in carry.items()}
        ids = jnp.where(cached["valid"], 0, -1)
        episode = jnp.cumsum(reset, axis=0, dtype=jnp.int32)
        pairs = ((cached["k"], k), (cached["v"], v), (ids, episode))
        return cls(*(jnp.concatenate(pair) for pair in pairs))

    def contained(self, q: Array, reset: Array) -> tuple[tuple[Array, Array, Array], Array]:
        """Finite q, k and v, q behind W - 1 steps of zeros, and where the others taint."""
        cached = self.k.shape[0] - q.shape[0]
        past = (self.k[:cached], self.v[:cached])
        state = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), past)
        (q, k, v), (past_k, past_v), tainted = contain(
            (q, self.k[cached:], self.v[cached:]), state, reset
        )
        past_k, past_v = (jnp.moveaxis(leaf, 1, 0) for leaf in (past_k, past_v))
        q = jnp.concatenate([jnp.zeros_like(past_k), q])
        return (q, jnp.concatenate([past_k, k]), jnp.concatenate([past_v, v])), tainted

    def caches(self, steps: np.ndarray, window: int) -> dict[str, Array]:
        """The carries after the given steps `[t]`, leaves `[t, B, W - 1, ...]`."""
        index = steps[:, None] + 1 + np.arange(window - 1)
        current = self.episode[steps + window - 1]
        valid = self.episode[index] == current[:, None]
        keep = valid[..., None, None]

        def cache(x):
            return jnp.moveaxis(jnp.where(keep, x[index], 0), 1, 2)

        return {"k": cache(self.k), "v": cache(self.v), "valid": jnp.moveaxis(valid, 1, 2)}


def _stretches(x: Array, size: int, window: int) -> Array:
    """[W - 1 + T, ...] → [n, W + size, ...]: stretches of `size` steps behind the W before each."""
    steps = x.shape[0] - (window - 1)
    pad = [(1, -steps % size)] + [(0, 0)] * (x.ndim - 1)
    x = jnp.pad(x, pad, constant_values=-1)  # episode -1 is nobody's; keys there are never seen
    if steps <= size:
        return x[None]
    blocks = x.reshape(-1, window, *x.shape[1:])  # longer than the window: then size == window
    return jnp.concatenate([blocks[:-1], blocks[1:]], axis=1)


def _equal(here: Array, there: Array) -> Array:
    """Which steps share an episode, `[n, B, 1, i, j]` from `[n, i, B]` and `[n, j, B]`."""
    here, there = jnp.moveaxis(here, 1, 2), jnp.moveaxis(there, 1, 2)
    return (here[..., :, None] == there[..., None, :])[:, :, None]


def _slopes(heads: int) -> Array:
    """2^(-8/H), 2^(-16/H), ... 2^(-8) (Press et al. 2022, section 3)."""
    return jnp.asarray(2.0 ** (-8 * (np.arange(heads) + 1) / heads), STATE_DTYPE)

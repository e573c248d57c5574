"""Transformer: attention to the last steps of the episode, with a rolling key/value cache.

Vaswani et al., "Attention Is All You Need" (2017); positions as in Su et al., "RoFormer" (2021) or
Press et al., "Train Short, Test Long" (ALiBi, 2022). Step t sees steps t - W + 1 ... t of its own
episode. Norm, feed-forward layer and GTrXL's gates (Parisotto et al., "Stabilizing Transformers for
Reinforcement Learning", 2020) belong to the block around it.

A sequence is cut into stretches of at most W steps, each of which sees itself and the W steps
before it, so the cost is linear in the sequence's length. The cache is a ring: a step overwrites
the oldest one, and the others stay where they are. Its keys are kept as rotary embeddings have
turned them, by their position in the episode: in a product with a query, which is turned likewise,
only the difference of the positions matters.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, Memory
from ssmrl.memory.containment import contain, taint
from ssmrl.memory.linear import Dense
from ssmrl.memory.position import positions, rotary_angles, rotate

POSITIONS = ("rotary", "alibi", "none")

SCORES_ON_CPU = 2**21
"""Scores that are computed at once on a CPU, where they then stay in its cache."""


class Transformer(Memory):
    """Windowed causal self-attention, without the block around it.

    Attributes:
        features: width of the output.
        heads: number H of heads.
        window: number W of steps that are seen, the current one included.
        positions: "rotary", "alibi" or "none".
        dtype: dtype of the projections; None means the input's. Scores and cache are float32.

    Carry: `{"k": float32 [*batch, H, D, W], "v": float32 [*batch, H, W, D], "position": uint32
    [*batch]}`. `position` counts the episode's steps; step p of it is in slot p mod W, and slots
    that no step of it has reached hold zeros. The axis that a step's product with `k` or `v` sums
    over is not the last one, so that on CPUs it runs along memory.
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
        heads = (*batch_shape, self.heads)
        return {
            "k": jnp.zeros((*heads, self.head_size, self.window), STATE_DTYPE),
            "v": jnp.zeros((*heads, self.window, self.head_size), STATE_DTYPE),
            "position": jnp.zeros(batch_shape, jnp.uint32),
        }

    def unroll(self, carry, x, reset, return_carries):
        batch, dtype = x.shape[1:-1], x.dtype if self.dtype is None else self.dtype
        inputs = Dense(3 * self.features, dtype=dtype, use_bias=False, name="input")(x)
        inputs = inputs.reshape(x.shape[0], -1, 3, self.heads, self.head_size).astype(STATE_DTYPE)
        q, k, v = jnp.moveaxis(inputs, 2, 0)
        flat_carry = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[len(batch) :]), carry)
        flags = reset.reshape(reset.shape[0], -1)
        position = positions(flat_carry["position"], flags)
        if self.positions == "rotary":
            angles = rotary_angles(position, self.head_size)[:, :, None]
            q, k = rotate(q, angles), rotate(k, angles)
        if x.shape[0] == 1:
            y, last = self._step(flat_carry, q[0], k[0], v[0], position[0])
            leaves = jax.tree.map(lambda leaf: leaf[None], last)
        else:
            seen = _Seen.join(flat_carry, k, v, flags)
            y = self._attend(q, seen, flags)
            steps = np.arange(0 if return_carries else x.shape[0] - 1, x.shape[0])
            leaves = seen.caches(steps, position[steps], self.window)
        y = y.reshape(*x.shape[:-1], self.features).astype(dtype)
        y = Dense(self.features, dtype=dtype, name="output")(y).astype(x.dtype)
        carries = jax.tree.map(
            lambda leaf: leaf.reshape(leaf.shape[0], *batch, *leaf.shape[2:]), leaves
        )
        last = jax.tree.map(lambda leaf: leaf[-1], carries)
        return last, y, carries if return_carries else None

    def state_features(self, carry: dict[str, Array]) -> Float[Array, "*leading K"]:
        """Keys, then values, each `[H, W, D]` with the oldest step first, flattened.

        Keys are turned by how long ago they were and not by their position, so that equal pasts
        have equal features, whenever they happened.
        """
        k, v, position = jnp.swapaxes(carry["k"], -1, -2), carry["v"], carry["position"]
        oldest_first = (position[..., None] + np.arange(self.window, dtype=np.uint32)) % self.window
        order = oldest_first[..., None, :, None]
        k, v = (jnp.take_along_axis(x, order, axis=-2) for x in (k, v))
        if self.positions == "rotary":
            k = rotate(k, -rotary_angles(position, self.head_size)[..., None, None, :])
        flat = (*position.shape, self.window * self.features)
        return jnp.concatenate([k.reshape(flat), v.reshape(flat)], axis=-1)

    def _step(self, cache, q, k, v, position) -> tuple[Array, dict[str, Array]]:
        """One step `[B, H, D]`, and the cache after it: of another episode nothing is visible."""
        age, visible = _ages(position, self.window)
        entries, slot = jnp.arange(q.shape[0]), position % self.window
        keys = jnp.where(visible[:, None, None], cache["k"], 0).at[entries, :, :, slot].set(k)
        values = jnp.where(visible[:, None, :, None], cache["v"], 0).at[entries, :, slot].set(v)
        scores = jnp.einsum("bhd,bhdw->bhw", q, keys)[:, :, None]  # of one query
        weights = self._weights(scores, age[:, None, None], visible[:, None, None])[:, :, 0]
        y = jnp.einsum("bhw,bhwd->bhd", weights, values)
        return y, {"k": keys, "v": values, "position": position + 1}

    def _attend(self, q: Array, seen: "_Seen", reset: Array) -> Array:
        """[T, B, H, D]: a stretch of queries at a time, and the keys that it may see."""
        (T, B, H, D), W = q.shape, self.window
        (q, k, v), tainted = seen.contained(q, reset)
        size = min(T, _stretch_size(W))
        lead = -(-(W - 1) // size) * size
        here, there = np.arange(lead, lead + size), np.arange(lead + size)
        distance = here[:, None] - there

        def attend(stretch):
            q, q_episode, k, v, k_episode = stretch
            same = q_episode[:, None, :, None] == k_episode[:, None, None, :]
            visible = (distance >= 0) & (distance < W) & same
            weights = self._weights(jnp.einsum("nhid,nhjd->nhij", q, k), distance, visible)
            return jnp.einsum("nhij,nhjd->nhid", weights, v)

        queries, keys = (q, seen.episode[W - 1 :]), (k, v, seen.episode)
        stretches = [_stretches(x, 0, size) for x in queries]
        stretches += [_stretches(x, W - 1, size) for x in keys]
        few = max(1, SCORES_ON_CPU // (H * size * (lead + size)))
        on_cpu = partial(_few_at_a_time, attend, few)
        y = lax.platform_dependent(stretches, cpu=on_cpu, default=attend)
        y = jnp.moveaxis(y.reshape(-1, B, H, size, D), (0, 3), (0, 1))  # [n, size, B, H, D]
        return taint(y.reshape(-1, B, H, D)[:T], tainted)

    def _weights(self, scores: Array, distance: Array | np.ndarray, visible: Array) -> Array:
        """Attention of scores `[..., H, queries, keys]`: of keys so many steps ago, where visible.

        `distance` and `visible` are broadcast to the scores' shape.
        """
        scores *= self.head_size**-0.5
        if self.positions == "alibi":
            scores -= _slopes(self.heads)[:, None, None] * jnp.maximum(distance, 0)
        return nn.softmax(jnp.where(visible, scores, -jnp.inf))


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
        position, window = carry["position"], carry["k"].shape[-1]
        age = np.arange(window - 1, 0, -1, dtype=np.uint32)  # at the first step of the window
        slot = (position[:, None] % window + window - age) % window
        entries = jnp.arange(position.shape[0])[:, None]
        cached_k = jnp.moveaxis(carry["k"], -1, 1)[entries, slot]
        cached_v = jnp.moveaxis(carry["v"], 2, 1)[entries, slot]
        ids = jnp.where(age <= position[:, None], 0, -1)
        episode = jnp.cumsum(reset, axis=0, dtype=jnp.int32)
        pairs = ((cached_k, k), (cached_v, v), (ids, episode))
        return cls(*(jnp.concatenate([jnp.moveaxis(past, 1, 0), new]) for past, new in pairs))

    def contained(self, q: Array, reset: Array) -> tuple[tuple[Array, Array, Array], Array]:
        """Finite q, k and v, and where the others taint."""
        cached = self.k.shape[0] - q.shape[0]
        past = (self.k[:cached], self.v[:cached])
        state = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), past)
        (q, k, v), past, tainted = contain((q, self.k[cached:], self.v[cached:]), state, reset)
        past_k, past_v = (jnp.moveaxis(leaf, 1, 0) for leaf in past)
        return (q, jnp.concatenate([past_k, k]), jnp.concatenate([past_v, v])), tainted

    def caches(self, steps: np.ndarray, position: Array, window: int) -> dict[str, Array]:
        """The carries after the given steps `[t]` at `position` `[t, B]`, leaves `[t, B, ...]`."""
        age, valid = _ages(position, window)
        index = window - 1 + steps[:, None, None] - age
        entries, keep = jnp.arange(self.k.shape[1])[:, None], valid[..., None, None]
        k, v = (jnp.where(keep, x[index, entries], 0) for x in (self.k, self.v))
        return {"k": jnp.moveaxis(k, 2, -1), "v": jnp.moveaxis(v, 2, 3), "position": position + 1}


def _ages(position: Array, window: int) -> tuple[Array, Array]:
    """How many steps ago the slots of a ring were written, and whether in the present episode.

    Args:
        position: of the newest step in its episode, uint32.
        window: number W of slots.

    Returns:
        int32 and bool `[*position, W]`.
    """
    age = (position[..., None] % window + window - np.arange(window, dtype=np.uint32)) % window
    return age.astype(jnp.int32), age <= position[..., None]


def _stretch_size(window: int) -> int:
    """Queries in a stretch, of S to a window.

    A stretch is held against W + W / S keys, of which a query sees W, and every key is in S + 1
    stretches: what is wasted falls with S, what is copied grows, and the best S goes with √W.
    """
    return -(-window // max(1, math.isqrt(window // 32)))


def _stretches(x: Array, past: int, size: int) -> Array:
    """Stretches of `size` steps with the steps before them, those of all environments in a row.

    Args:
        x: `[past + T, B, H, D]` or `[past + T, B]`.
        past: how many steps each stretch has before it, rounded up to a multiple L of `size`.
        size: of a stretch.

    Returns:
        `[n * B, H, L + size, D]` or `[n * B, L + size]`. Where there is no step stands -1, which is
        no episode's number.
    """
    lead = -(-past // size)
    pad = [(lead * size - past, (past - len(x)) % size)] + [(0, 0)] * (x.ndim - 1)
    blocks = jnp.pad(x, pad, constant_values=-1).reshape(-1, size, *x.shape[1:])
    time = 3 if x.ndim == 4 else 2
    blocks = jnp.moveaxis(blocks, 1, time)
    count = len(blocks) - lead
    parts = [blocks[first : first + count] for first in range(lead + 1)]
    stretches = jnp.concatenate(parts, axis=time)
    return stretches.reshape(-1, *stretches.shape[2:])


def _few_at_a_time(function: Callable[[Any], Array], few: int, items: Any) -> Array:
    """`function` of `items` `[N, ...]`, for at most `few` of them at once.

    What it computes inside then stays in a processor's cache, and is computed again for the
    gradient.
    """
    count = jax.tree.leaves(items)[0].shape[0]
    few = next(size for size in range(min(few, count), 0, -1) if count % size == 0)
    if few == count:
        return function(items)
    groups = jax.tree.map(lambda leaf: leaf.reshape(-1, few, *leaf.shape[1:]), items)
    y = lax.map(jax.checkpoint(function, prevent_cse=False), groups)
    return y.reshape(count, *y.shape[2:])


def _slopes(heads: int) -> Array:
    """2^(-8/H), 2^(-16/H), ... 2^(-8) (Press et al. 2022, section 3)."""
    return jnp.asarray(2.0 ** (-8 * (np.arange(heads) + 1) / heads), STATE_DTYPE)

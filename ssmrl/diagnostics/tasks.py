"""Sequence tasks with known answers, each asking one thing of a memory.

A task draws batches of symbols, answers and levels: how far back or how much the answer asks for.
Steps without a question have level 0. Everything is one episode from its first step on.

Each follows from a question in the literature: copying from Arjovsky, Shah and Bengio (2016),
associative recall from Ba et al. (2016) and Arora et al. (2023), parity from Grazzi et al. (2024),
and permutations from Merrill, Petty and Sabharwal (2024), whose hard case is that of five things.

Every function takes a key, the length T in steps and the batch size B, and returns a
:class:`Batch`. :func:`associative_recall` and :func:`copy` exist at a length of 16 only.
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float, Int, PRNGKeyArray

SYMBOLS = 4
LAGS = (1, 2, 4, 8, 16, 32)
LOADS = (1, 2, 4, 8)
PERMUTATIONS = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])


@dataclass(frozen=True)
class Batch:
    """Sequences with questions.

    Attributes:
        x: one-hot inputs, parts of them side by side, `[T, B, K]`.
        answer: `[T, B]`, below `Task.classes`.
        level: of the question at each step, `[T, B]`; 0 where nothing is asked.
    """

    x: Float[Array, "T B K"]
    answer: Int[Array, "T B"]
    level: Int[Array, "T B"]


@dataclass(frozen=True)
class Task:
    """A way to draw batches.

    Attributes:
        name: for people.
        unit: what a level counts.
        classes: number of answers.
        draw: `(key, length, batch) -> Batch`.
        train_length: steps of the sequences that are trained on.
        test_length: steps of those that are tested on; longer where the question is whether what
            was learned goes on for ever.
    """

    name: str
    unit: str
    classes: int
    draw: Callable[[PRNGKeyArray, int, int], Batch]
    train_length: int
    test_length: int


def remember_first(key: PRNGKeyArray, length: int, batch: int) -> Batch:
    """Name the first symbol at every later step; the level is the lag."""
    symbols = jax.random.randint(key, (length, batch), 0, SYMBOLS)
    answer = jnp.broadcast_to(symbols[0], symbols.shape)
    return Batch(jax.nn.one_hot(symbols, SYMBOLS), answer, _time(symbols))


def report_back(key: PRNGKeyArray, length: int, batch: int) -> Batch:
    """Name the symbol k steps ago, k given with every input; the level is k."""
    symbol_key, lag_key = jax.random.split(key)
    symbols = jax.random.randint(symbol_key, (length, batch), 0, SYMBOLS)
    which = jax.random.randint(lag_key, (batch,), 0, len(LAGS))
    lag = jnp.asarray(LAGS)[which]
    back = _time(symbols) - lag
    answer = jnp.take_along_axis(symbols, jnp.maximum(back, 0), axis=0)
    asked = jnp.broadcast_to(jax.nn.one_hot(which, len(LAGS)), (length, batch, len(LAGS)))
    x = jnp.concatenate([jax.nn.one_hot(symbols, SYMBOLS), asked], axis=-1)
    return Batch(x, answer, jnp.where(back >= 0, lag, 0))


def associative_recall(key: PRNGKeyArray, length: int, batch: int) -> Batch:
    """Pairs of key and value are shown, then keys in another order; the level is their number."""
    keys_key, values_key, order_key, load_key = jax.random.split(key, 4)
    most = LOADS[-1]
    load = jnp.asarray(LOADS)[jax.random.randint(load_key, (batch,), 0, len(LOADS))]
    names = _permutations(keys_key, batch, most)  # [B, most]
    values = jax.random.randint(values_key, (batch, most), 0, SYMBOLS)
    # A random order of the first `load` pairs: the others sort behind them.
    noise = jax.random.uniform(order_key, (batch, most)) + (jnp.arange(most) >= load[:, None])
    order = jnp.argsort(noise, axis=-1)
    shown = jnp.arange(most) < load[:, None]
    queried = jnp.take_along_axis(names, order, axis=-1)
    answers = jnp.take_along_axis(values, order, axis=-1)

    def one_hot(x, size, visible):
        return jax.nn.one_hot(x, size) * visible[..., None]

    pairs = [one_hot(names, most, shown), one_hot(values, SYMBOLS, shown), shown[..., None] * 0.0]
    queries = [one_hot(queried, most, shown), jnp.zeros((batch, most, SYMBOLS)), shown[..., None]]
    x = jnp.concatenate([jnp.concatenate(half, axis=-1) for half in (pairs, queries)], axis=1)
    answer = jnp.concatenate([jnp.zeros_like(answers), answers], axis=1)
    level = jnp.concatenate([0 * shown, shown * load[:, None]], axis=1)
    return _fit(Batch(*(jnp.swapaxes(leaf, 0, 1) for leaf in (x, answer, level))), length)


def copy(key: PRNGKeyArray, length: int, batch: int) -> Batch:
    """Symbols are shown, then named again in order; the level is their number."""
    symbol_key, load_key = jax.random.split(key)
    most = LOADS[-1]
    load = jnp.asarray(LOADS)[jax.random.randint(load_key, (batch,), 0, len(LOADS))]
    symbols = jax.random.randint(symbol_key, (most, batch), 0, SYMBOLS)
    time = jnp.arange(2 * most)[:, None]
    index = jnp.clip(time - load, 0, most - 1)
    padded = jnp.concatenate([symbols, symbols])
    watching, naming = time < load, (time >= load) & (time < 2 * load)
    seen = jax.nn.one_hot(padded, SYMBOLS) * watching[..., None]
    x = jnp.concatenate([seen, naming[..., None] * 1.0], axis=-1)
    answer = jnp.take_along_axis(symbols, index, axis=0)
    return _fit(Batch(x, answer, jnp.where(naming, load, 0)), length)


def parity(key: PRNGKeyArray, length: int, batch: int) -> Batch:
    """Say whether the number of ones so far is odd; the level is the number of bits."""
    bits = jax.random.randint(key, (length, batch), 0, 2)
    answer = jnp.cumsum(bits, axis=0) % 2
    return Batch(jax.nn.one_hot(bits, 2), answer, _time(bits) + 1)


def permutation(key: PRNGKeyArray, length: int, batch: int) -> Batch:
    """Compose permutations of three things; the level is how many. The order matters (S3)."""
    table = np.array([[_index(first[second]) for second in PERMUTATIONS] for first in PERMUTATIONS])
    moves = jax.random.randint(key, (length, batch), 0, len(PERMUTATIONS))

    def compose(state, move):
        state = jnp.asarray(table)[state, move]
        return state, state

    answer = jax.lax.scan(compose, jnp.zeros(batch, moves.dtype), moves)[1]
    return Batch(jax.nn.one_hot(moves, len(PERMUTATIONS)), answer, _time(moves) + 1)


TASKS = (
    Task("remember the first", "steps ago", SYMBOLS, remember_first, 64, 256),
    Task("report k back", "k", SYMBOLS, report_back, 64, 64),
    Task("associative recall", "pairs", SYMBOLS, associative_recall, 16, 16),
    Task("copy", "symbols", SYMBOLS, copy, 16, 16),
    Task("parity", "bits", 2, parity, 32, 128),
    Task("permutation (S3)", "moves", len(PERMUTATIONS), permutation, 32, 128),
)


def _time(symbols: Array) -> Array:
    return jnp.broadcast_to(jnp.arange(symbols.shape[0])[:, None], symbols.shape)


def _permutations(key: PRNGKeyArray, batch: int, size: int) -> Array:
    return jnp.argsort(jax.random.uniform(key, (batch, size)), axis=-1)


def _index(permutation: np.ndarray) -> int:
    return int(np.flatnonzero((permutation == PERMUTATIONS).all(axis=1))[0])


def _fit(batch: Batch, length: int) -> Batch:
    if batch.x.shape[0] != length:
        raise ValueError(f"the task has sequences of {batch.x.shape[0]} steps, not of {length}")
    return batch

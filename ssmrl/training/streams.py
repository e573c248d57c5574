"""Random keys: one place that gives every purpose a stream of its own.

JAX's keys form a tree: `jax.random.split` and `jax.random.fold_in` both take the i-th child of a
key, so that ``split(key, 3)[0]``, ``split(key, 2)[0]`` and ``fold_in(key, 0)`` are one and the same
key. Two users of one key therefore share draws however differently they split it, and an evaluation
that starts from ``jax.random.key(0)`` plays the very episodes that training with seed 0 learned
from. Here nobody draws from a seed's own key. Each purpose owns one of its children, and within a
purpose everything that can tell two uses apart (the trained seed, the step) is folded in, one level
of the tree each; a purpose always takes the same number of levels, so that no key is another's
ancestor.
"""

from __future__ import annotations

import enum
from typing import Any

import jax


class _Purpose(enum.IntEnum):
    """Which child of a seed's key. A number, once used, is not given to another purpose.

    Far from the first children, which whoever splits ``jax.random.key(seed)`` itself gets.
    """

    TRAINING = 0x55A10000
    RESTART = 0x55A10001
    EVALUATION_WHILE_TRAINING = 0x55A10002
    EVALUATION = 0x55A10003
    VIDEO = 0x55A10004
    ACTING = 0x55A10005
    BENCHMARK = 0x55A10006


def training_key(seed: Any) -> jax.Array:
    """For `Agent.init`: everything that training with this seed draws.

    Args:
        seed: an integer, or an integer scalar that may be traced.
    """
    return _stream(_Purpose.TRAINING, seed)


def restart_key(seed: int, step: int) -> jax.Array:
    """For `RestartableAgent.restart` after a resume at ``step``."""
    return _stream(_Purpose.RESTART, seed, step)


def evaluation_while_training_key(seed: int, step: int) -> jax.Array:
    """For the evaluation at ``step`` of the training with ``seed``."""
    return _stream(_Purpose.EVALUATION_WHILE_TRAINING, seed, step)


def evaluation_key(seed: int, trained_seed: int) -> jax.Array:
    """For an evaluation with ``seed`` of what ``trained_seed`` has learned.

    Policies of several trained seeds meet different episodes, whether they were trained in one
    run or in several: their mean returns are independent, as intervals over seeds suppose.
    """
    return _stream(_Purpose.EVALUATION, seed, trained_seed)


def video_key(seed: int, trained_seed: int) -> jax.Array:
    """For the episode that is filmed, of what ``trained_seed`` has learned."""
    return _stream(_Purpose.VIDEO, seed, trained_seed)


def acting_key(seed: int) -> jax.Array:
    """For the draws of a policy that acts outside of training and evaluation."""
    return _stream(_Purpose.ACTING, seed)


def benchmark_key(seed: int) -> jax.Array:
    """For what a benchmark plays or measures besides training and evaluation."""
    return _stream(_Purpose.BENCHMARK, seed)


def _stream(purpose: _Purpose, seed: Any, *coordinates: int) -> jax.Array:
    key = jax.random.fold_in(jax.random.key(seed), int(purpose))
    for number in coordinates:
        # Two words each: fold_in takes 32 bits, and long runs take more steps than that.
        high, low = divmod(number, 2**32)
        key = jax.random.fold_in(jax.random.fold_in(key, low), high)
    return key

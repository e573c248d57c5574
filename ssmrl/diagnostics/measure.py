"""What a memory remembers, measured: gradients over lags, accuracy on tasks, eigenvalues."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from ssmrl.diagnostics.tasks import TASKS, Task
from ssmrl.memory import Memory

BATCH, TESTED = 64, 1024
LEARNING_RATE = 3e-3


@dataclass(frozen=True)
class Curve:
    """Accuracies over levels.

    Attributes:
        levels: what was asked for, ascending, int `[L]`; :class:`~ssmrl.diagnostics.tasks.Task`
            says in what unit.
        accuracy: share of right answers at each, float `[L]` in [0, 1].
        chance: the share that guessing gets right, in [0, 1].
    """

    levels: np.ndarray
    accuracy: np.ndarray
    chance: float


def gradient_reach(memory: Memory, lags: np.ndarray, seed: int = 0) -> np.ndarray:
    """The size of ∂y[T] / ∂x[T - lag], untrained, relative to that at lag 0.

    The root mean square over a batch of 8 sequences of normal inputs and the entries of the input,
    of the gradient of y[T] along one random direction per sequence.

    Args:
        memory: with its width, which its inputs have too.
        lags: in steps, integers from 0, `[L]`.
        seed: of parameters, inputs and directions.

    Returns:
        Ratios, `[L]`: 1 at lag 0, and 0 where no gradient arrives.
    """
    length, width = int(lags.max()) + 1, memory.features
    keys = jax.random.split(jax.random.key(seed), 3)
    x = jax.random.normal(keys[0], (length, 8, width))
    carry = memory.initialize_carry((8,))
    reset = jnp.zeros(x.shape[:2], bool).at[0].set(True)
    params = memory.init(keys[1], carry, x[:1], reset[:1])
    direction = jax.random.normal(keys[2], (8, width))

    def read(x: Array) -> Array:
        _, y, *_ = memory.apply(params, carry, x, reset)
        return jnp.sum(jnp.asarray(y)[-1] * direction)

    size = jnp.sqrt(jnp.mean(jnp.square(jax.jit(jax.grad(read))(x)), axis=(1, 2)))[::-1]
    return np.asarray(size[lags] / size[0])


class Answerer(nn.Module):
    """An embedding, a memory and a head, over whole episodes: `[T, B, K]` to `[T, B, classes]`.

    Attributes:
        memory: what is examined.
        classes: number of answers, of which the outputs are the logits.
    """

    memory: Memory
    classes: int

    @nn.compact
    def __call__(self, x: Array) -> Array:
        reset = jnp.zeros(x.shape[:2], bool).at[0].set(True)
        x = nn.Dense(self.memory.features)(x)
        _, y = self.memory(self.memory.initialize_carry(x.shape[1:2]), x, reset)
        return nn.Dense(self.classes)(y)


def accuracy_on(memory: Memory, task: Task, steps: int, seed: int = 0) -> Curve:
    """Train on a task, then score every level on new sequences.

    Adam with a learning rate that falls from .003 to 0 along a cosine, batches of 64 sequences of
    `task.train_length`; scored on 1,024 of `task.test_length`.

    Args:
        memory: width and layers as they will be used; its own parameters are trained.
        task: one of :data:`~ssmrl.diagnostics.tasks.TASKS`, or another.
        steps: updates.
        seed: of parameters and data.
    """
    model = Answerer(memory, task.classes)
    right, level = _train_and_test(model, task, steps, jax.random.key(seed))
    right, level = np.asarray(right).ravel(), np.asarray(level).ravel()
    levels = np.unique(level[level > 0])
    counts = np.bincount(level)
    scores = np.bincount(level, weights=right)[levels] / counts[levels]
    return Curve(levels, scores, 1 / task.classes)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _train_and_test(model: Answerer, task: Task, steps: int, key: Array):
    init_key, train_key, test_key = jax.random.split(key, 3)
    params = model.init(init_key, task.draw(init_key, task.train_length, 1).x)
    schedule = optax.cosine_decay_schedule(LEARNING_RATE, steps)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule))

    def loss(params, key):
        batch = task.draw(key, task.train_length, BATCH)
        errors = optax.softmax_cross_entropy_with_integer_labels(
            model.apply(params, batch.x), batch.answer
        )
        asked = batch.level > 0
        return jnp.sum(errors * asked) / jnp.sum(asked)

    def update(state, key):
        params, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params, key), moments, params)
        return (optax.apply_updates(params, updates), moments), None

    state = (params, optimizer.init(params))
    (params, _), _ = lax.scan(update, state, jax.random.split(train_key, steps))
    batch = task.draw(test_key, task.test_length, TESTED)
    logits = jnp.asarray(model.apply(params, batch.x))
    return logits.argmax(-1) == batch.answer, batch.level


def eigenvalues(memory: Memory, seed: int = 0) -> np.ndarray | None:
    """The decays of every layer's states, untrained, for one step of time.

    Args:
        memory: of any number of layers.
        seed: of its parameters.

    Returns:
        One number per state of all layers, `[N]`, complex where states are (a conjugate pair counts
        once); None where decays depend on the input, or the memory has none.
    """
    found: list[Any] = []

    def listen(call: Callable, args: tuple, kwargs: dict, context: Any) -> Any:
        result = call(*args, **kwargs)
        if context.method_name == "encode" and isinstance(result, tuple):
            found.append(result)
        if context.method_name == "system" and "decay" in result:
            found.append((result["decay"], result["decay"][None]))
        return result

    def run(key):
        x, reset = jnp.zeros((2, 1, memory.features)), jnp.zeros((2, 1), bool)
        with nn.intercept_methods(listen):
            memory.init(key, memory.initialize_carry((1,)), x, reset)
        return [a for a, b in found if a.ndim < b.ndim]

    decays = [np.asarray(leaf).ravel() for leaf in run(jax.random.key(seed))]
    return np.concatenate(decays) if decays else None


def examine(memory: Memory, steps: int, seed: int = 0, report: Callable = print) -> dict[str, Any]:
    """Everything at once: `{"reach": (lags, sizes), "tasks": {name: Curve}, "eigenvalues": ...}`.

    Args:
        memory: width and layers as they will be used.
        steps: updates of training on each task.
        seed: of parameters and data.
        report: called with a line of text after every task.

    Returns:
        What :mod:`ssmrl.diagnostics.report` draws and writes.
    """
    lags = np.unique(np.geomspace(1, 1024, 32).astype(int) - 1)
    results: dict[str, Any] = {"reach": (lags, gradient_reach(memory, lags, seed)), "tasks": {}}
    for task in TASKS:
        curve = accuracy_on(memory, task, steps, seed)
        results["tasks"][task.name] = curve
        report(f"{task.name:20s} {summary(task, curve)}")
    results["eigenvalues"] = eigenvalues(memory, seed)
    return results


def reached(curve: Curve) -> int:
    """The level up to which accuracy stays nine tenths of the way from chance to 1; 0 for none."""
    good = curve.accuracy >= 1 - 0.1 * (1 - curve.chance)
    return int(curve.levels[np.cumprod(good).astype(bool)].max(initial=0))


def summary(task: Task, curve: Curve) -> str:
    """One line: the level that is reached, and the mean over all."""
    level = reached(curve)
    until = f"{task.unit} up to {level}" if level else f"{task.unit}: none"
    return f"{until:24s} mean accuracy {curve.accuracy.mean():.2f} (chance {curve.chance:.2f})"

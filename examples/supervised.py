"""Our memories in plain supervised learning: classify a sequence by its first symbol.

    python examples/supervised.py

Three lines of it are ours: make a memory, make its carry, call it. The reset says where sequences
begin; a batch of one-episode sequences has it at the first step only.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from ssmrl.memory import make_memory

SYMBOLS, LENGTH, BATCH = 4, 32, 64


class Classifier(nn.Module):
    """Symbols `[T, B, K]` to logits `[B, K]` after the last step."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        memory = make_memory("s5", features=32, layers=1)
        reset = jnp.zeros(x.shape[:2], bool).at[0].set(True)
        _, y = memory(memory.initialize_carry(x.shape[1:2]), x, reset)
        return nn.Dense(SYMBOLS)(y[-1])


def draw(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Sequences and what they begin with."""
    symbols = jax.random.randint(key, (LENGTH, BATCH), 0, SYMBOLS)
    return jax.nn.one_hot(symbols, SYMBOLS), symbols[0]


def train(steps: int = 300, seed: int = 0) -> float:
    """Accuracy on new sequences after `steps` updates."""
    model, optimizer = Classifier(), optax.adam(1e-2)
    init_key, train_key, test_key = jax.random.split(jax.random.key(seed), 3)
    params = model.init(init_key, draw(init_key)[0])

    def loss(params, key):
        x, label = draw(key)
        logits = model.apply(params, x)
        return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean()

    def update(state, key):
        params, moments = state
        updates, moments = optimizer.update(jax.grad(loss)(params, key), moments)
        return (optax.apply_updates(params, updates), moments), None

    keys = jax.random.split(train_key, steps)
    (params, _), _ = jax.lax.scan(update, (params, optimizer.init(params)), keys)
    x, label = draw(test_key)
    return float((model.apply(params, x).argmax(-1) == label).mean())


if __name__ == "__main__":
    print(f"accuracy {train():.3f} (chance {1 / SYMBOLS})")

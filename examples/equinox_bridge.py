"""A memory inside an Equinox model: parameters are leaves of the module, the definition is static.

python examples/equinox_bridge.py
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from ssmrl.memory import Memory, make_memory


class Recurrent(eqx.Module):
    """Any of our memories as an Equinox module.

    Attributes:
        params: what linen calls variables; Equinox sees arrays.
        definition: the linen module, which holds no arrays.
        head: y to outputs.
    """

    params: Any
    definition: Memory = eqx.field(static=True)
    head: eqx.nn.Linear

    def __init__(self, name: str, inputs: int, outputs: int, key: jax.Array):
        memory_key, head_key = jax.random.split(key)
        self.definition = make_memory(name, features=16, layers=1)
        x, reset = jnp.zeros((1, inputs)), jnp.ones((1,), bool)
        self.params = self.definition.init(memory_key, self.initialize_carry(), x, reset)
        self.head = eqx.nn.Linear(16, outputs, key=head_key)

    def initialize_carry(self) -> Any:
        """The carry of a new sequence; Equinox modules are written without a batch axis."""
        return self.definition.initialize_carry(())

    def __call__(self, carry: Any, x: jax.Array, reset: jax.Array) -> tuple[Any, jax.Array]:
        """The next carry, and y `[T, outputs]` from x `[T, inputs]` and reset `[T]`."""
        carry, y = self.definition.apply(self.params, carry, x, reset)
        return carry, jax.vmap(self.head)(y)


def main() -> float:
    """One gradient step on random data; returns by how much the loss fell."""
    model = Recurrent("s5", inputs=3, outputs=2, key=jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (4, 20, 3))
    target = jnp.cumsum(x, axis=1)[..., :2] / 5
    reset = jnp.zeros((20,), bool).at[0].set(True)

    @eqx.filter_jit
    @eqx.filter_value_and_grad
    def loss(model):
        y = jax.vmap(lambda x: model(model.initialize_carry(), x, reset)[1])(x)
        return jnp.mean(jnp.square(y - target))

    before, gradients = loss(model)
    model = eqx.apply_updates(model, jax.tree.map(lambda g: -1e-2 * g, gradients))
    return float(before - loss(model)[0])


if __name__ == "__main__":
    print(f"the loss fell by {main():.4f}")

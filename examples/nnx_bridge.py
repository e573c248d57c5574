"""A linen memory inside a flax nnx model, through flax's own bridge.

python examples/nnx_bridge.py
"""

import jax
import jax.numpy as jnp
from flax import nnx
from flax.nnx import bridge

from ssmrl.memory import make_memory


class Recurrent(nnx.Module):
    """An S5 memory and a head, as an nnx module.

    Args:
        inputs: width of x.
        outputs: width of the result.
        rngs: nnx's streams of random numbers.
    """

    def __init__(self, inputs: int, outputs: int, rngs: nnx.Rngs):
        self.definition = make_memory("s5", features=16, layers=2)
        carry, x = self.initialize_carry((1,)), jnp.zeros((1, 1, inputs))
        self.memory = bridge.ToNNX(self.definition, rngs=rngs)
        self.memory.lazy_init(carry, x, jnp.ones((1, 1), bool))
        self.head = nnx.Linear(16, outputs, rngs=rngs)

    def initialize_carry(self, batch_shape: tuple[int, ...]):
        """The carry of new sequences."""
        return self.definition.initialize_carry(batch_shape)

    def __call__(self, carry, x, reset):
        """The next carry, and y `[T, B, outputs]`."""
        carry, y = self.memory(carry, x, reset)
        return carry, self.head(y)


def main() -> float:
    """One gradient step on random data; returns by how much the loss fell."""
    model = Recurrent(inputs=3, outputs=2, rngs=nnx.Rngs(0))
    x = jax.random.normal(jax.random.key(1), (20, 4, 3))
    target = jnp.cumsum(x, axis=0)[..., :2] / 5
    reset = jnp.zeros((20, 4), bool).at[0].set(True)

    def loss(model):
        _, y = model(model.initialize_carry((4,)), x, reset)
        return jnp.mean(jnp.square(y - target))

    before, gradients = nnx.jit(nnx.value_and_grad(loss))(model)
    params = nnx.state(model, nnx.Param)
    gradients = nnx.state(gradients, nnx.Param)
    nnx.update(model, jax.tree.map(lambda p, g: p - 1e-2 * g, params, gradients))
    return float(before - nnx.jit(loss)(model))


if __name__ == "__main__":
    print(f"the loss fell by {main():.4f}")

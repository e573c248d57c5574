"""Frame stack: the last few inputs side by side, a baseline for memories.

Mnih et al., "Human-level control through deep reinforcement learning" (2015):

    y[t] = W [x[t], x[t-1], ... x[t-K+1]] + b,     zeros before the episode began
"""

import jax.numpy as jnp
from jax import Array

from ssmrl.memory.base import STATE_DTYPE, DTypeLike, Memory
from ssmrl.memory.linear import Dense
from ssmrl.memory.window import last_inputs


class FrameStack(Memory):
    """The last inputs, each projected to `features` before it is kept.

    Attributes:
        features: width H of the output, and of what is kept of every input.
        frames: number K of inputs, the current one included.
        dtype: dtype of the matrix products; None means the input's.

    Carry: float32 `[*batch, K - 1, H]`.
    """

    frames: int = 4
    dtype: DTypeLike | None = None

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Array:
        if self.frames < 1:
            raise ValueError(f"FrameStack: frames must be at least 1, got {self.frames}")
        return jnp.zeros((*batch_shape, self.frames - 1, self.features), STATE_DTYPE)

    def unroll(self, carry, x, reset, return_carries):
        dtype = x.dtype if self.dtype is None else self.dtype
        frame = Dense(self.features, dtype=dtype, name="frame")(x)
        frames, histories = last_inputs(frame.astype(STATE_DTYPE), carry, reset)
        stacked = jnp.concatenate(frames, axis=-1).astype(dtype)
        y = Dense(self.features, dtype=dtype, name="output")(stacked).astype(x.dtype)
        return histories[-1], y, histories

"""No memory: the control that every claim about memory needs."""

from ssmrl.memory.base import Carry, Memory
from ssmrl.memory.linear import Dense


class NoMemory(Memory):
    """Passes its input on (through a linear layer where the width changes). Carry: empty."""

    def initialize_carry(self, batch_shape: tuple[int, ...]) -> Carry:
        return ()

    def unroll(self, carry, x, reset, return_carries):
        y = x if x.shape[-1] == self.features else Dense(self.features, dtype=x.dtype)(x)
        return (), y, ()

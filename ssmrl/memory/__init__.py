"""Memory modules behind one contract (see `ssmrl.memory.base`).

    memory = make_memory("s5", features=256)
    carry = memory.initialize_carry((batch,))
    params = memory.init(key, carry, x, reset)
    carry, y = memory.apply(params, carry, x, reset)

Needs only jax, flax and numpy.
"""

from ssmrl.memory.base import Memory, ScanMemory
from ssmrl.memory.block import ResidualBlock, Stack
from ssmrl.memory.gru import GRU
from ssmrl.memory.none import NoMemory
from ssmrl.memory.registry import (
    UnknownMemoryError,
    list_memories,
    make_memory,
    memory_config,
    register,
)
from ssmrl.memory.s5 import S5

__all__ = [
    "GRU",
    "S5",
    "Memory",
    "NoMemory",
    "ResidualBlock",
    "ScanMemory",
    "Stack",
    "UnknownMemoryError",
    "list_memories",
    "make_memory",
    "memory_config",
    "register",
]

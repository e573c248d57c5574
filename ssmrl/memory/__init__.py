"""Memory modules with one interface (see `ssmrl.memory.base`).

    memory = make_memory("s5", features=256)
    carry = memory.initialize_carry((batch,))
    params = memory.init(key, carry, x, reset)
    carry, y = memory.apply(params, carry, x, reset)

Needs only jax, flax and numpy.
"""

from ssmrl.memory.aaren import Aaren
from ssmrl.memory.base import AssociativeMemory, Memory, ScanMemory
from ssmrl.memory.block import ResidualBlock, Stack
from ssmrl.memory.block_gru import BlockGRU
from ssmrl.memory.deltanet import DeltaNet, GatedDeltaNet
from ssmrl.memory.dss import DSS
from ssmrl.memory.ffm import FFM
from ssmrl.memory.frame_stack import FrameStack
from ssmrl.memory.gateloop import GateLoop
from ssmrl.memory.gla import GLA
from ssmrl.memory.gru import GRU
from ssmrl.memory.hgrn2 import HGRN2
from ssmrl.memory.linear_attention import LinearAttention
from ssmrl.memory.lmu import LMU
from ssmrl.memory.longhorn import Longhorn
from ssmrl.memory.lru import LRU
from ssmrl.memory.lstm import LSTM
from ssmrl.memory.mamba import Mamba
from ssmrl.memory.mamba2 import Mamba2
from ssmrl.memory.mingru import MinGRU
from ssmrl.memory.minlstm import MinLSTM
from ssmrl.memory.mlstm import MLSTM
from ssmrl.memory.none import NoMemory
from ssmrl.memory.registry import (
    UnknownMemoryError,
    build_memory,
    list_memories,
    make_memory,
    memory_config,
    own_memory_config,
    register,
)
from ssmrl.memory.retnet import RetNet
from ssmrl.memory.rglru import RGLRU
from ssmrl.memory.s4 import S4
from ssmrl.memory.s4d import S4D
from ssmrl.memory.s5 import S5
from ssmrl.memory.shm import SHM
from ssmrl.memory.transformer import Transformer

__all__ = [
    "DSS",
    "FFM",
    "GLA",
    "GRU",
    "HGRN2",
    "LMU",
    "LRU",
    "LSTM",
    "MLSTM",
    "RGLRU",
    "S4",
    "S4D",
    "S5",
    "SHM",
    "Aaren",
    "AssociativeMemory",
    "BlockGRU",
    "DeltaNet",
    "FrameStack",
    "GateLoop",
    "GatedDeltaNet",
    "LinearAttention",
    "Longhorn",
    "Mamba",
    "Mamba2",
    "Memory",
    "MinGRU",
    "MinLSTM",
    "NoMemory",
    "ResidualBlock",
    "RetNet",
    "ScanMemory",
    "Stack",
    "Transformer",
    "UnknownMemoryError",
    "build_memory",
    "list_memories",
    "make_memory",
    "memory_config",
    "own_memory_config",
    "register",
]

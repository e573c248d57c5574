"""Memories by name, and their options as dataclasses."""

import dataclasses
import difflib
import inspect
import textwrap
from dataclasses import dataclass
from functools import cache
from typing import Any

import jax

from ssmrl.memory.aaren import Aaren
from ssmrl.memory.base import Memory
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
from ssmrl.memory.retnet import RetNet
from ssmrl.memory.rglru import RGLRU
from ssmrl.memory.s4 import S4
from ssmrl.memory.s4d import S4D
from ssmrl.memory.s5 import S5
from ssmrl.memory.shm import SHM
from ssmrl.memory.transformer import Transformer


class UnknownMemoryError(ValueError):
    """No memory is registered under that name."""


@dataclass(frozen=True)
class Entry:
    """A registered memory: its module, and the defaults of the block that it is used in."""

    module: type[Memory]
    block: dict[str, Any]
    layers: int = 1


BARE = {
    "residual": False,
    "norm": "none",
    "activation": "none",
    "glu": "none",
    "feedforward": 0,
    "gate": "none",
    "dropout": 0.0,
}
"""The memory alone."""
RESIDUAL = BARE | {"residual": True, "norm": "pre"}
"""For memories that mix features themselves, behind a gate or an output projection."""
GATED = RESIDUAL | {"activation": "gelu", "glu": "full"}
"""For recurrences that are linear up to their output."""

_REGISTRY: dict[str, Entry] = {
    "aaren": Entry(Aaren, GATED, layers=2),
    "block_gru": Entry(BlockGRU, BARE),
    "deltanet": Entry(DeltaNet, GATED, layers=2),
    "dss": Entry(DSS, GATED, layers=2),
    "ffm": Entry(FFM, BARE),
    "frame_stack": Entry(FrameStack, BARE | {"activation": "gelu"}),
    "gated_deltanet": Entry(GatedDeltaNet, RESIDUAL, layers=2),
    "gateloop": Entry(GateLoop, RESIDUAL, layers=2),
    "gla": Entry(GLA, RESIDUAL, layers=2),
    "gru": Entry(GRU, BARE),
    "hgrn2": Entry(HGRN2, GATED, layers=2),
    "linear_attention": Entry(LinearAttention, GATED, layers=2),
    "lmu": Entry(LMU, GATED, layers=2),
    "longhorn": Entry(Longhorn, RESIDUAL, layers=2),
    "lru": Entry(LRU, GATED, layers=2),
    "lstm": Entry(LSTM, BARE),
    "mamba": Entry(Mamba, RESIDUAL, layers=2),
    "mamba2": Entry(Mamba2, RESIDUAL, layers=2),
    "mingru": Entry(MinGRU, GATED, layers=2),
    "minlstm": Entry(MinLSTM, GATED, layers=2),
    "mlstm": Entry(MLSTM, RESIDUAL, layers=2),
    "none": Entry(NoMemory, GATED, layers=2),
    "retnet": Entry(RetNet, RESIDUAL, layers=2),
    "rglru": Entry(RGLRU, RESIDUAL, layers=2),
    "s4": Entry(S4, GATED, layers=2),
    "s4d": Entry(S4D, GATED, layers=2),
    "s5": Entry(S5, GATED, layers=2),
    "shm": Entry(SHM, BARE | {"norm": "pre"}),
    "transformer": Entry(Transformer, RESIDUAL | {"feedforward": 2}, layers=2),
}


def register(name: str, module: type[Memory], *, block: dict | None = None, layers: int = 1):
    """Make `module` available as `memory=<name>` everywhere, the conformance suite included.

    Args:
        name: lower-case name, not yet taken.
        module: a `Memory` subclass; its dataclass fields become the options.
        block: defaults for the fields of `ResidualBlock`; None means the bare memory.
        layers: how many blocks are stacked by default.

    Raises:
        ValueError: where the name is taken.
    """
    if name in _REGISTRY:
        raise ValueError(f"memory {name!r} is registered already")
    _REGISTRY[name] = Entry(module, BARE | (block or {}), layers)
    memory_config.cache_clear()


def list_memories() -> list[str]:
    """The names that `make_memory` knows."""
    return sorted(_REGISTRY)


def make_memory(name: str, **options: Any) -> Stack:
    """A stack of residual blocks around the named memory.

    Args:
        name: one of `list_memories()`.
        options: any field of `memory_config(name)`: `features` (128), `layers`, the block's
            `residual`, `norm`, `activation` and `glu`, and the memory's own.

    Returns:
        A memory, x `[T, *batch, F]` → y `[T, *batch, features]`.

    Raises:
        UnknownMemoryError: for an unknown name; the message has the nearest one.
        ValueError: for an unknown option or impossible size.
    """
    entry = _lookup(name)
    config = memory_config(name)
    known = [field.name for field in dataclasses.fields(config)]
    for option in options:
        if option not in known:
            hint = nearest(option, known)
            raise ValueError(f"memory {name!r} has no option {option!r}{hint}; it has {known}")
    return _stack(entry, dataclasses.asdict(config(**options)))


def build_memory(config: Any) -> Memory:
    """The memory that a configuration describes: what agents call.

    Args:
        config: an instance of `memory_config(name)`, or of `own_memory_config(...)`.

    Raises:
        ValueError: as `make_memory`.
    """
    if hasattr(config, "build"):
        return config.build()
    return make_memory(**dataclasses.asdict(config))


def _stack(entry: Entry, values: dict[str, Any]) -> Stack:
    """`layers` blocks around the entry's module, from the values of its configuration."""
    name = values.pop("name")
    layers, remat = values.pop("layers"), values.pop("remat")
    if remat < 0:
        raise ValueError(f"memory {name!r}: remat must be a number of steps, or 0, got {remat}")
    if layers < 1 or values["features"] < 1:
        raise ValueError(
            f"memory {name!r}: layers and features must be at least 1, "
            f"got layers={layers}, features={values['features']}"
        )
    block = {key: values.pop(key) for key in BARE}
    features = values["features"]
    blocks = [
        ResidualBlock(features=features, memory=entry.module(**values), **block)
        for _ in range(layers)
    ]
    stack = Stack(features=features, layers=tuple(blocks), remat=remat)
    # A memory's own sizes are checked where its carry is made; here, and not in the first `init`.
    jax.eval_shape(lambda: stack.initialize_carry(()))
    return stack


@cache
def memory_config(name: str) -> type:
    """The options of a memory as a dataclass with defaults: its fields are the documentation.

    Made from the module's own fields, so that an option is written down once.
    """
    return _config_of(name, _lookup(name))


def own_memory_config(name: str, memory: Memory | type[Memory]) -> type:
    """The options of a memory that is not registered, in the form of `memory_config`.

    Args:
        name: what runs are to call it.
        memory: a subclass of `Memory`, used as `register` would with the bare block; or an
            instance, used as it is, whose options are its own plain fields.

    Returns:
        A dataclass whose instances `build_memory` understands.

    Raises:
        TypeError: where it is neither.
    """
    if isinstance(memory, type) and issubclass(memory, Memory):
        entry = Entry(memory, BARE)
        return _config_of(name, entry, build=lambda self: _stack(entry, dataclasses.asdict(self)))
    if not isinstance(memory, Memory):
        raise TypeError(
            "a memory is the name of one, a subclass of ssmrl.memory.Memory or an instance, "
            f"got {memory!r}"
        )
    plain = [
        (field.name, type(value), value)
        for field in dataclasses.fields(memory)
        if type(value := getattr(memory, field.name)) in (bool, int, float, str)
        and field.name not in ("parent", "name")
    ]

    def build(self: Any) -> Memory:
        for option, _, value in plain:
            if (asked := getattr(self, option)) != value:
                hint = f"; or give agent.deter={value}" if option == "features" else ""
                raise ValueError(
                    f"memory.{option}={asked} is asked for, but the memory handed over is made "
                    f"with {value}: make one with {asked}{hint}"
                )
        return memory

    fields = [("name", str, name), *plain]
    namespace = {"__doc__": f"Options of the memory {name}.", "build": build}
    return dataclasses.make_dataclass(f"{type(memory).__name__}Config", fields, namespace=namespace)


def _config_of(name: str, entry: Entry, **methods: Any) -> type:
    fields: list[tuple] = [
        ("name", str, name),
        ("features", int, 128),
        ("layers", int, entry.layers),
        ("remat", int, 0),
    ]
    fields += [(key, type(value), value) for key, value in entry.block.items()]
    fields += [
        (field.name, _option_type(field), field.default)
        for field in dataclasses.fields(entry.module)
        if field.name not in ("features", "parent", "name")
    ]
    own = {
        "features": "width of the output.",
        "layers": "number of blocks, one after the other.",
        "remat": "for how many steps at a time the backward pass keeps activations; the others are "
        "recomputed, which saves memory in long windows and costs time. 0: for all steps.",
    }
    lines = [f"{option}: {text}" for option, text in own.items()]
    for documented in (ResidualBlock, *reversed(entry.module.__mro__)):
        lines += _attribute_lines(documented)
    doc = "\n        ".join([f"Options of memory={name}.\n\n    Attributes:", *lines])
    config = f"{entry.module.__name__}Config"
    return dataclasses.make_dataclass(
        config, fields, namespace={"__doc__": doc + "\n    ", **methods}
    )


def _attribute_lines(documented: type) -> list[str]:
    """The lines of a class docstring's section "Attributes"."""
    _, _, section = inspect.cleandoc(documented.__doc__ or "").partition("Attributes:\n")
    return textwrap.dedent(section.partition("\n\n")[0]).splitlines()


def nearest(word: str, choices: list[str]) -> str:
    """`; did you mean 'x'?` for the closest of `choices`, or an empty string."""
    match = difflib.get_close_matches(word, choices, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""


def _option_type(field: dataclasses.Field) -> Any:
    """A type that configuration files can hold: dtypes and choices are strings there."""
    if field.name == "dtype":
        return str | None
    return type(field.default) if isinstance(field.default, str) else field.type


def _lookup(name: str) -> Entry:
    if not isinstance(name, str):
        raise TypeError(f"a memory's name is text, as s5, not {name!r}")
    if name.startswith("own."):
        raise UnknownMemoryError(
            f"{name!r} was a memory object of a Python program: hand it to "
            "ssmrl.load(path, memory=...) there, or register it in a module and --import that"
        )
    if name not in _REGISTRY:
        hint = nearest(name, list_memories())
        raise UnknownMemoryError(
            f"unknown memory {name!r}{hint}; available: {', '.join(list_memories())}"
        )
    return _REGISTRY[name]


__all__ = [
    "UnknownMemoryError",
    "build_memory",
    "list_memories",
    "make_memory",
    "memory_config",
    "own_memory_config",
    "register",
]

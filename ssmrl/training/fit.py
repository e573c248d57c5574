"""Whether a run can be had at all: its parts fit together, and its state into memory.

Everything is found out from shapes, before a folder is made or a number computed.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ssmrl.training.devices import device_memory
from ssmrl.training.errors import RunError, UsageError, first_line

_PACKAGE = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def refusals(**chosen: str) -> Iterator[None]:
    """Around the tracing of a user's choices: what the library refuses becomes a line.

    A memory's or agent's own ValueError says what was expected. One that JAX raises from within,
    or a user's own code, is a fault that its traceback explains.

    Args:
        chosen: the choice by the folder of this package that refuses it, e.g. ``memory="s5"``;
            the line begins with it.

    Raises:
        UsageError: an option is refused.
        RunError: the sizes chosen are beyond what a machine can hold.
    """
    try:
        yield
    except UsageError:
        raise  # It says all already.
    except (MemoryError, OverflowError) as error:
        raise RunError(f"{_culprit(error, chosen)}too large: {first_line(error)}") from error
    except ValueError as error:
        if _room(error) is None:
            raise
        raise UsageError(f"{_culprit(error, chosen)}{first_line(error)}") from error


def check_width(features: int, *, devices: int = 1) -> None:
    """Raise RunError if one matrix of a memory's width alone is more than the devices hold.

    To be asked before a memory is traced: some compute their starts on the host meanwhile, and of
    so many numbers that would end the process.

    Args:
        features: width of the memory, all of which have a matrix of at least a third of its square.
        devices: how many there are.
    """
    size, available = 4 * features**2, device_memory()
    if available is None or size <= 3 * devices * available:
        return
    raise RunError(
        f"memory.features={features} is too large: a matrix of its square takes "
        f"{format_bytes(size)}, and there is {format_bytes(devices * available)}"
    )


def check_size(state: Any, *, devices: int = 1) -> None:
    """Raise RunError if a state is larger than the memory of the devices that are to hold it.

    Args:
        state: arrays or shapes; of several devices each holds an equal part at best. NumPy arrays
            are the host's, and do not count.
        devices: how many there are.
    """
    sizes = {
        jax.tree_util.keystr(path): (leaf, bytes_of(leaf))
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if not isinstance(leaf, np.ndarray)
    }
    needed, available = sum(size for _, size in sizes.values()), device_memory()
    if available is None or needed <= devices * available:
        return
    name, (largest, size) = max(sizes.items(), key=lambda item: item[1][1])
    on = f"the {devices} devices have" if devices > 1 else "there is"
    raise RunError(
        f"parameters, optimiser and all that a run keeps would take {format_bytes(needed)}, and "
        f"{on} {format_bytes(devices * available)}; the largest part is {name}, "
        f"{largest.dtype}{list(largest.shape)}, {format_bytes(size)}: choose smaller sizes"
    )


@contextlib.contextmanager
def out_of_memory() -> Iterator[None]:
    """Around compiling and running: says in a line that the device's memory was not enough.

    Raises:
        RunError: in place of JAX's RESOURCE_EXHAUSTED, and of its overflows: it counts in 32 bits.
    """
    try:
        yield
    except OverflowError as error:
        if "parsing an argument to a jitted computation" not in str(error):
            raise
        number = str(error).rpartition(" ")[2]
        raise RunError(
            f"too large: something here is {number}, and programs count in 32 bits; choose fewer "
            "steps, epochs or environments, or shorter windows"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        asked = re.search(r"allocat\w* (\d+) bytes", str(error))
        size = f" allocating {format_bytes(int(asked[1]))}" if asked else ""
        available = device_memory()
        there = f" of {format_bytes(available)}" if available else ""
        raise RunError(
            f"out of memory{there}{size}: choose fewer agent.num_envs, shorter windows, a smaller "
            "memory or network, or fewer seeds in one program"
        ) from error


def format_bytes(size: int | float) -> str:
    """``1.9 GiB``, ``320 PiB``."""
    units = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
    # 999.5 and what is above would be rounded to 1e+03.
    power = next((i for i in range(len(units)) if size < 999.5 * 1024**i), len(units) - 1)
    scaled = size / 1024**power
    return f"{scaled:.3g} {units[power]}" if scaled < 999.5 else f"{scaled:,.0f} {units[power]}"


def bytes_of(tree: Any) -> int:
    """Of all leaves together: arrays, their shapes, or spaces."""
    return sum(math.prod(leaf.shape) * _item_bytes(leaf.dtype) for leaf in jax.tree.leaves(tree))


def _item_bytes(dtype: Any) -> int:
    # A key's dtype has no bytes of its own; keys are few.
    return 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else int(dtype.itemsize)


def _room(error: BaseException) -> str | None:
    """The folder of this package whose code raised an error; None for other people's code."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    path = Path(trace.tb_frame.f_code.co_filename) if trace else Path()
    return path.relative_to(_PACKAGE).parts[0] if path.is_relative_to(_PACKAGE) else None


def _culprit(error: BaseException, chosen: dict[str, str]) -> str:
    """``memory=s5: `` where a memory raised it."""
    room = {"envs": "env", "agents": "agent"}.get(_room(error) or "", _room(error))
    return f"{room}={chosen[room]}: " if room in chosen else ""

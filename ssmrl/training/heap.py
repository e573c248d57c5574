"""Memory that the C library keeps for later, handed back to the operating system.

XLA's compiler takes some hundred MiB from the C library's allocator and frees them, and glibc keeps
what is freed: it stays resident, and what a training needs from then on lies scattered in it.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable


def give_back() -> None:
    """Hand back what is free; nothing where the C library is not glibc, which alone keeps it."""
    if (trim := _malloc_trim()) is not None:
        trim(0)


@functools.cache
def _malloc_trim() -> Callable[[int], int] | None:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, TypeError, AttributeError):  # no libraries by that name; Windows; not glibc
        return None

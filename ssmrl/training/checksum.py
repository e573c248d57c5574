"""What tells whether two arrays are the same, without having both."""

from __future__ import annotations

import zlib

import numpy as np


def checksum(array: np.ndarray) -> int:
    """CRC-32 of an array's bytes."""
    return zlib.crc32(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)

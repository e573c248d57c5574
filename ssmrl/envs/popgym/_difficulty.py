"""POPGym publishes each family at three difficulties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

Params = TypeVar("Params")


def params_for(table: Mapping[str, Params], difficulty: str) -> Params:
    """The parameters of ``difficulty``.

    Raises:
        ValueError: if there is no such difficulty.
    """
    if difficulty not in table:
        raise ValueError(f"difficulty must be one of {', '.join(table)}, got {difficulty!r}")
    return table[difficulty]

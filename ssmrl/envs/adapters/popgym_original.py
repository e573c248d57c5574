"""The ``popgym`` package's own environments, stepped in Python: the reference for ``popgym/…``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ssmrl.envs.adapters import require
from ssmrl.envs.adapters.gymnasium import HostVectorEnv

FAMILIES = {
    "autoencode": "Autoencode",
    "battleship": "Battleship",
    "concentration": "Concentration",
    "count_recall": "CountRecall",
    "higher_lower": "HigherLower",
    "labyrinth_escape": "LabyrinthEscape",
    "labyrinth_explore": "LabyrinthExplore",
    "minesweeper": "MineSweeper",
    "multiarmed_bandit": "MultiarmedBandit",
    "noisy_position_only_cartpole": "NoisyPositionOnlyCartPole",
    "noisy_position_only_pendulum": "NoisyPositionOnlyPendulum",
    "position_only_cartpole": "PositionOnlyCartPole",
    "position_only_pendulum": "PositionOnlyPendulum",
    "repeat_first": "RepeatFirst",
    "repeat_previous": "RepeatPrevious",
    "velocity_only_cartpole": "VelocityOnlyCartPole",
}
"""Canonical family name to the name of popgym's class."""


def popgym_class(name: str) -> Any:
    """popgym's class ``name``, e.g. ``RepeatPreviousEasy``.

    Raises:
        ImportError: if popgym is not installed, or, for the labyrinths, mazelib.
    """
    envs = require("popgym.envs", "popgym")
    if not hasattr(envs, name):
        raise ImportError(f'popgym has no {name} without mazelib; pip install "ssmrl[popgym]"')
    return getattr(envs, name)


def make_popgym_original(
    name: str, num_envs: int, *, info: Sequence[str] = (), **kwargs: Any
) -> HostVectorEnv:
    """``num_envs`` of popgym's own environments.

    Args:
        name: of popgym's class, e.g. ``RepeatPreviousEasy``.
        num_envs: how many.
        info: names of numbers in ``info`` to pass on, see :class:`HostVectorEnv`.
        **kwargs: arguments of that class.

    Raises:
        ImportError: as :func:`popgym_class`.
    """
    cls = popgym_class(name)
    return HostVectorEnv(lambda: cls(**kwargs), num_envs, name=f"popgym_original/{name}", info=info)

"""POPGym's environments in JAX, rule for rule those of the ``popgym`` package.

Each family comes at three difficulties. The package's own environments are reached as
``popgym_original/<id>`` under the same ids.
"""

from __future__ import annotations

from ssmrl.envs.popgym._base import DIFFICULTIES
from ssmrl.envs.popgym.autoencode import Autoencode
from ssmrl.envs.popgym.battleship import Battleship
from ssmrl.envs.popgym.concentration import Concentration
from ssmrl.envs.popgym.count_recall import CountRecall
from ssmrl.envs.popgym.higher_lower import HigherLower
from ssmrl.envs.popgym.minesweeper import MineSweeper
from ssmrl.envs.popgym.position_only_cartpole import PositionOnlyCartPole
from ssmrl.envs.popgym.repeat_first import RepeatFirst
from ssmrl.envs.popgym.repeat_previous import RepeatPrevious

__all__ = [
    "DIFFICULTIES",
    "FAMILIES",
    "Autoencode",
    "Battleship",
    "Concentration",
    "CountRecall",
    "HigherLower",
    "MineSweeper",
    "PositionOnlyCartPole",
    "RepeatFirst",
    "RepeatPrevious",
]

FAMILIES = {
    "autoencode": Autoencode,
    "battleship": Battleship,
    "concentration": Concentration,
    "count_recall": CountRecall,
    "higher_lower": HigherLower,
    "minesweeper": MineSweeper,
    "position_only_cartpole": PositionOnlyCartPole,
    "repeat_first": RepeatFirst,
    "repeat_previous": RepeatPrevious,
}
"""Canonical family name to class; ids are ``<family>_<difficulty>``."""

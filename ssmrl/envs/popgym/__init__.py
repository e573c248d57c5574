"""POPGym's environments in JAX, rule for rule those of the ``popgym`` package.

Sixteen families, each at three difficulties. The package's own environments are reached as
``popgym_original/<id>`` under the same ids.
"""

from __future__ import annotations

from ssmrl.envs.popgym._base import DIFFICULTIES
from ssmrl.envs.popgym.autoencode import Autoencode
from ssmrl.envs.popgym.battleship import Battleship
from ssmrl.envs.popgym.concentration import Concentration
from ssmrl.envs.popgym.count_recall import CountRecall
from ssmrl.envs.popgym.higher_lower import HigherLower
from ssmrl.envs.popgym.labyrinth_escape import LabyrinthEscape
from ssmrl.envs.popgym.labyrinth_explore import LabyrinthExplore
from ssmrl.envs.popgym.minesweeper import MineSweeper
from ssmrl.envs.popgym.multiarmed_bandit import MultiarmedBandit
from ssmrl.envs.popgym.noisy_position_only_cartpole import NoisyPositionOnlyCartPole
from ssmrl.envs.popgym.noisy_position_only_pendulum import NoisyPositionOnlyPendulum
from ssmrl.envs.popgym.position_only_cartpole import PositionOnlyCartPole
from ssmrl.envs.popgym.position_only_pendulum import PositionOnlyPendulum
from ssmrl.envs.popgym.repeat_first import RepeatFirst
from ssmrl.envs.popgym.repeat_previous import RepeatPrevious
from ssmrl.envs.popgym.velocity_only_cartpole import VelocityOnlyCartPole

__all__ = [
    "DIFFICULTIES",
    "FAMILIES",
    "Autoencode",
    "Battleship",
    "Concentration",
    "CountRecall",
    "HigherLower",
    "LabyrinthEscape",
    "LabyrinthExplore",
    "MineSweeper",
    "MultiarmedBandit",
    "NoisyPositionOnlyCartPole",
    "NoisyPositionOnlyPendulum",
    "PositionOnlyCartPole",
    "PositionOnlyPendulum",
    "RepeatFirst",
    "RepeatPrevious",
    "VelocityOnlyCartPole",
]

FAMILIES = {
    "autoencode": Autoencode,
    "battleship": Battleship,
    "concentration": Concentration,
    "count_recall": CountRecall,
    "higher_lower": HigherLower,
    "labyrinth_escape": LabyrinthEscape,
    "labyrinth_explore": LabyrinthExplore,
    "minesweeper": MineSweeper,
    "multiarmed_bandit": MultiarmedBandit,
    "noisy_position_only_cartpole": NoisyPositionOnlyCartPole,
    "noisy_position_only_pendulum": NoisyPositionOnlyPendulum,
    "position_only_cartpole": PositionOnlyCartPole,
    "position_only_pendulum": PositionOnlyPendulum,
    "repeat_first": RepeatFirst,
    "repeat_previous": RepeatPrevious,
    "velocity_only_cartpole": VelocityOnlyCartPole,
}
"""Canonical family name to class; ids are ``<family>_<difficulty>``."""

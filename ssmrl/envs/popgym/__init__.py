"""POPGym's environments in JAX, rule for rule those of the ``popgym`` package.

Three of its sixteen families so far, each at three difficulties: :class:`RepeatPrevious`,
:class:`RepeatFirst`, :class:`PositionOnlyCartPole`. The package's own environments are reached as
``popgym_original/<id>`` under the same ids.
"""

from __future__ import annotations

from ssmrl.envs.popgym._base import DIFFICULTIES
from ssmrl.envs.popgym.position_only_cartpole import PositionOnlyCartPole
from ssmrl.envs.popgym.repeat_first import RepeatFirst
from ssmrl.envs.popgym.repeat_previous import RepeatPrevious

__all__ = ["DIFFICULTIES", "FAMILIES", "PositionOnlyCartPole", "RepeatFirst", "RepeatPrevious"]

FAMILIES = {
    "position_only_cartpole": PositionOnlyCartPole,
    "repeat_first": RepeatFirst,
    "repeat_previous": RepeatPrevious,
}
"""Canonical family name to class; ids are ``<family>_<difficulty>``."""

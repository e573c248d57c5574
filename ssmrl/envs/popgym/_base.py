"""What POPGym's families share: a name, and parameters at three difficulties."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from ssmrl.envs.environment import Environment

State = TypeVar("State")
Params = TypeVar("Params")

DIFFICULTIES = ("easy", "medium", "hard")


class PopGymEnv(Environment[State, Params]):
    """One family at one difficulty.

    A family writes :attr:`PARAMS` and the methods of :class:`~ssmrl.envs.Environment`.

    Attributes:
        PARAMS: the published parameters, by difficulty.
        difficulty: ``"easy"``, ``"medium"`` or ``"hard"``.

    Raises:
        ValueError: for another difficulty.
    """

    PARAMS: ClassVar[Mapping[str, Any]]

    def __init__(self, difficulty: str = "easy"):
        if difficulty not in self.PARAMS:
            options = ", ".join(self.PARAMS)
            raise ValueError(f"difficulty must be one of {options}, got {difficulty!r}")
        self.difficulty = difficulty

    @property
    def name(self) -> str:
        return f"{type(self).__name__}{self.difficulty.capitalize()}"

    @property
    def default_params(self) -> Params:
        return self.PARAMS[self.difficulty]

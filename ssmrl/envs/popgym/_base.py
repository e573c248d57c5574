"""What POPGym's families share: a name, and parameters at three difficulties."""

from __future__ import annotations

import numbers
from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from ssmrl.envs.environment import Environment

State = TypeVar("State")
Params = TypeVar("Params")

DIFFICULTIES = ("easy", "medium", "hard")


class PopGymEnv(Environment[State, Params]):
    """One family at one difficulty.

    A family writes :attr:`PARAMS` and the methods of :class:`~ssmrl.envs.Environment`, and, where
    not every value of a parameter makes a game, :meth:`check_params`.

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

    def make_params(self, **overrides: Any) -> Params:
        """The parameters of this difficulty with some fields replaced.

        Raises:
            ValueError: for a field that does not exist, for one that must be an integer and is
                not, and for values that make no game (see :meth:`check_params`).
        """
        for field, value in overrides.items():
            if type(getattr(self.default_params, field, None)) is int:
                if not _is_integer(value):
                    raise ValueError(f"{self.name} needs an integer {field}, got {value!r}")
                overrides[field] = int(value)
        params = super().make_params(**overrides)
        self.check_params(params)
        return params

    def check_params(self, params: Params) -> None:
        """Raise a ValueError that says what is needed if ``params`` make no game."""


def _is_integer(value: Any) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)

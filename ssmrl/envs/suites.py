"""What is registered, suite by suite. A new suite is a new function here."""

from __future__ import annotations

from functools import partial
from typing import Any

from ssmrl.envs import popgym
from ssmrl.envs.environment import Environment
from ssmrl.envs.registry import register


def register_all() -> None:
    """Register every suite; called once, on import."""
    _register_popgym()


def _register_popgym() -> None:
    for family, cls in popgym.FAMILIES.items():
        for difficulty in popgym.DIFFICULTIES:
            register(f"popgym/{family}_{difficulty}", partial(_make_popgym, cls, difficulty))


def _make_popgym(cls: Any, difficulty: str, **overrides: Any) -> tuple[Environment, Any]:
    env = cls(difficulty)
    return env, env.make_params(**overrides)

"""What is registered, suite by suite. A new suite is a new function here."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from ssmrl.envs import bsuite, memory_maze, meta, popgym, worlds
from ssmrl.envs.adapters import (
    brax,
    gymnasium,
    gymnax,
    memory_maze_original,
    popgym_original,
    xland,
)
from ssmrl.envs.environment import Environment
from ssmrl.envs.registry import register as register_checked
from ssmrl.envs.registry import register_suite, register_unavailable
from ssmrl.envs.vector import VectorEnv

# Tests have played all of them.
register = partial(register_checked, check=False)


def register_all() -> None:
    """Register every suite; called once, on import."""
    _register_popgym()
    _register_popgym_original()
    _register_bsuite()
    _register_memory_maze()
    for id_, world in worlds.WORLDS.items():
        register(f"worlds/{id_}", partial(_make_with_options, world))
    for id_, make in meta.MAKERS.items():
        register(f"meta/{id_}", make)
    for id_, gymnax_id in gymnax.ENVIRONMENTS.items():
        factory = partial(gymnax.make_gymnax, gymnax_id)
        register(f"gymnax/{id_}", factory, aliases=(f"gymnax/{gymnax_id}",))
    for id_, brax_id in brax.ENVIRONMENTS.items():
        register(f"brax/{id_}", partial(brax.make_brax, brax_id), aliases=(f"brax/{brax_id}",))
    for id_, why in brax.UNAVAILABLE.items():
        register_unavailable(f"brax/{id_}", why)
    for id_, xland_id in xland.ENVIRONMENTS.items():
        make_xland = partial(xland.make_xland, xland_id)
        register(f"xland/{id_}", make_xland, aliases=(f"xland/{xland_id}",))
    register_suite("gymnasium", gymnasium.make_gymnasium, gymnasium.registered_ids)


def _register_popgym() -> None:
    for family, cls in popgym.FAMILIES.items():
        for difficulty in popgym.DIFFICULTIES:
            register(f"popgym/{family}_{difficulty}", partial(_make_popgym, cls, difficulty))


def _make_popgym(cls: Any, difficulty: str, **overrides: Any) -> tuple[Environment, Any]:
    env = cls(difficulty)
    return env, env.make_params(**overrides)


def _register_popgym_original() -> None:
    for family, name in popgym_original.FAMILIES.items():
        for difficulty in popgym.DIFFICULTIES:
            factory = partial(
                popgym_original.make_popgym_original, f"{name}{difficulty.capitalize()}"
            )
            register(f"popgym_original/{family}_{difficulty}", factory, is_host=True)


def _register_bsuite() -> None:
    for id_, experiment in bsuite.EXPERIMENTS.items():
        register(f"bsuite/{id_}", partial(_make_with_options, experiment.make))
        for number, setting in enumerate(experiment.settings):
            register(
                f"bsuite/{id_}/{number}", partial(_make_with_options, experiment.make, **setting)
            )


def _register_memory_maze() -> None:
    for size in memory_maze.SIZES:
        for variant, options in {"": {}, **memory_maze.VARIANTS}.items():
            make = partial(memory_maze.MemoryMaze, size, **options)
            id_ = f"{size}x{size}_{variant}" if variant else f"{size}x{size}"
            register(f"memory_maze/{id_}", partial(_make_with_options, make))
            if size in memory_maze_original.SIZES:
                original = partial(_make_memory_maze_original, size, variant, options)
                register(f"memory_maze_original/{id_}", original, is_host=True)


def _make_memory_maze_original(
    size: int, variant: str, options: dict[str, Any], num_envs: int, **overrides: Any
) -> VectorEnv:
    make = memory_maze_original.make_memory_maze_original
    return make(size, variant, num_envs, **{**options, **overrides})


def _make_with_options(make: Callable[[], Environment], **options: Any) -> tuple[Environment, Any]:
    env = make()
    return env, env.make_params(**options)

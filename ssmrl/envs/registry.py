"""Environments by name: ``suite/id``.

Matching ignores case, underscores, hyphens and spaces: ``popgym/RepeatPreviousEasy`` and
``popgym/repeat_previous_easy`` are one environment. A suite enters here with one :func:`register`
per environment, or, when its ids are for another package to know, one :func:`register_suite`.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from collections.abc import Callable
from typing import Any

from ssmrl.envs.environment import Environment
from ssmrl.envs.vector import JaxVectorEnv, VectorEnv, check_num_envs
from ssmrl.envs.wrappers import EpisodeStatistics, ObservationExtras

JaxFactory = Callable[..., tuple[Environment, Any]]
HostFactory = Callable[..., VectorEnv]


class UnknownEnvironmentError(ValueError):
    """No environment has this name."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered environment.

    ``factory(**kwargs)`` returns ``(env, params)``; a host environment's ``factory(num_envs,
    **kwargs)`` returns a :class:`VectorEnv`.
    """

    name: str
    factory: Callable[..., Any]
    is_host: bool


_ENTRIES: dict[str, Entry] = {}
_ALIASES: dict[str, str] = {}
_OPEN_SUITES: dict[str, Callable[..., VectorEnv]] = {}


def _normalise(name: str) -> str:
    return re.sub(r"[_\-\s]", "", name).lower()


def register(
    name: str,
    factory: JaxFactory | HostFactory,
    *,
    aliases: tuple[str, ...] = (),
    is_host: bool = False,
) -> None:
    """Register ``suite/id``.

    Args:
        name: the canonical name, ``suite/snake_case_id``.
        factory: ``factory(**kwargs) -> (env, params)``, called by :func:`make`; for a host
            environment ``factory(num_envs, **kwargs) -> VectorEnv``.
        aliases: other names for it.
        is_host: whether it is a Python environment.

    Raises:
        ValueError: if the name has no suite, or is taken.
    """
    if "/" not in name:
        raise ValueError(f"an environment's name is suite/id, got {name!r}")
    for key in {_normalise(name), *map(_normalise, aliases)}:
        if key in _ALIASES:
            raise ValueError(f"{name!r} is already registered (as {_ALIASES[key]!r})")
        _ALIASES[key] = name
    _ENTRIES[name] = Entry(name, factory, is_host)


def register_suite(suite: str, factory: Callable[..., VectorEnv]) -> None:
    """Register a suite of host environments whose ids another package resolves.

    Args:
        suite: the part of the name before the first slash.
        factory: ``factory(id, num_envs, **kwargs) -> VectorEnv``; raises
            :class:`UnknownEnvironmentError` for an id it does not know.

    Raises:
        ValueError: if the suite is taken.
    """
    if _normalise(suite) in _OPEN_SUITES:
        raise ValueError(f"suite {suite!r} is already registered")
    _OPEN_SUITES[_normalise(suite)] = factory


def list_envs() -> list[str]:
    """Canonical names of all registered environments, sorted.

    ``gymnasium/<id>`` takes any id that gymnasium knows; those are not listed.
    """
    return sorted(_ENTRIES)


def unknown_environment(name: str, known: list[str]) -> UnknownEnvironmentError:
    """The error for ``name``, which is none of ``known``: it names the near match."""
    by_key = {_normalise(candidate): candidate for candidate in known}
    near = difflib.get_close_matches(_normalise(name), by_key, n=1, cutoff=0.5)
    hint = f"; did you mean {by_key[near[0]]!r}?" if near else ""
    return UnknownEnvironmentError(
        f"unknown environment {name!r}{hint} (ssmrl.envs.list_envs() lists what exists; "
        "gymnasium/<id> takes any gymnasium id)"
    )


def _open_suite(name: str) -> tuple[Callable[..., VectorEnv], str] | None:
    suite, _, id_ = name.partition("/")
    factory = _OPEN_SUITES.get(_normalise(suite))
    return (factory, id_) if factory is not None and id_ else None


def canonical_name(name: str) -> str:
    """The name under which ``name`` is listed; ids of gymnasium stay as they are.

    Raises:
        UnknownEnvironmentError: if there is no such environment.
    """
    key = _normalise(name)
    if key in _ALIASES:
        return _ALIASES[key]
    if _open_suite(name):
        suite, _, id_ = name.partition("/")
        return f"{_normalise(suite)}/{id_}"
    raise unknown_environment(name, list_envs())


def make(name: str, **kwargs: Any) -> tuple[Environment, Any]:
    """One environment and its parameters, as in gymnax.

    Args:
        name: ``suite/id``, see :func:`list_envs`.
        **kwargs: options of the environment, fields of its parameters among them.

    Raises:
        UnknownEnvironmentError: if there is no such environment.
        ValueError: for a Python environment, which has no pure form, and for unknown options.
    """
    canonical = canonical_name(name)
    entry = _ENTRIES.get(canonical)
    if entry is None or entry.is_host:
        raise ValueError(
            f"{canonical} is a Python environment, not a function of arrays; "
            f"use ssmrl.envs.make_vector({canonical!r}, num_envs)"
        )
    return entry.factory(**kwargs)


def make_vector(
    name: Any,
    num_envs: int,
    *,
    previous_action: bool = False,
    previous_reward: bool = False,
    first_flag: bool = False,
    **kwargs: Any,
) -> VectorEnv:
    """``num_envs`` environments with auto-reset and episode statistics.

    Args:
        name: ``suite/id``, see :func:`list_envs`; or an environment object of any kind that
            :func:`ssmrl.envs.objects.from_object` takes.
        num_envs: how many.
        previous_action, previous_reward, first_flag: put these into the observation, which becomes
            a dict (:class:`ssmrl.envs.ObservationExtras`).
        **kwargs: options of the environment, fields of its parameters among them.

    Returns:
        The environments inside :class:`ObservationExtras`, if any was asked for, inside
        :class:`EpisodeStatistics`.

    Raises:
        UnknownEnvironmentError: if there is no such environment.
        ValueError: if ``num_envs`` is not a positive integer, or for unknown options.
    """
    num_envs = check_num_envs(num_envs)
    if not isinstance(name, str):
        # Here, as it needs the adapters, and they this module.
        from ssmrl.envs.objects import from_object

        venv = from_object(name, num_envs, **kwargs)
    else:
        venv = _make_named(canonical_name(name), num_envs, **kwargs)
    if previous_action or previous_reward or first_flag:
        venv = ObservationExtras(venv, previous_action, previous_reward, first_flag)
    return EpisodeStatistics(venv)


def _make_named(canonical: str, num_envs: int, **kwargs: Any) -> VectorEnv:
    """The environments of a canonical name, without wrappers."""
    entry = _ENTRIES.get(canonical)
    if entry is None:
        factory, id_ = _open_suite(canonical)  # type: ignore[misc]  # canonical_name found it
        return factory(id_, num_envs, **kwargs)
    if entry.is_host:
        return entry.factory(num_envs, **kwargs)
    env, params = entry.factory(**kwargs)
    return JaxVectorEnv(env, params, num_envs, name=canonical)

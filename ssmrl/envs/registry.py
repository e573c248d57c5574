"""Environments by name: ``suite/id``.

Matching ignores case, underscores, hyphens and spaces: ``popgym/RepeatPreviousEasy`` and
``popgym/repeat_previous_easy`` are one environment. A suite enters here with one :func:`register`
per environment, or, when its ids are for another package to know, one :func:`register_suite`.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import pickle
import re
from collections.abc import Callable, Sequence
from typing import Any

from ssmrl.envs.contract import EnvironmentFault, first_steps_fault
from ssmrl.envs.environment import Environment
from ssmrl.envs.partial_observability import obscure
from ssmrl.envs.vector import JaxVectorEnv, VectorEnv, check_num_envs
from ssmrl.envs.wrappers import (
    CheckedVectorEnv,
    EpisodeStatistics,
    ObservationExtras,
    checked,
)

JaxFactory = Callable[..., tuple[Environment, Any]]
HostFactory = Callable[..., VectorEnv]


class UnknownEnvironmentError(ValueError):
    """No environment has this name, or none that can run here."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """A registered environment.

    ``factory(**kwargs)`` returns ``(env, params)``; a host environment's ``factory(num_envs,
    **kwargs)`` returns a :class:`VectorEnv`. ``check``: whether its first steps are looked at when
    it is made.
    """

    name: str
    factory: Callable[..., Any]
    is_host: bool
    check: bool


@dataclasses.dataclass(frozen=True)
class OpenSuite:
    """A suite whose ids another package resolves; ``ids`` lists those that it knows."""

    factory: Callable[..., VectorEnv]
    ids: Callable[[], list[str]]


_ENTRIES: dict[str, Entry] = {}
_ALIASES: dict[str, str] = {}
_UNAVAILABLE: dict[str, str] = {}
_OPEN_SUITES: dict[str, OpenSuite] = {}


def _normalise(name: str) -> str:
    return re.sub(r"[_\-\s]", "", name).lower()


def register(
    name: str,
    factory: JaxFactory | HostFactory,
    *,
    aliases: tuple[str, ...] = (),
    is_host: bool = False,
    check: bool = True,
) -> None:
    """Register ``suite/id``.

    Args:
        name: the canonical name, ``suite/snake_case_id``.
        factory: ``factory(**kwargs) -> (env, params)``, called by :func:`make`; for a host
            environment ``factory(num_envs, **kwargs) -> VectorEnv``.
        aliases: other names for it.
        is_host: whether it is a Python environment.
        check: play a few steps of an environment in JAX when :func:`make_vector` makes it, and
            look at its observations and rewards (:func:`ssmrl.envs.contract.first_steps_fault`).
            The library's own do without: tests have played them.

    Raises:
        ValueError: if the name has no suite, or is taken.
    """
    if "/" not in name:
        raise ValueError(f"an environment's name is suite/id, got {name!r}")
    for key in {_normalise(name), *map(_normalise, aliases)}:
        if key in _ALIASES:
            raise ValueError(f"{name!r} is already registered (as {_ALIASES[key]!r})")
        _ALIASES[key] = name
    _ENTRIES[name] = Entry(name, factory, is_host, check)


def register_unavailable(name: str, why: str) -> None:
    """Say why there is no environment ``name`` to those who ask for it; it is not listed.

    Args:
        name: ``suite/id``.
        why: what does not work, and where.
    """
    _UNAVAILABLE[_normalise(name)] = f"{name} cannot run: {why}"


def register_suite(
    suite: str, factory: Callable[..., VectorEnv], ids: Callable[[], list[str]] = list
) -> None:
    """Register a suite of host environments whose ids another package resolves.

    Args:
        suite: the part of the name before the first slash.
        factory: ``factory(id, num_envs, **kwargs) -> VectorEnv``; raises
            :class:`UnknownEnvironmentError` for an id it does not know.
        ids: gives the ids that are known, for near matches; may import the other package.

    Raises:
        ValueError: if the suite is taken.
    """
    if _normalise(suite) in _OPEN_SUITES:
        raise ValueError(f"suite {suite!r} is already registered")
    _OPEN_SUITES[_normalise(suite)] = OpenSuite(factory, ids)


def list_envs() -> list[str]:
    """Canonical names of all registered environments, sorted.

    ``gymnasium/<id>`` takes any id that gymnasium knows; those are not listed.
    """
    return sorted(_ENTRIES)


def unknown_environment(name: str) -> UnknownEnvironmentError:
    """The error for ``name``: it names the near matches, the likeliest first."""
    if name.startswith("own."):
        return UnknownEnvironmentError(
            f"{name!r} was an environment object of a Python program: hand it to "
            "ssmrl.load(path, env=...) there, or register it in a module and --import that"
        )
    near = [repr(match) for match in near_matches(name)]
    hint = f"; did you mean {near[0]}?" if near else ""
    others = f" (or {', '.join(near[1:])})" if near[1:] else ""
    return UnknownEnvironmentError(
        f"unknown environment {name!r}{hint}{others} (ssmrl.envs.list_envs() lists what exists; "
        "gymnasium/<id> takes any gymnasium id)"
    )


def near_matches(name: str, count: int = 3) -> list[str]:
    """Names that ``name`` may mean, the likeliest first.

    For a suite these are its first ids. An id that is right but for its suite or version comes
    before one that only begins alike, and that before one that is spelt alike. Among equals, a
    version in ``name`` speaks for gymnasium, whose ids have them, then a task comes before the
    distribution of tasks of its name, and then the order of registration decides, which puts a
    family's easiest first.

    Args:
        name: what was asked for; with or without a suite.
        count: at most so many.
    """
    names = [
        *_ENTRIES,
        *(f"{suite}/{i}" for suite, open_ in _OPEN_SUITES.items() for i in open_.ids()),
    ]

    def of(suite: str) -> list[str]:
        return [n for n in names if suite and _normalise(n).startswith(f"{_normalise(suite)}/")]

    if own := of(name):
        return own[:count]
    suite, _, id_ = name.rpartition("/") if name.count("/") < 2 else name.partition("/")
    within = of(suite)
    ranked = sorted((_distance(name, suite, id_, n), i) for i, n in enumerate(within or names))
    found = [(within or names)[i] for distance, i in ranked if distance[0] < 1]
    return found[:count]


def _distance(name: str, suite: str, id_: str, candidate: str) -> tuple[float, bool, bool]:
    """How far ``candidate`` is from what was asked for, 1 or more if too far; ties go to False."""
    is_meta = candidate.startswith("meta/")
    wanted, own = _normalise(id_), _normalise(candidate.partition("/")[2])
    other_version = bool(_VERSION.search(id_)) != bool(_VERSION.search(candidate))
    if wanted == own:
        return 0.0, other_version, is_meta
    if _unversioned(id_) == _unversioned(candidate.partition("/")[2]):
        return 0.1, other_version, is_meta
    if len(wanted) >= 3 and own.startswith(_unversioned(id_)):
        return 0.2, other_version, is_meta
    compared = (_normalise(name), _normalise(candidate)) if suite else (wanted, own)
    likeness = difflib.SequenceMatcher(None, *compared).ratio()
    return (1.3 - likeness if likeness >= 0.5 else 1.0), other_version, is_meta


_VERSION = re.compile(r"-?v\d+$")


def _unversioned(id_: str) -> str:
    return _normalise(_VERSION.sub("", id_))


def _open_suite(name: str) -> tuple[Callable[..., VectorEnv], str] | None:
    suite, _, id_ = name.partition("/")
    found = _OPEN_SUITES.get(_normalise(suite))
    return (found.factory, id_) if found is not None and id_ else None


def canonical_name(name: str) -> str:
    """The name under which ``name`` is listed; ids of gymnasium stay as they are.

    Raises:
        UnknownEnvironmentError: if there is no such environment, or none that can run.
        TypeError: if it is no name.
    """
    if not isinstance(name, str):
        raise TypeError(f"an environment's name is text, as popgym/repeat_first_easy, not {name!r}")
    key = _normalise(name)
    if key in _ALIASES:
        return _ALIASES[key]
    if key in _UNAVAILABLE:
        raise UnknownEnvironmentError(_UNAVAILABLE[key])
    if _open_suite(name):
        suite, _, id_ = name.partition("/")
        return f"{_normalise(suite)}/{id_}"
    raise unknown_environment(name)


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
    observe: str | Sequence[int] | None = None,
    observation_noise: float = 0.0,
    flicker: float = 0.0,
    observation_delay: int = 0,
    action_delay: int = 0,
    **kwargs: Any,
) -> VectorEnv:
    """``num_envs`` environments with auto-reset and episode statistics.

    Args:
        name: ``suite/id``, see :func:`list_envs`; or an environment object of any kind that
            :func:`ssmrl.envs.objects.from_object` takes.
        num_envs: how many.
        previous_action, previous_reward, first_flag: put these into the observation, which becomes
            a dict (:class:`ssmrl.envs.ObservationExtras`).
        observe, observation_noise, flicker, observation_delay, action_delay: leave less to know,
            see :func:`ssmrl.envs.obscure`. The previous action is the one that was decided on.
        **kwargs: options of the environment, fields of its parameters among them.

    Returns:
        The environments inside the wrappers of :func:`ssmrl.envs.obscure` and
        :class:`ObservationExtras`, as far as they were asked for, inside
        :class:`EpisodeStatistics`.

    Raises:
        UnknownEnvironmentError: if there is no such environment.
        EnvironmentFault: if an environment of your own does not do what it promises.
        ValueError: if ``num_envs`` is not a positive integer, for unknown options, or for what
            :func:`ssmrl.envs.obscure` cannot do to these spaces.
    """
    num_envs = check_num_envs(num_envs)
    if not isinstance(name, str):
        # Here, as it needs the adapters, and they this module.
        from ssmrl.envs.objects import from_object, is_users_own

        venv = from_object(name, num_envs, **kwargs)
        if isinstance(venv, JaxVectorEnv) and is_users_own(venv.env):
            check_first_steps(venv)
    else:
        venv = _make_named(canonical_name(name), num_envs, **kwargs)
    venv = checked(venv)
    if isinstance(venv, CheckedVectorEnv) and not venv.is_host:
        check_first_steps_of_all(venv)
    venv = obscure(
        venv,
        action_delay=action_delay,
        observe=observe,
        observation_noise=observation_noise,
        flicker=flicker,
        observation_delay=observation_delay,
    )
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
    venv = JaxVectorEnv(env, params, num_envs, name=canonical)
    if entry.check:
        check_first_steps(venv)
    return venv


_PLAYED: set[tuple[Any, ...]] = set()
"""Environments whose first steps were right, by name, class and a digest of all values."""


def check_first_steps(venv: JaxVectorEnv) -> None:
    """Play a few steps of one of the environments, and look at what it gives.

    Once in a process, for all that are equal by name, class, attributes and parameters. One that
    holds what has no value of its own, a function say, is played whenever it is made.

    Raises:
        EnvironmentFault: naming what is wrong with its types or its values.
    """
    digest = _digest((venv.env.__getstate__(), venv.params))
    key = (venv.name, type(venv.env), digest)
    if digest is not None and key in _PLAYED:
        return
    _play_first_steps(JaxVectorEnv(venv.env, venv.params, 1, name=venv.name))
    _PLAYED.add(key)


def check_first_steps_of_all(venv: CheckedVectorEnv) -> None:
    """:func:`check_first_steps` of a vector environment in JAX that is a user's own."""
    key = (venv.name, type(venv.venv), _digest(vars(venv.venv)))
    if key[-1] is not None and key in _PLAYED:
        return
    _play_first_steps(venv)
    _PLAYED.add(key)


def _play_first_steps(venv: VectorEnv) -> None:
    if fault := first_steps_fault(venv):
        raise EnvironmentFault(f"{venv.name}, {fault}")


def _digest(values: Any) -> bytes | None:
    """Equal only where all values are; None where they cannot be told.

    Not a `repr`, which leaves out the middle of long arrays, and which classes write as they like.
    """
    try:
        return hashlib.sha256(pickle.dumps(values)).digest()
    except Exception:  # PicklingError, TypeError, AttributeError, and whatever a class raises
        return None

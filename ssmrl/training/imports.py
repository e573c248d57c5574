"""A user's own modules, which register environments, memories and agents by being imported."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ssmrl.training.errors import RunError, UsageError

_FILES: dict[Path, ModuleType] = {}


def import_modules(names: Iterable[str], *, option: str = "--import") -> tuple[str, ...]:
    """Import modules, each once in a process, so that what they register can be chosen.

    Args:
        names: of modules, looked for in the current folder first as `python -m` does, or paths of
            .py files, whose folder is searched for what they import in turn.
        option: how the user named them, for messages.

    Returns:
        What to write down to import them again: the names, and absolute paths of files.

    Raises:
        UsageError: one of them is not there, or fails.
    """
    return tuple(_import_one(name, option) for name in names)


def _import_one(name: str, option: str) -> str:
    path, is_file = Path(name), _is_file(name)
    if is_file and path.suffix != ".py":
        raise UsageError(f"{option} {name}: it is no .py file")
    if is_file and not path.is_file():
        raise UsageError(f"{option} {name}: there is no such file")
    _search(path.resolve().parent if is_file else Path.cwd())
    try:
        if not is_file:
            importlib.import_module(name)
            return name
        _import_file(path.resolve())
        return str(path.resolve())
    except Exception as error:
        raise UsageError(f"{option} {name}: {_reason(error)}") from error


def _is_file(name: str) -> bool:
    return name.endswith(".py") or os.sep in name


def _search(folder: Path) -> None:
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _import_file(path: Path) -> None:
    if path in _FILES:
        return
    # A name of its own: a user's test.py or types.py must not stand in for Python's.
    spec = importlib.util.spec_from_file_location(f"_imported_{len(_FILES)}_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[spec.name]
        raise
    _FILES[path] = module


def _reason(error: Exception) -> str:
    """The error in a line, with the place in the user's file where it came from."""
    text = str(error).strip().splitlines()
    what = f"{type(error).__name__}: {text[0]}" if text else type(error).__name__
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if f.filename != __file__ and "importlib" not in f.filename]
    return f"{what} ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else what


def import_recorded(
    record: dict[str, Any], path: Path, *, instead: Sequence[str] = (), say: Any = None
) -> None:
    """Import what a run was trained with.

    Args:
        record: the contents of its config.yaml.
        path: its folder. Modules inside are refused, and those of an environment's name
            (``gymnasium/module:id``) too: opening somebody's run must not run their code.
        instead: modules to import in place of the recorded ones, if any.
        say: called with a line for what is imported.

    Raises:
        RunError: one of them is not there, or fails.
    """
    if instead:
        import_modules(instead)
        return
    for name in _modules_of(record):
        if any(place.is_relative_to(path.resolve()) for place in _places(name)):
            raise RunError(
                f"{path} was trained with {name}, which lies inside the run: if you trust it, "
                f"import it yourself (--import {name})"
            )
    names = record.get("imports", [])
    if names and Path.cwd().resolve().is_relative_to(path.resolve()):
        raise RunError(
            f"{path} was trained with modules of its own ({', '.join(names)}), which Python would "
            "look for in the current folder, the run's: go to another one"
        )
    for name in names:
        if say is not None:
            say(f"importing {name}, as {path} was trained with it")
        try:
            import_modules([name], option="the run's")
        except UsageError as error:
            raise RunError(f"{path}: {error}; give it with --import where it has moved") from error


def _modules_of(record: dict[str, Any]) -> list[str]:
    """What opening a run imports: its recorded modules, and that of ``gymnasium/module:id``."""
    suite, _, id_ = record.get("config", {}).get("env", {}).get("name", "").partition("/")
    own, colon, _ = id_.partition(":")
    return [*record.get("imports", []), *([own] if suite == "gymnasium" and colon else [])]


def _places(name: str) -> list[Path]:
    """Where a module or a .py file may lie, found without importing anything.

    Python's own way to find ``a.b.c`` imports ``a`` and ``a.b``.
    """
    if _is_file(name):
        return [Path(name).resolve()]
    first, *rest = name.split(".")
    here = Path.cwd().joinpath(first, *rest)
    found = [path for path in (here, here.with_name(f"{here.name}.py")) if path.exists()]
    try:
        spec = importlib.util.find_spec(first)
    except (ImportError, ValueError):
        spec = None
    if spec is not None:
        found += [Path(root, *rest) for root in spec.submodule_search_locations or ()]
        found += [Path(spec.origin)] if spec.origin and spec.has_location else []
    return [place.resolve() for place in found]


def take_imports(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The modules of ``--import NAME`` or ``--import=NAME`` in a command line, and the rest of it.

    Raises:
        UsageError: a name is missing.
    """
    names, rest, remaining = [], [], iter(arguments)
    for argument in remaining:
        if argument == "--import":
            name = next(remaining, "")
        elif argument.startswith("--import="):
            name = argument.partition("=")[2]
        else:
            rest.append(argument)
            continue
        if not name or "=" in name:
            raise UsageError("--import: which module? write --import my_module, or a .py file")
        names.append(name)
    return names, rest

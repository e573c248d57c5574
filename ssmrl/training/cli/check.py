"""Checks every override, so that a wrong one is answered before anything runs."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import os
import re
from collections.abc import Sequence
from typing import Any, get_args

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, Override
from hydra.errors import HydraException
from omegaconf import DictConfig, IntegerNode, ListConfig, UnionNode
from omegaconf.errors import OmegaConfBaseException

from ssmrl.training.cli.compose import Composer
from ssmrl.training.cli.messages import composition_error, unknown_key
from ssmrl.training.errors import UsageError, first_line


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """A checked command line.

    Attributes:
        overrides: to hand to Hydra, in the order given.
        multirun: whether ``-m`` was given.
        hydra_flags: Hydra's own options, handed through.
    """

    overrides: list[str]
    multirun: bool
    hydra_flags: list[str]


def check_arguments(composer: Composer, arguments: Sequence[str]) -> CommandLine:
    """Check a whole command line, every job of a sweep included.

    Raises:
        UsageError: naming the first argument that is wrong.
    """
    flags = [a for a in arguments if a.startswith("-")]
    multirun = any(flag in ("-m", "--multirun") for flag in flags)
    for flag in flags:
        if flag not in ("-m", "--multirun"):
            raise UsageError(
                f"unknown option {flag}; options are -h, --help, -m, --multirun, --import MODULE; "
                "settings are written key=value"
            )
    paths = {f.name for f in dataclasses.fields(composer.kind) if f.metadata.get("path")}
    texts = [_open_kwargs(a) for a in arguments if not a.startswith("-")]
    parsed = [_parse(_literal_path(text, paths, multirun)) for text in texts]
    normalised = [
        _check_choice(composer, override, multirun)
        if override.key_or_group in composer.groups
        else override.input_line or ""
        for override in parsed
    ]
    parsed, normalised = _whole_numbers(composer, parsed, normalised)
    _check_keys(composer, parsed, normalised, multirun)
    return CommandLine(normalised, multirun, flags)


def _open_kwargs(text: str) -> str:
    return f"++{text}" if _is_free(text.partition("=")[0]) else text


def _is_free(key: str) -> bool:
    """Whether it is of env.kwargs: a free mapping, where adding a key is the normal thing to do."""
    return f"{key}.".startswith("env.kwargs.")


def quote(path: str) -> str:
    """A path as Hydra's grammar takes it, whatever characters it has."""
    # Only before a quote is a backslash anything but itself.
    escaped = re.sub(r"(\\*)('|$)", lambda m: 2 * m[1] + ("\\'" if m[2] else ""), path)
    return f"'{escaped}'"


def unquote(text: str) -> str:
    """A path as it was written on the command line, out of its quotes if it has any."""
    if text.startswith(("'", '"')):
        # What is not whole in its quotes has them in its name.
        with contextlib.suppress(HydraException):
            value = OverridesParser.create().parse_override(f"path={text}").value()
            if isinstance(value, str):
                return value
    return os.path.expanduser(text)


def _literal_path(text: str, paths: set[str], multirun: bool) -> str:
    """An override of a path with the path in quotes, so that spaces, accents and all do no harm.

    With ``-m`` commas go on to mean several values.
    """
    key, equals, value = text.partition("=")
    if key not in paths or not equals or value in ("", "null", "None"):
        return text
    if multirun and "," in value:
        return text
    return f"{key}={quote(unquote(value))}"


def _whole_numbers(
    composer: Composer, parsed: Sequence[Override], normalised: Sequence[str]
) -> tuple[list[Override], list[str]]:
    """Overrides of integers with 1e6 written out; all else as it is.

    What an option takes is read from the first choice of every group.
    """
    if not any(map(_has_whole_floats, parsed)):
        return list(parsed), list(normalised)
    choices = [
        text.split(",")[0]
        for override, text in zip(parsed, normalised, strict=True)
        if override.key_or_group in composer.groups
    ]
    try:
        base = composer.compose(choices)
    except (HydraException, OmegaConfBaseException):
        return list(parsed), list(normalised)  # which is said where the jobs are checked
    texts = [_written_out(base, *pair) for pair in zip(parsed, normalised, strict=True)]
    changed = zip(parsed, normalised, texts, strict=True)
    return [old if text == new else _parse(new) for old, text, new in changed], texts


def _written_out(base: DictConfig, override: Override, text: str) -> str:
    node: Any = base
    for part in override.key_or_group.split("."):
        node = node._get_node(part) if isinstance(node, DictConfig) and part in list(node) else None
    integers = isinstance(node, ListConfig) and node._metadata.element_type is int
    integers |= isinstance(node, UnionNode) and int in get_args(node._metadata.ref_type)
    if not (isinstance(node, IntegerNode) or integers) or not _has_whole_floats(override):
        return text
    written = ",".join(_whole(number) for number in _numbers(override))
    value = f"[{written}]" if isinstance(override.value(), list) else written
    return f"{override.key_or_group}={value}"


def _has_whole_floats(override: Override) -> bool:
    return any(isinstance(value, float) and value.is_integer() for value in _numbers(override))


def _numbers(override: Override) -> list[Any]:
    """The values of an override: of a list, of a sweep over choices, or the only one."""
    value = override.value()
    values = value.list if isinstance(value, ChoiceSweep) else value
    return values if isinstance(values, list) else [values]


def _whole(number: Any) -> str:
    whole = isinstance(number, float) and number.is_integer()
    return str(int(number)) if whole else _choice_text(number)


def _check_choice(composer: Composer, override: Override, multirun: bool) -> str:
    """Check a group override's choices; returns it with their accepted spelling."""
    group = override.key_or_group
    if override.is_delete():
        raise UsageError(f"{override.input_line}: {group} cannot be removed, only chosen")
    values = _sweep_values(override)
    if values is None:
        return f"{group}={composer.choose(group, _choice_text(override.value()))}"
    if not multirun:
        raise UsageError(f"{override.input_line}: several choices are a sweep; add -m")
    return f"{group}={','.join(composer.choose(group, value) for value in values)}"


def _check_keys(
    composer: Composer, parsed: Sequence[Override], normalised: Sequence[str], multirun: bool
) -> None:
    """Compose every value that a sweep takes (each once, the others at their first)."""
    options = [
        [text]
        if (values := _sweep_values(override)) is None
        else [
            f"{text.partition('=')[0]}={value}"
            for value in (
                text.partition("=")[2].split(",")
                if override.key_or_group in composer.groups
                else values
            )
        ]
        for override, text in zip(parsed, normalised, strict=True)
    ]
    first = [choices[0] for choices in options]
    jobs = [first] + [
        [*first[:i], other, *first[i + 1 :]]
        for i, choices in enumerate(options)
        for other in choices[1:]
    ]
    for job in jobs:
        _check_job(composer, parsed, job)
    for override in parsed:
        if _sweep_values(override) is not None and not multirun:
            raise UsageError(f"{override.input_line}: several values are a sweep; add -m")


def _check_job(composer: Composer, parsed: Sequence[Override], job: Sequence[str]) -> None:
    pairs = list(zip(parsed, job, strict=True))
    for override in parsed:
        _check_plugin(override)
    chosen = [text for override, text in pairs if override.key_or_group in composer.groups]
    try:
        base = composer.compose(chosen)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(composition_error(error)) from None
    values = [text for override, text in pairs if override.key_or_group not in composer.groups]
    for override in parsed:
        if override.key_or_group not in composer.groups:
            _check_key(base, override, composer.groups)
    try:
        config = composer.compose([*chosen, *values]) if values else base
    except (HydraException, OmegaConfBaseException):
        _name_the_wrong_one(composer, chosen, values)
        raise
    composer.build(config)


def _name_the_wrong_one(composer: Composer, chosen: list[str], values: list[str]) -> None:
    """UsageError for the first of the values that cannot be composed: one more at a time."""
    for i, value in enumerate(values):
        try:
            composer.compose([*chosen, *values[: i + 1]])
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(f"{value.lstrip('+')}: {composition_error(error)}") from None


def _check_key(base: DictConfig, override: Override, groups: Sequence[str]) -> None:
    """UsageError unless the key of a value override exists in the composed configuration."""
    key = override.key_or_group
    if key.split(".")[0] == "hydra" or key.startswith("hydra/"):
        return
    if override.is_delete() or (override.is_add() and not _is_free(key)):
        raise UsageError(f"{override.input_line}: keys cannot be added or removed, only set")
    node: Any = base
    parts = key.split(".")
    if parts[0] in groups and parts[1:] == ["name"]:
        raise UsageError(f"{override.input_line}: it is chosen by {parts[0]}=...")
    for depth, part in enumerate(parts):
        where = ".".join(parts[:depth])
        if _is_free(where):
            return
        if not isinstance(node, DictConfig):
            raise UsageError(f"unknown key {key}: {where} is a single value")
        # Not `in`, which denies a key whose value is still missing.
        if part not in list(node):
            raise UsageError(unknown_key(base, node, key, where, groups))
        node = node._get_node(part)
    if isinstance(node, DictConfig) and not _is_free(key):
        raise UsageError(f"{override.input_line}: {key} is a group of keys, not a value")


# What brings Hydra's own launchers and sweepers, by the choice: a module and an extra.
_PLUGINS = {
    "hydra/launcher=joblib": ("hydra_plugins.hydra_joblib_launcher", "joblib"),
    "hydra/launcher=submitit_local": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "hydra/launcher=submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "submitit"),
    "hydra/sweeper=optuna": ("hydra_plugins.hydra_optuna_sweeper", "optuna"),
}


def _check_plugin(override: Override) -> None:
    """UsageError for a plugin of Hydra that is not installed."""
    choice = f"{override.key_or_group}={override.value()}"
    module, extra = _PLUGINS.get(choice, ("", ""))
    if not module:
        return
    try:
        found = importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        found = False
    if not found:
        raise UsageError(f'{choice}: not installed: pip install "ssmrl[{extra}]"')


def _parse(text: str) -> Override:
    if "=" not in text and not text.startswith("~"):
        raise UsageError(f"{text}: settings are written key=value, e.g. memory=s5")
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UsageError(f"{text}: cannot be read ({first_line(error)})") from None


def _sweep_values(override: Override) -> list[str] | None:
    """What a sweep override ranges over, as text; None for a plain value."""
    if not override.is_sweep_override():
        return None
    value = override.value()
    if isinstance(value, IntervalSweep):
        # A sweeper draws from it; its ends stand for what is between them.
        return [_choice_text(value.start), _choice_text(value.end)]
    try:
        values = [_choice_text(v) for v in override.sweep_string_iterator()]
    except (HydraException, ValueError) as error:  # glob, and a range in steps of 0
        raise UsageError(f"{override.input_line}: {first_line(error)}") from None
    if not values:
        raise UsageError(f"{override.input_line}: a range with nothing in it")
    return values


def _choice_text(value: Any) -> str:
    return "null" if value is None else str(value)

"""Checks every override, so that a wrong one is answered before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ssmrl.training.cli.compose import Composer
from ssmrl.training.cli.messages import composition_error, first_line, unknown_key
from ssmrl.training.errors import UsageError


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
    texts = [_open_kwargs(a) for a in arguments if not a.startswith("-")]
    parsed = [_parse(text) for text in texts]
    normalised = [
        _check_choice(composer, override, multirun)
        if override.key_or_group in composer.groups
        else override.input_line or ""
        for override in parsed
    ]
    _check_keys(composer, parsed, normalised, multirun)
    return CommandLine(normalised, multirun, flags)


def _open_kwargs(text: str) -> str:
    # env.kwargs is a free mapping, where adding a key is the normal thing to do.
    return f"++{text}" if text.startswith("env.kwargs.") else text


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
    chosen = [text for override, text in pairs if override.key_or_group in composer.groups]
    try:
        base = composer.compose(chosen)
    except (HydraException, OmegaConfBaseException) as error:
        raise UsageError(composition_error(error)) from None
    values = [text for override, text in pairs if override.key_or_group not in composer.groups]
    for override in parsed:
        if override.key_or_group not in composer.groups:
            _check_key(base, override, composer.groups)
    for i in range(len(values)):
        # One more at a time, so that the message names the override that is wrong.
        try:
            config = composer.compose([*chosen, *values[: i + 1]])
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(f"{values[i].lstrip('+')}: {composition_error(error)}") from None
        base = config
    composer.build(base)


def _check_key(base: DictConfig, override: Override, groups: Sequence[str]) -> None:
    """UsageError unless the key of a value override exists in the composed configuration."""
    key = override.key_or_group
    if key.split(".")[0] == "hydra" or key.startswith("hydra/"):
        return
    if override.is_delete() or (override.is_add() and not key.startswith("env.kwargs.")):
        raise UsageError(f"{override.input_line}: keys cannot be added or removed, only set")
    node: Any = base
    parts = key.split(".")
    for depth, part in enumerate(parts):
        where = ".".join(parts[:depth])
        if where == "env.kwargs":
            return
        if not isinstance(node, DictConfig):
            raise UsageError(f"unknown key {key}: {where} is a single value")
        # Not `in`, which denies a key whose value is still missing.
        if part not in list(node):
            raise UsageError(unknown_key(base, node, key, where, groups))
        node = node._get_node(part)
    if isinstance(node, DictConfig) and key != "env.kwargs":
        raise UsageError(f"{override.input_line}: {key} is a group of keys, not a value")


def _parse(text: str) -> Override:
    if "=" not in text and not text.startswith("~"):
        raise UsageError(f"{text}: settings are written key=value, e.g. memory=s5")
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        detail = str(error).splitlines()
        raise UsageError(
            f"{text}: cannot be read ({detail[1] if len(detail) > 1 else detail[0]})"
        ) from None


def _sweep_values(override: Override) -> list[str] | None:
    """What a sweep override ranges over, as text; None for a plain value."""
    if not override.is_sweep_override():
        return None
    try:
        return [_choice_text(v) for v in override.sweep_string_iterator()]
    except (HydraException, TypeError, ValueError) as error:
        raise UsageError(f"{override.input_line}: {first_line(error)}") from None


def _choice_text(value: Any) -> str:
    return "null" if value is None else str(value)

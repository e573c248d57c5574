"""The text of ``--help``: the groups to choose from, and every key with its value now."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
import re
import textwrap
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf

from ssmrl.training.cli.check import check_arguments
from ssmrl.training.cli.compose import Composer
from ssmrl.training.config import EvaluateConfig


def help_text(composer: Composer, arguments: Sequence[str], usage: str) -> str:
    """The text of ``--help``, for the agent and memory that the other arguments choose."""
    chosen = [a for a in arguments if not a.startswith("-")]
    if composer.kind is EvaluateConfig:
        chosen.append("run=none")
    line = check_arguments(composer, ["-m", *chosen])
    picked = [o.split(",")[0] for o in line.overrides if o.partition("=")[0] in composer.groups]
    config = composer.compose(picked)
    own = "--import MODULE (or a .py file) brings environments, memories and agents of your own."
    own_lines = [own] if composer.groups else []
    parts = [usage, *own_lines, *(["", "Groups (group=option):"] if composer.groups else [])]
    for group in composer.groups:
        parts += _wrap_choices(group, composer.choices(group))
    parts += [
        "",
        "Keys (key=value), with their values now:",
        *_describe_keys("", config, composer.kind, composer.groups),
    ]
    for group in composer.groups:
        node = config.get(group)
        if isinstance(node, DictConfig):
            parts += ["", *_describe_keys(f"{group}.", node, OmegaConf.get_type(node))]
    return "\n".join(parts)


def _wrap_choices(group: str, names: Sequence[str]) -> list[str]:
    """Environments are told suite by suite, other groups in one paragraph."""
    lines = []
    for suite, members in itertools.groupby(names, lambda name: name.rpartition("/")[0]):
        text = ", ".join(name.removeprefix(f"{suite}/") for name in members)
        head = f"  {group}={suite}/" if suite else f"  {group}="
        lines += textwrap.wrap(text, 96, initial_indent=head, subsequent_indent="      ")
    if group == "env":
        lines.append("  env=gymnasium/<any gymnasium id>")
    return lines or [f"  {group}=(none yet)"]


def _describe_keys(
    prefix: str, config: DictConfig, kind: Any, groups: Sequence[str] = ()
) -> list[str]:
    """``key=value  help`` for every key of a node; groups have paragraphs of their own."""
    helps = field_helps(kind)
    rows = []
    for key in map(str, config):
        if key not in groups and not (prefix and key == "name"):
            head = f"  {f'{prefix}{key}={_show(config, key)}':<40} "
            rows += textwrap.wrap(head + helps.get(key, ""), 110, subsequent_indent=" " * 43)
    return rows


def field_helps(kind: Any) -> dict[str, str]:
    """A line for each field: its metadata's ``help``, or its entry under ``Attributes:``."""
    helps: dict[str, str] = {}
    for base in reversed(kind.__mro__ if isinstance(kind, type) else ()):
        # The entries of the docstring: "name, name: text", with deeper lines going on.
        _, _, attributes = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        entries = re.split(r"\n(?=    \S)", "\n" + attributes.partition("\n\n")[0])
        for entry in entries:
            names, colon, text = entry.strip().partition(":")
            if colon:
                helps |= dict.fromkeys(names.split(", "), " ".join(text.split()))
        if dataclasses.is_dataclass(base):
            fields = dataclasses.fields(base)
            helps |= {f.name: f.metadata["help"] for f in fields if "help" in f.metadata}
    return helps


def _show(config: DictConfig, key: str) -> str:
    """A value as one writes it on the command line."""
    if OmegaConf.is_missing(config, key):
        return "???"
    value = OmegaConf.to_container(config[key]) if OmegaConf.is_config(config[key]) else config[key]
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)

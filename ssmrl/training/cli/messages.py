"""What a wrong command line is answered with."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from ssmrl.training.errors import first_line


def near_match(name: str, known: Sequence[str]) -> str:
    """``; did you mean X?`` or nothing."""
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def unknown_key(
    base: DictConfig, node: DictConfig, key: str, where: str, groups: Sequence[str]
) -> str:
    """The message for a key that is not there: its near match here, or its namesake elsewhere.

    Args:
        base: the whole configuration.
        node: the part of it in which the key was looked for.
        key: as it was written.
        where: the path of `node`, empty for `base`.
        groups: of keys, whose members are searched for a namesake.
    """
    part = key.removeprefix(f"{where}.").split(".")[0]
    here = [str(k) for k in node if k != "hydra" and k != "name"]
    prefix = f"{where}." if where else ""
    hint = near_match(part, here)
    if hint:
        near = hint.removeprefix("; did you mean ").removesuffix("?")
        hint = f"; did you mean {prefix}{near}?"
    # A namesake in a group beats a lookalike here: `layers=2` means memory.layers.
    for group in groups:
        if not where and isinstance(base.get(group), DictConfig) and part in base[group]:
            hint = f"; did you mean {group}.{part}?"
    return f"unknown key {key}{hint}\n{where or 'top-level'} keys: {', '.join(here)}"


def composition_error(error: Exception) -> str:
    """The cause in a line: OmegaConf's reason, without its tail of internal names.

    Under a debugger OmegaConf keeps a cause of its own, whose message is still a template.
    """
    cause: BaseException = error
    while cause.__cause__ is not None and not isinstance(cause, OmegaConfBaseException):
        cause = cause.__cause__
    return first_line(cause)

"""How a command ends: what a user can act on becomes a line on stderr and an exit code.

Imports the standard library and the errors alone, so that it can say which package is missing.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass

from ssmrl.training.errors import RunError, UsageError

BROKEN_PIPE = 128 + signal.SIGPIPE
INTERRUPTED = 128 + signal.SIGINT

_EXTRAS = {
    "train": (
        *("optax", "distrax", "tensorflow_probability", "orbax", "flashbax", "hydra", "omegaconf"),
        *("yaml", "rich", "matplotlib", "PIL", "rliable", "pandas"),
    ),
    "gymnasium": ("gymnasium", "pygame"),
    "gymnax": ("gymnax",),
    "brax": ("brax", "mujoco"),
    "popgym": ("popgym", "mazelib"),
    "wandb": ("wandb",),
    "tensorboard": ("tensorboardX",),
}
"""Modules by the extra of this package that brings them."""


@dataclass(frozen=True)
class Outcome:
    """An exit code, and what was said where it is not 0."""

    code: int
    message: str = ""


def run_command(action: Callable[[], int]) -> int:
    """Run a command: errors a user can act on become a line on stderr and an exit code.

    2 for a wrong command line, 1 for a run that cannot start or go on, 75 for what a scheduler has
    stopped (`ssmrl.training.signals`), 130 for a Ctrl-C, 141 where whoever was reading has gone
    (`ssmrl diagnose | head`).
    """
    code = attempt(action).code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    return code


def attempt(action: Callable[[], int]) -> Outcome:
    """`run_command` for one job of several: says what went wrong, and returns it as well."""
    try:
        return Outcome(action())
    except UsageError as error:
        code, message = 2, str(error)
    except RunError as error:
        code, message = 1, str(error)
    except ModuleNotFoundError as error:
        advice = missing_package(error)
        if advice is None:
            raise
        code, message = 1, advice
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return Outcome(INTERRUPTED, "interrupted")
    except BrokenPipeError:
        _discard_output()
        return Outcome(BROKEN_PIPE, "its reader has gone")
    print(f"error: {message}", file=sys.stderr)
    return Outcome(code, message)


def say(text: str) -> None:
    """Print a line of progress; whoever was reading may have gone, which is no reason to stop."""
    with contextlib.suppress(BrokenPipeError):
        print(text, flush=True)


def missing_package(error: ModuleNotFoundError) -> str | None:
    """What to install for a module that is missing; None for one that no extra brings."""
    module = (error.name or "").partition(".")[0]
    for extra, modules in _EXTRAS.items():
        if module in modules:
            return f'this needs {module}, which is not installed: pip install "ssmrl[{extra}]"'
    return None


def _discard_output() -> None:
    """Python flushes stdout once more when it exits, and would complain there."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())

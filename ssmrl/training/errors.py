"""The errors a run ends with: each message is one line a user can act on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class RunError(Exception):
    """A run cannot start, continue or be loaded; the message says why and what to do."""


class CheckpointError(RunError):
    """A checkpoint cannot be written, or none that is whole can be read."""


class CheckpointMismatchError(CheckpointError):
    """A checkpoint is whole, but was written by an agent of another architecture."""


class NonFiniteError(RunError):
    """A metric became NaN or infinite."""


class UsageError(RunError, ValueError):
    """A setting is wrong; the message names what came, what exists and the near match."""


class StopTraining(Exception):
    """Raised by a callback of `ssmrl.train`: enough, keep what there is and return."""


@contextlib.contextmanager
def writing(what: object) -> Iterator[None]:
    """Make an error of the operating system one line: ``cannot write <what>: <the reason>``.

    Raises:
        RunError: in the place of an `OSError` within.
    """
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {what}: {error.strerror or error}") from error


def first_line(error: BaseException) -> str:
    """What an error says in its first line, or its name where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

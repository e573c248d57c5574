"""What went wrong while a run was under way, in a line."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator
from typing import Any

from ssmrl.training.errors import RunError, first_line
from ssmrl.training.run import RunFolder, write_atomically


@contextlib.contextmanager
def explained_failures(venv: Any, run: RunFolder | None = None) -> Iterator[None]:
    """Where a Python environment fails within a compiled program, say what it said itself.

    JAX raises what a callback raised as an error of its own, at the end of several tracebacks.

    Args:
        venv: the environments.
        run: under way; its folder gets the traceback. None: it has not begun.

    Raises:
        RunError: one line with the environment's message, its index and step, and where to go on.
    """
    try:
        yield
    except Exception as error:
        failure = getattr(venv, "failure", None)
        if failure is None or isinstance(error, RunError):
            raise
        if run is None:
            raise RunError(f"{failure}{_place(failure.__cause__)}") from error
        steps = run.checkpoint_steps()
        kept = (
            f"the last checkpoint is of step {steps[-1]:,}" if steps else "there is no checkpoint"
        )
        with contextlib.suppress(OSError):
            write_atomically(run.traceback, "".join(traceback.format_exception(failure)))
            kept += f"; the traceback is in {run.traceback}"
        raise RunError(f"{failure}; {kept}") from error


def _place(error: BaseException | None) -> str:
    """The line that raised an error, for where no traceback is kept."""
    frames = traceback.extract_tb(error.__traceback__) if error is not None else []
    if not frames:
        return ""
    return f", at {os.path.basename(frames[-1].filename)}:{frames[-1].lineno}: {frames[-1].line}"


def reason(error: Exception) -> str:
    """An error in a line, with its type unless it is one of ours, whose words suffice."""
    said = first_line(error)
    return said if isinstance(error, RunError) else f"{type(error).__name__}: {said}"

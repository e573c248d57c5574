"""The checkpoint of the best evaluation of a run, kept whatever comes after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ssmrl.training import hosts
from ssmrl.training.checkpoint import Checkpointer

EVALUATION_RETURN = "eval/return"


class BestCheckpoint:
    """One checkpoint in a folder of its own, where no newer one pushes it out.

    Which is the best is said by the mean return of the evaluation at its step, of several seeds by
    the mean over them. The old one is deleted when the new one is whole.

    Args:
        directory: where it lives; created.

    Raises:
        CheckpointError: the directory cannot be created or written.
    """

    def __init__(self, directory: Path):
        self._checkpoints = Checkpointer(directory, keep=1)
        self._value = -np.inf
        for step in self._checkpoints.steps():
            try:
                self._value = float(self._checkpoints.metadata(step)[EVALUATION_RETURN])
            except Exception:
                # Damaged: whatever comes is better.
                self._value = -np.inf

    def offer(self, step: int, state: Any, line: dict[str, Any]) -> None:
        """Start writing ``state`` if its evaluation is better than that of what is kept.

        Args:
            step: environment steps taken.
            state: any pytree of arrays.
            line: of metrics; one without a finite mean return is no better than anything.

        Raises:
            CheckpointError: this write could not start, or the one before it failed.
        """
        value = float(np.mean(np.asarray(line.get(EVALUATION_RETURN, np.nan), float)))
        better = bool(np.isfinite(value) and value > self._value)
        if not hosts.from_first(lambda: better):
            return
        # Steps that were taken once more after a crash, by a device that rounds otherwise.
        self._checkpoints.discard_after(step - 1)
        self._checkpoints.save(step, state, {EVALUATION_RETURN: value})
        self._value = value

    def wait(self) -> None:
        """Block until what was offered is on disk.

        Raises:
            CheckpointError: it could not be written.
        """
        self._checkpoints.wait()

    def close(self) -> None:
        """Finish the writing under way; call it on every way out.

        Raises:
            CheckpointError: the last write failed.
        """
        self._checkpoints.close()

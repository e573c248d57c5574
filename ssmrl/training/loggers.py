"""Where metrics go besides metrics.jsonl. The only module that imports wandb and tensorboardX."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from ssmrl.training.config import LoggerConfig, TensorboardConfig, WandbConfig
from ssmrl.training.errors import RunError, first_line, writing
from ssmrl.training.run import write_atomically


@runtime_checkable
class Logger(Protocol):
    """Receives every line of metrics."""

    def log(self, step: int, metrics: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class NullLogger:
    """No logging beyond the run's folder."""

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        del step, metrics

    def close(self) -> None:
        pass


class WandbLogger:
    """Weights & Biases, its files kept inside the run's folder.

    The run's id there is drawn once and kept in the folder, so that a resumed run goes on in the
    same wandb run, and a folder of the same name elsewhere does not.
    """

    def __init__(self, config: WandbConfig, run_path: Path, run_config: dict[str, Any]):
        check_logger(config)
        import wandb

        try:
            self._run = wandb.init(
                project=config.project,
                entity=config.entity,
                mode=wandb_mode(config),  # type: ignore[arg-type]
                tags=list(config.tags),
                name=run_path.name,
                id=_wandb_id(run_path),
                resume="allow" if wandb_mode(config) == "online" else None,
                dir=str(run_path),
                config=run_config,
            )
        except Exception as error:
            raise RunError(f"wandb does not start: {first_line(error)}") from error

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Numbers as they are; lists over seeds as their mean and one value for each seed."""
        self._run.log(_per_seed(metrics), step=step)

    def close(self) -> None:
        self._run.finish()


class CallbackLogger:
    """Another logger, and a function that is called with every line as well.

    Args:
        logger: the other one.
        callback: called with ``{"step": ..., **metrics}``, as metrics.jsonl has it, but with NaN
            where the file has null. It may raise `StopTraining`.
    """

    def __init__(self, logger: Logger, callback: Callable[[dict[str, Any]], Any]):
        self._logger, self._callback = logger, callback

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        self._logger.log(step, metrics)
        self._callback({"step": step, **metrics})

    def close(self) -> None:
        self._logger.close()


class TensorboardLogger:
    """TensorBoard's event files, in the folder ``tensorboard`` of the run."""

    def __init__(self, config: TensorboardConfig, run_path: Path):
        check_logger(config)
        self._path, self._writer = run_path / "tensorboard", None

    def log(self, step: int, metrics: dict[str, Any]) -> None:
        """Numbers as they are; lists over seeds as their mean and one value for each seed."""
        if self._writer is None:
            from tensorboardX import SummaryWriter  # type: ignore[import-untyped]

            # A resumed run does the steps after its checkpoint again; theirs of before are dropped.
            self._writer = SummaryWriter(str(self._path), purge_step=step)
        for name, value in _per_seed(metrics).items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def _per_seed(metrics: dict[str, Any]) -> dict[str, float]:
    """Lists over seeds as their mean and, under ``name/seed0`` ..., one value for each seed."""
    flat: dict[str, float] = {}
    for name, value in metrics.items():
        if isinstance(value, list):
            # Only seeds with a number: in the others no episode has finished.
            numbers = {i: v for i, v in enumerate(value) if np.isfinite(v)}
            if numbers:
                flat[name] = float(np.mean(list(numbers.values())))
            flat |= {f"{name}/seed{i}": v for i, v in numbers.items()}
        else:
            flat[name] = value
    return flat


def wandb_mode(config: WandbConfig) -> str:
    """What the configuration says, else the environment variable, else ``offline``."""
    return config.mode or os.environ.get("WANDB_MODE") or "offline"


def _wandb_id(run_path: Path) -> str:
    """The id in the run's folder; drawn and written there the first time."""
    path = run_path / "wandb-id"
    if path.exists():
        return path.read_text().strip()
    # Runs from before ids were drawn go by their folder's name.
    name = run_path.name if (run_path / "wandb").is_dir() else uuid.uuid4().hex[:12]
    with writing(path):
        write_atomically(path, f"{name}\n")
    return name


def check_logger(config: LoggerConfig) -> None:
    """Raise RunError if the logger's package is not installed."""
    if isinstance(config, WandbConfig):
        try:
            import wandb  # noqa: F401
        except ImportError as error:
            raise RunError(
                'logger=wandb needs the wandb package: pip install "ssmrl[wandb]"'
            ) from error
    if isinstance(config, TensorboardConfig):
        try:
            import tensorboardX  # noqa: F401
        except ImportError as error:
            raise RunError(
                "logger=tensorboard needs the tensorboardX package: "
                'pip install "ssmrl[tensorboard]"'
            ) from error


def make_logger(config: LoggerConfig, run_path: Path, run_config: dict[str, Any]) -> Logger:
    """The logger a configuration names.

    Raises:
        RunError: its package is not installed, or it cannot start.
    """
    if isinstance(config, WandbConfig):
        return WandbLogger(config, run_path, run_config)
    if isinstance(config, TensorboardConfig):
        return TensorboardLogger(config, run_path)
    return NullLogger()

"""What the studies share: one training in a folder of its own, and rows that earlier calls left."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ssmrl.experiment import COMPONENTS, train
from ssmrl.training.cli import compose_training

ROOT = Path(__file__).parents[2]


def train_into(path: Path, overrides: list[str]) -> int:
    """Trains in the run folder `path`; what is finished is not repeated, what was stopped goes on.

    Returns:
        The exit code, 0 where the training came to its end. After any other the study should end
        with it: the same command then goes on from there.
    """
    places = [f"run_dir={path}", "resume=true"]
    config = compose_training([*overrides, *places], COMPONENTS, ROOT / "configs")
    return train(config, overrides=tuple(overrides)).exit_code


def earlier_rows(output: Path, settings: dict[str, Any]) -> Any:
    """The rows in the JSON `output` of an earlier call, if its settings were these; else None."""
    record = json.loads(output.read_text()) if output.exists() else {}
    if any(record.get(name) != value for name, value in settings.items()):
        return None
    return record.get("rows")


def with_earlier(
    output: Path, settings: dict[str, Any], rows: list[dict[str, Any]], key: Callable[[Any], Any]
) -> list[dict[str, Any]]:
    """The rows and, before them, those in `output` of the same settings that they do not replace.

    So one table can be made in several calls, a few memories at a time.

    Args:
        output: the JSON of an earlier call, which may be missing.
        settings: entries that must be equal there; of other settings nothing is kept.
        rows: the newest.
        key: what tells a row from another.
    """
    new = {key(row) for row in rows}
    earlier = earlier_rows(output, settings) or []
    return [row for row in earlier if key(row) not in new] + rows

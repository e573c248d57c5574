"""A trained agent as a small folder: what it has learned, without what only training needs.

Such a folder is a run's (config.yaml, eval.json) that has no checkpoint; in its place it has the
agent's parts (`ssmrl.training.agent.TransferableAgent`) as one compressed NumPy file. It is
evaluated, played and begun from (``init_from``) like a run. Going on with its training is not
possible: optimiser, environments and replay are not there.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import yaml

from ssmrl.training.agent import TransferableAgent
from ssmrl.training.errors import RunError, first_line
from ssmrl.training.run import CONFIG, RunFolder, read_evaluations, write_atomically

PARAMETERS = "parameters.npz"
_STEP = "step"


def is_exported(path: str | Path) -> bool:
    """Whether a folder holds an agent without its training."""
    return (Path(path) / PARAMETERS).is_file()


def export_agent(
    agent: Any, state: Any, step: int, record: dict[str, Any], seed: int, path: Path
) -> None:
    """Write an agent's folder, which must not exist.

    Args:
        agent: who has learned.
        state: its state, of one seed.
        step: environment steps it was trained for.
        record: of its run, as `RunFolder.record` has it.
        seed: which it was trained with.
        path: of the folder.

    Raises:
        RunError: it exists, the agent has no parts to hand over, or it needs modules of the user's.
    """
    if not isinstance(agent, TransferableAgent):
        raise RunError(f"agent={record['config']['agent']['name']} has no parts to hand over")
    own = [part for part in ("env", "memory") if record["config"][part]["name"].startswith("own.")]
    if record.get("imports") or own:
        what = record.get("imports") or own
        raise RunError(f"it needs what is not in the library: {', '.join(what)}")
    leaves: Any = {name: np.asarray(leaf) for name, leaf in _named(agent.parts(state))}
    try:
        path.mkdir(parents=True)
    except FileExistsError:
        raise RunError(f"{path} exists: remove it first") from None
    np.savez_compressed(path / PARAMETERS, **(leaves | {_STEP: np.int64(step)}))
    config: dict[str, Any] = record["config"] | {
        "seed": seed,
        "seeds": 1,
        "run_dir": None,
        "resume": False,
    }
    kept: dict[str, Any] = {
        "config": config,
        "overrides": record["overrides"],
        "imports": [],
        # What was typed names folders of the machine that it was typed on.
        "command": ["ssmrl", "train", *record["overrides"]],
        **{key: record[key] for key in ("created", "python", "versions", "git") if key in record},
    }
    write_atomically(path / CONFIG, yaml.safe_dump(kept, sort_keys=False))


def read_exported(run: RunFolder, like: dict[str, Any]) -> tuple[dict[str, Any], int]:
    """What the folder's agent had learned.

    Args:
        run: the folder.
        like: the parts of an agent made from its configuration, ShapeDtypeStructs.

    Returns:
        The parts, and the environment steps that were trained for.

    Raises:
        RunError: the file cannot be read, or is of another architecture.
    """
    path = run.path / PARAMETERS
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as content:
            arrays = dict(content)
        step = int(arrays.pop(_STEP))
    # NumPy raises whatever its zip files and headers do.
    except Exception as error:
        raise RunError(f"{path} cannot be read: {first_line(error)}") from error
    want = dict(_named(like))
    for name in dict.fromkeys([*want, *arrays]):
        there, here = (
            "absent" if name not in leaves else f"{leaves[name].dtype}{list(leaves[name].shape)}"
            for leaves in (arrays, want)
        )
        if there != here:
            raise RunError(
                f"{path} is of another architecture: {name} is {there} there and {here} here"
            )
    leaves = [jax.numpy.array(arrays[name]) for name in want]
    return jax.tree.unflatten(jax.tree.structure(like), leaves), step


def _named(parts: Any) -> list[tuple[str, Any]]:
    """Leaves and their paths, which are names in the file."""
    flat = jax.tree_util.tree_flatten_with_path(parts)[0]
    return [(jax.tree_util.keystr(path, simple=True, separator="/"), leaf) for path, leaf in flat]


def scores(path: Path) -> list[dict[str, Any]]:
    """The evaluations in a folder; none where there is no file."""
    return read_evaluations(RunFolder(path).evaluations)

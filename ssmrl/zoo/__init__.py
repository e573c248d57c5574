"""Trained agents that come with the package: ``ssmrl.load("zoo:popgym/repeat_previous_easy-s5")``.

Each is a small folder under ``agents/``: parameters, configuration, scores and the command that
made it (`ssmrl.training.exported`). `scripts/pack.py` puts a finished run there.
"""

from __future__ import annotations

import difflib
import json
import shutil
from pathlib import Path
from typing import Any

from ssmrl.training.errors import RunError, UsageError, writing

AGENTS = Path(__file__).parent / "agents"
PREFIX = "zoo:"
LIMIT = 20 * 2**20
"""Bytes that all agents together may take."""


def names() -> list[str]:
    """The agents that there are, e.g. ``popgym/repeat_previous_easy-s5``."""
    # One that is being packed has no scores yet.
    return sorted(path.parent.relative_to(AGENTS).as_posix() for path in AGENTS.rglob("eval.json"))


def unpack(name: str, root: str | Path = "runs/zoo") -> Path:
    """Copy an agent to where it can be evaluated and filmed, and return its folder.

    What is there of it already is kept: evaluations are added to, and videos stay.

    Args:
        name: one of `names`, with or without ``zoo:`` before it.
        root: the folder of such folders.

    Raises:
        UsageError: there is no such agent; the near match is named.
        RunError: it cannot be written there.
    """
    name = name.removeprefix(PREFIX)
    known = names()
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
        hint = f"; did you mean {PREFIX}{near[0]}?" if near else ""
        raise UsageError(f"{PREFIX}{name}: no such agent{hint}\navailable: {', '.join(known)}")
    target = Path(root) / name.replace("/", ".")
    with writing(f"to {target}"):
        target.mkdir(parents=True, exist_ok=True)
        for file in sorted((AGENTS / name).iterdir()):
            # An evaluation of one's own is not to be lost.
            if file.name != "eval.json" or not (target / file.name).exists():
                shutil.copyfile(file, target / file.name)
    return target


def resolve(path: str | Path) -> str | Path:
    """``zoo:<name>`` as the folder that it is unpacked to, and every other path as it is."""
    return unpack(path) if isinstance(path, str) and path.startswith(PREFIX) else path


def size(folder: Path = AGENTS) -> int:
    """Bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def pack(
    run: str | Path,
    name: str,
    *,
    seed_index: int = 0,
    step: int | None = None,
    episodes: int = 256,
    also: str | None = None,
    agents: Path = AGENTS,
) -> Path:
    """Put a finished run's agent into the zoo, and evaluate it there: greedily, on new episodes.

    Args:
        run: its folder.
        name: ``<suite>/<task>-<memory>``.
        seed_index: which of the run's seeds, from 0.
        step: the checkpoint of this step; None: the newest.
        episodes: of each evaluation.
        also: a second environment to evaluate it in, such as ``popgym_original/...``.
        agents: the zoo's folder.

    Returns:
        The agent's folder.

    Raises:
        UsageError: there is no such seed.
        RunError: the run cannot be read or packed, or the zoo would become too large; then nothing
            of it stays.
    """
    from ssmrl.experiment import COMPONENTS
    from ssmrl.training.exported import export_agent
    from ssmrl.training.loading import load_run
    from ssmrl.training.run import RunFolder

    loaded = load_run(run, COMPONENTS, step=step)
    seeds = loaded.config.seeds
    if not 0 <= seed_index < seeds:
        raise UsageError(f"seed_index={seed_index}: the run has seeds 0 to {seeds - 1}")
    path, record = agents / name, RunFolder(run).record()
    seed = loaded.config.seed + seed_index
    state = loaded.seed_state(seed_index)
    export_agent(loaded.agent, state, loaded.step, record, seed, path)
    try:
        for env in ("run", also) if also else ("run",):
            evaluate(name, env, episodes=episodes, agents=agents)
        if size(agents) > LIMIT:
            raise RunError(f"{name} has {size(path):,} bytes: the zoo would have {size(agents):,}")
    except BaseException:
        shutil.rmtree(path)
        raise
    return path


def evaluate(name: str, env: str, *, episodes: int = 256, agents: Path = AGENTS) -> None:
    """Add the greedy return on new episodes to an agent's scores.

    Args:
        name: one of `names`.
        env: where: an environment's name, or ``"run"``: the one that it was trained in.
        episodes: how many.
        agents: the zoo's folder.

    Raises:
        RunError: it cannot be evaluated there.
    """
    from ssmrl.experiment import COMPONENTS
    from ssmrl.training.config import EnvConfig, EvaluateConfig
    from ssmrl.training.run import RunFolder, read_evaluations, write_atomically
    from ssmrl.training.run_evaluation import evaluate_run

    config = EvaluateConfig(run=str(agents / name), episodes=episodes, env=EnvConfig(env))
    evaluate_run(config, COMPONENTS, name=f"{PREFIX}{name}")
    # A line for each evaluation: indented, returns by trial are three thousand lines.
    file = RunFolder(agents / name).evaluations
    lines = (json.dumps(record, separators=(",", ":")) for record in read_evaluations(file))
    write_atomically(file, "[" + ",\n".join(lines) + "]\n")


def table() -> list[dict[str, Any]]:
    """What is known of each agent, in the order of `names`.

    Under ``"original"`` is the evaluation in the package that its environment is a model of; None
    where there is none.
    """
    from ssmrl.training.exported import scores
    from ssmrl.training.run import RunFolder

    rows = []
    for name in names():
        record, evaluations = RunFolder(AGENTS / name).record(), scores(AGENTS / name)
        first, original = evaluations[0], [x for x in evaluations if "_original/" in x["env"]]
        rows.append(
            {
                "name": name,
                "env": record["config"]["env"]["name"],
                "agent": record["config"]["agent"]["name"],
                "memory": record["config"]["memory"]["name"],
                "step": first["step"],
                "mean": first["mean"],
                "interval": first["mean_interval"],
                "episodes": first["episodes"],
                "original": original[0] if original else None,
                "bytes": size(AGENTS / name),
                "command": " ".join(record["command"]),
            }
        )
    return rows

"""A configuration's agent and environments made, and a run's read back from its folder."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from omegaconf import OmegaConf

from ssmrl.training.agent import LeanAgent
from ssmrl.training.checkpoint import Checkpointer
from ssmrl.training.components import Components
from ssmrl.training.config import (
    LOGGER_CONFIGS,
    EnvConfig,
    LoggerConfig,
    TrainConfig,
    check_ranges,
    obscuring,
    structured,
)
from ssmrl.training.errors import CheckpointError, RunError, UsageError, first_line
from ssmrl.training.evaluation import one_seed
from ssmrl.training.exported import is_exported, read_exported
from ssmrl.training.fit import refusals
from ssmrl.training.loop import abstract_state
from ssmrl.training.run import RunFolder


def make_venv(components: Components, env: EnvConfig, num_envs: int) -> Any:
    """The batched environment a configuration names.

    Raises:
        UsageError: its package is missing or it refuses its options.
    """
    try:
        return components.make_vector(
            env.name,
            num_envs,
            previous_action=env.previous_action,
            previous_reward=env.previous_reward,
            first_flag=env.first_flag,
            **obscuring(env),
            **env.kwargs,
        )
    except (ValueError, TypeError, ImportError) as error:
        # ValueError and TypeError are how environments refuse options; see their own words.
        raise UsageError(f"env={env.name}: {_without_name(str(error), env.name)}") from error


def _without_name(text: str, name: str) -> str:
    """A fault of an environment, which names it, for a line that has named it already.

    Args:
        text: ``my/env, reset_env must return ...``, or ``...; raised by my/env, environment 0``.
        name: of the environment; ``own.`` before that of an object is the configuration's.
    """
    own = re.escape(name.removeprefix("own."))
    return re.sub(rf"(^|; raised by )(?:own\.)?{own}(?:, |: )", r"\1", text)


def build_agent(components: Components, config: TrainConfig) -> tuple[Any, Any]:
    """(agent, its training environment) for a configuration.

    Raises:
        UsageError: the parts do not fit together.
    """
    venv = make_venv(components, config.env, config.agent.num_envs)
    try:
        with refusals(agent=config.agent.name, memory=config.memory.name):
            agent = components.make_agent(
                config.agent,
                config.memory,
                venv,
                total_steps=config.total_steps,
                skip_nonfinite=config.nonfinite == "skip",
            )
    except UsageError:
        raise
    except ValueError as error:
        raise UsageError(f"agent={config.agent.name}: {error}") from error
    return agent, venv


@dataclass(frozen=True)
class LoadedRun:
    """A run read back from its folder.

    Attributes:
        run: the folder.
        config: as it was trained.
        agent: made anew from the configuration.
        state: of the newest whole checkpoint; leaves ``[seeds, ...]`` when ``config.seeds > 1``.
            It acts, and has None in the place of what only training needs.
        step: its environment steps, per seed.
        venv: the environments that the agent was made for.
    """

    run: RunFolder
    config: TrainConfig
    agent: Any
    state: Any
    step: int
    venv: Any

    def seed_state(self, index: int) -> Any:
        """The state of one seed, without the seeds axis."""
        return one_seed(self.state, index, self.config.seeds)


def load_run(
    path: str | Path,
    components: Components,
    *,
    step: int | str | None = None,
    whole: bool = False,
    warn: Any = None,
) -> LoadedRun:
    """Read a run back: its configuration, its agent, the newest whole checkpoint.

    What only training needs is neither read nor held against it: optimiser, environments, and a
    replay buffer that may be larger than all else.

    Args:
        path: the run's folder.
        components: where agents, memories and environments come from.
        step: this checkpoint rather than the newest; "best": that of the best evaluation.
        whole: read all of the state.
        warn: called with a line for each damaged checkpoint that was passed over.

    Raises:
        UsageError: a ``step`` in words that is not "best".
        RunError: it is not a run, or was written by another version's configuration.
        CheckpointError: it has no whole checkpoint, or one of another architecture.
    """
    run = RunFolder(path)
    config = config_from_dict(run.record()["config"], components, where=str(run.path))
    agent, venv = build_agent(components, config)
    like = abstract_state(agent, config.seed, config.seeds)
    if is_exported(run.path):
        learned, at = read_exported(run, agent.parts(like))
        if step not in (None, at):
            raise RunError(f"{run.path} is an agent without its training, of step {at} alone")
        state = agent.with_parts(like, learned)
        state = jax.tree.map(lambda leaf: leaf if isinstance(leaf, jax.Array) else None, state)
        return LoadedRun(run, config, agent, state, at, venv)
    if step == "best" and not run.best.is_dir():
        raise CheckpointError(f"{run.path} has no best checkpoint: train with keep_best=true")
    folder = run.best if step == "best" else run.checkpoints
    if isinstance(step, str) and step != "best":
        raise UsageError(f"step={step}: must be a whole number or best")
    number = None if isinstance(step, str) else step
    checkpoints = Checkpointer(folder, read_only=True)
    try:
        only = agent.for_acting if isinstance(agent, LeanAgent) and not whole else None
        state, at, _ = checkpoints.restore(like, step=number, only=only, warn=warn)
    finally:
        checkpoints.close()
    return LoadedRun(run, config, agent, state, at, venv)


def config_from_dict(values: dict[str, Any], components: Components, where: str) -> TrainConfig:
    """Rebuild the dataclasses from config.yaml's plain values.

    Raises:
        RunError: it names an agent, memory or key that this version does not have.
    """
    try:
        groups = {
            "agent": components.agent_config(values["agent"]["name"]),
            "memory": components.memory_config(values["memory"]["name"]),
            "env": EnvConfig,
            "logger": LOGGER_CONFIGS.get(values["logger"]["name"], LoggerConfig),
        }
        parts = {name: _typed(kind, values[name]) for name, kind in groups.items()}
        top = {k: v for k, v in values.items() if k not in groups}
        config = _typed(TrainConfig, {**top, **parts})
        check_ranges(config)
        return config
    except Exception as error:
        raise RunError(
            f"{where}: its configuration does not fit this version: {first_line(error)}"
        ) from error


def _typed(kind: Any, values: dict[str, Any]) -> Any:
    return OmegaConf.to_object(OmegaConf.merge(structured(kind), values))


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration dataclass as plain JSON values."""
    container = OmegaConf.to_container(OmegaConf.create(dataclasses.asdict(config)))
    assert isinstance(container, dict)
    return container  # type: ignore[return-value]

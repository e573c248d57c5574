"""The configuration of a run: dataclasses are the defaults and the documentation.

YAML files under ``configs/`` only override what is here. A field's metadata may carry ``help`` (one
line for ``--help``), ``min`` and ``above`` (inclusive and exclusive lower bounds), ``max`` (an
inclusive upper bound) and ``choices``; ``text`` is the one word that may stand for the number.
`check_ranges` enforces them, on every entry of a list, for agents and memories too.
``path=True`` marks text that the command line takes as it is written, spaces and all.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING, DictConfig, OmegaConf


def option(default: Any, help: str, **bounds: Any) -> Any:
    """A dataclass field with a default, one line of help and bounds.

    Args:
        default: the value; a list or dict is copied for every instance.
        help: one line for ``--help``.
        bounds: any of ``min``, ``above``, ``max``, ``choices``, ``text``, ``path``.
    """
    metadata = {"help": help, **bounds}
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class EnvConfig:
    """One environment, by the name the registry knows it by."""

    name: str = MISSING
    previous_action: bool = option(False, "append the previous action to the observation")
    previous_reward: bool = option(False, "append the previous reward to the observation")
    first_flag: bool = option(False, "append a flag that is 1 on an episode's first step")
    observe: Any = option(None, "see only positions, velocities, or these entries, e.g. [0,2]")
    observation_noise: float = option(
        0.0, "standard deviation of normal noise on observations, in their units", min=0
    )
    flicker: float = option(0.0, "probability that an observation is blank", min=0, max=1)
    observation_delay: int = option(0, "steps by which observations are delayed", min=0)
    action_delay: int = option(0, "steps until actions take effect", min=0)
    kwargs: dict[str, Any] = option({}, "further options of the environment's constructor")


def obscuring(env: EnvConfig) -> dict[str, Any]:
    """Of the options that leave less to know (`ssmrl.envs.obscure`) those that were asked for."""
    names = ("observe", "observation_noise", "flicker", "observation_delay", "action_delay")
    default = EnvConfig()
    values = {name: getattr(env, name) for name in names}
    return {name: value for name, value in values.items() if value != getattr(default, name)}


@dataclass
class LoggerConfig:
    """Where metrics go besides ``metrics.jsonl``. ``none`` needs no account and no network."""

    name: str = "none"


@dataclass
class WandbConfig(LoggerConfig):
    """Weights & Biases. Offline unless asked: ``wandb sync`` uploads such a run later.

    A resumed run goes on in the wandb run that it began; offline it leaves one folder for each
    process, all of one id, which ``wandb sync`` puts together.
    """

    name: str = "wandb"
    project: str = option("ssmrl", "wandb project")
    entity: str | None = option(None, "wandb user or team; null is the account's default")
    mode: str | None = option(
        None,
        "offline needs no network, disabled writes nothing; null: WANDB_MODE, or else offline",
        choices=("offline", "online", "disabled"),
    )
    tags: list[str] = option([], "wandb tags")


@dataclass
class TensorboardConfig(LoggerConfig):
    """TensorBoard's event files in the run's folder: ``tensorboard --logdir runs``."""

    name: str = "tensorboard"


LOGGER_CONFIGS = {"wandb": WandbConfig, "tensorboard": TensorboardConfig}
"""Loggers that have options of their own, by name."""


@dataclass
class TrainConfig:
    """A training run. Steps are environment steps, per seed."""

    total_steps: int = option(300_000, "environment steps to train for, per seed", min=1)
    seed: int = option(0, "first random seed", min=0, max=2**31 - 1)
    seeds: int = option(1, "how many seeds, trained in one program: seed, seed+1, ...", min=1)
    checkpoint_every: int = option(100_000, "steps between checkpoints; 0: only at the end", min=0)
    eval_every: int = option(0, "steps between evaluations; 0: never", min=0)
    eval_episodes: int = option(64, "episodes in each evaluation", min=1)
    eval_max_steps: int | None = option(
        None,
        "steps after which an evaluation cuts an episode; null: ten times the longest known, "
        "at least 10,000",
        min=1,
    )
    keep_checkpoints: int = option(2, "how many of the newest checkpoints are kept", min=1)
    keep_best: bool = option(
        False, "also keep the checkpoint with the best mean eval/return, for evaluate.py step=best"
    )
    resume: bool | str = option(
        False,
        "true: continue the newest matching run, or the one in run_dir; auto: the same, or begin "
        "one if there is none, even beside runs with other settings",
        choices=(False, True, "auto"),
    )
    init_from: str | None = option(
        None, "begin with the parameters of this run, runs/<id>", path=True
    )
    init_parts: list[str] = option([], "which parts of init_from to take, e.g. [memory]; []: all")
    run_dir: str | None = option(
        None, "the run's folder; default runs/<date>-<agent>-<memory>-<env>", path=True
    )
    devices: int | str = option(
        1, "devices to spread the run over: how many, or all", min=1, text="all"
    )
    sweep_metric: str = option(
        "training_return",
        "what a sweep (-m) compares jobs by: a key of metrics.jsonl, averaged over the last tenth",
    )
    nonfinite: str = option(
        "stop", "at a NaN or infinite loss: stop, or skip the update", choices=("stop", "skip")
    )
    agent: Any = MISSING
    memory: Any = MISSING
    env: Any = MISSING
    logger: Any = MISSING


@dataclass
class EvaluateConfig:
    """An evaluation of a finished or running training run."""

    run: str = option(MISSING, "the run's folder, e.g. runs/<id>", path=True)
    step: int | str | None = option(
        None,
        "the step whose checkpoint to play; best: that of keep_best; null: the newest",
        min=0,
        text="best",
    )
    episodes: int = option(256, "episodes to play; rounded up to a multiple of num_envs", min=1)
    num_envs: int = option(64, "environments stepped side by side", min=1)
    max_steps: int | None = option(
        None,
        "steps after which an episode is cut; null: ten times the longest known, at least 10,000",
        min=1,
    )
    seed: int = option(0, "random seed of environments and actions", min=0, max=2**31 - 1)
    greedy: bool = option(True, "take the most likely action instead of sampling one")
    controls: bool = option(
        True,
        "in an environment with trials, also play without memory of earlier trials, and at random",
    )
    forget_every: list[int] = option(
        [],
        "also play with the memory reset every so many steps, e.g. [50,10]: what the return loses "
        "was earned by remembering longer",
        min=1,
    )
    video: bool = option(False, "record one episode as a GIF (or as text) under video/")
    video_context: int = option(
        16, "observations that a world model sees in its video before it imagines the rest", min=1
    )
    env: Any = MISSING


@dataclass
class BenchmarkConfig:
    """A suite of environments with several memories."""

    suite: str = option(
        "popgym", "the environments to train on: all whose names begin with this and a slash"
    )
    ids: list[str] = option([], "only these: ids, families or difficulties, e.g. [easy]; []: all")
    memory: list[str] = option(["s5", "gru", "none"], "the memories to compare")
    agent: str = option("ppo", "the agent around them")
    seeds: int = option(3, "seeds of every run", min=1)
    steps: int = option(1_000_000, "environment steps of every run, per seed", min=1)
    experiment: str = option("popgym", "shared settings: an experiment, as in `ssmrl train`")
    overrides: list[str] = option([], "further settings of every run, as in `ssmrl train`")
    parallel: int = option(
        1, "how many runs at a time, each on a core of its own if there are several", min=1
    )
    run_dir: str | None = option(
        None,
        "folder of the runs, for continuing a benchmark, too; default runs/benchmark/<suite>",
        path=True,
    )
    out: str | None = option(
        None,
        "folder of the results, a small file for each run; default <run_dir>/results. To include "
        "results of other machines, name their folder, e.g. benchmarks/results/popgym",
        path=True,
    )
    published: str | None = option(
        "popgym_gru.json",
        "published MMER to print beside ours: a file in benchmarks/published/, or a path",
        path=True,
    )
    report_only: bool = option(False, "train nothing: print and draw existing results")


@dataclass
class ChaosConfig:
    """How a training is killed; the settings of the training come in addition."""

    kills: int = option(20, "how often the training's process is killed", min=1)
    kill_seed: int = option(0, "random seed of the moments of the kills", min=0)
    chaos_dir: str = option("runs/chaos", "an empty or new folder for its runs", path=True)


@dataclass
class DiagnoseConfig:
    """A look at an untrained memory and at what it learns in a minute."""

    steps: int = option(400, "updates of training on each task", min=1)
    seed: int = option(0, "random seed of parameters and data", min=0, max=2**31 - 1)
    out: str | None = option(
        None, "picture to write; default runs/diagnose-<memory>.png", path=True
    )
    memory: Any = MISSING


def structured(kind: type) -> DictConfig:
    """A dataclass as an OmegaConf node whose values can be overridden.

    OmegaConf makes a frozen dataclass a read-only node, which would refuse the command line. What
    `OmegaConf.to_object` builds in the end is the frozen dataclass again.
    """
    node = OmegaConf.structured(kind)
    OmegaConf.set_readonly(node, False)
    return node


def check_ranges(config: Any, prefix: str = "") -> None:
    """Check every field of a dataclass, nested ones too, against its metadata's bounds.

    Raises:
        ValueError: naming the field, the value that came and the values allowed.
    """
    for f in dataclasses.fields(config):
        value, name = getattr(config, f.name), f"{prefix}{f.name}"
        if dataclasses.is_dataclass(value):
            check_ranges(value, f"{name}.")
        elif isinstance(value, (list, tuple)):
            for entry in value:
                _check_bounds(name, entry, f.metadata)
        elif value is not None and value != MISSING:
            _check_bounds(name, value, f.metadata)


def _check_bounds(name: str, value: Any, metadata: Any) -> None:
    if "choices" in metadata and value not in metadata["choices"]:
        known = ", ".join(str(c).lower() if isinstance(c, bool) else c for c in metadata["choices"])
        raise ValueError(f"{name}={value}: must be one of {known}")
    if "text" in metadata and isinstance(value, str):
        if value == metadata["text"]:
            return
        raise ValueError(f"{name}={value}: must be a whole number or {metadata['text']}")
    if "min" in metadata and not value >= metadata["min"]:
        raise ValueError(f"{name}={value}: must be at least {metadata['min']}")
    if "above" in metadata and not value > metadata["above"]:
        raise ValueError(f"{name}={value}: must be greater than {metadata['above']}")
    if "max" in metadata and not value <= metadata["max"]:
        raise ValueError(f"{name}={value}: must be at most {metadata['max']}")

"""The library from Python: train, load, look, act. `import ssmrl` offers these names.

Settings are handed on as the command line's overrides, so that both know the same ones, check them
in the same way, answer in the same words, and either can take up a run of the other's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ssmrl.experiment import COMPONENTS, CONFIGS
from ssmrl.training import hosts
from ssmrl.training.components import Components
from ssmrl.training.config import EnvConfig, EvaluateConfig
from ssmrl.training.errors import RunError, StopTraining, UsageError
from ssmrl.training.imports import import_modules, import_recorded
from ssmrl.training.progress import SilentReporter
from ssmrl.training.run import RunFolder, read_metrics
from ssmrl.zoo import resolve

__all__ = ["Picture", "Run", "RunError", "StopTraining", "UsageError", "load", "train"]

OWN = "own."
"""Begins the names of environments and memories that came as objects."""

Callback = Callable[[dict[str, Any]], Any]


def train(
    *,
    agent: str | None = None,
    memory: Any = None,
    env: Any = None,
    experiment: str | None = None,
    logger: str | None = None,
    agent_options: Mapping[str, Any] | None = None,
    memory_options: Mapping[str, Any] | None = None,
    env_options: Mapping[str, Any] | None = None,
    logger_options: Mapping[str, Any] | None = None,
    imports: Sequence[str] = (),
    callback: Callback | None = None,
    progress: bool = True,
    **settings: Any,
) -> Run:
    """Train an agent, as `ssmrl train` does.

    Ctrl-C, SIGTERM and SIGUSR1 stop the training after the current iteration, with a checkpoint,
    and are then raised again: Ctrl-C as a `KeyboardInterrupt`. `load` then has the run.

    Args:
        agent: ``"ppo"``, ``"dreamer"``, ... ; `ssmrl.list_agents()`.
        memory: a name (`ssmrl.list_memories()`); a subclass of `ssmrl.memory.Memory`, or an
            instance, which is used as it is.
        env: a name (`ssmrl.list_envs()`, or ``"gymnasium/<id>"``); or an environment object, see
            `ssmrl.envs.objects.from_object`: ours, gymnax's, brax's, gymnasium's, or a function
            that makes one.
        experiment: the name of a file in configs/experiment, whose settings the others override.
        logger: ``"none"``, ``"console"``, ``"wandb"``, ...
        agent_options, memory_options, logger_options: what the command line calls ``agent.lr`` and
            so on, without the prefix.
        env_options: likewise: ``previous_action``, ``previous_reward``, ``first_flag`` and what
            `ssmrl.envs.obscure` takes; all others are the environment's own (``env.kwargs``).
        imports: modules or .py files to import first, and to record in the run (``--import``).
        callback: called with every line of metrics as it is written: a dict of ``step`` and
            numbers, lists of numbers with several seeds. What it returns is ignored. If it raises
            `ssmrl.StopTraining`, the iteration under way is finished, a checkpoint written, and
            the run returned; any other exception ends the training and passes through.
        progress: show progress: a panel on a terminal or in a notebook, lines elsewhere.
        **settings: ``total_steps``, ``seed``, ``seeds``, ``run_dir``, ``resume``,
            ``checkpoint_every``, ``eval_every``, ... : the fields of
            `ssmrl.training.config.TrainConfig`.

    Raises:
        UsageError: (a `ValueError`) a setting does not exist (the message names a near match), or
            its value is not allowed.
        RunError: the run cannot start or go on; the message is one line that says why.
    """
    from ssmrl.training.cli import compose_training
    from ssmrl.training.run_training import run_training

    hosts.join()
    recorded = import_modules(imports, option="imports:")
    components = _components(env=env, memory=memory)
    names = {"experiment": experiment, "agent": agent, "memory": _name_of(memory)}
    names |= {"env": _name_of(env), "logger": logger}
    options = {"agent": agent_options, "memory": memory_options, "logger": logger_options}
    # Where, and whether to resume, is no part of what is recorded.
    places: dict[str, Any] = {k: settings.pop(k) for k in ("run_dir", "resume") if k in settings}
    overrides = [
        *(f"{group}={_name(group, name)}" for group, name in names.items() if name),
        *(line for group, own in options.items() for line in _overrides(own or {}, f"{group}.")),
        *_env_overrides(env_options or {}),
        *_overrides(settings),
    ]
    with _own_hydra():
        config = compose_training([*overrides, *_overrides(places)], components, CONFIGS)
    with hosts.together():
        outcome = run_training(
            config,
            components,
            overrides=tuple(overrides),
            imports=recorded,
            reporter=None if progress else SilentReporter(),
            callback=callback,
        )
    return _finished(outcome, components)


def load(path: str | Path, *, env: Any = None, memory: Any = None) -> Run:
    """A run from its folder, finished or still training.

    Args:
        path: ``runs/<id>``; or ``zoo:<name>``, one of `ssmrl.zoo.names`, which is copied to
            runs/zoo first.
        env, memory: the objects that it was trained with, if it was trained with objects.

    Raises:
        RunError: it is not a run, or an object is missing.
        UsageError: there is no such agent in the zoo.
    """
    folder = RunFolder(resolve(path))
    record = folder.record()
    import_recorded(record, folder.path)
    names = {group: record["config"][group]["name"] for group in ("env", "memory")}
    for group, obj in (("env", env), ("memory", memory)):
        name = names[group]
        if name.startswith(OWN) and obj is None:
            raise RunError(
                f"{folder.path} was trained with an object of a Python program, {group}={name}: "
                f"hand it over, ssmrl.load({str(path)!r}, {group}=...)"
            )
        if obj is not None and not name.startswith(OWN):
            raise RunError(f"{folder.path} was trained with {group}={name}: leave {group}= out")
    return Run(folder.path, _components(env=env, memory=memory, names=names))


class Run:
    """A training run: its metrics, its policy, and how good it is. Made by `train` and `load`."""

    def __init__(self, path: Path, components: Components):
        self.path = Path(path)
        self._components = components

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @property
    def config(self) -> dict[str, Any]:
        """What it was trained with, as config.yaml has it."""
        return RunFolder(self.path).record()["config"]

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """Columns of metrics.jsonl as it is now: ``step`` int64 ``[L]``, all others float64.

        ``[L]``, or ``[L, seeds]`` for what every seed has of its own; NaN where a line has none.
        """
        lines = read_metrics(RunFolder(self.path).metrics)
        names = dict.fromkeys(name for line in lines for name in line)
        columns = {name: _column([line.get(name) for line in lines]) for name in names}
        return columns | {"step": np.array([line["step"] for line in lines], np.int64)}

    def evaluate(
        self,
        episodes: int = 64,
        *,
        env: Any = None,
        env_options: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Play whole episodes with the newest checkpoint, and add the record to eval.json.

        Args:
            episodes: for each seed of the run; rounded up to a multiple of ``num_envs``.
            env: another environment of the same spaces, by name or as an object; None: the run's.
            env_options: as in `train`.
            **options: ``greedy``, ``seed``, ``num_envs``, ``video``, ... : the fields of
                `ssmrl.training.config.EvaluateConfig`.

        Returns:
            ``mean``, ``iqm``, their intervals, ``median``, ``min``, ``max``, ``length``, ...

        Raises:
            UsageError: an unknown option, or an environment that does not fit.
            RunError: there is no checkpoint that can be read.
        """
        from ssmrl.training.run_evaluation import evaluate_run

        components, name = self._components, "run"
        if isinstance(env, str):
            name = components.canonical_name(env)
        elif env is not None:
            name = _own_name(env)
            name += "-2" if name == self.config["env"]["name"] else ""
            components = _components(env=env, names={"env": name}, base=components)
        _check_names(options, EvaluateConfig, without=("run", "env", "episodes"))
        config = EvaluateConfig(
            run=str(self.path), episodes=episodes, env=_env_config(name, env_options), **options
        )
        return evaluate_run(config, components)

    def policy(
        self,
        *,
        num_envs: int = 1,
        greedy: bool = True,
        seed: int = 0,
        seed_index: int = 0,
        step: int | str | None = None,
    ) -> Any:
        """The policy as a function of observations; see `ssmrl.Policy`.

        Args:
            num_envs, greedy, seed: of `ssmrl.Policy`.
            seed_index: which of the run's seeds, from 0.
            step: the checkpoint of this step; "best": that of ``keep_best``; None: the newest.

        Raises:
            UsageError: there is no such seed.
            RunError: there is no checkpoint that can be read.
        """
        from ssmrl.policy import Policy
        from ssmrl.training.loading import load_run

        seeds = self.config["seeds"]
        if not 0 <= seed_index < seeds:
            raise UsageError(f"seed_index={seed_index}: the run has seeds 0 to {seeds - 1}")
        loaded = load_run(self.path, self._components, step=step)
        state = loaded.seed_state(seed_index)
        return Policy(loaded.agent, state, loaded.venv, num_envs=num_envs, greedy=greedy, seed=seed)

    def resume(
        self,
        *,
        total_steps: int | None = None,
        callback: Callback | None = None,
        progress: bool = True,
    ) -> Run:
        """Continue training from the newest checkpoint, with the same settings.

        Args:
            total_steps: environment steps in all, those before included; None: as many as the run
                was started with.
            callback, progress: as in `train`.

        Raises:
            RunError: as in `train`.
        """
        from ssmrl.training.loading import config_from_dict
        from ssmrl.training.run_training import run_training

        config = config_from_dict(self.config, self._components, where=str(self.path))
        steps = config.total_steps if total_steps is None else total_steps
        config = dataclasses.replace(config, total_steps=steps, resume=True, run_dir=str(self.path))
        reporter = None if progress else SilentReporter()
        hosts.join()
        with hosts.together():
            outcome = run_training(config, self._components, reporter=reporter, callback=callback)
        return _finished(outcome, self._components)

    def plot(self, metric: str = "training_return", path: str | Path | None = None) -> Picture:
        """Draw a column of the metrics over the steps, the mean of its seeds with an interval.

        Args:
            metric: its name in `metrics`.
            path: of the picture; None: curve.png in the run's folder.

        Raises:
            RunError: there is no such metric yet, or the picture cannot be written.
        """
        from ssmrl.training.plotting import group_runs, plot_curves

        target = Path(path) if path is not None else RunFolder(self.path).curve
        groups = group_runs([self.path], metric)
        return Picture(plot_curves(groups, target, ylabel=metric.replace("_", " ")))


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture file, which a notebook shows."""

    path: Path

    def _repr_png_(self) -> bytes:
        return self.path.read_bytes()


# ---------------------------------------------------------------------------------- components


def _own_name(obj: Any) -> str:
    """What config.yaml calls an object: ``own.<its class>``."""
    from ssmrl.envs.objects import object_name

    return f"{OWN}{object_name(obj)}"


def _name_of(choice: Any) -> str | None:
    """A choice as a configuration names it: a name itself, an object by its own."""
    return choice if choice is None or isinstance(choice, str) else _own_name(choice)


def _components(
    env: Any = None,
    memory: Any = None,
    names: Mapping[str, str] | None = None,
    base: Components = COMPONENTS,
) -> Components:
    """The registries, and the objects that are in none under names of their own.

    Args:
        env, memory: objects; names and None are for the registries.
        names: of the objects, by group, where a run has named them already.
        base: the registries.
    """
    changes: dict[str, Any] = {}
    if env is not None and not isinstance(env, str):
        own_env = (names or {}).get("env") or _own_name(env)

        def canonical_name(name: str) -> str:
            return name if name == own_env else base.canonical_name(name)

        def make_vector(name: Any, num_envs: int, **options: Any) -> Any:
            return base.make_vector(env if name == own_env else name, num_envs, **options)

        changes |= {"canonical_name": canonical_name, "make_vector": make_vector}
    if memory is not None and not isinstance(memory, str):
        from ssmrl.memory import own_memory_config

        own_memory = (names or {}).get("memory") or _own_name(memory)
        try:
            config = own_memory_config(own_memory, memory)
        except TypeError as error:
            raise UsageError(f"memory: {error}") from None
        changes |= {
            "list_memories": lambda: [*base.list_memories(), own_memory],
            "memory_config": lambda n: config if n == own_memory else base.memory_config(n),
        }
    return dataclasses.replace(base, **changes)


# ------------------------------------------------------------------------------------ settings

_FLAGS = tuple(f.name for f in dataclasses.fields(EnvConfig) if f.name not in ("name", "kwargs"))


def _overrides(options: Mapping[str, Any], prefix: str = "") -> list[str]:
    return [f"{prefix}{key}={_text(value)}" for key, value in options.items()]


def _env_overrides(options: Mapping[str, Any]) -> list[str]:
    return [
        f"env.{key}={_text(value)}" if key in _FLAGS else f"env.kwargs.{key}={_text(value)}"
        for key, value in options.items()
    ]


def _env_config(name: str, options: Mapping[str, Any] | None) -> EnvConfig:
    options = dict(options or {})
    flags = {key: options.pop(key) for key in _FLAGS if key in options}
    return EnvConfig(name=name, kwargs=options, **flags)


def _name(group: str, choice: Any) -> str:
    if not isinstance(choice, str):
        raise UsageError(f"{group}={choice!r}: expected a name")
    return choice


def _text(value: Any) -> str:
    """A value as Hydra's grammar has it.

    Raises:
        UsageError: a value that a configuration cannot hold.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, Path)):
        from hydra.core.override_parser.types import Quote, QuotedString

        return QuotedString(str(value), Quote.single).with_quotes()
    if isinstance(value, (list, tuple)):
        return f"[{','.join(map(_text, value))}]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    raise UsageError(f"{value!r} is not a setting: expected numbers, texts, lists or dicts of them")


def _check_names(options: Mapping[str, Any], kind: type, without: Sequence[str]) -> None:
    known = [f.name for f in dataclasses.fields(kind) if f.name not in without]
    for name in options:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"unknown option {name}{hint} (options: {', '.join(known)})")


@contextlib.contextmanager
def _own_hydra() -> Iterator[None]:
    """Hydra's global state for us alone: the caller may be a Hydra application."""
    from hydra.core.singleton import Singleton

    before = Singleton.get_state()
    try:
        yield
    finally:
        Singleton.set_state(before)


# ---------------------------------------------------------------------------------------- runs


def _finished(outcome: Any, components: Components) -> Run:
    """The run; a signal that stopped it is passed on, now that everything is kept."""
    if outcome.result.stopped_by is not None:
        signal.raise_signal(outcome.result.stopped_by)
    return Run(outcome.run.path, components)


def _column(values: Sequence[Any]) -> np.ndarray:
    """Numbers, lists of numbers over seeds, and None, as float64 ``[L]`` or ``[L, seeds]``."""
    seeds = max((len(v) for v in values if isinstance(v, list)), default=0)
    column = np.full((len(values), seeds) if seeds else len(values), np.nan)
    for i, value in enumerate(values):
        if value is not None:
            column[i] = np.array(value, float)
    return column

"""The command line: ``key=value`` overrides composed by Hydra, checked before anything runs.

Hydra composes, sweeps (``-m``) and launches. What it says to a typing error is a page about search
paths, so every override is checked here first, and a wrong one is answered with what came, what
exists and the near match: exit code 2, no traceback.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import inspect
import itertools
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from ssmrl.training.components import Components
from ssmrl.training.config import (
    BenchmarkConfig,
    DiagnoseConfig,
    EnvConfig,
    EvaluateConfig,
    LoggerConfig,
    TrainConfig,
    WandbConfig,
    check_ranges,
    structured,
)
from ssmrl.training.errors import UsageError

GROUPS = ("agent", "memory", "env", "logger", "experiment")
LOGGERS = {"none": LoggerConfig, "console": lambda: LoggerConfig("console"), "wandb": WandbConfig}


@dataclasses.dataclass(frozen=True)
class CommandLine:
    """A checked command line.

    Attributes:
        overrides: to hand to Hydra, in the order given.
        multirun: whether ``-m`` was given.
        hydra_flags: Hydra's own options, handed through.
    """

    overrides: list[str]
    multirun: bool
    hydra_flags: list[str]


class Composer:
    """Registers the schemas with Hydra and turns overrides into configuration objects.

    Args:
        components: the registries to choose from.
        config_dir: the folder of YAML files.
        config_name: ``train`` or ``evaluate``: the primary YAML file there.
        kind: its dataclass.
    """

    def __init__(self, components: Components, config_dir: Path, config_name: str, kind: type):
        self.components, self.config_dir = components, config_dir.resolve()
        self.config_name, self.kind = config_name, kind
        self.groups = [group for group in GROUPS if self._in_defaults(group)]
        store = ConfigStore.instance()
        store.store(name=f"{config_name}_schema", node=kind)
        for name, make in LOGGERS.items():
            self._store("logger", name, make())
        self._store("env", "base_env", EnvConfig())
        if config_name == "evaluate":
            self._store("env", "run", EnvConfig(name="run"))
        for group, list_names, config_of in (
            ("agent", components.list_agents, components.agent_config),
            ("memory", components.list_memories, components.memory_config),
        ):
            if group not in self.groups:
                continue
            for name in list_names():
                node = structured(config_of(name))
                # A YAML file of the same name hides the stored node, and builds on this one:
                #   defaults: [base_<name>, _self_]
                store.store(group=group, name=f"base_{name}", node=node)
                self._store(group, name, node)

        self._register_named_environments()

    def _in_defaults(self, group: str) -> bool:
        return any(key == group for key, _ in self._defaults(f"{self.config_name}.yaml"))

    def _defaults(self, path: str | Path) -> list[tuple[str, Any]]:
        """(group, choice) of every entry in a YAML file's defaults list."""
        content = yaml.safe_load((self.config_dir / path).read_text()) or {}
        entries = [entry for entry in content.get("defaults", []) if isinstance(entry, dict)]
        return [(key.split()[-1].lstrip("/"), value) for e in entries for key, value in e.items()]

    def _register_named_environments(self) -> None:
        """Environments have no YAML file: give Hydra those that YAML files choose."""
        experiments = [f"experiment/{name}.yaml" for name in self.yaml_choices("experiment")]
        for path in [f"{self.config_name}.yaml", *experiments]:
            for group, choice in self._defaults(path):
                if group == "env":
                    self.choose("env", str(choice))

    def _store(self, group: str, name: str, node: Any) -> None:
        if not (self.config_dir / group / f"{name}.yaml").exists():
            folder, _, last = f"{group}/{name}".rpartition("/")
            # The package is the group itself, however deep the name: env/popgym/x is `env`.
            ConfigStore.instance().store(group=folder, name=last, node=node, package=group)

    def yaml_choices(self, group: str) -> list[str]:
        """Names of the YAML files of a group."""
        folder = self.config_dir / group
        names = [path.relative_to(folder).with_suffix("") for path in folder.rglob("*.yaml")]
        return sorted(name.as_posix() for name in names)

    def choices(self, group: str) -> list[str]:
        """Everything ``group=`` may be, sorted; for ``env`` the registered ones."""
        registered: Sequence[str] = {
            "agent": self.components.list_agents,
            "memory": self.components.list_memories,
            "env": self.components.list_envs,
            "logger": lambda: list(LOGGERS),
            "experiment": list,
        }[group]()
        return sorted({*registered, *self.yaml_choices(group)})

    def choose(self, group: str, choice: str) -> str:
        """The accepted spelling of a choice; an environment is registered with Hydra on the way.

        Raises:
            UsageError: there is no such choice.
        """
        if group == "experiment" and choice in ("null", "None", ""):
            return "null"
        if group == "env" and choice not in self.yaml_choices("env"):
            if choice == "run" and self.config_name == "evaluate":
                return choice
            try:
                name = self.components.canonical_name(choice)
            except ValueError as error:
                raise UsageError(f"env={choice}: {error}") from None
            if name not in self.yaml_choices("env"):
                self._store("env", name, EnvConfig(name=name))
            return name
        known = self.choices(group)
        if choice not in known:
            raise UsageError(
                f"{group}={choice}: no such {group}{near_match(choice, known)}"
                f"\navailable: {', '.join(known) or 'none yet'}"
            )
        return choice

    @contextlib.contextmanager
    def _hydra(self) -> Iterator[None]:
        GlobalHydra.instance().clear()
        with initialize_config_dir(str(self.config_dir), version_base="1.3"):
            yield
        GlobalHydra.instance().clear()

    def compose(self, overrides: Sequence[str]) -> DictConfig:
        """Compose; errors are Hydra's and OmegaConf's own."""
        with self._hydra():
            return compose(self.config_name, overrides=list(overrides))

    def build(self, config: DictConfig) -> Any:
        """The dataclasses of a composed configuration, ranges checked.

        Raises:
            UsageError: a value is missing or out of its range.
        """
        try:
            parts = OmegaConf.to_object(config)
            # The root is a plain node for Hydra's sake; the groups below it keep their types.
            names = {f.name for f in dataclasses.fields(self.kind)}
            values = parts if isinstance(parts, dict) else vars(parts)
            built = self.kind(**{str(k): v for k, v in values.items() if k in names})
            check_ranges(built)
        except (ValueError, OmegaConfBaseException) as error:
            raise UsageError(_first_line(error)) from None
        return built

    def check(self, arguments: Sequence[str]) -> CommandLine:
        """Check a whole command line, every job of a sweep included.

        Raises:
            UsageError: naming the first argument that is wrong.
        """
        flags = [a for a in arguments if a.startswith("-")]
        multirun = any(flag in ("-m", "--multirun") for flag in flags)
        for flag in flags:
            if flag not in ("-m", "--multirun"):
                raise UsageError(
                    f"unknown option {flag}; options are -h, --help, -m, --multirun; "
                    "settings are written key=value"
                )
        texts = [self._open_kwargs(a) for a in arguments if not a.startswith("-")]
        parsed = [_parse(text) for text in texts]
        normalised = [
            self._check_choice(override, multirun)
            if override.key_or_group in self.groups
            else override.input_line or ""
            for override in parsed
        ]
        self._check_keys(parsed, normalised, multirun)
        return CommandLine(normalised, multirun, flags)

    def _open_kwargs(self, text: str) -> str:
        # env.kwargs is a free mapping, where adding a key is the normal thing to do.
        return f"++{text}" if text.startswith("env.kwargs.") else text

    def _check_choice(self, override: Override, multirun: bool) -> str:
        """Check a group override's choices; returns it with their accepted spelling."""
        group = override.key_or_group
        if override.is_delete():
            raise UsageError(f"{override.input_line}: {group} cannot be removed, only chosen")
        values = _sweep_values(override)
        if values is None:
            return f"{group}={self.choose(group, _choice_text(override.value()))}"
        if not multirun:
            raise UsageError(f"{override.input_line}: several choices are a sweep; add -m")
        return f"{group}={','.join(self.choose(group, value) for value in values)}"

    def _check_keys(
        self, parsed: Sequence[Override], normalised: Sequence[str], multirun: bool
    ) -> None:
        """Compose every value that a sweep takes (each once, the others at their first)."""
        options = [
            [text]
            if (values := _sweep_values(override)) is None
            else [
                f"{text.partition('=')[0]}={value}"
                for value in (
                    text.partition("=")[2].split(",")
                    if override.key_or_group in self.groups
                    else values
                )
            ]
            for override, text in zip(parsed, normalised, strict=True)
        ]
        first = [choices[0] for choices in options]
        jobs = [first] + [
            [*first[:i], other, *first[i + 1 :]]
            for i, choices in enumerate(options)
            for other in choices[1:]
        ]
        for job in jobs:
            self._check_job(parsed, job)
        for override in parsed:
            if _sweep_values(override) is not None and not multirun:
                raise UsageError(f"{override.input_line}: several values are a sweep; add -m")

    def _check_job(self, parsed: Sequence[Override], job: Sequence[str]) -> None:
        pairs = list(zip(parsed, job, strict=True))
        chosen = [text for override, text in pairs if override.key_or_group in self.groups]
        try:
            base = self.compose(chosen)
        except (HydraException, OmegaConfBaseException) as error:
            raise UsageError(_composition_error(error)) from None
        values = [text for override, text in pairs if override.key_or_group not in self.groups]
        for override in parsed:
            if override.key_or_group not in self.groups:
                self._check_key(base, override)
        for i in range(len(values)):
            # One more at a time, so that the message names the override that is wrong.
            try:
                config = self.compose([*chosen, *values[: i + 1]])
            except (HydraException, OmegaConfBaseException) as error:
                raise UsageError(f"{values[i].lstrip('+')}: {_composition_error(error)}") from None
            base = config
        self.build(base)

    def _check_key(self, base: DictConfig, override: Override) -> None:
        """UsageError unless the key of a value override exists in the composed configuration."""
        key = override.key_or_group
        if key.split(".")[0] == "hydra" or key.startswith("hydra/"):
            return
        if override.is_delete() or (override.is_add() and not key.startswith("env.kwargs.")):
            raise UsageError(f"{override.input_line}: keys cannot be added or removed, only set")
        node: Any = base
        parts = key.split(".")
        for depth, part in enumerate(parts):
            where = ".".join(parts[:depth])
            if where == "env.kwargs":
                return
            if not isinstance(node, DictConfig):
                raise UsageError(f"unknown key {key}: {where} is a single value")
            # Not `in`, which denies a key whose value is still missing.
            if part not in list(node):
                raise UsageError(_unknown_key(base, node, key, where, part))
            node = node._get_node(part)
        if isinstance(node, DictConfig) and key != "env.kwargs":
            raise UsageError(f"{override.input_line}: {key} is a group of keys, not a value")

    def help(self, arguments: Sequence[str], usage: str) -> str:
        """The text of ``--help``, for the agent and memory that the other arguments choose."""
        chosen = [a for a in arguments if not a.startswith("-")]
        if self.kind is EvaluateConfig:
            chosen.append("run=none")
        line = self.check(["-m", *chosen])
        picked = [o.split(",")[0] for o in line.overrides if o.partition("=")[0] in self.groups]
        config = self.compose(picked)
        parts = [usage, "", "Groups (group=option):"]
        for group in self.groups:
            parts += _wrap_choices(group, self.choices(group))
        parts += [
            "",
            "Keys (key=value), with their values now:",
            *_describe_keys("", config, self.kind),
        ]
        for group in self.groups:
            node = config.get(group)
            if isinstance(node, DictConfig):
                parts += ["", *_describe_keys(f"{group}.", node, OmegaConf.get_type(node))]
        return "\n".join(parts)


def _wrap_choices(group: str, names: Sequence[str]) -> list[str]:
    """Environments are told suite by suite, other groups in one paragraph."""
    lines = []
    for suite, members in itertools.groupby(names, lambda name: name.rpartition("/")[0]):
        text = ", ".join(name.removeprefix(f"{suite}/") for name in members)
        head = f"  {group}={suite}/" if suite else f"  {group}="
        lines += textwrap.wrap(
            text or "(none yet)", 96, initial_indent=head, subsequent_indent="      "
        )
    if group == "env":
        lines.append("  env=gymnasium/<any gymnasium id>")
    return lines or [f"  {group}=(none yet)"]


def _describe_keys(prefix: str, config: DictConfig, kind: Any) -> list[str]:
    """``key=value  help`` for every key of a node; groups have paragraphs of their own."""
    helps = _field_helps(kind)
    rows = []
    for key in map(str, config):
        if key not in GROUPS and not (prefix and key == "name"):
            head = f"  {f'{prefix}{key}={_show(config, key)}':<40} "
            rows += textwrap.wrap(
                head + helps.get(key, ""), 110, subsequent_indent=" " * 43, drop_whitespace=True
            )
    return rows


def _field_helps(kind: Any) -> dict[str, str]:
    """A line for each field: its metadata's ``help``, or its entry under ``Attributes:``."""
    helps: dict[str, str] = {}
    for base in reversed(kind.__mro__ if isinstance(kind, type) else ()):
        # The entries of the docstring: "name, name: text", with deeper lines going on.
        _, _, attributes = inspect.cleandoc(base.__doc__ or "").partition("Attributes:\n")
        entries = re.split(r"\n(?=    \S)", "\n" + attributes.partition("\n\n")[0])
        for entry in entries:
            names, colon, text = entry.strip().partition(":")
            if colon:
                helps |= dict.fromkeys(names.split(", "), " ".join(text.split()))
        if dataclasses.is_dataclass(base):
            fields = dataclasses.fields(base)
            helps |= {f.name: f.metadata["help"] for f in fields if "help" in f.metadata}
    return helps


def _show(config: DictConfig, key: str) -> str:
    """A value as one writes it on the command line."""
    if OmegaConf.is_missing(config, key):
        return "???"
    value = OmegaConf.to_container(config[key]) if OmegaConf.is_config(config[key]) else config[key]
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def near_match(name: str, known: Sequence[str]) -> str:
    """``; did you mean X?`` or nothing."""
    near = difflib.get_close_matches(name.lower(), known, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _unknown_key(base: DictConfig, node: DictConfig, key: str, where: str, part: str) -> str:
    """The message for a key that is not there: its near match here, or its namesake elsewhere."""
    here = [str(k) for k in node if k != "hydra" and k != "name"]
    prefix = f"{where}." if where else ""
    hint = near_match(part, here)
    if hint:
        near = hint.removeprefix("; did you mean ").removesuffix("?")
        hint = f"; did you mean {prefix}{near}?"
    # A namesake in a group beats a lookalike here: `layers=2` means memory.layers.
    for group in GROUPS:
        if not where and isinstance(base.get(group), DictConfig) and part in base[group]:
            hint = f"; did you mean {group}.{part}?"
    return f"unknown key {key}{hint}\n{where or 'top-level'} keys: {', '.join(here)}"


def _parse(text: str) -> Override:
    if "=" not in text and not text.startswith("~"):
        raise UsageError(f"{text}: settings are written key=value, e.g. memory=s5")
    try:
        return OverridesParser.create().parse_override(text)
    except HydraException as error:
        detail = str(error).splitlines()
        raise UsageError(
            f"{text}: cannot be read ({detail[1] if len(detail) > 1 else detail[0]})"
        ) from None


def _sweep_values(override: Override) -> list[str] | None:
    """What a sweep override ranges over, as text; None for a plain value."""
    if not override.is_sweep_override():
        return None
    try:
        return [_choice_text(v) for v in override.sweep_string_iterator()]
    except (HydraException, TypeError, ValueError) as error:
        raise UsageError(f"{override.input_line}: {_first_line(error)}") from None


def _choice_text(value: Any) -> str:
    return "null" if value is None else str(value)


def _composition_error(error: Exception) -> str:
    """The cause in a line: OmegaConf's reason, without its tail of internal names."""
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    return _first_line(cause)


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def run_command(action: Callable[[], int]) -> int:
    """Run a command: errors a user can act on become a line on stderr and an exit code.

    2 for a wrong command line, 1 for a run that cannot start or go on, 130 for a Ctrl-C before
    there was anything to keep.
    """
    from ssmrl.training.errors import RunError

    try:
        return action()
    except UsageError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def train_command(arguments: Sequence[str], components: Components, config_dir: Path) -> int:
    """``scripts/train.py``: train one run, or a sweep with ``-m``. Returns the exit code."""
    return run_command(lambda: _train(list(arguments), components, config_dir))


def compose_training(
    overrides: Sequence[str], components: Components, config_dir: Path
) -> TrainConfig:
    """What ``scripts/train.py`` would train for these overrides.

    Raises:
        UsageError: an override is wrong.
    """
    composer = Composer(components, config_dir, "train", TrainConfig)
    line = composer.check(overrides)
    return composer.build(composer.compose(line.overrides))


def _train(arguments: list[str], components: Components, config_dir: Path) -> int:
    composer = Composer(components, config_dir, "train", TrainConfig)
    if "-h" in arguments or "--help" in arguments:
        print(composer.help(arguments, "Train an agent: train.py [key=value ...] [-m]"))
        return 0
    line = composer.check(_expand_run(arguments))
    # Only now: importing jax-heavy modules must not delay an answer to a misspelt key.
    from ssmrl.training.runner import run_training

    codes: list[int] = []

    def job(config: DictConfig) -> None:
        code = run_command(
            lambda: (
                run_training(
                    composer.build(config), components, overrides=_task_overrides(line)
                ).exit_code
            )
        )
        codes.append(code)
        if code:
            raise _JobEnded

    # A job that was stopped or has failed ends the sweep.
    with contextlib.suppress(_JobEnded):
        _launch(job, line, config_dir)
    return max(codes, default=0)


class _JobEnded(BaseException):
    """Passes through Hydra, which meets every Exception with a page of its own."""


def _launch(job: Callable[[DictConfig], None], line: CommandLine, config_dir: Path) -> None:
    import hydra

    GlobalHydra.instance().clear()
    before = sys.argv
    sys.argv = [before[0], *line.hydra_flags, *line.overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir.resolve()), config_name="train")(
            job
        )()
    finally:
        sys.argv = before


def _task_overrides(line: CommandLine) -> tuple[str, ...]:
    """This job's overrides, to record; those that only say where and whether to resume stay out."""
    overrides = line.overrides
    if line.multirun:
        from hydra.core.hydra_config import HydraConfig

        overrides = list(HydraConfig.get().overrides.task)
    places = ("resume", "run_dir")
    return tuple(o for o in overrides if o.partition("=")[0] not in places)


def _expand_run(arguments: list[str]) -> list[str]:
    """``run=PATH`` means: that run's own overrides, its folder, and resume.

    Raises:
        RunError: PATH is not a run.
    """
    paths = [a.partition("=")[2] for a in arguments if a.startswith("run=")]
    if not paths:
        return arguments
    from ssmrl.training.run import RunFolder

    recorded = RunFolder(paths[-1]).record().get("overrides", [])
    rest = [a for a in arguments if not a.startswith("run=")]
    return [*recorded, *rest, f"run_dir={_quote(paths[-1])}", "resume=true"]


def _quote(path: str) -> str:
    """A path as Hydra's grammar takes it, whatever characters it has."""
    escaped = os.path.normpath(path).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def evaluate_command(arguments: Sequence[str], components: Components, config_dir: Path) -> int:
    """``scripts/evaluate.py``: how good a run's policy is. Returns the exit code."""
    return run_command(lambda: _evaluate(list(arguments), components, config_dir))


def _evaluate(arguments: list[str], components: Components, config_dir: Path) -> int:
    composer = Composer(components, config_dir, "evaluate", EvaluateConfig)
    if "-h" in arguments or "--help" in arguments:
        usage = "Evaluate a run: evaluate.py run=runs/<id> [key=value ...]"
        print(composer.help(arguments, usage))
        return 0
    if not any(argument.startswith("run=") for argument in arguments):
        raise UsageError("which run? give run=runs/<id>")
    line = composer.check(arguments)
    if line.multirun:
        raise UsageError("-m: evaluate.py takes one run at a time")
    config = composer.build(composer.compose(line.overrides))
    from ssmrl.training.runner import evaluate_run, print_evaluation

    print_evaluation(evaluate_run(config, components, warn=print))
    return 0


def diagnose_command(
    arguments: Sequence[str],
    components: Components,
    config_dir: Path,
    diagnose: Callable[[DiagnoseConfig], Any],
) -> int:
    """``scripts/diagnose.py``: what a memory remembers. Returns the exit code."""
    return run_command(lambda: _diagnose(list(arguments), components, config_dir, diagnose))


def _diagnose(
    arguments: list[str],
    components: Components,
    config_dir: Path,
    diagnose: Callable[[DiagnoseConfig], Any],
) -> int:
    composer = Composer(components, config_dir, "diagnose", DiagnoseConfig)
    if "-h" in arguments or "--help" in arguments:
        usage = "Look at a memory: diagnose.py memory=<name> [key=value ...]"
        print(composer.help(arguments, usage))
        return 0
    line = composer.check(arguments)
    if line.multirun:
        raise UsageError("-m: diagnose.py takes one memory at a time")
    config = composer.build(composer.compose(line.overrides))
    diagnose(config)
    return 0


def benchmark_command(
    arguments: Sequence[str], components: Components, config_dir: Path, train: Path
) -> int:
    """``scripts/benchmark.py``: a suite with several memories. Returns the exit code."""
    return run_command(lambda: _benchmark(list(arguments), components, config_dir, train))


# Where these are lists or names of the benchmark, and not groups of a configuration to compose.
_BENCHMARK_KEYS = {"memory": "memories", "agent": "agent_name", "experiment": "experiment_name"}


def _benchmark(arguments: list[str], components: Components, config_dir: Path, train: Path) -> int:
    composer = Composer(components, config_dir, "benchmark", BenchmarkConfig)
    pairs = [argument.partition("=") for argument in arguments]
    arguments = ["".join([_BENCHMARK_KEYS.get(key, key), *rest]) for key, *rest in pairs]
    if "-h" in arguments or "--help" in arguments:
        usage = "Train memories on a suite: benchmark.py suite=popgym memory=[s5,gru] ..."
        print(composer.help(arguments, usage))
        return 0
    line = composer.check(arguments)
    if line.multirun:
        raise UsageError("-m: benchmark.py runs everything that it is given; write memory=[s5,gru]")
    config = composer.build(composer.compose(line.overrides))
    from ssmrl.training import benchmark

    try:
        jobs = benchmark.jobs_of(config, components.list_envs())
    except ValueError as error:
        raise UsageError(str(error)) from None
    # A wrong memory or setting is told before the first run, and not after hours of others.
    for job in {job.memory: job for job in jobs}.values():
        compose_training(job.overrides, components, config_dir)
    failed = [] if config.report_only else benchmark.run_all(jobs, train, config.parallel)
    benchmark.report(Path(config.out), benchmark.read_published(config.published))
    return 1 if failed else 0


def plot_command(arguments: Sequence[str]) -> int:
    """``scripts/plot.py``: curves and aggregate tables of runs. Returns the exit code."""
    return run_command(lambda: _plot(arguments))


def _plot(arguments: Sequence[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser(
        prog="plot.py",
        description="Learning curves and aggregate tables, over seeds and runs grouped by "
        "environment, agent and memory, with bootstrap intervals.",
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders: runs/<id> ...")
    parser.add_argument("--metric", default="episode_return", help="a key of metrics.jsonl")
    parser.add_argument(
        "--out",
        type=Path,
        help="picture to write; tables go beside it (default: curve.png "
        "in the run, or runs/comparison.png for several)",
    )
    options = parser.parse_args(arguments)
    from ssmrl.training.plotting import aggregate_table, group_runs, plot_curves, write_table
    from ssmrl.training.run import CURVE

    groups = group_runs(options.runs, options.metric)
    default = options.runs[0] / CURVE if len(options.runs) == 1 else Path("runs/comparison.png")
    path = options.out or default
    rows = aggregate_table(groups)
    plot_curves(groups, path, ylabel=options.metric.replace("_", " "))
    write_table(rows, path)
    _print_aggregates(rows)
    print(f"{path}, {path.with_suffix('.csv')}, {path.with_suffix('.json')}")
    return 0


def _print_aggregates(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ssmrl.training.plotting import format_value

    table = Table("environment", "agent", "memory", "seeds", "MMER IQM", "MMER mean", "final mean")
    for row in rows:
        values = [format_value(row, name) for name in ("mmer_iqm", "mmer_mean", "final_mean")]
        table.add_row(row["env"], row["agent"], row["memory"], str(row["seeds"]), *values)
    # Without a terminal rich would fold the table into 80 columns.
    Console(width=None if sys.stdout.isatty() else 160).print(table)

"""The commands of ``ssmrl`` and ``scripts/``: each takes arguments and returns an exit code."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssmrl.training import hosts
from ssmrl.training.cli.outcome import Outcome, attempt, run_command, say
from ssmrl.training.components import Components
from ssmrl.training.errors import UsageError
from ssmrl.training.imports import import_modules, import_recorded, take_imports
from ssmrl.training.signals import REQUEUE, Stopping, exit_code, requeue_at_once

# Hydra and all that is heavy is imported inside the commands: a package that is missing is then
# named in a line, and an answer to a misspelt key does not wait for JAX.
if TYPE_CHECKING:
    from omegaconf import DictConfig

    from ssmrl.training.cli.check import CommandLine
    from ssmrl.training.cli.compose import Composer
    from ssmrl.training.config import DiagnoseConfig, TrainConfig
    from ssmrl.training.sweep import Job


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return "-h" in arguments or "--help" in arguments


def _composed(composer: Composer, arguments: Sequence[str], *, usage: str, one: str) -> Any:
    """The configuration of a command that takes no sweep; None where help was asked for, printed.

    Args:
        composer: of the command.
        arguments: the command line.
        usage: the help's first line.
        one: what a sweep is answered with.

    Raises:
        UsageError: an argument is wrong.
    """
    from ssmrl.training.cli.check import check_arguments
    from ssmrl.training.cli.help import help_text

    if _asks_for_help(arguments):
        print(help_text(composer, arguments, usage))
        return None
    line = check_arguments(composer, arguments)
    if line.multirun:
        raise UsageError(f"-m: {one}")
    return composer.build(composer.compose(line.overrides))


def train_command(arguments: Sequence[str], components: Components, config_dir: Path) -> int:
    """``ssmrl train``: train one run, or a sweep with ``-m``. Returns the exit code."""
    with requeue_at_once():
        return run_command(lambda: _train(list(arguments), components, config_dir))


def compose_training(
    overrides: Sequence[str], components: Components, config_dir: Path
) -> TrainConfig:
    """What ``ssmrl train`` would train for these overrides.

    Raises:
        UsageError: an override is wrong.
    """
    from ssmrl.training.cli.check import check_arguments

    composer = _composer(components, config_dir, "train")
    line = check_arguments(composer, overrides)
    return composer.build(composer.compose(line.overrides))


def _composer(components: Components, config_dir: Path, name: str | None) -> Composer:
    """The composer of train, evaluate or diagnose; None for benchmark, which has no YAML file."""
    from ssmrl.training import config
    from ssmrl.training.cli.compose import Composer

    kind = getattr(config, f"{(name or 'benchmark').capitalize()}Config")
    return Composer(components, config_dir, name, kind)


def _train(arguments: list[str], components: Components, config_dir: Path) -> int:
    if not _asks_for_help(arguments):
        if {"-m", "--multirun"} & set(arguments) and hosts.place_from_environment():
            raise UsageError(
                "-m: the jobs of a sweep are runs of one process each; start it from a single one, "
                "or set JAX_NUM_PROCESSES=1"
            )
        hosts.join()  # before anything, a user's own module too, makes JAX's devices
    with hosts.together():
        return _train_together(arguments, components, config_dir)


def _train_together(arguments: list[str], components: Components, config_dir: Path) -> int:
    """`_train`, now that the other processes are known if there are any."""
    from ssmrl.training.cli.check import check_arguments
    from ssmrl.training.cli.help import help_text

    # First, as the composer asks the registries what there is to choose from.
    names, arguments = take_imports(arguments)
    imports = _import_with(names, arguments)
    composer = _composer(components, config_dir, "train")
    if _asks_for_help(arguments):
        print(help_text(composer, arguments, "Train an agent: ssmrl train [key=value ...] [-m]"))
        return 0
    line = check_arguments(composer, _expand_run(arguments))
    from ssmrl.training.run_training import run_training
    from ssmrl.training.sweep import job_overrides

    def train(config: TrainConfig, overrides: tuple[str, ...]) -> int:
        options: dict[str, Any] = {"overrides": overrides, "imports": imports}
        return run_training(config, components, **options).exit_code

    if line.multirun:
        sweep = _Sweep(line, imports)
        with sweep.stopping() as stopping, contextlib.suppress(_SweepEnded):
            _launch(lambda c: sweep.job(composer.build(c), train), sweep.line, config_dir)
        code = sweep.close()
        return code if stopping.received is None else exit_code(stopping.received)
    codes: list[int] = []

    def only(config: DictConfig) -> None:
        try:
            codes.append(train(composer.build(config), job_overrides(line.overrides)))
        except Exception as error:
            # Not from in here: Hydra would put a page of its own in place of the traceback.
            raise _JobFailed(error) from None

    try:
        _launch(only, line, config_dir)
    except _JobFailed as failed:
        raise failed.error from None
    return max(codes, default=0)


class _SweepEnded(BaseException):
    """Passes through Hydra, which meets every Exception with a page of its own."""


class _JobFailed(BaseException):
    """Brings the error of the only job through Hydra."""

    def __init__(self, error: Exception):
        self.error = error


class _Sweep:
    """The jobs of ``-m``: all combinations, or what a sweeper of Hydra chooses.

    A job that fails is remembered, and the next one begins; one that was told to stop, by Ctrl-C or
    a scheduler, ends them all. Those that a launcher runs in other processes are told by this one,
    when it is told itself; one of them that is stopped by itself stops no other. With ``resume`` a
    sweep is taken up again: what has ended well is not run again, and what had begun is continued.
    """

    def __init__(self, line: CommandLine, imports: tuple[str, ...]):
        from ssmrl.training.cli.check import unquote
        from ssmrl.training.sweep import SWEEPS, SweepFolder, find_sweep, make_sweep_path

        named = [o.partition("=")[2] for o in line.overrides if o.startswith("hydra.sweep.dir=")]
        resume = any(o in ("resume=auto", "resume=true") for o in line.overrides)
        found = find_sweep(SWEEPS, line.overrides) if resume and not named else None
        path = Path(unquote(named[-1])) if named else found or make_sweep_path(SWEEPS)
        self._folder, self._imports, self._process = SweepFolder(path), imports, os.getpid()
        if self._folder.jobs() and not resume:
            raise UsageError(f"{path} holds a sweep: continue it with resume=auto")
        self._folder.create(line.overrides)
        if found:
            say(f"continuing the sweep in {path}")
        launchers = [o for o in line.overrides if o.startswith("hydra/launcher=")]
        self._launched = bool(launchers) and launchers[-1] != "hydra/launcher=basic"
        directory = [] if named else [f"hydra.sweep.dir='{path}'"]
        self.line = dataclasses.replace(line, overrides=[*line.overrides, *directory])

    def stopping(self) -> contextlib.AbstractContextManager[Stopping]:
        """What stops the jobs that a launcher runs elsewhere; those here hear of signals."""
        from ssmrl.training.sweep import SweepSignals

        return SweepSignals(self._folder) if self._launched else contextlib.nullcontext(Stopping())

    def job(
        self, config: TrainConfig, train: Callable[[TrainConfig, tuple[str, ...]], int]
    ) -> float:
        """Run one job; returns what it is compared by, NaN where there is nothing."""
        from hydra.core.hydra_config import HydraConfig

        from ssmrl.training.sweep import Job, heeding, job_overrides, sweep_value

        if self._folder.is_stopped():
            return math.nan
        overrides = job_overrides(HydraConfig.get().overrides.task)
        job = self._folder.read(overrides) or Job(overrides)
        if job.code == 0:
            say(f"done already: {' '.join(overrides)}")
            return math.nan if job.value is None else job.value
        is_here = os.getpid() == self._process
        if not is_here:
            import_modules(self._imports)
        config = self._place(config, job)
        job = dataclasses.replace(job, run=config.run_dir, code=None, message="")
        self._folder.write(job)
        began = time.monotonic()
        try:
            with heeding(self._folder) if self._launched else contextlib.nullcontext():
                outcome = attempt(lambda: train(config, overrides))
        except Exception as error:
            traceback.print_exc()
            outcome = Outcome(1, f"{type(error).__name__}: {error}")
        except SystemExit as error:
            if not self._launched or error.code != REQUEUE:
                raise
            outcome = Outcome(REQUEUE)
        value = sweep_value(str(config.run_dir), config.sweep_metric) if not outcome.code else None
        ended = dataclasses.replace(job, code=outcome.code, message=outcome.message, value=value)
        self._folder.write(dataclasses.replace(ended, seconds=time.monotonic() - began))
        with contextlib.suppress(OSError):
            Path(str(config.run_dir)).rmdir()  # Of a job that could not begin it is empty.
        # A launcher that runs jobs elsewhere goes on with the others; their records say the rest.
        if _is_stop(outcome.code) and is_here:
            raise _SweepEnded
        return math.nan if value is None else value

    def _place(self, config: TrainConfig, job: Job) -> TrainConfig:
        """Gives a job its folder, and lists it in the sweep's, for scripts/plot.py."""
        from ssmrl.training.loading import as_dict
        from ssmrl.training.plotting import RUNS_OF_A_SWEEP
        from ssmrl.training.run import RUNS, make_run_path, run_label

        path = job.run or config.run_dir
        if path is None:
            path = str(make_run_path(RUNS, run_label(as_dict(config))))
        if job.run is None:
            with (self._folder.path / RUNS_OF_A_SWEEP).open("a") as file:
                file.write(f"{path}\n")
        resume = config.resume if job.run is None else "auto"
        return dataclasses.replace(config, run_dir=path, resume=resume)

    def close(self) -> int:
        """Write the table of all jobs, say which failed and why; returns the exit code of all."""
        from ssmrl.training.sweep import report

        jobs = self._folder.jobs()
        if stopped := sum(_is_stop(job.code or 0) for job in jobs):
            say(f"{stopped} of {len(jobs)} jobs were stopped; resume=auto goes on with them")
        failed = [job for job in jobs if job.code and not _is_stop(job.code)]
        if failed:
            print(f"{len(failed)} of {len(jobs)} jobs failed:", file=sys.stderr)
            for job in failed:
                reason = job.message.partition("\n")[0] or f"ended with {job.code}"
                print(f"  {' '.join(job.overrides)}: {reason}", file=sys.stderr)
        metric = self._settings().get("sweep_metric", "training_return")
        for line in report(self._folder, f"python {sys.argv[0]}", metric):
            say(line)
        return max((job.code or 0 for job in jobs), default=0)

    def _settings(self) -> dict[str, str]:
        return dict(o.partition("=")[::2] for o in self.line.overrides)


def _is_stop(code: int) -> bool:
    """Whether a job's exit code says that it was told to stop."""
    return code == REQUEUE or code > 128


def _launch(job: Callable[[DictConfig], Any], line: CommandLine, config_dir: Path) -> None:
    import hydra
    from hydra.core.global_hydra import GlobalHydra

    GlobalHydra.instance().clear()
    before = sys.argv
    sys.argv = [before[0], *line.hydra_flags, *line.overrides]
    try:
        hydra.main(version_base="1.3", config_path=str(config_dir.resolve()), config_name="train")(
            job
        )()
    finally:
        sys.argv = before


def _import_with(names: Sequence[str], arguments: Sequence[str]) -> tuple[str, ...]:
    """Import the modules of ``--import``, or those that the run of ``run=PATH`` was trained with.

    Returns:
        What a new run should record.

    Raises:
        RunError: one of them fails, or PATH is not a run.
    """
    imports = import_modules(names)
    path = _run_path(arguments)
    if path is not None and not _asks_for_help(arguments):
        from ssmrl.training.run import RunFolder

        import_recorded(RunFolder(path).record(), Path(path), instead=imports, say=print)
    return imports


def _run_path(arguments: Sequence[str]) -> str | None:
    """The folder of ``run=PATH``, in quotes or not; None where no run is named."""
    paths = [a.partition("=")[2] for a in arguments if a.startswith("run=")]
    if not paths:
        return None
    from ssmrl.training.cli.check import unquote

    return os.path.normpath(unquote(paths[-1]))


def _expand_run(arguments: list[str]) -> list[str]:
    """``run=PATH`` means: that run's own overrides, its folder, and resume.

    But for those of Hydra itself and its options: they can name classes for it to make and call,
    and a run's files are data.

    Raises:
        RunError: PATH is not a run.
    """
    path = _run_path(arguments)
    if path is None:
        return arguments
    from ssmrl.training.cli.check import quote
    from ssmrl.training.run import RunFolder

    recorded = RunFolder(path).record().get("overrides", [])
    own = [o for o in recorded if not o.lstrip("+~").startswith(("hydra.", "hydra/", "-"))]
    rest = [a for a in arguments if not a.startswith("run=")]
    return [*own, *rest, f"run_dir={quote(path)}", "resume=true"]


def evaluate_command(arguments: Sequence[str], components: Components, config_dir: Path) -> int:
    """``ssmrl evaluate``: how good a run's policy is. Returns the exit code."""
    return run_command(lambda: _evaluate(list(arguments), components, config_dir))


def _evaluate(arguments: list[str], components: Components, config_dir: Path) -> int:
    names, arguments = take_imports(arguments)
    if not _asks_for_help(arguments) and not any(a.startswith("run=") for a in arguments):
        raise UsageError("which run? give run=runs/<id>")
    _import_with(names, arguments)
    config = _composed(
        _composer(components, config_dir, "evaluate"),
        arguments,
        usage="Evaluate a run: ssmrl evaluate run=runs/<id> [key=value ...]",
        one="an evaluation is of one run",
    )
    if config is None:
        return 0
    from ssmrl.training.run import RunFolder
    from ssmrl.training.run_evaluation import evaluate_run, print_evaluation, print_videos

    record = evaluate_run(config, components, warn=say, show=print_evaluation)
    print_videos(record)
    print(f"written to {RunFolder(config.run).evaluations}")
    # Text in place of a picture is a video still.
    return 1 if config.video and "video" not in record else 0


def diagnose_command(
    arguments: Sequence[str],
    components: Components,
    config_dir: Path,
    diagnose: Callable[[DiagnoseConfig], Any],
) -> int:
    """``ssmrl diagnose``: what a memory remembers. Returns the exit code."""
    return run_command(lambda: _diagnose(list(arguments), components, config_dir, diagnose))


def _diagnose(
    arguments: list[str],
    components: Components,
    config_dir: Path,
    diagnose: Callable[[DiagnoseConfig], Any],
) -> int:
    names, arguments = take_imports(arguments)
    import_modules(names)
    config = _composed(
        _composer(components, config_dir, "diagnose"),
        arguments,
        usage="Look at a memory: ssmrl diagnose memory=<name> [key=value ...]",
        one="a diagnosis is of one memory",
    )
    if config is not None:
        diagnose(config)
    return 0


def benchmark_command(
    arguments: Sequence[str], components: Components, config_dir: Path, train: Sequence[str]
) -> int:
    """``ssmrl benchmark``: a suite with several memories. Returns the exit code.

    Args:
        arguments: the command line.
        components: the registries to choose from.
        config_dir: the folder of YAML files.
        train: the command that trains one run, to which settings are added.
    """
    with requeue_at_once():
        return run_command(lambda: _benchmark(list(arguments), components, config_dir, train))


def _benchmark(
    arguments: list[str], components: Components, config_dir: Path, train: Sequence[str]
) -> int:
    config = _composed(
        _composer(components, config_dir, None),
        arguments,
        usage="Train memories on a suite: ssmrl benchmark suite=popgym memory=[s5,gru] ...",
        one="a benchmark is a sweep already; write memory=[s5,gru]",
    )
    if config is None:
        return 0
    from ssmrl.training import benchmark

    try:
        jobs = benchmark.jobs_of(config, components.list_envs())
    except ValueError as error:
        raise UsageError(str(error)) from None
    # A wrong memory or setting is told before the first run, and not after hours of others.
    for job in {job.memory: job for job in jobs}.values():
        compose_training(job.overrides, components, config_dir)
    published = benchmark.read_published(_published(config.published, config_dir))
    failed = [] if config.report_only else benchmark.run_all(jobs, train, config.parallel)
    if len(failed) < len(jobs):
        place = benchmark.report_place(config, jobs)
        benchmark.report(benchmark.result_folder(config), published, jobs, place)
    return 1 if failed else 0


def _published(name: str | None, config_dir: Path) -> Path | None:
    """A file of benchmarks/published/ by its name, in a checkout or an installed package."""
    if name is None or Path(name).exists():
        return None if name is None else Path(name)
    known = config_dir.resolve().parent / "benchmarks" / "published" / name
    return known if known.exists() else Path(name)


def chaos_command(
    arguments: Sequence[str], components: Components, config_dir: Path, train: Path
) -> int:
    """``scripts/chaos.py``: whether a training survives being killed. Returns the exit code."""
    with requeue_at_once():
        return run_command(lambda: _chaos(list(arguments), components, config_dir, train))


def _chaos(arguments: list[str], components: Components, config_dir: Path, train: Path) -> int:
    from ssmrl.training.cli.check import check_arguments
    from ssmrl.training.cli.compose import Composer
    from ssmrl.training.cli.help import help_text
    from ssmrl.training.config import ChaosConfig

    composer = Composer(components, config_dir, None, ChaosConfig)
    own = {f.name for f in dataclasses.fields(ChaosConfig)}
    mine = [a for a in arguments if a.partition("=")[0] in own]
    if _asks_for_help(arguments):
        usage = "Kill a training and resume it: chaos.py [key=value ...] [settings of train.py ...]"
        print(help_text(composer, [], usage))
        return 0
    chaos = composer.build(composer.compose(check_arguments(composer, mine).overrides))
    settings = [a for a in arguments if a not in mine]
    names, overrides = take_imports(settings)
    import_modules(names)
    config = compose_training(overrides, components, config_dir)
    from ssmrl.training.chaos import run_chaos, summary

    outcome = run_chaos(chaos, config, settings, train, components, say)
    for line in outcome.differences:
        print(line, file=sys.stderr)
    print(summary(outcome, config))
    return 1 if outcome.differences else 0


def plot_command(arguments: Sequence[str]) -> int:
    """``ssmrl plot``: curves and aggregate tables of runs. Returns the exit code."""
    return run_command(lambda: _plot(arguments))


def _plot(arguments: Sequence[str]) -> int:
    import argparse

    from ssmrl.training.returns import RETURN

    parser = argparse.ArgumentParser(
        prog="ssmrl plot",
        description="Learning curves and tables with bootstrap intervals. Runs of one "
        "configuration are seeds of one curve; what configurations differ in is written beside it.",
    )
    parser.add_argument(
        "runs",
        nargs="+",
        type=Path,
        help="run folders, runs/<id> ..., or folders of several: of a sweep, runs/sweeps/<date>, "
        "or of a benchmark",
    )
    parser.add_argument("--metric", default=RETURN, help="a key of metrics.jsonl, e.g. loss/total")
    parser.add_argument(
        "--trials",
        action="store_true",
        help="returns over the trials of an episode, as evaluate.py last measured them",
    )
    parser.add_argument(
        "--out",
        type=Path,
        help="picture to write; tables go beside it (default: curve.png in a run, comparison.png "
        "in a folder of several, or runs/comparison.png)",
    )
    options = parser.parse_args(arguments)
    if options.trials:
        from ssmrl.training.plotting import plot_trials, trial_panels

        path = options.out or _default_picture(options.runs, "trials")
        print(plot_trials(trial_panels(options.runs), path))
        return 0
    from ssmrl.training.plotting import aggregate_table, group_runs, plot_curves, write_table

    groups = group_runs(options.runs, options.metric, warn=say)
    path = options.out or _default_picture(options.runs, options.metric)
    rows = aggregate_table(groups, options.metric)
    plot_curves(groups, path, ylabel=options.metric.replace("_", " "), pdf=True)
    write_table(rows, path)
    _print_aggregates(rows)
    print(f"{path} (and .pdf, .csv, .json of that name)")
    return 0


def _default_picture(runs: Sequence[Path], metric: str) -> Path:
    from ssmrl.training.returns import RETURN
    from ssmrl.training.run import CURVE, RunFolder

    # A run's own curve.png is of its returns, and is not replaced by that of a loss.
    suffix = "" if metric == RETURN else f"-{metric.replace('/', '-')}"
    if len(runs) > 1:
        return Path("runs") / f"comparison{suffix}.png"
    (path,) = runs
    name = Path(CURVE).stem if RunFolder(path).exists() else "comparison"
    return path / f"{name}{suffix}.png"


def _print_aggregates(rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from ssmrl.training.plotting import format_value

    titles = {"mmer_iqm": "MMER IQM", "mmer_mean": "MMER mean", "final_mean": "last tenth, mean"}
    shown = [name for name in titles if name in rows[0]]
    table = Table()
    # Names are folded where they do not fit: cut off, two environments could look the same.
    for column in ("environment", "agent", "memory", "seeds", *(titles[name] for name in shown)):
        table.add_column(column, overflow="fold")
    for row in rows:
        # The label begins with the agent's name where agents differ; here it has its own column.
        label = row["label"].removeprefix(f"{row['agent']} ")
        values = [format_value(row, name) for name in shown]
        table.add_row(row["env"], row["agent"], label, str(row["seeds"]), *values)
    # Without a terminal rich would fold the table into 80 columns.
    Console(width=None if sys.stdout.isatty() else 160).print(table)

"""From a configuration to a run, and from a run's folder back to its agent."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import operator
import signal
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table

from ssmrl.training import streams
from ssmrl.training.agent import NotingAgent, PredictingAgent
from ssmrl.training.checkpoint import Checkpointer
from ssmrl.training.components import Components
from ssmrl.training.config import (
    LOGGER_CONFIGS,
    EnvConfig,
    EvaluateConfig,
    LoggerConfig,
    TrainConfig,
    check_ranges,
    structured,
)
from ssmrl.training.errors import RunError, UsageError
from ssmrl.training.evaluation import EvaluationResult, Evaluator, info_means, summarise
from ssmrl.training.fit import check_size, first_line, out_of_memory, refusals
from ssmrl.training.loggers import CallbackLogger, check_logger, make_logger
from ssmrl.training.loop import (
    Evaluate,
    TrainResult,
    abstract_state,
    check_placement,
    longest_episode,
    train,
)
from ssmrl.training.prediction_video import record_prediction
from ssmrl.training.progress import Reporter, make_reporter
from ssmrl.training.run import (
    RunFolder,
    find_resumable,
    new_run_path,
    read_metrics,
    run_label,
    write_atomically,
)
from ssmrl.training.transfer import covers, make_transfer, same_kind, same_scale
from ssmrl.training.video import record_episode

RUNS = Path("runs")


@dataclass(frozen=True)
class RunResult:
    """A finished or interrupted run: its folder, and what the loop returned."""

    run: RunFolder
    result: TrainResult

    @property
    def exit_code(self) -> int:
        """0, or 128 + the signal that stopped it, as shells count."""
        return 0 if self.result.stopped_by is None else 128 + int(self.result.stopped_by)


@dataclass(frozen=True)
class LoadedRun:
    """A run read back from its folder.

    Attributes:
        run: the folder.
        config: as it was trained.
        agent: made anew from the configuration.
        state: of the newest whole checkpoint; leaves ``[seeds, ...]`` when ``config.seeds > 1``.
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
            **env.kwargs,
        )
    except (ValueError, TypeError, ImportError) as error:
        # ValueError and TypeError are how environments refuse options; see their own words.
        raise UsageError(f"env={env.name}: {error}") from error


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


def as_dict(config: Any) -> dict[str, Any]:
    """A configuration dataclass as plain JSON values."""
    container = OmegaConf.to_container(OmegaConf.create(dataclasses.asdict(config)))
    assert isinstance(container, dict)
    return container  # type: ignore[return-value]


def run_training(
    config: TrainConfig,
    components: Components,
    *,
    overrides: tuple[str, ...] = (),
    imports: tuple[str, ...] = (),
    reporter: Reporter | None = None,
    callback: Callable[[dict[str, Any]], Any] | None = None,
) -> RunResult:
    """Train as the configuration says, in a run folder of its own.

    Args:
        config: the whole configuration; ``run_dir`` is filled in if it is None.
        components: where agents, memories and environments come from.
        overrides: what was written on the command line, recorded in config.yaml.
        imports: the user's own modules, which are imported already; recorded likewise.
        reporter: default: a live panel on a terminal or in a notebook, plain lines otherwise.
        callback: called with every line of metrics; see `CallbackLogger`.

    Raises:
        RunError: with one line that says why the run cannot start or go on.
    """
    check_ranges(config)
    reporter = reporter or make_reporter(plain=config.logger.name == "console")
    agent, venv = build_agent(components, config)
    is_host = bool(getattr(venv, "is_host", False))
    # Before the folder is made: a run that cannot start leaves nothing behind.
    notes = _training_notes(agent, config)
    check_placement(agent, config, is_host=is_host)
    with refusals(agent=config.agent.name, memory=config.memory.name, env=config.env.name):
        check_size(abstract_state(agent, config.seed, config.seeds), devices=config.devices)
    check_logger(config.logger)
    eval_venv = _training_evaluation_venv(config, components, venv) if config.eval_every else None
    begun = _find_begun(config)
    initialize = None
    if config.init_from and not (begun and begun.checkpoint_steps()):
        initialize = _prepare_transfer(config, agent, venv, components, reporter)
    if config.resume and begun is None:
        reporter.message("nothing to resume: starting a new run")
    run = begun or _make_folder(config, overrides, imports)
    reporter.message(f"run: {run.path}")
    for note in notes:
        reporter.message(note)
    with run.lock():  # Or a run that is being trained would be ended in its logger's eyes.
        logger = make_logger(config.logger, run.path, as_dict(config))
    if callback is not None:
        logger = CallbackLogger(logger, callback)
    evaluate = None
    if eval_venv is not None:
        evaluate = _training_evaluation(agent, config, eval_venv, run, reporter)
    try:
        with out_of_memory(), explained_failures(venv, run):
            result = train(
                agent,
                config,
                run,
                reporter=reporter,
                logger=logger,
                evaluate=evaluate,
                initialize=initialize,
                is_host=is_host,
            )
    finally:
        logger.close()
    _draw_curve(run, reporter)
    _say_goodbye(run, config, result, reporter)
    return RunResult(run, result)


@contextlib.contextmanager
def explained_failures(venv: Any, run: RunFolder) -> Iterator[None]:
    """Where a Python environment fails within a compiled program, say what it said itself.

    JAX raises what a callback raised as an error of its own, at the end of several tracebacks.

    Raises:
        RunError: one line with the environment's message, its index and step, and where to go on.
    """
    try:
        yield
    except Exception as error:
        failure = getattr(venv, "failure", None)
        if failure is None or isinstance(error, RunError):
            raise
        steps = run.checkpoint_steps()
        kept = (
            f"the last checkpoint is of step {steps[-1]:,}" if steps else "there is no checkpoint"
        )
        with contextlib.suppress(OSError):
            write_atomically(run.traceback, "".join(traceback.format_exception(failure)))
            kept += f"; the traceback is in {run.traceback}"
        raise RunError(f"{failure}; {kept}") from error


def _training_notes(agent: Any, config: TrainConfig) -> list[str]:
    """What the agent, if it is a `NotingAgent`, has to say before a training."""
    if not isinstance(agent, NotingAgent):
        return []
    try:
        return agent.training_notes(config.seeds)
    except ValueError as error:
        raise UsageError(f"agent={config.agent.name}: {error}") from error


def _find_begun(config: TrainConfig) -> RunFolder | None:
    """The run that ``config`` continues; None where it begins a new one."""
    if not config.resume:
        return None
    settings = as_dict(config)
    path = Path(config.run_dir) if config.run_dir else find_resumable(RUNS, settings)
    run = None if path is None else RunFolder(path)
    if run is None or not run.exists():
        return None
    run.check_resumable(settings)
    return run


def _make_folder(
    config: TrainConfig, overrides: tuple[str, ...], imports: tuple[str, ...]
) -> RunFolder:
    """A new folder, as named or under ``runs/``."""
    settings = as_dict(config)
    run = RunFolder(config.run_dir or new_run_path(RUNS, run_label(settings)))
    run.create(settings, overrides, imports)
    return run


def _prepare_transfer(
    config: TrainConfig, agent: Any, venv: Any, components: Components, reporter: Reporter
) -> Callable[[Any], Any]:
    """What puts the parameters of ``config.init_from`` into a new state; says what they are.

    Raises:
        RunError: that run cannot be loaded, or does not fit.
    """
    where = str(config.init_from)
    source = load_run(where, components, warn=reporter.message)
    if not config.init_parts:
        there = make_venv(components, source.config.env, 1)
        # The new agent scales to its own bounds: the same parameters would do something else.
        fits = {"observation": same_scale, "action": operator.eq}
        for what, fit in fits.items():
            ours, theirs = getattr(venv, f"{what}_space"), getattr(there, f"{what}_space")
            if not fit(ours, theirs):
                raise RunError(
                    f"init_from={where}: its {what}s are {theirs}, and here they are {ours}; "
                    "load what does not depend on them, e.g. init_parts=[memory]"
                )
    initialize, text = make_transfer(
        source.agent,
        source.state,
        source.config.seeds,
        agent,
        abstract_state(agent, config.seed, config.seeds),
        config.seeds,
        config.init_parts,
        where,
    )
    reporter.message(f"from {where}, step {source.step:,}: {text}")
    return initialize


def _training_evaluation_venv(config: TrainConfig, components: Components, training: Any) -> Any:
    """Environments for evaluations alone: those of training are in use, and a host environment has
    one state.

    Raises:
        UsageError: they cannot be made, or an object that was handed over is all that there is.
    """
    venv = make_venv(components, config.env, min(config.eval_episodes, config.agent.num_envs))
    inside, of_training = (getattr(v, "unwrapped", v) for v in (venv, training))
    if inside is of_training and getattr(venv, "is_host", False):
        raise UsageError(
            f"eval_every={config.eval_every}: evaluations would step the very environments that "
            "training is in the middle of; hand over a function of the number of environments, "
            "which makes others"
        )
    return venv


def _training_evaluation(
    agent: Any, config: TrainConfig, venv: Any, run: RunFolder, reporter: Reporter
) -> Evaluate:
    """What the loop calls, on environments of its own: the same draws at each resume."""
    evaluator = Evaluator(
        agent, venv, episodes=config.eval_episodes, max_steps=config.eval_max_steps
    )

    def evaluate(
        state: Any, step: int, *, longest_seen: float, should_stop: Callable[[], bool]
    ) -> dict[str, Any]:
        def key_of(trained_seed: int) -> jax.Array:
            return streams.evaluation_while_training_key(trained_seed, step)

        play = partial(evaluator, longest_seen=longest_seen, should_stop=should_stop)
        with explained_failures(venv, run):
            results = evaluate_seeds(play, config, state, key_of)
        if unfinished := sum(result.unfinished for result in results):
            total, limit = sum(r.returns.size for r in results), evaluator.limit(longest_seen)
            reporter.message(
                f"step {step:,}: {unfinished} of {total} evaluation episodes had not ended after "
                f"{limit:,} steps (eval_max_steps); they count with their return up to there"
            )
        metrics: dict[str, list[Any]] = {
            "eval/return": [float(r.returns.mean()) for r in results],
            "eval/length": [float(r.lengths.mean()) for r in results],
            "eval/unfinished": [r.unfinished for r in results],
        }
        own = [info_means(r.info) for r in results]
        for name in sorted({name for means in own for name in means}):
            metrics[f"eval/info/{name}"] = [means.get(name, math.nan) for means in own]
        return metrics if config.seeds > 1 else {name: v[0] for name, v in metrics.items()}

    return evaluate


def evaluate_seeds(
    evaluator: Callable[[Any, jax.Array], EvaluationResult],
    config: TrainConfig,
    state: Any,
    key_of: Callable[[int], jax.Array],
) -> list[EvaluationResult]:
    """Evaluate every seed of a run on episodes of its own.

    Args:
        evaluator: plays them, an `Evaluator`.
        config: of the run; says which seeds.
        state: of all seeds, as the loop has it.
        key_of: a trained seed's key. With one key for all, the seeds would meet the same episodes,
            their returns would rise and fall together, and intervals that take them as independent
            would be too narrow.

    Returns:
        One result for each seed, in order.
    """
    return [
        evaluator(one_seed(state, i, config.seeds), key_of(config.seed + i))
        for i in range(config.seeds)
    ]


def one_seed(state: Any, index: int, seeds: int) -> Any:
    """The state of the seed at ``index``, without the axis that several seeds have."""
    return state if seeds == 1 else jax.tree.map(lambda leaf: leaf[index], state)


def _draw_curve(run: RunFolder, reporter: Reporter) -> None:
    """curve.png, if any episode has finished; a picture that fails is not a run that fails."""
    try:
        from ssmrl.training.plotting import group_runs, plot_curves

        plot_curves(group_runs([run.path]), run.curve)
    except Exception as error:
        # Whatever it was, a missing package or font: the run is there, and plot.py can be asked.
        reporter.message(f"no {run.curve.name}: {_reason(error)}")


def _say_goodbye(
    run: RunFolder, config: TrainConfig, result: TrainResult, reporter: Reporter
) -> None:
    if result.nonfinite:
        reporter.message(f"{result.nonfinite} iterations had a non-finite metric and were skipped")
    reporter.message(
        f"step {result.step:,}: {result.steps_per_second:,.0f} steps/s, "
        f"compiled in {result.compile_seconds:.1f} s"
    )
    if result.stopped_by is not None:
        name = signal.Signals(result.stopped_by).name
        reporter.message(f"stopped by {name}; the same command with run={run.path} continues")
    elif result.step >= config.total_steps:
        reporter.message(f"finished: {run.path}")


def load_run(
    path: str | Path, components: Components, *, step: int | None = None, warn: Any = None
) -> LoadedRun:
    """Read a run back: its configuration, its agent, the newest whole checkpoint.

    Args:
        path: the run's folder.
        components: where agents, memories and environments come from.
        step: this checkpoint rather than the newest.
        warn: called with a line for each damaged checkpoint that was passed over.

    Raises:
        RunError: it is not a run, or was written by another version's configuration.
        CheckpointError: it has no whole checkpoint, or one of another architecture.
    """
    run = RunFolder(path)
    config = config_from_dict(run.record()["config"], components, where=str(run.path))
    agent, venv = build_agent(components, config)
    checkpoints = Checkpointer(run.checkpoints, read_only=True)
    try:
        like = abstract_state(agent, config.seed, config.seeds)
        state, at, _ = checkpoints.restore(like, step=step, warn=warn)
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
        return _typed(TrainConfig, {**top, **parts})
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise RunError(f"{where}: its configuration does not fit this version: {reason}") from error


def _typed(kind: Any, values: dict[str, Any]) -> Any:
    return OmegaConf.to_object(OmegaConf.merge(structured(kind), values))


def evaluate_run(
    config: EvaluateConfig,
    components: Components,
    *,
    warn: Any = None,
    show: Callable[[dict[str, Any]], None] | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint of a run, and append the result to its eval.json.

    Every seed of the run plays ``config.episodes`` episodes. A video is made afterwards, so that
    one that fails loses nothing; the record then says why under ``"no_video"``.

    Args:
        config: what to evaluate, and how; ``env.name == "run"`` means the run's own environment.
        components: where agents, memories and environments come from.
        warn: called with a line for each damaged checkpoint that was passed over.
        show: called with the record before a video is made.

    Returns:
        The record that was appended: JSON values. Several seeds have a row each under ``"seeds"``.

    Raises:
        RunError: the run cannot be loaded, the environment does not fit it, or eval.json cannot
            be written.
    """
    check_ranges(config)
    loaded = load_run(config.run, components, step=config.step, warn=warn)
    env = _evaluation_env(config.env, loaded.config.env)
    venv = make_venv(components, env, min(config.num_envs, config.episodes))
    check_spaces(venv, make_venv(components, loaded.config.env, 1), env.name)
    evaluator = Evaluator(
        loaded.agent,
        venv,
        episodes=config.episodes,
        greedy=config.greedy,
        max_steps=config.max_steps,
    )
    longest = longest_episode(read_metrics(loaded.run.metrics))
    play = partial(evaluator, longest_seen=longest)
    key_of = partial(streams.evaluation_key, config.seed)
    with explained_failures(venv, loaded.run):
        results = evaluate_seeds(play, loaded.config, loaded.state, key_of)
    record = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "run": str(config.run),
        "step": loaded.step,
        "env": env.name,
        "seed": config.seed,
        "greedy": config.greedy,
        "max_steps": evaluator.limit(longest),
        **summarise(results),
    }
    if len(results) > 1:
        record["seeds"] = [
            {"seed": loaded.config.seed + i, **summarise([result])}
            for i, result in enumerate(results)
        ]
    _append_record(loaded.run.evaluations, record)
    if show is not None:
        show(record)
    if config.video:
        record |= _record_videos(config, components, loaded, env)
        _append_record(loaded.run.evaluations, record, instead=True)
    return record


def _record_videos(
    config: EvaluateConfig, components: Components, loaded: LoadedRun, env: EnvConfig
) -> dict[str, str]:
    """The files that were written under ``"video"`` and ``"prediction"``, and under ``"no_video"``
    what was in the way."""
    path = loaded.run.videos / f"{env.name.replace('/', '.')}-{loaded.step}"
    key = streams.video_key(config.seed, loaded.config.seed)
    state, made = loaded.seed_state(0), {}

    def note(text: str) -> None:
        made["no_video"] = text

    try:
        one = make_venv(components, env, 1)
        greedy = config.greedy
        file = record_episode(loaded.agent, state, one, path, key=key, greedy=greedy, warn=note)
        made["video"] = str(file)
        if isinstance(loaded.agent, PredictingAgent):
            path, context = path.with_name(f"{path.name}-prediction"), config.video_context
            file = record_prediction(loaded.agent, state, one, path, key=key, context=context)
            made["prediction"] = str(file)
    except Exception as error:
        # Whatever it was: pygame is missing, a renderer finds no display, the disk is full.
        what = "no prediction" if "video" in made else "no video"
        note(f"{what}: {_reason(error)}")
    return made


def _reason(error: Exception) -> str:
    """An error in a line, with its type unless it is one of ours, whose words suffice."""
    return (
        first_line(error)
        if isinstance(error, RunError)
        else (f"{type(error).__name__}: {first_line(error)}")
    )


def _evaluation_env(asked: EnvConfig, trained: EnvConfig) -> EnvConfig:
    """The environment to play: the run's own, or another seen through the run's observations."""
    if asked.name == "run":
        return dataclasses.replace(trained, kwargs={**trained.kwargs, **asked.kwargs})
    flags = ("previous_action", "previous_reward", "first_flag")
    return dataclasses.replace(
        asked, **{name: getattr(asked, name) or getattr(trained, name) for name in flags}
    )


def check_spaces(venv: Any, trained: Any, name: str) -> None:
    """Raise UsageError unless what was trained in one environment can act in another.

    Observations and actions must be of the same kind (`same_kind`). An environment may show numbers
    beyond the bounds that the run knew, and may allow actions that the run never takes; but it must
    allow all those that the run can take, which are squashed into the bounds it was trained with.
    """
    for what in ("observation", "action"):
        there, here = getattr(venv, f"{what}_space"), getattr(trained, f"{what}_space")
        if not same_kind(there, here):
            raise UsageError(f"env={name}: its {what}s are {there}, the run's are {here}")
    there, here = venv.action_space, trained.action_space
    if not covers(there, here):
        raise UsageError(
            f"env={name}: its actions are {there}, and the run's reach beyond them: {here}"
        )


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _append_record(path: Path, record: dict[str, Any], *, instead: bool = False) -> None:
    """eval.json is a list; a damaged one is refused rather than overwritten.

    Args:
        path: of eval.json.
        record: the new entry.
        instead: it takes the place of the last one.
    """
    try:
        records = json.loads(path.read_text()) if path.exists() else []
        if not isinstance(records, list):
            raise ValueError("not a list")
    except ValueError as error:
        raise RunError(f"{path} is not a list of evaluations ({error}); move it away") from error
    with _writing(path):
        kept = records[:-1] if instead else records
        write_atomically(path, json.dumps([*kept, record], indent=2) + "\n")


def print_evaluation(record: dict[str, Any]) -> None:
    """The record as a table, with a column for each seed where there are several."""
    table = Table(title=record["env"])
    table.add_column("return")
    table.add_column(f"{record['episodes']} episodes", justify="right")
    for name in ("mean", "iqm"):
        table.add_row(name, _with_interval(record, name))
    for name in ("median", "min", "max"):
        table.add_row(name, f"{record[name]:.4f}")
    table.add_row("steps an episode", f"{record['length']:.1f}")
    for name, own in record.get("info", {}).items():
        table.add_row(f"info/{name}, mean", _with_interval(own, "mean"))
    for row in record.get("seeds", ()):
        table.add_row(f"seed {row['seed']}, mean", _with_interval(row, "mean"))
    if record["unfinished"]:
        table.add_row(f"not ended after {record['max_steps']:,} steps", str(record["unfinished"]))
    print(f"{record['run']}, step {record['step']:,}")
    Console().print(table)


def _with_interval(record: dict[str, Any], name: str) -> str:
    low, high = record[f"{name}_interval"] or (float("nan"), float("nan"))
    return f"{record[name]:.4f}  [{low:.4f}, {high:.4f}]"


def print_videos(record: dict[str, Any]) -> None:
    """The files that a record names, and why one is missing."""
    for name in ("video", "prediction", "no_video"):
        if name in record:
            print(record[name])

"""A training from its configuration to the end of its run."""

from __future__ import annotations

import math
import operator
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from ssmrl.training import hosts, streams
from ssmrl.training.agent import NotingAgent
from ssmrl.training.components import Components
from ssmrl.training.config import TrainConfig, check_ranges
from ssmrl.training.devices import device_count
from ssmrl.training.errors import RunError, UsageError
from ssmrl.training.evaluation import Evaluator, evaluate_seeds, info_means
from ssmrl.training.exported import is_exported
from ssmrl.training.failures import explained_failures, reason
from ssmrl.training.fit import check_size, check_width, out_of_memory, refusals
from ssmrl.training.loading import as_dict, build_agent, load_run, make_venv
from ssmrl.training.loggers import CallbackLogger, Logger, NullLogger, check_logger, make_logger
from ssmrl.training.loop import (
    Evaluate,
    TrainResult,
    abstract_state,
    check_placement,
    init_state,
    train,
)
from ssmrl.training.progress import Reporter, SilentReporter, make_reporter
from ssmrl.training.run import (
    RUNS,
    RunFolder,
    find_resumable,
    flatten,
    library_versions,
    make_run_path,
    read_metrics,
    run_label,
)
from ssmrl.training.signals import exit_code
from ssmrl.training.transfer import make_transfer, same_scale


@dataclass(frozen=True)
class RunResult:
    """A finished or interrupted run: its folder, and what the loop returned."""

    run: RunFolder
    result: TrainResult

    @property
    def exit_code(self) -> int:
        """0, or that of the signal that stopped it; see `ssmrl.training.signals`."""
        return 0 if self.result.stopped_by is None else exit_code(self.result.stopped_by)


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

    Of several processes (`ssmrl.training.hosts`) all call this; the first alone reports, logs and
    calls ``callback``, and chooses the folder.

    Raises:
        RunError: with one line that says why the run cannot start or go on.
    """
    check_ranges(config)
    if not hosts.is_first():
        reporter, callback = SilentReporter(), None
    reporter = reporter or make_reporter(plain=config.logger.name == "console")
    if hosts.count() > 1:
        hosts.check_same(_what_must_agree(config))
    agent, venv = build_agent(components, config)
    is_host = venv.is_host
    # Before the folder is made: a run that cannot start leaves nothing behind.
    notes = _training_notes(agent, config)
    _check_can_start(config, agent, is_host=is_host)
    eval_venv = _training_evaluation_venv(config, components, venv) if config.eval_every else None
    begun, has_checkpoint = hosts.from_first(lambda: _find_begun(config))
    state = None
    if not has_checkpoint:
        state = _first_state(config, agent, venv, components, reporter)
    if config.resume and begun is None:
        reporter.message("nothing to resume: starting a new run")
    run = RunFolder(hosts.from_first(lambda: begun or _make_folder(config, overrides, imports)))
    hosts.check_shared(run.config)
    reporter.message(f"run: {run.path}")
    for note in notes:
        reporter.message(note)
    logger = _start_logger(config, run, callback)
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
                state=state,
                is_host=is_host,
            )
    finally:
        logger.close()
    if hosts.is_first():
        _draw_curve(run, reporter)
    _say_goodbye(run, config, result, reporter)
    if result.stopped_by is None and hosts.is_first():
        _advise_on_endless_episodes(run, config, is_host, reporter)
    return RunResult(run, result)


def _check_can_start(config: TrainConfig, agent: Any, *, is_host: bool) -> None:
    """What can be told of a run before anything is computed.

    Raises:
        RunError: its parts do not fit together, or not into memory.
        UsageError: settings contradict each other, or a logger is missing.
    """
    check_placement(agent, config, is_host=is_host)
    # An object of a user's own has its width inside.
    width = getattr(config.memory, "features", 0)
    check_width(width, devices=device_count(config.devices))
    with refusals(agent=config.agent.name, memory=config.memory.name, env=config.env.name):
        check_size(
            abstract_state(agent, config.seed, config.seeds), devices=device_count(config.devices)
        )
    check_logger(config.logger)
    if config.keep_best and not config.eval_every:
        raise UsageError("keep_best=true: evaluations say which is the best; give eval_every=STEPS")


def _what_must_agree(config: TrainConfig) -> dict[str, Any]:
    """What several processes of a run must have in common, by name."""
    settings = dict(
        item for name, value in as_dict(config).items() for item in flatten(name, value)
    )
    versions = {f"version of {name}": value for name, value in library_versions().items()}
    python = ".".join(map(str, sys.version_info[:2]))
    machine = {"platform": jax.default_backend(), "devices each": jax.local_device_count()}
    return settings | versions | {"version of Python": python} | machine


def _start_logger(
    config: TrainConfig, run: RunFolder, callback: Callable[[dict[str, Any]], Any] | None
) -> Logger:
    if not hosts.is_first():
        return NullLogger()
    with run.lock():  # Or a run that is being trained would be ended in its logger's eyes.
        logger = make_logger(config.logger, run.path, as_dict(config))
    return logger if callback is None else CallbackLogger(logger, callback)


def _training_notes(agent: Any, config: TrainConfig) -> list[str]:
    """What the agent, if it is a `NotingAgent`, has to say before a training."""
    if not isinstance(agent, NotingAgent):
        return []
    try:
        return agent.training_notes(config.seeds)
    except ValueError as error:
        raise UsageError(f"agent={config.agent.name}: {error}") from error


def _training_evaluation_venv(config: TrainConfig, components: Components, training: Any) -> Any:
    """Environments for evaluations alone: those of training are in use, and a host environment has
    one state.

    Raises:
        UsageError: they cannot be made, or an object that was handed over is all that there is.
    """
    venv = make_venv(components, config.env, min(config.eval_episodes, config.agent.num_envs))
    inside, of_training = (getattr(v, "unwrapped", v) for v in (venv, training))
    if inside is of_training and venv.is_host:
        raise UsageError(
            f"eval_every={config.eval_every}: evaluations would step the very environments that "
            "training is in the middle of; hand over a function of the number of environments, "
            "which makes others"
        )
    return venv


def _find_begun(config: TrainConfig) -> tuple[str | None, bool]:
    """The run that ``config`` continues, None where it begins one, and whether it has a checkpoint.

    Raises:
        RunError: there is one that cannot be continued.
    """
    if not config.resume:
        return None, False
    settings = as_dict(config)
    strict = config.resume != "auto"
    path = config.run_dir or find_resumable(RUNS, settings, strict=strict)
    run = None if path is None else RunFolder(path)
    if path is not None and is_exported(path):
        raise RunError(
            f"{path} is an agent without its training, which cannot go on: begin another with "
            f"init_from={path}"
        )
    if run is None or not run.exists():
        return None, False
    run.check_resumable(settings)
    return str(run.path), bool(run.checkpoint_steps())


def _first_state(
    config: TrainConfig, agent: Any, venv: Any, components: Components, reporter: Reporter
) -> Any:
    """What a new training begins with. Environments are reset here for the first time.

    Raises:
        RunError: they fail, it does not fit into memory, or ``config.init_from`` does not fit it.
    """
    initialize = None
    if config.init_from:
        initialize = _prepare_transfer(config, agent, venv, components, reporter)
    with out_of_memory(), explained_failures(venv):
        # Waited for: what a callback raises is known when its results are asked for.
        state = jax.block_until_ready(init_state(agent, config.seed, config.seeds))
        return state if initialize is None else initialize(state)


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


def _make_folder(config: TrainConfig, overrides: tuple[str, ...], imports: tuple[str, ...]) -> str:
    """A new folder, as named or under ``runs/``."""
    settings = as_dict(config)
    run = RunFolder(config.run_dir or make_run_path(RUNS, run_label(settings)))
    run.create(settings, overrides, imports)
    return str(run.path)


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
        return metrics if config.seeds > 1 else {name: v for name, (v,) in metrics.items()}

    return evaluate


def _draw_curve(run: RunFolder, reporter: Reporter) -> None:
    """curve.png, if any episode has finished; a picture that fails is not a run that fails."""
    try:
        from ssmrl.training.plotting import group_runs, plot_curves

        try:
            groups = group_runs([run.path])
        except RunError:  # it has no return yet
            return
        plot_curves(groups, run.curve)
    except Exception as error:
        # Whatever it was, a missing package or font: the run is there; `ssmrl plot` can be asked.
        reporter.message(f"no {run.curve.name}: {reason(error)}")


def _say_goodbye(
    run: RunFolder, config: TrainConfig, result: TrainResult, reporter: Reporter
) -> None:
    if result.nonfinite:
        reporter.message(f"{result.nonfinite} iterations had a non-finite metric and were skipped")
    if result.steps_per_second:
        rate = result.steps_per_second / config.seeds  # in the unit of the lines before it
        reporter.message(
            f"step {result.step:,}: {rate:,.0f} steps/s per seed, "
            f"compiled in {result.compile_seconds:.1f} s"
        )
    if result.stopped_by is not None:
        name = signal.Signals(result.stopped_by).name
        reporter.message(f"stopped by {name}; to continue: ssmrl train run={run.path}")
    elif result.step >= config.total_steps:
        reporter.message(f"finished: {run.path}")
        reporter.message(f"next: ssmrl evaluate run={run.path} video=true")


def _advise_on_endless_episodes(
    run: RunFolder, config: TrainConfig, is_host: bool, reporter: Reporter
) -> None:
    """Where no episode of a whole run has ended, say so, and how episodes are limited."""
    lines = read_metrics(run.metrics)
    counts = [line["episodes"] for line in lines if "episodes" in line]
    if not counts or any(np.any(count) for count in counts):
        return
    steps = lines[-1]["step"] // config.agent.num_envs
    limit = "truncated=True after so many steps, from its step_env"
    if config.env.name.startswith("gymnasium/"):
        limit = "env.kwargs.max_episode_steps=1000"
    elif is_host:
        limit = "gymnasium.wrappers.TimeLimit(env, 1000) where it is made"
    reporter.message(
        f"no episode has ended in {steps:,} steps of each environment, so there is no return to "
        f"show: train for longer, or limit its episodes ({limit})"
    )

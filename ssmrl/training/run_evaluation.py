"""An evaluation of a run: its checkpoint played, the record kept, printed, and filmed."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ssmrl.training import streams
from ssmrl.training.agent import PredictingAgent
from ssmrl.training.components import Components
from ssmrl.training.config import EnvConfig, EvaluateConfig, check_ranges, obscuring
from ssmrl.training.controls import ForgetsEvery
from ssmrl.training.errors import UsageError, writing
from ssmrl.training.evaluation import (
    EvaluationResult,
    Evaluator,
    default_max_steps,
    evaluate_seeds,
    find_trials,
    summarise,
)
from ssmrl.training.failures import explained_failures, reason
from ssmrl.training.loading import LoadedRun, load_run, make_venv
from ssmrl.training.loop import longest_episode
from ssmrl.training.prediction_video import record_prediction
from ssmrl.training.run import read_evaluations, read_metrics, write_atomically
from ssmrl.training.signals import one_interrupt
from ssmrl.training.transfer import covers, same_kind
from ssmrl.training.trials import compare_trials, play_controls
from ssmrl.training.video import record_episode

REFERENCES = 1000
"""Episodes that known policies are played for, where trials have any."""


def evaluate_run(
    config: EvaluateConfig,
    components: Components,
    *,
    warn: Any = None,
    show: Callable[[dict[str, Any]], None] | None = None,
    name: str | None = None,
) -> dict[str, Any]:
    """Evaluate a checkpoint of a run, and append the result to its eval.json.

    Every seed of the run plays ``config.episodes`` episodes. A video is made afterwards, so that
    one that fails loses nothing; the record then says why under ``"no_video"``.

    Args:
        config: what to evaluate, and how; ``env.name == "run"`` means the run's own environment.
        components: where agents, memories and environments come from.
        warn: called with a line for each damaged checkpoint that was passed over.
        show: called with the record before a video is made.
        name: of the run in the record; None: its folder.

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
    trained = loaded.config.env
    check_spaces(venv, make_venv(components, trained, 1), env.name, trained.kwargs)
    longest = longest_episode(read_metrics(loaded.run.metrics))
    play = _player(config, loaded, venv, longest)
    with explained_failures(venv, loaded.run):
        results = play(loaded.agent)
    record = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "run": name or str(config.run),
        "step": loaded.step,
        "env": env.name,
        "seed": config.seed,
        "greedy": config.greedy,
        "max_steps": config.max_steps or default_max_steps(venv, longest),
        **_summary(results, loaded.config.seed),
    }
    if config.forget_every:
        record["forgetting"] = [
            {"every": every, **summarise(play(ForgetsEvery(loaded.agent, every)))}
            for every in config.forget_every
        ]
    if config.controls and (trials := find_trials(venv)) is not None:
        references = trials.references(_params_of(venv), episodes=REFERENCES, seed=config.seed)
        compared = compare_trials(results, play_controls(loaded.agent, venv, play), references)
        record["trials"] = {"kwargs": {**env.kwargs, **obscuring(env)}, **compared}
    _append_record(loaded.run.evaluations, record)
    if show is not None:
        show(record)
    if config.video:
        record |= _record_videos(config, components, loaded, env)
        _append_record(loaded.run.evaluations, record, instead=True)
    return record


def _player(
    config: EvaluateConfig, loaded: LoadedRun, venv: Any, longest: float
) -> Callable[[Any], list[EvaluationResult]]:
    """What plays the episodes of each of a run's seeds with an agent: its own, or a control.

    Args:
        config: how many, and how.
        loaded: the run.
        venv: where.
        longest: steps of the longest episode that was seen in training.
    """
    key_of = partial(streams.evaluation_key, config.seed)

    def play(agent: Any) -> list[EvaluationResult]:
        evaluator = Evaluator(
            agent,
            venv,
            episodes=config.episodes,
            greedy=config.greedy,
            max_steps=config.max_steps,
        )
        with one_interrupt() as is_interrupted:
            evaluate = partial(evaluator, longest_seen=longest, should_stop=is_interrupted)
            return evaluate_seeds(evaluate, loaded.config, loaded.state, key_of)

    return play


def _summary(results: list[EvaluationResult], first_seed: int) -> dict[str, Any]:
    """Of all seeds together, and of each where there are several."""
    together = summarise(results)
    if len(results) > 1:
        each = [{"seed": first_seed + i, **summarise([x])} for i, x in enumerate(results)]
        together["seeds"] = each
    return together


def _params_of(venv: Any) -> Any:
    return getattr(venv, "unwrapped", venv).params


def _evaluation_env(asked: EnvConfig, trained: EnvConfig) -> EnvConfig:
    """The environment to play: the run's own, or another seen through the run's observations.

    What was asked for beside it comes first, so that a run can be seen with more noise, say. The
    package that ours is a model of (``…_original/…``) gets the options that ours had.
    """
    obscured = obscuring(trained) | obscuring(asked)
    if asked.name == "run":
        return dataclasses.replace(trained, kwargs={**trained.kwargs, **asked.kwargs}, **obscured)
    if asked.name.replace("_original/", "/") == trained.name != asked.name:
        asked = dataclasses.replace(asked, kwargs={**trained.kwargs, **asked.kwargs})
    flags = ("previous_action", "previous_reward", "first_flag")
    extras = {name: getattr(asked, name) or getattr(trained, name) for name in flags}
    return dataclasses.replace(asked, **extras, **obscured)


def check_spaces(venv: Any, trained: Any, name: str, options: Mapping[str, Any]) -> None:
    """Raise UsageError unless what was trained in one environment can act in another.

    Observations and actions must be of the same kind (`same_kind`). An environment may show numbers
    beyond the bounds that the run knew, and may allow actions that the run never takes; but it must
    allow all those that the run can take, which are squashed into the bounds it was trained with.

    Args:
        venv: the environment to act in.
        trained: the run's own.
        name: of the former.
        options: of the run's own, which another environment does not get by itself.
    """
    hint = f"; the run was trained with env.kwargs={dict(options)}" if options else ""
    for what in ("observation", "action"):
        there, here = getattr(venv, f"{what}_space"), getattr(trained, f"{what}_space")
        if not same_kind(there, here):
            raise UsageError(f"env={name}: its {what}s are {there}, the run's are {here}{hint}")
    there, here = venv.action_space, trained.action_space
    if not covers(there, here):
        raise UsageError(
            f"env={name}: its actions are {there}, and the run's reach beyond them: {here}{hint}"
        )


def _append_record(path: Path, record: dict[str, Any], *, instead: bool = False) -> None:
    """eval.json is a list; a damaged one is refused rather than overwritten.

    Args:
        path: of eval.json.
        record: the new entry.
        instead: it takes the place of the last one.
    """
    records = read_evaluations(path)
    with writing(path):
        kept = records[:-1] if instead else records
        write_atomically(path, json.dumps([*kept, record], indent=2) + "\n")


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
        note(f"{what}: {reason(error)}")
    return made


def print_evaluation(record: dict[str, Any]) -> None:
    """The record as a table, with a column for each seed where there are several."""
    table = Table(title=record["env"])
    table.add_column("return")
    table.add_column(f"{record['episodes']} episodes", justify="right")
    for name in ("mean", "iqm"):
        table.add_row(name, _with_interval(record, name))
    for name in ("median", "min", "max"):
        table.add_row(name, f"{record[name]:.4f}")
    table.add_row("steps per episode", f"{record['length']:.1f}")
    for name, own in record.get("info", {}).items():
        table.add_row(f"info/{name}, mean", _with_interval(own, "mean"))
    for row in record.get("forgetting", ()):
        name = f"mean, memory reset every {row['every']:,} steps"
        table.add_row(name, _with_interval(row, "mean"))
    for row in record.get("seeds", ()):
        table.add_row(f"seed {row['seed']}, mean", _with_interval(row, "mean"))
    if record["unfinished"]:
        table.add_row(f"not ended after {record['max_steps']:,} steps", str(record["unfinished"]))
    print(f"{record['run']}, step {record['step']:,}")
    Console().print(table)
    if record["mean_interval"]:
        print("in brackets: 95% intervals over episodes")
    if "trials" in record:
        _print_trials(record["trials"])


def _print_trials(trials: dict[str, Any]) -> None:
    """Returns of the agent, its controls and of what is known to be good; first and last trials."""
    table = Table("by trial", "first", "last", "all of them", "reached")
    for name, curve in {**trials["policies"], **trials["references"]}.items():
        total = f"{curve['return']:.3f}"
        if curve["return_interval"]:
            total += " [{:.3f}, {:.3f}]".format(*curve["return_interval"])
        first, last = (f"{curve['mean'][i]:.3f}" for i in (0, -1))
        reached = curve.get("reached")
        cells = name.replace("_", " "), first, last, total
        table.add_row(*cells, "" if reached is None else f"{reached:.1%}")
    Console().print(table)
    if trials["references"]:
        print("reached: how far the agent has come from random to it")


def _with_interval(record: dict[str, Any], name: str) -> str:
    text = f"{record[name]:.4f}"
    if record[f"{name}_interval"] is None:  # of a single episode
        return text
    return text + "  [{:.4f}, {:.4f}]".format(*record[f"{name}_interval"])


def print_videos(record: dict[str, Any]) -> None:
    """The files that a record names, and why one is missing."""
    for name in ("video", "prediction", "no_video"):
        if name in record:
            print(record[name])

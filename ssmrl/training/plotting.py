"""Learning curves and aggregate tables over runs and seeds, from metrics.jsonl alone."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from pathlib import Path
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ssmrl.figures import (
    BLACK,
    GREY,
    label_lines,
    legend_below,
    lines_of,
    panels,
    save,
    steps_axis,
    styled,
    task_name,
)
from ssmrl.training.errors import RunError, writing
from ssmrl.training.evaluation import bootstrap
from ssmrl.training.returns import RETURN, read_points, window_means
from ssmrl.training.run import CONFIG, RunFolder, flatten, read_evaluations, read_metrics

RUNS_OF_A_SWEEP = "runs.txt"
"""In a sweep's folder: the paths of its runs, one a line."""

RETURNS = (RETURN, "episode_return", "eval/return")
"""Metrics of which more is better, so that their maximum over training says something."""

NO_MEMORY, _RESET = "random", ", memory reset"
"""Labels of curves over trials: of random actions, and what ends that of a memory that forgets."""

_CONTROL = "memory reset at every trial"
# Lines of what is no memory; dashes of this length are those of memories that are reset.
_OTHERS: Any = (":", "-.", (0, (1, 4)), (0, (8, 3)), (0, (3, 1, 1, 1)), (0, (5, 1, 1, 1, 1, 1)))

# What makes no other agent of a run: its seeds, and where, when and how much is written down.
_NOT_OF_THE_AGENT = (
    *("seed", "seeds", "run_dir", "resume", "logger", "devices", "sweep_metric"),
    *("checkpoint_every", "keep_checkpoints", "keep_best"),
)
_POINTS = 200  # Of the common grid of steps that curves are compared on.
_BOOTSTRAPS = 1000


@dataclass(frozen=True)
class Curve:
    """The training return of one seed, or another metric under the same names.

    Attributes:
        steps: environment steps ``[P]``; of a training return, where each stretch ends.
        returns: ``[P]``; of a training return, means over the episodes that began in a stretch.
        seed: None where it is not known.
        episodes: how many those were ``[P]``; None for another metric, whose values weigh the same.
        windows: means over the episodes that began in each window of `ssmrl.training.returns`
            ``[W]``; None for another metric.
    """

    steps: np.ndarray
    returns: np.ndarray
    seed: int | None = None
    episodes: np.ndarray | None = None
    windows: np.ndarray | None = None

    @property
    def mmer(self) -> float:
        """Max over training of the mean episodic return: POPGym's published metric.

        Of a training return over its windows, of at least 65,536 steps as published or, in a run
        shorter than four of them, of a quarter of the run; of another metric over its values.
        """
        return float((self.returns if self.windows is None else self.windows).max())

    @property
    def final(self) -> float:
        """Mean over the last tenth of the steps; of a training return weighted by episodes."""
        last = self.steps >= 0.9 * self.steps[-1]
        weights = None if self.episodes is None else self.episodes[last]
        return float(np.average(self.returns[last], weights=weights))


@dataclass(frozen=True)
class Group:
    """The seeds of one configuration.

    Attributes:
        env, agent, memory: their names.
        curves: one for each seed.
        settings: the whole configuration but for what changes no result, by key.
    """

    env: str
    agent: str
    memory: str
    curves: tuple[Curve, ...]
    settings: dict[str, Any] = field(default_factory=dict)


def read_curves(path: Path, metric: str = RETURN) -> list[Curve]:
    """One curve for each seed of a run that has a point of it; `Curve.seed` counts from 0.

    Raises:
        RunError: no seed has.
    """
    lines = read_metrics(RunFolder(path).metrics)
    curves = _return_curves(lines) if metric == RETURN else _metric_curves(lines, metric)
    if curves:
        return curves
    ended = metric == RETURN and any("episode_return" in line for line in lines)
    hint = "; --metric episode_return has the mean of what ended, short episodes first"
    raise RunError(f"{path} has no {metric} in its metrics yet{hint if ended else ''}")


def _return_curves(lines: Sequence[dict[str, Any]]) -> list[Curve]:
    curves = []
    for seed, points in read_points(lines).items():
        if counted := [point for point in points if point.episodes]:
            _, until, episodes, values = np.array(counted, float).T
            windows = window_means(points, lines[-1]["step"])
            curves.append(Curve(until, values, seed, episodes, windows))
    return curves


def _metric_curves(lines: Iterable[dict[str, Any]], metric: str) -> list[Curve]:
    points: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for line in lines:
        value = line.get(metric)
        for seed, number in enumerate(value if isinstance(value, list) else [value]):
            if number is not None:
                points[seed].append((line["step"], number))
    arrays = {seed: np.array(points[seed], dtype=float) for seed in sorted(points)}
    return [Curve(array[:, 0], array[:, 1], seed) for seed, array in arrays.items()]


def find_runs(path: str | Path) -> list[Path]:
    """The run that a path is, the runs of the sweep that it is the folder of, or all runs below it.

    Returns:
        The path itself where there is no run; reading it says so.
    """
    path = Path(path)
    if RunFolder(path).exists():
        return [path]
    listed = path / RUNS_OF_A_SWEEP
    if listed.is_file():
        return [Path(line) for line in listed.read_text().splitlines() if line]
    return sorted(config.parent for config in path.rglob(CONFIG)) or [path]


def group_runs(
    paths: Iterable[str | Path],
    metric: str = RETURN,
    *,
    warn: Callable[[str], None] | None = None,
) -> list[Group]:
    """Runs and their seeds by their whole configuration, in the order first met.

    A seed that a configuration has been trained with already is left out: played twice, it would
    make intervals too narrow.

    Args:
        paths: of runs, or of folders with several; see `find_runs`.
        metric: a key of metrics.jsonl.
        warn: called with a line for each seed or run that is left out.

    Raises:
        RunError: a path is not a run, or none has the metric.
    """
    groups: dict[str, Group] = {}
    for given in paths:
        found = find_runs(given)
        for path in found:
            try:
                _add_run(groups, path, metric, warn)
            except RunError as error:
                # One of several in a folder may have failed before there was anything to draw.
                if len(found) == 1:
                    raise
                if warn:
                    warn(f"left out: {error}")
    if not groups:
        raise RunError(f"no run has {metric} in its metrics yet")
    return list(groups.values())


def _add_run(
    groups: dict[str, Group], path: Path, metric: str, warn: Callable[[str], None] | None
) -> None:
    config = RunFolder(path).record()["config"]
    curves = read_curves(path, metric)
    settings = dict(
        item
        for name, value in config.items()
        if name not in _NOT_OF_THE_AGENT and not name.startswith("eval_")
        for item in flatten(name, value)
    )
    key = json.dumps(settings, sort_keys=True, default=str)
    env, agent, memory = (config[part]["name"] for part in ("env", "agent", "memory"))
    group = groups.get(key) or Group(env, agent, memory, (), settings)
    first, known = config.get("seed"), {curve.seed for curve in group.curves}
    for curve in curves:
        seed = None if first is None else first + (curve.seed or 0)
        if seed is not None and seed in known:
            if warn:
                warn(f"left out: seed {seed} of {path}, which another run of the same settings has")
            continue
        group = replace(group, curves=(*group.curves, replace(curve, seed=seed)))
    groups[key] = group


def mean_curve(
    curves: Sequence[Curve], *, confidence: float = 0.95, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean over seeds on a common grid of steps, with a percentile-bootstrap interval.

    Returns:
        ``(steps, mean, low, high)``, each ``[P]``; with one seed ``low`` and ``high`` are the mean.
    """
    # The grid stops where the shortest run does: beyond, the mean would be of other seeds.
    start = max(curve.steps[0] for curve in curves)
    stop = min(curve.steps[-1] for curve in curves)
    steps = np.linspace(start, max(start, stop), _POINTS)
    values = np.stack([np.interp(steps, curve.steps, curve.returns) for curve in curves])
    draws = np.random.default_rng(seed).integers(0, len(curves), (_BOOTSTRAPS, len(curves)))
    means = values[draws].mean(axis=1)
    tail = 50 * (1 - confidence)
    low, high = np.percentile(means, [tail, 100 - tail], axis=0)
    return steps, values.mean(axis=0), low, high


@styled
def plot_curves(
    groups: Sequence[Group], path: Path, *, ylabel: str = "episodic return", pdf: bool = False
) -> Path:
    """One panel for each environment, one line with its interval for each configuration.

    Where one has several seeds, their number is said of all.

    Args:
        groups: what to draw.
        path: of the picture.
        ylabel: of all panels.
        pdf: write it as a PDF too, beside the picture.

    Raises:
        RunError: the picture cannot be written.
    """
    envs = list(dict.fromkeys(group.env for group in groups))
    several = any(len(group.curves) > 1 for group in groups)
    memories = {label_of(group, groups): group.memory for group in groups}
    lines = dict(zip(memories, lines_of(list(memories.values())), strict=True))
    figure, axes = panels(len(envs))
    for axis, env in zip(axes, envs, strict=True):
        for group in (g for g in groups if g.env == env):
            steps, mean, low, high = mean_curve(group.curves)
            label = label_of(group, groups)
            colour, line = lines[label]
            name = f"{label} ({len(group.curves)})" if several else label
            axis.plot(steps, mean, color=colour, linestyle=line, label=name)
            axis.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set(title=task_name(env), ylabel=ylabel)
        steps_axis(axis, axis.dataLim.x1)
        label_lines(axis, title="seeds in brackets" if several else None)
    with writing(path):
        save(figure, path, pdf=pdf)
    return path


def read_trials(path: Path) -> dict[str, Any]:
    """The newest evaluation by trial of a run: its record in eval.json.

    Raises:
        RunError: there is none.
    """
    records = read_evaluations(RunFolder(path).evaluations)
    found = [record for record in records if "trials" in record]
    if not found:
        raise RunError(
            f"{path} has no evaluation by trial yet; make one with evaluate.py run={path}, if its "
            "environment has trials (env=meta/...)"
        )
    return found[-1]


@styled
def plot_trials(curves_of: dict[str, dict[str, dict[str, Any]]], path: Path) -> Path:
    """Mean return over the number of the trial, with intervals, a panel for each environment.

    Args:
        curves_of: by title, curves by label (`ssmrl.training.trials.trial_curve`). Labels that end
            with "memory reset" are drawn dashed in the colour of what is before them, and those
            that stand for no memory, `NO_MEMORY` and references, in thin black.
        path: of the picture.

    Raises:
        RunError: the picture cannot be written.
    """
    lines = _memory_lines(curves_of.values())
    # What is below the panels has to fit, two labels a line.
    rows = max(-(-(1 + len(_labelled(curves))) // 2) for curves in curves_of.values())
    figure, axes = panels(len(curves_of), height=2.4 + 0.15 * rows)
    for axis, (title, curves) in zip(axes, curves_of.items(), strict=True):
        others = cycle(_OTHERS)
        for label, curve in curves.items():
            memory = label.removesuffix(_RESET)
            if memory not in lines:
                _draw_trials(axis, label, curve, color=BLACK, linestyle=next(others), linewidth=1)
            elif memory == label:
                colour, line = lines[memory]
                _draw_trials(axis, label, curve, color=colour, linestyle=line)
                _shade_trials(axis, curve, colour)
            else:
                # Of one memory as of another: one label stands for all of them.
                _draw_trials(axis, None, curve, color=lines[memory][0], linestyle="--")
                _shade_trials(axis, curve, lines[memory][0])
        axis.set(title=fill(title, 36), xlabel="trial", ylabel="return of the trial")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        _legend_below(axis, lines, resets=any(label.endswith(_RESET) for label in curves))
    with writing(path):
        save(figure, path, pdf=False)
    return path


def _labelled(curves: Iterable[str]) -> list[str]:
    """The curves that have labels of their own: all but those of memories that are reset."""
    return [label for label in curves if not label.endswith(_RESET)]


def _memory_lines(panels: Iterable[dict[str, dict[str, Any]]]) -> dict[str, tuple[str, str]]:
    """Colour and line by label of every memory in any of the panels."""
    labels = dict.fromkeys(
        label
        for curves in panels
        for label in _labelled(curves)
        if "reached" not in curves[label] and label != NO_MEMORY
    )
    lines = lines_of([label.split(",")[0] for label in labels])
    return dict(zip(labels, lines, strict=True))


def _draw_trials(axis: Axes, label: str | None, curve: dict[str, Any], **style: Any) -> None:
    trial = np.arange(1, len(curve["mean"]) + 1)
    marker = "." if len(trial) < 30 else None
    axis.plot(trial, curve["mean"], label=label, marker=marker, markersize=4, **style)


def _shade_trials(axis: Axes, curve: dict[str, Any], colour: str) -> None:
    """The interval of each trial, where all have one."""
    if None not in curve["interval"]:
        low, high = np.transpose(curve["interval"])
        trial = np.arange(1, len(low) + 1)
        axis.fill_between(trial, low, high, color=colour, alpha=0.2, linewidth=0)


def _legend_below(axis: Axes, memories: Container[str], *, resets: bool) -> None:
    """What is labelled, memories first."""
    handles, labels = axis.get_legend_handles_labels()
    first = [handle for handle, label in zip(handles, labels, strict=True) if label in memories]
    control = [Line2D([], [], color=GREY, linestyle="--", label=_CONTROL)] if resets else []
    others = [handle for handle in handles if handle not in first]
    legend_below(axis, handles=[*first, *control, *others])


def trial_panels(paths: Iterable[str | Path]) -> dict[str, dict[str, dict[str, Any]]]:
    """The panels of `plot_trials` of runs: by environment, each run's memory with and without
    resets, and once what all of them are compared with.

    Raises:
        RunError: a path is no run, or has no evaluation by trial.
    """

    def entry(path: Path) -> tuple[str, dict[str, Any], str, dict[str, Any], str]:
        record, memory = read_trials(path), RunFolder(path).record()["config"]["memory"]["name"]
        trials = record["trials"]
        return record["env"], trials["kwargs"], memory, trials, path.name

    return panels_of(entry(path) for given in paths for path in find_runs(given))


def panels_of(
    entries: Iterable[tuple[str, dict[str, Any], str, dict[str, Any], str]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """The panels of `plot_trials` of evaluations by trial.

    Args:
        entries: an environment's name, its options, a memory's name, the evaluation
            (`ssmrl.training.trials.compare_trials`), and what tells one more with the same memory
            from the first.
    """
    curves_of: dict[str, dict[str, dict[str, Any]]] = {}
    for env, kwargs, memory, trials, name in entries:
        # As on a command line: a list of names without quotation marks.
        options = " ".join(f"{k}={v}".replace("'", "") for k, v in kwargs.items())
        curves = curves_of.setdefault(f"{task_name(env)} {options}".strip(), {})
        policies = trials["policies"]
        label = memory if memory not in curves else f"{memory}, {name}"
        curves[label] = policies["agent"]
        if "memory_reset" in policies:  # not where the ends of trials are hidden
            curves[f"{label}{_RESET}"] = policies["memory_reset"]
        curves.setdefault(NO_MEMORY, policies["random"])
        for reference, curve in trials["references"].items():
            curves.setdefault(reference.replace("_", " "), curve)
    return curves_of


def label_of(group: Group, groups: Sequence[Group]) -> str:
    """What tells a group from the others: the memory, the agent, and the settings that differ."""
    several = len({g.agent for g in groups}) > 1
    names = f"{group.agent} {group.memory}" if several else group.memory
    return " ".join([names, *_differences(group, groups)])


def _differences(group: Group, groups: Sequence[Group]) -> list[str]:
    """``lr=0.001`` for each setting in which groups of one agent and memory differ.

    Environments have panels of their own, so that theirs count within one environment only.
    """
    alike = [g for g in groups if (g.agent, g.memory) == (group.agent, group.memory)]
    here = [g for g in alike if g.env == group.env]
    keys = dict.fromkeys(key for g in alike for key in g.settings)
    differing = [
        key
        for key in keys
        if len({str(g.settings.get(key)) for g in (here if key.startswith("env") else alike)}) > 1
    ]
    last = [key.rpartition(".")[2] for key in differing]
    # The last part of a key, as long as it says which one is meant.
    return [
        f"{short if last.count(short) == 1 else key}={_value(group.settings.get(key))}"
        for key, short in zip(differing, last, strict=True)
    ]


def _value(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else "null" if value is None else str(value)


def aggregate_table(groups: Sequence[Group], metric: str = RETURN) -> list[dict[str, Any]]:
    """A row for each group: mean over the last tenth of training and, of a return, MMER.

    Args:
        groups: of curves.
        metric: what they are of; of a loss no maximum is given.

    Returns:
        Rows of ``env, agent, memory, label, seeds, mmer_mean, mmer_mean_low, mmer_mean_high,
        mmer_iqm, mmer_iqm_low, mmer_iqm_high, final_mean, ...`` with 95% intervals over seeds
        (rliable); bounds are None with a single seed.
    """
    rows = []
    for group in groups:
        row: dict[str, Any] = {
            "env": group.env,
            "agent": group.agent,
            "memory": group.memory,
            "label": label_of(group, groups),
            "seeds": len(group.curves),
        }
        for name in ("mmer", "final") if metric in RETURNS else ("final",):
            scores = np.array([getattr(curve, name) for curve in group.curves])
            summary = bootstrap(scores[:, None])
            for statistic in ("mean", "iqm"):
                low, high = summary[f"{statistic}_interval"] or (None, None)
                row[f"{name}_{statistic}"] = summary[statistic]
                row[f"{name}_{statistic}_low"] = low
                row[f"{name}_{statistic}_high"] = high
        rows.append(row)
    return rows


def write_table(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Write the rows as ``path``.csv and ``path``.json.

    Raises:
        RunError: they cannot be written.
    """
    with writing(path):
        with path.with_suffix(".csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        path.with_suffix(".json").write_text(json.dumps(list(rows), indent=2) + "\n")


def format_value(row: dict[str, Any], name: str) -> str:
    """``0.91 [0.88, 0.94]``, without the brackets where there is one seed."""
    text = f"{row[name]:.3f}"
    if row[f"{name}_low"] is not None:
        text += f" [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
    return text

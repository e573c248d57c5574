"""Learning curves and aggregate tables over runs and seeds, from metrics.jsonl alone."""

from __future__ import annotations

import csv
import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from ssmrl.training.errors import RunError
from ssmrl.training.evaluation import bootstrap
from ssmrl.training.run import RunFolder, read_metrics

_POINTS = 200  # Of the common grid of steps that curves are compared on.
_BOOTSTRAPS = 1000


@dataclass(frozen=True)
class Curve:
    """Training returns of one seed: ``steps [P]`` (environment steps), ``returns [P]``."""

    steps: np.ndarray
    returns: np.ndarray

    @property
    def mmer(self) -> float:
        """Max over training of the mean episodic return: POPGym's published metric."""
        return float(self.returns.max())

    @property
    def final(self) -> float:
        """Mean return over the last tenth of training."""
        return float(self.returns[self.steps >= 0.9 * self.steps[-1]].mean())


@dataclass(frozen=True)
class Group:
    """The seeds of one agent and memory on one environment."""

    env: str
    agent: str
    memory: str
    curves: tuple[Curve, ...]


def read_curves(path: Path, metric: str = "episode_return") -> list[Curve]:
    """One curve for each seed of a run.

    Raises:
        RunError: the run has no finished episodes.
    """
    points: dict[int, list[tuple[int, float]]] = defaultdict(list)
    for line in read_metrics(RunFolder(path).metrics):
        value = line.get(metric)
        for seed, number in enumerate(value if isinstance(value, list) else [value]):
            if number is not None:
                points[seed].append((line["step"], number))
    if not points:
        raise RunError(f"{path} has no {metric} in its metrics yet")
    arrays = [np.array(points[seed], dtype=float) for seed in sorted(points)]
    return [Curve(array[:, 0], array[:, 1]) for array in arrays]


def group_runs(paths: Iterable[str | Path], metric: str = "episode_return") -> list[Group]:
    """Runs and their seeds by environment, agent and memory, in the order first met.

    Raises:
        RunError: a path is not a run, or has no finished episodes.
    """
    groups: dict[tuple[str, str, str], list[Curve]] = {}
    for path in paths:
        config = RunFolder(path).record()["config"]
        key = (config["env"]["name"], config["agent"]["name"], config["memory"]["name"])
        groups.setdefault(key, []).extend(read_curves(Path(path), metric))
    return [Group(*key, tuple(curves)) for key, curves in groups.items()]


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


def plot_curves(groups: Sequence[Group], path: Path, *, ylabel: str = "episodic return") -> Path:
    """One panel for each environment, one line with its interval for each agent and memory.

    Raises:
        RunError: the picture cannot be written.
    """
    envs = list(dict.fromkeys(group.env for group in groups))
    labels = dict.fromkeys(_label(group, groups) for group in groups)
    colours = {label: f"C{i}" for i, label in enumerate(labels)}
    # Without pyplot, whose backend and open figures are the user's, in a notebook above all.
    figure = Figure(figsize=(4.6 * len(envs), 3.4), layout="constrained")
    axes = figure.subplots(1, len(envs), squeeze=False)
    for axis, env in zip(axes[0], envs, strict=True):
        for group in (g for g in groups if g.env == env):
            steps, mean, low, high = mean_curve(group.curves)
            label = _label(group, groups)
            axis.plot(steps, mean, color=colours[label], label=f"{label} ({len(group.curves)})")
            axis.fill_between(steps, low, high, color=colours[label], alpha=0.2, linewidth=0)
        axis.set(title=env, xlabel="environment steps", ylabel=ylabel)
        axis.grid(alpha=0.3)
        axis.legend(title="seeds in brackets", fontsize="small", title_fontsize="x-small")
    try:
        figure.savefig(path, dpi=150)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _label(group: Group, groups: Sequence[Group]) -> str:
    """The memory; with the agent before it where agents differ."""
    several = len({g.agent for g in groups}) > 1
    return f"{group.agent} {group.memory}" if several else group.memory


def aggregate_table(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """A row for each group: MMER and final return over seeds, with 95% intervals (rliable).

    Returns:
        Rows of ``env, agent, memory, seeds, mmer_mean, mmer_mean_low, mmer_mean_high, mmer_iqm,
        mmer_iqm_low, mmer_iqm_high, final_mean, ...``; bounds are None with a single seed.
    """
    rows = []
    for group in groups:
        row: dict[str, Any] = {
            "env": group.env,
            "agent": group.agent,
            "memory": group.memory,
            "seeds": len(group.curves),
        }
        for name in ("mmer", "final"):
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
    try:
        with path.with_suffix(".csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        path.with_suffix(".json").write_text(json.dumps(list(rows), indent=2) + "\n")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def format_value(row: dict[str, Any], name: str) -> str:
    """``0.91 [0.88, 0.94]``, without the brackets where there is one seed."""
    text = f"{row[name]:.3f}"
    if row[f"{name}_low"] is not None:
        text += f" [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
    return text

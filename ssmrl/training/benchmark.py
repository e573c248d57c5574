"""A suite of environments x memories: trained run by run, resumable, summed up as rliable does.

Every run is a process of its own (`ssmrl train`), so that one that fails stops no other and
several use the cores side by side. What is left of a finished run is one small JSON file; a run
without one is taken up again from its last checkpoint.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ssmrl.training.cli.outcome import say
from ssmrl.training.config import BenchmarkConfig
from ssmrl.training.errors import RunError
from ssmrl.training.plotting import read_curves
from ssmrl.training.returns import RETURN
from ssmrl.training.run import RunFolder, library_versions, read_metrics, write_atomically
from ssmrl.training.signals import Children

POINTS = 100
"""Of a learning curve that are kept in its result."""

INVALID = "invalid"
"""In a result that must not be quoted: the key of the reason. Such a run is trained again."""


@dataclass(frozen=True)
class Job:
    """One environment with one memory.

    Attributes:
        env: canonical name.
        memory: registered name.
        steps: environment steps, per seed.
        run: the folder that it trains in.
        result: the file that it leaves behind.
        overrides: the command line of `ssmrl train`, but for the folder.
    """

    env: str
    memory: str
    steps: int
    run: Path
    result: Path
    overrides: tuple[str, ...]


def jobs_of(config: BenchmarkConfig, envs: Sequence[str]) -> list[Job]:
    """Every environment of the suite with every memory, in the order given.

    Raises:
        ValueError: there is no such suite, or nothing in it that one of `ids` stands for.
    """
    names = [env for env in envs if env.startswith(f"{config.suite}/")]
    own = [name.partition("/")[2] for name in names]
    meant = {pattern: _meant(own, pattern) for pattern in config.ids}
    nothing = [pattern for pattern, ids in meant.items() if not ids]
    if nothing or not names:
        known = sorted({env.partition("/")[0] for env in envs})
        asked = f"suite={config.suite} ids={nothing}"
        raise ValueError(f"{asked}: no such environment; suites are {known}")
    chosen = set().union(*meant.values()) if meant else set(own)
    jobs = [name for name, id_ in zip(names, own, strict=True) if id_ in chosen]
    return [_job(config, env, memory) for memory in config.memory for env in jobs]


def run_folder(config: BenchmarkConfig) -> Path:
    """Where the runs are: below runs/, by suite."""
    return Path(config.run_dir or f"runs/benchmark/{config.suite}")


def result_folder(config: BenchmarkConfig) -> Path:
    """Where the results are: beside the runs that they are of, unless another place is named."""
    return Path(config.out) if config.out else run_folder(config) / "results"


def _meant(ids: Sequence[str], pattern: str) -> set[str]:
    """An id means itself alone; `easy` all that end like this, `repeat_first` its difficulties."""
    if pattern in ids:
        return {pattern}
    return {i for i in ids if i.endswith(f"_{pattern}") or i.startswith(f"{pattern}_")}


def _job(config: BenchmarkConfig, env: str, memory: str) -> Job:
    label = f"{env.replace('/', '-')}-{memory}"
    run = run_folder(config) / label
    overrides = (
        f"experiment={config.experiment}",
        f"agent={config.agent}",
        f"memory={memory}",
        f"env={env}",
        f"total_steps={config.steps}",
        f"seeds={config.seeds}",
        *config.overrides,
    )
    result = result_folder(config) / f"{label}.json"
    return Job(env, memory, config.steps, run, result, overrides)


def run_all(
    jobs: Sequence[Job], train: Sequence[str], parallel: int, report: Callable[[str], None] = say
) -> list[Job]:
    """Train what has no result yet, `parallel` at a time, by the command `train`.

    Results that are there already are announced, with the folder that they are read from. At the
    end a line says of each run that failed why it did; those are returned.

    Raises:
        SystemExit: a signal has stopped it, and the runs under way with it; see `Children`.
    """
    done = [job for job in jobs if _is_done(job)]
    todo = [job for job in jobs if job not in done]
    if done:
        report(
            f"{len(done)} of {len(jobs)} runs have a result in {done[0].result.parent}, which is "
            "used again; for new ones give another run_dir (and out)"
        )
    report(f"{len(todo)} runs to do")
    with Children() as children, ThreadPoolExecutor(parallel) as pool:
        reasons = list(pool.map(lambda job: _run(job, train, parallel, report, children), todo))
    failed = [(job, why) for job, why in zip(todo, reasons, strict=True) if why]
    if failed:
        report(f"{len(failed)} of {len(todo)} runs failed:")
        for job, why in failed:
            report(f"  {job.env} {job.memory}: {why}")
    return [job for job, _ in failed]


def _is_done(job: Job) -> bool:
    if not job.result.exists():
        return False
    try:
        result = json.loads(job.result.read_text())
        if INVALID in result:
            return False
        # Older results name the folder that they were trained in as well.
        overrides = [o for o in result["overrides"] if not o.startswith("run_dir=")]
        return result["steps"] >= job.steps and tuple(overrides) == job.overrides
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"{job.result} is not a result of this script: {error}") from error


def _run(
    job: Job,
    train: Sequence[str],
    parallel: int,
    report: Callable[[str], None],
    children: Children,
) -> str | None:
    """Train one run and write its result; returns why it failed, or None."""
    resume = ["resume=true"] if RunFolder(job.run).exists() else []
    environment = {**os.environ}
    if parallel > 1:  # one core each: side by side they would only get in one another's way
        flags = environment.get("XLA_FLAGS", "")
        environment["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
        environment["OMP_NUM_THREADS"] = "1"
    began = time.perf_counter()
    job.run.parent.mkdir(parents=True, exist_ok=True)
    path = job.run.with_name(f"{job.run.name}.log")  # a name may have a dot in it
    with path.open("a") as log:
        command = [*train, *job.overrides, f"run_dir={job.run}", *resume]
        code = children.run(command, stdout=log, stderr=log, env=environment)
    why = f"failed with {code}, see {path}{_last_line(path)}" if code else None
    if why is None:
        try:
            write_result(job)
        except RunError as error:
            why = str(error)
    if why is not None:
        report(f"{job.env} {job.memory}: {why}")
        return why
    seconds = time.perf_counter() - began
    report(f"{job.env} {job.memory}: {_best(job.result):+.3f} after {seconds:.0f} s")
    return None


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return f" ({lines[-1]})" if lines else ""


def write_result(job: Job) -> None:
    """The run's curves, thinned, with what is needed to repeat it."""
    curves = read_curves(job.run)
    record = {
        "env": job.env,
        "memory": job.memory,
        "steps": int(max(row["step"] for row in read_metrics(RunFolder(job.run).metrics))),
        "overrides": list(job.overrides),
        "versions": library_versions(),
        "metric": RETURN,
        "mmer": [curve.mmer for curve in curves],
        "final": [curve.final for curve in curves],
        "curves": [_thinned(curve.steps, curve.returns, curve.episodes) for curve in curves],
    }
    job.result.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(job.result, json.dumps(record) + "\n")


def _thinned(
    steps: np.ndarray, returns: np.ndarray, episodes: np.ndarray | None
) -> dict[str, list[Any]]:
    """At most `POINTS` points, each the mean of its stretch of the curve, over its episodes."""
    episodes = np.ones(steps.size) if episodes is None else episodes
    parts = np.array_split(np.arange(steps.size), min(POINTS, steps.size))
    return {
        "steps": [int(steps[part[-1]]) for part in parts],
        "returns": [
            round(float(np.average(returns[part], weights=episodes[part])), 5) for part in parts
        ],
        "episodes": [int(episodes[part].sum()) for part in parts],
    }


def _best(path: Path) -> float:
    return float(np.mean(json.loads(path.read_text())["mmer"]))


def read_results(
    folder: Path, jobs: Iterable[Job] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """MMER of every seed by memory and environment: `{memory: {env: [seeds]}}`.

    Args:
        folder: of the results.
        jobs: whose results; None means all that there are.

    Raises:
        RunError: there are none, or a file is not a result.
    """
    results: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for path, record in _records(folder, jobs):
        try:
            results[record["memory"]][record["env"]] = np.array(record["mmer"])
        except (KeyError, TypeError) as error:
            raise RunError(f"{path} is not a result of this script: {error}") from error
    if not results:
        asked = "" if jobs is None else " of the environments and memories asked for"
        raise RunError(f"no results in {folder}{asked}")
    return dict(results)


def _records(folder: Path, jobs: Iterable[Job] | None) -> Iterator[tuple[Path, Any]]:
    """The files of a folder, or of it those of the jobs, and what is in them."""
    wanted = None if jobs is None else {job.result.name for job in jobs}
    for path in sorted(folder.glob("*.json")):
        if wanted is None or path.name in wanted:
            try:
                yield path, json.loads(path.read_text())
            except ValueError as error:
                raise RunError(f"{path} is not a result of this script: {error}") from error


def invalid_results(folder: Path, jobs: Iterable[Job] | None = None) -> dict[str, list[str]]:
    """The names of the files that must not be quoted, by the reason."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for path, record in _records(folder, jobs):
        if INVALID in record:
            reasons[record[INVALID]].append(path.name)
    return dict(reasons)


def summarise(results: dict[str, dict[str, np.ndarray]]) -> dict[str, Any]:
    """Aggregates over the environments that all memories have, as rliable computes them.

    Returns:
        `{"envs": [...], "aggregates": {memory: {"mean": (value, low, high), "iqm": ...}},
        "improvement": {(a, b): (value, low, high)}}`: 95% stratified bootstrap intervals, and the
        probability that a is better than b on an environment drawn at random.
    """
    from rliable import library, metrics

    shared = sorted(set.intersection(*(set(envs) for envs in results.values())))
    seeds = min(len(results[memory][env]) for memory in results for env in shared)
    scores = {
        memory: np.stack([results[memory][env][:seeds] for env in shared], axis=1)
        for memory in results
    }
    np.random.seed(0)  # rliable 1.2 ignores the generator that it is given

    def estimate(pairs: dict[str, Any], compute: Callable) -> dict[str, Any]:
        values, intervals = library.get_interval_estimates(pairs, compute, reps=2000)
        return {key: np.column_stack([values[key], intervals[key].T]) for key in values}

    aggregates = estimate(
        scores,
        lambda x: np.array([metrics.aggregate_mean(x), metrics.aggregate_iqm(x)]),
    )
    pairs = {f"{a},{b}": (scores[a], scores[b]) for a in scores for b in scores if a < b}
    better = {}
    if pairs:

        def improvement(x: np.ndarray, y: np.ndarray) -> np.ndarray:
            return np.array([metrics.probability_of_improvement(x, y)])

        better = estimate(pairs, improvement)
    return {
        "envs": shared,
        "aggregates": {
            name: dict(zip(("mean", "iqm"), rows.tolist(), strict=True))
            for name, rows in aggregates.items()
        },
        "improvement": {pair: rows[0].tolist() for pair, rows in better.items()},
    }


def read_published(path: str | Path | None) -> dict[str, float]:
    """MMER by environment from a file `{"source": ..., "mmer": {env: value}}`; None gives none.

    Raises:
        RunError: the file cannot be read, or is not of that form.
    """
    if path is None:
        return {}
    try:
        return {
            env: float(value) for env, value in json.loads(Path(path).read_text())["mmer"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise RunError(f"published={path}: not a file of published figures: {error}") from error


def report(
    folder: Path,
    published: dict[str, float] | None = None,
    jobs: Iterable[Job] | None = None,
    place: Path | None = None,
) -> None:
    """Print the tables; draw them to `<place>.png`, with the numbers in `<place>.summary.json`.

    Args:
        folder: of the results.
        published: a column of other people's figures by environment, to stand beside ours.
        jobs: see `read_results`.
        place: without an ending; default beside the folder, under its name.
    """
    place = place or folder
    results = read_results(folder, jobs)
    summary = summarise(results)
    print_tables(results, summary, published or {})
    for reason, files in invalid_results(folder, jobs).items():
        summary.setdefault(INVALID, {})[reason] = len(files)
        say(f"NOT VALID, do not quote: {len(files)} of these results ({files[0]}, …): {reason}")
    place.parent.mkdir(parents=True, exist_ok=True)
    # The name may have a dot in it, which is no ending.
    picture, numbers = (place.with_name(f"{place.name}{end}") for end in (".png", ".summary.json"))
    draw(summary, picture)
    write_atomically(numbers, json.dumps(summary, indent=2) + "\n")
    say(f"{picture}, {numbers}")


def report_place(config: BenchmarkConfig, jobs: Iterable[Job]) -> Path:
    """Where a report of these jobs goes: beside their results, if it is of all that are there.

    A report of a part must not take the place of the whole one's figure: it goes to the runs.
    """
    folder = result_folder(config)
    there = {path.name for path in folder.glob("*.json")}
    whole = there <= {job.result.name for job in jobs}
    return folder if whole else run_folder(config) / "report"


def print_tables(
    results: dict[str, dict[str, np.ndarray]], summary: dict[str, Any], published: dict[str, float]
) -> None:
    """MMER by environment and memory (mean of the seeds), then the aggregates."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 160)
    memories = sorted(results)
    table = Table("environment", *memories, *(["published"] if published else []))
    for env in sorted({env for envs in results.values() for env in envs}):
        cells = [_cell(results[memory].get(env)) for memory in memories]
        theirs = [f"{published[env]:+.3f}" if env in published else "-"] if published else []
        table.add_row(env, *cells, *theirs)
    console.print(table)
    table = Table(f"over {len(summary['envs'])} environments", "mean MMER", "IQM of MMER")
    for memory, rows in summary["aggregates"].items():
        table.add_row(memory, _interval(rows["mean"]), _interval(rows["iqm"]))
    console.print(table)
    for pair, row in summary["improvement"].items():
        a, b = pair.split(",")
        console.print(f"probability that {a} is better than {b}: {_interval(row)}")


def draw(summary: dict[str, Any], path: Path) -> None:
    """Aggregates with their intervals, and the probabilities of improvement."""
    from ssmrl import figures

    drawn: list[tuple[str, dict[str, list[float]]]] = [
        (f"{name} of MMER", {m: rows[key] for m, rows in summary["aggregates"].items()})
        for key, name in (("mean", "mean"), ("iqm", "IQM"))
    ]
    pairs = {pair.replace(",", " > "): row for pair, row in summary["improvement"].items()}
    drawn.append(("P(better)", pairs))

    @figures.styled
    def picture() -> None:
        figure, axes = figures.panels(3)
        for axis, (title, rows) in zip(axes, drawn, strict=True):
            for i, (name, (value, low, high)) in enumerate(rows.items()):
                colour, _ = figures.memory_line(name) or (figures.GREY, "-")
                axis.barh(i, high - low, left=low, height=0.6, alpha=0.6, color=colour)
                axis.vlines(value, i - 0.3, i + 0.3, color="black")
            axis.set_yticks(range(len(rows)), list(rows))
            axis.set_title(title)
        title = f"{len(summary['envs'])} environments, 95% stratified bootstrap intervals"
        figure.suptitle(f"NOT VALID: {title}" if INVALID in summary else title)
        figures.save(figure, path)

    picture()


def _cell(scores: np.ndarray | None) -> str:
    return "-" if scores is None else f"{scores.mean():+.3f}"


def _interval(row: Sequence[float]) -> str:
    value, low, high = row
    return f"{value:.3f} [{low:.3f}, {high:.3f}]"

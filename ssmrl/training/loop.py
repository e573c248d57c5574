"""The training loop: one compiled iteration, called until the steps are done.

It never waits for the device to read a metric: iteration ``i + 1`` is dispatched before the metrics
of iteration ``i`` are fetched. The one exception is a checkpoint or an evaluation, which must know
that the state it is about to keep came with finite metrics.
"""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

import jax
import numpy as np

from ssmrl.training import streams
from ssmrl.training.agent import Agent, RestartableAgent
from ssmrl.training.checkpoint import Checkpointer
from ssmrl.training.config import TrainConfig
from ssmrl.training.devices import compiler_options, make_mesh, state_shardings
from ssmrl.training.errors import NonFiniteError, RunError, StopTraining
from ssmrl.training.loggers import Logger, NullLogger
from ssmrl.training.progress import Reporter
from ssmrl.training.run import MetricsFile, RunFolder

EPISODE_MEANS = ("episode_", "info/")
"""How metrics begin that are means over the episodes that ended, which may be none."""


@dataclass(frozen=True)
class TrainResult:
    """How a run ended.

    Attributes:
        state: the agent's state; leaves ``[seeds, ...]`` when ``seeds > 1``.
        step: environment steps taken, per seed.
        compile_seconds: tracing and compiling the iteration.
        steps_per_second: over all seeds, in this process, compiling and evaluating excluded.
        stopped_by: the signal that ended it early, or None.
        nonfinite: iterations with a non-finite metric, under ``nonfinite=skip``.
    """

    state: Any
    step: int
    compile_seconds: float
    steps_per_second: float
    stopped_by: signal.Signals | None
    nonfinite: int


class StopSignals:
    """Turns the first SIGINT or SIGTERM into a request to stop after the iteration.

    A second SIGINT interrupts at once. Outside the main thread, where Python allows no handlers,
    it does nothing.
    """

    received: signal.Signals | None = None

    def __enter__(self) -> StopSignals:
        self._previous: dict[int, Any] = {}
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = signal.Signals(number)

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def seed_keys(seed: int, seeds: int) -> jax.Array:
    """Keys ``[seeds]`` of seed, seed+1, ...: seed k gets the same key however many train beside."""
    return jax.vmap(streams.training_key)(np.arange(seed, seed + seeds, dtype=np.uint32))


def init_state(agent: Agent, seed: int, seeds: int) -> Any:
    """The state before training; leaves gain a leading axis ``[seeds]`` when ``seeds > 1``."""
    if seeds == 1:
        return jax.jit(agent.init)(streams.training_key(seed))
    return jax.jit(over_seeds(agent.init))(seed_keys(seed, seeds))


def over_seeds(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of one seed as one program over a leading axis of seeds.

    Accelerators run the seeds side by side (`vmap`). A CPU is full with one, and its batched small
    matrix products are slow, so there they follow each other (`lax.map`), which is faster and makes
    seed k bit for bit what it is alone.
    """
    if jax.default_backend() == "cpu" and jax.device_count() == 1:
        return lambda batch: jax.lax.map(function, batch)
    return jax.vmap(function)


def abstract_state(agent: Agent, seed: int, seeds: int) -> Any:
    """`init_state` as ShapeDtypeStructs, without computing anything."""
    return jax.eval_shape(lambda: init_state(agent, seed, seeds))


def check_placement(agent: Agent, config: TrainConfig, *, is_host: bool) -> None:
    """Raise RunError unless the seeds and devices asked for can be had with this agent."""
    if is_host and config.seeds > 1:
        raise RunError(
            f"seeds={config.seeds}: this environment runs on the host and cannot be run for "
            "several seeds in one program; sweep over seed instead: -m seed=0,1,2"
        )
    mesh = make_mesh(config.devices)
    if mesh is not None:
        state = abstract_state(agent, config.seed, config.seeds)
        state_shardings(agent, mesh, state, config.seeds)


def train(
    agent: Agent,
    config: TrainConfig,
    run: RunFolder,
    *,
    reporter: Reporter,
    logger: Logger | None = None,
    evaluate: Callable[[Any, int], dict[str, Any]] | None = None,
    is_host: bool = False,
) -> TrainResult:
    """Train until ``config.total_steps``, from the newest whole checkpoint if ``config.resume``.

    Args:
        agent: what to train.
        config: of its fields, the top-level ones are read.
        run: an existing run folder; metrics.jsonl and checkpoints/ are written in it.
        reporter: where progress is shown.
        logger: receives every line of metrics.
        evaluate: ``(state, step) -> metrics``, called every ``config.eval_every`` steps.
        is_host: the environment lives outside the state and starts afresh on a resume.

    Raises:
        NonFiniteError: a metric became NaN or infinite, and ``config.nonfinite`` is ``stop``.
        RunError: a checkpoint or metric cannot be written, or the resume cannot be done.
    """
    check_placement(agent, config, is_host=is_host)
    checkpoints = Checkpointer(run.checkpoints)
    metrics_file = None
    try:
        with StopSignals() as signals:
            state, step = _start(agent, config, checkpoints, reporter, is_host)
            metrics_file = MetricsFile(run.metrics, keep_until=step)
            loop = _Loop(agent, config, checkpoints, metrics_file, reporter, logger, evaluate)
            return loop.run(state, step, signals)
    finally:
        if metrics_file is not None:
            metrics_file.close()
        checkpoints.close()


def _start(
    agent: Agent, config: TrainConfig, checkpoints: Checkpointer, reporter: Reporter, is_host: bool
) -> tuple[Any, int]:
    """The state and step to go on from."""
    if not (config.resume and checkpoints.steps()):
        return init_state(agent, config.seed, config.seeds), 0
    if is_host:
        # Creates the environment in this process; its arrays are then overwritten.
        jax.block_until_ready(init_state(agent, config.seed, config.seeds))
    like = abstract_state(agent, config.seed, config.seeds)
    state, step, _ = checkpoints.restore(like, warn=reporter.message)
    checkpoints.discard_after(step)
    reporter.message(f"resuming from the checkpoint of step {step:,}")
    if is_host and isinstance(agent, RestartableAgent):
        state = agent.restart(state, streams.restart_key(config.seed, step))
    return state, step


class _Loop:
    """The state of one call of `train`, so that its parts stay short."""

    def __init__(
        self,
        agent: Agent,
        config: TrainConfig,
        checkpoints: Checkpointer,
        metrics_file: MetricsFile,
        reporter: Reporter,
        logger: Logger | None,
        evaluate: Callable[[Any, int], dict[str, Any]] | None,
    ):
        self.agent, self.config, self.checkpoints = agent, config, checkpoints
        self.metrics_file, self.reporter = metrics_file, reporter
        self.logger = logger or NullLogger()
        self.evaluate = evaluate if config.eval_every else None
        self.nonfinite = 0
        self.busy_seconds = 0.0
        self.rate = 0.0
        self.told_to_stop = False

    def run(self, state: Any, step: int, signals: StopSignals) -> TrainResult:
        config, size = self.config, self.agent.steps_per_iteration
        if step >= config.total_steps:
            self.reporter.message(f"nothing to do: step {step:,} of {config.total_steps:,} is done")
            return TrainResult(state, step, 0.0, 0.0, None, 0)
        iteration, state, compile_seconds = self._compile(state)
        self.reporter.start(f"compiled in {compile_seconds:.1f} s", step, config.total_steps)
        first_step, pending = step, None
        try:
            self._mark = time.monotonic()
            while step < config.total_steps and not (signals.received or self.told_to_stop):
                state, metrics = iteration(state)
                step += size
                # The device is now busy with this iteration while the last one's metrics are read.
                if pending is not None:
                    self._finish(*pending)
                pending = (step, metrics)
                save = _crosses(step, size, config.checkpoint_every)
                test = self.evaluate is not None and _crosses(step, size, config.eval_every)
                if save or test:
                    self._finish(*pending, state=state if test else None)
                    pending = None
                if save:
                    self.checkpoints.save(step, state)
            if pending is not None:
                self._finish(*pending)
            # The last state is always kept: what a run learned must never depend on divisibility.
            self.checkpoints.save(step, state)
            self.checkpoints.wait()
        finally:
            self.reporter.stop()
        rate = (step - first_step) * config.seeds / max(self.busy_seconds, 1e-9)
        return TrainResult(state, step, compile_seconds, rate, signals.received, self.nonfinite)

    def _compile(self, state: Any) -> tuple[Callable[..., Any], Any, float]:
        """Compile the iteration ahead of time, so that rates need not guess what compiling cost."""
        started = time.monotonic()
        config, step = self.config, self.agent.iteration
        if config.seeds > 1:
            step = over_seeds(step)
        _check_same_types(state, jax.eval_shape(step, state)[0])
        mesh = make_mesh(config.devices)
        options: dict[str, Any] = {"compiler_options": compiler_options()}
        if mesh is not None:
            where = state_shardings(self.agent, mesh, state, config.seeds)
            state = jax.device_put(state, where)
            options |= {"in_shardings": (where,), "out_shardings": (where, None)}
        if jax.config.jax_disable_jit:
            # Nothing to compile: every operation runs by itself.
            return step, state, time.monotonic() - started
        # Donated: the old state's buffers become the new state's, which halves the memory needed.
        compiled = jax.jit(step, donate_argnums=0, **options).lower(state).compile()
        return compiled, state, time.monotonic() - started

    def _finish(self, step: int, metrics: dict[str, jax.Array], state: Any = None) -> None:
        """Fetch an iteration's metrics, judge them, and write them where they go."""
        values = {name: value.tolist() for name, value in fetch_metrics(metrics).items()}
        now = time.monotonic()
        seconds, self._mark = now - self._mark, now
        self.busy_seconds += seconds
        self._judge(step, values)
        line = {name: value for name, value in values.items() if not _is_missing(value)}
        if state is not None and self.evaluate is not None:
            line |= self.evaluate(state, step)
        rate = self.agent.steps_per_iteration / max(seconds, 1e-9)
        line["time/steps_per_second"] = round(rate * self.config.seeds, 1)
        self.metrics_file.write(step, line)
        try:
            self.logger.log(step, line)
        except StopTraining:
            self.told_to_stop = True
        self.rate = 0.8 * self.rate + 0.2 * rate if self.rate else rate
        self.reporter.update(step, line, self.rate)
        # What evaluating and reporting took is not the training loop's.
        if state is not None:
            self._mark = time.monotonic()

    def _judge(self, step: int, values: dict[str, Any]) -> None:
        bad = [
            name
            for name, value in values.items()
            if not name.startswith(EPISODE_MEANS) and not np.all(np.isfinite(value))
        ]
        if not bad:
            return
        # What the environments gave spoils all that follows from it: that is the news, if it is so.
        bad.sort(key=lambda name: (name != "env/reward", not name.startswith("env/")))
        giver = f" ({self.config.env.name} gave it)" if bad[0].startswith("env/") else ""
        self.nonfinite += 1
        steps = self.checkpoints.steps()
        if self.config.nonfinite == "skip":
            self.reporter.message(f"step {step:,}: {bad[0]} is not finite{giver}; update skipped")
            return
        keep = (
            f"the last good checkpoint is of step {steps[-1]:,} ({self.checkpoints.directory})"
            if steps
            else "there is no checkpoint yet"
        )
        value = values[bad[0]]
        raise NonFiniteError(f"step {step:,}: {bad[0]} is {value}{giver}; {keep}")


def fetch_metrics(metrics: dict[str, jax.Array]) -> dict[str, np.ndarray]:
    """Metrics on the host; means over episodes are NaN where there were no episodes.

    Here, because on a device that NaN would stop a program that looks for them.
    """
    values = {name: np.asarray(value) for name, value in jax.device_get(metrics).items()}
    none = values.get("episodes", np.ones(())) == 0
    return {
        name: np.where(none, np.nan, value) if name.startswith(EPISODE_MEANS) else value
        for name, value in values.items()
    }


def _crosses(step: int, size: int, every: int) -> bool:
    """Whether a multiple of ``every`` lies in ``(step - size, step]``."""
    return bool(every) and step // every > (step - size) // every


def _is_missing(value: Any) -> bool:
    """NaN, for every seed: nothing to report this iteration."""
    numbers = value if isinstance(value, list) else [value]
    return all(isinstance(number, float) and math.isnan(number) for number in numbers)


def _check_same_types(before: Any, after: Any) -> None:
    """An iteration must map states to states, or its second call would need another program."""
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise TypeError("Agent.iteration changes the structure of the state")
    old = jax.tree_util.tree_flatten_with_path(before)[0]
    for (path, a), b in zip(old, jax.tree.leaves(after), strict=True):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            raise TypeError(
                f"Agent.iteration changes {jax.tree_util.keystr(path)} of the state from "
                f"{a.dtype}{list(a.shape)} to {b.dtype}{list(b.shape)}"
            )

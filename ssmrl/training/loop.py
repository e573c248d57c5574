"""The training loop: one compiled iteration, called until the steps are done.

It never waits for the device to read a metric: iteration ``i + 1`` is dispatched before the metrics
of iteration ``i`` are fetched. The one exception is a checkpoint or an evaluation, which must know
that the state it is about to keep came with finite metrics. Both come after the metrics have been
written, and the evaluation last: whatever becomes of it, nothing is lost.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from ssmrl.training import heap, hosts, streams
from ssmrl.training.agent import Agent, RestartableAgent
from ssmrl.training.best import BestCheckpoint
from ssmrl.training.checkpoint import Checkpointer
from ssmrl.training.config import TrainConfig
from ssmrl.training.devices import (
    compiler_options,
    device_count,
    make_mesh,
    place,
    queues_programs,
    state_shardings,
)
from ssmrl.training.errors import NonFiniteError, RunError, StopTraining
from ssmrl.training.evaluation import EvaluationStoppedError
from ssmrl.training.host_storage import (
    HostStoredIteration,
    stores_on_host,
    with_empty_storage,
)
from ssmrl.training.loggers import Logger, NullLogger
from ssmrl.training.progress import Reporter, is_learning
from ssmrl.training.returns import STARTS, TrainingReturns, tallies
from ssmrl.training.run import MetricsFile, NoMetricsFile, RunFolder
from ssmrl.training.signals import StopSignals

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


_TOLD_TO_STOP = 1000  # A callback's wish to stop, beside the numbers of signals.
_LONG_ITERATION = 30.0  # Seconds that nobody expects to wait for an answer.


@runtime_checkable
class Evaluate(Protocol):
    """What the loop calls every ``config.eval_every`` steps."""

    def __call__(
        self, state: Any, step: int, *, longest_seen: float, should_stop: Callable[[], bool]
    ) -> dict[str, Any]:
        """Metrics of ``state``; names begin with ``eval/``.

        Args:
            state: of all seeds.
            step: environment steps taken.
            longest_seen: length of the longest episodes in training so far, in steps.
            should_stop: asked now and then.

        Raises:
            EvaluationStoppedError: ``should_stop`` said so.
        """
        ...


def seed_keys(seed: int, seeds: int) -> jax.Array:
    """Keys ``[seeds]`` of seed, seed+1, ...: seed k gets the same key however many train beside."""
    return jax.vmap(streams.training_key)(np.arange(seed, seed + seeds, dtype=np.uint32))


def init_state(agent: Agent, seed: int, seeds: int) -> Any:
    """The state before training; leaves gain a leading axis ``[seeds]`` when ``seeds > 1``."""
    return with_empty_storage(agent, _init_on_device(agent, seed, seeds), seeds)


def _init_on_device(agent: Agent, seed: int, seeds: int) -> Any:
    if seeds == 1:
        return jax.jit(agent.init)(streams.training_key(seed))
    return jax.jit(over_seeds(agent.init))(seed_keys(seed, seeds))


def over_seeds(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of one seed as one program over a leading axis of seeds.

    Accelerators run the seeds side by side (`vmap`). A CPU is full with one, and its batched small
    matrix products are slow, so there they follow each other (`lax.map`), which is faster. Either
    way seed k draws what it draws alone; its numbers are those of another program, and differ from
    those of seed k alone by rounding.
    """
    if jax.default_backend() == "cpu" and jax.device_count() == 1:
        return lambda batch: jax.lax.map(function, batch)
    return jax.vmap(function)


def abstract_state(agent: Agent, seed: int, seeds: int) -> Any:
    """`init_state` as ShapeDtypeStructs, without computing anything.

    What is stored on the host (`HostStoringAgent`) is there as arrays, which take no memory.
    """
    shapes = jax.eval_shape(lambda: _init_on_device(agent, seed, seeds))
    return with_empty_storage(agent, shapes, seeds)


def check_placement(agent: Agent, config: TrainConfig, *, is_host: bool) -> None:
    """Raise RunError unless the seeds and devices asked for can be had with this agent."""
    if is_host and hosts.count() > 1:
        raise RunError(
            f"{hosts.count()} processes: this environment is stepped in Python and hands its steps "
            "to one device of one process; train it in a process of its own (JAX_NUM_PROCESSES=1)"
        )
    if is_host and config.seeds > 1:
        raise RunError(
            f"seeds={config.seeds}: this environment runs on the host and cannot be run for "
            "several seeds in one program; sweep over seed instead: -m seed=0,1,2"
        )
    if is_host and device_count(config.devices) > 1:
        raise RunError(
            f"devices={config.devices}: this environment runs on the host and hands its steps to "
            "one device; leave devices=1"
        )
    if stores_on_host(agent) and device_count(config.devices) > 1:
        raise RunError(
            f"devices={config.devices}: this agent keeps a part of its state on the host "
            "(agent.replay_storage=host), which feeds one device; leave devices=1"
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
    evaluate: Evaluate | None = None,
    state: Any = None,
    is_host: bool = False,
) -> TrainResult:
    """Train until ``config.total_steps``, from the newest whole checkpoint if ``config.resume``.

    Args:
        agent: what to train.
        config: of its fields, the top-level ones are read.
        run: an existing run folder; metrics.jsonl and checkpoints/ are written in it. Of several
            processes (`ssmrl.training.hosts`) the first alone writes metrics, and logs.
        reporter: where progress is shown.
        logger: receives every line of metrics.
        evaluate: called every ``config.eval_every`` steps.
        state: to begin with, which it takes over; None: what `init_state` gives. Not for a resume.
        is_host: the environment lives outside the state and starts afresh on a resume.

    Raises:
        NonFiniteError: a metric became NaN or infinite, and ``config.nonfinite`` is ``stop``.
        RunError: a checkpoint or metric cannot be written, the resume cannot be done, or another
            process trains in the folder.
    """
    check_placement(agent, config, is_host=is_host)
    with contextlib.ExitStack() as stack:
        if hosts.is_first():
            stack.enter_context(run.lock(warn=reporter.message))
        checkpoints = Checkpointer(run.checkpoints, keep=config.keep_checkpoints)
        stack.enter_context(contextlib.closing(checkpoints))
        best = None
        if config.keep_best:
            best = stack.enter_context(contextlib.closing(BestCheckpoint(run.best)))
        loop = _Loop(agent, config, checkpoints, best, reporter, logger, evaluate)
        signals = stack.enter_context(StopSignals(loop.announce_stop))
        # Left first: others must know of an error before checkpoints, which wait for them, close.
        stack.enter_context(hosts.together())
        state, step = _start(agent, config, checkpoints, reporter, is_host, state)
        metrics_file, episodes_file = (
            stack.enter_context(contextlib.closing(_metrics_file(path, step)))
            for path in (run.metrics, run.episodes)
        )
        loop.count_episodes(episodes_file, step, is_host)
        return loop.run(state, step, metrics_file, signals)


def _metrics_file(path: Path, step: int) -> MetricsFile | NoMetricsFile:
    return MetricsFile(path, keep_until=step) if hosts.is_first() else NoMetricsFile()


def _start(
    agent: Agent,
    config: TrainConfig,
    checkpoints: Checkpointer,
    reporter: Reporter,
    is_host: bool,
    state: Any,
) -> tuple[Any, int]:
    """The state and step to go on from."""
    if not (config.resume and hosts.from_first(checkpoints.steps)):
        return init_state(agent, config.seed, config.seeds) if state is None else state, 0
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
        best: BestCheckpoint | None,
        reporter: Reporter,
        logger: Logger | None,
        evaluate: Evaluate | None,
    ):
        self.agent, self.config, self.checkpoints = agent, config, checkpoints
        self.best, self.reporter, self.logger = best, reporter, logger or NullLogger()
        self.evaluate = evaluate if config.eval_every else None
        self.nonfinite = 0
        self.told_to_stop = False
        self.gave_up_evaluation = self.has_warned = False
        self.busy_seconds = self.iteration_seconds = 0.0
        self.rate = _Rate()
        mesh = make_mesh(config.devices) if hosts.count() > 1 else None
        self.agreement = None if mesh is None else hosts.Agreement(mesh)

    def count_episodes(self, file: MetricsFile | NoMetricsFile, step: int, is_host: bool) -> None:
        """Go on with the training return where ``step`` left it.

        Args:
            file: of what has ended so far.
            step: environment steps taken.
            is_host: the episodes under way were lost with the process that a resumed run was in.
        """
        config, size = self.config, self.agent.steps_per_iteration
        self.episodes_file = file
        self.returns = TrainingReturns(config.seeds, size, config.total_steps, file.kept, step)
        if step and (is_host or not self.returns.is_whole):
            file.write(step, self.returns.abandon(step))

    def run(
        self,
        state: Any,
        step: int,
        metrics_file: MetricsFile | NoMetricsFile,
        signals: StopSignals,
    ) -> TrainResult:
        config = self.config
        self.metrics_file, self.signals = metrics_file, signals
        self.longest_episode = hosts.from_first(lambda: longest_episode(metrics_file.kept))
        own = hosts.from_first(lambda: [x for x in metrics_file.kept if x["step"] == step])
        if self._is_owed_evaluation(step, own):
            self._evaluate(step, state)
        else:
            for line in own:
                self._keep_if_best(step, state, line)
        if step >= config.total_steps:
            self.reporter.message(f"nothing to do: step {step:,} of {config.total_steps:,} is done")
            return TrainResult(state, step, 0.0, 0.0, None, 0)
        self.reporter.message("compiling, which takes seconds to minutes")
        iteration, state, compile_seconds = self._compile(state)
        heap.give_back()
        self._announce_start(step)
        first_step = step
        try:
            state, step = self._iterate(iteration, state, step)
            # The last state is always kept: what a run learned must never depend on divisibility.
            self._save(step, state)
            self.checkpoints.wait()
        finally:
            self.reporter.stop()
        rate = (step - first_step) * config.seeds / max(self.busy_seconds, 1e-9)
        # A signal that came when everything was done has stopped nothing.
        is_done = step >= config.total_steps and not self.gave_up_evaluation
        stopped_by = None if is_done else signals.received
        return TrainResult(state, step, compile_seconds, rate, stopped_by, self.nonfinite)

    def _iterate(self, iteration: Callable[..., Any], state: Any, step: int) -> tuple[Any, int]:
        """Train until the steps are done or a signal has come."""
        config, size = self.config, self.agent.steps_per_iteration
        pending = None
        self._mark = time.monotonic()
        while step < config.total_steps and not self._is_to_stop():
            state, metrics = iteration(state)
            step += size
            if not queues_programs():
                jax.block_until_ready(state)
            done_at = _time_if_ready(metrics)
            # The device is now busy with this iteration while the last one's metrics are read.
            if pending is not None:
                before, earlier, ended_at = pending
                if ended_at is None and done_at is not None:
                    # Both have ended, and nothing tells when the first did: they share the time.
                    ended_at = (self._mark + done_at) / 2
                self._finish(before, earlier, ended_at)
            pending = (step, metrics, done_at)
            save = crosses(step, size, config.checkpoint_every)
            test = self.evaluate is not None and crosses(step, size, config.eval_every)
            if save or test:
                self._finish(*pending)
                pending = None
            if save:
                self._save(step, state)
            if test and (line := self._evaluate(step, state)):
                self.reporter.update(step, line, self.rate.value)
        if pending is not None:
            self._finish(*pending)
        return state, step

    def _is_to_stop(self, *, wait: bool = False) -> bool:
        """Whether a signal has come, or a callback has said so; to any of several processes.

        All of those call this behind the same iterations, and hear the same. Without ``wait`` they
        hear what was known an iteration ago, so that nobody waits for the one under way.
        """
        wish = _TOLD_TO_STOP if self.told_to_stop else int(self.signals.received or 0)
        if self.agreement is not None:
            wish = self.agreement.greatest(wish, wait=wait or not queues_programs())
        if wish == _TOLD_TO_STOP:
            self.told_to_stop = True
        elif wish:
            self.signals.received = signal.Signals(wish)
        return wish != 0

    def _announce_start(self, step: int) -> None:
        """Say what the whole iterations add up to, where that is not the number asked for."""
        size, total = self.agent.steps_per_iteration, self.config.total_steps
        last = step + math.ceil((total - step) / size) * size
        if last != total:
            self.reporter.message(
                f"total_steps={total:,} ends within an iteration of {size:,} steps: training ends "
                f"with that iteration, at step {last:,}"
            )
        agent, memory, env = (getattr(self.config, x).name for x in ("agent", "memory", "env"))
        self.reporter.start(f"{env}, {agent} with {memory}", step, last)

    def announce_stop(self, number: signal.Signals) -> None:
        """Called from another thread: the main one may be waiting for the device."""
        wait = f" (one takes {self.iteration_seconds:.0f} s)" if self.iteration_seconds > 2 else ""
        self.reporter.message(
            f"{number.name}: the iteration under way is finished{wait} and a checkpoint written, "
            "then this stops"
        )

    def _compile(self, state: Any) -> tuple[Callable[..., Any], Any, float]:
        """Compile the iteration ahead of time, so that rates need not guess what compiling cost."""
        started = time.monotonic()
        config, step = self.config, self.agent.iteration
        if stores_on_host(self.agent):
            return self._compile_around_host(state, started)
        if config.seeds > 1:
            step = over_seeds(step)
        _check_same_types(state, jax.eval_shape(step, state)[0])
        mesh = make_mesh(config.devices)
        options: dict[str, Any] = {"compiler_options": compiler_options()}
        surroundings: Any = contextlib.nullcontext()
        if mesh is not None:
            if config.seeds == 1:
                surroundings = jax.set_mesh(mesh)  # for the agent's own split_batch
            where = state_shardings(self.agent, mesh, state, config.seeds)
            state = place(state, where)
            # Metrics everywhere: each process reads them.
            everywhere = NamedSharding(mesh, PartitionSpec())
            options |= {"in_shardings": (where,), "out_shardings": (where, everywhere)}
        if jax.config.jax_disable_jit:
            # Nothing to compile: every operation runs by itself.
            return step, state, time.monotonic() - started
        # Donated: the old state's buffers become the new state's, which halves the memory needed.
        with surroundings:
            compiled = jax.jit(step, donate_argnums=0, **options).lower(state).compile()
        return compiled, state, time.monotonic() - started

    def _compile_around_host(
        self, state: Any, started: float
    ) -> tuple[Callable[..., Any], Any, float]:
        """`_compile` for agents that store on the host, on one device."""
        iteration = HostStoredIteration(
            self.agent,  # type: ignore[arg-type]
            state,
            self.config.seeds,
            over_seeds,
            compiler_options=compiler_options(),
        )
        _check_same_types(self.agent.with_storage(state, None), iteration.shapes_after[0])
        return iteration, state, time.monotonic() - started

    def _finish(self, step: int, metrics: dict[str, jax.Array], done_at: float | None) -> None:
        """Fetch an iteration's metrics, judge them, and write them where they go.

        Args:
            step: environment steps taken with the iteration.
            metrics: on the device, perhaps still to be computed.
            done_at: when the iteration had ended, if that is known already.
        """
        fetched = fetch_metrics(metrics)
        values = {name: x.tolist() for name, x in fetched.items() if not name.startswith(STARTS)}
        now = done_at or time.monotonic()
        self.iteration_seconds, self._mark = now - self._mark, now
        self.busy_seconds += self.iteration_seconds
        self._warn_of_long_iterations()
        self._judge(step, values)
        line = {name: value for name, value in values.items() if not _is_missing(value)}
        self.longest_episode = max(self.longest_episode, longest_episode([line]))
        rate = self.agent.steps_per_iteration / max(self.iteration_seconds, 1e-9)
        line["time/steps_per_second"] = round(rate * self.config.seeds, 1)
        line |= self._count_episodes(step, fetched)
        self._write(step, line)
        self.reporter.update(step, line, self.rate.update(rate, is_learning(line)))

    def _count_episodes(self, step: int, fetched: dict[str, np.ndarray]) -> dict[str, Any]:
        """The training return, where there is news of it.

        Of several points at once, when a long episode held them up, all but the last get lines of
        their own.
        """
        of_starts = {n.removeprefix(STARTS): x for n, x in fetched.items() if n.startswith(STARTS)}
        if not of_starts:
            return {}
        record, points = self.returns.add(tallies(of_starts, self.config.seeds))
        self.episodes_file.write(step, record)
        for point in points[:-1]:
            self._write(step, point)
        return points[-1] if points else {}

    def _warn_of_long_iterations(self) -> None:
        if self.iteration_seconds > _LONG_ITERATION and not self.has_warned:
            self.has_warned = True
            self.reporter.message(
                f"an iteration takes {self.iteration_seconds:.0f} s, and metrics, checkpoints and "
                "signals wait for its end; a smaller agent.rollout_length, or model, makes it "
                "shorter"
            )

    def _write(self, step: int, line: dict[str, Any]) -> None:
        self.metrics_file.write(step, line)
        try:
            self.logger.log(step, line)
        except StopTraining:
            self.told_to_stop = True

    def _evaluate(self, step: int, state: Any) -> dict[str, Any] | None:
        """Evaluate, in a line of its own; what it takes is not the training loop's time.

        Returns:
            The line, or None where a signal came first.
        """
        assert self.evaluate is not None
        try:
            line = self.evaluate(
                state,
                step,
                longest_seen=self.longest_episode,
                should_stop=self._should_give_up,
            )
        except EvaluationStoppedError:
            self.gave_up_evaluation = True
            self.reporter.message(f"step {step:,}: evaluation given up; it is made up on a resume")
            return None
        heap.give_back()  # The first one has been compiled.
        self._write(step, line)
        self._keep_if_best(step, state, line)
        self._mark = time.monotonic()
        return line

    def _should_give_up(self) -> bool:
        """Whether a signal asks to stop; what a callback asks for can wait for an evaluation."""
        self._is_to_stop(wait=True)
        return self.signals.received is not None

    def _keep_if_best(self, step: int, state: Any, line: dict[str, Any]) -> None:
        if self.best is not None:
            self.best.offer(step, state, line)

    def _save(self, step: int, state: Any) -> None:
        """Start writing a checkpoint, the last one and the best one being on disk.

        A run that goes on from here does no evaluation before it again, and could not make up for
        a best one that is missing.
        """
        if self.best is not None:
            self.best.wait()
        self.checkpoints.save(step, state)
        heap.give_back()

    def _is_owed_evaluation(self, step: int, own: list[dict[str, Any]]) -> bool:
        """Whether the evaluation at the step of a resume was due, and is not in its metrics.

        Args:
            step: of the resume.
            own: the lines of that step that were there before.
        """
        size, every = self.agent.steps_per_iteration, self.config.eval_every
        if self.evaluate is None or step == 0 or not crosses(step, size, every):
            return False
        return not any(name.startswith("eval/") for line in own for name in line)

    def _judge(self, step: int, values: dict[str, Any]) -> None:
        bad = [
            name
            for name, value in values.items()
            if not name.startswith(EPISODE_MEANS) and not _is_finite(value)
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

    Here, because on a device that NaN would stop a program that looks for them. Of the episodes
    that ended in an iteration, a mean is what the short ones returned above all: a first look, and
    no measure of a policy, which `ssmrl.training.returns` has.
    """
    if jax.default_backend() != "cpu":
        for value in metrics.values():
            value.copy_to_host_async()  # All of them, before the first is waited for.
    # Not jax.device_get, which takes ten times as long for arrays as small as these.
    values = {name: np.asarray(value) for name, value in metrics.items()}
    none = np.asarray(values.get("episodes", 1)) == 0

    def reported(name: str, value: np.ndarray) -> np.ndarray:
        if not name.startswith(EPISODE_MEANS):
            return value
        # The environment's own means have a mark of their own: it need not say them every episode.
        unsaid = ~np.isfinite(value) if name.startswith("info/") else False
        return np.where(none | unsaid, np.nan, value)

    return {name: reported(name, value) for name, value in values.items()}


class _Rate:
    """Environment steps per second and seed, smoothed over iterations.

    Collecting before the first update, to fill a replay buffer, is many times faster than what
    comes after: the two are not mixed.
    """

    def __init__(self) -> None:
        self.value = math.nan
        self._learning: bool | None = None

    def update(self, rate: float, learning: bool) -> float:
        fresh = learning != self._learning
        self._learning = learning
        self.value = rate if fresh else 0.8 * self.value + 0.2 * rate
        return self.value


def longest_episode(lines: Iterable[dict[str, Any]]) -> float:
    """The greatest mean length of the episodes of an iteration, in steps; 0 where none ended."""
    lengths = [line["episode_length"] for line in lines if "episode_length" in line]
    numbers = [n for length in lengths for n in np.atleast_1d(np.asarray(length, float))]
    return max([0.0, *(float(n) for n in numbers if math.isfinite(n))])


def _time_if_ready(metrics: dict[str, jax.Array]) -> float | None:
    """Now, if an iteration has ended by the time that its call returns.

    Host environments are stepped within the call. Counted from when its metrics are read, which is
    after the next one, the last iteration would have taken no time at all.
    """
    return time.monotonic() if all(x.is_ready() for x in metrics.values()) else None


def crosses(step: int, size: int, every: int) -> bool:
    """Whether a multiple of ``every`` lies in ``(step - size, step]``."""
    return bool(every) and step // every > (step - size) // every


def _is_finite(value: Any) -> bool:
    """All of a number or of nested lists of them."""
    if isinstance(value, (int, float)):  # most are, and NumPy is slow with one
        return math.isfinite(value)
    return bool(np.isfinite(value).all())


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

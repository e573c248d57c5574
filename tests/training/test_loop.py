"""The loop: what it writes and when, how it stops, and that resuming is not stopping."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import signal
import threading
import time
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.training import hosts
from ssmrl.training import loop as loop_module
from ssmrl.training.checkpoint import Checkpointer
from ssmrl.training.errors import NonFiniteError, RunError
from ssmrl.training.evaluation import EvaluationStoppedError
from ssmrl.training.loading import build_agent
from ssmrl.training.loop import TrainResult, train
from ssmrl.training.progress import format_time_left
from ssmrl.training.run import RunFolder, read_metrics
from ssmrl.training.signals import _restore
from tests.training.stub import STUB, StubAgent
from tests.training.test_checkpoint import bits

SIZE = 20  # Steps an iteration of the stub: 4 environments times 5.


def run_loop(config, record, agent=None, **options) -> tuple[RunFolder, TrainResult]:
    run = RunFolder(config.run_dir)
    if not run.exists():
        run.create({})
    agent = agent or build_agent(STUB, config)[0]
    return run, train(agent, config, run, reporter=record, **options)


def lines_of(run: RunFolder) -> list[dict]:
    """metrics.jsonl without what clocks say."""
    lines = read_metrics(run.metrics)
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def saved_steps(run: RunFolder) -> list[int]:
    checkpoints = Checkpointer(run.checkpoints, read_only=True)
    try:
        return checkpoints.steps()
    finally:
        checkpoints.close()


def test_a_line_for_every_iteration_in_strict_json(make_config, record):
    run, result = run_loop(make_config(total_steps=90), record)
    # 90 is no multiple of 20: the last iteration is a whole one.
    assert result.step == 100
    texts = run.metrics.read_text().splitlines()
    lines = [json.loads(text, parse_constant=pytest.fail) for text in texts]
    assert [line["step"] for line in lines] == [20, 40, 60, 80, 100]
    # No episode finished in the odd iterations: the key is left out rather than NaN.
    assert ["episode_return" in line for line in lines] == [False, True, False, True, False]
    assert [line["episodes"] for line in lines] == [0, 1, 0, 1, 0]
    assert all(line["time/steps_per_second"] > 0 for line in lines)
    assert [step for step, _, _ in record.updates] == [20, 40, 60, 80, 100]
    assert record.stopped == 1


def test_means_over_no_episodes_are_not_reported():
    """Whatever they are where `episodes` is 0; of several seeds, one by one."""
    metrics = {
        "episodes": jnp.array([0.0, 2.0]),
        "episode_return": jnp.array([0.0, 3.0]),
        "loss/total": jnp.array([0.0, 0.5]),
    }
    values = loop_module.fetch_metrics(metrics)
    np.testing.assert_array_equal(values["episode_return"], [np.nan, 3])
    np.testing.assert_array_equal(values["episodes"], [0, 2])
    np.testing.assert_array_equal(values["loss/total"], [0, 0.5])
    one = loop_module.fetch_metrics({name: value[0] for name, value in metrics.items()})
    assert np.isnan(one["episode_return"]) and one["loss/total"] == 0
    # What the environment says need not be said in every episode, and is said without a number.
    said = {"episodes": jnp.array([2.0, 2.0, 0.0]), "info/won": jnp.array([1.0, jnp.inf, 1.0])}
    won = loop_module.fetch_metrics(said)["info/won"]
    np.testing.assert_array_equal(won, [1, np.nan, np.nan])
    # An agent that does not count its episodes says so with NaN itself.
    assert loop_module.fetch_metrics({"episode_return": jnp.zeros(())})["episode_return"] == 0


def test_all_metrics_are_under_way_before_the_first_is_waited_for(monkeypatch):
    """From an accelerator; a CPU has nothing to copy."""
    calls: list[str] = []
    metrics = {"a": jnp.float32(1), "b": jnp.float32(2)}
    array, read = type(metrics["a"]), np.asarray
    monkeypatch.setattr(array, "copy_to_host_async", lambda self: calls.append("begin"))
    monkeypatch.setattr(
        loop_module.np,
        "asarray",
        lambda x, *rest: (isinstance(x, array) and calls.append("read"), read(x, *rest))[1],
    )
    assert loop_module.fetch_metrics(metrics) == {"a": 1, "b": 2}
    assert calls == ["read", "read"]
    calls.clear()
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert loop_module.fetch_metrics(metrics) == {"a": 1, "b": 2}
    assert calls == ["begin", "begin", "read", "read"]


def test_checkpoints_at_multiples_and_at_the_end(make_config, record):
    run, _ = run_loop(make_config(total_steps=200, checkpoint_every=60), record)
    assert saved_steps(run) == [180, 200]
    run, _ = run_loop(make_config(checkpoint_every=0, run_dir="runs/end"), record)
    assert saved_steps(run) == [200]


def test_metrics_are_fetched_one_iteration_late(make_config, record, monkeypatch):
    """Dispatch i+1 comes before the fetch of i, but at a checkpoint, which wants i verified."""
    events: list[str] = []
    fetch = loop_module.fetch_metrics
    compile_ = loop_module._Loop._compile

    def compile_and_note(self, state):
        iteration, state, seconds = compile_(self, state)

        def noted(state):
            events.append("dispatch")
            return iteration(state)

        return noted, state, seconds

    monkeypatch.setattr(loop_module._Loop, "_compile", compile_and_note)
    monkeypatch.setattr(
        loop_module, "fetch_metrics", lambda x: (events.append("fetch"), fetch(x))[1]
    )
    run_loop(make_config(total_steps=4 * SIZE, checkpoint_every=0), record)
    d, f = "dispatch", "fetch"
    assert events == [d, d, f, d, f, d, f, f]
    events.clear()
    config = make_config(total_steps=4 * SIZE, checkpoint_every=2 * SIZE, run_dir="runs/2")
    run_loop(config, record)
    assert events == [d, d, f, f, d, d, f, f]


@pytest.mark.parametrize("seeds", [1, 3])
def test_resuming_is_bit_for_bit_not_stopping(make_config, record, seeds):
    whole, expected = run_loop(make_config(seeds=seeds, run_dir="runs/whole"), record)
    options = {"seeds": seeds, "run_dir": "runs/parts"}
    run_loop(make_config(total_steps=120, **options), record)
    parts, result = run_loop(make_config(resume=True, **options), record)
    assert result.step == expected.step
    assert bits(result.state) == bits(expected.state)
    assert lines_of(parts) == lines_of(whole)
    assert "resuming from the checkpoint of step 120" in record.messages


def test_lines_after_the_checkpoint_are_dropped_on_resume(make_config, record):
    run, _ = run_loop(make_config(total_steps=120), record)
    expected = lines_of(run)
    with run.metrics.open("a") as file:
        # Iterations after the checkpoint that a crash has lost, and a line cut short.
        file.write('{"step": 140, "loss/total": 9.0}\n{"step": 160, "loss')
    _, result = run_loop(make_config(total_steps=200, resume=True), record)
    assert result.step == 200
    assert [line["step"] for line in lines_of(run)] == list(range(20, 220, 20))
    assert lines_of(run)[:6] == expected
    assert lines_of(run)[6]["loss/total"] != 9.0


def test_a_damaged_newest_checkpoint_costs_one_interval(make_config, record):
    whole, expected = run_loop(make_config(run_dir="runs/whole"), record)
    run, _ = run_loop(make_config(total_steps=120), record)
    assert saved_steps(run) == [60, 120]
    for path in (run.checkpoints / "120" / "state").rglob("d/*"):
        path.write_bytes(b"")
    _, result = run_loop(make_config(resume=True), record)
    assert any(m.startswith("the checkpoint of step 120 is damaged") for m in record.messages)
    assert "resuming from the checkpoint of step 60" in record.messages
    assert bits(result.state) == bits(expected.state)
    assert lines_of(run) == lines_of(whole)
    # The damaged one has made room for its successor of the same step.
    assert saved_steps(run) == [180, 200]


def test_two_trainings_in_one_folder(make_config, record):
    config = make_config()
    run = RunFolder(config.run_dir)
    run.create({})
    with run.lock(), pytest.raises(RunError, match="runs/test is being trained by process"):
        run_loop(config, record)
    assert sorted(path.name for path in run.path.iterdir()) == ["config.yaml", "lock"]
    # It was only that: the folder is as good as new.
    assert run_loop(config, record)[1].step == 200


def test_resuming_a_finished_run_changes_nothing(make_config, record):
    run, first = run_loop(make_config(), record)
    before = run.metrics.read_bytes()
    _, again = run_loop(make_config(resume=True), record)
    assert again == TrainResult(again.state, first.step, 0.0, 0.0, None, 0)
    assert bits(again.state) == bits(first.state)
    assert run.metrics.read_bytes() == before
    assert "nothing to do: step 200 of 200 is done" in record.messages


def test_seeds_side_by_side_are_the_seeds_alone(make_config, record):
    run, together = run_loop(make_config(seeds=3, seed=5, run_dir="runs/3"), record)
    lines = lines_of(run)
    for index in range(3):
        config = make_config(seed=5 + index, run_dir=f"runs/alone{index}")
        run, alone = run_loop(config, record)
        state = jax.tree.map(lambda leaf, i=index: leaf[i], together.state)
        np.testing.assert_allclose(state["w"], alone.state["w"], rtol=1e-5)
        assert bits(state["key"]) == bits(alone.state["key"])
        for line, single in zip(lines, lines_of(run), strict=True):
            assert line["loss/total"][index] == pytest.approx(single["loss/total"], rel=1e-4)


def test_a_nan_loss_stops_with_step_metric_and_last_good_checkpoint(make_config, record):
    config = make_config(agent={"fail_at": 8}, checkpoint_every=40, keep_checkpoints=3)
    with pytest.raises(NonFiniteError) as error:
        run_loop(config, record)
    message = str(error.value)
    assert message.startswith(
        "step 160: loss/total is nan; the last good checkpoint is of step 120"
    )
    run = RunFolder(config.run_dir)
    assert saved_steps(run) == [40, 80, 120]
    assert [line["step"] for line in lines_of(run)] == list(range(20, 160, 20))
    assert record.stopped == 1


@pytest.mark.parametrize("fail_at", [3, 10])
def test_a_state_with_non_finite_metrics_is_never_kept(make_config, record, fail_at):
    # Iteration 3 ends on a checkpoint, iteration 10 is the last.
    with pytest.raises(NonFiniteError):
        run_loop(make_config(agent={"fail_at": fail_at}), record)
    assert SIZE * fail_at not in saved_steps(RunFolder("runs/test"))


def test_one_seed_of_several_is_enough_to_stop(make_config, record):
    class OneFails(StubAgent):
        def iteration(self, state):
            state, metrics = super().iteration(state)
            bad = (state["count"] == 2) & (state["w"][0, 0] == state["w"].max())
            metrics["loss/value"] = jnp.where(bad | (state["count"] == 3), jnp.inf, 0.0)
            return state, metrics

    config = make_config(seeds=2)
    agent = OneFails(config.agent, config.memory, build_agent(STUB, config)[1], False)
    with pytest.raises(NonFiniteError, match="loss/value is .*inf.*; there is no checkpoint yet"):
        run_loop(config, record, agent)


def test_a_nan_of_the_environments_is_told_as_theirs(make_config, record):
    """Everything that follows from it is NaN too, some of it earlier in the alphabet."""

    class NanReward(StubAgent):
        def iteration(self, state):
            state, metrics = super().iteration(state)
            names = ("approx_kl", "env/observation", "env/reward", "loss/total")
            return state, metrics | dict.fromkeys(names, jnp.float32(jnp.nan))

    config = make_config()
    agent = NanReward(config.agent, config.memory, build_agent(STUB, config)[1], False)
    with pytest.raises(NonFiniteError) as error:
        run_loop(config, record, agent)
    name = config.env.name
    assert str(error.value).startswith(f"step 20: env/reward is nan ({name} gave it); there is no")
    run_loop(dataclasses.replace(config, nonfinite="skip", run_dir="runs/skip"), record, agent)
    assert f"step 20: env/reward is not finite ({name} gave it); update skipped" in record.messages


def test_of_what_is_not_finite_the_environment_s_is_told_first(loop):
    values = {"approx_kl": math.nan, "env/observation": math.inf, "loss/total": math.nan}
    with pytest.raises(NonFiniteError, match="^step 20: env/observation is inf .* gave it"):
        loop()._judge(20, values)


def test_skip_goes_on_and_counts(make_config, record):
    run, result = run_loop(make_config(agent={"fail_at": 4}, nonfinite="skip"), record)
    assert result.step == 200
    assert result.nonfinite == 1
    assert "step 80: loss/total is not finite; update skipped" in record.messages
    assert "loss/total" not in lines_of(run)[3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_finishes_the_iteration_saves_and_stops(make_config, record, number):
    class Interrupted(StubAgent):
        def iteration(self, state):
            def send(count):
                if count == 4:
                    os.kill(os.getpid(), number)

            jax.debug.callback(send, state["count"])
            return super().iteration(state)

    config = make_config(total_steps=100_000)
    agent = Interrupted(config.agent, config.memory, build_agent(STUB, config)[1], False)
    before = signal.getsignal(number)
    run, result = run_loop(config, record, agent)
    assert result.stopped_by == number
    assert 100 <= result.step < 100_000
    assert saved_steps(run)[-1] == result.step
    assert lines_of(run)[-1]["step"] == result.step
    assert signal.getsignal(number) == before


def test_a_signal_that_comes_when_all_is_done_has_stopped_nothing(make_config, record):
    def evaluate(state, step, *, longest_seen, should_stop):
        if step == 200:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    _, result = run_loop(make_config(eval_every=40), record, evaluate=evaluate)
    assert (result.step, result.stopped_by) == (200, None)


def test_whoever_sends_a_signal_is_answered_while_the_iteration_lasts(make_config, record):
    """The main thread waits for the device, where Python runs no handlers."""
    answers = []

    class Waits(StubAgent):
        def iteration(self, state):
            def send(count):
                if count == 2:
                    os.kill(os.getpid(), signal.SIGTERM)
                    for _ in range(1000):
                        if any("SIGTERM" in message for message in record.messages):
                            break
                        time.sleep(0.01)
                    answers.extend(record.messages[-1:])

            jax.debug.callback(send, state["count"])
            return super().iteration(state)

    config = make_config()
    agent = Waits(config.agent, config.memory, build_agent(STUB, config)[1], False)
    _, result = run_loop(config, record, agent)
    assert result.stopped_by == signal.SIGTERM
    assert answers == [
        "SIGTERM: the iteration under way is finished and a checkpoint written, then this stops"
    ]
    # The watching thread ends with the training.
    assert not [thread for thread in threading.enumerate() if thread.name == "signals"]


def test_a_program_s_own_handler_of_sigusr1_stays_its_own(make_config, record):
    heard = []

    class Interrupted(StubAgent):
        def iteration(self, state):
            send = lambda count: os.kill(os.getpid(), signal.SIGUSR1)  # noqa: E731
            jax.debug.callback(send, state["count"])
            return super().iteration(state)

    config = make_config(total_steps=40)
    agent = Interrupted(config.agent, config.memory, build_agent(STUB, config)[1], False)
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        _, result = run_loop(config, record, agent)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert result.stopped_by is None and heard


def test_a_handler_that_python_did_not_set_is_no_obstacle(monkeypatch):
    """faulthandler's, for one: it is found as None, which cannot be set again."""
    monkeypatch.setattr(signal, "signal", lambda number, handler: restored.append(handler))
    restored = []
    _restore({signal.SIGTERM: None, signal.SIGINT: signal.SIG_IGN})
    assert restored == [signal.SIG_DFL, signal.SIG_IGN]


def test_so_many_checkpoints_are_kept(make_config, record):
    for keep, steps in ((1, [200]), (3, [120, 180, 200])):
        config = make_config(keep_checkpoints=keep, run_dir=f"runs/{keep}")
        assert saved_steps(run_loop(config, record)[0]) == steps


def test_steps_that_no_iteration_ends_on_are_explained(make_config, record):
    totals, titles = [], set()

    def start(title, step, total):
        totals.append((step, total))
        titles.add(title)

    record.start = start
    run_loop(make_config(total_steps=50), record)
    run_loop(make_config(total_steps=130, resume=True), record)
    run_loop(make_config(total_steps=200, resume=True), record)
    assert totals == [(0, 60), (60, 140), (140, 200)]
    assert titles == {"stub/line, stub with tape"}
    assert record.messages.count("compiling, which takes seconds to minutes") == 3
    explained = [message for message in record.messages if "total_steps" in message]
    assert explained == [
        f"total_steps={total} ends within an iteration of 20 steps: training ends with that "
        f"iteration, at step {last}"
        for total, last in ((50, 60), (130, 140))
    ]


# ------------------------------------------------------------------------------------- rates


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = [1000.0]
    monkeypatch.setattr(loop_module.time, "monotonic", lambda: now[0])
    return now


@pytest.mark.parametrize(
    ("waits_in_call", "takes", "seeds"), [(True, 2.0, 1), (False, 2.0, 1), (True, 0.25, 3)]
)
def test_every_iteration_is_timed_whole(
    make_config, record, clock, monkeypatch, waits_in_call, takes, seeds
):
    """Each takes as long: within its call (a host environment) or until its metrics are there.

    Timed from one reading of metrics to the next, the first would take twice that and the last
    none. What compiling takes, here 5 s, is told apart.
    """
    compile_, fetch = loop_module._Loop._compile, loop_module.fetch_metrics

    def compile_and_wait(self, state):
        iteration, state, seconds = compile_(self, state)

        def slow(state):
            clock[0] += takes * waits_in_call
            return iteration(state)

        return slow, state, seconds

    def slow_fetch(x):
        clock[0] += takes * (not waits_in_call)
        return fetch(x)

    def slow_check(before, after):
        clock[0] += 5.0

    monkeypatch.setattr(loop_module, "_check_same_types", slow_check)

    monkeypatch.setattr(loop_module._Loop, "_compile", compile_and_wait)
    monkeypatch.setattr(loop_module, "fetch_metrics", slow_fetch)
    monkeypatch.setattr(
        loop_module, "_time_if_ready", lambda metrics: clock[0] if waits_in_call else None
    )
    run_loop(make_config(total_steps=2 * SIZE, seeds=seeds), record)
    config = make_config(total_steps=5 * SIZE, seeds=seeds, resume=True)
    run, result = run_loop(config, record)
    rates = [line["time/steps_per_second"] for line in read_metrics(run.metrics)]
    assert rates == [seeds * SIZE / takes] * 5
    assert [rate for _, _, rate in record.updates] == [SIZE / takes] * 5
    assert result.steps_per_second == seeds * SIZE / takes
    assert result.compile_seconds == 5


def test_rates_have_one_decimal_and_a_clock_that_stands_still_is_no_obstacle(
    make_config, record, clock, monkeypatch
):
    times = iter([1003.0, 1003.0])
    monkeypatch.setattr(loop_module, "_time_if_ready", lambda metrics: next(times))
    run, _ = run_loop(make_config(total_steps=2 * SIZE), record)
    rates = [line["time/steps_per_second"] for line in read_metrics(run.metrics)]
    assert rates == [6.7, SIZE / 1e-9]
    monkeypatch.setattr(loop_module, "_time_if_ready", lambda metrics: clock[0])
    _, result = run_loop(make_config(total_steps=SIZE, run_dir="runs/no_time"), record)
    assert result.steps_per_second == SIZE / 1e-9


def test_iterations_that_end_before_the_first_was_seen_to_share_the_time(
    make_config, record, clock, monkeypatch
):
    """Every other one has not ended when its call returns, but has when the next one's does."""
    compile_ = loop_module._Loop._compile
    calls = iter(range(4))

    def compile_and_wait(self, state):
        iteration, state, seconds = compile_(self, state)

        def slow(state):
            clock[0] += 2.0
            return iteration(state)

        return slow, state, seconds

    def ended(metrics):
        return clock[0] if next(calls) % 2 else None

    monkeypatch.setattr(loop_module._Loop, "_compile", compile_and_wait)
    monkeypatch.setattr(loop_module, "_time_if_ready", ended)
    run, result = run_loop(make_config(total_steps=4 * SIZE), record)
    rates = [line["time/steps_per_second"] for line in read_metrics(run.metrics)]
    assert rates == [SIZE / 2] * 4
    assert result.steps_per_second == SIZE / 2


def test_whether_an_iteration_has_ended_is_asked_of_its_metrics(clock):
    clock[0] = 3.0
    ended = jax.block_until_ready(jnp.zeros(()))
    assert loop_module._time_if_ready({"a": ended}) == 3.0

    class Computed:
        def is_ready(self):
            return False

    assert loop_module._time_if_ready({"a": ended, "b": Computed()}) is None


def test_the_rate_begins_anew_where_learning_begins(make_config, record, clock, monkeypatch):
    """Collecting takes 1 s an iteration, from the fourth on learning makes it 100 s."""

    class Learns(StubAgent):
        def iteration(self, state):
            state, metrics = super().iteration(state)
            return state, metrics | {"updates": jnp.where(state["count"] < 4, 0.0, 8.0)}

    durations = iter([1, 1, 1, 100, 100, 100])
    fetch = loop_module.fetch_metrics
    monkeypatch.setattr(loop_module, "_time_if_ready", lambda metrics: None)

    def slow_fetch(x):
        clock[0] += next(durations)
        return fetch(x)

    monkeypatch.setattr(loop_module, "fetch_metrics", slow_fetch)
    config = make_config(total_steps=6 * SIZE, checkpoint_every=0)
    agent = Learns(config.agent, config.memory, build_agent(STUB, config)[1], False)
    run_loop(config, record, agent)
    rates = [rate for _, _, rate in record.updates]
    assert rates == pytest.approx([SIZE, SIZE, SIZE, SIZE / 100, SIZE / 100, SIZE / 100])
    left = [format_time_left(20_000, metrics, rate) for _, metrics, rate in record.updates]
    assert left[:3] == ["unknown before learning begins"] * 3
    # Said once, not every time.
    warnings = [text for text in record.messages if text.startswith("an iteration takes")]
    assert warnings == [
        "an iteration takes 100 s, and metrics, checkpoints and signals wait for its end; "
        "a smaller agent.rollout_length, or model, makes it shorter"
    ]
    # 100,000 s; smoothing rounds.
    assert {text[:6] for text in left[3:]} == {"27:46:"}


@pytest.fixture
def loop(make_config, record):
    """What `train` is made of, before it has begun."""

    def make(**changes):
        agent, config = build_agent(STUB, make_config())[0], make_config(**changes)
        checkpoints = Checkpointer("checkpoints", read_only=True)
        return loop_module._Loop(agent, config, checkpoints, None, record, None, None)

    return make


def test_iterations_of_more_than_30_s_are_warned_of_once(loop, record):
    loop = loop()
    for seconds, count in ((30.0, 0), (30.5, 1), (31.0, 1)):
        loop.iteration_seconds = seconds
        loop._warn_of_long_iterations()
        assert len(record.messages) == count


def test_whoever_sends_a_signal_is_told_what_takes_longer_than_2_s(loop, record):
    loop = loop()
    for seconds in (2.0, 2.5, 40.0):
        loop.iteration_seconds = seconds
        loop.announce_stop(signal.SIGTERM)
    begin, end = "SIGTERM: the iteration under way is finished", " and a checkpoint written, then"
    told = [
        f"{begin}{said}{end} this stops" for said in ("", " (one takes 2 s)", " (one takes 40 s)")
    ]
    assert record.messages == told


def test_without_jit_there_is_nothing_to_compile(loop, clock, monkeypatch):
    def slow_check(before, after):
        clock[0] += 5.0

    loop, state = loop(), {"w": jnp.ones(3)}
    monkeypatch.setattr(loop.agent, "iteration", lambda state: (state, {}))
    monkeypatch.setattr(loop_module, "_check_same_types", slow_check)
    with jax.disable_jit():
        assert loop._compile(state) == (loop.agent.iteration, state, 5.0)


@pytest.mark.parametrize("queues", [True, False])
def test_what_one_process_wishes_all_hear(loop, monkeypatch, queues):
    """The number of a signal, or a callback's wish, which is greater than all of those."""
    said = []

    def greatest(wish, *, wait):
        said.append((wish, wait))
        return heard

    monkeypatch.setattr(loop_module, "queues_programs", lambda: queues)
    loop = loop()
    assert loop.agreement is None
    loop.agreement, loop.signals, heard = SimpleNamespace(), SimpleNamespace(received=None), 0
    loop.agreement.greatest = greatest
    assert loop._is_to_stop() is False and loop._should_give_up() is False
    assert said == [(0, not queues), (0, True)]
    heard = signal.SIGTERM
    assert loop._is_to_stop() is True and loop.told_to_stop is False
    assert loop.signals.received is signal.SIGTERM and loop._should_give_up() is True
    loop.signals.received, heard = None, loop_module._TOLD_TO_STOP
    assert loop._is_to_stop() is True and loop.told_to_stop is True
    assert loop.signals.received is None and loop._should_give_up() is False
    assert max(signal.Signals) < loop_module._TOLD_TO_STOP
    assert [wish for wish, _ in said] == [0, 0, 0, signal.SIGTERM, 0, loop_module._TOLD_TO_STOP]


def test_only_several_processes_need_to_agree(loop, monkeypatch):
    asked = []
    monkeypatch.setattr(loop_module, "make_mesh", lambda count: asked.append(count) or "mesh")
    monkeypatch.setattr(hosts, "Agreement", lambda mesh: mesh)
    assert loop(devices=2).agreement is None and asked == []
    monkeypatch.setattr(hosts, "count", lambda: 2)
    assert loop(devices=2).agreement == "mesh" and asked == [2]


@pytest.mark.parametrize("queues", [True, False])
def test_programs_that_cannot_be_queued_are_waited_for(make_config, record, monkeypatch, queues):
    waits = []
    monkeypatch.setattr(loop_module, "queues_programs", lambda: queues)
    monkeypatch.setattr(jax, "block_until_ready", lambda state: waits.append(int(state["count"])))
    run_loop(make_config(total_steps=2 * SIZE), record)
    assert waits == ([] if queues else [1, 2])


@pytest.mark.parametrize(
    ("backend", "devices", "loops"), [("cpu", 1, True), ("cpu", 2, False), ("gpu", 1, False)]
)
def test_seeds_follow_each_other_on_one_cpu_alone(monkeypatch, backend, devices, loops):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    program = jax.make_jaxpr(loop_module.over_seeds(jnp.sin))(jnp.ones(3))
    assert ("scan" in str(program)) is loops


# ------------------------------------------------------------------------------- evaluations


def test_evaluations_have_lines_of_their_own_after_those_of_their_steps(make_config, record):
    seen = []

    def evaluate(state, step, *, longest_seen, should_stop):
        assert not should_stop()
        seen.append((step, int(state["count"]), read_metrics(run.metrics)[-1]["step"]))
        return {"eval/return": 1.5}

    config = make_config(eval_every=80, checkpoint_every=0)
    run = RunFolder(config.run_dir)
    run_loop(config, record, evaluate=evaluate)
    assert seen == [(80, 4, 80), (160, 8, 160)]
    steps = [line["step"] for line in lines_of(run)]
    assert steps == [20, 40, 60, 80, 80, 100, 120, 140, 160, 160, 180, 200]
    assert [line for line in lines_of(run) if "eval/return" in line] == [
        {"step": 80, "eval/return": 1.5},
        {"step": 160, "eval/return": 1.5},
    ]


def test_an_evaluation_that_fails_costs_nothing_that_was_done(make_config, record):
    def evaluate(state, step, *, longest_seen, should_stop):
        raise RuntimeError("the environment has gone")

    with pytest.raises(RuntimeError, match="has gone"):
        run_loop(make_config(eval_every=80, checkpoint_every=80), record, evaluate=evaluate)
    run = RunFolder("runs/test")
    assert [line["step"] for line in lines_of(run)] == [20, 40, 60, 80]
    assert saved_steps(run) == [80]


def test_a_signal_ends_an_evaluation_which_a_resume_makes_up(make_config, record):
    """SIGTERM in the evaluation of step 80, which would last for ever: it comes after a resume."""

    def endless(state, step, *, longest_seen, should_stop):
        os.kill(os.getpid(), signal.SIGTERM)
        while not should_stop():
            pass
        raise EvaluationStoppedError

    def evaluate(state, step, *, longest_seen, should_stop):
        return {"eval/return": float(state["count"])}

    whole, _ = run_loop(make_config(eval_every=80, run_dir="runs/whole"), record, evaluate=evaluate)
    config = make_config(eval_every=80)
    run, result = run_loop(config, record, evaluate=endless)
    assert (result.step, result.stopped_by) == (80, signal.SIGTERM)
    assert saved_steps(run) == [60, 80]
    assert "step 80: evaluation given up; it is made up on a resume" in record.messages
    for _ in range(2):
        # The second resume finds everything done.
        run_loop(make_config(eval_every=80, resume=True), record, evaluate=evaluate)
        assert lines_of(run) == lines_of(whole)
    assert {"step": 80, "eval/return": 4.0} in lines_of(run)


SCORES = {40: 1.0, 80: [3.0, 2.0], 120: [4.0, 1.0], 160: 1.5, 200: float("nan")}


def score(state, step, *, longest_seen, should_stop):
    return {"eval/return": SCORES[step]}


def best_of(run: RunFolder) -> int:
    checkpoints = Checkpointer(run.best, read_only=True)
    try:
        (step,) = checkpoints.steps()
        assert checkpoints._meta(step)["metadata"] == {"eval/return": np.mean(SCORES[step])}
        return step
    finally:
        checkpoints.close()


def test_the_best_checkpoint_is_kept_beside_the_newest(make_config, record):
    """By the mean over seeds; the second of two equals is no better; NaN is no return."""
    config = make_config(eval_every=40, keep_best=True)
    run, result = run_loop(config, record, evaluate=score)
    assert best_of(run) == 80
    assert saved_steps(run) == [180, 200]
    assert run_loop(make_config(run_dir="runs/without"), record)[0].best.exists() is False
    like = jax.eval_shape(lambda: result.state)
    checkpoints = Checkpointer(run.best, read_only=True)
    state, _, _ = checkpoints.restore(like)
    checkpoints.close()
    assert state["count"] == 4


@pytest.mark.parametrize("total", [40, 80, 120])
def test_a_resume_goes_on_from_the_best_there_was(make_config, record, total, monkeypatch):
    options = {"eval_every": 40, "keep_best": True, "checkpoint_every": 40}
    run, _ = run_loop(make_config(total_steps=total, **options), record, evaluate=score)
    assert best_of(run) == min(total, 80)
    run_loop(make_config(resume=True, **options), record, evaluate=score)
    assert best_of(run) == 80


def test_a_best_checkpoint_that_a_crash_prevented_is_made_up(make_config, record):
    """Killed behind the evaluation's line: the resume has the state, and does not evaluate."""
    options = {"eval_every": 40, "keep_best": True, "checkpoint_every": 40}
    run, _ = run_loop(make_config(total_steps=80, **options), record, evaluate=score)
    shutil.rmtree(run.best)
    run_loop(make_config(total_steps=120, resume=True, **options), record, evaluate=score)
    assert best_of(run) == 80


def test_a_checkpoint_waits_for_the_best_before_it(make_config, record, monkeypatch):
    """A run that goes on from the later one would never come to the earlier evaluation again."""
    events = []
    for name in ("save", "wait"):
        original = getattr(Checkpointer, name)

        def noted(self, *arguments, name=name, original=original, **options):
            events.append((self.directory.name, name, *arguments[:1]))
            return original(self, *arguments, **options)

        monkeypatch.setattr(Checkpointer, name, noted)
    options = {"eval_every": 40, "keep_best": True, "checkpoint_every": 60, "total_steps": 60}
    run_loop(make_config(**options), record, evaluate=score)
    began = events.index(("best", "save", 40))
    assert ("best", "wait") in events[began + 2 : events.index(("checkpoints", "save", 60))]


def test_an_evaluation_is_told_of_the_longest_episodes_in_training(make_config, record):
    class Longer(StubAgent):
        def iteration(self, state):
            state, metrics = super().iteration(state)
            length = jnp.where(state["count"] == 3, 70.0, jnp.nan)
            return state, metrics | {"episode_length": length, "episodes": jnp.ones(())}

    seen = []

    def evaluate(state, step, *, longest_seen, should_stop):
        seen.append(longest_seen)
        return {}

    for total in (120, 200):
        config = make_config(total_steps=total, eval_every=40, resume=True)
        agent = Longer(config.agent, config.memory, build_agent(STUB, config)[1], False)
        run_loop(config, record, agent, evaluate=evaluate)
    # The last two belong to the resumed process, which read of the third iteration.
    assert seen == [0, 70, 70, 70, 70, 70]


def test_host_environments_take_one_seed(make_config, record):
    with pytest.raises(RunError, match="seeds=2: .* runs on the host .* -m seed=0,1,2"):
        run_loop(make_config(seeds=2), record, is_host=True)


def test_host_environments_take_one_device(make_config, record):
    with pytest.raises(RunError, match="^devices=2: this environment runs on the host"):
        run_loop(make_config(devices=2), record, is_host=True)


def test_an_environment_of_one_process_is_refused_by_several(make_config, monkeypatch):
    monkeypatch.setattr(hosts, "count", lambda: 2)
    agent = build_agent(STUB, make_config())[0]
    with pytest.raises(RunError, match="^2 processes: this environment is stepped in Python"):
        loop_module.check_placement(agent, make_config(), is_host=True)
    loop_module.check_placement(agent, make_config(), is_host=False)


def test_host_environments_start_afresh_on_resume(make_config, record, monkeypatch):
    restarted, created = [], []

    class Restartable(StubAgent):
        def restart(self, state, key):
            restarted.append(int(state["count"]))
            return state

    config = make_config(total_steps=120)
    agent = Restartable(config.agent, config.memory, build_agent(STUB, config)[1], False)
    run_loop(config, record, agent, is_host=True)
    assert restarted == []
    init = loop_module.init_state
    monkeypatch.setattr(loop_module, "init_state", lambda *a: created.append(a) or init(*a))
    run_loop(make_config(resume=True), record, agent, is_host=True)
    assert restarted == [6] and len(created) == 1
    # Others go on where they were.
    run_loop(make_config(resume=True, total_steps=240), record, agent)
    assert restarted == [6] and len(created) == 1


def test_an_iteration_that_changes_the_state_type_is_refused(make_config, record):
    class Grows(StubAgent):
        def iteration(self, state):
            state, metrics = super().iteration(state)
            return state | {"w": state["w"].astype(jnp.bfloat16)}, metrics

    config = make_config()
    agent = Grows(config.agent, config.memory, build_agent(STUB, config)[1], False)
    with pytest.raises(TypeError, match=r"changes \['w'\] .* from float32\[3, 8\] to bfloat16"):
        run_loop(config, record, agent)


def test_more_devices_than_there_are(make_config, record):
    with pytest.raises(RunError, match=r"devices=64, but JAX sees \d+ \(cpu\)"):
        run_loop(make_config(devices=64), record)

"""The loop: what it writes and when, how it stops, and that resuming is not stopping."""

from __future__ import annotations

import dataclasses
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.training import loop as loop_module
from ssmrl.training.checkpoint import Checkpointer
from ssmrl.training.errors import NonFiniteError, RunError
from ssmrl.training.loop import TrainResult, train
from ssmrl.training.run import RunFolder, read_metrics
from ssmrl.training.runner import build_agent
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
    # An agent that does not count its episodes says so with NaN itself.
    assert loop_module.fetch_metrics({"episode_return": jnp.zeros(())})["episode_return"] == 0


def test_checkpoints_at_multiples_and_at_the_end(make_config, record):
    run, _ = run_loop(make_config(total_steps=200, checkpoint_every=60), record)
    assert saved_steps(run) == [180, 200]
    run, _ = run_loop(make_config(checkpoint_every=0, run_dir="runs/end"), record)
    assert saved_steps(run) == [200]


def test_metrics_are_fetched_one_iteration_late(make_config, record, monkeypatch):
    """Dispatch i+1 comes before the fetch of i, but at a checkpoint, which wants i verified."""
    events: list[str] = []
    fetch = jax.device_get
    compile_ = loop_module._Loop._compile

    def compile_and_note(self, state):
        iteration, state, seconds = compile_(self, state)

        def noted(state):
            events.append("dispatch")
            return iteration(state)

        return noted, state, seconds

    monkeypatch.setattr(loop_module._Loop, "_compile", compile_and_note)
    monkeypatch.setattr(jax, "device_get", lambda x: (events.append("fetch"), fetch(x))[1])
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


def test_resuming_a_finished_run_changes_nothing(make_config, record):
    run, first = run_loop(make_config(), record)
    before = run.metrics.read_bytes()
    _, again = run_loop(make_config(resume=True), record)
    assert again.step == first.step
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
    config = make_config(agent={"fail_at": 8})
    with pytest.raises(NonFiniteError) as error:
        run_loop(config, record)
    message = str(error.value)
    assert message.startswith(
        "step 160: loss/total is nan; the last good checkpoint is of step 120"
    )
    run = RunFolder(config.run_dir)
    assert saved_steps(run) == [60, 120]
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


def test_skip_goes_on_and_counts(make_config, record):
    run, result = run_loop(make_config(agent={"fail_at": 4}, nonfinite="skip"), record)
    assert result.step == 200
    assert result.nonfinite == 1
    assert "step 80: loss/total is not finite; update skipped" in record.messages
    assert "loss/total" not in lines_of(run)[3]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
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


def test_evaluations_come_in_the_line_of_their_step(make_config, record):
    seen = []

    def evaluate(state, step):
        seen.append((step, int(state["count"])))
        return {"eval/return": 1.5}

    config = make_config(eval_every=80, checkpoint_every=0)
    run, _ = run_loop(config, record, evaluate=evaluate)
    assert seen == [(80, 4), (160, 8)]
    assert [line["step"] for line in lines_of(run) if "eval/return" in line] == [80, 160]


def test_host_environments_take_one_seed(make_config, record):
    with pytest.raises(RunError, match="seeds=2: .* runs on the host .* -m seed=0,1,2"):
        run_loop(make_config(seeds=2), record, is_host=True)


def test_host_environments_start_afresh_on_resume(make_config, record):
    restarted = []

    class Restartable(StubAgent):
        def restart(self, state, key):
            restarted.append(int(state["count"]))
            return state

    config = make_config(total_steps=120)
    agent = Restartable(config.agent, config.memory, build_agent(STUB, config)[1], False)
    run_loop(config, record, agent, is_host=True)
    assert restarted == []
    run_loop(make_config(resume=True), record, agent, is_host=True)
    assert restarted == [6]


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

"""What the benchmarks of long and many runs make of their measurements."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.learning.devices import compare
from benchmarks.speed import endurance, hosts, overhead, scaling
from benchmarks.speed.costs import Costs

# ------------------------------------------------------------------------------------- endurance


def samples(minutes, *, leak=0.0, slowing=0.0, process=0, start=0.0):
    """Every five seconds; bytes an hour that leak, and the share of speed that an hour costs."""
    rng, rows, step, cpu = np.random.default_rng(0), [], 0.0, 0.0
    for i in range(minutes * 12):
        hours = i * 5 / 3600
        cpu += 1 + rng.random()  # of the five seconds, so much as others leave
        step += (cpu - (rows[-1]["cpu"] if rows else 0)) * 1000 * (1 - slowing * hours)
        rss = 8e8 + leak * hours + 2e6 * rng.random()
        rows.append({"process": process, "seconds": start + i * 5.0, "step": step, "cpu": cpu})
        rows[-1]["rss"] = rss
    return rows


def test_a_run_that_keeps_its_memory_and_speed_is_flat_however_busy_the_machine():
    found = endurance.analyse(samples(60))
    assert found["memory"]["flat"] and found["speed"]["flat"]
    assert found["speed"]["median"] == pytest.approx(1000, rel=0.01)
    assert 50 <= found["analysed_minutes"] <= 54


def test_a_leak_and_a_slowing_down_are_found_with_their_size():
    found = endurance.analyse(samples(60, leak=4e7, slowing=0.1))
    assert not found["memory"]["flat"] and not found["speed"]["flat"]
    low, high = found["memory"]["interval"]
    assert low < 0.05 < high + 0.002
    assert found["speed"]["change_an_hour"] == pytest.approx(-0.1, abs=0.02)


def test_what_is_too_short_is_not_shown_to_be_flat():
    found = endurance.analyse(samples(8, leak=4e7))
    assert not found["memory"]["flat"]
    with pytest.raises(ValueError, match="too short: 0 minutes"):
        endurance.analyse(samples(2))


def test_a_resumed_run_is_judged_by_its_longest_process():
    first, second = samples(60), samples(30, process=1, start=3600)
    second = [row | {"rss": row["rss"] + 3e8, "step": row["step"] + 1e8} for row in second]
    found = endurance.analyse(first + second)
    assert found["memory"]["flat"] and found["minutes"] > 85
    assert {block["process"] for block in found["blocks"]} == {0, 1}


# -------------------------------------------------------------------------------------- overhead


def test_shares_are_of_the_training_between_two_of_a_part():
    meter = SimpleNamespace(
        # The first of each also compiles.
        spent={
            "iteration": [9.0, 0.1, 0.1, 0.1],
            "logging": [5.0, 0.001, 0.001, 0.001],
            "checkpoint": [7.0, 0.2, 0.2],
            "evaluation": [8.0, 0.5, 0.5],
        },
        waited=[1.0, 0.03, 0.03],
    )
    config = SimpleNamespace(checkpoint_every=100_000, eval_every=0)
    found = overhead.shares(meter, config, 1000)  # 0.1 ms a step: 10 s between checkpoints
    assert found["shares"] == pytest.approx({"logging": 0.01, "checkpoint": 0.02, "evaluation": 0})
    assert found["share"] == pytest.approx(0.03)
    assert found["evaluation_every_checkpoint"] == pytest.approx(0.05)
    assert found["evaluation_as_steps_of_training"] == pytest.approx(5000)


# --------------------------------------------------------------------------------------- scaling

PLAN = scaling.Plan(
    steps=1000,
    costs=Costs({"float32": 3e12}, bytes=6e10, kernels=1e4),
    parameters=600_000_000,
    updates=2,
    state=3_000_000_000,
    temporary=1_000_000_000,
    most=64,
)
DEVICE = scaling.Device({"float32": 1e14, "other": 1e13}, 1e12, 8e9, 8, 1e11, 1e10)


def predict(count, strong=False):
    return scaling.predict(PLAN, DEVICE, count, strong=strong)


def test_a_prediction_is_the_formula_s():
    one = predict(1)
    assert one["terms"]["compute"] == pytest.approx(3e12 / (0.3 * 1e14))
    assert one["terms"]["memory"] == pytest.approx(6e10 / (0.6 * 1e12))
    assert one["seconds"] == pytest.approx(0.1 + 1e4 * 5e-6)
    assert (one["bytes_sent"], one["bytes_held"]) == (0, pytest.approx(4e9))
    assert one["steps_per_second"] == pytest.approx(1000 / 0.15)


def test_what_is_averaged_goes_round_over_the_slowest_link():
    near, far = predict(8), predict(16)
    assert near["bytes_sent"] == pytest.approx(2 * 2 * 7 / 8 * 6e8)
    sent = 2 * 7 / 8 * 6e8 / (0.6 * 1e11) + 2 * 3 * 5e-6
    assert near["terms"]["communication"] == pytest.approx(2 * sent)
    sent = 2 * 15 / 16 * 6e8 / (0.6 * 1e10) + 2 * 4 * 5e-6
    assert far["terms"]["communication"] == pytest.approx(2 * sent)
    assert far["steps_per_second"] == pytest.approx(16 * 1000 / far["seconds"])


def test_devices_that_share_one_batch_still_start_every_kernel():
    alone, shared = predict(1), predict(4, strong=True)
    assert shared["terms"]["compute"] == pytest.approx(alone["terms"]["compute"] / 4)
    assert shared["terms"]["launches"] == alone["terms"]["launches"]
    assert shared["steps_per_second"] == pytest.approx(1000 / shared["seconds"])
    # Three copies of the parameters on each, a quarter of all else.
    assert shared["bytes_held"] == pytest.approx(1.8e9 + (1.2e9 + 1e9) / 4)


# --------------------------------------------------------------------------------------- devices


def test_curves_are_compared_point_by_point():
    rng = np.random.default_rng(0)
    one = rng.normal(size=(5, 40))
    found = compare({1: one, 2: one[::-1], 4: one + 5})
    assert found["1"]["largest_difference"] == 0 and found["1"]["inside"] == 40
    assert found["2"]["inside"] == 40  # the same seeds in another order
    assert found["4"]["inside"] == 0 and found["4"]["largest_difference"] == pytest.approx(5)
    assert compare({1: np.ones((3, 2)), 4: np.ones((3, 2))})["4"]["inside"] == 2


# ----------------------------------------------------------------------------------------- hosts


def test_an_iteration_over_several_processes_is_timed_between_two_marks():
    """From 300 to 900 steps in 2 s, with 5 s of processor time; an iteration has 100."""
    assert hosts.compare(2, 100, (300, 10.0, 7.0), (900, 12.0, 12.0)) == {
        "processes": 2,
        "iterations": 6,
        "steps_per_second": 300.0,
        "processor_seconds": pytest.approx(5 / 6),
    }


def test_processes_are_told_of_each_other_and_one_that_it_is_alone():
    assert hosts.environments(1) == [{"JAX_NUM_PROCESSES": "1"}]
    first, second = hosts.environments(2)
    assert (first.pop("JAX_PROCESS_ID"), second.pop("JAX_PROCESS_ID")) == ("0", "1")
    assert first == second and first["JAX_NUM_PROCESSES"] == "2"
    assert first["JAX_COORDINATOR_ADDRESS"].startswith("127.0.0.1:")


def test_a_process_that_ends_by_itself_is_told_with_its_last_line(tmp_path, monkeypatch):
    monkeypatch.setattr(hosts, "SETTINGS", ("agent=pppo",))
    told = pytest.raises(RuntimeError, match="available: dreamer, .*ppo")
    with hosts.Children() as children, told:
        hosts.measure(1, 1, tmp_path, children)

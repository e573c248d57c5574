"""A callback sees every line of metrics, and may stop the training."""

from __future__ import annotations

import numpy as np
import pytest

from ssmrl.training.errors import StopTraining
from ssmrl.training.run import read_metrics
from ssmrl.training.run_training import run_training
from tests.training.stub import STUB


def test_a_callback_sees_every_line_of_metrics(make_config, record):
    lines = []
    outcome = run_training(make_config(seeds=2), STUB, reporter=record, callback=lines.append)
    written = read_metrics(outcome.run.metrics)
    assert len(written) == 10 and [line["step"] for line in lines] == list(range(20, 201, 20))
    for name in ("loss/total", "episodes"):
        assert [line[name] for line in lines] == [line[name] for line in written]


def test_a_callback_can_stop_the_training(make_config, record):
    lines = []

    def callback(line):
        lines.append(line)
        if line["step"] >= 60:
            raise StopTraining

    outcome = run_training(make_config(), STUB, reporter=record, callback=callback)
    # The iteration under way when it was raised is finished, and what is there is kept.
    assert outcome.result.step < 200 and outcome.exit_code == 0
    assert lines[-1]["step"] == outcome.result.step
    assert [p.name for p in outcome.run.checkpoints.iterdir() if p.name.isdigit()][-1:]
    resumed = run_training(make_config(resume=True), STUB, reporter=record)
    assert resumed.result.step == 200
    reference = run_training(make_config(run_dir="runs/reference"), STUB, reporter=record)
    np.testing.assert_array_equal(resumed.result.state["w"], reference.result.state["w"])


def test_another_exception_passes_through(make_config, record):
    def callback(line):
        raise ZeroDivisionError(line["step"])

    with pytest.raises(ZeroDivisionError, match="20"):
        run_training(make_config(), STUB, reporter=record, callback=callback)

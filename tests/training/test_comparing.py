"""What holds two runs against each other sees every way in which they may differ."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from tests import comparing
from tests.comparing import assert_runs_agree

LINES = [
    {"step": 8, "loss/total": 1.0, "time/steps_per_second": 1.0},
    {"step": 16, "loss/total": [2.0, 3.0], "time/steps_per_second": 1.0},
]


def changed(line: int, **values) -> list[dict]:
    lines = [dict(x) for x in LINES]
    lines[line] |= {name.replace("_", "/", 1): value for name, value in values.items()}
    return lines


@pytest.mark.parametrize(
    ("lines", "params", "agree"),
    [
        (LINES, 1.0, True),
        (changed(0, time_steps_per_second=9.0), 1.0, True),
        (changed(1, loss_total=[2.0, 3.00001]), 1.0, True),
        (changed(1, loss_total=[2.0, 3.001]), 1.0, False),
        (changed(0, loss_other=1.0), 1.0, False),
        (changed(1, step=24), 1.0, False),
        (LINES[:1], 1.0, False),
        (LINES, 1.000001, True),
        (LINES, 1.00001, False),
    ],
)
def test_runs_agree_but_for_rounding_and_clocks(lines, params, agree, monkeypatch):
    state = {"one": 1.0, "other": params}
    for name, written in (("one", LINES), ("other", lines)):
        Path(name).mkdir()
        Path(name, "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in written))

    def load_run(path, components):
        params = {"w": np.ones(3), "b": np.float32(state[path])}
        return SimpleNamespace(state=SimpleNamespace(params=params))

    monkeypatch.setattr(comparing, "load_run", load_run)
    if agree:
        assert_runs_agree("one", "other", metrics=1e-4, params=2e-6)
    else:
        with pytest.raises(AssertionError):
            assert_runs_agree("one", "other", metrics=1e-4, params=2e-6)


def test_runs_without_metrics_do_not_agree():
    for name in ("one", "other"):
        Path(name).mkdir()
    with pytest.raises(AssertionError):
        assert_runs_agree("one", "other", metrics=1.0, params=1.0)

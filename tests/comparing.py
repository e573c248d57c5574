"""Two runs of the same training, held against each other: the same but for rounding."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np

from ssmrl.experiment import COMPONENTS
from ssmrl.training.loading import load_run
from ssmrl.training.run import RunFolder, read_metrics


def assert_runs_agree(one: str | Path, other: str | Path, *, metrics: float, params: float) -> None:
    """Raise AssertionError, naming the metric and step, unless two runs have learned the same.

    Args:
        one: a run's folder.
        other: another's, with as many lines of metrics, of the same names and steps.
        metrics: how far any metric may be off, in itself and as a share of it; clocks are left out.
        params: likewise, the last parameters.
    """
    lines = [read_metrics(RunFolder(run).metrics) for run in (one, other)]
    assert [line["step"] for line in lines[0]] == [line["step"] for line in lines[1]]
    assert lines[0]
    for a, b in zip(*lines, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            if not name.startswith("time/"):
                where = f"{name} of step {a['step']}"
                np.testing.assert_allclose(
                    a[name], b[name], rtol=metrics, atol=metrics, err_msg=where
                )
    a, b = (load_run(run, COMPONENTS).state.params for run in (one, other))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=params, atol=params)

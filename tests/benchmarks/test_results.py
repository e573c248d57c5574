"""Committed results say by which definition of the return they were computed."""

import json
from datetime import datetime
from pathlib import Path

import pytest

RESULTS = Path(__file__).parents[2] / "benchmarks/results"
TRAINING_RETURN = datetime.fromisoformat("2026-11-26T18:00:00Z")
"""From when on returns in training are of the episodes that began (docs/training_return.md)."""
IN_TRAINING = {"mmer", "final", "curve", "curves", "mmer_mean"}
"""Names of numbers that are made of returns in training; "training", where it is not a duration,
stands beside "greedy"."""


def names_in(value):
    """All keys of a nested record."""
    if isinstance(value, dict):
        return set(value).union(*map(names_in, value.values()))
    return set().union(*map(names_in, value)) if isinstance(value, list) else set()


def dates_in(value):
    """When what is in a nested record was measured."""
    if isinstance(value, dict):
        own = {datetime.fromisoformat(value["date"])} if "date" in value else set()
        return own.union(*map(dates_in, value.values()))
    return set().union(*map(dates_in, value)) if isinstance(value, list) else set()


@pytest.mark.parametrize(
    "path", sorted(RESULTS.rglob("*.json")), ids=lambda path: str(path.relative_to(RESULTS))
)
def test_returns_in_training_are_the_training_return_or_marked_as_invalid(path):
    record = json.loads(path.read_text())
    names = names_in(record)
    if "invalid" in record or not (IN_TRAINING & names or {"training", "greedy"} <= names):
        return
    if "metric" in record:
        assert record["metric"] == "training_return"
    elif not path.name.endswith(".summary.json"):
        assert min(dates_in(record)) > TRAINING_RETURN

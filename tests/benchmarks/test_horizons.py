"""The study of horizons: what composes, and the length that was played."""

import argparse
import json

import pytest

from benchmarks.learning import horizons
from benchmarks.learning.studies import ROOT, with_earlier
from ssmrl.experiment import COMPONENTS
from ssmrl.training.cli import compose_training
from ssmrl.training.loading import make_venv


@pytest.mark.parametrize("name", horizons.TASKS)
def test_every_length_composes(name):
    task = horizons.TASKS[name]
    for length in task.lengths:
        overrides = [*task.overrides, f"env.kwargs.{task.option}={length}", "memory=gru"]
        config = compose_training(overrides, COMPONENTS, ROOT / "configs")
        make_venv(COMPONENTS, config.env, 2)  # refuses options that the environment does not have
    assert task.lengths[1:] == (4 * task.lengths[0], 16 * task.lengths[0])


def test_scores_are_by_the_length_played(monkeypatch):
    asked = []

    def evaluate(config, components, *, warn):
        asked.append((config.env.kwargs, config.greedy))
        return {"mean": 100.0, "mean_interval": [80.0, 120.0]}

    monkeypatch.setattr(horizons, "evaluate_run", evaluate)
    arguments = argparse.Namespace(episodes=8)
    bandit = horizons.score("x", horizons.TASKS["bandit"], 200, arguments)
    assert bandit == {"length": 200, "score": 0.5, "interval": [0.4, 0.6]}
    recall = horizons.score("x", horizons.TASKS["recall"], 4, arguments)
    assert recall["score"] == 100.0
    assert asked == [({"trials": 200}, False), ({"num_decks": 4}, True)]


def test_thompson_sampling_pays_more_the_longer():
    """Between guessing, .5, and the best of five arms, 5 / 6."""
    pays = [s["score"] for s in horizons.reference("bandit")["scores"]]
    assert 0.5 < pays[0] < pays[1] < pays[2] < 5 / 6


def row(name, value):
    return {"name": name, "value": value}


def test_rows_of_the_same_settings_are_kept(tmp_path):
    output, settings = tmp_path / "o.json", {"seeds": 3}
    key = lambda row: row["name"]  # noqa: E731
    assert with_earlier(output, settings, [row("a", 1)], key) == [row("a", 1)]
    output.write_text(json.dumps({"seeds": 3, "rows": [row("a", 1), row("b", 2)]}))
    assert with_earlier(output, settings, [row("b", 5)], key) == [row("a", 1), row("b", 5)]
    assert with_earlier(output, {"seeds": 1}, [row("b", 5)], key) == [row("b", 5)]


def test_the_table_has_what_can_be_had(tmp_path, capsys):
    scores = [{"length": n, "score": n / 4, "interval": [0.0, n / 2]} for n in (1, 4, 16)]
    arguments = argparse.Namespace(
        output=tmp_path / "o.json", tasks=["recall"], seeds=1, episodes=8, set=[]
    )
    horizons.report([{"task": "recall", "memory": "gru", "scores": scores}], arguments)
    printed = capsys.readouterr().out
    assert "| recall | gru | 0.25 [0.00, 0.50] | 1.00 [0.00, 2.00] | 4.00 [0.00, 8.00] |" in printed
    assert "| recall | optimum | 1.00 | 1.00 | 1.00 |" in printed
    assert len(json.loads(arguments.output.read_text())["rows"]) == 2

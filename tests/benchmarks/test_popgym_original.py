"""The study that plays a benchmark's runs in the original POPGym package."""

import json

import pytest

from benchmarks.learning import popgym_original
from ssmrl import zoo
from ssmrl.training.run import RunFolder

pytest.importorskip("popgym")
AGENT = "popgym/repeat_first_easy-s5"


@pytest.fixture
def runs(tmp_path):
    """A run that is finished and one that is not."""
    for name, missing in (("finished", 0), ("stopped", 1)):
        path = zoo.unpack(AGENT, tmp_path / name)
        path = path.rename(tmp_path / f"popgym-{name}")
        steps = popgym_original.ssmrl.load(path).config["total_steps"]
        RunFolder(path).metrics.write_text(json.dumps({"step": steps - missing}) + "\n")
    return tmp_path


def call(monkeypatch, runs, *more):
    output = runs / "results.json"
    arguments = [str(runs), "--episodes", "2", "--output", str(output), *more]
    monkeypatch.setattr("sys.argv", ["popgym_original", *arguments])
    assert popgym_original.main() == 0
    return json.loads(output.read_text())


def test_finished_runs_are_played_both_ways_once(monkeypatch, runs, capsys):
    played = []
    evaluate = popgym_original.ssmrl.Run.evaluate

    def watched(run, **options):
        played.append((run.path.name, options))
        return evaluate(run, **options)

    monkeypatch.setattr(popgym_original.ssmrl.Run, "evaluate", watched)
    record = call(monkeypatch, runs)
    common = {"env": "popgym_original/repeat_first_easy", "episodes": 2, "seed": 0}
    greedy = [("popgym-finished", common | {"greedy": greedy}) for greedy in (True, False)]
    assert played == greedy
    (row,) = record["rows"]
    assert (row["env"], row["memory"]) == ("popgym/repeat_first_easy", "s5")
    # The agent has learned this game, in which every answer pays 1 / 51 of a return of 1.
    assert row["greedy"]["mean"] == pytest.approx(1, abs=1e-5) and row["greedy"]["length"] == 51
    assert "repeat_first_easy" in capsys.readouterr().out

    assert call(monkeypatch, runs) == record and len(played) == 2
    # Other settings begin a table of their own.
    assert call(monkeypatch, runs, "--seed", "1")["seed"] == 1 and len(played) == 4


def test_runs_of_another_suite_are_refused(monkeypatch, tmp_path):
    zoo.unpack("meta/bernoulli_bandit-s5", tmp_path)
    with pytest.raises(SystemExit, match=r"a run in meta/bernoulli_bandit, expected runs in pop"):
        call(monkeypatch, tmp_path)

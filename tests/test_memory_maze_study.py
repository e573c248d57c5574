"""What benchmarks/learning/memory_maze.py counts and keeps."""

import argparse
import json

from benchmarks.learning.memory_maze import earlier, hours


def test_hours_are_steps_by_their_speed():
    lines = [
        {"step": 3600, "time/steps_per_second": 1.0},
        {"step": 3600, "eval/return": 1.0},
        {"step": 10_800, "time/steps_per_second": 4.0},
    ]
    assert hours(lines) == 1.5


def test_rows_of_earlier_runs_are_kept_if_of_the_same_study(tmp_path):
    output = tmp_path / "rows.json"
    arguments = argparse.Namespace(
        experiment="memory_maze_ppo", set=["seed=1"], forget_every=[50], output=output
    )
    assert earlier(arguments) == {}
    study = {"experiment": "memory_maze_ppo", "set": ["seed=1"], "forget_every": [50]}
    output.write_text(json.dumps(study | {"rows": {"s5": {"final": 1.0}}}))
    assert earlier(arguments) == {"s5": {"final": 1.0}}
    for other in ({"experiment": "x"}, {"set": []}, {"forget_every": [10]}):
        output.write_text(json.dumps(study | other | {"rows": {"s5": {"final": 1.0}}}))
        assert earlier(arguments) == {}

"""The clock of the race: what it reads, when it stops, and what the ratios are of."""

import json
import math
import sys

import pytest

from benchmarks.learning import time_to_solve as study


@pytest.mark.parametrize(
    ("line", "value"),
    [("return 0.5\n", 0.5), ("-0.25\n", -0.25), ("return nan\n", None), ("compiling\n", None)],
)
def test_lines_of_both_sides(line, value):
    assert study.return_in(line) == value


def worker(code):
    return [sys.executable, "-c", code]


def test_the_clock_stops_at_the_threshold_though_nothing_is_flushed(monkeypatch):
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    code = "import time\nfor x in (.1, .8, .95): print(x)\ntime.sleep(60)"
    taken = study.time_to(worker(code), 0.9, None)
    assert taken["best"] == 0.95 and 0 < taken["seconds"] < 30


def test_the_clock_stops_at_the_limit_and_at_the_end():
    endless = "import time\nwhile True: print('return .3'); time.sleep(.01)"
    taken = study.time_to(worker(endless), 0.9, 0.2)
    assert taken["seconds"] is None and taken["stopped_after"] < 30 and taken["best"] == 0.3
    ended = study.time_to(worker("print(.3)"), 0.9, None)
    assert ended["seconds"] is None and ended["best"] == 0.3


def test_a_worker_that_says_nothing_is_stopped_at_the_limit():
    taken = study.time_to(worker("import time; time.sleep(60)"), 0.9, 0.5)
    assert taken["seconds"] is None and taken["stopped_after"] < 30 and taken["best"] is None


def test_a_worker_that_fails_is_no_result():
    with pytest.raises(RuntimeError, match="ended with 3"):
        study.time_to(worker("raise SystemExit(3)"), 0.9, None)


def row(side, seed, seconds, stopped_after=100.0, env="a"):
    taken = {"seconds": seconds, "stopped_after": stopped_after, "best": 0.0}
    return {"env": env, "side": side, "seed": seed, **taken}


def test_ratios_are_medians_over_seeds_and_say_where_they_are_bounds():
    rows = [row("ssmrl", 0, 10.0), row("popjaxrl", 0, 50.0)]
    rows += [row("ssmrl", 1, 10.0), row("popjaxrl", 1, 80.0)]
    assert study.ratios(rows) == {"a": {"times": 6.5, "bound": False, "seeds": 2}}
    rows += [row("ssmrl", 2, 4.0), row("popjaxrl", 2, None)]
    assert study.ratios(rows) == {"a": {"times": 8.0, "bound": True, "seeds": 3}}
    rows += [row("ssmrl", 0, None, env="b"), row("popjaxrl", 0, 9.0, env="b")]
    assert "b" not in study.ratios(rows)


def test_our_return_is_of_as_many_steps_as_an_update_of_popjaxrl():
    """Eight iterations of 8,192 steps, all episodes with the same weight."""
    ended = study.Ended()
    returns = [1.0] * 7 + [None, 0.0, 0.0]
    counts = [3, *[1] * 6, 0, 1, 1]
    means = []
    for i, (count, value) in enumerate(zip(counts, returns, strict=True)):
        own = {} if value is None else {"episode_return": value}
        means.append(ended.add({"step": 8192 * (i + 1), "episodes": count, **own}))
    assert all(map(math.isnan, means[:7]))
    assert means[7:] == [1.0, 6 / 7, 5 / 7]


def test_a_study_that_was_stopped_goes_on(tmp_path, monkeypatch):
    output, ran = tmp_path / "times.json", []

    def time_to(command, threshold, limit):
        side, seed = (command[command.index(name) + 1] for name in ("--side", "--seed"))
        if (side, seed) == ("popjaxrl", "1") and not ran.count(("popjaxrl", "1")):
            ran.append((side, seed))
            raise RuntimeError
        ran.append((side, seed))
        return {"seconds": 10.0 if side == "ssmrl" else 40.0, "stopped_after": 1.0, "best": 1.0}

    monkeypatch.setattr(study, "time_to", time_to)
    command = ["--popjaxrl", "clone", "--envs", "repeat_first_easy", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", ["time_to_solve", *command, "--output", str(output)])
    with pytest.raises(RuntimeError):
        study.main()
    study.main()
    record = json.loads(output.read_text())
    assert record["ratios"]["repeat_first_easy"] == {"times": 4.0, "bound": False, "seeds": 2}
    assert len(record["rows"]) == 4
    assert ran.count(("ssmrl", "0")) == ran.count(("popjaxrl", "0")) == 1

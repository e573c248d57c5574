"""The clock of the race: what it reads, when it stops, and what the ratios are of."""

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
    return [sys.executable, "-u", "-c", code]


def test_the_clock_stops_at_the_threshold():
    code = "import time\nfor x in (.1, .8, .95): print(x)\ntime.sleep(60)"
    taken = study.time_to(worker(code), 0.9, None)
    assert taken["best"] == 0.95 and 0 < taken["seconds"] < 30


def test_the_clock_stops_at_the_limit_and_at_the_end():
    endless = "import time\nwhile True: print('return .3'); time.sleep(.01)"
    taken = study.time_to(worker(endless), 0.9, 0.2)
    assert taken["seconds"] is None and taken["stopped_after"] < 30 and taken["best"] == 0.3
    ended = study.time_to(worker("print(.3)"), 0.9, None)
    assert ended["seconds"] is None and ended["best"] == 0.3


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

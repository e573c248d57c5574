"""What is shown where: a terminal, a notebook, a pipe."""

from __future__ import annotations

import io
import sys
import types

import pytest
from rich.console import Console

from ssmrl.training import progress
from ssmrl.training.progress import (
    LiveReporter,
    NotebookReporter,
    PlainReporter,
    Reporter,
    SilentReporter,
    format_duration,
    format_time_left,
    is_learning,
    make_reporter,
)
from ssmrl.training.returns import RETURN


@pytest.fixture
def notebook(monkeypatch):
    """IPython's display, remembering what it was given; rich taken to be in a notebook."""
    shown = []

    class Handle:
        def update(self, panel):
            shown.append(panel)

    def display(panel, display_id):
        assert display_id is True
        shown.append(panel)
        return Handle()

    module = types.ModuleType("IPython.display")
    module.display = display
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", module)
    monkeypatch.setattr(Console, "is_jupyter", True, raising=False)
    monkeypatch.setattr(Console, "__init__", _in_a_notebook(Console.__init__))
    return shown


def _in_a_notebook(init):
    def patched(self, *args, **kwargs):
        init(self, *args, **{"force_jupyter": True, **kwargs})

    return patched


def test_a_notebook_gets_a_panel_that_is_updated(notebook, capsys):
    reporter = make_reporter()
    assert type(reporter) is NotebookReporter
    reporter.message("run: here")
    reporter.start("compiled", 0, 100)
    reporter.update(50, {"loss/total": 0.25}, 10.0)
    reporter.update(60, {"loss/total": 0.125}, 10.0)  # too soon to be shown
    assert len(notebook) == 2
    reporter.stop()
    assert len(notebook) == 3
    # A panel knows how to show itself as HTML: what a notebook asks it for.
    html = notebook[-1]._repr_mimebundle_([], [])["text/html"]
    for text in ("compiled", "60 / 100", "60.0%", "loss/total", "0.125"):
        assert text in html
    assert capsys.readouterr().out == "run: here\n"
    reporter.stop()
    assert len(notebook) == 3


def test_plain_lines_where_they_are_asked_for_or_nobody_looks(notebook, monkeypatch):
    assert type(make_reporter(plain=True)) is PlainReporter
    monkeypatch.undo()
    assert type(make_reporter()) is PlainReporter
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    assert type(make_reporter()) is LiveReporter


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3600, "1:00:00"), (7325, "2:02:05"), (-3, "0:00"),
     (float("inf"), "?"), (float("nan"), "?")],
)  # fmt: skip
def test_durations(seconds, text):
    assert format_duration(float(seconds)) == text


@pytest.fixture
def clock(monkeypatch):
    """Seconds that only pass when a test says so."""
    now = types.SimpleNamespace(time=1000.0)
    monkeypatch.setattr("ssmrl.training.progress.time.monotonic", lambda: now.time)
    return now


def test_plain_lines_come_every_five_seconds_and_the_last_one_at_the_end(clock, capsys):
    reporter = PlainReporter()
    reporter.start("compiled", 0, 1000)
    for step, metrics in (
        (100, {"updates": 0}),
        (200, {"updates": 0, "episodes": 2}),
        (300, {"updates": 3, "loss/total": 0.25, RETURN: 1.5, "episodes": 0}),
        (400, {"updates": 3, RETURN: float("nan"), "loss/total": 0.5}),
        (400, {"eval/return": 9.0}),
    ):
        reporter.update(step, metrics, 50.0)
        clock.time += 2.4  # the third comes 4.8 seconds after the first: too soon
    reporter.message("a message")
    reporter.stop()
    reporter.stop()
    early, late = "unknown before learning begins", "50 steps/s per seed"
    assert capsys.readouterr().out.splitlines() == [
        "compiled: steps 0 to 1,000",
        f"step 100/1,000  {late}  return none yet (no episode has ended)  eta {early}",
        f"step 400/1,000  {late}  return 1.500  loss 0.5  eta 0:12",
        f"step 400/1,000  {late}  return 1.500  loss 0.5  eta 0:12",
        "a message",
    ]


def test_a_line_says_that_no_episode_has_ended_yet(capsys):
    """Instead of a NaN, which looks like a fault; and the time left is not guessed too early.

    Nor are those that end first shown for all.
    """
    reporter = PlainReporter(interval=0.0)
    reporter.start("title", 0, 400)
    reporter.update(100, {"loss/total": 0.0, "updates": 0.0, "episodes": [0.0, 0.0]}, 50.0)
    ended = {"episodes": [0.0, 1.0], "episode_return": [float("nan"), 9.0]}
    reporter.update(150, {"loss/total": 0.0, "updates": 0.0, **ended}, 50.0)
    reporter.update(200, {"loss/total": 0.5, "updates": 8.0, "training_return": 2.0}, 50.0)
    reporter.update(200, {"eval/return": 3.0}, 50.0)
    reporter.update(300, {"updates": [8.0, 8.0]}, 50.0)
    reporter.stop()
    prefix = "50 steps/s per seed"
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"step 100/400  {prefix}  return none yet (no episode has ended)  loss 0  "
        "eta unknown before learning begins",
        f"step 150/400  {prefix}  return not yet known (first episodes under way)  loss 0  "
        "eta unknown before learning begins",
        f"step 200/400  {prefix}  return 2.000  loss 0.5  eta 0:04",
        f"step 200/400  {prefix}  return 2.000  loss 0.5  eta 0:04",
        f"step 300/400  {prefix}  return 2.000  loss 0.5  eta 0:02",
    ]


def test_a_reader_that_has_gone_does_not_stop_training(monkeypatch):
    def gone(*arguments, **options):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", gone)
    reporter = PlainReporter()
    reporter.start("title", 0, 100)
    reporter.update(100, {}, 50.0)
    reporter.message("a note")
    reporter.stop()


def test_the_live_panel_shows_rate_return_losses_and_time_left(capsys):
    reporter = LiveReporter()
    reporter.start("title", 0, 300)
    reporter.update(100, {"episode_return": 0.5, "loss/total": 0.25}, 50.0)
    reporter.update(200, {"loss/total": 0.125}, 50.0)
    reporter.message("a note")
    reporter.stop()
    text = capsys.readouterr().out
    for expected in ("a note", "200 / 300", "50 steps/s per seed", "0:02", "episode_return", "0.5"):
        assert expected in text
    assert "0.125" in text


def shown(reporter: LiveReporter, width: int = 60) -> list[list[str]]:
    """The words in each line of the panel."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(reporter._render())
    return [line.strip("│ ").split() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("width", [80, 120])
def test_a_panel_has_no_number_where_there_is_none_yet(width):
    reporter = LiveReporter()
    reporter._title, reporter._total = "title", 400
    rows = shown(reporter, width)
    for line in ("steps 0 / 400", "speed ?", "eta ?", "return none yet (no episode has ended)"):
        assert line.split() in rows
    # A Dreamer before it learns: its losses are zeros that nothing has computed.
    early = {"updates": 0, "loss/total": 0.0, "env/reward": 0.5}
    reporter.update(100, {**early, "episodes": 0}, 50.0)
    rows = shown(reporter, width)
    assert ["eta", "unknown", "before", "learning", "begins"] in rows and [
        "env/reward",
        "0.5",
    ] in rows
    assert not any("loss/total" in row or "updates" in row for row in rows)
    reporter.update(200, {**early, "episodes": 2, "episode_return": 9.0}, 50.0)
    assert ["return", "not", "yet", "known", "(first", "episodes", "under", "way)"] in shown(
        reporter, width
    )
    reporter.update(300, {"updates": 1, "loss/total": 0.0, RETURN: [1.5, float("nan")]}, 50.0)
    reporter.update(320, {"eval/return": 3.0}, 50.0)
    rows = shown(reporter, width)
    assert ["return", "1.500"] in rows and ["eta", "0:02"] in rows
    words = [word for row in rows for word in row]
    for name, value in (("updates", "1"), ("loss/total", "0"), ("eval/return", "3")):
        assert words[words.index(name) + 1] == value
    assert RETURN not in words and not any("nan" in word for word in words)


def test_a_long_line_is_left_for_the_terminal_to_fold(monkeypatch, capsys):
    """Folded here, a command would be copied as two."""
    monkeypatch.setenv("COLUMNS", "40")
    command = f"next: ssmrl evaluate run=runs/{'x' * 60} video=true"
    reporter = LiveReporter()
    reporter.start("title", 0, 300)
    reporter.message(command)
    reporter.stop()
    assert command in capsys.readouterr().out.splitlines()


def test_a_panel_shows_metrics_two_in_a_row():
    """Of an odd number the last one stands alone; what the return is of is for files."""
    reporter = LiveReporter()
    reporter._title, reporter._total = "title", 100
    metrics = {"a": 1.0, "b": 2.0, "c": [3.0, float("nan")], "d": 4.0, "e": 5.0}
    hidden = {"time/x": 9.0, f"{RETURN}_from": 9.0, "missing": float("nan")}
    reporter.update(50, metrics | hidden, 10.0)
    rows = shown(reporter)
    for line in ("steps 50 / 100", "speed 10 steps/s per seed", "eta 0:05"):
        assert line.split() in rows
    assert [row for row in rows if row[:1] and row[0] in "ace"] == [
        ["a", "1", "b", "2"],
        ["c", "3", "d", "4"],
        ["e", "5"],
    ]
    assert any("50.0%" in row for row in rows) and not any("missing" in row for row in rows)


PANEL = """\
╭───────────────────────── title ──────────────────────────╮
│ ━━━━━━━━━━━━━━━━━━━━━━━━╸                          50.0% │
│ steps   1,000 / 2,000                                    │
│ speed   25 steps/s per seed                              │
│ eta     0:40                                             │
│ return  none yet (no episode has ended)                  │
│ a           1           bb              0.25             │
│ c           3                                            │
╰──────────────────────────────────────────────────────────╯
"""


def test_a_panel_word_for_word():
    reporter = LiveReporter()
    reporter._title, reporter._total = "title", 2000
    reporter.update(1000, {"a": 1.0, "bb": 0.25, "c": 3.0}, 25.0)
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(reporter._render())
    assert console.export_text() == PANEL


@pytest.mark.parametrize("kind", [SilentReporter, PlainReporter, LiveReporter, NotebookReporter])
def test_whoever_reports_can_be_asked_for_all_of_it(kind):
    reporter = kind()
    assert isinstance(reporter, Reporter) and not isinstance(object(), Reporter)
    reporter.stop()  # without a beginning too


@pytest.mark.parametrize(
    ("updates", "expected"), [(0, False), (1, True), ([0, 0], False), ([0.0, 0.5], True)]
)
def test_learning_has_begun_with_the_first_update_of_any_seed(updates, expected):
    assert is_learning({"updates": updates}) is expected
    assert is_learning({}) is True


@pytest.mark.parametrize(("rate", "text"), [(0.0, "?"), (0.5, "0:20"), (1.0, "0:10")])
def test_the_time_left(rate, text):
    assert format_time_left(10, {}, rate) == text


def test_the_time_left_is_not_known_from_an_evaluation(capsys):
    reporter = PlainReporter()
    reporter.start("title", 0, 100)
    reporter.update(0, {"eval/return": 1.0}, 50.0)
    line = "step 0/100  50 steps/s per seed  return none yet (no episode has ended)  eta ?"
    assert capsys.readouterr().out.splitlines()[1] == line


def test_a_line_comes_after_five_seconds_and_not_before(clock, capsys):
    reporter = PlainReporter()
    reporter.start("title", 0, 100)
    for seconds in (0.0, 4.75, 0.25, 4.0):
        clock.time += seconds
        reporter.update(int(clock.time), {}, 1.0)
    lines = capsys.readouterr().out.splitlines()[1:]
    assert [line.split()[1] for line in lines] == ["1,000/100", "1,005/100"]


def test_lines_are_there_at_once_for_whoever_reads(monkeypatch):
    """A pipe has a buffer, which `tail` would wait for."""
    flushed = []
    monkeypatch.setattr("builtins.print", lambda text, *, flush: flushed.append((text, flush)))
    PlainReporter().message("plain")
    NotebookReporter().message("notebook")
    assert flushed == [("plain", True), ("notebook", True)]


def test_a_line_beside_a_panel_is_printed_as_it_is():
    reporter, file = LiveReporter(), io.StringIO()
    reporter._console = Console(file=file, force_terminal=True, width=40)
    reporter.message("[red]no 3[/red] 'x'")
    assert file.getvalue() == "[red]no 3[/red] 'x'\n"


def test_a_panel_is_drawn_four_times_a_second(monkeypatch, notebook, clock):
    asked = []

    class Live:
        def __init__(self, *, get_renderable, console, refresh_per_second):
            asked.append((get_renderable(), refresh_per_second))

        def start(self, *, refresh):
            asked.append(refresh)

        def stop(self):
            asked.append("stopped")

    monkeypatch.setattr(progress, "Live", Live)
    reporter = LiveReporter()
    reporter.start("title", 0, 10)
    reporter.stop()
    reporter.stop()
    assert [asked[0][1], *asked[1:]] == [4, True, "stopped"]
    reporter = NotebookReporter()
    reporter.start("title", 0, 10)
    for seconds in (0.0, 0.125, 0.125, 0.125):
        clock.time += seconds
        reporter.update(1, {}, 1.0)
    assert len(notebook) == 3  # at first, and after 0 and 0.25 seconds

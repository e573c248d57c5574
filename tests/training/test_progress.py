"""What is shown where: a terminal, a notebook, a pipe."""

from __future__ import annotations

import sys
import types

import pytest
from rich.console import Console

from ssmrl.training.progress import LiveReporter, NotebookReporter, PlainReporter, make_reporter


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

"""Curves and tables, against numbers worked out by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.colors import to_hex

from ssmrl.figures import BLACK, GREY, STYLE, memory_line
from ssmrl.training import plotting
from ssmrl.training.cli import plot_command
from ssmrl.training.errors import RunError
from ssmrl.training.plotting import (
    NO_MEMORY,
    Curve,
    Group,
    aggregate_table,
    find_runs,
    format_value,
    group_runs,
    label_of,
    mean_curve,
    plot_curves,
    plot_trials,
    read_curves,
    read_trials,
    trial_panels,
    write_table,
)
from ssmrl.training.run import RunFolder


def write_run(
    path: str, memory: str, lines: list[dict], env: str = "stub/line", **settings: object
) -> Path:
    run = RunFolder(path)
    agent = {"name": "ppo", "lr": settings.pop("lr", 1e-3), "clip": settings.pop("clip", 0.2)}
    config = {"agent": agent, "memory": {"name": memory}, "env": {"name": env}, **settings}
    run.create(config)
    run.metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return run.path


def point(until: int, value: object, episodes: object = 1.0) -> dict:
    """A line of metrics.jsonl with the training return of the ten steps before."""
    if isinstance(value, list) and not isinstance(episodes, list):
        episodes = [None if v is None else episodes for v in value]
    companions = {"episodes": episodes, "from": until - 10, "until": until}
    named = {f"training_return_{name}": v for name, v in companions.items()}
    return {"step": until, "training_return": value, **named}


@pytest.fixture
def paths() -> list[Path]:
    seeds = [
        point(10, [0.0, 2.0]),
        point(20, [None, 8.0]),
        {"step": 30, "loss/total": [1.0, 1.0]},
        point(40, [6.0, 4.0]),
    ]
    alone = [point(s, float(s)) for s in (10, 20, 40)]
    return [
        write_run("runs/a", "s5", seeds),
        write_run("runs/b", "s5", alone),
        write_run("runs/c", "gru", alone),
    ]


def test_curves_leave_out_what_has_not_finished(paths):
    first, second = read_curves(paths[0])
    assert (first.steps.tolist(), first.returns.tolist()) == ([10, 40], [0, 6])
    assert second.steps.tolist() == [10, 20, 40]
    assert (first.mmer, second.mmer) == (6.0, 8.0)
    assert (first.final, second.final) == (6.0, 4.0)


def test_runs_are_grouped_and_averaged_over_seeds(paths):
    groups = group_runs(paths)
    assert [(g.memory, len(g.curves)) for g in groups] == [("s5", 3), ("gru", 1)]
    steps, mean, low, high = mean_curve(groups[0].curves)
    assert (steps[0], steps[-1]) == (10, 40)
    assert mean[0] == pytest.approx((0 + 2 + 10) / 3)
    assert mean[-1] == pytest.approx((6 + 4 + 40) / 3)
    assert (low <= mean).all() and (mean <= high).all()
    assert (low[0], high[0]) == pytest.approx((0, 10), abs=1)
    _, mean, low, high = mean_curve(groups[1].curves)
    assert (low == mean).all() and (high == mean).all()


def test_the_table(paths):
    s5, gru = aggregate_table(group_runs(paths))
    assert (s5["env"], s5["agent"], s5["memory"], s5["seeds"]) == ("stub/line", "ppo", "s5", 3)
    assert s5["mmer_mean"] == pytest.approx((6 + 8 + 40) / 3)
    assert s5["mmer_mean_low"] < s5["mmer_mean"] < s5["mmer_mean_high"]
    assert gru["mmer_iqm"] == 40
    assert gru["mmer_iqm_low"] is None


def test_the_command_draws_and_writes(paths, capsys):
    assert plot_command([*map(str, paths), "--out", "picture.png"]) == 0
    assert Path("picture.png").read_bytes().startswith(b"\x89PNG")
    rows = csv.DictReader(Path("picture.csv").read_text().splitlines())
    assert [row["memory"] for row in rows] == ["s5", "gru"]
    assert np.isclose(json.loads(Path("picture.json").read_text())[0]["mmer_mean"], 18)
    out = capsys.readouterr().out
    assert "18.000 [" in out and out.endswith("picture.png (and .pdf, .csv, .json of that name)\n")
    assert plot_command([str(paths[0])]) == 0
    assert (paths[0] / "curve.png").exists()


def test_no_environments_name_is_cut_off_on_a_narrow_terminal(capsys, monkeypatch):
    name = "popgym/noisy_position_only_cartpole_easy"
    path = write_run("runs/a", "s5", ALONE, env=name)
    monkeypatch.setenv("TERM", "dumb")  # 80 columns, and no colours among the letters
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert plot_command([str(path)]) == 0
    table = capsys.readouterr().out
    assert max(map(len, table.splitlines()[:8])) <= 80 and "…" not in table
    column = [line.split("│")[1].strip() for line in table.splitlines() if line.startswith("│")]
    assert "".join(column) == name


def test_what_cannot_be_drawn(paths, capsys):
    assert plot_command(["runs/none"]) == 1
    assert "runs/none is not a run" in capsys.readouterr().err
    assert plot_command([str(paths[0]), "--metric", "eval/return"]) == 1
    assert "has no eval/return in its metrics" in capsys.readouterr().err
    assert plot_command([str(paths[0]), "--out", "nowhere/picture.png"]) == 1
    assert "cannot write nowhere/picture.png: No such file" in capsys.readouterr().err
    with pytest.raises(RunError):
        read_curves(write_run("runs/d", "s5", []))


ALONE = [point(s, float(s)) | {"loss/total": 50.0 - s} for s in (10, 20, 40)]


def test_other_settings_are_another_curve_and_named():
    paths = [
        write_run("runs/a", "s5", ALONE, lr=1e-3, seed=0),
        write_run("runs/b", "s5", ALONE, lr=3e-4, seed=0),
        write_run("runs/c", "s5", ALONE, lr=1e-3, seed=1, run_dir="elsewhere", eval_every=10),
        write_run("runs/d", "gru", ALONE, lr=1e-3, seed=0),
        write_run("runs/e", "s5", ALONE, lr=1e-3, seed=0, env="stub/wide"),
    ]
    groups = group_runs(paths)
    assert [(label_of(group, groups), len(group.curves)) for group in groups] == [
        ("s5 lr=0.001", 2),
        ("s5 lr=0.0003", 1),
        ("gru", 1),
        ("s5 lr=0.001", 1),
    ]
    assert [row["label"] for row in aggregate_table(groups)][1] == "s5 lr=0.0003"


def test_settings_that_share_their_last_name_are_named_in_full():
    more = {"replay": {"lr": 0.5}}
    paths = [
        write_run("runs/a", "s5", ALONE, lr=1e-3, **more),
        write_run("runs/b", "s5", ALONE, lr=3e-4, replay={"lr": None}),
    ]
    groups = group_runs(paths)
    assert label_of(groups[0], groups) == "s5 agent.lr=0.001 replay.lr=0.5"
    assert label_of(groups[1], groups) == "s5 agent.lr=0.0003 replay.lr=null"


def test_a_seed_counts_once():
    pair = [point(10, [1.0, 2.0])]
    paths = [
        write_run("runs/a", "s5", pair, seed=0),
        write_run("runs/b", "s5", pair, seed=1),
    ]
    said = []
    (group,) = group_runs([*paths, paths[0]], warn=said.append)
    assert [curve.seed for curve in group.curves] == [0, 1, 2]
    assert [line.split(",")[0] for line in said] == [
        "left out: seed 1 of runs/b",
        "left out: seed 0 of runs/a",
        "left out: seed 1 of runs/a",
    ]


def test_a_loss_has_no_maximum(capsys):
    path = write_run("runs/a", "s5", ALONE)
    assert plot_command([str(path), "--metric", "loss/total"]) == 0
    out = capsys.readouterr().out
    assert "10.000" in out and "MMER" not in out and "40.000" not in out
    (row,) = json.loads((path / "curve-loss-total.json").read_text())
    assert row["final_mean"] == 10.0
    assert not any(name.startswith("mmer") for name in row)
    assert not (path / "curve.png").exists()


def test_the_folder_of_a_sweep_is_its_runs(capsys):
    for name, lr in (("a", 1e-3), ("b", 3e-4), ("c", 1e-2)):
        write_run(f"runs/{name}", "s5", ALONE if name != "c" else [], lr=lr)
    sweep = Path("runs/sweeps/today")
    sweep.mkdir(parents=True)
    (sweep / "runs.txt").write_text("runs/a\nruns/b\nruns/c\n")
    write_run("runs/other", "gru", ALONE)
    assert plot_command([str(sweep)]) == 0
    assert "left out: runs/c has no training_return" in capsys.readouterr().out
    rows = json.loads((sweep / "comparison.json").read_text())
    assert [row["label"] for row in rows] == ["s5 lr=0.001", "s5 lr=0.0003"]
    # A folder with no list is all that is below it.
    assert [path.name for path in find_runs("runs")] == ["a", "b", "c", "other"]


# ------------------------------------------------------------------------------ what is drawn


@pytest.fixture
def drawn(monkeypatch):
    """The figures, in place of their files."""
    figures = []

    def save(figure, path, *, pdf):
        # No file beside the one that was asked for, and the style of all figures.
        assert not pdf and figure.dpi == STYLE["figure.dpi"]
        figures.append(figure)

    monkeypatch.setattr(plotting, "save", save)
    return figures


def curve(*returns: float, seed: int = 0) -> Curve:
    steps = np.arange(1, len(returns) + 1) * 1000.0
    return Curve(steps, np.array(returns), seed)


def test_each_environment_has_a_panel_with_its_own_curves(drawn):
    groups = [
        Group("popgym/a", "ppo", "s5", (curve(0, 1), curve(2, 5, seed=1))),
        Group("popgym/b_c", "ppo", "s5", (curve(7, 8, 9),)),
        Group("popgym/a", "ppo", "gru", (curve(4, 4),)),
    ]
    assert plot_curves(groups, Path("p.png"), ylabel="a return") == Path("p.png")
    (figure,) = drawn
    first, second = figure.axes[:2]
    assert [axis.get_title() for axis in (first, second)] == ["A", "BC"]
    assert [axis.get_ylabel() for axis in (first, second)] == ["a return"] * 2
    lines = {line.get_label(): line for line in first.lines}
    assert list(lines) == ["s5 (2)", "gru (1)"]
    assert [line.get_label() for line in second.lines] == ["s5 (1)"]
    for axis in (first, second):
        for line in axis.lines:
            memory = line.get_label().split()[0]
            assert (line.get_color(), line.get_linestyle()) == memory_line(memory)
        # Every curve has its interval, in its own colour.
        assert len(axis.collections) == len(axis.lines)
        assert_is_a_band(axis.collections[0])
    steps, mean, low, high = mean_curve(groups[0].curves)
    np.testing.assert_array_equal(lines["s5 (2)"].get_xydata().T, [steps, mean])
    band = first.collections[0].get_paths()[0].vertices
    assert (band[:, 1].min(), band[:, 1].max()) == (low.min(), high.max())
    # In thousands of steps, as the longest curve has that many.
    assert second.get_xlabel() == "environment steps (thousands)"


def test_seeds_are_counted_only_where_there_are_several(drawn):
    groups = [Group("popgym/a", "ppo", m, (curve(0, 1),)) for m in ("s5", "gru")]
    plot_curves(groups, Path("p.png"))
    (axis,) = drawn[0].axes
    assert [line.get_label() for line in axis.lines] == ["s5", "gru"]
    assert axis.get_ylabel() == "episodic return"
    # Few steps are written out.
    assert axis.get_xlabel() == "environment steps (thousands)"
    plot_curves([Group("popgym/a", "ppo", "s5", (curve(1),))], Path("p.png"))
    assert drawn[1].axes[0].get_xlabel() == "environment steps"


def test_many_lines_have_a_legend_that_says_what_is_in_brackets(drawn):
    groups = [
        Group("popgym/a", "ppo", f"memory{i}", (curve(0, 1), curve(0, 1, seed=1))) for i in range(5)
    ]
    plot_curves(groups, Path("p.png"))
    legend = drawn[0].axes[0].get_legend()
    assert legend.get_title().get_text() == "seeds in brackets"
    assert legend.get_texts()[0].get_text() == "memory0 (2)"


def trials(*mean: float, width: float | None = 0.5, **more) -> dict:
    interval = [None if width is None else (m - width, m + width) for m in mean]
    return {"mean": list(mean), "interval": interval, **more}


def test_titles_of_many_options_are_within_the_figure(drawn):
    title = "Classic control held_out=[acrobot] split=held_out flicker=0.25"
    plot_trials({title: {"gru": trials(0, 1), NO_MEMORY: trials(0, 0)}}, Path("p.png"))
    (figure,) = drawn
    figure.draw_without_rendering()
    axis = figure.axes[0]
    box = axis.title.get_window_extent()
    assert axis.get_title().replace("\n", " ") == title
    assert box.x0 >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1


def test_curves_over_trials_tell_memories_from_what_they_are_compared_with(drawn):
    curves = {
        "s5": trials(1, 2, 3),
        "s5, memory reset": trials(1, 1, 1),
        "gru": trials(0, 1, 1, width=None),
        NO_MEMORY: trials(0, 0, 0),
        "best": trials(3, 3, 3, reached=1.0),
        "lazy": trials(2, 2, 2, reached=None),
    }
    other = {"gru": trials(*range(30)), NO_MEMORY: trials(*range(30))}
    assert plot_trials({"first": curves, "second": other}, Path("p.png")) == Path("p.png")
    first, second = drawn[0].axes[:2]
    assert [axis.get_title() for axis in (first, second)] == ["first", "second"]
    assert (first.get_xlabel(), first.get_ylabel()) == ("trial", "return of the trial")
    lines = dict(zip(curves, first.lines, strict=True))
    colours = {name: line.get_color() for name, line in lines.items()}
    s5, gru = memory_line("s5")[0], memory_line("gru")[0]
    assert colours == {"s5": s5, "s5, memory reset": s5, "gru": gru} | dict.fromkeys(
        (NO_MEMORY, "best", "lazy"), BLACK
    )
    styles = {name: line.get_linestyle() for name, line in lines.items()}
    assert styles["s5"] == styles["gru"] == "-" and styles["s5, memory reset"] == "--"
    # What is no memory is told apart by its lines.
    assert [styles[name] for name in (NO_MEMORY, "best")] == [":", "-."]
    np.testing.assert_array_equal(lines["s5"].get_xydata().T, [[1, 2, 3], [1, 2, 3]])
    # Intervals, where there are several seeds, of the memories alone.
    bands = [band.get_paths()[0].vertices[:, 1] for band in first.collections]
    assert [(band.min(), band.max()) for band in bands] == [(0.5, 3.5), (0.5, 1.5)]
    assert lines["s5"].get_marker() == "." and second.lines[0].get_marker() == "None"
    assert [to_hex(band.get_facecolor()) for band in first.collections] == [s5.lower()] * 2
    assert second.lines[0].get_color() == gru
    # Memories first, their controls by one name, where there are any.
    control = "memory reset at every trial"
    assert legend_of(first) == ["s5", "gru", control, NO_MEMORY, "best", "lazy"]
    assert legend_of(second) == ["gru", NO_MEMORY]
    dashed = first.get_legend().get_lines()[2]
    assert (dashed.get_color(), dashed.get_linestyle()) == (GREY, "--")


def legend_of(axis) -> list[str]:
    return [text.get_text() for text in axis.get_legend().get_texts()]


@pytest.mark.parametrize("references", [1, 12])
def test_legends_over_trials_cover_no_curve(drawn, references):
    names = [f"reference {i}" for i in range(references)]
    curves = {"s5": trials(1, 2), **{name: trials(1, 2, reached=None) for name in names}}
    plot_trials({"a": curves, "b": curves}, Path("p.png"))
    (figure,) = drawn
    figure.draw_without_rendering()
    for axis in figure.axes:
        legend, label = axis.get_legend().get_window_extent(), axis.xaxis.label.get_window_extent()
        assert 0 <= legend.y0 < legend.y1 <= label.y0
    # The axes do not pay for long legends.
    assert figure.axes[0].get_window_extent().height > 1.5 * figure.dpi


@pytest.mark.parametrize(("labels", "rows"), [(1, 1), (2, 2), (3, 2), (4, 3)])
def test_a_figure_over_trials_grows_with_its_legend(drawn, labels, rows):
    """A line for two labels, of which one is that of the resets."""
    most = {"s5": trials(1), "s5, memory reset": trials(1)}
    most |= {f"reference {i}": trials(1, reached=None) for i in range(labels - 1)}
    plot_trials({"a": {"s5": trials(1)}, "b": most}, Path("p.png"))
    assert drawn[0].get_figheight() == pytest.approx(2.4 + 0.15 * rows)


def test_what_is_drawn_over_trials_looks_as_it_does_everywhere(drawn):
    curves = {"s5": trials(*range(29)), "best": trials(*range(29), reached=None)}
    plot_trials({"a": curves}, Path("p.png"))
    (figure,) = drawn
    figure.draw_without_rendering()
    (axis,) = figure.axes
    assert [(line.get_marker(), line.get_markersize()) for line in axis.lines] == [(".", 4)] * 2
    assert [line.get_linewidth() for line in axis.lines] == [STYLE["lines.linewidth"], 1]
    assert_is_a_band(axis.collections[0])
    # No half trials.
    assert all(tick == int(tick) for tick in axis.xaxis.get_major_locator().tick_values(1, 3))
    legend, box = axis.get_legend(), axis.get_window_extent()
    place = legend.get_window_extent()
    assert legend._ncols == 2
    assert (place.x0 + place.x1) / 2 == pytest.approx((box.x0 + box.x1) / 2)
    letter = STYLE["legend.fontsize"] / 72 * figure.dpi
    assert box.y0 - place.y1 == pytest.approx(4 * letter)


def assert_is_a_band(band) -> None:
    """Pale, and without an outline."""
    assert (band.get_alpha(), band.get_linewidth()) == (0.2, [0])


def test_a_memory_that_is_named_with_more_has_its_line(drawn):
    plot_trials({"a": {"gru, 500 trials": trials(1, 2)}}, Path("p.png"))
    (line,) = drawn[0].axes[0].lines
    assert (line.get_color(), line.get_linestyle()) == memory_line("gru")


def test_a_picture_over_trials_that_cannot_be_written_is_named():
    with pytest.raises(RunError, match="^cannot write nowhere/p.png: No such file or directory$"):
        plot_trials({"a": {"s5": trials(1, 2)}}, Path("nowhere/p.png"))


def test_lines_of_what_is_no_memory_run_out_and_begin_again(drawn):
    names = [f"reference {i}" for i in range(8)]
    plot_trials({"a": {name: trials(1, 2, reached=None) for name in names}}, Path("p.png"))
    lines = drawn[0].axes[0].lines
    patterns = [line._unscaled_dash_pattern for line in lines]
    assert patterns[6:] == patterns[:2]
    assert [(offset, list(dashes)) for offset, dashes in patterns[2:6]] == [
        *((0, [1, 4]), (0, [8, 3]), (0, [3, 1, 1, 1]), (0, [5, 1, 1, 1, 1, 1])),
    ]
    assert not drawn[0].axes[0].collections


def test_runs_on_one_task_share_a_panel_over_trials():
    for name, memory in (("a", "s5"), ("b", "gru"), ("c", "s5")):
        path = write_run(f"runs/{name}", memory, ALONE)
        policies = {
            who: trials(i) for i, who in enumerate(("agent", "memory_reset", "random"), len(name))
        }
        record = {
            "env": "meta/bandit",
            "trials": {
                "kwargs": {"arms": 3},
                "policies": policies,
                "references": {"best_arm": trials(9)},
            },
        }
        older = {"env": "old", "trials": {}}
        file = RunFolder(path).evaluations
        file.write_text(json.dumps([older, older, record, {"env": "without trials"}]))
        assert read_trials(path) == json.loads(json.dumps(record))
    panels = trial_panels(["runs/a", "runs"])
    assert list(panels) == ["Bandit arms=3"]
    assert list(panels["Bandit arms=3"]) == [
        *("s5", "s5, memory reset", "random", "best arm"),
        *("s5, a", "s5, a, memory reset", "gru", "gru, memory reset"),
        *("s5, c", "s5, c, memory reset"),
    ]


def test_tables_are_written_for_people_and_programs():
    write_table([{"env": "a", "mean": 0.5}, {"env": "b", "mean": None}], Path("table.png"))
    assert Path("table.csv").read_text() == "env,mean\na,0.5\nb,\n"
    assert Path("table.json").read_text() == (
        '[\n  {\n    "env": "a",\n    "mean": 0.5\n  },\n'
        '  {\n    "env": "b",\n    "mean": null\n  }\n]\n'
    )
    with pytest.raises(RunError, match="cannot write nowhere/table.png: No such file"):
        write_table([{"a": 1}], Path("nowhere/table.png"))
    row = {"x": 0.91234, "x_low": 0.88, "x_high": 0.9449, "y": 1.0, "y_low": None, "y_high": None}
    assert format_value(row, "x") == "0.912 [0.880, 0.945]" and format_value(row, "y") == "1.000"


def test_a_mean_over_seeds_is_of_the_steps_that_all_have():
    curves = [Curve(np.array([0.0, 100]), np.array([0.0, 1])), curve(3.0, 3.0)]
    steps, mean, low, high = mean_curve(curves)
    # The second begins where the first has ended.
    assert steps.shape == (200,) and set(steps) == {1000.0} and set(mean) == {2.0}
    many = [Curve(np.array([0.0, 10]), np.array([x, x])) for x in np.linspace(-1, 1, 50)]
    widths = []
    for confidence in (0.5, 0.95):
        steps, mean, low, high = mean_curve(many, confidence=confidence)
        assert (steps[0], steps[-1]) == (0, 10) and mean == pytest.approx(0, abs=1e-12)
        widths.append((high - low)[0])
    # Of a normal of deviation .58 / 50 ** .5: 1.35 and 3.92 deviations.
    assert widths == pytest.approx([0.112, 0.326], rel=0.1)


def test_figures_of_a_curve():
    line = Curve(np.array([10.0, 89, 90, 100]), np.array([9.0, 5, 1, 4]))
    assert (line.mmer, line.final) == (9.0, 2.5)
    weighted = Curve(line.steps, line.returns, episodes=np.array([1.0, 1, 2, 1]))
    assert weighted.final == 2.0
    assert Curve(line.steps, line.returns, windows=np.array([3.0, 6])).mmer == 6.0


def test_an_interval_is_the_percentile_bootstraps():
    """By hand: a thousand draws, and 2.5 % of them at either side. Nobody's figure changes."""
    curves = [Curve(np.array([0.0, 10]), np.array([x, x])) for x in (0.0, 1.0, 4.0)]
    *_, low, high = mean_curve(curves)
    draws = np.random.default_rng(0).integers(0, 3, (1000, 3))
    means = np.sort(np.array([0.0, 1.0, 4.0])[draws].mean(axis=1))
    places = 0.025 * 999, 0.975 * 999
    expected = [np.interp(place, np.arange(1000), means) for place in places]
    assert [low[0], high[0]] == pytest.approx(expected)
    skewed = [Curve(np.array([0.0, 10]), np.array([x, x])) for x in np.arange(40.0) ** 3]
    *_, low, high = mean_curve(skewed, seed=1)
    draws = np.random.default_rng(1).integers(0, 40, (1000, 40))
    means = np.sort((np.arange(40.0) ** 3)[draws].mean(axis=1))
    expected = [np.interp(place, np.arange(1000), means) for place in places]
    assert [low[0], high[0]] == pytest.approx(expected)


def test_settings_written_in_another_order_are_the_same():
    for name, order in (("a", ("lr", "clip")), ("b", ("clip", "lr"))):
        run = RunFolder(name)
        agent = {"name": "ppo", **dict.fromkeys(order, 1)}
        run.create({"agent": agent, "memory": {"name": "s5"}, "env": {"name": "e"}})
        run.metrics.write_text(json.dumps(point(10, 1.0)) + "\n")
    assert len(group_runs(["a", "b"])) == 1


def test_a_folder_of_runs_without_a_return_says_so():
    for name in "ab":
        write_run(f"runs/{name}", "s5", [])
    said = []
    with pytest.raises(RunError, match="^no run has training_return in its metrics yet$"):
        group_runs(["runs"], warn=said.append)
    assert [line.split(" has ")[0] for line in said] == ["left out: runs/a", "left out: runs/b"]
    with pytest.raises(RunError, match="^no run has"):
        group_runs(["runs"])


def test_a_seed_that_is_left_out_takes_no_other_with_it():
    pair = [point(10, [1.0, 2.0])]
    paths = [write_run("runs/a", "s5", pair, seed=0), write_run("runs/b", "s5", pair, seed=1)]
    (group,) = group_runs([paths[0], paths[1]])
    assert [curve.seed for curve in group.curves] == [0, 1, 2]


def test_windows_are_a_quarter_of_the_whole_run():
    """Of all that was trained, though the last line is of a loss."""
    lines = [point(until, float(until == 50)) for until in range(10, 90, 10)]
    (curve,) = read_curves(write_run("runs/a", "s5", [*lines, {"step": 160}]))
    # 40 steps: of the four points of the second window one is 1.
    assert curve.mmer == 0.25


def test_environments_are_told_apart_by_their_options_within_a_panel():
    paths = [
        write_run(f"runs/{i}", "s5", ALONE, env=env, seed=i)
        for i, env in enumerate(("stub/line", "stub/line", "stub/wide"))
    ]
    for path, length in zip(paths, (3, 4, 3), strict=True):
        config = path / "config.yaml"
        record = yaml.safe_load(config.read_text())
        record["config"]["env"]["kwargs"] = {"length": length}
        config.write_text(yaml.safe_dump(record))
    groups = group_runs(paths)
    assert [label_of(group, groups) for group in groups] == ["s5 length=3", "s5 length=4", "s5"]


def test_the_columns_are_those_of_the_first_row():
    write_table([{"a": 1, "b": 2}, {"b": 4, "a": 3}], Path("t"))
    assert Path("t.csv").read_text() == "a,b\n1,2\n3,4\n"


def test_names_of_groups_and_where_a_return_is_hinted_at():
    two = [Group("e", agent, "s5", (), {"lr": 1.0}) for agent in ("ppo", "pqn")]
    assert [label_of(group, two) for group in two] == ["ppo s5", "pqn s5"]
    path = write_run("runs/a", "s5", [{"step": 10, "episode_return": 1.0}])
    with pytest.raises(RunError) as error:
        read_curves(path)
    assert str(error.value) == (
        "runs/a has no training_return in its metrics yet; --metric episode_return has the mean of "
        "what ended, short episodes first"
    )
    # Of another metric that would be no help.
    with pytest.raises(RunError, match="has no loss in its metrics yet$"):
        read_curves(path, "loss")


def test_a_metric_of_several_seeds_is_a_curve_each():
    path = write_run("runs/a", "s5", [{"step": 5, "x": [1.0, None, 3.0]}, {"step": 6, "x": 4.0}])
    assert [(c.seed, c.steps.tolist(), c.returns.tolist()) for c in read_curves(path, "x")] == [
        (0, [5, 6], [1, 4]),
        (2, [5], [3]),
    ]

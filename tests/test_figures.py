"""The style of figures: every memory its line, names, axes, labels that do not cover each other."""

import subprocess
import sys

import matplotlib
import numpy as np
import pytest

from ssmrl import figures
from ssmrl.envs import list_envs
from ssmrl.memory import list_memories


def test_every_memory_has_a_line_of_its_own():
    assert set(figures._LINES) == set(list_memories())
    assert len(set(figures._LINES.values())) == len(figures._LINES)


def luminance(colour):
    rgb = np.array(matplotlib.colors.to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def test_colours_are_of_okabe_and_ito_and_stand_out_from_white():
    colours = {colour for colour, _ in figures._LINES.values()}
    assert colours <= {*figures.PALETTE, figures.GREY}
    # The contrast of a thin line with white paper (their yellow has 1.3).
    assert all(1.05 / (luminance(colour) + 0.05) > 2 for colour in colours)


def test_the_first_curve_of_a_memory_has_its_line_and_no_two_are_the_same():
    s5, gru = figures.memory_line("s5"), figures.memory_line("gru")
    lines = figures.lines_of(["own.Mine", "s5", "s5", "gru", "another", "s5"])
    assert lines[1] == s5 and lines[3] == gru
    assert len(set(lines)) == 6
    assert figures.lines_of(["s5", "gru"]) == figures.lines_of(["gru", "s5"])[::-1]


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("popgym/repeat_previous_easy", "RepeatPreviousEasy"),
        ("popgym/noisy_position_only_cartpole_hard", "NoisyPositionOnlyCartPoleHard"),
        ("popgym/multiarmed_bandit_medium", "MultiarmedBanditMedium"),
        ("popgym/minesweeper_easy", "MineSweeperEasy"),
        ("popgym_original/repeat_first_easy", "RepeatFirstEasy (original)"),
        ("memory_maze/9x9", "Memory Maze 9×9"),
        ("memory_maze_original/15x15", "Memory Maze 15×15 (original)"),
        ("bsuite/memory_len", "memory_len"),
        ("bsuite/memory_len/10", "memory_len/10"),
        ("gymnax/cartpole", "CartPole (gymnax)"),
        ("gymnasium/CartPole-v1", "CartPole-v1"),
        ("meta/bernoulli_bandit", "Bernoulli bandit"),
        ("meta/cartpole", "CartPole"),
        ("mine", "mine"),
    ],
)
def test_tasks_are_named_as_people_write_them(name, written):
    assert figures.task_name(name) == written


def test_no_two_tasks_have_one_name():
    names = [figures.task_name(name) for name in list_envs()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("last", "label", "tick", "text"),
    [
        (900, "environment steps", 500, None),
        (300_000, "environment steps (thousands)", 150_000, "150"),
        (15_000_000, "environment steps (millions)", 2_500_000, "2.5"),
    ],
)
def test_steps_have_units(last, label, tick, text):
    _, (axis,) = figures.panels(1)
    axis.set_xlim(0, last)
    figures.steps_axis(axis, last)
    assert axis.get_xlabel() == label
    if text:
        assert axis.xaxis.get_major_formatter()(tick, 0) == text


def test_labels_are_kept_apart_and_in_the_axis():
    assert figures._apart([0.2, 0.8], 0.0, 1.0) == [0.2, 0.8]
    close = figures._apart([0.99, 0.5, 0.98, 1.0], 0.0, 1.0)
    assert close == pytest.approx([0.91, 0.5, 0.82, 1.0])
    assert np.argsort(close).tolist() == np.argsort([0.99, 0.5, 0.98, 1.0]).tolist()


@pytest.mark.parametrize("lines", [2, 6])
def test_few_lines_are_labelled_at_their_ends_and_many_in_a_legend(lines):
    _, (axis,) = figures.panels(1)
    for i in range(lines):
        axis.plot([0, 1], [0, i], label=f"line {i}")
    figures.label_lines(axis, title="lines")
    written = [text.get_text() for text in axis.texts]
    assert written == ([] if lines > 4 else ["line 0", "line 1"])
    assert (axis.get_legend() is not None) == (lines > 4)
    for text, line in zip(axis.texts, axis.lines, strict=False):
        assert text.get_color() == line.get_color()


def test_panels_are_half_a_column_wide_and_in_rows():
    figure, axes = figures.panels(5, columns=3, height=2.0)
    assert len(axes) == 5 and tuple(figure.get_size_inches()) == (3 * figures.HALF_COLUMN, 4)


def test_a_figure_is_written_twice_in_the_style_and_leaves_no_trace(tmp_path):
    before = dict(matplotlib.rcParams)

    @figures.styled
    def draw():
        figure, (axis,) = figures.panels(1)
        axis.set_title("t")
        figures.save(figure, tmp_path / "one.png")
        return axis

    for _ in range(2):  # a decorated function can be called again
        assert draw().title.get_fontsize() == figures.STYLE["axes.titlesize"]
    assert dict(matplotlib.rcParams) == before
    assert (tmp_path / "one.png").read_bytes()[1:4] == b"PNG"
    assert (tmp_path / "one.pdf").read_bytes()[:4] == b"%PDF"


def test_pyplot_is_left_alone():
    code = "import ssmrl.figures, sys; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_settings_around_it_do_not_change_the_style():
    """As seaborn's theme does once it is imported and set: what is not named is the default."""

    @figures.styled
    def inside():
        return matplotlib.rcParams["axes.labelpad"], matplotlib.rcParams["axes.labelsize"]

    with matplotlib.rc_context({"axes.labelpad": 30.0, "axes.labelsize": 20}):
        assert inside() == (matplotlib.rcParamsDefault["axes.labelpad"], 8)
        assert matplotlib.rcParams["axes.labelpad"] == 30.0


def test_a_legend_below_covers_neither_curves_nor_the_name_of_the_axis():
    figure, (axis, _) = figures.panels(2)
    for memory in ("s5", "gru", "none"):
        axis.plot([0, 1], [0, 1], label=memory)
    axis.set_xlabel("steps")
    figures.legend_below(axis)
    figure.draw_without_rendering()
    legend = axis.get_legend()
    assert [text.get_text() for text in legend.get_texts()] == ["s5", "gru", "none"]
    assert legend.get_window_extent().y1 <= axis.xaxis.label.get_window_extent().y0
    assert legend.get_window_extent().y0 >= 0

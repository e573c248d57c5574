"""The suite benchmark: which runs there are, taking them up again, and the tables."""

import dataclasses
import json
import os
import re
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgba

from ssmrl.training import benchmark
from ssmrl.training.config import BenchmarkConfig
from ssmrl.training.errors import RunError
from ssmrl.training.plotting import Curve
from ssmrl.training.run import RunFolder

ENVS = [
    "popgym/repeat_first_easy",
    "popgym/repeat_first_hard",
    "popgym/higher_lower_easy",
    "bsuite/memory_len",
]


def config(tmp_path, **options):
    paths = {"run_dir": str(tmp_path / "runs"), "out": str(tmp_path / "results")}
    return dataclasses.replace(BenchmarkConfig(memory=["s5"], **paths), **options)


def test_jobs_are_the_suite_times_the_memories(tmp_path):
    jobs = benchmark.jobs_of(config(tmp_path, memory=["s5", "gru"]), ENVS)
    assert [(job.env, job.memory) for job in jobs] == [
        (env, memory) for memory in ("s5", "gru") for env in ENVS[:3]
    ]
    assert len({job.run for job in jobs}) == len({job.result for job in jobs}) == 6


@pytest.mark.parametrize(
    ("ids", "chosen"),
    [
        (["easy"], [ENVS[0], ENVS[2]]),
        (["repeat_first"], ENVS[:2]),
        (["repeat_first_hard"], [ENVS[1]]),
    ],
)
def test_ids_may_be_difficulties_and_families(tmp_path, ids, chosen):
    assert [job.env for job in benchmark.jobs_of(config(tmp_path, ids=ids), ENVS)] == chosen


def test_an_id_is_that_one_alone(tmp_path):
    """Though another ends like it."""
    both = ["popgym/noisy_position_only_pendulum_easy", "popgym/position_only_pendulum_easy"]
    for ids, chosen in ((["position_only_pendulum_easy"], both[1:]), (["easy"], both)):
        assert [job.env for job in benchmark.jobs_of(config(tmp_path, ids=ids), both)] == chosen


@pytest.mark.parametrize(
    "options", [{"suite": "popgim"}, {"ids": ["easier"]}, {"ids": ["easy", "easier"]}]
)
def test_an_empty_choice_names_the_suites(tmp_path, options):
    with pytest.raises(ValueError, match="suites are .*bsuite.*popgym"):
        benchmark.jobs_of(config(tmp_path, **options), ENVS)


TRAIN = """
import json, pathlib, sys
options = dict(a.split("=", 1) for a in sys.argv[1:])
run = pathlib.Path(options["run_dir"]); run.mkdir(parents=True, exist_ok=True)
with open(run / "calls", "a") as file: file.write(" ".join(sys.argv[1:]) + "\\n")
if "fail" in options["env"]: print("out of luck"); sys.exit(3)
"""


@pytest.fixture
def train(tmp_path, monkeypatch):
    """A stand-in for `ssmrl train` that notes its calls, and curves as it would leave them."""
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    curve = benchmark.np.array([0.0, 1.0])
    fake = Curve(curve, curve, episodes=curve + 1)
    monkeypatch.setattr(benchmark, "read_curves", lambda run: [fake])
    monkeypatch.setattr(benchmark, "read_metrics", lambda path: [{"step": 1_000_000}])
    return sys.executable, str(script)


def test_finished_runs_are_not_trained_again(tmp_path, train):
    jobs = benchmark.jobs_of(config(tmp_path), ENVS)
    said = []
    assert benchmark.run_all(jobs, train, 2, said.append) == []
    assert benchmark.run_all(jobs, train, 1, said.append) == []
    assert said[0] == "3 runs to do" and said[-1] == "0 runs to do"
    assert said[-2] == (
        f"3 of 3 runs have a result in {tmp_path / 'results'}, which is used again; "
        "for new ones give another run_dir (and out)"
    )
    for job in jobs:
        assert json.loads(job.result.read_text())["env"] == job.env
        assert len((job.run / "calls").read_text().splitlines()) == 1
    # More steps, or another setting, are other results.
    for count, other in enumerate(({"steps": 2_000_000}, {"overrides": ["agent.lr=1"]}), 2):
        more = benchmark.jobs_of(config(tmp_path, **other), ENVS)
        benchmark.run_all(more[:1], train, 1, said.append)
        assert len((more[0].run / "calls").read_text().splitlines()) == count
    assert re.fullmatch(rf"{ENVS[0]} s5: \+1.000 after \d s", said[-1])


def test_a_run_that_had_begun_is_continued(tmp_path, train):
    (job,) = benchmark.jobs_of(config(tmp_path), ENVS[:1])
    RunFolder(job.run).create({name: {"name": "x"} for name in ("agent", "memory", "env")})
    assert benchmark.run_all([job], train, 1, lambda text: None) == []
    calls = (job.run / "calls").read_text()
    assert calls == " ".join([*job.overrides, f"run_dir={job.run}", "resume=true"]) + "\n"
    assert job.overrides == (
        *("experiment=popgym", "agent=ppo", "memory=s5", f"env={ENVS[0]}"),
        *("total_steps=1000000", "seeds=3"),
    )


def test_older_results_name_their_folder_among_their_settings(tmp_path, train):
    (job,) = benchmark.jobs_of(config(tmp_path), ENVS[:1])
    job.result.parent.mkdir(parents=True)
    record = {"steps": 1_000_000, "overrides": ["run_dir=elsewhere", *job.overrides]}
    job.result.write_text(json.dumps(record))
    assert benchmark._is_done(job)
    job.result.write_text(json.dumps(record | {"steps": 999_999}))
    assert not benchmark._is_done(job)


@pytest.mark.parametrize("text", ["a", "{}", "3", '{"steps": 1, "overrides": [1]}'])
def test_what_is_no_result_is_not_overwritten(tmp_path, text):
    (job,) = benchmark.jobs_of(config(tmp_path), ENVS[:1])
    job.result.parent.mkdir(parents=True)
    job.result.write_text(text)
    with pytest.raises(RunError, match=f"^{job.result} is not a result of this script: "):
        benchmark._is_done(job)


def test_what_is_marked_as_invalid_is_said_to_be_and_trained_again(tmp_path, train, capsys):
    jobs = benchmark.jobs_of(config(tmp_path), ENVS)
    said = []
    benchmark.run_all(jobs, train, 1, said.append)
    record = json.loads(jobs[0].result.read_text())
    assert record["metric"] == "training_return"
    # The mean of the points is weighted by their episodes: two points stay as they are.
    assert record["curves"][0]["episodes"] == [1, 2]
    jobs[0].result.write_text(json.dumps(record | {"invalid": "measured in miles"}))
    folder = jobs[0].result.parent
    assert benchmark.invalid_results(folder) == {"measured in miles": [jobs[0].result.name]}
    assert benchmark.invalid_results(folder, jobs[1:]) == {}
    benchmark.report(folder)
    assert "NOT VALID, do not quote: 1 of these results" in capsys.readouterr().out
    summary = json.loads((tmp_path / "results.summary.json").read_text())
    assert summary["invalid"] == {"measured in miles": 1}
    benchmark.run_all(jobs, train, 1, said.append)
    assert "1 runs to do" in said and "invalid" not in json.loads(jobs[0].result.read_text())
    (tmp_path / "results.summary.json").unlink()
    benchmark.report(folder)
    assert "invalid" not in json.loads((tmp_path / "results.summary.json").read_text())


def test_a_thinned_curve_is_weighted_by_episodes(monkeypatch):
    monkeypatch.setattr(benchmark, "POINTS", 2)
    steps, returns = np.array([10.0, 20, 30, 40]), np.array([1.0, 4.0, 0.0, 1.0])
    assert benchmark._thinned(steps, returns, np.array([2.0, 1, 1, 3])) == {
        "steps": [20, 40],
        "returns": [2.0, 0.75],
        "episodes": [3, 4],
    }


def test_a_result_is_what_its_run_has_shown(tmp_path, train, monkeypatch):
    """A hundred points of a long curve, all of a short one."""
    long, short = np.arange(1.0, 1001), np.arange(1.0, 4)
    curves = [Curve(long, long / 3), Curve(short, -short, episodes=short)]
    monkeypatch.setattr(benchmark, "read_curves", lambda run: curves)
    lines = [{"step": 7}, {"step": 9}, {"step": 8}]
    monkeypatch.setattr(benchmark, "read_metrics", lambda path: lines)
    (job,) = benchmark.jobs_of(config(tmp_path), ENVS[:1])
    benchmark.write_result(job)
    record = json.loads(job.result.read_text())
    assert list(record) == [
        *("env", "memory", "steps", "overrides", "versions", "metric", "mmer", "final", "curves")
    ]
    assert (record["env"], record["memory"], record["steps"]) == (ENVS[0], "s5", 9)
    assert record["overrides"] == list(job.overrides) and record["versions"]["numpy"]
    assert record["mmer"] == pytest.approx([1000 / 3, -1])
    assert record["final"] == pytest.approx([950 / 3, -3])
    first, second = record["curves"]
    assert first["steps"] == list(range(10, 1001, 10)) and first["episodes"] == [10] * 100
    assert first["returns"][:2] == [1.83333, 5.16667]
    assert second == {"steps": [1, 2, 3], "returns": [-1, -2, -3], "episodes": [1, 2, 3]}


def test_a_failure_stops_no_other(tmp_path, train):
    jobs = benchmark.jobs_of(config(tmp_path), ["popgym/fail", *ENVS])
    said = []
    failed = benchmark.run_all(jobs, train, 1, said.append)
    assert [job.env for job in failed] == ["popgym/fail"]
    assert any("failed with 3" in line for line in said)
    # And once more at the end, where it is seen, with the last line of the log.
    assert said[-2] == "1 of 4 runs failed:"
    assert said[-1].startswith("  popgym/fail s5: failed with 3, see ")
    assert said[-1].endswith(".log (out of luck)")
    assert all(job.result.exists() for job in jobs[1:])


def test_every_run_has_a_log_of_its_own(tmp_path, train):
    """Names with a dot, whose last part is no suffix, too."""
    jobs = benchmark.jobs_of(config(tmp_path), ["popgym/fail.a", "popgym/fail.b"])
    said = []
    assert benchmark.run_all(jobs, train, 1, said.append) == jobs
    logs = {line.partition("see ")[2].partition(" (")[0] for line in said[-2:]}
    assert len(logs) == 2 and all(Path(log).exists() for log in logs)


def test_a_run_without_a_result_has_failed(tmp_path, train, monkeypatch):
    """It ended well, and its curves cannot be read."""

    def unreadable(run):
        raise RunError(f"{run.name} has no curve")

    monkeypatch.setattr(benchmark, "read_curves", unreadable)
    (job,) = benchmark.jobs_of(config(tmp_path), ENVS[:1])
    said = []
    assert benchmark.run_all([job], train, 1, said.append) == [job]
    assert f"{job.env} s5: {job.run.name} has no curve" in said
    assert not job.result.exists()


@pytest.mark.parametrize(
    ("text", "expected"), [("", ""), (" \n\n", ""), ("a", " (a)"), ("a\nb\nc\n\n", " (c)")]
)
def test_the_last_line_of_a_log(tmp_path, text, expected):
    (tmp_path / "log").write_text(text)
    assert benchmark._last_line(tmp_path / "log") == expected


def test_a_signal_stops_the_runs_under_way_and_begins_no_other(tmp_path, train, capfd):
    """Two of three are under way; the same command goes on with them."""
    Path(train[1]).write_text(
        TRAIN
        + "import signal, time\n"
        + "signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))\n"
        + "(run / 'ready').touch(); time.sleep(0 if (run / 'again').exists() else 60)\n"
    )
    jobs = benchmark.jobs_of(config(tmp_path), ENVS)

    def send():
        while not all((job.run / "ready").exists() for job in jobs[:2]):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    sender, said = threading.Thread(target=send), []
    sender.start()
    with pytest.raises(SystemExit) as left:
        benchmark.run_all(jobs, train, 2, said.append)
    sender.join()
    # Both have ended by themselves: killed they would have left another code.
    assert left.value.code == 75 and said == ["3 runs to do"] and not jobs[2].run.exists()
    assert not any(job.result.exists() for job in jobs)
    assert "SIGTERM: what is under way writes a checkpoint" in capfd.readouterr().err
    for job in jobs:
        job.run.mkdir(exist_ok=True)
        (job.run / "again").touch()
    assert benchmark.run_all(jobs, train, 2, said.append) == []


def test_runs_side_by_side_have_a_core_each(tmp_path, train, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--mine")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environments = []

    def run(self, command, stdout, stderr, env):
        environments.append((env["XLA_FLAGS"], env.get("OMP_NUM_THREADS"), command[-1]))
        return 1

    monkeypatch.setattr(benchmark.Children, "run", run)
    (job,) = benchmark.jobs_of(config(tmp_path), ENVS[:1])
    for parallel in (1, 2):
        benchmark.run_all([job], train, parallel, lambda text: None)
    assert environments == [
        ("--mine", None, f"run_dir={job.run}"),
        ("--mine --xla_cpu_multi_thread_eigen=false", "1", f"run_dir={job.run}"),
    ]


def write_results(folder, scores):
    folder.mkdir()
    for memory, envs in scores.items():
        for env, values in envs.items():
            record = {"memory": memory, "env": env, "mmer": values}
            (folder / f"{memory}-{env}.json").write_text(json.dumps(record))


def test_the_summary_of_known_scores(tmp_path):
    """Every seed of `a` is better than every seed of `b`, on the environments both have."""
    a, b = {"x": [1.0, 1.0], "y": [0.5, 0.5], "z": [9.0, 9.0]}, {"x": [0.0, 0.0], "y": [0.1, 0.1]}
    write_results(tmp_path / "results", {"a": a, "b": b})
    summary = benchmark.summarise(benchmark.read_results(tmp_path / "results"))
    assert summary["envs"] == ["x", "y"]
    np.testing.assert_allclose(summary["aggregates"]["a"]["mean"], [0.75] * 3)
    np.testing.assert_allclose(summary["aggregates"]["b"]["mean"], [0.05] * 3)
    np.testing.assert_allclose(summary["improvement"]["a,b"], [1, 1, 1])
    assert list(summary["improvement"]) == ["a,b"]


def test_intervals_are_of_two_thousand_resamples_of_as_many_seeds_as_all_have(monkeypatch):
    from rliable import library

    asked = []

    def estimates(pairs, compute, reps):
        asked.append((reps, {name: np.shape(scores) for name, scores in pairs.items()}))
        values = {name: np.array([1.0, 2.0]) for name in pairs}
        return values, {name: np.array([[0.5, 1.5], [1.25, 2.5]]) for name in pairs}

    monkeypatch.setattr(library, "get_interval_estimates", estimates)
    scores = {"x": np.zeros(3), "y": np.zeros(2)}
    alone = benchmark.summarise({"a": scores})
    assert asked == [(2000, {"a": (2, 2)})] and alone["improvement"] == {}
    assert alone["aggregates"] == {"a": {"mean": [1.0, 0.5, 1.25], "iqm": [2.0, 1.5, 2.5]}}
    both = benchmark.summarise({"b": scores, "a": scores})
    assert both["improvement"] == {"a,b": [1.0, 0.5, 1.25]}
    assert [reps for reps, _ in asked] == [2000] * 3


def test_tables_word_for_word(capsys):
    results = {"s5": {"x": np.array([1.0, 0.5]), "y": np.array([0.25])}, "gru": {"x": np.ones(1)}}
    summary = {
        "envs": ["x"],
        "aggregates": {"s5": {"mean": [0.5, 0.25, 0.75], "iqm": [1.0, 0.0, 2.0]}},
        "improvement": {"gru,s5": [0.5, 0.25, 0.75]},
    }

    def printed(published):
        benchmark.print_tables(results, summary, published)
        *lines, last = capsys.readouterr().out.splitlines()
        assert last == "probability that gru is better than s5: 0.500 [0.250, 0.750]"
        rows = [line for line in lines if line[:1] in "┃│"]
        return [[cell.strip() for cell in re.split("[┃│]", row)[1:-1]] for row in rows]

    over = [
        ["over 1 environments", "mean MMER", "IQM of MMER"],
        ["s5", "0.500 [0.250, 0.750]", "1.000 [0.000, 2.000]"],
    ]
    assert printed({"x": -0.125}) == [
        ["environment", "gru", "s5", "published"],
        ["x", "+1.000", "+0.750", "-0.125"],
        ["y", "-", "+0.250", "-"],
        *over,
    ]
    assert printed({})[:2] == [["environment", "gru", "s5"], ["x", "+1.000", "+0.750"]]
    # Without a terminal there are 160 columns.
    benchmark.print_tables({"s5": {"x" * 300: np.ones(1)}}, summary | {"improvement": {}}, {})
    assert max(map(len, capsys.readouterr().out.splitlines())) == 160


@pytest.mark.parametrize("invalid", [False, True])
def test_the_picture_has_a_bar_for_every_interval(invalid, monkeypatch):
    from ssmrl import figures

    saved = []
    monkeypatch.setattr(figures, "save", lambda figure, path: saved.append((figure, path)))
    rows = {"s5": [0.5, 0.25, 0.75], "mine": [1.0, 0.0, 2.0]}
    summary = {
        "envs": ["x", "y"],
        "aggregates": {
            name: {"mean": row, "iqm": [2 * v for v in row]} for name, row in rows.items()
        },
        "improvement": {"mine,s5": [0.5, 0.125, 0.875]},
        **({"invalid": {"why": 1}} if invalid else {}),
    }
    benchmark.draw(summary, Path("p.png"))
    ((figure, path),) = saved
    assert path == Path("p.png") and figure.dpi == figures.STYLE["figure.dpi"]
    title = "2 environments, 95% stratified bootstrap intervals"
    assert figure.get_suptitle() == (f"NOT VALID: {title}" if invalid else title)
    drawn = {axis.get_title(): axis for axis in figure.axes}
    assert list(drawn) == ["mean of MMER", "IQM of MMER", "P(better)"]
    expected = {
        "mean of MMER": rows,
        "IQM of MMER": {name: [2 * v for v in row] for name, row in rows.items()},
        "P(better)": {"mine > s5": [0.5, 0.125, 0.875]},
    }
    for name, axis in drawn.items():
        assert [label.get_text() for label in axis.get_yticklabels()] == list(expected[name])
        for i, (value, low, high) in enumerate(expected[name].values()):
            bar, (mark,) = axis.patches[i], axis.collections[i].get_segments()
            assert (bar.get_x(), bar.get_width()) == (low, high - low)
            assert (bar.get_y(), bar.get_height()) == pytest.approx((i - 0.3, 0.6))
            np.testing.assert_allclose(mark, [(value, i - 0.3), (value, i + 0.3)])
    for bar, colour in zip(
        drawn["mean of MMER"].patches, (figures.memory_line("s5")[0], figures.GREY), strict=True
    ):
        assert bar.get_facecolor() == to_rgba(colour, 0.6)


def test_the_report_prints_and_draws(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: False, raising=False)
    write_results(tmp_path / "results", {"a": {"x": [1.0, 0.9]}, "b": {"x": [0.0, 0.2]}})
    benchmark.report(tmp_path / "results", {"x": 0.4})
    text = capsys.readouterr().out
    assert "+0.950" in text and "+0.100" in text and "+0.400" in text
    assert (tmp_path / "results.png").stat().st_size > 5_000
    assert json.loads((tmp_path / "results.summary.json").read_text())["envs"] == ["x"]


def test_results_are_those_of_the_jobs_asked_for(tmp_path):
    config = BenchmarkConfig(memory=["s5"], out=str(tmp_path), ids=["repeat_first_easy"])
    (job,) = benchmark.jobs_of(config, ["popgym/repeat_first_easy"])
    for path, memory in (
        (job.result, "s5"),
        (tmp_path / "popgym-repeat_first_easy-lru.json", "lru"),
    ):
        path.write_text(json.dumps({"memory": memory, "env": job.env, "mmer": [1.0]}))
    assert set(benchmark.read_results(tmp_path)) == {"s5", "lru"}
    assert set(benchmark.read_results(tmp_path, [job])) == {"s5"}
    job.result.unlink()
    with pytest.raises(RunError, match="no results"):
        benchmark.read_results(tmp_path, [job])


@pytest.mark.parametrize("text", ["{}", "a", "[]", '{"memory": [], "env": "x", "mmer": []}'])
def test_a_foreign_file_is_named(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(RunError, match=r"other\.json is not a result of this script: "):
        benchmark.read_results(tmp_path)
    with pytest.raises(RunError, match="^no results in .*/nothing$"):
        benchmark.read_results(tmp_path / "nothing")
    asked = "^no results in .*/nothing of the environments and memories asked for$"
    with pytest.raises(RunError, match=asked):
        benchmark.read_results(tmp_path / "nothing", [])


@pytest.mark.parametrize(
    "text",
    [None, "a", "{}", "[]", "3", '{"mmer": 3}', '{"mmer": {"x": "a"}}', '{"mmer": {"x": []}}'],
)
def test_a_file_of_published_figures_that_is_none_is_named(tmp_path, text):
    path = tmp_path / "p.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(RunError, match=f"^published={path}: not a file of published figures: "):
        benchmark.read_published(path)


def test_a_report_goes_beside_its_results_unless_it_has_a_place(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(benchmark, "draw", lambda summary, path: path.write_text("a picture"))
    monkeypatch.setattr(benchmark, "summarise", lambda results: {"of": len(results)})
    monkeypatch.setattr(benchmark, "print_tables", lambda *shown: tables.append(shown[2]))
    tables: list = []
    folder = tmp_path / "results"
    write_results(folder, {"a": {"x": [1.0]}, "b": {"x": [1.0]}})
    for path in folder.iterdir():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"invalid": "in miles"}))
    benchmark.report(folder)
    benchmark.report(folder, {"x": 1.0}, None, tmp_path / "deep" / "er" / "a.b")
    assert tables == [{}, {"x": 1.0}]
    line = "NOT VALID, do not quote: 2 of these results (a-x.json, …): in miles"
    places = [tmp_path / "results", tmp_path / "deep" / "er" / "a.b"]
    assert capsys.readouterr().out.splitlines() == [
        text for place in places for text in (line, f"{place}.png, {place}.summary.json")
    ]
    for place in places:
        assert Path(f"{place}.png").read_text() == "a picture"
        assert Path(f"{place}.summary.json").read_text() == (
            '{\n  "of": 2,\n  "invalid": {\n    "in miles": 2\n  }\n}\n'
        )


def test_the_command_line_takes_lists_of_memories(tmp_path, monkeypatch, capsys):
    from ssmrl.experiment import COMPONENTS
    from ssmrl.training.cli import benchmark_command
    from tests.test_docs import ROOT

    seen = []
    monkeypatch.setattr(benchmark, "run_all", lambda jobs, *_: seen.extend(jobs) or [])
    monkeypatch.setattr(benchmark, "report", lambda *_: None)

    def run(*arguments):
        places = [f"run_dir={tmp_path}/runs", f"out={tmp_path}/results", "published=null"]
        return benchmark_command(
            [*arguments, *places], COMPONENTS, ROOT / "configs", ("no", "training")
        )

    assert run("memory=[gru,none]", "agent=ppo", "ids=[easy]") == 0
    assert {job.memory for job in seen} == {"gru", "none"} and len(seen) == 32
    assert run("memory=[grru]") == 2
    assert "did you mean" in capsys.readouterr().err
    assert run("memories=[gru]") == 2
    assert "did you mean memory?" in capsys.readouterr().err
    assert run("seeds=many") == 2
    assert "seeds=many" in capsys.readouterr().err
    assert run("--help", "seeds=5") == 0
    assert "agent=ppo" in capsys.readouterr().out


def test_by_default_everything_is_below_runs_by_suite():
    for suite, env in (("popgym", ENVS[0]), ("bsuite", ENVS[3])):
        (job,) = benchmark.jobs_of(BenchmarkConfig(memory=["s5"], suite=suite, ids=[env[7:]]), ENVS)
        assert job.run.parent == Path(f"runs/benchmark/{suite}")
        assert job.result.parent == Path(f"runs/benchmark/{suite}/results")


def test_the_committed_results_are_taken_where_asked_for_and_never_otherwise(monkeypatch, capsys):
    from ssmrl.experiment import COMPONENTS
    from ssmrl.training.cli import benchmark_command
    from tests.test_docs import ROOT

    committed = ROOT / "benchmarks/results/popgym"
    before = {path: path.stat().st_mtime_ns for path in committed.parent.glob("popgym*")}
    monkeypatch.setattr(benchmark, "_run", lambda *_: "not in a test")
    monkeypatch.setattr(benchmark, "draw", lambda summary, path: path.write_text("a picture"))
    monkeypatch.setattr(benchmark, "summarise", lambda results: {"of": len(results)})
    monkeypatch.setattr(benchmark, "print_tables", lambda *_: None)

    def run(*arguments):
        asked = ["memory=[s5]", "ids=[repeat_first_easy]", *arguments]
        return benchmark_command(asked, COMPONENTS, ROOT / "configs", ("none",))

    assert run() == 1
    assert "1 runs to do" in capsys.readouterr().out
    # The results there until they are run again are marked as invalid, and not used again.
    assert run(f"out={committed}") == 1
    assert "1 runs to do" in capsys.readouterr().out
    monkeypatch.setattr(benchmark, "INVALID", "no such mark")
    assert run(f"out={committed}") == 0
    assert f"1 of 1 runs have a result in {committed}" in capsys.readouterr().out
    # A report of a part goes to the runs, and not over the figure of the whole.
    assert Path("runs/benchmark/popgym/report.png").exists()
    assert before == {path: path.stat().st_mtime_ns for path in committed.parent.glob("popgym*")}


def test_published_figures_are_found_from_any_folder():
    from ssmrl.training.cli.commands import _published
    from tests.test_docs import ROOT

    found = _published(BenchmarkConfig().published, ROOT / "configs")
    assert benchmark.read_published(found)["popgym/repeat_previous_easy"] == 1.0
    assert _published(None, ROOT) is None
    with pytest.raises(RunError, match="published=nothing.json"):
        benchmark.read_published(_published("nothing.json", ROOT / "configs"))

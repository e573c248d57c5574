"""Killing a training, without trainings: processes here are scripted."""

from __future__ import annotations

import json
import math
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from ssmrl.training import chaos
from ssmrl.training.chaos import (
    ANYWHERE,
    CHECKPOINT,
    COMPILATION,
    EVALUATION,
    Outcome,
    run_chaos,
    summary,
)
from ssmrl.training.config import ChaosConfig
from ssmrl.training.errors import RunError
from ssmrl.training.run import RunFolder, last_metrics
from ssmrl.training.signals import Children
from tests.training.stub import STUB


class Process(subprocess.Popen):
    """Lives for so many looks at it, and does something at each; there is no process."""

    _child_created = False

    def __init__(self, looks=math.inf, code=0, at_look=lambda number: None):
        self.looks, self.code, self.at_look = looks, code, at_look
        self.number, self.killed, self.waited = 0, False, 0

    def poll(self):
        self.number += 1
        self.at_look(self.number)
        return self.code if self.killed or self.number > self.looks else None

    def kill(self):
        self.killed = True

    def wait(self):
        self.waited += 1
        return self.code


def write_lines(path: Path, *lines: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize(
    ("kills", "evaluates", "expected"),
    [
        (1, True, {CHECKPOINT: 1}),
        (3, False, {CHECKPOINT: 1, ANYWHERE: 1, COMPILATION: 1}),
        (8, True, {CHECKPOINT: 2, COMPILATION: 1, EVALUATION: 1, ANYWHERE: 4}),
        (8, False, {CHECKPOINT: 2, COMPILATION: 2, ANYWHERE: 4}),
    ],
)
def test_half_of_the_kills_are_aimed_in_turn(kills, evaluates, expected):
    assert Counter(chaos._aims(kills, evaluates, random.Random(0))) == expected


def test_kills_come_in_an_order_of_their_seed():
    orders = [tuple(chaos._aims(12, True, random.Random(seed))) for seed in (0, 0, 1)]
    assert orders[0] == orders[1] != orders[2]


def test_a_folder_that_holds_something_is_left_alone(make_config):
    Path("c").mkdir()
    Path("c/mine").touch()
    with pytest.raises(RunError, match="c is not empty: choose another chaos_dir"):
        run_chaos(ChaosConfig(chaos_dir="c"), make_config(), [], Path("train.py"), STUB)


def test_a_training_that_fails_by_itself_is_named_with_its_last_line():
    log = Path("cut.log")
    log.write_text("first\nerror: no disk\n\n")
    chaos._must_end_well(Process(code=0), log)
    with pytest.raises(RunError) as error:
        chaos._must_end_well(Process(code=3), log)
    assert str(error.value) == "the training ended with 3 (error: no disk), see cut.log"
    log.write_text("")
    with pytest.raises(RunError, match=r"ended with 1 \(\), see cut\.log"):
        chaos._must_end_well(Process(code=1), log)


def test_every_process_goes_on_in_its_folder_and_keeps_what_it_compiled():
    script = Path("train.py")
    script.write_text(
        "import os, sys\n"
        "print(*sys.argv[1:])\n"
        "print(os.environ['JAX_COMPILATION_CACHE_DIR'])\n"
        "print(os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'], file=sys.stderr)\n"
    )
    with Children() as children:
        start = chaos._Starter(script, ["seed=3"], Path("c"), children)
        for _ in range(2):
            process, log = start(Path("cut0"))
            assert process.wait() == 0 and log == Path("cut0.log")
    said = ["seed=3 resume=auto run_dir=cut0", str(Path("c/cache").resolve()), "0"]
    assert sorted(log.read_text().splitlines()) == sorted(said * 2)


def test_a_signal_stops_it_with_the_training_under_way(make_config):
    """Which has a checkpoint to write, and whose exit code is then no error."""
    Path("train.py").write_text(
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: (open('kept', 'w'), sys.exit(75)))\n"
        "open('ready', 'w')\n"
        "time.sleep(60)\n"
    )

    def send():
        while not Path("ready").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    sender = threading.Thread(target=send)
    sender.start()
    with pytest.raises(SystemExit) as left:
        run_chaos(ChaosConfig(chaos_dir="c"), make_config(), [], Path("train.py"), STUB)
    sender.join()
    assert left.value.code == 75 and Path("kept").exists()


@pytest.fixture
def kill(monkeypatch):
    """`_kill_and_resume` of these processes; what it slept and said, and what came of it."""

    def run(processes, aims, outcome, reached=True):
        slept, said, asked, waiting = [], [], [], iter(processes)
        log = Path("cut.log")
        log.touch()

        class Scripted(chaos._Starter):
            def __init__(self):
                pass

            def __call__(self, run_dir):
                return next(waiting), log

        monkeypatch.setattr(chaos.time, "sleep", slept.append)

        def is_reached(aim, *rest):
            asked.append(aim)
            return reached

        monkeypatch.setattr(chaos, "_reached", is_reached)
        draw = random.Random(0)
        draw.uniform = lambda low, high: (low, high)
        chaos._kill_and_resume(
            Scripted(),
            RunFolder("cut"),
            lambda step: False,
            aims,
            8.0,
            draw,
            outcome,
            said.append,
        )
        assert next(waiting, None) is None
        return slept, said, asked

    return run


def test_kills_are_counted_with_the_steps_that_they_cost(kill):
    write_lines(RunFolder("cut").metrics, {"step": 800}, {"step": 1234})
    (RunFolder("cut").checkpoints / "1000").mkdir(parents=True)
    aims, outcome, last = [ANYWHERE, COMPILATION, CHECKPOINT], Outcome(missed=2), Process()
    killed = [Process(), Process(), Process()]
    slept, said, asked = kill([*killed, last], aims, outcome)
    assert asked == [CHECKPOINT, COMPILATION, ANYWHERE] and aims == []
    # From the aim up to its spread; anywhere within a quarter of the whole run.
    assert slept == [(0, 0.02), (0, 2.0), (0, 2.0)]
    assert kill([Process(), Process()], [EVALUATION], Outcome())[0] == [(0, 0.05)]
    assert outcome == Outcome(
        kills={CHECKPOINT: 1, COMPILATION: 1, ANYWHERE: 1},
        lost=[234, 234, 234],
        writing=[False, False, False],
    )
    assert said[0] == f"killed {CHECKPOINT}, step 1,234; the last checkpoint is of step 1,000"
    assert all(process.killed and process.waited for process in killed)
    assert not last.killed and last.waited


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["1000"], False),
        (["1000", "1200.orbax-checkpoint-tmp"], True),
        (["1000", "1234.orbax-checkpoint-tmp"], True),
        (["1200.orbax-checkpoint-tmp"], True),  # before the first is whole
        (["1000", "1200.orbax-checkpoint-tmp", "1200"], False),  # written since
        (["1000", "1400.orbax-checkpoint-tmp"], False),  # left by a process that had got further
        (["1000", "tmp"], False),  # nobody's
    ],
)
def test_a_kill_in_the_writing_of_a_checkpoint_is_told_by_what_it_leaves(kill, folders, expected):
    run, outcome = RunFolder("cut"), Outcome()
    write_lines(run.metrics, {"step": 1234})
    for name in folders:
        (run.checkpoints / name).mkdir(parents=True)
    kill([Process(), Process()], [ANYWHERE], outcome)
    assert outcome.writing == [expected]


def test_what_a_kill_may_cost(make_config):
    """An interval, another where a checkpoint was being written; and the iteration under way."""
    config = make_config(checkpoint_every=100)
    assert [chaos.most_lost(config, 20, writing) for writing in (False, True)] == [120, 220]
    # Written by the first iteration that reaches 100 steps: those of 30 do with 120.
    assert [chaos.most_lost(config, 30, writing) for writing in (False, True)] == [150, 270]


def test_a_kill_before_anything_was_written_costs_nothing(kill):
    outcome = Outcome()
    (RunFolder("cut").checkpoints / "1000").mkdir(parents=True)
    kill([Process(), Process()], [EVALUATION], outcome)
    assert outcome.lost == [0] and outcome.kills == {EVALUATION: 1}


def test_kills_before_the_first_checkpoint_begin_at_the_beginning(kill):
    outcome = Outcome()
    _, said, _ = kill([Process(), Process(), Process()], [COMPILATION, COMPILATION], outcome)
    assert said == [f"killed {COMPILATION}, step 0; the last checkpoint is of step 0"] * 2
    assert outcome.lost == [0, 0] and outcome.kills == {COMPILATION: 2}


def test_before_the_first_run_nothing_has_happened():
    nothing = {"kills": {}, "lost": [], "writing": [], "differences": []}
    assert vars(Outcome()) == {**nothing, "iteration": 0, "runs": 0, "missed": 0, "exact": True}


def test_no_process_stays_behind():
    process = Process()
    with pytest.raises(KeyError), chaos._ended(process):
        raise KeyError
    assert process.killed and process.waited
    ended = Process(looks=0)
    with chaos._ended(ended):
        pass
    assert not ended.killed and ended.waited


def test_a_run_that_ends_before_its_kill_keeps_the_aim(kill):
    aims, outcome = [CHECKPOINT], Outcome()
    slept, said, _ = kill([Process(looks=0)], aims, outcome, reached=False)
    assert aims == [CHECKPOINT] and outcome == Outcome(missed=1)
    assert slept == said == []


def test_what_is_missed_again_and_again_is_aimed_at_anywhere(kill):
    for missed, aim in (2, CHECKPOINT), (3, ANYWHERE):
        outcome = Outcome(missed=missed)
        _, _, asked = kill([Process(), Process()], [CHECKPOINT], outcome)
        assert asked == [aim] and outcome.kills == {aim: 1} and outcome.missed == 0


def test_a_run_too_short_to_be_killed_is_named(kill):
    kill([Process(looks=0)], [CHECKPOINT], Outcome(missed=5))
    with pytest.raises(RunError, match="cut ends before it can be killed: give more steps"):
        kill([Process(looks=0)], [CHECKPOINT], Outcome(missed=6))


def test_runs_are_begun_until_all_kills_are_made(monkeypatch, make_config):
    """The first undisturbed, each of the others compared with it."""
    started, due, steps = [], [], [*range(0, 201, 20)]

    class Scripted:
        def __init__(self, train, settings, folder, children):
            assert (train, settings, folder) == (Path("train.py"), ["seed=1"], Path("c"))

        def __call__(self, run_dir):
            started.append(run_dir)
            Path("whole.log").touch()
            return Process(), Path("whole.log")

    def kill_and_resume(start, run, is_due, aims, seconds, draw, outcome, say):
        started.append(run.path)
        due.append([step for step in steps if is_due(step)])
        del aims[-2:]

    def compare(whole, cut, components):
        assert whole.path == Path("c/whole")
        return cut.path.name != "cut1", "its metrics have gaps" if cut.path.name == "cut1" else ""

    monkeypatch.setattr(chaos, "_Starter", Scripted)
    monkeypatch.setattr(chaos, "_kill_and_resume", kill_and_resume)
    monkeypatch.setattr(chaos, "compare", compare)
    said: list[str] = []

    def run(kills, config):
        options = ChaosConfig(kills=kills, chaos_dir="c")
        return run_chaos(options, config, ["seed=1"], Path("train.py"), STUB, said.append)

    outcome = run(4, make_config(eval_every=50, eval_episodes=4))
    assert started == [Path("c/whole"), Path("c/cut0"), Path("c/cut1")]
    assert outcome == Outcome(
        iteration=20, runs=2, exact=False, differences=["c/cut1: its metrics have gaps"]
    )
    assert said == ["uninterrupted: c/whole, 0 s"]
    # Iterations of 20 steps: the first to reach a multiple of 50 is followed by an evaluation.
    assert due == [[60, 100, 160, 200]] * 2
    assert run(1, make_config()).runs == 1 and due[-1] == []
    # The first of all may be the first step, and not what was there before it.
    steps[:] = [0, 1, 2]
    run(1, make_config(eval_every=1, eval_episodes=4))
    assert due[-1] == [1, 2]


def test_a_folder_on_the_way_is_made(monkeypatch, make_config):
    def refuse(*arguments):
        raise RunError("no further")

    monkeypatch.setattr(chaos, "_Starter", refuse)
    for _ in range(2):  # an empty one that is there will do
        with pytest.raises(RunError, match="^no further$"):
            run_chaos(ChaosConfig(chaos_dir="a/b/c"), make_config(), [], Path("train.py"), STUB)


def append(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


@pytest.mark.parametrize("aim", [ANYWHERE, CHECKPOINT, COMPILATION, EVALUATION])
def test_each_aim_is_reached_when_its_files_say_so(aim, monkeypatch):
    """At the third look it speaks, at the fifth it does what the aim is about."""
    run, log = RunFolder("cut"), Path("cut.log")
    log.write_text("of the process before\n")
    write_lines(run.metrics, {"step": 100})
    slept: set[float] = set()
    monkeypatch.setattr(chaos.time, "sleep", slept.add)

    def at_look(number):
        if number == 3:
            append(log, "begins\n")
        if number == 5:
            append(run.metrics, json.dumps({"step": 200}) + "\n")
            (run.checkpoints / "200.orbax-tmp-1").mkdir(parents=True)
        if number == 7:
            append(run.metrics, json.dumps({"step": 200, "eval/return": 1.0}) + "\n")

    process = Process(at_look=at_look)
    assert chaos._reached(aim, process, run, log, lambda step: step == 200)
    assert process.number == (3 if aim == COMPILATION else 5)
    assert slept == {0.002}


@pytest.mark.parametrize("aim", [ANYWHERE, CHECKPOINT, COMPILATION, EVALUATION])
def test_no_aim_is_reached_by_a_process_that_says_nothing(aim, monkeypatch):
    """What the process before has left behind is there all the time."""
    run, log = RunFolder("cut"), Path("cut.log")
    log.write_text("of the process before\n")
    write_lines(run.metrics, {"step": 200})
    (run.checkpoints / "200.orbax-tmp-1").mkdir(parents=True)
    monkeypatch.setattr(chaos.time, "sleep", lambda seconds: None)
    process = Process(looks=6)
    assert chaos._reached(aim, process, run, log, lambda step: step == 200) is False
    assert process.number == 7


def test_an_evaluation_that_has_ended_is_not_under_way(monkeypatch):
    run, log = RunFolder("cut"), Path("cut.log")
    log.touch()
    write_lines(run.metrics, {"step": 200}, {"step": 200, "eval/return": 1.0})
    monkeypatch.setattr(chaos.time, "sleep", lambda seconds: None)
    process = Process(looks=3, at_look=lambda number: append(log, "says something\n"))
    assert not chaos._reached(EVALUATION, process, run, log, lambda step: step == 200)
    # Nor is one before the first line.
    run.metrics.unlink()
    asked = []
    process = Process(looks=3, at_look=lambda number: append(log, "says something\n"))
    assert not chaos._reached(EVALUATION, process, run, log, lambda step: bool(asked.append(step)))
    assert set(asked) == {0} and chaos._size(run.metrics) == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", {}),
        ('{"step": 1', {}),
        ('{"step": 1}\n', {"step": 1}),
        ('{"step": 1}\n{"step": 2}\n', {"step": 2}),
        ('{"step": 1}\n{"step": 2}\n{"step": 3}\n', {"step": 3}),
        ('{"step": 1}\n{"step": 2', {"step": 1}),
        ('{"step": 1\n', {}),
        ("x" * 2**17 + '\n{"step": 3}\n', {"step": 3}),
    ],
)
def test_the_last_whole_line_of_metrics(text, expected):
    Path("metrics.jsonl").write_text(text)
    assert last_metrics(Path("metrics.jsonl")) == expected


def test_without_metrics_there_is_no_last_line():
    assert last_metrics(Path("metrics.jsonl")) == {}


def difference(one: list[dict], other: list[dict]) -> str:
    paths = Path("one/metrics.jsonl"), Path("other/metrics.jsonl")
    for path, lines in zip(paths, (one, other), strict=True):
        write_lines(path, *lines)
    return chaos._first_difference(*paths)


def test_metrics_may_differ_in_what_clocks_say():
    one = [{"step": 1000, "loss": 1.0, "time/rate": 3.0}]
    assert difference(one, [{"step": 1000, "loss": 1.0, "time/rate": 4.0}]) == ""


def test_the_first_metric_that_differs_is_named():
    one = [{"step": 1000, "loss": 1.0, "reward": 1.0}, {"step": 2000, "loss": 2.0}]
    other = [{"step": 1000, "loss": 1.0, "reward": 1.0}, {"step": 2000, "loss": 3.0}]
    assert difference(one, other) == "loss of step 2,000 in metrics.jsonl differs"
    assert difference(one, [{"step": 1000, "loss": 1.0}]).startswith("reward of step 1,000")
    assert difference([{"step": 1000}], [{"step": 1000, "more": 1}]).startswith("more of step")
    both = [{"step": 1000, "loss": 2.0, "reward": 2.0, "same": 1}]
    one = [{"step": 1000, "same": 1, "loss": 1.0, "reward": 1.0}]
    assert difference(one, both).startswith("loss of step")


@pytest.fixture
def compared(monkeypatch):
    """`compare` of two runs with these last steps, states and metrics."""

    def run(steps=(60, 60), states=({}, {}), metrics=((), ()), episodes=((), ()), is_host=False):
        runs = [RunFolder("whole"), RunFolder("cut")]
        loaded = {}
        for i, run in enumerate(runs):
            write_lines(run.metrics, *metrics[i])
            write_lines(run.episodes, *episodes[i])
            venv = SimpleNamespace(is_host=is_host)
            loaded[run.path] = SimpleNamespace(step=steps[i], state=states[i], venv=venv)

        def load_run(path, components, *, whole):
            assert whole  # What only training needs, too.
            return loaded[path]

        monkeypatch.setattr(chaos, "load_run", load_run)
        return chaos.compare(*runs, STUB)

    return run


def test_a_run_that_was_killed_must_be_the_other_bit_for_bit(compared):
    lines = [{"step": 20, "a": 1}, {"step": 40, "a": 1}]
    other = [{"step": 20, "a": 1}, {"step": 40, "a": 2}]
    state = {"a": np.zeros(2), "b": np.ones(2), "c": np.ones(3)}
    same = {"metrics": (lines, lines), "episodes": (lines, lines), "states": (state, state)}
    assert compared(**same) == (True, "")
    assert compared(**same | {"steps": (1060, 2060)}) == (True, "it ended at step 2,060, not 1,060")
    line = "a of step 40 in {}.jsonl differs"
    for file in ("metrics", "episodes"):
        assert compared(**same | {file: (lines, other)}) == (True, line.format(file))
    # A zero of the other sign is another one.
    changed = {"a": np.zeros(2), "b": np.zeros(2), "c": -np.ones(3)}
    line = "2 leaves of its last state differ, ['b'] first"
    assert compared(**same | {"states": (state, changed)}) == (True, line)
    line = "1 leaves of its last state differ, ['a'] first"
    assert compared(**same | {"states": (state, state | {"a": -np.zeros(2)})}) == (True, line)


def test_where_python_steps_a_run_must_have_no_gaps(compared):
    lines, gap = [{"step": 20}, {"step": 40, "a": 1}], [{"step": 40}]
    twice = [{"step": 20}, {"step": 40, "a": 2}, {"step": 40}]
    states = ({"a": np.zeros(1)}, {"a": np.ones(1)})
    assert compared(is_host=True, metrics=(lines, twice), states=states) == (False, "")
    for pair in (lines, gap), (gap, lines):
        assert compared(is_host=True, metrics=pair) == (False, "its metrics have gaps")


def test_lines_that_are_missing_are_counted():
    lines = [{"step": 1000}, {"step": 2000}, {"step": 3000}]
    assert difference(lines, lines[:2]) == "metrics.jsonl has 2 lines, not 3"
    assert difference(lines[:1], lines) == "metrics.jsonl has 3 lines, not 1"


def test_the_summary_of_kills(make_config):
    config = make_config(checkpoint_every=1000)
    outcome = Outcome(
        kills={CHECKPOINT: 2, ANYWHERE: 1},
        lost=[100, 1500, 0],
        writing=[False, True, False],
        iteration=300,
        runs=3,
        differences=["one"],
    )
    assert summary(outcome, config) == (
        "3 kills (1 at a random moment, 2 while a checkpoint is written): 2 of 3 runs equal to the "
        "uninterrupted one bit for bit; at most 1,500 steps lost a kill, 533 on average "
        "(an interval is 1,200; 1 came while a checkpoint was written, and may cost two)"
    )
    outcome.exact = False
    assert ": 2 of 3 runs without gaps; " in summary(outcome, config)
    none = summary(Outcome(iteration=1000, runs=1), config)
    assert none.startswith("0 kills (): 1 of 1 runs")
    assert none.endswith(
        "at most 0 steps lost a kill, 0 on average (an interval is 1,000; 0 came "
        "while a checkpoint was written, and may cost two)"
    )

"""How a training is put together, what it says while it goes, and what it refuses."""

from __future__ import annotations

import dataclasses
import math
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf

from ssmrl.training import run_training as run_training_module
from ssmrl.training.agent import NotingAgent
from ssmrl.training.best import BestCheckpoint
from ssmrl.training.config import LoggerConfig, check_ranges, structured
from ssmrl.training.errors import RunError, UsageError
from ssmrl.training.evaluation import EvaluationResult
from ssmrl.training.loading import as_dict, build_agent, config_from_dict
from ssmrl.training.loop import TrainResult, init_state
from ssmrl.training.run import RunFolder
from ssmrl.training.run_training import RunResult, run_training
from ssmrl.training.signals import exit_code
from tests.training.stub import STUB, StubAgent, StubVectorEnv


class Kept:
    """In the place of a `Checkpointer`: what it holds, and what it is asked for."""

    def __init__(self, directory, *, keep):
        self.there = {5: {"eval/return": 2.0}} if directory == Path("best") else {}
        if directory == Path("damaged"):
            self.there = {5: {"eval/return": 2.0}, 6: {}}
        self.asked = [keep]

    def steps(self):
        return list(self.there)

    def metadata(self, step):
        return self.there[step]

    def discard_after(self, step):
        self.asked.append(("discard", step))

    def save(self, step, state, metadata):
        self.asked.append((step, state, metadata))


@pytest.mark.parametrize(
    ("folder", "offered", "kept"),
    [
        ("new", [(1, 0.5), (2, 0.25), (3, 0.5), (4, [0.5, 1.0])], [1, 4]),
        ("new", [(1, float("nan")), (2, float("-inf")), (3, float("inf")), (4, -9.0)], [4]),
        ("best", [(6, 2.0), (7, 2.5)], [7]),
        ("damaged", [(7, 1.0)], [7]),
    ],
)
def test_the_best_checkpoint_is_replaced_by_a_better_one_alone(folder, offered, kept, monkeypatch):
    monkeypatch.setattr("ssmrl.training.best.Checkpointer", Kept)
    best = BestCheckpoint(Path(folder))
    best.offer(0, "state", {"loss/total": 9.0})
    values = dict(offered)
    for step, value in offered:
        best.offer(step, "state", {"eval/return": value})
    keep, *asked = best._checkpoints.asked
    assert keep == 1
    assert asked == [
        entry
        for step in kept
        for entry in (
            ("discard", step - 1),
            (step, "state", {"eval/return": float(np.mean(values[step]))}),
        )
    ]


def test_a_state_that_was_made_before_is_the_one_that_is_trained(make_config, record, monkeypatch):
    """It is made once: a host environment need not be reset twice."""
    made = []
    monkeypatch.setattr(
        "ssmrl.training.run_training.init_state", lambda *a: made.append(init_state(*a)) or made[0]
    )
    monkeypatch.setattr("ssmrl.training.loop.init_state", lambda *a: pytest.fail("made again"))
    monkeypatch.setattr("ssmrl.training.run_training.abstract_state", lambda *a: {})
    result = run_training(make_config(total_steps=20), STUB, reporter=record).result
    assert len(made) == 1 and result.step == 20


@pytest.mark.parametrize(("logger", "plain"), [("console", True), ("none", False)])
def test_plain_lines_are_a_logger(logger, plain, make_config, record, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "ssmrl.training.run_training.make_reporter",
        lambda *, plain: asked.append(plain) or record,
    )
    config = make_config(total_steps=20)
    run_training(dataclasses.replace(config, logger=LoggerConfig(name=logger)), STUB)
    assert asked == [plain] and record.stopped


@pytest.mark.parametrize(("nonfinite", "skips"), [("skip", True), ("stop", False)])
def test_the_agent_is_told_what_to_do_with_gradients_that_are_not_finite(
    nonfinite, skips, make_config
):
    told = {}
    parts = dataclasses.replace(STUB, make_agent=lambda *arguments, **options: told.update(options))
    build_agent(parts, make_config(nonfinite=nonfinite, total_steps=70))
    assert told == {"total_steps": 70, "skip_nonfinite": skips}


def test_what_an_agent_refuses_is_a_line(make_config):
    def refuse(*arguments, **options):
        raise ValueError("too few environments")

    parts = dataclasses.replace(STUB, make_agent=refuse)
    with pytest.raises(UsageError, match="^agent=stub: too few environments$"):
        build_agent(parts, make_config())


def test_why_a_configuration_does_not_fit_is_one_line(make_config, monkeypatch):
    """The first line of the reason; the error itself where it says nothing."""
    values = {"agent": {"name": "stub"}, "memory": {"name": "stub"}}
    for error, line in ((ValueError("first\nsecond"), "first"), (ValueError(""), "ValueError")):

        def fail(name, error=error):
            raise error

        parts = dataclasses.replace(STUB, agent_config=fail)
        with pytest.raises(RunError, match=f"^r: its .* does not fit this version: {line}") as told:
            config_from_dict(values, parts, where="r")
        assert "second" not in str(told.value)


def test_options_that_are_frozen_can_still_be_overridden():
    """Before they are built: on the command line."""

    @dataclasses.dataclass(frozen=True)
    class Frozen:
        lr: float = 1.0

    node = structured(Frozen)
    node.lr = 2.0
    assert OmegaConf.to_object(node) == Frozen(2.0)


def test_one_step_is_a_training_and_none_is_not(make_config):
    check_ranges(make_config(total_steps=1))
    with pytest.raises(ValueError, match="total_steps=0: must be at least 1"):
        check_ranges(make_config(total_steps=0))


ENDLESS = "truncated=True after so many steps, from its step_env"


TIME_LIMIT = "gymnasium.wrappers.TimeLimit(env, 1000) where it is made"


@pytest.mark.parametrize(
    ("name", "is_host", "how"),
    [
        ("my/env", False, ENDLESS),
        ("own.Env", True, TIME_LIMIT),
        ("gymnasium/CartPole-v1", True, "env.kwargs.max_episode_steps=1000"),
    ],
)
def test_episodes_that_never_end_are_spoken_of(
    name, is_host, how, make_config, record, monkeypatch
):
    class Endless(StubAgent):
        def iteration(self, state):
            state, metrics = super().iteration(state)
            metrics["episodes"] = metrics["starts/episodes"] = jnp.zeros((), jnp.int32)
            return state, metrics

    parts = dataclasses.replace(
        STUB,
        make_vector=lambda _, n, **options: StubVectorEnv(n, **options),
        make_agent=lambda agent, memory, venv, **options: Endless(agent, memory, venv, False),
    )
    monkeypatch.setattr(StubVectorEnv, "is_host", is_host)
    run_training(make_config(env={"name": name}, total_steps=100), parts, reporter=record)
    assert record.messages[-1] == (
        "no episode has ended in 25 steps of each environment, so there is no return to show: "
        f"train for longer, or limit its episodes ({how})"
    )


@pytest.mark.parametrize("seeds", [1, 2])
def test_a_single_episode_is_enough(seeds, make_config, record):
    run_training(make_config(total_steps=40, seeds=seeds), STUB, reporter=record)
    assert not any("no episode" in text for text in record.messages)


def test_skipped_iterations_are_told_at_the_end_if_there_were_any(make_config, record):
    run_training(make_config(total_steps=40), STUB, reporter=record)
    assert not any("non-finite" in text for text in record.messages)
    config = make_config(total_steps=40, nonfinite="skip", agent={"fail_at": 1}, run_dir="runs/2")
    run_training(config, STUB, reporter=record)
    assert "1 iterations had a non-finite metric and were skipped" in record.messages


def test_what_an_agent_notes_is_said_and_what_it_refuses_is_a_line(make_config):
    class Noting:
        refuses = False

        def training_notes(self, seeds):
            if self.refuses:
                raise ValueError("too few environments")
            return [f"of {seeds} seeds"]

    config = make_config(seeds=3)
    assert isinstance(Noting(), NotingAgent)
    assert run_training_module._training_notes(Noting(), config) == ["of 3 seeds"]
    assert run_training_module._training_notes(object(), config) == []
    Noting.refuses = True
    with pytest.raises(UsageError, match="^agent=stub: too few environments$"):
        run_training_module._training_notes(Noting(), config)


@pytest.mark.parametrize("own", [True, False])
@pytest.mark.parametrize("is_host", [True, False])
def test_evaluations_have_environments_of_their_own(own, is_host, make_config, monkeypatch):
    """At most as many as there are episodes to play."""
    there = SimpleNamespace(is_host=is_host)
    wrapped = SimpleNamespace(is_host=is_host, unwrapped=there)
    training = SimpleNamespace(unwrapped=SimpleNamespace() if own else there)
    asked = []

    def make_venv(components, env, count):
        asked.append((env.name, count))
        return wrapped

    monkeypatch.setattr(run_training_module, "make_venv", make_venv)
    config = make_config(eval_every=30, eval_episodes=3)
    if is_host and not own:
        with pytest.raises(UsageError, match="^eval_every=30: evaluations would step the very env"):
            run_training_module._training_evaluation_venv(config, STUB, training)
    else:
        venv = run_training_module._training_evaluation_venv(config, STUB, training)
        assert venv is wrapped
    assert asked == [("stub/line", 3)]


def test_the_run_that_is_continued(make_config, monkeypatch):
    find = run_training_module._find_begun
    assert find(make_config(run_dir="r")) == (None, False)
    asked = []

    def find_resumable(root, settings, *, strict):
        asked.append((root, settings["seed"], strict))

    with monkeypatch.context() as patch:
        patch.setattr(run_training_module, "find_resumable", find_resumable)
        for resume in (True, "auto"):
            assert find(make_config(run_dir=None, resume=resume, seed=4)) == (None, False)
    assert asked == [(Path("runs"), 4, True), (Path("runs"), 4, False)]
    resumed = make_config(run_dir="r", resume=True)
    assert find(resumed) == (None, False)  # it is not there
    RunFolder("r").create(as_dict(make_config(run_dir="r")))
    assert find(resumed) == ("r", False)
    (RunFolder("r").checkpoints / "20").mkdir(parents=True)
    assert find(resumed) == ("r", True)
    with pytest.raises(RunError, match="^r was started with seed=0, not seed=1$"):
        find(make_config(run_dir="r", resume=True, seed=1))
    monkeypatch.setattr(run_training_module, "is_exported", lambda path: path == "r")
    with pytest.raises(RunError, match="^r is an agent without its training, .* init_from=r$"):
        find(resumed)


def test_processes_agree_on_settings_versions_and_machines(make_config):
    agreed = run_training_module._what_must_agree(make_config(seed=3))
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    assert agreed["version of Python"] == python
    assert agreed["seed"] == 3 and agreed["memory.layers"] == 2
    assert agreed["version of jax"] == jax.__version__
    assert (agreed["platform"], agreed["devices each"]) == ("cpu", jax.local_device_count())


@pytest.mark.parametrize("seeds", [1, 2])
def test_an_evaluation_in_training_is_a_line_of_metrics(seeds, make_config, record, monkeypatch):
    results = [
        EvaluationResult(
            np.array([1.0, 2.0]), np.array([3, 5]), np.array([True, False]), {"own": np.ones(2)}
        ),
        EvaluationResult(np.array([5.0, 6.0]), np.array([7, 8]), np.array([False, False])),
    ][:seeds]

    class Player:
        def __init__(self, agent, venv, *, episodes, max_steps):
            assert (episodes, max_steps) == (9, 11)

        def __call__(self, *arguments, **options): ...

        def limit(self, longest_seen):
            return int(1000 * longest_seen)

    monkeypatch.setattr(run_training_module, "Evaluator", Player)
    monkeypatch.setattr(run_training_module, "evaluate_seeds", lambda *_: results)
    monkeypatch.setattr(run_training_module, "info_means", lambda info: dict.fromkeys(info, 0.5))
    config = make_config(seeds=seeds, eval_every=1, eval_episodes=9, eval_max_steps=11)
    evaluate = run_training_module._training_evaluation(
        None, config, StubVectorEnv(1), RunFolder("r"), record
    )
    line = evaluate(None, 2000, longest_seen=4.0, should_stop=lambda: False)
    if seeds == 1:
        assert line == {
            "eval/return": 1.5,
            "eval/length": 4.0,
            "eval/unfinished": 1,
            "eval/info/own": 0.5,
        }
    else:
        assert math.isnan(line["eval/info/own"].pop())
        assert line == {
            "eval/return": [1.5, 5.5],
            "eval/length": [4.0, 7.5],
            "eval/unfinished": [1, 2],
            "eval/info/own": [0.5],
        }
    assert record.messages == [
        f"step 2,000: {[1, 3][seeds - 1]} of {2 * seeds} evaluation episodes had not ended after "
        "4,000 steps (eval_max_steps); they count with their return up to there"
    ]
    results[:] = [EvaluationResult(np.array([1.0]), np.array([3]))] * seeds
    evaluate(None, 2000, longest_seen=4.0, should_stop=lambda: False)
    assert len(record.messages) == 1


def test_what_stopped_a_run_is_its_exit_code():
    def ended(stopped_by):
        result = TrainResult(None, 0, 0.0, 0.0, stopped_by, 0)
        return RunResult(RunFolder("r"), result).exit_code

    stops = (None, signal.SIGINT, signal.SIGTERM)
    assert [ended(stop) for stop in stops] == [0, 130, exit_code(signal.SIGTERM)]


@pytest.mark.parametrize("stopped", [False, True])
@pytest.mark.parametrize("resume", [False, True])
def test_a_run_begins_with_what_it_is_and_ends_with_what_it_was(
    stopped, resume, make_config, record, monkeypatch
):
    """Alone, it has nobody to agree with; advice is for those that have got to their end."""
    kept: list = []
    end = TrainResult(None, 100, 0.0, 0.0, signal.SIGTERM if stopped else None, 0)

    def train(agent, config, run, *, is_host, evaluate, **options):
        kept.append((is_host, evaluate))
        return end

    def advise(run, config, is_host, reporter):
        kept.append("advice")

    monkeypatch.setattr(run_training_module, "train", train)
    monkeypatch.setattr(run_training_module, "_advise_on_endless_episodes", advise)
    monkeypatch.setattr(run_training_module.hosts, "check_same", pytest.fail)
    monkeypatch.setattr(run_training_module, "_training_notes", lambda *_: ["a note"])
    done = run_training(make_config(resume=resume, total_steps=100), STUB, reporter=record)
    assert done.result is end and kept == [(False, None), *([] if stopped else ["advice"])]
    first = ["nothing to resume: starting a new run"] if resume else []
    last = ["stopped by SIGTERM; to continue: ssmrl train run=runs/test"]
    if not stopped:
        last = ["finished: runs/test", "next: ssmrl evaluate run=runs/test video=true"]
    assert record.messages == [*first, "run: runs/test", "a note", *last]

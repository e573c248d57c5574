"""A configuration's parts made, and a run read back: what is asked for, and what is refused."""

from __future__ import annotations

import dataclasses

import pytest

from ssmrl.training import loading
from ssmrl.training.errors import CheckpointError, RunError, UsageError
from ssmrl.training.loading import build_agent, config_from_dict, load_run, make_venv
from ssmrl.training.run_training import run_training
from tests.training.stub import STUB


@pytest.mark.parametrize("error", [ValueError, TypeError, ImportError])
def test_what_an_environment_refuses_is_a_line(make_config, error):
    def make_vector(name, num_envs, **options):
        raise error(f"{name}, size must be 3")

    components = dataclasses.replace(STUB, make_vector=make_vector)
    with pytest.raises(UsageError, match="^env=stub/line: size must be 3$"):
        make_venv(components, make_config().env, 4)


@pytest.mark.parametrize(("nonfinite", "skips"), [("skip", True), ("stop", False)])
def test_agents_are_told_whether_to_leave_updates_out(make_config, nonfinite, skips):
    asked = []

    def make_agent(*given, **options):
        asked.append(options)
        return STUB.make_agent(*given, **options)

    components = dataclasses.replace(STUB, make_agent=make_agent)
    build_agent(components, make_config(nonfinite=nonfinite))
    assert asked == [{"total_steps": 200, "skip_nonfinite": skips}]


@pytest.mark.parametrize(
    ("error", "line"),
    [(ValueError("too wide"), "agent=stub: too wide"), (UsageError("memory=tape: no"),) * 2],
)
def test_what_an_agent_refuses_is_a_line_that_names_it_once(make_config, error, line):
    def make_agent(*_, **__):
        raise error

    components = dataclasses.replace(STUB, make_agent=make_agent)
    with pytest.raises(UsageError) as raised:
        build_agent(components, make_config())
    assert str(raised.value) == str(line)


def test_settings_of_another_version_are_a_line():
    with pytest.raises(RunError, match="^here: its configuration does not fit this version: 'mem"):
        config_from_dict({"agent": {"name": "stub"}}, STUB, "here")


def test_a_run_is_read_and_never_written_to(make_config, record, monkeypatch):
    """While it trains, too."""
    run = run_training(make_config(total_steps=40, checkpoint_every=20), STUB, reporter=record).run
    opened, open_ = [], loading.Checkpointer

    def noted(folder, **options):
        opened.append((folder.name, options))
        return open_(folder, **options)

    monkeypatch.setattr(loading, "Checkpointer", noted)
    assert [load_run(run.path, STUB, step=step).step for step in (None, 40, 20)] == [40, 40, 20]
    assert opened == [("checkpoints", {"read_only": True})] * 3
    with pytest.raises(CheckpointError, match="has no best checkpoint: train with keep_best=true$"):
        load_run(run.path, STUB, step="best")
    with pytest.raises(UsageError, match="^step=first: must be a whole number or best$"):
        load_run(run.path, STUB, step="first")
    assert len(opened) == 3
    run.checkpoints.rename(run.best)
    assert load_run(run.path, STUB, step="best").step == 40 and opened[3][0] == "best"

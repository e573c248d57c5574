"""Damaged and hostile run folders: a line or the right answer, and never code from a file."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import py_compile
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import strategies as st

from ssmrl.training.config import EnvConfig, EvaluateConfig, LoggerConfig, TrainConfig
from ssmrl.training.errors import RunError
from ssmrl.training.exported import PARAMETERS, export_agent, read_exported
from ssmrl.training.imports import import_recorded
from ssmrl.training.loading import build_agent, load_run
from ssmrl.training.loop import abstract_state
from ssmrl.training.plotting import group_runs, read_trials
from ssmrl.training.returns import TrainingReturns
from ssmrl.training.run import RunFolder, read_evaluations, read_metrics
from ssmrl.training.run_evaluation import evaluate_run
from ssmrl.training.run_training import run_training
from tests.properties.checking import for_all
from tests.training.conftest import Record
from tests.training.stub import STUB, StubConfig, StubMemoryConfig
from tests.training.test_checkpoint import bits

CONFIG = TrainConfig(
    total_steps=200,
    checkpoint_every=60,
    agent=StubConfig(),
    memory=StubMemoryConfig(),
    env=EnvConfig(name="stub/line"),
    logger=LoggerConfig(),
)


@pytest.fixture(scope="module", autouse=True)
def place():
    """A folder with a whole run, `kept`, its state and its metrics; and the current one."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            done = run_training(_config("kept"), STUB, reporter=Record())
            WHOLE["state"] = bits(done.result.state)
            WHOLE["states"] = {
                step: bits(load_run("kept", STUB, step=step).state)
                for step in done.run.checkpoint_steps()
            }
            Path("kept/eval.json").write_text('[{"trials": {}, "env": "stub/line"}]\n')
            yield
        finally:
            os.chdir(before)


WHOLE: dict = {}
"""What the whole run is known to hold."""


def _config(run_dir: str, **changes) -> TrainConfig:
    return TrainConfig(**{**vars(CONFIG), "run_dir": run_dir, **changes})


@contextlib.contextmanager
def copy_of_the_run(*, checkpoints: bool = True):
    shutil.rmtree("copied", ignore_errors=True)
    ignored = None if checkpoints else shutil.ignore_patterns("checkpoints", "curve.png")
    shutil.copytree("kept", "copied", ignore=ignored)
    yield Path("copied")


def in_a_line(error: RunError) -> None:
    assert str(error) and "\n" not in str(error), str(error)


NASTY = st.sampled_from(
    [
        b"",
        b"\xff\xfe\x00",
        b"[" * 5000,
        b"null",
        b"5",
        b'{"step": 1e999}',
        b'{"step": true}',
        b'{"step": -5, "loss/total": 0}',
        b'{"step": 20, "loss/total": "high", "episodes": {"a": "b"}}',
        b'{"step": 20, "training_return_episodes": 2, "training_return": 1.0}',
        b'{"step": 20, "point": 0, "seeds": [[[], -1, 0]]}',
        b"9" * 5000,
        b"config: 5",
        b"config: {agent: 3}",
        b"config: {agent: {name: [1]}, memory: {name: x}, env: {name: y}}",
        b"2001-99-99",
        b"&a [*a, *a]",
        b"!!python/object/apply:os.system ['touch executed']",
        b"? !!python/name:os.system\n: 1",
    ]
)


@st.composite
def damages(draw):
    """What becomes of a file's bytes: a function of them."""
    kind = draw(st.sampled_from(["cut", "flip", "insert", "replace", "line"]))
    at, bit = draw(st.floats(0, 0.999)), draw(st.integers(0, 7))
    nasty = draw(NASTY)

    def damage(content: bytes) -> bytes:
        i = int(at * len(content))
        if kind == "cut":
            return content[:i]
        if kind == "flip" and content:
            return content[:i] + bytes([content[i] ^ (1 << bit)]) + content[i + 1 :]
        if kind == "insert":
            return content[:i] + nasty + content[i:]
        if kind == "line":
            lines = content.splitlines(keepends=True)
            j = int(at * len(lines))
            return b"".join([*lines[:j], nasty, b"\n", *lines[j + 1 :]])
        return nasty

    return damage


def _read_all(folder: Path) -> None:
    """Everything that reads a run's small files, each of which may refuse it in a line."""
    readers = [
        lambda: group_runs([folder]),
        lambda: group_runs([folder], "loss/total"),
        lambda: read_trials(folder),
        lambda: read_evaluations(RunFolder(folder).evaluations),
        lambda: RunFolder(folder).record(),
    ]
    for reader in readers:
        try:
            reader()
        except RunError as error:
            in_a_line(error)


@for_all(
    name=st.sampled_from(["config.yaml", "metrics.jsonl", "episodes.jsonl", "eval.json"]),
    damage=damages(),
    quick=30,
    slow=2000,
)
def test_damaged_small_files_are_a_line_or_left_out(name, damage):
    with copy_of_the_run(checkpoints=False) as folder:
        file = folder / name
        file.write_bytes(damage(file.read_bytes()))
        _read_all(folder)
        for line in read_metrics(folder / "metrics.jsonl"):
            assert line["step"] >= 0
        episodes = read_metrics(folder / "episodes.jsonl")
        returns = TrainingReturns(1, 20, 200, episodes, 200)
        whole = read_metrics(Path("kept/episodes.jsonl"))
        # Nothing is added up behind a line that is missing.
        assert not returns.is_whole or len(episodes) == len(whole)
    assert not Path("executed").exists()


@for_all(damage=damages(), quick=12, slow=300)
def test_a_damaged_configuration_loads_the_run_or_is_a_line(damage):
    with copy_of_the_run() as folder:
        file = folder / "config.yaml"
        file.write_bytes(damage(file.read_bytes()))
        try:
            loaded = load_run(folder, STUB, whole=True)
        except RunError as error:
            in_a_line(error)
        else:
            assert loaded.step == 200 and bits(loaded.state) == WHOLE["state"]
    assert not Path("executed").exists()


@pytest.mark.parametrize("name", ["metrics.jsonl", "episodes.jsonl"])
def test_a_run_goes_on_behind_damaged_metrics(name):
    """To the same state; what the damaged lines said is not known any more."""
    with copy_of_the_run() as folder:
        file = folder / name
        lines = file.read_bytes().splitlines(keepends=True)
        lines[3] = b'\xff{"step": "x"}\n'
        file.write_bytes(b"".join(lines))
        done = run_training(
            _config("copied", resume=True, total_steps=240), STUB, reporter=Record()
        )
    assert done.result.step == 240


# -------------------------------------------------------------------------- files that are code


class Payload:
    """What pickle would run: it makes a file."""

    def __reduce__(self):
        return (os.mkdir, ("executed",))


@pytest.fixture
def untouched():
    yield
    assert not Path("executed").exists()


def test_the_payload_works(tmp_path, monkeypatch):
    """Or the tests below would show nothing."""
    monkeypatch.chdir(tmp_path)
    pickle.loads(pickle.dumps(Payload()))
    assert Path("executed").is_dir()


@pytest.mark.usefixtures("untouched")
def test_a_pickle_in_place_of_any_file_is_not_run():
    payload = pickle.dumps(Payload())
    as_object = io.BytesIO()
    np.save(as_object, np.array([Payload()], object), allow_pickle=True)
    names = [p.relative_to("kept") for p in sorted(Path("kept").rglob("*")) if p.is_file()]
    newest = [name for name in names if "checkpoints" not in name.parts or "200" in name.parts]
    for i, name in enumerate(newest):
        with copy_of_the_run() as folder:
            (folder / name).write_bytes((payload, as_object.getvalue())[i % 2])
            if len(name.parts) == 1:
                _read_all(folder)
            try:
                loaded = load_run(folder, STUB)
            except RunError as error:
                in_a_line(error)
            else:
                assert bits(loaded.state) == WHOLE["states"][loaded.step]


@pytest.mark.usefixtures("untouched")
@pytest.mark.parametrize("kind", ["source", "bytecode", "package", "environment", "here"])
def test_opening_a_run_imports_nothing_that_lies_in_it(kind, monkeypatch):
    """However its config.yaml names it."""
    monkeypatch.setattr(sys, "path", [str(Path.cwd()), *sys.path])
    with copy_of_the_run(checkpoints=False) as folder:
        code = "import os\nos.mkdir('executed')\n"
        (folder / "payload.py").write_text(code)
        names, env = {
            "source": (["copied/payload.py"], "stub/line"),
            "bytecode": (["copied/payload.pyc"], "stub/line"),
            "package": (["copied.inner.payload"], "stub/line"),
            "environment": ([], "gymnasium/copied.payload:Line-v0"),
            "here": (["json"], "stub/line"),
        }[kind]
        if kind == "bytecode":
            py_compile.compile(str(folder / "payload.py"), cfile=str(folder / "payload.pyc"))
        if kind == "package":
            (folder / "__init__.py").write_text(code)
        if kind == "here":
            monkeypatch.chdir(folder)
            folder = Path(".")
        record = {"config": {"env": {"name": env}}, "imports": names}
        with pytest.raises(RunError) as error:
            import_recorded(record, folder)
        in_a_line(error.value)


def test_modules_outside_the_run_are_imported(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "outside_of_runs.py").write_text("LOADED = True\n")
    monkeypatch.chdir(tmp_path)
    record = {"config": {"env": {"name": "gymnasium/json:Line-v0"}}, "imports": ["outside_of_runs"]}
    import_recorded(record, tmp_path / "runs" / "one")
    assert sys.modules.pop("outside_of_runs").LOADED


@pytest.mark.usefixtures("untouched")
def test_a_run_of_links_and_absolute_paths_writes_and_deletes_nothing_outside():
    """The configuration names another folder, and evaluating follows the one that was given."""
    with copy_of_the_run() as folder:
        outside = Path("outside")
        outside.mkdir()
        (outside / "thesis.txt").write_text("precious")
        config = yaml.safe_load((folder / "config.yaml").read_text())
        config["config"]["run_dir"] = str(outside.resolve())
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        shutil.rmtree(folder / "checkpoints" / "180", ignore_errors=True)
        (folder / "checkpoints" / "180").symlink_to(outside.resolve())
        (folder / "eval.json").unlink()
        evaluate_run(
            EvaluateConfig(run=str(folder), episodes=2, num_envs=2, env=EnvConfig(name="run")),
            STUB,
        )
        assert len(read_evaluations(folder / "eval.json")) == 1
        assert [path.name for path in outside.iterdir()] == ["thesis.txt"]


# ----------------------------------------------------------------------------- exported agents


@pytest.fixture(scope="module")
def exported(place):
    loaded = load_run("kept", STUB)
    folder = Path("exported")
    record = RunFolder("kept").record()
    export_agent(loaded.agent, loaded.state, loaded.step, record, 0, folder)
    return loaded


def test_a_damaged_exported_agent_is_right_or_a_line(exported):
    """Cut off, flipped, another's, a bare array, a pickle, one that unpacks to nothing."""
    agent, _ = build_agent(STUB, _config("kept"))
    like = agent.parts(abstract_state(agent, 0, 1))
    path = Path("exported") / PARAMETERS
    whole = path.read_bytes()
    want = bits(agent.parts(exported.state))

    def check(content: bytes) -> bool:
        path.write_bytes(content)
        try:
            parts, step = read_exported(RunFolder("exported"), like)
        except RunError as error:
            in_a_line(error)
            return False
        assert bits(parts) == want and step == 200
        return True

    assert check(whole)
    draw = np.random.default_rng(0)
    for at in draw.integers(0, len(whole), 60):
        check(whole[:at])
        check(whole[:at] + bytes([whole[at] ^ (1 << draw.integers(8))]) + whole[at + 1 :])
    bare, wrong, objects = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(bare, np.zeros(3))
    np.savez(wrong, step=np.zeros(3), other=np.zeros(2))
    np.savez(objects, step=np.array([Payload()], object))
    for content in (bare.getvalue(), wrong.getvalue(), objects.getvalue(), b"", b"PK"):
        assert not check(content)
    assert not Path("executed").exists()

"""`--import`: a user's own modules on the command line."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from ssmrl.training import imports
from ssmrl.training.cli import evaluate_command, train_command
from ssmrl.training.errors import RunError, UsageError
from ssmrl.training.imports import import_modules, import_recorded, take_imports
from tests.training.stub import STUB
from tests.training.stub_train import CONFIGS


@pytest.fixture(autouse=True)
def searched_paths_and_modules_as_they_were(monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith(("mine", "helper_of_mine", "_imported_")):
            del sys.modules[name]


def test_a_command_line_is_split():
    line = ["--import", "a", "memory=gru", "--import=b.c", "-m"]
    assert take_imports(line) == (["a", "b.c"], ["memory=gru", "-m"])
    for wrong in (["--import"], ["--import", "memory=gru"], ["--import="]):
        with pytest.raises(UsageError, match="--import: which module"):
            take_imports(wrong)


def test_modules_and_files_are_imported_once():
    Path("mine.py").write_text("import helper_of_mine\nhelper_of_mine.seen.append('module')")
    Path("helper_of_mine.py").write_text("seen = []")
    Path("elsewhere").mkdir()
    # Of the name of one of Python's own.
    Path("elsewhere/types.py").write_text("import helper_of_mine as h; h.seen.append('file')")
    for _ in range(2):
        recorded = import_modules(["mine", "elsewhere/types.py"])
    assert recorded == ("mine", str(Path("elsewhere/types.py").resolve()))
    assert sys.modules["helper_of_mine"].seen == ["module", "file"]
    import types

    assert types.SimpleNamespace


FAILURES = {
    "x = 1\nraise KeyError('here')": "KeyError: 'here' (mine.py, line 2)",
    "import no_such_module": "No module named 'no_such_module' (mine.py, line 1)",
    "def f(:": "SyntaxError",
}


def test_a_module_of_ones_own_comes_before_an_installed_one(monkeypatch):
    """Of two of one name: the folder is searched first."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    Path("colorsys.py").write_text("mine = True\n")
    import_modules(["colorsys"])
    assert sys.modules.pop("colorsys").mine


@pytest.mark.parametrize("content", FAILURES)
@pytest.mark.parametrize("name", ["mine", "mine.py"])
def test_a_module_that_fails_is_a_line(name, content):
    Path("mine.py").write_text(content)
    with pytest.raises(UsageError) as error:
        import_modules([name])
    assert str(error.value).startswith(f"--import {name}: ")
    assert FAILURES[content] in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def test_one_that_is_not_there_is_a_line(capsys):
    assert train_command(["--import", "mine", "env=stub/line"], STUB, CONFIGS) == 2
    expected = "error: --import mine: ModuleNotFoundError: No module named 'mine'\n"
    assert capsys.readouterr().err == expected
    assert evaluate_command(["--import", "mine.py", "run=x"], STUB, CONFIGS) == 2
    assert "--import mine.py: there is no such file" in capsys.readouterr().err


def test_what_was_imported_is_imported_again_to_evaluate_and_to_resume(capsys):
    """Each command in a registry of its own, as in a process of its own."""
    Path("mine.py").write_text(
        "import builtins; builtins.imports_of_mine = getattr(builtins, 'imports_of_mine', 0) + 1"
    )
    import builtins

    def again():
        del sys.modules["mine"]

    try:
        line = ["--import", "mine", "total_steps=100", "run_dir=here"]
        assert train_command(line, STUB, CONFIGS) == 0
        assert yaml.safe_load(Path("here/config.yaml").read_text())["imports"] == ["mine"]
        again()
        assert evaluate_command(["run=here", "episodes=4"], STUB, CONFIGS) == 0
        assert "importing mine, as here was trained with it" in capsys.readouterr().out
        assert builtins.imports_of_mine == 2
        again()
        assert train_command(["run=here"], STUB, CONFIGS) == 0  # which has nothing left to do
        assert builtins.imports_of_mine == 3
        # Moved away: told how to find it again.
        del sys.modules["mine"]
        Path("mine.py").rename("mine_too.py")
        assert evaluate_command(["run=here", "episodes=4"], STUB, CONFIGS) == 1
        assert "give it with --import where it has moved" in capsys.readouterr().err
        import_recorded({"imports": ["mine"]}, Path("here"), instead=["mine_too.py"])
        assert builtins.imports_of_mine == 4
    finally:
        del builtins.imports_of_mine


def test_the_folder_that_is_searched_comes_first_and_once():
    Path("mine.py").touch()
    Path("elsewhere").mkdir()
    Path("elsewhere/mine_too.py").touch()
    for _ in range(2):
        import_modules(["mine", "elsewhere/mine_too.py"])
    here = str(Path.cwd())
    assert sys.path[:2] == [f"{here}/elsewhere", here]
    assert [sys.path.count(path) for path in sys.path[:2]] == [1, 1]


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("a/b.txt", "it is no .py file"),
        ("a/b", "it is no .py file"),
        ("a/b.py", "there is no such file"),
    ],
)
def test_what_is_no_file_of_python_is_told(name, what):
    with pytest.raises(UsageError, match=f"^--import {name}: {what}$"):
        import_modules([name])


def test_a_fault_is_told_in_its_first_line_and_where_it_was_in_the_end():
    Path("helper_of_mine.py").write_text("def fail():\n    raise ValueError('first\\nsecond')")
    Path("mine.py").write_text("import helper_of_mine\ndef go():\n  helper_of_mine.fail()\ngo()")
    for name in "mine", "mine.py":
        with pytest.raises(UsageError) as error:
            import_modules([name], option="the run's")
        line = f"the run's {name}: ValueError: first (helper_of_mine.py, line 2)"
        assert str(error.value) == line
    # Half a module is none.
    assert not any(module.startswith("_imported_") for module in sys.modules)
    Path("mine.py").write_text("raise ValueError")
    with pytest.raises(UsageError, match=r"^--import mine.py: ValueError \(mine.py, line 1\)$"):
        import_modules(["mine.py"])


def record_of(env: str, *modules: str) -> dict:
    return {"config": {"env": {"name": env}}, "imports": list(modules)}


@pytest.mark.parametrize(
    ("record", "modules"),
    [
        ({}, []),
        (record_of("popgym/x", "a", "b.c"), ["a", "b.c"]),
        (record_of("gymnasium/CartPole-v1"), []),
        (record_of("gymnasium/theirs.own:Env-v0", "a"), ["a", "theirs.own"]),
        (record_of("brax/theirs:ant"), []),
    ],
)
def test_what_opening_a_run_would_import(record, modules):
    assert imports._modules_of(record) == modules


def test_modules_are_found_without_being_imported(monkeypatch):
    package = Path(json.__file__).parent
    assert imports._places("json") == [package, package / "__init__.py"]
    assert imports._places("json.decoder") == [package / "decoder", package / "__init__.py"]
    assert imports._places("sys") == []  # it has no file
    here = Path.cwd()
    assert imports._places("no_such_module") == [] and imports._places("") == [here]
    assert imports._places("a/b.py") == [here / "a/b.py"]
    for place in ("mine/deep", "mine"):
        Path(place).mkdir(parents=True, exist_ok=True)
        Path(f"{place}.py").write_text("raise SystemExit('this must not run')")
    assert imports._places("mine.deep")[:2] == [here / "mine/deep", here / "mine/deep.py"]
    assert imports._places("mine")[:2] == [here / "mine", here / "mine.py"]

    def broken(name):
        raise ImportError(name)

    monkeypatch.setattr("importlib.util.find_spec", broken)
    assert imports._places("json") == []


def test_modules_are_not_looked_for_in_the_folder_of_the_run(monkeypatch):
    Path("run/deep").mkdir(parents=True)
    Path("mine.py").touch()
    run = Path("run").resolve()
    import_recorded({"imports": ["mine"]}, run)
    for folder in (run, run / "deep"):
        monkeypatch.chdir(folder)
        with pytest.raises(RunError) as error:
            import_recorded({"imports": ["json", "mine"]}, run)
        assert str(error.value) == (
            f"{run} was trained with modules of its own (json, mine), which Python would look for "
            "in the current folder, the run's: go to another one"
        )
        import_recorded({"imports": []}, run)  # without any there is no harm
        import_recorded({"imports": ["mine"]}, run, instead=["json"])


def test_a_run_brings_no_code_of_its_own(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "mine.py").write_text("raise SystemExit('this must not run')")
    for name in (str(run / "mine.py"), "run.mine"):
        with pytest.raises(RunError, match="which lies inside the run"):
            import_recorded({"imports": [name]}, run)


OWN = """
import flax.linen as nn
import jax.numpy as jnp
from ssmrl.envs import register
from ssmrl.memory import ScanMemory, register as register_memory
from tests.api.small import Drift

class Average(ScanMemory):
    def initialize_carry(self, batch_shape):
        return jnp.zeros((*batch_shape, self.features))
    def encode(self, x):
        return jnp.asarray(0.9), 0.1 * nn.Dense(self.features)(x)
    def decode(self, states, x):
        return states

register("my/drift", lambda: (Drift(), Drift().default_params))
register_memory("my_average", Average)
"""
SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


@pytest.mark.slow
def test_ones_own_environment_and_memory_on_the_command_line():
    Path("own.py").write_text(OWN)
    sizes = ["agent.num_envs=3", "agent.rollout_length=8", "agent.minibatches=1"]
    line = ["--import", "own", "env=my/drift", "memory=my_average", "memory.features=4"]
    line += [*sizes, "total_steps=48", "run_dir=here"]
    subprocess.run([sys.executable, SCRIPTS / "train.py", *line], check=True)
    line = ["run=here", "episodes=3"]
    result = subprocess.run(
        [sys.executable, SCRIPTS / "evaluate.py", *line], check=True, capture_output=True, text=True
    )
    assert "my/drift" in result.stdout
    assert re.search(r"steps per episode │ +5.0 │", result.stdout)

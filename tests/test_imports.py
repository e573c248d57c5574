"""What importing the memories brings along, and that imports run downwards only."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import ssmrl

ROOT = Path(ssmrl.__file__).parent

# Rooms of the house, lowest first; imports run to lower floors only. Files of one room may import
# each other, rooms of one floor may not.
FLOORS = [
    {"scan", "figures"},
    {"memory"},
    {"envs", "networks", "training", "diagnostics"},
    {"agents"},
    {"experiment", "policy"},
    {"zoo"},
    {"api", "cli"},
    {"__main__"},
]
LEVEL = {room: level for level, rooms in enumerate(FLOORS) for room in rooms}
# The vocabulary of observations and actions is the environments', and the networks read it.
SIDEWAYS = {("networks", "ssmrl.envs.spaces")}

# Packages that the memories must do without, installed here or not.
HEAVY = {
    *("distrax", "tensorflow_probability", "brax", "mujoco", "gymnax", "gymnasium", "popgym"),
    *("wandb", "hydra", "omegaconf", "optax", "orbax", "flashbax", "matplotlib", "pandas", "chex"),
}


def imported_by(code):
    """Top-level names of the modules that a fresh interpreter has after running `code`."""
    report = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return set(result.stdout.split())


@pytest.fixture(scope="module")
def foundations():
    return imported_by("import jax, numpy, flax.linen, jaxtyping")


@pytest.mark.parametrize("module", ["ssmrl", "ssmrl.scan", "ssmrl.memory"])
def test_the_memories_need_only_their_foundations(module, foundations):
    loaded = imported_by(f"import {module}")
    assert "ssmrl" in loaded
    assert not loaded & HEAVY
    assert loaded - foundations - set(sys.stdlib_module_names) == {"ssmrl"}


def imports_of(path):
    """Full names of what a file imports, anywhere in it; `from a import b` gives `a.b`."""
    package = ["ssmrl", *path.relative_to(ROOT).parts[:-1]]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def files():
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def allowed(room, name):
    target = name.split(".")[1]
    if target == room or LEVEL[target] < LEVEL[room]:
        return True
    return any(room == r and (name == m or name.startswith(m + ".")) for r, m in SIDEWAYS)


def test_every_room_has_its_floor():
    assert {room_of(path) for path in files()} <= set(LEVEL)


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path):
    room = room_of(path)
    ours = [name for name in imports_of(path) if name.split(".")[0] == "ssmrl"]
    assert not [name for name in ours if not allowed(room, name)]
    if room == "scan":
        assert not ours


def test_the_package_itself_imports_nothing():
    """So that `import ssmrl` costs nothing, and `import ssmrl.memory` brings nothing else."""
    assert imported_by("import ssmrl") - imported_by("import typing, importlib") == {"ssmrl"}


def test_looking_at_the_package_imports_nothing_either():
    assert "jax" not in imported_by("import ssmrl; dir(ssmrl); ssmrl.__doc__; ssmrl.__all__")


def test_the_check_sees_every_way_to_import(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    path = tmp_path / "memory" / "inner.py"
    path.parent.mkdir()
    path.write_text(
        "import ssmrl.envs\nfrom ssmrl import agents\nfrom ssmrl.training.loop import train\n"
        "from .. import networks\nfrom ..envs import spaces\n"
        "from . import base\nfrom .base import Memory\n"
        "def f():\n    import ssmrl.experiment\n"
    )
    found = {name for name in imports_of(path) if not allowed("memory", name)}
    assert found == {
        *("ssmrl.envs", "ssmrl.agents", "ssmrl.training.loop.train"),
        *("ssmrl.networks", "ssmrl.envs.spaces", "ssmrl.experiment"),
    }

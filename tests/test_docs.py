"""What README.md and CONTRIBUTING.md show must work as written."""

import importlib.util
import re
import shlex
from pathlib import Path

import pytest

from ssmrl.agents import _AGENTS
from ssmrl.envs import registry as envs
from ssmrl.experiment import COMPONENTS
from ssmrl.memory import list_memories
from ssmrl.memory import registry as memories
from ssmrl.training.cli import compose_training
from tests.unchecked import unchecked

ROOT = Path(__file__).parent.parent
README, CONTRIBUTING = (ROOT / name for name in ("README.md", "CONTRIBUTING.md"))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


@pytest.fixture
def untouched_registries(monkeypatch):
    """Registries are copied for the test, so that what an example registers is gone after it."""
    monkeypatch.setattr(memories, "_REGISTRY", dict(memories._REGISTRY))
    for name in ("_ENTRIES", "_ALIASES"):
        monkeypatch.setattr(envs, name, dict(getattr(envs, name)))
    before = dict(_AGENTS)
    yield
    _AGENTS.clear()
    _AGENTS.update(before)


def readme_examples():
    """The one that trains is slow; tests/api does the same with small networks."""
    for code in blocks(README, "python"):
        yield pytest.param(code, marks=[pytest.mark.slow] if "ssmrl.train(" in code else [])


@pytest.mark.parametrize("code", list(readme_examples()))
def test_readme_examples_run(code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = code.replace("total_steps=300_000", "total_steps=1")  # one iteration
    with unchecked():  # as users run it: an export's batch size is a symbol, no int
        exec(compile(code, "README.md", "exec"), {"__name__": "readme"})


def test_readme_has_its_examples():
    assert len(blocks(README, "python")) == 3


def test_contributing_examples_run_and_what_they_register_works(untouched_registries):
    import jax

    for code in blocks(CONTRIBUTING, "python"):
        exec(compile(code, "CONTRIBUTING.md", "exec"), {"__name__": "contributing"})
    memory = memories.make_memory("moving_average", features=3)
    x, reset = jax.numpy.ones((4, 2, 5)), jax.numpy.zeros((4, 2), bool)
    carry = memory.initialize_carry((2,))
    params = memory.init(jax.random.key(0), carry, x, reset)
    assert memory.apply(params, carry, x, reset)[1].shape == (4, 2, 3)
    env, params = envs.make("my/remember_one_bit")
    observation, state = env.reset(jax.random.key(0), params)
    for _ in range(5):
        *_, reward, terminated, _, _ = env.step(jax.random.key(1), state, observation, params)
        _, state, *_ = env.step(jax.random.key(1), state, observation, params)
    assert bool(terminated) and float(reward) == 1.0


def test_contributing_names_files_that_exist():
    text = CONTRIBUTING.read_text()
    house = re.findall(r"^(ssmrl/[\w/.]+|scripts/) ", text, re.MULTILINE)
    named = re.findall(r"`(?:python )?([\w.]+/[\w/.]*)`", text)
    assert len(house) >= 9 and len(named) >= 6
    missing = {path for path in named if not (ROOT / path).exists()}
    # The house names modules without their ending.
    missing |= {path for path in house if not list(ROOT.glob(f"{path.rstrip('/')}*"))}
    assert not missing


BENCHMARKS = ROOT / "benchmarks"


def benchmark_modules(path: Path) -> set[str]:
    """What `python -m benchmarks.…` is shown to run; lines may break after -m."""
    return set(re.findall(r"python\s+-m\s+(benchmarks[\w.]+\w)", path.read_text()))


def test_every_benchmark_is_in_the_table_of_benchmarks():
    runnable = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts)
        for path in BENCHMARKS.rglob("*.py")
        if '__name__ == "__main__"' in path.read_text()
    } - {"benchmarks.speed.memory_worker"}
    assert len(runnable) == 20
    assert benchmark_modules(BENCHMARKS / "README.md") == runnable
    shown = benchmark_modules(README)
    assert len(shown) >= 8
    assert shown <= runnable


def test_the_table_of_benchmarks_leads_to_every_result():
    linked = re.findall(r"\]\(([\w./]+)\)", (BENCHMARKS / "README.md").read_text())
    assert {path for path in linked if not (BENCHMARKS / path).exists()} == set()
    results = {path.stem.split(".")[0] for path in (BENCHMARKS / "results").iterdir()}
    assert results <= {Path(path).stem for path in linked}


def test_benchmarks_find_their_parts():
    """Each imports from the others by the names of the rooms they are in."""
    for path in BENCHMARKS.rglob("*.py"):
        for module, names in re.findall(
            r"^from (benchmarks[\w.]*) import ([\w, ]+)", path.read_text(), re.MULTILINE
        ):
            place = ROOT / module.replace(".", "/")
            if place.is_dir():
                for name in names.split(","):
                    assert (place / f"{name.split(' as ')[0].strip()}.py").exists(), path
            else:
                assert place.with_suffix(".py").exists(), path


def training_commands() -> list[str]:
    return re.findall(r"^python scripts/train\.py (.*=.*)$", README.read_text(), re.MULTILINE)


@pytest.mark.parametrize("line", training_commands())
def test_readme_training_commands_compose(line):
    config = compose_training(shlex.split(line), COMPONENTS, ROOT / "configs")
    assert config.total_steps > 0


def test_readme_has_training_commands():
    assert len(training_commands()) >= 3


def test_the_pages_of_the_memories_are_current():
    """`python docs/generate.py` writes them; whoever changes a docstring runs it."""
    spec = importlib.util.spec_from_file_location("generate", ROOT / "docs" / "generate.py")
    generate = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generate)
    pages = {path.stem: path.read_text() for path in generate.PAGES.glob("*.md")}
    assert pages.keys() == set(list_memories())
    for name, text in pages.items():
        assert text == generate.page(name), f"docs/memories/{name}.md: run python docs/generate.py"

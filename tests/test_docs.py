"""What README.md, CONTRIBUTING.md and the site show must work as written, and lead somewhere."""

import argparse
import importlib.util
import os
import re
import runpy
import shlex
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from ssmrl.agents import _AGENTS
from ssmrl.cli import COMMANDS, main
from ssmrl.envs import registry as envs
from ssmrl.experiment import COMPONENTS, CONFIGS
from ssmrl.memory import list_memories
from ssmrl.memory import registry as memories
from ssmrl.training.cli.check import check_arguments
from ssmrl.training.cli.commands import _composer
from ssmrl.training.errors import UsageError
from tests.unchecked import unchecked

ROOT = Path(__file__).parent.parent
README, CONTRIBUTING = (ROOT / name for name in ("README.md", "CONTRIBUTING.md"))
DOCS = ROOT / "docs"
PAGES = [README, CONTRIBUTING, *sorted(DOCS.rglob("*.md"))]
"""What people read: the front page, how to contribute, the site."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


def prose(path: Path, spans: bool = False) -> str:
    """A page without blocks of code; spans of code stay only if they are asked for."""
    text = re.sub(r"^```.*?^```", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)
    return text if spans else re.sub(r"`[^`]*`", "code", text)


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


def run_blocks(path: Path, chosen) -> None:
    """The Python blocks of a page that are chosen, one after the other in one namespace."""
    namespace = {"__name__": path.stem}
    with unchecked():  # as users run them: an export's batch size is a symbol, no int
        for code in filter(chosen, blocks(path, "python")):
            code = re.sub(r"total_steps=[\d_]+", "total_steps=1", code)  # one iteration
            exec(compile(code, str(path), "exec"), namespace)


def trains(code: str) -> bool:
    return "ssmrl.train(" in code


WITH_CODE = [page for page in PAGES if "memories" not in page.parts and blocks(page, "python")]


@pytest.mark.parametrize("page", WITH_CODE, ids=name_of)
def test_what_is_shown_in_python_runs(page, untouched_registries):
    run_blocks(page, lambda code: not trains(code))


@pytest.mark.slow
@pytest.mark.parametrize("page", [p for p in WITH_CODE if trains(p.read_text())], ids=name_of)
def test_trainings_that_are_shown_in_python_run(page, tmp_path, monkeypatch, untouched_registries):
    monkeypatch.chdir(tmp_path)
    run_blocks(page, lambda code: True)


def test_there_are_examples_in_python():
    shown = {name_of(page) for page in WITH_CODE}
    tutorials = {f"docs/tutorials/{n}.md" for n in ("memory_in_your_ppo", "own_memory")}
    assert {"README.md", "docs/start.md", "docs/bugs.md", "CONTRIBUTING.md"} | tutorials <= shown


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
    assert len(runnable) == 33
    assert benchmark_modules(BENCHMARKS / "README.md") == runnable
    shown = set().union(*map(benchmark_modules, PAGES))
    assert len(shown) >= 12
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


def shown_lines(path: Path) -> list[str]:
    """Every line of a page's blocks of commands, and every span of code; comments are left out."""
    whole = [block.replace("\\\n", "") for block in blocks(path, r"(?:bash|shell)?")]
    lines = [line.partition(" # ")[0] for block in whole for line in block.splitlines()]
    return [" ".join(line.split()) for line in lines + re.findall(r"`([^`]+)`", prose(path, True))]


def benchmark_commands(path: Path) -> list[str]:
    """Every `python -m benchmarks.…` of a page, with its arguments."""
    found = [re.sub(r"^taskset \S+ \S+ ", "", line) for line in shown_lines(path)]
    return [line for line in found if line.startswith("python -m benchmarks.") and "…" not in line]


BENCHMARK_COMMANDS = {
    line: name_of(page)
    for page in (*PAGES, BENCHMARKS / "README.md")
    for line in benchmark_commands(page)
}


class Understood(Exception):
    """A program has read its command line."""


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("line", BENCHMARK_COMMANDS)
def test_every_benchmark_understands_its_command_line(line, monkeypatch):
    _, _, module, *arguments = shlex.split(line)
    read = argparse.ArgumentParser.parse_args

    def parse_args(*given):
        read(*given)
        raise Understood

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_args)
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    monkeypatch.setattr(os, "environ", dict(os.environ))  # some set XLA's flags before they begin
    with pytest.raises(Understood):
        runpy.run_module(module, run_name="__main__")


def test_there_are_benchmark_commands():
    assert len(BENCHMARK_COMMANDS) >= 45


COMMAND = re.compile(rf"^(?:ssmrl|python scripts/)\s*({'|'.join(COMMANDS)})(?:\.py)?\s+(\S.*)$")


def commands(path: Path) -> list[tuple[str, list[str]]]:
    """Every `ssmrl train …` and so on of a page: names, arguments."""
    found = [match for line in shown_lines(path) if (match := COMMAND.match(line))]
    return [
        (match[1], shlex.split(match[2]))
        for match in found
        if not re.search(r"…|\.\.\.|--help|\bRUN\b", match[2])
    ]


def check_command(name: str, arguments: list[str]) -> None:
    """UsageError unless the command would begin with these arguments."""
    if "--import" in arguments:
        at = arguments.index("--import")
        arguments = arguments[:at] + arguments[at + 2 :]
    if name == "plot":
        assert {a for a in arguments if a.startswith("-")} <= {"--metric", "--out", "--trials"}
        return
    # Hydra's own, whose launchers and sweepers are extras.
    arguments = [a for a in arguments if not a.startswith("hydra")]
    composer = _composer(COMPONENTS, CONFIGS, None if name == "benchmark" else name)
    check_arguments(composer, arguments)


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=name_of)
def test_every_command_composes(page, untouched_registries):
    # What a page registers in Python is there for its commands, as --import would have it.
    registering = [code for code in blocks(page, "python") if re.search(r"^register\(", code, re.M)]
    for code in registering:
        exec(compile(code, str(page), "exec"), {"__name__": page.stem})
    for name, arguments in {str(command): command for command in commands(page)}.values():
        check_command(name, arguments)


ENOUGH = 70_000  # steps until there is a training return to draw


def cut_down(name: str, arguments: list[str]) -> list[str]:
    """The same with as few steps and episodes as show something."""
    dreams = any(re.match("(experiment|agent)=(r2i|dreamer)", argument) for argument in arguments)
    first = re.search(r"ids=\[(\w+)", str(arguments))
    few = {
        "train": [f"total_steps={1 if dreams else ENOUGH}"],
        "evaluate": ["episodes=2"],
        "diagnose": ["steps=2"],
        "benchmark": [f"steps={ENOUGH}", f"ids=[{first[1] if first else 'repeat_previous_easy'}]"],
        "plot": [],
    }[name]
    keys = {setting.partition("=")[0] for setting in few}
    return [a for a in arguments if a.partition("=")[0] not in keys] + few


def can_run(name: str, arguments: list[str]) -> bool:
    """Not what needs an extra, a cluster, the original Memory Maze, or a run that nothing made."""
    if re.search("hydra/|memory_maze_original", str(arguments)):
        return False
    runs = [a.removeprefix("run=") for a in arguments if a.startswith(("run=", "runs/"))]
    return name == "train" or all(run.startswith("zoo:") or Path(run).exists() for run in runs)


# Those of the memories have the same two commands each.
RUN = [page for page in PAGES if page.parent.name != "memories" or page.stem == "s5"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Brax System:UserWarning")
@pytest.mark.filterwarnings("ignore:Accessing:DeprecationWarning")  # brax at mjx's insides
@pytest.mark.parametrize(
    "page", [p for p in RUN if any(can_run(*command) for command in commands(p))], ids=name_of
)
def test_every_command_runs(page, tmp_path, monkeypatch, untouched_registries):
    """One after the other in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name, arguments in {str(command): command for command in commands(page)}.values():
        if can_run(name, arguments):
            assert main([name, *cut_down(name, arguments)]) == 0, (name, arguments)


def test_there_are_commands():
    assert len(commands(README)) >= 4
    everywhere = [name for page in PAGES for name, _ in commands(page)]
    assert len(everywhere) >= 70 and set(everywhere) == set(COMMANDS)


@pytest.mark.parametrize(
    "line", ["memori=s5", "memory=s55", "env=popgym/repeat_previos_easy", "agent.lrr=1"]
)
def test_a_wrong_command_would_be_noticed(line):
    with pytest.raises(UsageError):
        check_command("train", [line])


def optional_dependencies() -> dict[str, list[str]]:
    """What each extra asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project["optional-dependencies"]


def test_what_is_asked_of_make_and_pip_exists():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    extras = set(optional_dependencies())
    named = set()
    for page in PAGES:
        text = page.read_text()
        assert set(re.findall(r"(?:`|^)make ([a-z][a-z-]+)", text, re.MULTILINE)) <= targets, page
        for listed in re.findall(r"""pip install ["'](?:\.|ssmrl)\[([\w,-]+)\]""", text):
            named |= set(listed.split(","))
    assert {"train", "cuda", "tpu"} <= named <= extras


def test_make_installs_the_original_memory_maze_as_the_extra_does():
    """Without gymnasium, which our side of it needs."""
    asked = set(optional_dependencies()["memory-maze"])
    installed = set(re.findall(r'"([\w-]+[>=<][^"]*)"', (ROOT / "Makefile").read_text()))
    assert {name for name in asked if not name.startswith("gymnasium")} <= installed


def test_programs_that_are_named_exist():
    for page in PAGES:
        for file in re.findall(
            r"python ((?:docs|examples|scripts|tests)/[\w/]+\.py)", page.read_text()
        ):
            assert (ROOT / file).exists(), f"{name_of(page)}: {file}"


# ------------------------------------------------------------------------------------ links

ELSEWHERE = {DOCS / "changelog.md": ROOT / "CHANGELOG.md", DOCS / "contributing.md": CONTRIBUTING}
"""Pages of the site that are kept elsewhere; docs/hooks.py has the same."""

LINKED = [
    *PAGES,
    ROOT / "CHANGELOG.md",
    ROOT / "benchmarks/README.md",
    ROOT / "constraints/README.md",
]


def anchors(path: Path) -> set[str]:
    """What can be linked to with # in a page."""
    heads = re.findall(r"^#+ (.*)$", prose(path, spans=True), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", LINKED, ids=name_of)
def test_every_link_leads_somewhere(page):
    wrong = []
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if "://" in target or target.startswith("mailto:"):
            continue
        file, _, anchor = target.partition("#")
        path = (page.parent / file).resolve() if file else page
        path = ELSEWHERE.get(path, path)
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            wrong.append(target)
    assert not wrong


def test_the_site_shows_every_page():
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text())

    def pages(entry):
        if isinstance(entry, str):
            return [entry]
        parts = entry.values() if isinstance(entry, dict) else entry
        return [page for part in parts for page in pages(part)]

    shown = pages(site["nav"])
    assert len(shown) == len(set(shown))
    kept = {page.relative_to(DOCS).as_posix() for page in DOCS.rglob("*.md")}
    kept |= {path.name for path in ELSEWHERE}
    assert {page for page in kept if not page.startswith("memories/")} == set(shown)


def test_the_hooks_know_the_same_pages():
    text = (DOCS / "hooks.py").read_text()
    for page, source in ELSEWHERE.items():
        assert f'"{page.name}": "{source.name}"' in text


# ------------------------------------------------------------------- bugs, and what is generated


def test_every_bug_is_shown_in_two_lines_and_held_by_tests_that_exist():
    sections = re.split(r"^## ", (DOCS / "bugs.md").read_text(), flags=re.MULTILINE)[1:]
    assert len(sections) >= 12
    for section in sections:
        title = section.splitlines()[0]
        (code,) = re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
        assert len(code.splitlines()) == 2 and "assert" in code, title
        held = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", section.partition("Held by")[2])
        assert held, title
        for file, name in held:
            assert f"def {name}(" in (ROOT / file).read_text(), f"{title}: {file}::{name}"


def program(name: str):
    """One of the programs in docs/, as a module."""
    spec = importlib.util.spec_from_file_location(name, DOCS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_how_many_ids_are_at_or_above_what_is_published_is_what_the_results_say():
    """To three digits, as the published figures have them."""
    pairs = [
        (round(found["ours"], 3), found["published"])
        for found in program("front").scores().values()
        if found["published"] is not None
    ]
    above = sum(ours >= published for ours, published in pairs)
    for page, said in ((README, "POPGym ids with"), (DOCS / "recipe.md", "ids with")):
        assert f"n {above} of the {len(pairs)} {said} a published figure" in page.read_text()


def test_the_pages_of_the_memories_are_current():
    """`python docs/generate.py` writes them; whoever changes a docstring runs it."""
    generate = program("generate")
    pages = {path.stem: path.read_text() for path in generate.PAGES.glob("*.md")}
    assert pages.keys() == set(list_memories())
    for name, text in pages.items():
        assert text == generate.page(name), f"docs/memories/{name}.md: run python docs/generate.py"


def test_the_references_and_the_table_of_costs_are_current():
    generate = program("generate")
    assert generate.CONFIGURATION.read_text() == generate.configuration()
    assert generate.CHOOSING.read_text() == generate.choosing()
    assert generate.ZOO.read_text() == generate.zoo_page()
    assert generate.POPGYM.read_text() == generate.popgym_page()
    for name in generate.REFERENCE:
        page = generate.CONFIGURATION.parent / f"{name}.md"
        assert page.read_text() == generate.reference_page(name), "run python docs/generate.py"


def test_the_reference_has_every_public_module():
    generate = program("generate")
    named = {
        line.removeprefix("::: ")
        for name in generate.REFERENCE
        for line in generate.reference_page(name).splitlines()
        if line.startswith("::: ")
    }
    package = ROOT / "ssmrl"
    public = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in package.rglob("*.py")
        if path.read_text() and not re.search(r"/_(?!_init)", path.as_posix())
    }
    assert named == public - {"ssmrl"}


@pytest.mark.filterwarnings("ignore:Brax System:UserWarning")  # brax says that it is old
@pytest.mark.filterwarnings("ignore:Accessing:DeprecationWarning")  # brax at mjx's insides
def test_the_gallery_shows_and_explains_every_environment_that_is_filmed():
    gallery = program("gallery")
    page = (DOCS / "gallery.md").read_text()
    shown = re.findall(r"^## (\S+)\n\n(.+)\n\n!\[\S+\]\((\S+)\)$", page, re.MULTILINE)
    assert [name for name, *_ in shown] == gallery.filmed()
    xland = importlib.util.find_spec("xminigrid") is not None  # an extra that the tests leave out
    for name, said, film in shown:
        assert (DOCS / film).exists(), name
        if xland or "xland" not in name:
            assert said == gallery.caption(name), "run python docs/gallery.py --page"

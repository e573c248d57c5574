"""Plants small faults, one at a time, and runs the tests that should notice.

    python tests/mutants.py [part of a path ...] [--sample N | --draw N --seed S]
                            [--first] [--again] [--report]
    python tests/mutants.py --map

cosmic-ray knows the faults. Each file's are drawn in an order of their own that never changes: a
run that was stopped goes on where it was, and a larger sample goes on from a smaller one. `--draw`
takes from all files at once, each mutant as likely as any other, so that its rate is one of the
whole. They are planted in a copy under build/mutants, the work tree can be used meanwhile. Results
belong to the text of their file; `--again` tries the survivors once more, as after a change of the
tests, or after `--first`, which runs but the test file most likely to notice. Those that
mutants.toml calls equivalent are not tried.

`--map` runs the quick tests once and notes which of them run which line. From then on a mutant is
tried with those that run its statement, quickest first, and with its file's list only where the
map knows none: a default, a constant, a line that no test runs. Without a map it is the list.

A trial is a fork of this process, which has imported what the tests need from others, and what a
mutant left as it was comes from jax's compilation cache. Linux alone.
"""

import argparse
import ast
import contextlib
import dataclasses
import hashlib
import importlib
import itertools
import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
import tomllib
import traceback
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutants"
TREE = BUILD / "tree"
TABLE = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())
SEED = 0
PATIENCE = 5  # times the tests' own time; who takes longer has been noticed
_PRELOADED = "ignore:Module already imported:pytest.PytestAssertRewriteWarning"
LEAST_PATIENCE = 60  # seconds; other work on the machine must not notice mutants

ENVIRONMENT = {
    "PYTHONPATH": str(TREE),  # for the processes that tests start
    "JAX_PLATFORMS": "cpu",
    "JAX_COMPILATION_CACHE_DIR": str(BUILD / "compiled"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    "OPENBLAS_NUM_THREADS": "1",  # numpy's own would not survive a fork
    "OMP_NUM_THREADS": "1",
}
MAP = BUILD / "map.json"
LONGEST = 180.0  # seconds of tests that a mutant is tried with, if a map says how long they take


@dataclass(frozen=True)
class Mutant:
    """One changed text of a file."""

    text: str
    operator: str
    line: int
    before: str
    after: str

    @property
    def name(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()[:16]


def copy_tree() -> None:
    """Every file that git knows, new ones included; bytecode that is there stays."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = {name for name in listed.splitlines() if (ROOT / name).is_file()}
    for old in [path for path in TREE.rglob("*") if path.is_file()]:
        if str(old.relative_to(TREE)) not in names and old.parent.name != "__pycache__":
            old.unlink()
    for name in names:
        (TREE / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, TREE / name)


# Mutants ------------------------------------------------------------------------------------------


def mutants_of(source: str) -> list[Mutant]:
    """All of a file, in the order in which they are drawn; made once, which takes a while."""
    kept = session(source).with_suffix(".mutants")
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps([dataclasses.astuple(m) for m in _make_mutants(source)]))
    return [Mutant(*fields) for fields in json.loads(kept.read_text())]


def _make_mutants(source: str) -> list[Mutant]:
    found: dict[str, Mutant] = {}
    for place in _places(source):
        if mutant := _mutate(*place):
            found.setdefault(mutant.text, mutant)
    ordered = sorted(found.values(), key=lambda m: (m.line, m.operator, m.after))
    random.Random(f"{SEED} {source}").shuffle(ordered)
    return ordered


def draw(count: int, seed: int) -> list[tuple[str, Mutant]]:
    """So many of all files of `whole`, any place as likely as another; kept, as it takes a while.

    Places of which nothing can be made but what is no fault are drawn again.
    """
    kept = BUILD / f"draw-{seed}.json"
    drawn = json.loads(kept.read_text()) if kept.exists() else []
    if len(drawn) < count:
        places = [place for source in whole() for place in _places(source)]
        random.Random(seed).shuffle(places)
        found = ((place[0], mutant) for place in places if (mutant := _mutate(*place)))
        drawn = [(s, *dataclasses.astuple(m)) for s, m in itertools.islice(found, count)]
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(drawn))
    return [(source, Mutant(*fields)) for source, *fields in drawn[:count]]


def whole() -> list[str]:
    """The files that `draw` draws of."""
    paths = [ROOT / name for name in TABLE["whole"]]
    files = [file for path in paths for file in ([path] if path.is_file() else path.rglob("*.py"))]
    return sorted(str(file.relative_to(ROOT)) for file in files)


def _places(source: str) -> list[tuple[str, str, int]]:
    """Where what can be changed: the file, the operator, and which of its places."""
    from cosmic_ray import plugins
    from cosmic_ray.ast import ast_nodes, get_ast

    nodes = list(ast_nodes(get_ast((ROOT / source).read_text())))
    wanted = re.compile("|".join(f"core/{name}$" for name in TABLE["operators"]))
    places = []
    for name in sorted(filter(wanted.match, plugins.operator_names())):
        operator = plugins.get_operator(name)()
        count = sum(len(list(operator.mutation_positions(node))) for node in nodes)
        places += [(source, name, occurrence) for occurrence in range(count)]
    return places


def _mutate(source: str, operator: str, occurrence: int) -> Mutant | None:
    from cosmic_ray import plugins
    from cosmic_ray.mutating import mutate_code

    text = (ROOT / source).read_text()
    with contextlib.suppress(AttributeError):  # ExceptionReplacer, of `except a.B`
        changed = mutate_code(text, plugins.get_operator(operator)(), occurrence)
        if changed is not None and _is_fault(text, changed):
            return _describe(text, changed, operator)
    return None


def _describe(text: str, changed: str, operator: str) -> Mutant:
    pairs = zip(text.splitlines(), changed.splitlines(), strict=False)
    line, (before, after) = next((i, p) for i, p in enumerate(pairs, 1) if p[0] != p[1])
    return Mutant(changed, operator.removeprefix("core/"), line, before.strip(), after.strip())


def _is_fault(text: str, changed: str) -> bool:
    """Whether it is Python, and means something else to those who name their arguments.

    cosmic-ray takes the mark before keyword-only arguments for a product. Whether `zip` is strict
    shows only where lengths differ, and it is there to say that they do not.
    """
    try:
        return _meaning(text) != _meaning(changed)
    except SyntaxError:
        return False


@cache
def _meaning(text: str) -> str:
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "zip":
            node.keywords = [keyword for keyword in node.keywords if keyword.arg != "strict"]
        if isinstance(node, ast.arguments):
            first = [*node.posonlyargs, *node.args]
            defaults = [None] * (len(first) - len(node.defaults)) + node.defaults
            pairs = zip([*first, *node.kwonlyargs], [*defaults, *node.kw_defaults], strict=True)
            node.posonlyargs, node.args, node.defaults, node.kwonlyargs = [], [], [], []
            node.kw_defaults = [ast.Tuple([a, d or ast.Constant(...)]) for a, d in pairs]
    return ast.dump(tree)


# Which tests run a line ---------------------------------------------------------------------------


def draw_map() -> None:
    """Run the quick tests with coverage; which of them ran a line, and how long they took.

    Raises:
        SystemExit: one of them fails.
    """
    data, times = BUILD / "coverage", BUILD / "times.xml"
    measured = sorted({Path(name).parts[1].removesuffix(".py") for name in whole()})
    options = [f"--cov=ssmrl.{name}" for name in measured] + ["--cov-context=test", "--cov-report="]
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", *options, f"--junitxml={times}"]
    code = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"COVERAGE_FILE": str(data)}
    ).returncode
    if code:
        raise SystemExit("tests fail without a mutant")
    MAP.write_text(json.dumps({"seconds": _seconds(times), "lines": _lines(data)}))


def _lines(data: Path) -> dict[str, dict[int, list[str]]]:
    """By file and line the tests that ran it."""
    from coverage import CoverageData

    covered = CoverageData(str(data))
    covered.read()
    found: dict[str, dict[int, list[str]]] = {}
    for source in whole():
        contexts = covered.contexts_by_lineno(str(ROOT / source))
        # "" is the import; others are a test with the phase behind it.
        tests = {line: {c.rpartition("|")[0] for c in cs} - {""} for line, cs in contexts.items()}
        found[source] = {line: sorted(names) for line, names in tests.items() if names}
    return found


def _seconds(times: Path) -> dict[str, float]:
    """Of each test by its name on the command line; JUnit's has the class where the file is."""
    seconds = {}
    for case in ElementTree.parse(times).iter("testcase"):
        parts = case.attrib["classname"].split(".")
        paths = ["/".join(parts[:i]) + ".py" for i in range(len(parts), 0, -1)]
        path = next((path for path in paths if (ROOT / path).is_file()), None)
        if path is None:
            continue  # A whole file was skipped.
        classes = parts[path.count("/") + 1 :]
        seconds["::".join([path, *classes, case.attrib["name"]])] = float(case.attrib["time"])
    return seconds


def tests_that_run(source: str, mutant: Mutant) -> list[str]:
    """Those of the map that run the mutant's statement, quickest first; [] where it has none."""
    if not MAP.exists():
        return []
    known = _read_map()
    lines, seconds = known["lines"][source], known["seconds"]
    names = {name for line in _statement(source, mutant.line) for name in lines.get(str(line), [])}
    ordered = sorted(names & seconds.keys(), key=seconds.__getitem__)
    total = itertools.accumulate(seconds[name] for name in ordered)
    return [name for name, until in zip(ordered, total, strict=True) if until < LONGEST]


@cache
def _read_map() -> dict[str, Any]:
    return json.loads(MAP.read_text())


@cache
def _statement(source: str, line: int) -> range:
    """The lines of the innermost statement around one; of one with a body those above the body."""
    spans = []
    for node in ast.walk(ast.parse((ROOT / source).read_text())):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = body[0].lineno - 1 if body else node.end_lineno
            if node.lineno <= line <= max(node.lineno, end):
                spans.append(range(node.lineno, max(node.lineno, end) + 1))
    return min(spans, key=len, default=range(line, line + 1))


# Trials -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    passed: bool
    output: str
    seconds: float

    @property
    def noticed_by(self) -> str:
        """The test that failed first; what stood in for one otherwise."""
        failed = re.search(r"^(?:FAILED|ERROR) (\S+)", self.output, re.MULTILINE)
        return failed[1] if failed else "import" if self.output else "time"


def try_tests(tests: list[str], timeout: float | None = None, found: Path | None = None) -> Trial:
    """Runs them in a fork; `found` is for the names of the modules that they imported."""
    log, began = BUILD / "output.txt", time.monotonic()
    pid = os.fork()
    if pid == 0:
        _run_tests(tests, log, found)
    status = _wait(pid, timeout)
    seconds = time.monotonic() - began
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)  # what its tests may have left running
    if status is None:
        os.waitpid(pid, 0)
        return Trial(False, "", seconds)
    return Trial(status == 0, log.read_text(errors="replace"), seconds)


def _run_tests(tests: list[str], log: Path, found: Path | None) -> None:
    """The child's life."""
    code = 1
    try:
        os.setsid()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        sys.dont_write_bytecode = found is None
        if found is None:
            os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
        import pytest

        options = ["-x", "-q", "--tb=short", "-p", "no:cacheprovider", "-W", _PRELOADED]
        code = int(pytest.main([*options, *tests]))
        if found is not None:
            ours = ("ssmrl", "tests", "conftest", "scripts", "__main__")
            names = [name for name in sys.modules if name.partition(".")[0] not in ours]
            found.write_text("\n".join(names))
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _wait(pid: int, timeout: float | None) -> int | None:
    """The exit status, None where the time was up."""
    end = math.inf if timeout is None else time.monotonic() + timeout
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.02)
    return None


def preload(names: list[str]) -> None:
    """Imports what others wrote, once for all forks."""
    for name in names:
        if name not in sys.modules and not name.startswith(tuple(TABLE["not_preloaded"])):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    if (threads := len(os.listdir("/proc/self/task"))) > 1:
        raise SystemExit(f"one of the imported modules started {threads - 1} threads: no forks")


def baseline(tests: list[str]) -> float:
    """Seconds that these tests take; they must pass, as failing ones would notice everything.

    What one file's tests imported is imported before the next one's are run, and so it is known
    that they pass with it.
    """
    kept = _read_baseline()
    preload(kept["modules"])
    for test in tests:
        if test not in kept["seconds"]:
            found = BUILD / "modules.txt"
            trial = try_tests([test], found=found)
            if not trial.passed:
                raise SystemExit(f"{test} fails without a mutant:\n{trial.output}")
            kept["seconds"][test] = trial.seconds
            _write_baseline(kept, found)
    return sum(kept["seconds"][test] for test in tests)


def collect(tests: list[str]) -> None:
    """Import what these tests do, without running them: the map says that they pass."""
    kept = _read_baseline()
    if not kept["modules"]:
        found = BUILD / "modules.txt"
        try_tests(["--collect-only", *tests], found=found)
        _write_baseline(kept, found)
    preload(kept["modules"])


def _read_baseline() -> dict[str, Any]:
    path = BUILD / "baseline.json"
    return json.loads(path.read_text()) if path.exists() else {"modules": [], "seconds": {}}


def _write_baseline(kept: dict[str, Any], found: Path) -> None:
    kept["modules"] = list(dict.fromkeys(kept["modules"] + found.read_text().split()))
    (BUILD / "baseline.json").write_text(json.dumps(kept))


# Sessions -----------------------------------------------------------------------------------------


def _stem(source: str) -> str:
    return source.replace("/", ".").removesuffix(".py")


def session(source: str) -> Path:
    digest = hashlib.sha256((ROOT / source).read_bytes()).hexdigest()[:8]
    return BUILD / f"{_stem(source)}-{digest}.jsonl"


def results(source: str) -> dict[str, dict]:
    """By the mutant's name; the last line about one counts."""
    path = session(source)
    lines = path.read_text().splitlines() if path.exists() else []
    return {entry["name"]: entry for entry in map(json.loads, lines)}


def execute(source: str, mutants: list[Mutant], again: bool, first: bool) -> None:
    """Tries those that have not been tried."""
    tests = TABLE["tests"][source][: 1 if first else None]
    known = results(source)
    waiting = [
        m
        for m in mutants
        if not equivalent(source, m)
        and (m.name not in known or (again and not known[m.name]["noticed"]))
    ]
    if not waiting:
        return
    target = TREE / source
    for mutant in waiting:
        chosen_tests = _tests_of(source, mutant, tests)  # before it is planted
        target.write_text(mutant.text)
        trial = try_tests(*chosen_tests)
        shutil.copy2(ROOT / source, target)
        entry = {
            "name": mutant.name,
            "noticed": not trial.passed,
            "by": trial.noticed_by if not trial.passed else None,
            "seconds": round(trial.seconds, 1),
            "mutant": f"{mutant.line}: {mutant.before} -> {mutant.after}",
        }
        with session(source).open("a") as file:
            file.write(json.dumps(entry) + "\n")
        print(source, *entry.values(), flush=True)


def confirm(sources: Iterable[str]) -> None:
    """Run the tests that noticed something without any mutant: they must pass, here as well.

    Raises:
        SystemExit: one fails, so that it would have noticed everything.
    """
    noticed = [entry["by"] for source in sources for entry in results(source).values()]
    tests = sorted({by.partition("[")[0] for by in noticed if by and "::" in by})
    if tests and not (trial := try_tests(tests)).passed:
        raise SystemExit(f"a test that noticed mutants fails without one:\n{trial.output}")


def _tests_of(source: str, mutant: Mutant, listed: list[str]) -> tuple[list[str], float]:
    """What a mutant is tried with, and how long that may take, in seconds."""
    if names := tests_that_run(source, mutant):
        collect(listed)
        seconds = _read_map()["seconds"]
        # They were timed beside others that had compiled what they have to compile themselves.
        return names, max(LONGEST, PATIENCE * sum(seconds[name] for name in names))
    return listed, max(LEAST_PATIENCE, PATIENCE * baseline(listed))


def equivalent(source: str, mutant: Mutant) -> bool:
    """Whether mutants.toml says that nothing can tell it from the original."""
    return any(
        known["file"] in source and mutant.before == known["line"] and mutant.after in known["as"]
        for known in TABLE.get("equivalent", [])
    )


# Report -------------------------------------------------------------------------------------------


def report(chosen: dict[str, list[Mutant]]) -> None:
    """The table of mutants.md, and the survivors that nobody has explained, of those tried."""
    total, alive = [0, 0, 0, 0], []
    print("| file | drawn | noticed | equivalent | survived |\n|" + " --- |" * 5)
    for source, mutants in chosen.items():
        known = results(source)
        same = [m for m in mutants if equivalent(source, m)]
        tried = [m for m in mutants if m.name in known and m not in same]
        rest = [m for m in tried if not known[m.name]["noticed"]]
        if tried or same:
            row = [len(tried) + len(same), len(tried) - len(rest), len(same), len(rest)]
            total = [a + b for a, b in zip(total, row, strict=True)]
            alive += [(source, m) for m in rest]
            name = source.removeprefix("ssmrl/")
            print(f"| `{name}` |", *map("{} |".format, row))
    print("| all |", *map("{} |".format, total))
    drawn, noticed, same, _ = total
    for what, count in ("drawn", drawn), ("drawn that are not equivalent", drawn - same):
        if count:
            low, high = wilson(noticed, count)
            print(f"noticed of those {what}: {noticed / count:.1%} (95 %: {low:.1%} to {high:.1%})")
    for source, m in alive:
        print(f"{source}:{m.line} {m.operator}\n  - {m.before}\n  + {m.after}")


def wilson(successes: int, trials: int, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a rate (Wilson 1927)."""
    rate = successes / trials
    middle = rate + z**2 / (2 * trials)
    spread = z * math.sqrt(rate * (1 - rate) / trials + (z / (2 * trials)) ** 2)
    return (middle - spread) / (1 + z**2 / trials), (middle + spread) / (1 + z**2 / trials)


def chosen(arguments: argparse.Namespace) -> dict[str, list[Mutant]]:
    """The mutants to be tried or reported, by file."""
    if arguments.draw:
        found: dict[str, list[Mutant]] = {}
        for source, mutant in draw(arguments.draw, arguments.seed):
            if not arguments.parts or any(part in source for part in arguments.parts):
                found.setdefault(source, []).append(mutant)
    else:
        sources = [
            source
            for source in TABLE["tests"]
            if not arguments.parts or any(part in source for part in arguments.parts)
        ]
        found = {source: mutants_of(source)[: arguments.sample] for source in sources}
    if unlisted := sorted(set(found) - set(TABLE["tests"])):
        raise SystemExit(f"tests/mutants.toml names no tests of {', '.join(unlisted)}")
    return dict(sorted(found.items()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="only files whose path contains one of these")
    parser.add_argument("--sample", type=int, help="mutants of each file, drawn at random")
    parser.add_argument("--draw", type=int, help="mutants of all files of `whole` together")
    parser.add_argument("--seed", type=int, default=0, help="what --draw is drawn with")
    parser.add_argument("--first", action="store_true", help="only the first file of the tests")
    parser.add_argument("--again", action="store_true", help="try the survivors once more")
    parser.add_argument("--map", action="store_true", help="note which tests run which line")
    parser.add_argument("--report", action="store_true", help="run nothing, print what is known")
    arguments = parser.parse_args()
    if gone := [name for name in TABLE["tests"] if not (ROOT / name).is_file()]:
        raise SystemExit(f"tests/mutants.toml names files that are gone: {', '.join(gone)}")
    BUILD.mkdir(parents=True, exist_ok=True)
    if arguments.map:
        return draw_map()
    mutants = chosen(arguments)
    if not arguments.report:
        copy_tree()
        os.environ.update(ENVIRONMENT)
        os.chdir(TREE)
        sys.path[0] = str(TREE)  # and not tests/
        for source in mutants:
            execute(source, mutants[source], arguments.again, arguments.first)
        confirm(mutants)
    report(mutants)


if __name__ == "__main__":
    main()

"""Plants small faults with cosmic-ray, one at a time, and runs the tests that should notice.

    python tests/mutants.py [part of a path ...] [--sample N]

All files of `mutants.toml` take many hours; a run that was stopped goes on where it was. Mutants
are planted in a copy under build/mutants, the work tree can be used meanwhile. A session belongs to
the text of its file; delete build/mutants to begin anew, as after a change of the tests.
"""

import argparse
import hashlib
import random
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "mutants"
TABLE = tomllib.loads((ROOT / "tests" / "mutants.toml").read_text())
TIMEOUT = 600  # seconds; far more than the slowest of these test files takes


def copy_tree() -> Path:
    """Every file that git knows, new ones included."""
    tree = BUILD / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in listed.splitlines():
        source, target = ROOT / name, tree / name
        if source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, target)
    return tree


def prepare(source: str, sample: int | None) -> tuple[Path, Path]:
    """The configuration and the session of one source file, made if they are new."""
    digest = hashlib.sha256((ROOT / source).read_bytes()).hexdigest()[:8]
    stem = source.replace("/", ".").removesuffix(".py")
    session = BUILD / f"{stem}-{digest}{f'-{sample}' if sample else ''}.sqlite"
    config = session.with_suffix(".toml")
    tests = " ".join(TABLE["tests"][source])
    config.write_text(
        "[cosmic-ray]\n"
        f'module-path = "{source}"\n'
        f"timeout = {TIMEOUT}\n"
        "excluded-modules = []\n"
        f"test-command = '\"{sys.executable}\" -m pytest -x -q -p no:cacheprovider {tests}'\n"
        '[cosmic-ray.distributor]\nname = "local"\n'
    )
    if not session.exists():
        # Tests that fail anyway, or do not exist, would notice everything.
        cosmic_ray("baseline", config)
        cosmic_ray("init", config, session)
        skip(session, sample)
    return config, session


def cosmic_ray(*arguments: object) -> None:
    command = [sys.executable, "-m", "cosmic_ray.cli", *map(str, arguments)]
    subprocess.run(command, cwd=BUILD / "tree", check=True)


def skip(session: Path, sample: int | None) -> None:
    """Leave out the mutants of other operators, and all but a random sample."""
    from cosmic_ray.work_db import WorkDB
    from cosmic_ray.work_item import WorkerOutcome, WorkResult

    wanted = re.compile("|".join(f"core/{name}$" for name in TABLE["operators"]))
    database = WorkDB(str(session), WorkDB.Mode.open)
    kept, left_out = [], []
    for item in database.pending_work_items:
        fits = all(wanted.match(mutation.operator_name) for mutation in item.mutations)
        (kept if fits else left_out).append(item)
    if sample is not None:
        kept.sort(key=lambda item: [(m.start_pos, m.operator_name) for m in item.mutations])
        random.Random(0).shuffle(kept)
        left_out += kept[sample:]
    skipped = WorkResult(output="left out", worker_outcome=WorkerOutcome.SKIPPED)
    database.set_multiple_results([item.job_id for item in left_out], skipped)
    database.close()


def report(session: Path, name: str) -> None:
    """How many were noticed, and those that were not."""
    from cosmic_ray.work_db import WorkDB
    from cosmic_ray.work_item import WorkerOutcome

    database = WorkDB(str(session), WorkDB.Mode.open)
    results = [r for _, r in database.results if r.worker_outcome != WorkerOutcome.SKIPPED]
    waiting = len(database.pending_work_items)
    database.close()
    alive = [result for result in results if not result.is_killed]
    rate = f"{1 - len(alive) / len(results):.0%}" if results else "-"
    print(f"{name}: {len(results)} tried, {len(results) - len(alive)} noticed ({rate})", end="")
    print(f", {waiting} to come" if waiting else "")
    for result in alive:
        print(
            "\n".join(f"    {x}" for x in result.diff.splitlines() if x[:2] in ("@@", "- ", "+ "))
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", help="only files whose path contains one of these")
    parser.add_argument("--sample", type=int, help="mutants of each file, drawn at random")
    parser.add_argument("--report", action="store_true", help="run nothing, print what is known")
    arguments = parser.parse_args()
    sources = [
        s for s in TABLE["tests"] if not arguments.parts or any(p in s for p in arguments.parts)
    ]
    BUILD.mkdir(parents=True, exist_ok=True)
    copy_tree()
    sessions = {source: prepare(source, arguments.sample) for source in sources}
    for source, (config, session) in sessions.items():
        if not arguments.report:
            cosmic_ray("exec", config, session)
        report(session, source)


if __name__ == "__main__":
    main()

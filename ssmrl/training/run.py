"""A run's folder: what is in it, how it is named, and how it is found again."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import math
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import yaml

from ssmrl.training.errors import RunError, first_line, writing

try:
    import fcntl
except ImportError:  # pragma: no cover  # Windows
    fcntl = None  # type: ignore[assignment]

CONFIG, METRICS, CHECKPOINTS = "config.yaml", "metrics.jsonl", "checkpoints"
EPISODES = "episodes.jsonl"
BEST = "best"
CURVE, EVALUATIONS, VIDEOS = "curve.png", "eval.json", "video"
LOCK, TRACEBACK = "lock", "traceback.txt"

RUNS = Path("runs")
"""Where new runs are kept, from the current folder."""

# What decides the state's shape or its bits: a run is resumed only with these unchanged.
_IDENTITY = ("agent", "memory", "env", "seed", "seeds", "init_from", "init_parts")
_IDENTITY_BEFORE: dict[str, Any] = {
    "init_from": None,
    "init_parts": [],
    "env.observe": None,
    "env.observation_noise": 0.0,
    "env.flicker": 0.0,
    "env.observation_delay": 0,
    "env.action_delay": 0,
    "memory.remat": 0,
    "agent.replay_storage": "device",
    "agent.bootstrap_truncated": True,
}  # Of runs older than these settings.
_VERSIONS = (
    *("ssmrl", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "distrax", "flashbax"),
    "numpy",
    *("gymnax", "brax", "gymnasium", "popgym", "mujoco"),
)


# What flock says where a file system does not know it.
_TAIL = 2**16  # Bytes that a line of metrics may have.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL)


class RunFolder:
    """Paths and files of one run. Making the object touches nothing on disk."""

    def __init__(self, path: str | Path):
        self.path = Path(path)

    @property
    def config(self) -> Path:
        return self.path / CONFIG

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINTS

    @property
    def best(self) -> Path:
        """The checkpoint of the best evaluation, with ``keep_best``."""
        return self.path / BEST

    @property
    def metrics(self) -> Path:
        return self.path / METRICS

    @property
    def episodes(self) -> Path:
        """What ended in each iteration, by when it began; see `ssmrl.training.returns`."""
        return self.path / EPISODES

    @property
    def curve(self) -> Path:
        return self.path / CURVE

    @property
    def evaluations(self) -> Path:
        return self.path / EVALUATIONS

    @property
    def traceback(self) -> Path:
        return self.path / TRACEBACK

    @property
    def videos(self) -> Path:
        return self.path / VIDEOS

    def exists(self) -> bool:
        """Whether this folder holds a run."""
        return self.config.is_file()

    def checkpoint_steps(self) -> list[int]:
        """Steps of the checkpoints, oldest first; a half-written one does not count."""
        return sorted(int(p.name) for p in self.checkpoints.glob("*") if p.name.isdigit())

    def create(
        self, config: dict[str, Any], overrides: Iterable[str] = (), imports: Iterable[str] = ()
    ) -> None:
        """Make the folder and write config.yaml: everything needed to repeat the run.

        Args:
            config: plain values.
            overrides: what was written on the command line.
            imports: modules of the user's own that it needs; see `import_modules`.

        Raises:
            RunError: it holds a run, or something else, already; or it cannot be written.
        """
        if self.exists():
            raise RunError(
                f"{self.path} already holds a run: continue it with resume=true, "
                "or choose another run_dir"
            )
        if self.path.exists() and not self._is_vacant():
            raise RunError(f"{self.path} exists and is not a run: choose another run_dir")
        record = {
            "config": config,
            "overrides": list(overrides),
            "imports": list(imports),
            "command": sys.argv,
            "created": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "python": sys.version.split()[0],
            "versions": library_versions(),
            "git": git_commit(),
        }
        with writing(f"to {self.path}"):
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                # Of two processes that begin in one folder at the same moment, one comes first.
                write_new(self.config, yaml.safe_dump(record, sort_keys=False))
            except FileExistsError as error:
                raise RunError(f"{self.path} has just been taken by another run") from error

    def _is_vacant(self) -> bool:
        """Whether nothing is in the folder but what a process killed in `create` may leave."""
        if not self.path.is_dir():
            return False
        left = (LOCK, f".{CONFIG}.")
        return all(path.name.startswith(left) for path in self.path.iterdir())

    @contextlib.contextmanager
    def lock(self, warn: Callable[[str], Any] | None = None) -> Iterator[None]:
        """Be the only process that writes in this folder, which must exist.

        The operating system holds the lock for the process and lets go of it however the process
        ends; the file stays behind and means nothing by itself. Some file systems, of networks
        above all, have no locks: there nothing keeps two processes apart.

        Args:
            warn: called with a line where the file system has no locks.

        Raises:
            RunError: another process has it, or the file cannot be written.
        """
        if fcntl is None:  # pragma: no cover  # Windows
            yield
            return
        path = self.path / LOCK
        with writing(path):
            file = path.open("a+")
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                raise RunError(
                    f"{self.path} is being trained by {file.read().strip() or 'another process'}; "
                    "wait for it or stop it, or choose another run_dir"
                ) from None
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise RunError(f"cannot lock {path}: {error.strerror or error}") from error
                if warn is not None:
                    warn(
                        f"the file system of {self.path} has no locks ({error.strerror}): see to "
                        "it that no other process trains in this folder"
                    )
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
            file.flush()
            yield

    def record(self) -> dict[str, Any]:
        """What `create` wrote.

        Raises:
            RunError: this is not a run's folder, or its config.yaml cannot be read.
        """
        if not self.exists():
            what = f"has no {CONFIG}" if self.path.is_dir() else "does not exist"
            raise RunError(f"{self.path} is not a run: it {what}")
        try:
            return _checked_record(yaml.safe_load(self.config.read_text()))
        # Deep nesting, and dates that are none, are refused by Python rather than by the parser.
        except (yaml.YAMLError, OSError, ValueError, RecursionError) as error:
            reason = first_line(error)
            raise RunError(f"{self.config} is not a run's configuration: {reason}") from error

    def check_resumable(self, config: dict[str, Any]) -> None:
        """Raise RunError, naming the first difference, unless ``config`` continues this run."""
        differences = config_differences(self.record()["config"], config)
        if differences:
            key, old, new = differences[0]
            more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
            raise RunError(f"{self.path} was started with {key}={old}, not {key}={new}{more}")


def _checked_record(record: Any) -> dict[str, Any]:
    """What config.yaml holds, if it has the parts that all who read a run rely on.

    Raises:
        ValueError: it has not.
    """
    if not isinstance(record, dict) or not isinstance(record.get("config"), dict):
        raise ValueError("config is not a mapping")
    for part in ("agent", "memory", "env"):
        named = record["config"].get(part)
        if not isinstance(named, dict) or not isinstance(named.get("name"), str):
            raise ValueError(f"config.{part} has no name")
    for name in ("overrides", "imports"):
        texts = record.get(name, [])
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{name} is not a list of texts")
    return record


def config_differences(old: dict[str, Any], new: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """(key, old, new) for every setting that a resumed run may not change."""

    def settings(config: dict[str, Any]) -> dict[str, Any]:
        there = [name for name in _IDENTITY if name in config]
        flat = {k: v for name in there for k, v in flatten(name, config[name])}
        return flat | {k: v for k, v in _IDENTITY_BEFORE.items() if k not in flat}

    flat_old, flat_new = settings(old), settings(new)
    keys = dict.fromkeys([*flat_new, *flat_old])
    return [
        (key, flat_old.get(key), flat_new.get(key))
        for key in keys
        if flat_old.get(key) != flat_new.get(key)
    ]


def flatten(key: str, value: Any) -> Iterable[tuple[str, Any]]:
    """A nested mapping as ``a.b.c`` and value, one after the other."""
    if isinstance(value, dict) and value:
        for name, item in value.items():
            yield from flatten(f"{key}.{name}", item)
    else:
        yield key, value


def run_label(config: dict[str, Any]) -> str:
    """``<agent>-<memory>-<env>``, the name of a run without its date."""
    env = config["env"]["name"].replace("/", ".")
    return f"{config['agent']['name']}-{config['memory']['name']}-{env}"


def make_run_path(root: Path, label: str) -> Path:
    """A new folder under ``root``: ``<date>-<label>``.

    Raises:
        RunError: it cannot be made.
    """
    return make_folder(root, f"{time.strftime('%Y%m%d-%H%M%S')}-{label}")


def make_folder(root: Path, stem: str) -> Path:
    """A new folder under ``root``, ``stem`` or, where that is taken, ``stem-2`` and so on.

    Raises:
        RunError: it cannot be made.
    """
    names = itertools.chain([stem], (f"{stem}-{count}" for count in itertools.count(2)))
    while True:
        path = root / next(names)
        with writing(f"to {path}"), contextlib.suppress(FileExistsError):
            # Made, not only looked for: jobs on several machines may begin within one second.
            path.mkdir(parents=True)
            return path


def find_resumable(root: Path, config: dict[str, Any], *, strict: bool = True) -> Path | None:
    """The newest run under ``root`` that ``config`` continues; None where no run has its label.

    Args:
        root: the folder of runs.
        config: plain values.
        strict: raise rather than return None where runs of that label have other settings.

    Raises:
        RunError: ``strict``, and runs of that label exist, but each has other settings.
    """
    label = run_label(config)
    same = [path for path in root.glob(f"*-{label}*") if _label_of(path) == label]
    same.sort(key=lambda path: (path / CONFIG).stat().st_mtime_ns, reverse=True)
    for path in same:
        if not config_differences(RunFolder(path).record()["config"], config):
            return path
    if same and strict:
        RunFolder(same[0]).check_resumable(config)
    return None


def _label_of(path: Path) -> str | None:
    """The label of the run in a folder; None where its configuration cannot be read."""
    try:
        return run_label(RunFolder(path).record()["config"])
    except RunError:
        return None


class MetricsFile:
    """``metrics.jsonl``: one JSON object a line, each with ``step``, flushed as it is written.

    Args:
        path: the file; created if absent.
        keep_until: drop the lines after this step first: they belong to iterations that a resumed
            run does again. A last line cut short by a crash goes too.

    Attributes:
        kept: the lines that were there before and have stayed.

    Raises:
        RunError: it cannot be written.
    """

    def __init__(self, path: Path, *, keep_until: int = 0):
        self.path = path
        self.kept = [line for line in read_metrics(path) if line["step"] <= keep_until]
        with writing(path):
            write_atomically(path, "".join(json.dumps(line) + "\n" for line in self.kept))
            self._file: IO[str] = path.open("a")

    def write(self, step: int, values: dict[str, Any]) -> None:
        """Append a line. NaN and infinite numbers, which JSON does not have, become null.

        Raises:
            RunError: the disk is full or the file has gone.
        """
        line = {"step": step, **{name: _json_value(value) for name, value in values.items()}}
        with writing(self.path):
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()

    def close(self) -> None:
        self._file.close()


class NoMetricsFile:
    """In the place of a `MetricsFile` where another process writes it."""

    def __init__(self) -> None:
        self.kept: list[dict[str, Any]] = []

    def write(self, step: int, values: dict[str, Any]) -> None:
        del step, values

    def close(self) -> None:
        pass


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every whole line of a metrics file; none where there is no file.

    A line that a crash or a disk has damaged is left out: one that is no JSON object, has no step,
    or has anything but numbers and lists of them.

    Raises:
        RunError: it cannot be read.
    """
    if not path.is_file():
        return []
    try:
        texts = path.read_bytes().splitlines()
    except OSError as error:
        raise RunError(f"cannot read {path}: {error.strerror or error}") from error
    lines = []
    for text in texts:
        try:
            line = json.loads(text)
        except (ValueError, RecursionError):
            continue
        if isinstance(line, dict) and _is_step(line.get("step")) and _is_numbers(line):
            lines.append(line)
    return lines


def last_metrics(path: Path) -> dict[str, Any]:
    """The last whole line of a metrics file that may be being written; {} where there is none."""
    with contextlib.suppress(OSError, ValueError), path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL))
        # Behind the last line's end is nothing, or a line that is being written.
        whole = file.read().decode(errors="replace").split("\n")[:-1]
        return json.loads(whole[-1]) if whole else {}
    return {}


def read_evaluations(path: Path) -> list[dict[str, Any]]:
    """The records of an eval.json, oldest first; none where there is no file.

    Raises:
        RunError: it holds anything else.
    """
    try:
        records = json.loads(path.read_bytes()) if path.exists() else []
        if not isinstance(records, list) or not all(isinstance(r, dict) for r in records):
            raise ValueError("not a list of records")
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} is not a list of evaluations ({error}); move it away") from error
    return records


def _is_step(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_numbers(value: Any) -> bool:
    if isinstance(value, (dict, list)):
        return all(map(_is_numbers, value.values() if isinstance(value, dict) else value))
    # JSON has whole numbers of any size, and arrays have not.
    return value is None or (isinstance(value, (int, float)) and abs(value) < 1e300)


def _json_value(value: Any) -> Any:
    if isinstance(value, list):
        return [_json_value(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def write_atomically(path: Path, text: str) -> None:
    """Replace a file's contents so that a reader, or a crash, sees the old or the new, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        os.replace(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_new(path: Path, text: str) -> None:
    """Write a file that must not exist yet, so that it is there whole or not at all.

    Raises:
        FileExistsError: it is there.
        OSError: it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_text(text)
        try:
            os.link(temporary, path)
        except FileExistsError:
            raise
        except OSError:
            # A file system without hard links. A crash behind the first line leaves an empty file.
            path.touch(exist_ok=False)
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def library_versions() -> dict[str, str]:
    """Versions of the installed packages that a result depends on."""
    versions = {}
    for name in _VERSIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_commit() -> dict[str, Any] | None:
    """The commit of the source tree this package runs from; None outside a git checkout."""
    here = Path(__file__).resolve().parent

    def git(*arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments], cwd=here, capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()

    try:
        # An installed package may lie inside somebody else's checkout; ours tracks this file.
        git("ls-files", "--error-unmatch", Path(__file__).name)
        changes = git("status", "--porcelain", "--untracked-files=no")
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(changes)}
    except (OSError, subprocess.SubprocessError):
        return None

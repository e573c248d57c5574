"""What happens to disks, clocks and folders: a line that says so, and the last good checkpoint."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from ssmrl.training.checkpoint import _FORMAT, Checkpointer
from ssmrl.training.errors import CheckpointError, CheckpointMismatchError, RunError
from ssmrl.training.loading import load_run
from ssmrl.training.run import RunFolder
from ssmrl.training.run_training import run_training
from tests.training.stub import STUB
from tests.training.stub_train import ROOT
from tests.training.test_checkpoint import bits, make_state, restore, save
from tests.training.test_loop import lines_of, saved_steps

LARGE = {"agent": {"width": 500}, "memory": {"features": 500}}  # 2 MB a checkpoint, and a bit


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 7 MiB, where whoever runs the tests may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("no file systems can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_up(small_disk, make_config, record):
    """Two checkpoints fit, the third does not while both are there; with room it goes on."""
    whole = run_training(make_config(**LARGE), STUB, reporter=record)
    config = make_config(**LARGE, run_dir=str(small_disk / "run"))
    (small_disk / "other").write_bytes(bytes(3_000_000))
    with pytest.raises(CheckpointError) as error:
        run_training(config, STUB, reporter=record)
    line = str(error.value)
    assert line.startswith("cannot write the checkpoint of step ") and "\n" not in line
    last = RunFolder(config.run_dir).checkpoint_steps()[-1]
    assert line.endswith(f": No space left on device; the last whole one is of step {last}")
    assert load_run(config.run_dir, STUB).step == last > 0
    (small_disk / "other").unlink()
    again = make_config(**LARGE, run_dir=config.run_dir, resume=True)
    done = run_training(again, STUB, reporter=record)
    assert bits(done.result.state) == bits(whole.result.state)
    assert lines_of(done.run) == lines_of(whole.run)


def test_a_disk_that_is_read_only(small_disk, make_config, record):
    config = make_config(run_dir=str(small_disk / "run"), total_steps=120)
    run_training(config, STUB, reporter=record)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(RunError) as error:
        run_training(make_config(run_dir=config.run_dir, resume="auto"), STUB, reporter=record)
    assert str(error.value) == f"cannot write {config.run_dir}/lock: Read-only file system"
    with pytest.raises(RunError, match="^cannot write to .*/new: Read-only file system$"):
        run_training(make_config(run_dir=str(small_disk / "new")), STUB, reporter=record)
    assert load_run(config.run_dir, STUB).step == 120


def test_a_clock_that_is_set_back(make_config, record, monkeypatch):
    """By a year, between two processes and within the second."""
    whole = run_training(make_config(run_dir="runs/whole"), STUB, reporter=record)
    run_training(make_config(run_dir=None, total_steps=80), STUB, reporter=record)
    now, asked = time.time, []

    def set_back():
        asked.append(None)
        return now() - 3600 * 24 * 365 - 100 * len(asked)

    monkeypatch.setattr(time, "time", set_back)
    done = run_training(make_config(run_dir=None, resume="auto"), STUB, reporter=record)
    assert asked and "resuming from the checkpoint of step 80" in record.messages
    assert bits(done.result.state) == bits(whole.result.state)
    assert saved_steps(done.run) == [180, 200]


def test_a_folder_that_was_copied(make_config, record):
    """To another machine: another path, other times, the lock's file of the first."""
    whole = run_training(make_config(run_dir="runs/whole"), STUB, reporter=record)
    first = run_training(make_config(run_dir="here/run", total_steps=120), STUB, reporter=record)
    shutil.copytree("here/run", "there/run", copy_function=shutil.copyfile)
    shutil.rmtree("here")
    assert load_run("there/run", STUB).step == first.result.step
    done = run_training(make_config(run_dir="there/run", resume=True), STUB, reporter=record)
    assert bits(done.result.state) == bits(whole.result.state)
    assert lines_of(done.run) == lines_of(whole.run) and not Path("here").exists()


# ------------------------------------------------------------------------------ fuzzed folders


def files_of(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_a_fuzzed_checkpoint_is_right_or_passed_over(tmp_path):
    """Every file of the newest one, cut off, emptied, flipped, swapped or gone, one at a time.

    What comes back is that checkpoint to the bit, or the one before it to the bit.
    """
    draw = random.Random(0)
    save(tmp_path / "c", 1, 2)
    shutil.copytree(tmp_path / "c", tmp_path / "kept")
    expected = {step: bits(make_state(step)) for step in (1, 2)}
    names = [path.relative_to(tmp_path / "c") for path in files_of(tmp_path / "c" / "2")]
    seen = set()
    for name in names:
        original = (tmp_path / "kept" / name).read_bytes()
        flipped = bytearray(original or b"x")
        flipped[draw.randrange(len(flipped))] ^= 1 << draw.randrange(8)
        other = (tmp_path / "kept" / draw.choice(names)).read_bytes()
        for content in (original[: draw.randrange(len(original) or 1)], b"", flipped, other, None):
            path = tmp_path / "c" / name
            path.unlink()
            if content is not None:
                path.write_bytes(content)
            state, step, _ = restore(tmp_path / "c")
            assert bits(state) == expected[step], (name, content)
            seen.add(step)
            path.write_bytes(original)
    assert seen == {1, 2}


def test_links_in_a_checkpoint_lead_nowhere(tmp_path):
    """To a file that is not an array, and to a folder that is not to be deleted with the link."""
    save(tmp_path / "c", 1, 2)
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "file").write_text("precious")
    for path in files_of(tmp_path / "c" / "2" / "state"):
        path.unlink()
        path.symlink_to(secret / "file")
    assert restore(tmp_path / "c")[1] == 1
    shutil.rmtree(tmp_path / "c" / "2")
    (tmp_path / "c" / "2").symlink_to(secret)
    assert restore(tmp_path / "c")[1] == 1
    checkpoints = Checkpointer(tmp_path / "c")
    with pytest.raises(CheckpointError, match="^cannot delete .*/2: ") as error:
        checkpoints.discard_after(1)
    assert "\n" not in str(error.value)
    checkpoints.close()
    assert (secret / "file").read_text() == "precious"


def test_a_checkpoint_of_another_format(tmp_path):
    save(tmp_path / "c", 1)
    (meta,) = (tmp_path / "c" / "1" / "meta").glob("metadata")
    content = json.loads(meta.read_text())
    content["format"] = 99
    content.pop("sum")
    meta.write_text(json.dumps(content))
    with pytest.raises(CheckpointMismatchError) as error:
        restore(tmp_path / "c")
    assert str(error.value) == (
        f"the checkpoint of step 1 in {tmp_path / 'c'} has format 99, and this version of ssmrl "
        f"reads {_FORMAT} at most: load it with the version in the run's config.yaml"
    )


def test_a_run_s_files_are_data_and_never_code(make_config, record):
    """What YAML and pickle could be made to run is refused, in a line."""
    run_training(make_config(total_steps=20), STUB, reporter=record)
    config = Path("runs/test/config.yaml")
    attack = "config: !!python/object/apply:os.system ['touch executed']\n"
    config.write_text(attack)
    with pytest.raises(RunError, match="runs/test/config.yaml is not a run's configuration") as e:
        load_run("runs/test", STUB)
    assert "\n" not in str(e.value) and not Path("executed").exists()
    # Nothing that reads a run could be made to run what it reads.
    sources = [path.read_text() for path in (ROOT / "ssmrl" / "training").rglob("*.py")]
    sources = [text.replace("allow_pickle=False", "") for text in sources]
    for word in ("pickle", "yaml.load(", "marshal", "eval(compile"):
        assert not any(word in text for text in sources), word

"""Checkpoints are exact, whole or absent, and say in one line what is wrong with them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.training import checkpoint
from ssmrl.training.checkpoint import Checkpointer
from ssmrl.training.errors import CheckpointError, CheckpointMismatchError


class Pair(NamedTuple):
    first: jax.Array
    second: jax.Array


def make_state(seed: int = 0, width: int = 4):
    key = jax.random.key(seed)
    return {
        "key": key,
        "keys": jax.random.split(jax.random.key(seed, impl="rbg"), 3),
        "legacy": jax.random.PRNGKey(seed),
        "pair": Pair(jax.random.normal(key, (width, 3)), jnp.arange(width)),
        "complex": jnp.exp(1j * jnp.arange(5.0)).astype(jnp.complex64) + seed,
        "bfloat16": jax.random.normal(key, (7,)).astype(jnp.bfloat16),
        "odd": [jnp.float32(jnp.nan), jnp.float32(-0.0), jnp.float32(jnp.inf)],
        "bool": jnp.array([True, False]),
        "uint8": jnp.arange(6, dtype=jnp.uint8).reshape(2, 3),
        "empty": jnp.zeros((0, 3)),
        "scalar": jnp.int32(seed),
        "flag": jnp.bool_(True),
        "none": None,
    }


def bits(tree) -> list[bytes]:
    data = jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(data)]


def _is_key(x) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def save(directory: Path, *steps: int, keep: int = 2) -> None:
    checkpoints = Checkpointer(directory, keep=keep)
    for step in steps:
        checkpoints.save(step, make_state(step))
    checkpoints.close()


def restore(directory: Path, like=None, **options):
    checkpoints = Checkpointer(directory, read_only=True)
    try:
        return checkpoints.restore(make_state() if like is None else like, **options)
    finally:
        checkpoints.close()


def data_files(step_directory: Path) -> list[Path]:
    """The files that hold array data, largest first.

    Of two that are as large the merged one: it has taken the other's place, which nobody reads.
    """
    files = [path for path in (step_directory / "state").rglob("d/*") if path.is_file()]
    return sorted(files, key=lambda path: (-path.stat().st_size, len(path.parts)))


def test_every_kind_of_leaf_comes_back_bit_for_bit(tmp_path):
    save(tmp_path / "c", 7)
    state, step, _ = restore(tmp_path / "c")
    assert step == 7
    assert jax.tree.structure(state) == jax.tree.structure(make_state(7))
    assert bits(state) == bits(make_state(7))
    # Keys are keys again, of their own implementations: they draw the same numbers.
    for name in ("key", "keys"):
        assert state[name].dtype == make_state()[name].dtype
    assert bits(jax.random.bits(state["keys"][1])) == bits(
        jax.random.bits(make_state(7)["keys"][1])
    )


def test_restores_from_shapes_alone(tmp_path):
    save(tmp_path / "c", 7)
    state, _, _ = restore(tmp_path / "c", jax.eval_shape(make_state))
    assert bits(state) == bits(make_state(7))


def some_of(state):
    """Of every kind: keys, one of a tuple, packed ones, and one that has an array of its own."""
    return {
        "of": (state["keys"], state["pair"].second),
        "own": state["large"],
        "odd": state["odd"][1:],
    }


def make_large(seed):
    return make_state(seed) | {"large": jnp.full(2**18, seed, jnp.float32)}


def test_a_part_is_read_whatever_became_of_the_rest(tmp_path, monkeypatch):
    """The rest may be of another shape, absent, new, or damaged, and larger than memory: unread."""
    sizes, unpack = [], checkpoint._unpack

    def noted(arrays, like, packed):
        sizes.append(sorted(array.size for array in arrays.values())[1:])  # but for the packed ones
        return unpack(arrays, like, packed)

    monkeypatch.setattr(checkpoint, "_unpack", noted)
    path, part = tmp_path / "c", some_of(make_large(7))
    checkpoints = Checkpointer(path)
    # Not to be compressed: nearly all of its file.
    checkpoints.save(7, make_large(7) | {"rest": jax.random.normal(jax.random.key(0), (2**19,))})
    checkpoints.close()
    like = jax.eval_shape(lambda: make_large(0) | {"uint8": jnp.zeros(9), "new": jnp.zeros(3)})
    del like["legacy"]
    for damage in (False, True):
        if damage:
            file = data_files(path / "7")[0]
            with file.open("r+b") as opened:
                opened.seek(file.stat().st_size // 2)
                opened.write(bytes(1000))
            with pytest.raises(CheckpointError, match="is damaged"):
                restore(path, jax.eval_shape(lambda: make_large(0) | {"rest": jnp.ones(2**19)}))
        found, step, _ = restore(path, like, only=some_of)
        assert step == 7 and jax.tree.structure(found) == jax.tree.structure(part)
        assert bits(found) == bits(part) and found["of"][0].dtype == part["of"][0].dtype
        assert sizes[-1] == [2**18]
    with pytest.raises(
        CheckpointMismatchError, match=r"\['uint8'\] is uint8\[2, 3\] there and float"
    ):
        restore(path, like, only=lambda state: state["uint8"])
    with pytest.raises(
        CheckpointMismatchError, match=r"\['new'\] is absent there and float32\[3\]"
    ):
        restore(path, like, only=lambda state: {"a": state["bool"], "b": state["new"]})


@pytest.mark.parametrize("name", ["large", "bool"])  # One alone, and one that is packed.
def test_a_part_that_is_damaged_is_not_read(tmp_path, name):
    path = tmp_path / "c"
    checkpoints = Checkpointer(path)
    checkpoints.save(7, make_large(7))
    checkpoints.close()
    assert restore(path, make_large(0), only=lambda state: state[name])[1] == 7
    for file in data_files(path / "7"):
        file.write_bytes(bytes(file.stat().st_size))
    with pytest.raises(CheckpointError, match="step 7 is damaged"):
        restore(path, make_large(0), only=lambda state: state[name])


@pytest.mark.parametrize("impl", ["threefry2x32", "rbg", "unsafe_rbg"])
def test_words_of_keys_are_known_by_their_dtype(impl):
    key = jax.random.key(0, impl=impl)
    words = checkpoint._stored_struct(str(key.dtype), [5, 2])
    data = jax.random.key_data(jax.random.split(key, (5, 2)))
    assert (words.shape, words.dtype) == (data.shape, data.dtype)


def arrays_of(step_directory: Path) -> list[str]:
    """Names of the arrays that orbax was given."""
    tree = json.loads((step_directory / "state" / "_METADATA").read_text())["tree_metadata"]
    return sorted(entry["key_metadata"][0]["key"] for entry in tree.values())


def test_small_leaves_share_an_array_and_large_ones_are_copied_once_less(tmp_path, monkeypatch):
    def large(size):
        return jnp.arange(size // 4, dtype=jnp.int32)

    limit = checkpoint._PACKED_BELOW
    assert limit == 2**20  # Copying as many takes less than an array of its own costs.
    state = {"a": make_state(1), "b": large(limit), "c": make_state(2), "d": large(limit - 4)}
    checkpoints = Checkpointer(tmp_path / "c")
    checkpoints.save(7, state)
    checkpoints.close()
    place = len(jax.tree.leaves(state["a"]))
    assert arrays_of(tmp_path / "c" / "7") == [f"{place:06d}", "packed"]
    meta = Checkpointer(tmp_path / "c", read_only=True)._meta(7)
    assert meta["format"] == 3
    leaves = jax.tree.leaves(state)
    assert meta["packed"] == [i for i, x in enumerate(leaves) if x.size and i != place]
    # What is packed is read from the checkpoint: a later version may draw the line elsewhere.
    monkeypatch.setattr(checkpoint, "_PACKED_BELOW", 0)
    assert bits(restore(tmp_path / "c", state)[0]) == bits(state)
    checkpoints = Checkpointer(tmp_path / "c")
    checkpoints.save(8, state)
    checkpoints.close()
    assert "packed" not in arrays_of(tmp_path / "c" / "8")
    assert bits(restore(tmp_path / "c", state)[0]) == bits(state)


def test_a_checkpoint_of_before_leaves_were_packed_is_read(tmp_path):
    """One that the version of 28 November 2026 wrote, with an array for every leaf."""
    with zipfile.ZipFile(Path(__file__).parent / "data" / "checkpoint_format_1.zip") as archive:
        archive.extractall(tmp_path / "c")
    expected = {
        "key": jax.random.key(3),
        "float32": jnp.arange(12.0).reshape(4, 3) / 7,
        "complex": (jnp.arange(5.0) + 1j).astype(jnp.complex64),
        "bfloat16": jnp.arange(7.0).astype(jnp.bfloat16),
        "odd": [jnp.float32(jnp.nan), jnp.float32(-0.0)],
        "bool": jnp.array([True, False]),
        "empty": jnp.zeros((0, 3)),
        "scalar": jnp.int32(7),
    }
    assert len(arrays_of(tmp_path / "c" / "7")) == 8
    state, step, metadata = restore(tmp_path / "c", expected)
    assert (step, metadata) == (7, {"note": 7})
    assert bits(state) == bits(expected)
    # Trained on, it stands beside those that are packed.
    checkpoints = Checkpointer(tmp_path / "c")
    checkpoints.save(8, state)
    checkpoints.close()
    assert restore(tmp_path / "c", expected, step=7)[1] == 7
    assert bits(restore(tmp_path / "c", expected)[0]) == bits(expected)


def test_numpy_arrays_come_back_as_such_and_can_be_written_to(tmp_path):
    written = np.arange(3)
    assert checkpoint._from_host(written, written) is written
    frozen = np.arange(3)
    frozen.flags.writeable = False
    assert checkpoint._from_host(frozen, written).flags.writeable


def test_a_restored_array_is_no_view_of_what_was_read():
    """The first iteration is given it to write to."""
    room = np.zeros(4096 + 64, np.uint8)
    begin = -room.ctypes.data % 64  # Where JAX would take it over as it is.
    read = room[begin : begin + 4096].view(np.float32)
    value = checkpoint._from_host(read, jax.ShapeDtypeStruct(read.shape, read.dtype))
    read[:] = 1
    assert not np.asarray(value).any()


def test_parts_that_several_processes_have_are_copied_where_they_are(monkeypatch):
    """A whole that all have to NumPy, as all else; on an accelerator orbax does it."""
    leaf, key = jnp.arange(4.0), jax.random.key(3)
    with monkeypatch.context() as patch:
        patch.setattr(type(leaf), "is_fully_addressable", False)
        wholes = checkpoint._copy(leaf), checkpoint._copy(key)
        patch.setattr(type(leaf), "is_fully_replicated", False)
        part = checkpoint._copy(leaf)
        patch.setattr(jax, "default_backend", lambda: "gpu")
        assert checkpoint._copy(leaf) is leaf
    assert isinstance(wholes[0], np.ndarray) and isinstance(part, jax.Array)
    assert wholes[0].tolist() == part.tolist() == leaf.tolist()
    assert wholes[1].tolist() == jax.random.key_data(key).tolist()
    places = wholes[0].ctypes.data, part.unsafe_buffer_pointer(), leaf.unsafe_buffer_pointer()
    assert len(set(places)) == 3


def test_a_donated_buffer_cannot_change_a_checkpoint_being_written(tmp_path):
    step = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros(2_000_000)
    checkpoints = Checkpointer(tmp_path / "c")
    for i in range(4):
        checkpoints.save(i, {"x": x})
        x = step(x)
    jax.block_until_ready(x)
    checkpoints.close()
    state, _, _ = restore(tmp_path / "c", {"x": x})
    assert (np.asarray(state["x"]) == 3).all()


def test_keeps_the_newest_two_and_their_metadata(tmp_path):
    checkpoints = Checkpointer(tmp_path / "c")
    for step in (1, 2, 3):
        checkpoints.save(step, {"x": jnp.float32(step)}, {"note": step})
    checkpoints.save(3, {"x": jnp.float32(-1)})  # A step that exists is left as it is.
    checkpoints.close()
    reader = Checkpointer(tmp_path / "c", read_only=True)
    assert reader.steps() == [2, 3]
    assert reader.metadata(2) == {"note": 2}
    assert restore(tmp_path / "c", {"x": jnp.float32(0)})[0]["x"] == 3
    assert restore(tmp_path / "c", {"x": jnp.float32(0)}, step=2)[0]["x"] == 2


@pytest.mark.parametrize("how", ["truncate", "empty", "flip", "delete", "no metadata"])
def test_damage_falls_back_to_the_checkpoint_before_with_a_warning(tmp_path, how):
    save(tmp_path / "c", 1, 2)
    newest = tmp_path / "c" / "2"
    target = data_files(newest)[0]
    if how == "truncate":
        os.truncate(target, target.stat().st_size // 2)
    elif how == "empty":
        os.truncate(target, 0)
    elif how == "flip":
        content = bytearray(target.read_bytes())
        content[len(content) // 2] ^= 0xFF
        target.write_bytes(bytes(content))
    elif how == "delete":
        for path in data_files(newest):
            path.unlink()
    else:
        shutil.rmtree(newest / "meta")
    warnings: list[str] = []
    state, step, _ = restore(tmp_path / "c", warn=warnings.append)
    assert step == 1
    assert bits(state) == bits(make_state(1))
    assert len(warnings) == 1
    assert warnings[0].startswith("the checkpoint of step 2 is damaged")
    assert "\n" not in warnings[0]


def test_arrays_that_changed_without_breaking_the_format_are_found_by_their_sum(tmp_path):
    # What tensorstore makes of lost chunks: right shapes, readable, zeros.
    save(tmp_path / "c", 1)
    zeros = jax.tree.map(lambda x: x if _is_key(x) else jnp.zeros_like(x), make_state(1))
    checkpoints = Checkpointer(tmp_path / "other")
    checkpoints.save(1, zeros)
    checkpoints.close()
    shutil.rmtree(tmp_path / "c" / "1" / "state")
    shutil.copytree(tmp_path / "other" / "1" / "state", tmp_path / "c" / "1" / "state")
    with pytest.raises(CheckpointError, match=r"damaged: \['bfloat16'\] does not match its check"):
        restore(tmp_path / "c")


def test_when_all_are_damaged_one_line_says_so(tmp_path):
    save(tmp_path / "c", 1, 2)
    for step in ("1", "2"):
        for path in data_files(tmp_path / "c" / step):
            os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(CheckpointError, match="holds no whole checkpoint: .*step 2.*step 1") as e:
        restore(tmp_path / "c")
    assert "\n" not in str(e.value)


@pytest.mark.parametrize("whole", [1, None])
def test_each_damaged_checkpoint_is_warned_of_before_the_next_is_tried(tmp_path, whole):
    """None is tried behind the last one."""
    for step in (1, 2, 3):
        (tmp_path / "c" / str(step)).mkdir(parents=True)
    checkpoints = Checkpointer(tmp_path / "c", read_only=True)

    def read(step, like, names, is_all):
        assert names == [] and is_all
        if step != whole:
            raise ValueError(f"bad {step}")
        return like, step, {}

    checkpoints._read = read
    checkpoints.steps = lambda: [1, 2, 3]
    warnings: list[str] = []
    if whole:
        assert checkpoints.restore({}, warn=warnings.append)[1] == whole
    else:
        with pytest.raises(CheckpointError, match="step 3 .*bad 3; .*step 2 .*; .*step 1 .*bad 1$"):
            checkpoints.restore({}, warn=warnings.append)
    begin, end = "the checkpoint of step", "; trying the one before it"
    assert warnings == [f"{begin} {i} is damaged: bad {i}{end}" for i in (3, 2)]


@pytest.mark.parametrize("version", [0, 4])
def test_a_format_of_another_version_is_no_damage(tmp_path, version):
    save(tmp_path / "c", 1, 2)
    (path,) = (tmp_path / "c" / "2" / "meta").glob("metadata")
    meta = json.loads(path.read_text()) | {"format": version}
    meta["sum"] = checkpoint._table_sum(meta)
    path.write_text(json.dumps(meta))
    with pytest.raises(CheckpointMismatchError, match=f"step 2 .* has format {version}, and this"):
        restore(tmp_path / "c")


def test_the_sum_of_a_table_knows_no_order_and_not_itself():
    one, same = {"a": 1, "b": 2, "sum": 3}, {"b": 2, "a": 1}
    assert checkpoint._table_sum(one) == checkpoint._table_sum(same)
    assert checkpoint._table_sum(one) != checkpoint._table_sum({"a": 2, "b": 2})


def test_a_damaged_table_is_no_other_architecture(tmp_path):
    """One bit of a leaf's name; of a checkpoint without a sum of the table, all is read still."""
    save(tmp_path / "c", 1, 2)
    (meta,) = (tmp_path / "c" / "2" / "meta").glob("metadata")
    text = meta.read_text()
    meta.write_text(text.replace("scalar", "scalas", 1))
    warnings: list[str] = []
    assert restore(tmp_path / "c", warn=warnings.append)[1] == 1
    assert "its table does not match its checksum" in warnings[0]
    content = json.loads(text)
    content.pop("sum")
    meta.write_text(json.dumps(content))
    assert restore(tmp_path / "c")[1] == 2


@pytest.mark.parametrize("directory", ["absent", "empty"])
def test_no_checkpoint_at_all(tmp_path, directory):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        restore(tmp_path / directory)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty"]
    with pytest.raises(CheckpointError, match="holds no checkpoint of step 3; it has none$"):
        restore(tmp_path / directory, step=3)


def test_newer_checkpoints_are_discarded(tmp_path, monkeypatch):
    checkpoints = Checkpointer(tmp_path / "deep" / "c", keep=4)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, {"x": jnp.float32(step)})
    checkpoints.wait()
    checkpoints.discard_after(2)
    assert checkpoints.steps() == [1, 2]
    with pytest.raises(CheckpointError, match="holds no checkpoint of step 3; it has 1, 2$"):
        checkpoints.restore({"x": jnp.float32(0)}, step=3)

    def refuse(step):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(checkpoints._manager, "delete", refuse)
    with pytest.raises(CheckpointError, match="^cannot delete .*/c/2: Read-only file system$"):
        checkpoints.discard_after(1)
    checkpoints.close()


def test_a_half_written_checkpoint_is_not_one(tmp_path):
    save(tmp_path / "c", 1, 2)
    # What a process killed while writing leaves: orbax renames only what is complete.
    os.rename(tmp_path / "c" / "2", tmp_path / "c" / "2.orbax-checkpoint-tmp")
    assert restore(tmp_path / "c")[1] == 1
    # A reader leaves it alone (somebody may be writing it); the next write tidies it up.
    assert (tmp_path / "c" / "2.orbax-checkpoint-tmp").exists()
    save(tmp_path / "c", 3)
    assert not (tmp_path / "c" / "2.orbax-checkpoint-tmp").exists()


def test_another_architecture_is_told_by_its_first_difference(tmp_path):
    save(tmp_path / "c", 5)
    with pytest.raises(CheckpointMismatchError) as error:
        restore(tmp_path / "c", make_state(width=6))
    message = str(error.value)
    assert "step 5" in message
    assert "['pair'].first is float32[4, 3] there and float32[6, 3] here (and 1 more)" in message
    with pytest.raises(
        CheckpointMismatchError, match=r"\['new'\] is absent there and float32\[2\] here$"
    ):
        restore(tmp_path / "c", {**make_state(), "new": jnp.zeros(2)})
    without = {name: leaf for name, leaf in make_state().items() if name != "scalar"}
    with pytest.raises(
        CheckpointMismatchError, match=r"\['scalar'\] is int32\[\] there and absent"
    ):
        restore(tmp_path / "c", without)
    with pytest.raises(
        CheckpointMismatchError, match=r"\['key'\] is key<fry>\[\] there and key<rbg>"
    ):
        restore(tmp_path / "c", {**make_state(), "key": jax.random.key(0, impl="rbg")})


def test_a_full_disk_names_the_step_and_the_last_whole_checkpoint(tmp_path, monkeypatch):
    checkpoints = Checkpointer(tmp_path / "c", keep=3)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(CheckpointError, match="; there is no earlier one$"):
            checkpoints.save(1, make_state(1))
    for step in (1, 2, 3):
        checkpoints.save(step, make_state(step))
    checkpoints.wait()
    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(CheckpointError) as error:
        checkpoints.save(4, make_state(4))
    message = str(error.value)
    assert "step 4" in message
    assert "No space left on device" in message
    assert "the last whole one is of step 3" in message
    assert "\n" not in message
    checkpoints.close()
    assert restore(tmp_path / "c")[1] == 3


def test_a_failure_in_the_background_is_raised_by_wait(tmp_path, monkeypatch):
    checkpoints = Checkpointer(tmp_path / "c")
    checkpoints.save(1, make_state(1))
    checkpoints.wait()
    checkpoints.save(2, make_state(2))

    def fail():
        raise RuntimeError("wrapped") from OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(checkpoints._manager, "wait_until_finished", fail)
    with pytest.raises(CheckpointError, match="step 2 .*No space left on device"):
        checkpoints.wait()
    monkeypatch.undo()
    checkpoints.close()


def test_a_file_in_place_of_the_directory(tmp_path):
    (tmp_path / "c").write_text("not a directory")
    with pytest.raises(CheckpointError, match="cannot use .* for checkpoints"):
        Checkpointer(tmp_path / "c")
    assert (tmp_path / "c").read_text() == "not a directory"


def test_a_folder_that_orbax_does_not_take(tmp_path, monkeypatch):
    def refuse(*arguments, **options):
        raise ValueError("its layout is another's")

    monkeypatch.setattr(checkpoint.ocp, "CheckpointManager", refuse)
    with pytest.raises(CheckpointError, match="cannot use .* for checkpoints: its layout is anoth"):
        Checkpointer(tmp_path / "c")


def test_the_cause_of_an_error_in_one_line():
    """The system's words, wherever they are; else the first line, as far as a screen shows it."""
    full = os.strerror(errno.ENOSPC)
    assert checkpoint._reason(RuntimeError(f"a page of C++\nDATA_LOSS: {full} [file=x]\n")) == full
    assert checkpoint._reason(RuntimeError(f"\n{'a' * 300}\nmore\n")) == "a" * 200
    assert checkpoint._reason(RuntimeError("short")) == "short"
    assert checkpoint._reason(RuntimeError()) == "RuntimeError"
    assert checkpoint._reason(OSError("no number")) == "no number"


def test_what_orbax_leaves_behind_is_hushed_and_nothing_else(monkeypatch):
    shown = []
    monkeypatch.setattr(sys, "unraisablehook", shown.append)
    checkpoint._hush_closed_event_loops.cache_clear()
    checkpoint._hush_closed_event_loops()
    hook = sys.unraisablehook
    checkpoint._hush_closed_event_loops()
    assert sys.unraisablehook is hook  # Once for the process.
    for text in ("Event loop is closed", "another"):
        hook(SimpleNamespace(exc_value=RuntimeError(text)))
    assert [str(each.exc_value) for each in shown] == ["another"]
    checkpoint._hush_closed_event_loops.cache_clear()

"""Whole-state checkpoints that are either complete or not there at all.

Orbax writes each checkpoint under a temporary name and renames it when it is complete, so that a
process killed while writing leaves nothing that looks like a checkpoint. On top of that every leaf
carries a CRC-32, checked when it is read: tensorstore reads a missing chunk as zeros, and a
checkpoint truncated by a full or failing disk must not become a silently different run.

The state is stored as a flat list of arrays beside a table of their paths, shapes, dtypes and sums.
That keeps any pytree (typed PRNG keys, complex leaves, empty arrays, NamedTuples) out of the file
format, and lets a mismatch be told by the name of the first leaf that differs. Small leaves are put
end to end into one array of bytes: agents have hundreds, and each array costs orbax some 0.4 ms of
processor time, whatever its size.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import json
import logging
import os
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.options import MultiprocessingOptions

from ssmrl.training import hosts
from ssmrl.training.checksum import as_bytes, checksum
from ssmrl.training.errors import CheckpointError, CheckpointMismatchError

_FORMAT = 3
"""What is written: small leaves are packed. Formats 1 and 2 have an array for every leaf; where
several processes each wrote a part, the table has a sum for every part (since 2)."""

_PACKED_BELOW = 2**20
"""Bytes. Copying as many takes a tenth of a millisecond, less than an array of its own costs."""
_PACK = "packed"

_KEY_WORDS = {"key<fry>": 2, "key<rbg>": 4, "key<urbg>": 4}
"""uint32 words of a key by its dtype's name, of JAX's implementations."""


def _is_key(leaf: Any) -> bool:
    return jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _path_leaves(tree: Any) -> list[tuple[str, Any]]:
    flat = jax.tree_util.tree_flatten_with_path(tree)[0]
    return [(jax.tree_util.keystr(path) or "(root)", leaf) for path, leaf in flat]


def _signature(leaf: Any) -> list[Any]:
    """[dtype, shape] of an array or ShapeDtypeStruct; keys by their implementation's name."""
    return [str(leaf.dtype), list(leaf.shape)]


def _describe(signature: list[Any]) -> str:
    return f"{signature[0]}{signature[1]}"


def to_host(tree: Any) -> Any:
    """A NumPy copy of a pytree of arrays; typed keys become their uint32 words.

    A real copy: on CPU ``np.asarray`` aliases the device buffer, which the next iteration is
    donated and overwrites while the checkpoint is still being written in the background.
    """
    return jax.tree.map(
        lambda x: np.array(jax.random.key_data(x) if _is_key(x) else x, copy=True), tree
    )


def _from_host(array: np.ndarray, like: Any) -> jax.Array | np.ndarray:
    if isinstance(like, np.ndarray):  # It stays there, and is written to.
        return array if array.flags.writeable else array.copy()
    # A copy for the same reason as in to_host, in the other direction.
    value = jnp.array(array, copy=True)
    if _is_key(like):
        return jax.random.wrap_key_data(value, impl=_key_impl(like))
    return value


def _key_impl(like: Any) -> Any:
    """The PRNG implementation of a key array or of its ShapeDtypeStruct."""
    impl = []

    # jax.random.key_impl takes arrays and tracers only; tracing turns a struct into the latter.
    def note(key: jax.Array) -> jax.Array:
        impl.append(jax.random.key_impl(key))
        return jax.random.key_data(key)

    jax.eval_shape(note, like)
    return impl[0]


class Checkpointer:
    """The checkpoints of one run: written in the background, read back only if whole.

    Args:
        directory: where checkpoints live, one folder per step; created unless ``read_only``.
        keep: how many of the newest to keep.
        read_only: never create, delete or tidy up anything, so that a run can be evaluated
            while it trains.

    Raises:
        CheckpointError: the directory cannot be created or written.
    """

    def __init__(self, directory: str | Path, *, keep: int = 2, read_only: bool = False):
        self.directory = Path(directory).resolve()
        # Orbax logs every step of a save, and a failure with its traceback; failures are raised
        # here as well, and one line says them better.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self._read_only = read_only
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            create=False,
            read_only=read_only,
            cleanup_tmp_directories=not read_only,
            multiprocessing_options=_processes(None if read_only else self.directory.name),
        )
        self._manager: ocp.CheckpointManager | None = None
        self._writing: int | None = None
        if read_only and not self.directory.is_dir():
            return
        _hush_closed_event_loops()
        try:
            if not read_only:
                # Orbax creates it in the background, and would be late to say why it cannot.
                self.directory.mkdir(parents=True, exist_ok=True)
            self._manager = ocp.CheckpointManager(self.directory, options=options)
        except (OSError, ValueError) as error:
            raise CheckpointError(
                f"cannot use {self.directory} for checkpoints: {_reason(error)}"
            ) from error

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, oldest first."""
        if self._manager is None:
            return []
        return sorted(self._manager.all_steps())

    def save(self, step: int, state: Any, metadata: dict[str, Any] | None = None) -> None:
        """Start writing ``state`` as the checkpoint of ``step``.

        Returns once the state is copied to the host; `wait` says whether the writing succeeded.

        Args:
            step: environment steps taken; an existing checkpoint of that step is left alone.
            state: any pytree of arrays. Of several processes all must call this, and each writes
                the parts that it has of arrays that are split between them.
            metadata: JSON values to store beside it.

        Raises:
            CheckpointError: this write could not start, or the one before it failed.
        """
        assert self._manager is not None, "opened read-only"
        self.wait()
        if step in self.steps():
            return
        leaves = _path_leaves(state)
        stored = [_copy(leaf) for _, leaf in leaves]
        sums = _checksums(stored)
        table = [
            [path, *_signature(leaf), crc] for (path, leaf), crc in zip(leaves, sums, strict=True)
        ]
        packed = [i for i, array in enumerate(stored) if _is_small(array)]
        meta = {"format": _FORMAT, "step": step, "leaves": table, "packed": packed}
        meta["metadata"] = metadata or {}
        meta["sum"] = _table_sum(meta)
        self._writing = step
        try:
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(_arrays(stored, packed)),
                    meta=ocp.args.JsonSave(meta),
                ),
            )
        except Exception as error:
            raise self._write_error(error) from error

    def wait(self) -> None:
        """Block until the last `save` is on disk.

        Raises:
            CheckpointError: it failed; the message names the last checkpoint that is whole.
        """
        if self._writing is None:
            return
        assert self._manager is not None
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._write_error(error) from error
        self._writing = None

    def _write_error(self, error: Exception) -> CheckpointError:
        step, self._writing = self._writing, None
        self._manager.reload()  # type: ignore[union-attr]
        last = [s for s in self.steps() if s != step]
        have = f"the last whole one is of step {last[-1]}" if last else "there is no earlier one"
        return CheckpointError(
            f"cannot write the checkpoint of step {step} under {self.directory}: "
            f"{_reason(error)}; {have}"
        )

    def restore(
        self,
        like: Any,
        *,
        step: int | None = None,
        only: Callable[[Any], Any] | None = None,
        warn: Callable[[str], None] | None = None,
    ) -> tuple[Any, int, dict[str, Any]]:
        """Read the newest whole checkpoint, or the one of ``step``.

        Args:
            like: a pytree of arrays or ShapeDtypeStructs: what the state must look like. Where it
                has NumPy arrays, so has the state.
            step: this checkpoint and no other.
            only: picks what to read, a pytree of leaves of ``like``; None: everything. The rest
                stays on disk: it may be larger than memory, damaged, or another version's.
            warn: called with a line for each damaged checkpoint that was passed over.

        Returns:
            The state or what ``only`` picks of it, its step, and the metadata given to `save`.

        Of several processes that write here all must call this, and read the one that process 0
        finds to be whole.

        Raises:
            CheckpointMismatchError: it was written by an agent of another architecture.
            CheckpointError: there is none, or none is whole.
        """
        names = [path for path, _ in _path_leaves(like)]
        if only is not None:
            path_of = {id(leaf): path for path, leaf in _path_leaves(like)}
            like = only(like)
            names = [path_of[id(leaf)] for leaf in jax.tree.leaves(like)]
        read = functools.partial(self._read, like=like, names=names, is_all=only is None)
        if self._read_only:
            return self._restore(read, step, warn)
        found = self._restore(read, step, warn) if hosts.is_first() else None
        chosen = hosts.from_first(lambda: found and found[1])
        return found or self._restore(read, chosen, warn)

    def _restore(
        self,
        read: Callable[[int], tuple[Any, int, dict[str, Any]]],
        step: int | None,
        warn: Callable[[str], None] | None,
    ) -> tuple[Any, int, dict[str, Any]]:
        candidates = self.steps()[::-1] if step is None else [s for s in self.steps() if s == step]
        if not candidates:
            steps = ", ".join(map(str, self.steps())) or "none"
            wanted = "no checkpoint"
            wanted += "" if step is None else f" of step {step}; it has {steps}"
            raise CheckpointError(f"{self.directory} holds {wanted}")
        problems = []
        for candidate in candidates:
            try:
                return read(candidate)
            except CheckpointMismatchError:
                raise
            except Exception as error:
                problems.append(f"the checkpoint of step {candidate} is damaged: {_reason(error)}")
                if warn is not None and candidate != candidates[-1]:
                    warn(f"{problems[-1]}; trying the one before it")
        raise CheckpointError(f"{self.directory} holds no whole checkpoint: {'; '.join(problems)}")

    def discard_after(self, step: int) -> None:
        """Delete checkpoints newer than ``step``: damaged ones that a resume has passed over.

        Left in place they would stand where the resumed run must write its own.

        Raises:
            CheckpointError: one cannot be deleted.
        """
        assert self._manager is not None
        for newer in [s for s in self.steps() if s > step]:
            try:
                self._manager.delete(newer)
            except Exception as error:
                where = self.directory / str(newer)
                raise CheckpointError(f"cannot delete {where}: {_reason(error)}") from error

    def metadata(self, step: int) -> dict[str, Any]:
        """The metadata given to `save` for this step, without reading the state."""
        return self._meta(step)["metadata"]

    def _meta(self, step: int) -> dict[str, Any]:
        with self._reading() as manager:
            args = ocp.args.Composite(meta=ocp.args.JsonRestore())
            return manager.restore(step, args=args)["meta"]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[ocp.CheckpointManager]:
        """A manager for this process alone: with that of several all would have to read at once."""
        assert self._manager is not None
        if self._read_only or hosts.count() == 1:
            yield self._manager
            return
        options = ocp.CheckpointManagerOptions(
            create=False, read_only=True, multiprocessing_options=_processes(None)
        )
        with ocp.CheckpointManager(self.directory, options=options) as manager:
            yield manager

    def _read(
        self, step: int, like: Any, names: list[str], is_all: bool
    ) -> tuple[Any, int, dict[str, Any]]:
        """Read leaves of a checkpoint.

        Args:
            step: its.
            like: the leaves as `restore` is given them.
            names: their paths in the state.
            is_all: whether the state has no others.
        """
        meta = self._meta(step)
        # Older checkpoints have none. First, or a damaged table would pass for another agent's.
        if meta.get("sum", _table_sum(meta)) != _table_sum(meta):
            raise ValueError("its table does not match its checksum")
        if not 1 <= meta["format"] <= _FORMAT:
            raise CheckpointMismatchError(
                f"the checkpoint of step {step} in {self.directory} has format {meta['format']}, "
                f"and this version of ssmrl reads {_FORMAT} at most: load it with the version in "
                "the run's config.yaml"
            )
        table, packed = meta["leaves"], meta.get("packed", [])
        targets = jax.tree.leaves(like)
        self._check_table(step, table, dict(zip(names, targets, strict=True)), is_all)
        rows = {row[0]: i for i, row in enumerate(table)}
        chosen = [rows[name] for name in names]
        stored = [_stored_struct(*row[1:3]) for row in table]
        with self._reading() as manager:
            args: Any = ocp.args.StandardRestore(_arrays(stored, packed))
            if not is_all:
                args = _partial(_arrays(stored, packed, only=chosen))
            arrays = manager.restore(step, args=ocp.args.Composite(state=args))["state"]
        found, leaves = _unpack(arrays, stored, packed), []
        for target, i in zip(targets, chosen, strict=True):
            if not _is_whole(found[i], table[i][3]):
                raise ValueError(f"{table[i][0]} does not match its checksum")
            leaves.append(_from_host(found[i], target))
        return jax.tree.unflatten(jax.tree.structure(like), leaves), step, meta["metadata"]

    def _check_table(
        self, step: int, table: list[list[Any]], like: dict[str, Any], is_all: bool
    ) -> None:
        """Raise CheckpointMismatchError unless a checkpoint has leaves such as these.

        Args:
            step: its.
            table: its.
            like: the leaves that are wanted, by path.
            is_all: whether it may have no others.
        """
        have = {row[0]: row[1:3] for row in table if is_all or row[0] in like}
        want = {path: _signature(leaf) for path, leaf in like.items()}
        if have == want and (not is_all or list(have) == list(want)):
            return
        differences = [
            f"{path} is {_describe(have[path]) if path in have else 'absent'} there and "
            f"{_describe(want[path]) if path in want else 'absent'} here"
            for path in dict.fromkeys([*want, *have])
            if have.get(path) != want.get(path)
        ] or ["the order of its leaves differs"]
        more = f" (and {len(differences) - 1} more)" if len(differences) > 1 else ""
        raise CheckpointMismatchError(
            f"the checkpoint of step {step} in {self.directory} is of another architecture: "
            f"{differences[0]}{more}"
        )

    def close(self) -> None:
        """Finish the writing under way; call it on every way out.

        Raises:
            CheckpointError: the last write failed.
        """
        try:
            self.wait()
        finally:
            if self._manager is not None:
                self._manager.close()
                self._manager = None


def _processes(name: str | None) -> MultiprocessingOptions:
    """Who takes part in what a manager does.

    Args:
        name: of what all processes write; None: this process reads, alone.
    """
    if hosts.count() == 1:
        return MultiprocessingOptions()
    if name is None:
        here = jax.process_index()
        return MultiprocessingOptions(primary_host=here, active_processes={here})
    # All of them by name: orbax's threads then wait for each other at the coordinator, and not in
    # programs of the devices, which the main thread has others for.
    everybody = set(range(hosts.count()))
    return MultiprocessingOptions(
        active_processes=everybody, barrier_sync_key_prefix=f"ssmrl-{name}"
    )


def _copy(leaf: Any) -> np.ndarray | jax.Array:
    """What is written of an array: a NumPy copy, or of one that is split between processes itself.

    The latter's parts are copied too where they would be aliases otherwise; see `to_host`.
    """
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable:
        return to_host(leaf)
    words = jax.random.key_data(leaf) if _is_key(leaf) else leaf
    if words.is_fully_replicated:
        return np.array(words.addressable_data(0), copy=True)
    if jax.default_backend() != "cpu":
        return words  # Orbax brings it to the host before it returns.
    parts = [jnp.array(shard.data, copy=True) for shard in words.addressable_shards]
    return jax.make_array_from_single_device_arrays(words.shape, words.sharding, parts)


def _is_small(array: np.ndarray | jax.Array) -> bool:
    return isinstance(array, np.ndarray) and 0 < array.nbytes < _PACKED_BELOW


def _arrays(
    leaves: list[Any], packed: list[int], only: Iterable[int] | None = None
) -> dict[str, Any]:
    """What orbax is given of the leaves: an array each, and one of the bytes of those packed.

    Args:
        leaves: of these. Those without elements, which orbax refuses, the table alone brings back.
        packed: which of them are packed, in this order; all of them in NumPy.
        only: those that are wanted, if not all are.
    """
    wanted = set(range(len(leaves)) if only is None else only)
    arrays = {f"{i:06d}": leaves[i] for i in sorted(wanted - set(packed)) if leaves[i].size}
    if wanted & set(packed):
        arrays[_PACK] = np.concatenate([as_bytes(leaves[i]) for i in packed])
    return arrays


def _unpack(arrays: dict[str, Any], like: list[np.ndarray], packed: list[int]) -> list[np.ndarray]:
    """The leaves again, of the shapes and dtypes of ``like``: itself where nothing was read."""
    leaves = [np.asarray(arrays.get(f"{i:06d}", empty)) for i, empty in enumerate(like)]
    rest: Any = arrays.get(_PACK)
    for i in packed if _PACK in arrays else ():
        own, rest = np.split(rest, [like[i].nbytes])
        leaves[i] = own.view(like[i].dtype).reshape(like[i].shape)
    return leaves


def _checksums(stored: list[np.ndarray | jax.Array]) -> list[int | list[Any]]:
    """Of each array its CRC-32; or, of one that is split, ``[bounds, CRC-32]`` of every part."""
    own: dict[str, list[Any]] = {
        str(i): [
            [_bounds(shard.index, x.shape), checksum(np.asarray(shard.data))]
            for shard in x.addressable_shards
            if shard.replica_id == 0
        ]
        for i, x in enumerate(stored)
        if isinstance(x, jax.Array)
    }
    everybodys = hosts.exchange(own)
    return [
        [part for parts in everybodys for part in parts[str(i)]]
        if isinstance(x, jax.Array)
        else checksum(x)
        for i, x in enumerate(stored)
    ]


def _bounds(index: tuple[slice, ...], shape: tuple[int, ...]) -> list[list[int]]:
    return [list(part.indices(size)[:2]) for part, size in zip(index, shape, strict=True)]


def _is_whole(array: np.ndarray, sums: int | list[Any]) -> bool:
    """Whether what was read is what `_checksums` was told."""
    if isinstance(sums, int):
        return checksum(array) == sums
    return all(
        checksum(array[tuple(slice(*ends) for ends in bounds)]) == crc for bounds, crc in sums
    )


def _table_sum(meta: dict[str, Any]) -> int:
    """CRC-32 of everything beside the arrays but itself."""
    rest = {name: value for name, value in meta.items() if name != "sum"}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def _stored_struct(dtype: str, shape: list[int]) -> np.ndarray:
    """A host array as is stored of a leaf with this signature, of keys their words.

    It takes no memory: a leaf that is not wanted may be larger than there is.
    """
    if words := _KEY_WORDS.get(dtype):
        dtype, shape = "uint32", [*shape, words]
    return np.broadcast_to(np.zeros((), jnp.dtype(dtype)), shape)


def _partial(arrays: dict[str, np.ndarray]) -> Any:
    """Orbax's arguments for reading some of the arrays that were stored together."""
    restore_args = ocp.checkpoint_utils.construct_restore_args(arrays)
    return ocp.args.PyTreeRestore(arrays, restore_args=restore_args, partial_restore=True)


@functools.cache
def _hush_closed_event_loops() -> None:
    """Keep orbax's loose ends off the user's terminal, once for the process.

    When one array of a checkpoint fails, orbax raises and closes its event loop while tensorstore
    still answers for the others; each answer then prints a traceback of its own under the one line
    that says what happened.
    """
    shown = sys.unraisablehook

    def hook(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            shown(unraisable)

    sys.unraisablehook = hook


def _reason(error: BaseException) -> str:
    """The cause in one line: the operating system's words where there are any."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.strerror:
            return seen.strerror
        seen = seen.__cause__ or seen.__context__
    text = str(error)
    # Tensorstore writes from C++, and buries the system's words in pages of its own.
    for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EIO):
        if os.strerror(code) in text:
            return os.strerror(code)
    lines = text.strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__

"""Devices: spreading a run over those of one process, and how to compile for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ssmrl.training import hosts
from ssmrl.training.agent import ShardedAgent
from ssmrl.training.checksum import checksum
from ssmrl.training.errors import RunError

AXIS = "data"
"""Of the mesh: environments and what they gave are split over it; parameters are everywhere."""


def device_count(count: int | str) -> int:
    """How many devices ``devices=`` asks for: the number, or with "all" those that there are."""
    return len(jax.devices()) if count == "all" else int(count)


def make_mesh(count: int | str) -> Mesh | None:
    """A 1-D mesh ``data`` over the first ``count`` devices, or "all"; None for one device.

    Raises:
        RunError: there are fewer devices; or more, of several processes, which all take part.
    """
    available, count = jax.devices(), device_count(count)
    if count > len(available):
        raise RunError(f"devices={count}, but JAX sees {len(available)} ({available[0].platform})")
    if count < len(available) and jax.process_count() > 1:
        raise RunError(
            f"devices={count}, but this run has {jax.process_count()} processes with "
            f"{len(available)} devices together, and all of them take part: give devices=all"
        )
    if count == 1:
        return None
    # make_mesh's own default is Explicit axes, which would put shardings in every type.
    return jax.make_mesh((count,), (AXIS,), devices=available[:count], axis_types=(AxisType.Auto,))


def split_environments(mesh: Mesh, tree: Any, num_envs: int) -> Any:
    """Shardings of a pytree: leaves `[num_envs, ...]` are split over the mesh, others everywhere.

    Raises:
        ValueError: the devices do not divide `num_envs`.
    """
    check_divides(mesh, "num_envs", num_envs)
    shared, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(AXIS))
    return jax.tree.map(lambda x: split if x.ndim and x.shape[0] == num_envs else shared, tree)


def check_divides(mesh: Mesh, name: str, number: int) -> None:
    """Raise ValueError unless a mesh's devices divide what ``agent.<name>`` is."""
    if number % mesh.size:
        raise ValueError(f"agent.{name} = {number} must be divisible by {mesh.size} devices")


def split_batch(tree: Any, axis: int) -> Any:
    """Inside a program for several devices: let each have an equal part of the arrays' ``axis``.

    XLA finds by itself where everything else goes, but for what is drawn at random from all
    environments: without being told it might compute all of that everywhere. For one device, or
    where seeds are split instead, nothing happens, nor to arrays that the devices do not divide.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return tree
    place = PartitionSpec(*[None] * axis, AXIS)

    def split(x: jax.Array) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, place) if x.shape[axis] % mesh.size == 0 else x

    return jax.tree.map(split, tree)


def device_memory() -> int | None:
    """Bytes that the first device has: its allocator's limit, or a CPU's RAM; None if unknown."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    return host_memory() if device.platform == "cpu" else None


def host_memory() -> int | None:
    """Bytes of RAM; None if unknown."""
    if not hasattr(os, "sysconf"):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def place(tree: Any, where: Any) -> Any:
    """A pytree of arrays on the devices of a mesh; takes over its buffers.

    Args:
        tree: arrays of this process. Of several processes each has the same, or nearly: where
            another processor rounds otherwise, that of process 0 counts.
        where: a pytree like it of shardings; each process keeps its own parts.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, where, donate=True)
    leaves, structure = jax.tree.flatten(tree)
    wholes = _as_first_has_them([_words(x) for x in leaves])
    placed = []
    for x, whole, sharding in zip(leaves, wholes, jax.tree.leaves(where), strict=True):
        parts = jax.make_array_from_callback(whole.shape, sharding, _copies_of_parts(whole))
        is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
        impl = jax.random.key_impl(x) if is_key else None
        placed.append(jax.random.wrap_key_data(parts, impl=impl) if is_key else parts)
    return jax.tree.unflatten(structure, placed)


def _copies_of_parts(whole: np.ndarray) -> Callable[[Any], np.ndarray]:
    # Copies: on a CPU a part would be a view of an array that is given away.
    return lambda index: whole[index].copy()


def _words(x: jax.Array) -> np.ndarray:
    is_key = jnp.issubdtype(x.dtype, jax.dtypes.prng_key)
    return np.asarray(jax.random.key_data(x) if is_key else x)


def _as_first_has_them(arrays: list[np.ndarray]) -> list[np.ndarray]:
    """Arrays of process 0 in all of them; only those that differ somewhere are sent."""
    first, *others = hosts.exchange([checksum(x) for x in arrays])
    return [
        multihost_utils.broadcast_one_to_all(x) if any(o[i] != first[i] for o in others) else x
        for i, x in enumerate(arrays)
    ]


def queues_programs() -> bool:
    """Whether programs may be called before those that were called earlier have ended.

    Not over several processes on CPUs. There programs of one device run side by side, and would
    mix up their messages; and XLA lets calls and programs share a pool of threads: with 32 programs
    under way a device's next call waits for the first of them to end, in the very thread that
    another device's program needs, for which the first one waits.
    """
    return jax.default_backend() != "cpu" or jax.process_count() == 1


def compiler_options() -> dict[str, Any]:
    """Options of XLA for programs that do the work of a run.

    On CPUs LLVM's first level of optimisation instead of its third: XLA has then optimised already,
    so that programs are as fast and give the same bits, and compile in 70 to 80 % of the time.
    """
    return {"xla_backend_optimization_level": 1} if jax.default_backend() == "cpu" else {}


def state_shardings(agent: Any, mesh: Mesh, state: Any, seeds: int) -> Any:
    """Where each leaf of the state lives: seeds over the mesh if they divide it, else as the
    agent says.

    Args:
        agent: the agent.
        mesh: from `make_mesh`.
        state: arrays or ShapeDtypeStructs; leaves ``[seeds, ...]`` when ``seeds > 1``.
        seeds: seeds trained side by side.

    Raises:
        RunError: neither way is open.
    """
    if seeds > 1 and seeds % mesh.size == 0:
        return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec(AXIS)), state)
    if seeds == 1 and isinstance(agent, ShardedAgent):
        try:
            return agent.shardings(mesh, state)
        except ValueError as error:
            raise RunError(f"devices={mesh.size}: {error}") from error
    raise RunError(
        f"devices={mesh.size}: this agent cannot split one seed over devices; "
        f"give seeds as a multiple of {mesh.size}"
    )

"""Devices: spreading a run over those of one process, and how to compile for them."""

from __future__ import annotations

import os
from typing import Any

import jax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ssmrl.training.agent import ShardedAgent
from ssmrl.training.errors import RunError


def make_mesh(count: int) -> Mesh | None:
    """A 1-D mesh ``data`` over the first ``count`` devices; None for one device.

    Raises:
        RunError: there are fewer devices.
    """
    available = jax.devices()
    if count > len(available):
        raise RunError(f"devices={count}, but JAX sees {len(available)} ({available[0].platform})")
    if count == 1:
        return None
    # make_mesh's own default is Explicit axes, which would put shardings in every type.
    return jax.make_mesh(
        (count,), ("data",), devices=available[:count], axis_types=(AxisType.Auto,)
    )


def device_memory() -> int | None:
    """Bytes that the first device has: its allocator's limit, or a CPU's RAM; None if unknown."""
    device = jax.local_devices()[0]
    stats = device.memory_stats() or {}
    if "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    if device.platform == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return None


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
        return jax.tree.map(lambda _: NamedSharding(mesh, PartitionSpec("data")), state)
    if seeds == 1 and isinstance(agent, ShardedAgent):
        return agent.shardings(mesh, state)
    raise RunError(
        f"devices={mesh.size}: this agent cannot split one seed over devices; "
        f"give seeds as a multiple of {mesh.size}"
    )

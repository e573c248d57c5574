"""What is spread over devices and how, where there is only one; `tests/agents/test_devices.py` has
several."""

from __future__ import annotations

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from ssmrl.training import devices, hosts
from ssmrl.training.agent import ShardedAgent
from ssmrl.training.errors import RunError

SPLIT, SHARED = PartitionSpec("data"), PartitionSpec()


def mesh_of(count: int) -> Mesh:
    """One device under several numbers: for what asks a mesh and computes nothing."""
    return Mesh(np.array(jax.devices()[:1] * count), ("data",))


def specs(tree):
    return jax.tree.map(lambda where: where.spec, tree)


@pytest.fixture
def machine(monkeypatch):
    """So many devices, of so many processes; what `jax.make_mesh` is asked for."""
    asked, real = [], jax.devices

    def make(count, processes=1):
        found = [SimpleNamespace(platform=f"kind{i}") for i in range(count)]
        monkeypatch.setattr(jax, "devices", real)
        mesh = mesh_of(1)
        monkeypatch.setattr(jax, "devices", lambda: found)
        monkeypatch.setattr(jax, "process_count", lambda: processes)
        monkeypatch.setattr(
            jax, "make_mesh", lambda *what, **how: asked.append((what, how)) or mesh
        )
        return asked, found

    return make


def test_a_mesh_is_of_the_first_devices(machine):
    asked, found = machine(4)
    assert devices.make_mesh(1) is None and asked == []
    for count, expected in ((2, 2), ("3", 3), (4, 4), ("all", 4)):
        assert devices.device_count(count) == expected
        devices.make_mesh(count)
        how = {"devices": found[:expected], "axis_types": (AxisType.Auto,)}
        assert asked.pop() == (((expected,), ("data",)), how)
    with pytest.raises(RunError, match=r"^devices=5, but JAX sees 4 \(kind0\)$"):
        devices.make_mesh(5)
    machine(1)
    assert devices.make_mesh("all") is None


def test_all_devices_of_several_processes_take_part(machine):
    asked, _ = machine(4, processes=2)
    devices.make_mesh(4)
    assert len(asked) == 1
    with pytest.raises(RunError, match="^devices=3, but this run has 2 processes with 4 devices"):
        devices.make_mesh(3)


def test_environments_are_split_by_the_first_axis():
    tree = {"env": np.zeros((4, 3)), "time": np.zeros((3, 4)), "key": np.zeros(())}
    where = devices.split_environments(mesh_of(2), tree, 4)
    assert specs(where) == {"env": SPLIT, "time": SHARED, "key": SHARED}
    with pytest.raises(ValueError, match=r"^agent\.num_envs = 5 must be divisible by 2 devices$"):
        devices.split_environments(mesh_of(2), tree, 5)


def test_batches_are_split_where_the_devices_divide_them(monkeypatch):
    asked = []
    monkeypatch.setattr(
        jax.lax, "with_sharding_constraint", lambda x, where: asked.append((x.shape, where)) or x
    )
    batch = {"even": jnp.zeros((3, 4)), "odd": jnp.zeros((4, 3))}
    assert devices.split_batch(batch, 1) is batch and asked == []
    mesh = SimpleNamespace(empty=False, size=2)
    monkeypatch.setattr(jax.sharding, "get_abstract_mesh", lambda: mesh)
    devices.split_batch(batch, 1)
    assert asked == [((3, 4), PartitionSpec(None, "data"))]
    devices.split_batch(batch, 0)
    assert asked[1:] == [((4, 3), PartitionSpec("data"))]


def test_memory_is_what_the_first_device_says(monkeypatch):
    monkeypatch.setattr(devices, "host_memory", lambda: 7)

    def memory(stats, platform):
        found = [SimpleNamespace(memory_stats=lambda: stats, platform=platform), None]
        monkeypatch.setattr(jax, "local_devices", lambda: found)
        return devices.device_memory()

    assert memory({"bytes_limit": 5}, "gpu") == memory({"bytes_limit": 5}, "cpu") == 5
    assert memory({}, "gpu") is None and memory(None, "gpu") is None
    assert memory(None, "cpu") == 7
    monkeypatch.undo()
    monkeypatch.delattr(devices.os, "sysconf")
    assert devices.host_memory() is None


@pytest.mark.parametrize(("first", "sent"), [([0, 0], []), ([0, 1], [[5, 6]])])
def test_several_processes_place_what_process_0_has(monkeypatch, first, sent):
    """Sent is what differs somewhere, here the second array; keys come back as keys."""
    tree = [jnp.arange(3), jnp.array([5, 6]), jax.random.key(3, impl="rbg")]
    where = [SingleDeviceSharding(jax.devices()[0])] * 3
    broadcast = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    other = np.array([*first, 0])
    monkeypatch.setattr(hosts, "exchange", lambda own: [own, (np.array(own) + other).tolist()])
    monkeypatch.setattr(
        devices.multihost_utils,
        "broadcast_one_to_all",
        lambda x: broadcast.append(x.tolist()) or x,
    )
    placed = devices.place(tree, where)
    assert broadcast == sent
    for x, y in zip(tree, placed, strict=True):
        assert x.dtype == y.dtype and bool((x == y).all())


def test_one_process_hands_its_arrays_over(monkeypatch):
    asked = []
    monkeypatch.setattr(jax, "device_put", lambda *what, **how: asked.append((what, how)))
    devices.place("tree", "where")
    assert asked == [(("tree", "where"), {"donate": True})]


def test_programs_are_queued_but_on_the_cpus_of_several_processes(monkeypatch):
    for backend, processes, queues in (
        ("cpu", 1, True),
        ("cpu", 2, False),
        ("gpu", 1, True),
        ("gpu", 2, True),
    ):
        monkeypatch.setattr(jax, "default_backend", lambda backend=backend: backend)
        monkeypatch.setattr(jax, "process_count", lambda processes=processes: processes)
        assert devices.queues_programs() is queues
        options = {"xla_backend_optimization_level": 1} if backend == "cpu" else {}
        assert devices.compiler_options() == options


class Splitting:
    """An agent that can split one seed, by its six environments."""

    def shardings(self, mesh, state):
        return devices.split_environments(mesh, state, 6)


def test_seeds_are_split_if_they_divide_and_else_what_the_agent_says():
    state, mesh = {"x": np.zeros((6, 2))}, mesh_of(2)
    assert isinstance(Splitting(), ShardedAgent)
    for agent in (object(), Splitting()):
        for seeds in (2, 4):
            assert specs(devices.state_shardings(agent, mesh, state, seeds)) == {"x": SPLIT}
        with pytest.raises(RunError, match="^devices=2: this agent cannot split one seed .* of 2$"):
            devices.state_shardings(agent, mesh, state, 3)
    assert specs(devices.state_shardings(Splitting(), mesh, {"x": np.zeros(3)}, 1)) == {"x": SHARED}
    # One seed has no axis of seeds, whatever divides it.
    one = devices.state_shardings(Splitting(), mesh_of(1), {"x": np.zeros(3)}, 1)
    assert one == {"x": NamedSharding(mesh_of(1), SHARED)}
    with pytest.raises(RunError, match="^devices=2: this agent cannot split one seed over devices"):
        devices.state_shardings(object(), mesh, state, 1)
    with pytest.raises(RunError, match=r"^devices=4: agent\.num_envs = 6 must be divisible by 4"):
        devices.state_shardings(Splitting(), mesh_of(4), state, 1)

"""The replay buffer's observations on the host: the same training, bit for bit, and its resume."""

from dataclasses import replace
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ssmrl
from ssmrl.agents import make_agent
from ssmrl.agents.dreamer import DreamerConfig, dreamer
from ssmrl.agents.dreamer.replay import HostedObservations, Replay, Windows, exchange
from ssmrl.envs import EpisodeStatistics, make_vector
from ssmrl.memory import memory_config
from ssmrl.training import fit
from ssmrl.training.agent import HostStoringAgent
from ssmrl.training.checkpoint import Checkpointer
from ssmrl.training.config import EnvConfig, LoggerConfig, TrainConfig
from ssmrl.training.errors import RunError
from ssmrl.training.host_storage import (
    HostStoredIteration,
    stores_on_host,
    with_empty_storage,
)
from ssmrl.training.loading import load_run
from ssmrl.training.loop import abstract_state, check_placement, init_state, over_seeds
from ssmrl.training.run import read_metrics
from tests.agents.dreamer.test_replay import TERMINATED, TRUNCATED, steps_of
from tests.api.small import DREAMER, Drift
from tests.compiling import quick_jit
from tests.training.test_checkpoint import bits

ITERATION = 3 * 8
# Of each environment 16 steps: the ring is written over from the third iteration on.
OPTIONS = DREAMER | {"replay_capacity": 48}
CONTEXTS = {"replay_context": True, "replay_online": True}


def learned(state):
    """Everything but the observations."""
    ring = state.replay.steps
    rest = ring.experience.replace(observation=None, final_observation=None)
    replay = state.replay.replace(steps=ring.replace(experience=rest), hosted=None)
    return state.replace(replay=replay)


def check_same(host, device):
    """One state with the observations in NumPy and one without, otherwise the same bits."""
    ring, hosted = device.replay.steps.experience, host.replay.hosted
    assert all(type(x) is np.ndarray for x in jax.tree.leaves(hosted))
    assert device.replay.hosted is None and jax.tree.leaves(hosted)[0].any()
    assert bits(hosted) == bits((ring.observation, ring.final_observation))
    assert bits(learned(host)) == bits(learned(device))


def test_it_is_the_same_training_and_its_resume_is_exact(tmp_path):
    def make(storage):
        config = DreamerConfig(**OPTIONS, **CONTEXTS, replay_storage=storage)
        env = EpisodeStatistics(make_vector(Drift(), 3))
        return make_agent(config, memory_config("gru")(layers=1), env, total_steps=1000)

    on_device, on_host = make("device"), make("host")
    device, host = init_state(on_device, 0, 1), init_state(on_host, 0, 1)
    assert bits(learned(host)) == bits(learned(device))
    iterations = jax.jit(on_device.iteration), HostStoredIteration(on_host, host, 1, over_seeds)
    saved = None
    for number in range(5):
        (device, expected), (host, metrics) = iterations[0](device), iterations[1](host)
        assert bits(metrics) == bits(expected)
        if number == 2:
            saved = Checkpointer(tmp_path)
            saved.save(72, host)  # in the background, while the ring is written to
    assert metrics["updates"] > 0
    check_same(host, device)

    saved.wait()
    restored, _, _ = saved.restore(abstract_state(on_host, 0, 1))
    saved.close()
    assert bits(restored) != bits(host)
    for _ in range(2):
        restored, _ = iterations[1](restored)
    assert bits(restored) == bits(host)


def train(storage, iterations, *, folder, resume=False):
    """A training's last state, and its metrics without those of clocks."""
    run = ssmrl.train(
        agent="dreamer",
        memory="gru",
        env=Drift(),
        agent_options=OPTIONS | {"replay_storage": storage},
        memory_options={"layers": 1},
        run_dir=folder,
        seeds=2,
        resume=resume,
        progress=False,
        total_steps=iterations * ITERATION,
    )
    loaded = load_run(run.path, run._components)
    lines = read_metrics(loaded.run.metrics)
    return loaded.state, [
        {k: v for k, v in line.items() if not k.startswith("time/")} for line in lines
    ]


@pytest.mark.slow
def test_runs_of_seeds_side_by_side_are_the_same_and_go_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    device, device_lines = train("device", 4, folder="device")
    train("host", 3, folder="host")
    host, lines = train("host", 4, folder="host", resume=True)
    assert lines == device_lines and np.all(lines[-1]["updates"])
    check_same(host, device)


def test_what_the_host_hands_out_is_what_the_device_reads():
    """Windows around the ring's end, episodes that end in all places, leaves of several shapes."""
    config = DreamerConfig(
        num_envs=6,
        rollout_length=8,
        batch_size=5,
        batch_length=8,
        replay_capacity=72,
        train_ratio=80 / 48,  # two updates
    )
    on_device, on_host = Replay(config), Replay(replace(config, replay_storage="host"))
    both = [np.concatenate([x, x[::-1]]) for x in (TERMINATED, TRUNCATED)]
    steps = steps_of(*both)
    first = jax.tree.map(lambda x: x[0], steps)
    states = [on_device.init(first), on_host.init(first)]
    assert states[1].steps.experience.observation is None
    shapes = (steps.observation, steps.final_observation)
    hosted = HostedObservations(
        *jax.tree.map(lambda x: np.zeros((6, 12, *x.shape[2:]), x.dtype), shapes)
    )
    windows = Windows(
        jnp.array([[0, 0, 1, 3, 3], [5, 4, 2, 1, 0]]), jnp.array([[4, 8, 6, 5, 7], [8, 4, 5, 7, 6]])
    )
    for part in (slice(0, 8), slice(8, 16)):
        new = jax.tree.map(lambda x, part=part: x[part], steps)
        states = [r.add(s, new) for r, s in zip((on_device, on_host), states, strict=True)]
        request = jax.device_get(quick_jit(on_host.request)(states[1], new, windows))
        block = exchange(hosted, request)
    for update in range(2):
        chosen = jax.tree.map(lambda x, update=update: x[update], windows)
        observation = jax.tree.map(lambda x, update=update: x[update], block)
        _, expected = on_device.read(states[0], chosen)
        _, got = on_host.read(states[1], chosen, observation)
        assert bits(got) == bits(expected)
        assert jax.tree.structure(got) == jax.tree.structure(expected)


@cache
def pictures(storage, capacity=1_000_000):
    env = EpisodeStatistics(make_vector("memory_maze/9x9", 16))
    config = DreamerConfig(size="nano", replay_capacity=capacity, replay_storage=storage)
    return make_agent(config, memory_config("s5")(), env, total_steps=1000)


def test_it_says_what_it_takes_and_where():
    """24,576 bytes a step are pictures, 11 are not. 16 updates, or 8 with rollouts of 16 steps, of
    16 windows of 64 pictures come in an iteration."""
    agent = pictures("host", 20_000)
    # 12,288 bytes a picture, two a step; of 8 updates on 16 windows of 64 steps; and two seeds.
    assert agent.config.updates_per_iteration == 8
    assert agent.training_notes(2) == [
        "replay buffer: 40,000 steps, 938 MiB on the host, 430 KiB on the device, "
        "and 192 MiB there for the windows of an iteration"
    ]
    hosted = agent.storage_shapes()
    assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(hosted)) == 20_000 * 24_576


def test_what_does_not_fit_is_refused_before_it_is_made(monkeypatch):
    agent = pictures("host")
    monkeypatch.setattr(dreamer, "device_memory", lambda: 16 * 2**30)
    monkeypatch.setattr(dreamer, "host_memory", lambda: 46 * 2**30)
    assert "22.9 GiB on the host" in agent.training_notes(1)[0]
    monkeypatch.setattr(dreamer, "host_memory", lambda: 45 * 2**30)
    message = (
        r"^agent\.replay_capacity=1000000 takes 22\.9 GiB of the host's memory, and as much again "
        r"while a checkpoint is written; it has 45 GiB; set agent\.replay_capacity=655360$"
    )
    with pytest.raises(ValueError, match=message):
        agent.training_notes(1)
    monkeypatch.setattr(dreamer, "host_memory", lambda: 2**20)
    with pytest.raises(ValueError, match="1048576|set fewer seeds$"):
        agent.training_notes(1)
    # The device has no room for the windows, with the rest or alone.
    for megabytes in (1, 100):
        monkeypatch.setattr(dreamer, "device_memory", lambda size=megabytes: size * 2**20)
        message = r"takes 10\.5 MiB and 96 MiB for the windows of an .*; set fewer seeds$"
        with pytest.raises(ValueError, match=message):
            agent.training_notes(1)


def test_where_it_begins_to_be_too_large_for_the_host(monkeypatch):
    """24,576 bytes a step, twice while a checkpoint is written; two seeds."""

    def notes(available):
        monkeypatch.setattr(dreamer, "device_memory", lambda: None)
        monkeypatch.setattr(dreamer, "host_memory", lambda: available)
        return pictures("host", 20_000).training_notes(2)

    assert notes(None) and notes(2 * 2 * 20_000 * 24_576)
    with pytest.raises(ValueError, match=r"takes 938 MiB .*; set agent\.replay_capacity=13333$"):
        notes(2 * 2 * 20_000 * 24_576 - 1)
    for capacity, way in ((1024, r"agent\.replay_capacity=1024"), (1023, "fewer seeds")):
        with pytest.raises(ValueError, match=f"; set {way}$"):
            notes(3 * 2 * capacity * 24_576)


def test_the_host_is_named_where_an_accelerator_has_no_room(monkeypatch):
    monkeypatch.setattr(dreamer, "device_memory", lambda: 16 * 2**30)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    agent = pictures("device")
    message = r"set agent\.replay_capacity=349368 or agent\.replay_storage=host$"
    with pytest.raises(ValueError, match=message):
        agent.training_notes(1)


def test_what_the_host_has_does_not_count_as_the_devices(monkeypatch):
    state = abstract_state(pictures("host"), 0, 1)
    assert state.replay.hosted.observation.shape == (16, 62_500, 64, 64, 3)
    monkeypatch.setattr(fit, "device_memory", lambda: 2**30)
    fit.check_size(state)
    with pytest.raises(RunError, match=r"the largest part is .*experience\.observation"):
        fit.check_size(abstract_state(pictures("device"), 0, 1))


def test_several_devices_are_refused():
    agent = pictures("host", 20_000)
    config = TrainConfig(
        agent=agent.config, memory=memory_config("s5")(), env=EnvConfig(), logger=LoggerConfig()
    )
    check_placement(agent, config, is_host=False)
    message = r"^devices=2: .*agent\.replay_storage=host.*leave devices=1$"
    with pytest.raises(RunError, match=message):
        check_placement(agent, replace(config, devices=2), is_host=False)


def test_other_agents_are_left_alone():
    agent = pictures("device", 20_000)
    assert isinstance(agent, HostStoringAgent) and not stores_on_host(agent)
    assert not stores_on_host(object())
    state = jax.eval_shape(agent.init, jax.random.key(0))
    assert with_empty_storage(agent, state, 1) is state


def test_one_program_is_refused():
    agent = pictures("host", 20_000)
    with pytest.raises(ValueError, match=r"replay_storage=host: .*HostStoredIteration"):
        jax.eval_shape(agent.iteration, jax.eval_shape(agent.init, jax.random.key(0)))


def test_a_host_with_too_little_memory_is_told_in_a_line():
    """Where no training was refused before: a run from a larger machine that is read here."""
    agent = pictures("host", 16 * 10**9)
    with pytest.raises(RunError, match=r"^the host has no room .*: Unable to allocate .*TiB"):
        with_empty_storage(agent, None, 1)

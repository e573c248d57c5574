"""An iteration around the host, with an agent of a few numbers; a real one's is in
`tests/agents/dreamer/test_host_replay.py`."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.training import loop
from ssmrl.training.checkpoint import Checkpointer
from ssmrl.training.host_storage import HostStoredIteration, with_empty_storage
from ssmrl.training.loading import build_agent
from ssmrl.training.loop import over_seeds
from tests.training.stub import STUB, StubAgent


class Diary:
    """Writes a number down in each iteration, and is told the sum of all that it wrote.

    What it asks the host for is the place and the number, what it is given the sum, twice.
    """

    stores_on_host = True

    def init(self, number):
        return {"number": number, "page": jnp.int32(0), "sum": jnp.zeros(()), "diary": None}

    def storage_shapes(self):
        return jax.ShapeDtypeStruct((3,), jnp.float32)

    def storage_of(self, state):
        return state["diary"]

    def with_storage(self, state, storage):
        return state | {"diary": storage}

    def before_exchange(self, state):
        number = state["number"] + 1
        return state | {"number": number}, {"page": state["page"]}, (state["page"], number)

    def exchange(self, storage, request):
        page, number = request
        storage[page] = number
        return np.array([storage.sum(), storage.sum()], np.float32)

    def block_shapes(self, request):
        page, number = request
        assert page.shape == number.shape == ()
        return jax.ShapeDtypeStruct((2,), number.dtype)

    def after_exchange(self, state, carried, block):
        return state | {"page": carried["page"] + 1, "sum": block.sum() / 2}, {
            "twice": jnp.asarray(block)
        }


def begin(seeds):
    agent, numbers = Diary(), jnp.arange(10.0, 10.0 + seeds)
    state = over_seeds(agent.init)(numbers) if seeds > 1 else agent.init(numbers[0])
    return agent, with_empty_storage(agent, state, seeds)


@pytest.mark.parametrize("seeds", [1, 2, 3])
def test_what_the_host_keeps_and_hands_out(seeds):
    """Of each seed its own; one seed has no axis."""
    agent, state = begin(seeds)
    diary = state["diary"]
    iteration = HostStoredIteration(agent, state, seeds, over_seeds)
    rest, metrics = iteration.shapes_after
    assert rest.keys() == state.keys() and metrics["twice"].shape == ((seeds, 2), (2,))[seeds == 1]
    for _ in range(2):
        before, (state, metrics) = state, iteration(state)
        assert before["sum"].is_deleted()  # Its memory is the new one's.
    assert state["diary"] is diary
    rows = [[11.0 + i, 12.0 + i, 0.0] for i in range(seeds)]
    sums = np.array([sum(row) for row in rows])
    if seeds == 1:
        rows, sums = rows[0], sums[0]
    assert diary.tolist() == rows
    np.testing.assert_array_equal(state["sum"], sums)
    np.testing.assert_array_equal(metrics["twice"], np.stack([sums, sums], -1))


def test_without_compiling_it_is_the_same():
    agent, state = begin(1)
    with jax.disable_jit():
        iteration = HostStoredIteration(agent, state, 1, over_seeds)
        assert iteration._before == agent.before_exchange
        state, _ = iteration(state)
    assert state["sum"] == 11


def test_the_loop_tells_what_compiling_around_the_host_took(make_config, record, monkeypatch):
    class Both(Diary, StubAgent):
        """With all else that the loop may ask of an agent."""

    config = make_config()
    agent = Both(config.agent, config.memory, build_agent(STUB, config)[1], False)
    checkpoints = Checkpointer("checkpoints", read_only=True)
    around = loop._Loop(agent, config, checkpoints, None, record, None, None)
    clock, check = [100.0], loop._check_same_types

    def slow_check(before, after):
        clock[0] += 3.0
        check(before, after)

    monkeypatch.setattr(loop.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(loop, "_check_same_types", slow_check)
    _, state = begin(1)
    iteration, same, seconds = around._compile(state)
    assert seconds == 3 and same is state
    assert iteration(state)[0]["sum"] == 11

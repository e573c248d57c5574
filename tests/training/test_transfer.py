"""Beginning with another run's parameters, and which spaces fit each other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from ssmrl.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple
from ssmrl.training import transfer
from ssmrl.training.errors import RunError, UsageError
from ssmrl.training.loading import build_agent
from ssmrl.training.loop import init_state
from ssmrl.training.run_evaluation import check_spaces
from ssmrl.training.run_training import run_training
from ssmrl.training.transfer import covers, make_transfer, same_kind, same_scale
from tests.training.stub import STUB, StubAgent
from tests.training.test_checkpoint import bits


@pytest.fixture
def trained(make_config, record):
    """runs/source: seeds 5 and 6 after five iterations."""
    config = make_config(total_steps=100, seed=5, seeds=2, run_dir="runs/source")
    return run_training(config, STUB, reporter=record).result.state


def begin(make_config, record, **changes):
    """The parameters with which each seed of a run enters its first iteration."""
    started = []
    iteration = StubAgent.iteration

    def note(self, state):
        jax.debug.callback(lambda w, e: started.append((w, e)), state["w"], state["eigenvalues"])
        return iteration(self, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StubAgent, "iteration", note)
        run_training(make_config(total_steps=20, **changes), STUB, reporter=record)
        jax.effects_barrier()
    return started


def test_everything_is_taken_over(make_config, record, trained):
    started = begin(make_config, record, init_from="runs/source", agent={"lr": 0.5})
    # One seed begins with the first of two.
    np.testing.assert_array_equal(started[0][0], trained["w"][0])
    np.testing.assert_array_equal(started[0][1], trained["eigenvalues"][0])
    assert (
        "from runs/source, step 100: loaded: model (24 numbers), memory (3 numbers); "
        "from scratch: optimiser" in record.messages
    )


def test_a_part_is_taken_over_and_the_rest_begins_anew(make_config, record, trained):
    changes = {"init_from": "runs/source", "init_parts": ["memory"], "seeds": 3, "seed": 9}
    started = begin(make_config, record, **changes, agent={"width": 4})
    config = make_config(**changes, agent={"width": 4})
    fresh = init_state(build_agent(STUB, config)[0], 9, 3)
    # The order of callbacks is nobody's: compared as sets of rows. Seeds 0, 1, 0 of the source.
    got = sorted(e.tobytes() for _, e in started)
    assert got == sorted(np.asarray(trained["eigenvalues"][i]).tobytes() for i in (0, 1, 0))
    got = sorted(w.tobytes() for w, _ in started)
    assert got == sorted(np.asarray(w).tobytes() for w in fresh["w"])


def test_a_resumed_run_goes_on_from_its_own_checkpoint(make_config, record, trained):
    options = {"init_from": "runs/source", "run_dir": "runs/new"}
    whole = run_training(make_config(**options | {"run_dir": "runs/whole"}), STUB, reporter=record)
    run_training(make_config(**options, total_steps=120), STUB, reporter=record)
    parts = run_training(make_config(**options, resume=True), STUB, reporter=record)
    assert bits(parts.result.state) == bits(whole.result.state)
    with pytest.raises(RunError, match="was started with init_from=runs/source, not init_from=Non"):
        run_training(make_config(run_dir="runs/new", resume=True), STUB, reporter=record)


REFUSED = {
    "a part that does not exist": (
        {"init_parts": ["memry"]},
        "init_from=runs/source: the agent has no part 'memry'; its parts are model, memory",
    ),
    "another shape": (
        {"agent": {"width": 4}},
        "init_from=runs/source: model does not fit: ['w'] is float32[3, 8] there and "
        "float32[4, 8] here; choose what to load with init_parts",
    ),
    "other spaces": (
        {"env": {"name": "stub/wide"}},
        "init_from=runs/source: its observations are Box(size=3), and here they are Box(size=4); "
        "load what does not depend on them, e.g. init_parts=[memory]",
    ),
    "no run": ({"init_from": "runs/none"}, "runs/none is not a run: it does not exist"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_does_not_fit_is_one_line_and_nothing_is_begun(make_config, record, trained, case):
    changes, message = REFUSED[case]
    config = make_config(**{"init_from": "runs/source", "run_dir": "runs/new", **changes})
    with pytest.raises(RunError) as error:
        run_training(config, STUB, reporter=record)
    assert str(error.value) == message
    assert not Path("runs/new").exists()


def test_an_agent_without_parts_is_named(make_config):
    agent = build_agent(STUB, make_config())[0]
    plain = SimpleNamespace()
    with pytest.raises(RunError, match="init_from=there: this agent has no parts to hand over"):
        make_transfer(agent, {}, 1, plain, {}, 1, [], "there")


def test_the_first_of_several_that_do_not_fit_is_named():
    def agent(*widths):
        model = {f"layer{i}": np.zeros(width, np.float32) for i, width in enumerate(widths)}
        return SimpleNamespace(parts=lambda _: {"model": model}, with_parts=lambda s, _: s)

    with pytest.raises(RunError) as error:
        make_transfer(agent(1, 2, 3, 4), {}, 1, agent(1, 5, 6), {}, 1, [], "there")
    assert str(error.value) == (
        "init_from=there: model does not fit: ['layer1'] is float32[2] there and float32[5] here "
        "(and 2 more); choose what to load with init_parts"
    )
    with pytest.raises(RunError, match=r"\['layer1'\] .* here \(and 1 more\); choose"):
        make_transfer(agent(1, 2, 3), {}, 1, agent(1, 5, 6), {}, 1, [], "there")
    with pytest.raises(RunError, match=r"\['layer2'\] is float32\[3\] there and absent here;"):
        make_transfer(agent(1, 2, 3), {}, 1, agent(1, 2), {}, 1, [], "there")


@pytest.mark.parametrize("source", [1, 2, 3])
@pytest.mark.parametrize("target", [1, 2, 3])
def test_seeds_begin_with_seeds_from_the_first_on_and_again(source, target):
    """One seed has no axis of seeds."""
    rows = np.arange(source * 2).reshape(source, 2)
    got = transfer._for_seeds({"x": rows if source > 1 else rows[0]}, source, target)["x"]
    expected = [[2 * (i % source), 2 * (i % source) + 1] for i in range(target)]
    assert got.tolist() == (expected if target > 1 else expected[0])


# ------------------------------------------------------------------------------------- spaces


def box(low, high, shape=(3,), dtype=np.float32):
    return Box(low, high, shape, dtype)


NESTED = Dict({"a": box(-1, 1), "b": Tuple([Discrete(3), box(0, 255, (4, 4), np.uint8)])})
WIDER = Dict({"b": Tuple([Discrete(3), box(0, 255, (4, 4), np.uint8)]), "a": box(-9, 9)})
BRIGHTER = Dict({"a": box(-1, 1), "b": Tuple([Discrete(3), box(0, 15, (4, 4), np.uint8)])})


@pytest.mark.parametrize(
    ("a", "b", "kind", "scale"),
    [
        (box(-8, 8), box(-9, 9), True, True),
        (box(-8, np.inf), box(-np.inf, 9), True, True),
        (box(0, 255, (4, 4), np.uint8), box(0, 1, (4, 4), np.uint8), True, False),
        (box(0, 1, (4, 4, 1)), box(-1, 1, (4, 4, 1)), True, False),
        (box(0, 1, (4, 4)), box(-1, 1, (4, 4)), True, False),
        (box(-1, 1), box(-1, 1, (4,)), False, False),
        (box(0, 1), box(0, 1, (3,), np.int32), False, False),
        (Discrete(3), Discrete(3), True, True),
        (Discrete(3), Discrete(4), False, False),
        (Discrete(3), MultiDiscrete([3]), False, False),
        (MultiDiscrete([3, 2]), MultiDiscrete([2, 3]), False, False),
        (NESTED, WIDER, True, True),
        (NESTED, BRIGHTER, True, False),
        (NESTED, Dict({"a": box(-1, 1)}), False, False),
        (Tuple([Discrete(2)]), Dict({"a": Discrete(2)}), False, False),
    ],
)
def test_spaces_of_one_kind_and_of_one_scale(a, b, kind, scale):
    assert same_kind(a, b) is same_kind(b, a) is kind
    assert same_scale(a, b) is same_scale(b, a) is scale


def test_bounds_that_cover_others():
    assert covers(box(-2, 2), box(-1, 2))
    assert not covers(box(-1, 2), box(-2, 2))
    assert not covers(box(-1, 1), box(-np.inf, 1))
    assert covers(WIDER, NESTED)
    assert not covers(NESTED, WIDER)


def test_where_a_trained_policy_can_be_evaluated():
    def venv(observation, action):
        return SimpleNamespace(observation_space=observation, action_space=action)

    trained = venv(box(-8, 8), box(-2, 2, (1,)))
    check_spaces(venv(box(-9, 9), box(-2, 2, (1,))), trained, "faster", {})
    check_spaces(venv(box(-8, 8), box(-3, 3, (1,))), trained, "stronger", {})
    with pytest.raises(UsageError) as error:
        check_spaces(venv(box(-8, 8), box(-1, 1, (1,))), trained, "weaker", {})
    assert str(error.value) == (
        "env=weaker: its actions are Box(-1.0, 1.0, (1,), float32), and the run's reach beyond "
        "them: Box(-2.0, 2.0, (1,), float32)"
    )
    with pytest.raises(UsageError) as error:
        check_spaces(venv(box(-8, 8, (4,)), box(-2, 2, (1,))), trained, "other", {"size": 3})
    message = str(error.value)
    assert message.startswith("env=other: its observations are Box(-8.0, 8.0, (4,)")
    assert message.endswith("; the run was trained with env.kwargs={'size': 3}")

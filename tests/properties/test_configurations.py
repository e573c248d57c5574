"""Settings of any kind: each is a configuration, or one clear answer, and never a traceback."""

from __future__ import annotations

import dataclasses
from functools import cache
from typing import Any

import jax
import pytest
from hypothesis import strategies as st

from ssmrl.experiment import COMPONENTS, CONFIGS
from ssmrl.memory import list_memories, make_memory
from ssmrl.training.cli import compose_training
from ssmrl.training.config import EnvConfig, TrainConfig, check_ranges
from ssmrl.training.errors import RunError
from ssmrl.training.fit import refusals
from ssmrl.training.loading import as_dict, build_agent, config_from_dict
from ssmrl.training.loop import abstract_state
from tests.properties.checking import check_examples, for_all
from tests.training.stub import STUB, StubConfig, StubMemoryConfig
from tests.training.stub_train import CONFIGS as STUB_CONFIGS

NUMBERS = [
    "-1",
    "0",
    "1",
    "2",
    "3",
    "7",
    "0.5",
    "-0.0",
    "1e-9",
    "1e400",
    "nan",
    "-inf",
    "2147483648",
]
WORDS = ["", "null", "true", "none", "word", "'", "''", "é", "a=b", "${oc.env:HOME}", "${x}", "???"]
CONTAINERS = ["[]", "[1]", "[0,-1]", "[[1]]", "{}", "{a:1}", "[a", "{", "1,2", "[null]", "range(3)"]
VALUES = st.sampled_from(NUMBERS * 2 + WORDS + CONTAINERS) | st.text(max_size=4)
ENVS = ["popgym/repeat_previous_easy", "popgym/pendulum_noisy_easy", "bsuite/memory_len"]


@cache
def leaves(agent: str, memory: str) -> list[str]:
    """Every key of a configuration."""
    config = compose_training([f"agent={agent}", f"memory={memory}", f"env={ENVS[0]}"], *OURS)
    return [key for key, _ in _flat("", config)]


OURS = (COMPONENTS, CONFIGS)


def _flat(prefix: str, value: Any):
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            yield from _flat(f"{prefix}{field.name}.", inner)
        else:
            yield f"{prefix}{field.name}", inner


@st.composite
def command_lines(draw):
    agent = draw(st.sampled_from(COMPONENTS.list_agents()))
    memory = draw(st.sampled_from(COMPONENTS.list_memories()))
    choices = [f"agent={agent}", f"memory={memory}", f"env={draw(st.sampled_from(ENVS))}"]
    keys = draw(st.lists(st.sampled_from(leaves(agent, memory)), min_size=1, max_size=3))
    return choices + [f"{key}={draw(VALUES)}" for key in keys]


def in_a_line_or_two(error: RunError) -> None:
    lines = str(error).splitlines()
    assert lines and lines[0] and len(lines) <= 2, str(error)


def composed(arguments: list[str]) -> TrainConfig | None:
    try:
        return compose_training(arguments, *OURS)
    except RunError as error:
        in_a_line_or_two(error)
        return None


def check_command_line(arguments: list[str], components, config_dir) -> None:
    try:
        config = compose_training(arguments, components, config_dir)
    except RunError as error:
        in_a_line_or_two(error)
        return
    check_ranges(config)
    # What is written down is what comes back.
    assert as_dict(config_from_dict(as_dict(config), components, "run")) == as_dict(config)


STUB_KEYS = [f.name for f in dataclasses.fields(TrainConfig)] + [
    *(f"env.{f.name}" for f in dataclasses.fields(EnvConfig)),
    *(f"agent.{f.name}" for f in dataclasses.fields(StubConfig)),
    *(f"memory.{f.name}" for f in dataclasses.fields(StubMemoryConfig)),
]
SETTINGS = st.tuples(st.sampled_from(STUB_KEYS), VALUES).map("=".join)


@for_all(arguments=st.lists(SETTINGS, min_size=1, max_size=2), quick=30, slow=1000)
def test_a_command_line_is_a_configuration_or_a_line(arguments):
    """Every setting of a run, around the smallest agent: composing a real one takes a second."""
    check_command_line(arguments, STUB, STUB_CONFIGS)


@pytest.mark.slow
def test_a_command_line_of_any_agent_and_memory_is_a_configuration_or_a_line():
    check_examples(
        lambda arguments: check_command_line(arguments, *OURS), 300, arguments=command_lines()
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(40))
def test_a_configuration_is_an_agent_or_a_line(seed):
    """Traced as far as the first state: nothing is compiled."""
    import random

    draw = random.Random(seed)
    agent, memory = (draw.choice(x()) for x in (COMPONENTS.list_agents, COMPONENTS.list_memories))
    choices = [f"agent={agent}", f"memory={memory}", f"env={draw.choice(ENVS)}"]
    keys = [k for k in leaves(agent, memory) if k.startswith(("agent.", "memory."))]
    numbers = ["1", "2", "3", "7", "0.5", "0", "[]", "[3]", "true", "null"]
    for _ in range(60):
        config = composed([*choices, f"{draw.choice(keys)}={draw.choice(numbers)}"])
        if config is None:
            continue
        try:
            made, _ = build_agent(COMPONENTS, config)
            abstract_state(made, 0, 1)
        except RunError as error:
            in_a_line_or_two(error)


SMALL_VALUES = [0, 1, 2, 3, 5, 6, 7, -1, 0.5, 1.0, True, False]


@st.composite
def memories(draw):
    """A name, and options with any small values that their types allow."""
    name = draw(st.sampled_from(list_memories()))
    config = COMPONENTS.memory_config(name)
    options = {"features": 4}
    for field in draw(st.lists(st.sampled_from(dataclasses.fields(config)), max_size=3)):
        kinds = {"int": int, "float": float, "bool": bool}
        kind = kinds.get(str(getattr(field.type, "__name__", field.type)))
        if field.name != "name" and kind is not None:
            fits = [v for v in SMALL_VALUES if type(v) is kind]
            options[field.name] = draw(st.sampled_from(fits))
    return name, options


@pytest.mark.slow
def test_options_of_a_memory_make_one_or_are_a_line():
    check_examples(check_options, 300, chosen=memories())


def check_options(chosen) -> None:
    name, options = chosen
    try:
        with refusals(memory=name):
            check_ranges(dataclasses.replace(COMPONENTS.memory_config(name)(), **options))
            memory = make_memory(name, **options)
            carry = jax.eval_shape(lambda: memory.initialize_carry((2,)))
            x = jax.ShapeDtypeStruct((3, 2, 5), "float32")
            reset = jax.ShapeDtypeStruct((3, 2), bool)
            params = jax.eval_shape(memory.init, jax.random.key(0), carry, x, reset)
            last, y = jax.eval_shape(memory.apply, params, carry, x, reset)
    except RunError as error:
        in_a_line_or_two(error)
        return
    assert y.shape == (3, 2, options["features"])
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), last) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), carry
    )

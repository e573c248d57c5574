"""Memories by name, their options, a user's own memory, and what is said about mistakes."""

import dataclasses
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ValidationError

from ssmrl.memory import (
    Memory,
    ScanMemory,
    UnknownMemoryError,
    list_memories,
    make_memory,
    memory_config,
    register,
    registry,
)
from tests.memory.cases import B, F, T, case, close, draw, every_memory, quick_jit
from tests.programs import batched_decompositions
from tests.unchecked import unchecked


def test_the_names_are_sorted():
    names = list_memories()
    assert {"gru", "none", "s5"} <= set(names)
    assert names == sorted(names)


@every_memory
def test_several_start_together_without_batches_of_decompositions(name):
    """Two such batches at once wait forever on a CPU with two threads."""
    memory = make_memory(name, features=8, layers=2)
    x, reset = jnp.zeros((1, 1, F)), jnp.ones((1, 1), bool)

    def init(key):
        return memory.init(key, memory.initialize_carry((1,)), x, reset)

    assert batched_decompositions(jax.vmap(init), jax.random.split(jax.random.key(0), 3)) == []


@every_memory
def test_a_config_is_the_defaults(name):
    """`make_memory` with a config's fields is `make_memory` without any."""
    config = memory_config(name)()
    assert config.name == name and config.layers >= 1
    assert make_memory(**dataclasses.asdict(config)) == make_memory(name)


@every_memory
def test_a_config_works_with_omegaconf(name):
    config = OmegaConf.structured(memory_config(name))
    config.features, config.layers = 16, 3
    memory = make_memory(**OmegaConf.to_container(config))
    assert memory == make_memory(name, features=16, layers=3)
    assert len(memory.layers) == 3 and memory.features == 16
    with pytest.raises(ConfigAttributeError):
        config.feature = 3
    with pytest.raises(ValidationError):
        config.features = "wide"


@every_memory
def test_every_option_is_documented(name):
    """The memory's class says what each of its own options means."""
    module = type(make_memory(name).layers[0].memory)
    ours = [base for base in module.__mro__ if base.__module__.startswith("ssmrl.")]
    text = "".join(base.__doc__ or "" for base in ours)
    options = {field.name for field in dataclasses.fields(module)} - {"parent", "name", "features"}
    assert not [option for option in options if option not in text]


def test_options_reach_the_memory():
    memory = make_memory("s5", features=6, layers=1, state_size=8, glu="half", norm="pre")
    assert memory.layers[0].glu == "half" and memory.layers[0].norm == "pre"
    assert memory.initialize_carry((2,))[0].shape == (2, 4)
    assert memory.layers[0].memory.state_size == 8


# A user's memory.


class Leaky(ScanMemory):
    """A leaky sum, as a user would write it.

    Attributes:
        keep: what is left of the sum after a step.
    """

    keep: float = 0.9

    def initialize_carry(self, batch_shape):
        return jnp.zeros((*batch_shape, self.features))

    def encode(self, x):
        return jnp.full(self.features, self.keep), nn.Dense(self.features, name="input")(x)

    def decode(self, states, x):
        return states


@pytest.fixture
def leaky(monkeypatch):
    """The memory "leaky", for the length of a test."""
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    register("leaky", Leaky, block={"norm": "pre"}, layers=2)
    yield
    memory_config.cache_clear()


@pytest.mark.usefixtures("leaky")
def test_a_users_memory_is_one_among_the_others():
    assert "leaky" in list_memories()
    assert memory_config("leaky")().keep == 0.9
    memory = make_memory("leaky", features=4, keep=0.5)
    assert len(memory.layers) == 2 and memory.layers[0].norm == "pre"
    assert OmegaConf.structured(memory_config("leaky")).keep == 0.9
    with pytest.raises(ValueError, match="already"):
        register("leaky", Leaky)
    with pytest.raises(UnknownMemoryError, match="did you mean 'leaky'"):
        make_memory("leeky")


@pytest.mark.usefixtures("leaky")
@pytest.mark.parametrize("method", ["sequential", "associative"])
def test_a_users_memory_has_resets_and_a_learned_start_for_nothing(method):
    options = {"layers": 1, "norm": "none", "learned_initial_carry": True, "scan_method": method}
    leaky = case("leaky", keep=0.5, **options)
    memory = make_memory("leaky", **leaky.options)
    x, reset = draw(T, B, F), np.random.default_rng(0).random((T, B)) < 0.3
    h = memory.initialize_carry((B,))
    params = quick_jit(memory.init)(jax.random.key(0), h, x, reset)["params"]
    inner = params["layers_0"]["memory"]
    inner["initial_carry"] = start = jnp.asarray(draw(leaky.options["features"], seed=4))
    got = quick_jit(memory.apply)({"params": params}, h, x, reset)[1]
    h, want = np.zeros((B, leaky.options["features"])), []
    for x_t, reset_t in zip(x, reset, strict=True):
        h = 0.5 * np.where(reset_t[:, None], start, h) + x_t @ inner["input"]["kernel"]
        want.append(h)  # the bias is zero at the start
    close(got, np.stack(want), 1e-5)


def test_an_unregistered_memory_is_gone():
    """The fixture above cleans up: the other tests' parametrisation depends on it."""
    assert "leaky" not in list_memories()
    with pytest.raises(UnknownMemoryError):
        memory_config("leaky")


# Mistakes.


@pytest.mark.parametrize("function", [make_memory, memory_config])
def test_an_unknown_memory_names_the_nearest(function):
    with pytest.raises(UnknownMemoryError, match=r"'grru'; did you mean 'gru'\?.*none, retnet"):
        function("grru")
    with pytest.raises(UnknownMemoryError) as error:
        function("zzzzzz")
    assert "did you mean" not in str(error.value)
    assert isinstance(error.value, ValueError)
    with unchecked(), pytest.raises(TypeError, match="as s5, not 5"):
        function(5)


@every_memory
def test_an_unknown_option_names_the_nearest(name):
    with pytest.raises(ValueError, match=rf"'{name}'.*'featurs'.*did you mean 'features'"):
        make_memory(name, featurs=3)


# options → what the message must say
IMPOSSIBLE = [
    ("block_gru", {"features": 12, "blocks": 8}, ["features 12", "blocks 8"]),
    ("gru", {"features": 0}, ["features=0", "at least 1"]),
    ("gru", {"layers": 0}, ["layers=0", "at least 1"]),
    ("none", {"features": -1}, ["features=-1", "at least 1"]),
    ("s5", {"state_size": 7}, ["state_size 7", "multiple of", "2"]),
    ("s5", {"features": 7}, ["state_size 7", "multiple of", "2"]),
    ("s5", {"state_size": 0}, ["state_size 0", "positive multiple"]),
    ("s5", {"state_size": 8, "blocks": 3}, ["state_size 8", "6"]),
    ("s5", {"blocks": 0}, ["blocks", "0"]),
]


@pytest.mark.parametrize(("name", "options", "parts"), IMPOSSIBLE, ids=str)
def test_impossible_sizes_fail_when_the_memory_is_made(name, options, parts):
    with pytest.raises(ValueError) as error:
        make_memory(name, **options)
    assert all(part in str(error.value) for part in parts), str(error.value)


@pytest.mark.parametrize(
    ("option", "choices"),
    [
        ("norm", ["none", "pre", "post"]),
        ("glu", ["none", "half", "full"]),
        ("activation", ["gelu", "relu"]),
        ("discretization", ["zoh", "bilinear"]),
        ("scan_method", ["sequential", "associative", "auto"]),
    ],
)
def test_an_unknown_choice_names_the_choices(option, choices):
    with unchecked(), pytest.raises(ValueError) as error:
        memory = make_memory("s5", features=4, **{option: "other"})
        memory.init(jax.random.key(0), *good_arguments(memory))
    assert all(part in str(error.value) for part in ["'other'", *choices])


def good_arguments(memory):
    carry = memory.initialize_carry((2,))
    return carry, jnp.ones((3, 2, 4)), jnp.zeros((3, 2), bool)


# what is wrong → (changed arguments, what the message must say)
WRONG = {
    "x rank": ({"x": jnp.ones(4)}, ["[T, *batch, F]", "(4,)"]),
    "no steps": ({"x": jnp.ones((0, 2, 4))}, ["T >= 1", "(0, 2, 4)"]),
    "no inputs": ({"x": jnp.ones((3, 2, 0))}, ["F >= 1", "(3, 2, 0)"]),
    "x dtype": ({"x": jnp.ones((3, 2, 4), int)}, ["floating point", "int32"]),
    "x bool": ({"x": jnp.ones((3, 2, 4), bool)}, ["floating point", "bool"]),
    "reset dtype": ({"reset": jnp.zeros((3, 2))}, ["bool (3, 2)", "float32 (3, 2)"]),
    "reset shape": ({"reset": jnp.zeros((2, 3), bool)}, ["bool (3, 2)", "bool (2, 3)"]),
    "reset rank": ({"reset": jnp.zeros((3, 2, 1), bool)}, ["bool (3, 2)", "bool (3, 2, 1)"]),
    "carry structure": ({"carry": jnp.zeros((2, 4))}, ["expected PyTreeDef", "got PyTreeDef(*)"]),
    "carry of two layers": (
        {"carry": ({"h": jnp.zeros((2, 4))},) * 2},
        ["expected PyTreeDef(({'h': *},))"],
    ),
    "carry batch": (
        {"carry": ({"h": jnp.zeros((3, 4))},)},
        ["(3, 4)", "(2, 4)", "initialize_carry"],
    ),
    "carry width": (
        {"carry": ({"h": jnp.zeros((2, 5))},)},
        ["(2, 5)", "(2, 4)", "initialize_carry"],
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_wrong_arguments_are_told_from_right_ones(what):
    memory = make_memory("gru", features=4)
    good = dict(zip(("carry", "x", "reset"), good_arguments(memory), strict=True))
    changes, parts = WRONG[what]
    with unchecked(), pytest.raises(ValueError) as error:
        jax.eval_shape(memory.init, jax.random.key(0), *(good | changes).values())
    assert all(part in str(error.value) for part in parts), str(error.value)


class Running(Memory):
    """A user's own memory, the answer of whose `unroll` is made by `answer`."""

    answer: Callable = None

    def initialize_carry(self, batch_shape):
        return {"h": jnp.zeros((*batch_shape, self.features))}

    def unroll(self, carry, x, reset, return_carries):
        return self.answer(carry, jnp.zeros((*x.shape[:-1], self.features)))


WRONG_ANSWERS = {
    "two": (lambda carry, y: (carry, y), "unroll must return (carry, y, carries or None), got 2 v"),
    "alone": (lambda carry, y: y, "unroll must return (carry, y, carries or None), got "),
    "narrow": (lambda carry, y: (carry, y[..., 1:], None), "here (3, 2, 4), got (3, 2, 3)"),
    "no time": (lambda carry, y: (carry, y[0], None), "here (3, 2, 4), got (2, 4)"),
    "structure": (lambda carry, y: (carry["h"], y, None), "expected PyTreeDef({'h': *}), got PyT"),
    "one carry": (lambda c, y: ({"h": c["h"][0]}, y, None), "float32 (2, 4), and is float32 (4,)"),
    "half": (lambda c, y: ({"h": jnp.float16(c["h"])}, y, None), "and is float16 (2, 4) now"),
}


@pytest.mark.parametrize("what", WRONG_ANSWERS)
def test_wrong_answers_of_a_users_memory_are_named(what):
    answer, message = WRONG_ANSWERS[what]
    memory = Running(4, answer)
    with unchecked(), pytest.raises(ValueError) as error:
        jax.eval_shape(memory.init, jax.random.key(0), *good_arguments(memory))
    assert str(error.value).startswith("Running: ") and message in str(error.value)
    right = Running(4, lambda carry, y: (carry, y, None))
    jax.eval_shape(right.init, jax.random.key(0), *good_arguments(right))


@every_memory
def test_every_memory_checks_its_arguments(name):
    """Also a memory without a carry, which would not notice."""
    memory = make_memory(name, features=8)
    carry, x, reset = good_arguments(memory)
    for wrong in ((carry, x.astype(int), reset), (carry, x, reset.T), ((0.0, carry), x, reset)):
        with unchecked(), pytest.raises(ValueError):
            jax.eval_shape(memory.init, jax.random.key(0), *wrong)
    jax.eval_shape(memory.init, jax.random.key(0), carry, x, reset)


def without_entries(memory, *batch):
    arguments = (
        memory.initialize_carry(batch),
        jnp.ones((3, *batch, 4)),
        jnp.ones((3, *batch), bool),
    )
    return memory, arguments


@every_memory
def test_a_batch_may_have_no_entries(name):
    """The parameters are those of any other batch, and shapes are what they would be."""
    memory, arguments = without_entries(make_memory(name, features=8), 2, 0)

    def shapes(arguments, batch):
        call = partial(memory.init_with_output, jax.random.key(0), return_carries=True)
        (last, y, carries), params = jax.eval_shape(call, *arguments)
        assert y.shape == (3, *batch, 8)
        every = jax.tree.map(lambda leaf: jnp.zeros((3, *leaf.shape)), arguments[0])
        same_shapes(last, arguments[0])
        same_shapes(carries, every)
        return params

    empty = shapes(arguments, (2, 0))
    same_shapes(empty, shapes(without_entries(memory, 2, 1)[1], (2, 1)))


def same_shapes(got, want):
    assert jax.tree.map(jnp.shape, got) == jax.tree.map(jnp.shape, want)


@pytest.mark.parametrize("name", ["gru", "mlstm", "s4d", "transformer"])
def test_no_entries_start_alike_and_have_no_gradient(name):
    memory, arguments = without_entries(make_memory(name, features=8, layers=1), 0)
    params = quick_jit(memory.init)(jax.random.key(0), *arguments)
    of_two = quick_jit(memory.init)(jax.random.key(0), *without_entries(memory, 2)[1])
    jax.tree.map(np.testing.assert_array_equal, params, of_two)

    def loss(params, carry, x, reset):
        last, y = memory.apply(params, carry, x, reset)
        features = memory.state_features(last)
        assert features.shape[0] == 0 < features.shape[1]
        return y.sum() + features.sum()

    value, gradient = quick_jit(jax.value_and_grad(loss))(params, *arguments)
    assert value == 0 and not any(leaf.any() for leaf in jax.tree.leaves(gradient))


def test_half_a_memory_says_what_is_missing():
    class Half(ScanMemory):
        def initialize_carry(self, batch_shape):
            return jnp.zeros((*batch_shape, self.features))

    with pytest.raises(NotImplementedError, match="Half lacks encode"):
        memory = Half(features=4)
        memory.init(jax.random.key(0), *good_arguments(memory))
    with pytest.raises(NotImplementedError, match="Memory lacks initialize_carry"):
        Memory(features=4).initialize_carry(())

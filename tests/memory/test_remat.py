"""A stack that holds one stretch's activations at a time is the same function with the same
gradients, and needs less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.memory import make_memory
from tests.agents.scripted import Scripted, assert_trees_close, flags, scalars, small_agent, start
from tests.compiling import quick_jit

T, B, F = 11, 3, 5
STRETCH = 4  # two whole stretches, and three steps more
MEMORIES = {
    "gru": {"learned_initial_carry": True},
    "s5": {"state_size": 4, "learned_initial_carry": True},
    "transformer": {"heads": 2, "window": 6, "layers": 1},
}


def made(name, **options):
    return make_memory(name, features=8, **(MEMORIES[name] | options))


def inputs():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(T, B, F)), jnp.float32)
    # Resets at both sides of the edges between stretches, and within.
    reset = np.zeros((T, B), bool)
    reset[0, 0] = reset[3, 0] = reset[4, 1] = reset[8, 1] = reset[6, 2] = reset[10, 2] = True
    return x, jnp.asarray(reset)


@pytest.mark.parametrize("name", MEMORIES)
def test_outputs_carries_and_gradients_are_the_same(name):
    x, reset = inputs()
    plain, saving = made(name), made(name, remat=STRETCH)
    carry = plain.initialize_carry((B,))
    params = plain.init(jax.random.key(0), carry, x, reset)
    assert_trees_close(saving.init(jax.random.key(0), carry, x, reset), params, rtol=0)
    # Off the initial values, among which there are zeros.
    rng = np.random.default_rng(1)
    params = jax.tree.map(lambda p: p + jnp.float32(rng.normal(0, 0.1, p.shape)), params)
    carry = jax.tree.map(lambda c: c + jnp.asarray(0.3, c.dtype) if c.dtype != bool else ~c, carry)

    def run(memory):
        def loss(params, x):
            last, y, carries = memory.apply(params, carry, x, reset, True)
            weights = jnp.sin(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape))
            ends = [jnp.abs(leaf).sum() for leaf in jax.tree.leaves(last) if leaf.dtype != bool]
            return (weights * y).sum() + sum(ends), (last, y, carries)

        return quick_jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)

    (gradient, told), (expected, expected_told) = run(saving), run(plain)
    assert_trees_close(told, expected_told, rtol=1e-5, atol=1e-5)
    assert_trees_close(gradient, expected, rtol=1e-4, atol=1e-4)
    assert np.abs(expected[1]).min(axis=(1, 2)).max() > 0 and np.abs(expected[1][0]).max() > 1e-4


@pytest.mark.parametrize("name", ["gru", "s5"])
def test_it_needs_less_memory(name):
    """Of 64 stretches one is held: what grows with the window falls to what goes in and out."""
    steps, batch = 4096, 4
    shapes = {}
    for remat in (0, 64):
        memory = make_memory(name, features=64, layers=2, remat=remat)
        carry = memory.initialize_carry((batch,))
        x = jax.ShapeDtypeStruct((steps, batch, 64), jnp.float32)
        reset = jax.ShapeDtypeStruct((steps, batch), bool)
        params = jax.eval_shape(memory.init, jax.random.key(0), carry, x, reset)

        def loss(params, x, reset, memory=memory, carry=carry):
            return (memory.apply(params, carry, x, reset)[1] ** 2).mean()

        program = quick_jit(jax.grad(loss)).lower(params, x, reset).compile()
        shapes[remat] = program.memory_analysis().temp_size_in_bytes
    assert shapes[64] < shapes[0] / 2


def test_sequences_of_one_stretch_are_left_alone():
    """Acting is one step; a loop of one turn would only cost."""
    x, reset = inputs()
    memory = made("gru", remat=STRETCH)
    carry = memory.initialize_carry((B,))
    params = memory.init(jax.random.key(0), carry, x, reset)
    programs = {}
    for steps in (1, STRETCH, STRETCH + 1):
        program = jax.make_jaxpr(memory.apply)(params, carry, x[:steps], reset[:steps])
        programs[steps] = "checkpoint" in str(program) or "remat" in str(program)
    assert programs == {1: False, STRETCH: False, STRETCH + 1: True}


def test_a_negative_stretch_is_a_line():
    with pytest.raises(ValueError, match=r"^memory 'gru': remat must be a number of steps.*got -1"):
        make_memory("gru", remat=-1)


def test_an_agents_iteration_is_the_same():
    env = Scripted(*flags(["..E..U..", "...X....", "........"]))
    results = []
    for remat in (0, 3):
        options = {"memory_options": {"remat": remat}, "epochs": 2, "lr": 0.01}
        agent = small_agent(env, "gru", **options)
        assert agent.memory.remat == remat
        state, metrics = quick_jit(agent.iteration)(start(agent, random=True))
        results.append((state.params, scalars(metrics)))
    assert_trees_close(*results, rtol=1e-3, atol=1e-4)

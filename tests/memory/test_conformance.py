"""The contract (ssmrl/memory/base.py), for every registered memory and no exceptions.

That a sequence equals its steps is proven twice: in float32 as it ships, and for the same code in
double precision, where a tolerance of 1e-11 leaves no room for a mistake to pass as rounding.
"""

import itertools
from functools import cache

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from ssmrl.memory import AssociativeMemory, list_memories, make_memory
from ssmrl.memory.block import Stack
from ssmrl.scan import resettable
from tests.compiling import quick_jit, shipped_jit
from tests.memory.cases import (
    WIDTH,
    B,
    F,
    T,
    at,
    build,
    case,
    close,
    double_precision,
    draw,
    every_case,
    every_case_in_time,
    every_memory,
    every_memory_in_time,
    flags,
    has_learned_start,
    inexact,
    initial_carry,
    is_inexact,
    looks_back,
    run_without_carries,
    runner,
    same,
    used_carry,
    with_inexact,
)

# 1. One sequence, step by step, and in windows.


def in_one(apply, carry, x, reset):
    """As training calls it; the carries over time, which may be computed otherwise, come extra."""
    return *apply(carry, x, reset), apply(carry, x, reset, True)[2]


def step_by_step(apply, carry, x, reset):
    def step(carry, inputs):
        carry, y = apply(carry, *(a[None] for a in inputs))
        return carry, (y[0], carry)

    carry, (y, carries) = lax.scan(step, carry, (x, reset))
    return carry, y, carries


def in_windows(apply, carry, x, reset):
    parts = []
    for window in (slice(0, 1), slice(1, 4), slice(4, None)):
        carry, *part = in_one(apply, carry, x[window], reset[window])
        parts.append(part)
    return carry, *jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)


def results_and_gradients(form, case, jit):
    """y and last carry; that carry and all; gradients of parameters, carry and inputs."""
    return _results_and_gradients(form, case, jit, jax.config.jax_enable_x64)


@cache
def _results_and_gradients(form, case, jit, double):
    memory, params = build(case)
    return _at(form, memory, jit, params, *arguments(case))


def _at(form, memory, jit, params, carry, x, reset):
    @jit
    def call(params, carry, x, reset):
        def run(params, leaves, x):
            def apply(*arguments):
                return memory.apply(params, *arguments)

            last, y, carries = form(apply, with_inexact(carry, leaves), x, reset)
            return (y, inexact(last)), (last, carries)

        results, pull_back, aux = jax.vjp(run, params, inexact(carry), x, has_aux=True)
        return results, aux, pull_back(jax.tree.map(cotangent, results))

    return jax.device_get(call(params, carry, x, reset))


def arguments(case):
    """A used carry, inputs, and resets at random."""
    return used_carry(case), draw(T, B, F), np.random.default_rng(2).random((T, B)) < 0.2


def as_vector(tree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def cotangent(leaf):
    """What results are weighted with: neither equal nor zero."""
    return np.cos(np.arange(leaf.size)).reshape(leaf.shape).astype(leaf.dtype)


@every_memory
def test_acting_step_by_step_is_what_training_computes(name):
    """Quick, and for all memories; gradients, windows and options are for the tests below."""
    memory, params = build(case(name, layers=1))
    carry, x, reset = arguments(case(name, layers=1))
    last, y, _ = runner(case(name, layers=1))(carry, x, reset)
    act, rows = quick_jit(memory.apply), []
    for t in range(T):
        carry, row = act(params, carry, x[t : t + 1], reset[t : t + 1])
        rows.append(row)
    close((carry, np.concatenate(rows)), (last, y), 1e-5)


@every_memory_in_time
def test_a_sequence_equals_its_steps_and_its_windows(name):
    *want, gradients = results_and_gradients(in_one, case(name, layers=1), shipped_jit)
    for form in (step_by_step, in_windows):
        *got, other_gradients = results_and_gradients(form, case(name, layers=1), shipped_jit)
        close(got, want, 1e-5)
        # Compared as one vector: a small one is a difference of large terms, and single precision
        # says little of it alone. One by one they are compared in double precision.
        same_gradients(name, other_gradients, gradients)


def same_gradients(name, got, want):
    """Alike to 1e-5, or as near to the true ones as rounding lets the loop over steps come."""
    if distance(got, want) <= 1e-5:
        return
    true = true_gradients(case(name, layers=1))
    *_, plain = results_and_gradients(step_by_step, case(name, layers=1), shipped_jit)
    rounding = distance(plain, true)
    assert max(distance(got, true), distance(want, true)) <= 2 * rounding <= 1e-3


def distance(got, want):
    """Largest difference of an entry, relative to the largest entry."""
    got, want = (widened(as_vector(gradients)) for gradients in (got, want))
    return np.abs(got - want).max() / np.abs(want).max()


def true_gradients(case):
    """Those at the same parameters, carry and inputs in double precision."""
    memory, params = build(case)
    at = params, *arguments(case)
    with double_precision():
        at = jax.tree.map(widened, at)
        return _at(in_one, memory, quick_jit, *at)[-1]


def widened(leaf):
    """A leaf in double precision, if it has a precision."""
    leaf = np.asarray(leaf)
    return leaf.astype(np.result_type(leaf, np.float64)) if is_inexact(leaf) else leaf


@every_case_in_time
def test_a_sequence_equals_its_steps_and_its_windows_in_double_precision(case):
    with double_precision():
        want = results_and_gradients(in_one, case, quick_jit)
        # Guards the tolerance: a state that stays single would make this test meaningless.
        wide = {np.dtype("float64"), np.dtype("complex128")}
        assert {leaf.dtype for leaf in inexact(want)} <= wide
        for form in (step_by_step, in_windows):
            close(results_and_gradients(form, case, quick_jit), want, 1e-11)


@every_case_in_time
def test_gradients_equal_finite_differences(case):
    """Of every parameter, the carry and the inputs, each along a random direction.

    Gradients written by hand would be wrong in the same way in one sequence and in its steps.
    """
    with double_precision():
        _, params = build(case)
        carry, x, reset = arguments(case)
        *_, gradients = results_and_gradients(in_one, case, quick_jit)
        point, tree = jax.tree.flatten((params, inexact(carry), x))
        for i, (value, gradient) in enumerate(zip(point, jax.tree.leaves(gradients), strict=True)):
            value = np.asarray(value)
            direction = cotangent(value + 1)

            def loss(size, i=i, moved=value, direction=direction):
                leaves = [*point[:i], moved + size * direction, *point[i + 1 :]]
                params, floats, x = jax.tree.unflatten(tree, leaves)
                return weighted(case, params, with_inexact(carry, floats), x, reset)

            # The rounding of losses of 10 beside gradients of .005 wants large steps, the kink of a
            # rectified unit near the point small ones; a wrong gradient fits neither.
            slope = np.sum(gradient * direction).real
            error = min(abs(extrapolated_slope(loss, size) - slope) for size in (1e-4, 1e-5))
            assert error <= 1e-7 * np.linalg.norm(gradient) * np.linalg.norm(direction)


def extrapolated_slope(loss, size):
    """Of `loss` at 0 (Richardson): the error of central differences cancels in order size²."""
    near, far = ((loss(s) - loss(-s)) / (2 * s) for s in (size, 2 * size))
    return (4 * near - far) / 3


def weighted(case, params, carry, x, reset):
    """The real number whose gradients `results_and_gradients` gives."""
    last, y = run_without_carries(case, params, carry, x, reset)
    return sum(np.sum(leaf * cotangent(leaf)).real for leaf in (y, *inexact(last)))


@every_case
def test_carries_are_handed_out_only_when_asked_for(case):
    arguments = (initial_carry(case), draw(T, B, F), flags(0, (3, 1)))
    last, y, carries = runner(case)(*arguments)
    without = run_without_carries(case, build(case)[1], *arguments)
    assert len(without) == 2
    close(without, (last, y), 1e-5)
    same(at(carries, -1), last)


@every_case
def test_state_features_are_the_carry_in_real_numbers(case):
    memory, _ = build(case)
    last, _, carries = runner(case)(initial_carry(case), draw(T, B, F), flags(0))
    features, over_time = (np.asarray(quick_jit(memory.state_features)(c)) for c in (last, carries))
    parts = inexact(last)  # counters and flags are left out
    if not parts:
        assert features.shape[-1] == 0
        return
    assert not np.iscomplexobj(features)
    sizes = [leaf.size // B * (1 + np.iscomplexobj(leaf)) for leaf in parts]
    assert features.shape == (B, sum(sizes)) and over_time.shape == (T, B, sum(sizes))
    same(over_time[-1], features)
    # Nothing else is dropped: the norm of the whole is that of the parts.
    norm = sum(np.sum(np.abs(leaf.astype(complex)) ** 2) for leaf in parts)
    np.testing.assert_allclose(np.sum(features.astype(float) ** 2), norm, rtol=1e-5)


def test_state_features_of_a_stack_leave_layers_without_state_out():
    layers = tuple(make_memory(name, features=WIDTH, layers=1) for name in ("none", "gru", "none"))
    stack = Stack(layers=layers, features=WIDTH)
    carry = jax.tree.map(jnp.ones_like, stack.initialize_carry((B,)))
    np.testing.assert_array_equal(stack.state_features(carry), np.ones((B, WIDTH)))
    nothing = Stack(layers=layers[:1], features=WIDTH)
    assert nothing.state_features(nothing.initialize_carry((B,))).shape[-1] == 0


# 2. A reset is a fresh start.

PATTERNS = {
    "0": [0],
    "1": [1],
    "mid": [T // 2],
    "L-2": [T - 2],
    "L-1": [T - 1],
    "all": list(range(T)),
    "none": [],
    "random": [2, 3, 6],
}


@every_case
def test_a_reset_is_a_fresh_start(case):
    """All patterns at once, one per batch entry, against a fresh run from every step on."""
    run, x = runner(case), draw(T, B, F)
    reset = flags(*((steps, i) for i, steps in enumerate(PATTERNS.values())))
    carry = used_carry(case)
    got = run(carry, x, reset)[1:]
    unbroken = run(carry, x, flags())[1:]
    # fresh[s]: the run that begins at s; what it reads after the end is padding.
    padded = np.concatenate([x, x])
    fresh = [run(initial_carry(case), padded[s : s + T], flags(0))[1:] for s in range(T)]
    for i, t in itertools.product(range(len(PATTERNS)), range(T)):
        begun = np.flatnonzero(reset[: t + 1, i])
        want = at(fresh[begun[-1]], (t - begun[-1], i)) if begun.size else at(unbroken, (t, i))
        close(at(got, (t, i)), want, 1e-5)


@every_case
def test_a_reset_hides_the_carry(case):
    run, x, initial = runner(case), draw(T, B, F), initial_carry(case)
    want = run(initial, x, flags(0))
    same(run(used_carry(case), x, flags(0)), want)
    if not case.options.get("learned_initial_carry"):
        # Then the reset's start is the initial carry: the flag changes nothing.
        same(run(initial, x, flags()), want)


@every_memory
def test_the_learned_initial_carry_is_where_episodes_start(name):
    if not has_learned_start(name):
        pytest.skip("has no such option")
    memory, params = build(case(name, layers=2, learned_initial_carry=True))
    carry = used_carry(case(name, layers=2, learned_initial_carry=True))
    x, reset = draw(T, B, F), flags(2)

    @quick_jit
    def gradients(carry, x, reset, read):
        def loss(params):
            return jnp.sum(memory.apply(params, carry, x, reset)[1] * read[:, None, None])

        return jax.grad(loss)(params)

    for step, used in ((1, False), (2, True)):
        leaves = jax.tree_util.tree_leaves_with_path(gradients(carry, x, reset, np.eye(T)[step]))
        leaves = [leaf for path, leaf in leaves if "initial_carry" in jax.tree_util.keystr(path)]
        assert len(leaves) >= 2  # in each layer
        assert all(np.asarray(leaf).any() == used for leaf in leaves)


# 3. Nothing crosses a reset.

RESET_AT, POISON_AT = 4, 2


def pulled_back(case):
    """y, the last carry, and the cotangents of x and of the carry's inexact leaves.

    Entry 0 begins an episode at RESET_AT, the others never do.
    """
    call, params = pulled_back_with(case), build(case)[1]
    return lambda *arguments: call(params, *arguments)[:4]


@cache
def pulled_back_with(case):
    """The same with other parameters, and their cotangents."""
    memory, _ = build(case)
    reset = flags((RESET_AT, 0))

    @quick_jit
    def call(params, carry, x, read):
        def run(x, leaves, params):
            last, y = memory.apply(params, with_inexact(carry, leaves), x, jnp.asarray(reset))
            return y, last

        y, pull_back, last = jax.vjp(run, x, inexact(carry), params, has_aux=True)
        return y, last, *pull_back(read)

    return lambda *arguments: jax.device_get(call(*arguments))


def planted(x, index, value):
    x = np.array(x)
    x[index] = value
    return x


@every_case
def test_a_nan_stays_in_its_episode(case):
    call, carry, x = pulled_back(case), used_carry(case), draw(T, B, F)
    read = draw(T, B, WIDTH, seed=3)  # all outputs, those before the reset too
    clean = call(carry, x, read)
    for value in (np.nan, np.inf, -np.inf):
        bad_x = planted(x, (POISON_AT, 0), value)
        bad_carry = with_inexact(carry, [planted(leaf, 0, value) for leaf in inexact(carry)])
        for carry_in, x_in in ((carry, bad_x), (bad_carry, x), (bad_carry, bad_x)):
            y, last, x_bar, carry_bar = call(carry_in, x_in, read)
            same(y[RESET_AT:, 0], clean[0][RESET_AT:, 0])
            same(last, clean[1])
            same(x_bar[RESET_AT:, 0], clean[2][RESET_AT:, 0])
            for i, others in enumerate((y, x_bar)):  # nor in the other batch entries
                same(others[:, 1:], clean[2 * i][:, 1:])
            same(at(carry_bar, slice(1, None)), at(clean[3], slice(1, None)))
        assert not np.isfinite(y[POISON_AT, 0]).all()  # the poison works


@every_case
def test_extreme_gates_and_inputs_give_finite_outputs_and_gradients(case):
    """Every parameter far from its start in both directions: gates are open, or closed.

    e^88 is infinite and e^-104 is 0 in single precision; products of the two are NaN.
    """
    call, params, x = pulled_back_with(case), build(case)[1], draw(T, B, F)
    read, leaves, carry = draw(T, B, WIDTH, seed=3), jax.tree.leaves(params), used_carry(case)
    extremes = {f"x times {factor}": (params, factor * x) for factor in (0, 1e-3, 30, 1e3)}
    for i, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(params)):
        for shift in (-100, -30, 30, 100):
            moved = [*leaves[:i], leaf + np.float32(shift), *leaves[i + 1 :]]
            what = f"{jax.tree_util.keystr(path)} {shift:+}"
            extremes[what] = jax.tree.unflatten(jax.tree.structure(params), moved), x
    for what, (values, inputs) in extremes.items():
        results = call(values, carry, np.asarray(inputs, np.float32), read)
        assert all(np.isfinite(leaf).all() for leaf in inexact(results)), what


@every_case
def test_a_nan_does_not_reach_the_gradients_of_the_episode_before(case):
    call, carry, x = pulled_back(case), used_carry(case), draw(T, B, F)
    read = draw(T, B, WIDTH, seed=3)
    y, _, x_bar, carry_bar = call(carry, planted(x, (RESET_AT, 0), np.nan), read)
    clean = call(carry, x, read)
    assert not np.isfinite(y[RESET_AT, 0]).all()
    same(x_bar[:RESET_AT], clean[2][:RESET_AT])
    same(carry_bar, clean[3])


@every_case
def test_gradients_across_a_reset_are_exactly_zero(case):
    call, carry, x = pulled_back(case), used_carry(case), draw(T, B, F)
    after = np.ones((T, B, WIDTH), np.float32)
    after[:RESET_AT] = 0
    *_, x_bar, carry_bar = call(carry, x, after)
    assert not x_bar[:RESET_AT, 0].any()
    assert not any(leaf[0].any() for leaf in carry_bar)
    assert x_bar[RESET_AT:, 0].any()
    # Where there is no reset there is a gradient, if the memory is one.
    assert x_bar[RESET_AT - 1, 1].any() == looks_back(case)
    *_, x_bar, carry_bar = call(carry, x, 1 - after)
    assert not x_bar[RESET_AT:].any()
    assert x_bar[:RESET_AT].any()
    # The carry is read before the reset: some windows are too short for it to matter after.
    assert any(leaf[0].any() for leaf in carry_bar) == looks_back(case)


# 4. Causality, and batch entries apart.


@every_case
def test_the_future_does_not_matter(case):
    run, carry = runner(case), used_carry(case)
    x, other = draw(T, B, F), draw(T, B, F, seed=2)
    reset = np.random.default_rng(3).random((T, B)) < 0.2
    _, *want = run(carry, x, reset)
    for t in range(T):
        changed_reset = np.concatenate([reset[:t], ~reset[t:]])
        _, *got = run(carry, np.concatenate([x[:t], other[t:]]), changed_reset)
        same(at(got, slice(t)), at(want, slice(t)))
        assert (got[0][t] != want[0][t]).any(axis=-1).all()


@every_case
def test_batch_entries_do_not_mix(case):
    run, x = runner(case), draw(T, B, F)
    carry, other = used_carry(case), used_carry(case, seed=2)
    entry = np.arange(B) == 1  # the one that changes
    mixed = jax.tree.map(
        lambda a, b: np.where(entry.reshape(-1, *[1] * (a.ndim - 1)), b, a), carry, other
    )
    want = run(carry, x, flags((3, 0)))
    got = run(mixed, np.where(entry[:, None], -x, x), flags((3, 0), (5, 1)))
    assert (got[1][:, 1] != want[1][:, 1]).any()
    same(at(got[0], ~entry), at(want[0], ~entry))
    same(at(got[1:], (slice(None), ~entry)), at(want[1:], (slice(None), ~entry)))


@every_case
def test_any_batch_shape(case):
    x, reset = draw(T, B, F), flags(0, (3, 5))
    want = runner(case)(initial_carry(case), x, reset)
    for shape, entries in (((2, 4), slice(None)), ((), 5)):
        part, part_reset = (a[:, entries].reshape(T, *shape, *a.shape[2:]) for a in (x, reset))
        last, *over_time = runner(case)(initial_carry(case, shape), part, part_reset)

        def batched(leaf, axis, shape=shape, entries=entries):
            taken = leaf[(slice(None),) * axis + (entries,)]
            return np.reshape(taken, leaf.shape[:axis] + shape + leaf.shape[axis + 1 :])

        close(last, jax.tree.map(lambda leaf: batched(leaf, 0), want[0]), 1e-5)
        close(over_time, jax.tree.map(lambda leaf: batched(leaf, 1), list(want[1:])), 1e-5)


# 6. The operator is associative.


def is_parallel(name):
    return isinstance(build(case(name, layers=1))[0].layers[0].memory, AssociativeMemory)


parallel_memories = pytest.mark.parametrize("name", list(filter(is_parallel, list_memories())))


def elements_of(name):
    """The inner memory, and what it encodes three random inputs to: elements of its own domain."""
    memory, params = build(case(name, layers=1))
    encoded = []

    def listen(call, args, kwargs, context):
        result = call(*args, **kwargs)
        if context.method_name == "encode":
            encoded.append(result)
        return result

    def run(carry):
        with nn.intercept_methods(listen):
            x, reset = jnp.asarray(draw(3, 2, F)), jnp.zeros((3, 2), bool)
            states = memory.apply(params, carry, x, reset, True)[2]
        return encoded[0], states

    elements, states = jax.device_get(quick_jit(run)(initial_carry(case(name, layers=1), (2,))))
    state = jax.tree.leaves(states)[0]
    if state.ndim > min(leaf.ndim for leaf in jax.tree.leaves(elements)):
        # A constant decay leaves out the leading axes.
        elements = jax.tree.map(lambda leaf: np.broadcast_to(leaf, state.shape), elements)
    return memory.layers[0].memory, [at(elements, t) for t in range(3)]


@parallel_memories
def test_combine_is_associative(name):
    with double_precision():
        memory, (x, y, z) = elements_of(name)
        combine = memory.combine
        close(combine(combine(x, y), z), combine(x, combine(y, z)), 1e-13)
        identity = memory.identity(x)
        close(combine(identity, x), x, 1e-15)
        close(combine(x, identity), x, 1e-15)


@parallel_memories
def test_combine_with_resets_is_associative_and_forgets(name):
    with double_precision():
        memory, elements = elements_of(name)
        combine = resettable(memory.combine)
        for resets in itertools.product([False, True], repeat=3):
            x, y, z = zip(elements, map(jnp.asarray, resets), strict=True)
            left, right = combine(combine(x, y), z), combine(x, combine(y, z))
            close(left[0], right[0], 1e-13)
            assert left[1] == right[1] == any(resets)
            last = max(i for i in range(3) if resets[i] or i == 0)
            want = elements[last]
            for element in elements[last + 1 :]:
                want = memory.combine(want, element)
            close(left[0], want, 1e-13)
        # The identity has no flag, and stays the identity.
        identity = (memory.identity(x[0]), jnp.asarray(False))
        close(combine(identity, x)[0], x[0], 1e-15)
        close(combine((x[0], jnp.asarray(False)), identity)[0], x[0], 1e-15)


# 7. Long runs, and a carry that keeps its shape.


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@every_memory_in_time
def test_a_hundred_thousand_steps_stay_finite(name, dtype):
    """One episode in windows of 1000, with a mean: a sum that is not normalised would grow."""
    memory, params = build(case(name), dtype)
    x = jnp.asarray(1 + draw(1000, 1, F)).astype(dtype)

    @jax.jit
    def run(params, carry):
        def window(carry, number):
            reset = jnp.zeros((1000, 1), bool).at[0].set(number == 0)
            carry, y = memory.apply(params, carry, x, reset)
            return carry, jnp.abs(y).max()

        return lax.scan(window, carry, jnp.arange(100))

    last, largest = jax.device_get(run(params, initial_carry(case(name), (1,))))
    assert largest.shape == (100,)
    for leaf in inexact((last, largest)):
        assert np.isfinite(leaf).all()
    if name == "shm":
        # Its factors have mean 1 by design, so that its states have a tail like 1 / size (Kesten,
        # "Random difference equations", 1973): single windows reach any size, typical ones do not.
        assert np.median(largest[50:]) <= 10 * np.median(largest[:50])
    else:  # Settled: the outputs of the last window are not larger than those of the tenth.
        assert largest[-1] <= 1.1 * largest[9]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@every_case
def test_carry_and_output_keep_structure_shapes_and_dtypes(case, dtype):
    """Traced only: shapes and dtypes are known without running."""
    memory, _ = build(case)
    one = jax.ShapeDtypeStruct((1, 1, F), dtype), jax.ShapeDtypeStruct((1, 1), bool)
    params = jax.eval_shape(memory.init, jax.random.key(0), initial_carry(case, (1,)), *one)

    def forms(tree):
        return jax.tree.structure(tree), [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]

    initial = initial_carry(case)
    for steps in (1, 2, 7):
        x = jax.ShapeDtypeStruct((steps, B, F), dtype)
        reset = jax.ShapeDtypeStruct((steps, B), bool)
        carry, y, carries = jax.eval_shape(
            lambda *a: memory.apply(*a, return_carries=True), params, initial, x, reset
        )
        assert forms(carry) == forms(initial)
        assert forms(carries) == forms(at_every_step(initial, steps))
        # Activations stay what they are, and states are single precision whatever they are.
        assert (y.shape, y.dtype) == ((steps, B, WIDTH), dtype)
        assert all(jnp.finfo(leaf.dtype).bits >= 32 for leaf in inexact(carry))


def at_every_step(carry, steps):
    return jax.tree.map(lambda leaf: np.broadcast_to(leaf, (steps, *leaf.shape)), carry)

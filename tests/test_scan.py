"""The linear recurrence against a plain loop: states, gradients, resets, and how it lowers."""

import itertools
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.scan import (
    METHODS,
    affine_combine,
    affine_identity,
    linear_scan,
    operator_scan,
    resettable,
    scan_in_blocks,
)
from tests.programs import equations
from tests.unchecked import unchecked

FORMS = ("sequential", "associative")
T = 6

# (shape of b, shape of a, rank of reset, shape of h_init)
SHAPES = {
    "scalar state": ((T,), (), 1, ()),
    "scalar state, a[t]": ((T,), (T,), 1, None),
    "scalar decay": ((T, 3), (), 1, (3,)),
    "constant [N]": ((T, 2, 3), (3,), 2, (3,)),
    "constant [B, N]": ((T, 2, 3), (2, 3), 2, None),
    "constant [1, N]": ((T, 2, 3), (1, 3), 2, (2, 3)),
    "constant [B, 1]": ((T, 2, 3), (2, 1), 2, (2, 1)),
    "a[t] in full": ((T, 2, 3), (T, 2, 3), 2, (3,)),
    "a[t] over batch": ((T, 2, 3), (T, 1, 3), 2, None),
    "a[t] over state": ((T, 2, 3), (T, 2, 1), 2, ()),
    "matrix state": ((T, 2, 3, 2), (3, 1), 2, (3, 2)),
    "two batch axes": ((T, 2, 1, 3), (T, 2, 1, 3), 3, (1, 1, 3)),
    "reset for all": ((T, 2, 3), (3,), 1, (3,)),
    "no reset": ((T, 2, 3), (3,), None, (3,)),
    "one step": ((1, 2, 3), (3,), 2, (3,)),
    "one step, a[t]": ((1, 2, 3), (1, 2, 3), 2, None),
}


@pytest.fixture
def double():
    with jax.enable_x64(True):
        yield


def draw(rng, shape, dtype):
    x = rng.standard_normal(shape)
    return x + 1j * rng.standard_normal(shape) if dtype == "complex128" else x


def problem(case, dtype, seed=0):
    """Random NumPy arguments a, b, h0, reset, h_init, in double precision."""
    rng = np.random.default_rng([seed, *case.encode()])
    b_shape, a_shape, reset_rank, h_init_shape = SHAPES[case]
    reset = None if reset_rank is None else rng.random(b_shape[:reset_rank]) < 0.3
    h_init = None if h_init_shape is None else draw(rng, h_init_shape, dtype)
    a, b, h0 = (draw(rng, shape, dtype) for shape in (a_shape, b_shape, b_shape[1:]))
    return a, b, h0, reset, h_init


def on_device(arrays):
    return [None if x is None else jnp.asarray(x) for x in arrays]


def plain_loop(a, b, h0, reset, h_init, xp=np):
    """The recurrence as it is written, in numpy, or in jax.numpy to differentiate it."""
    a = xp.broadcast_to(a, b.shape)
    states, h = [], h0
    for t in range(b.shape[0]):
        if reset is not None:
            flags = xp.reshape(reset[t], reset[t].shape + (1,) * (h.ndim - reset[t].ndim))
            h = xp.where(flags, 0.0 if h_init is None else h_init, h)
        h = a[t] * h + b[t]
        states.append(h)
    return xp.stack(states)


@cache
def scan(method):
    """Compiled as a whole: taken op by op, the associative form is very slow to dispatch."""
    return jax.jit(
        lambda a, b, h0, reset=None, h_init=None: linear_scan(
            a, b, h0, reset, h_init=h_init, method=method
        )
    )


@cache
def pulled_back(method):
    """States, and the cotangents of a, b, h0 and h_init."""

    def call(a, b, h0, reset, h_init, cotangent):
        h, pull_back = jax.vjp(lambda *x: scan(method)(*x[:3], reset, x[3]), a, b, h0, h_init)
        return h, pull_back(cotangent)

    return jax.jit(call)


@cache
def plain_gradients(case, dtype):
    """Automatic ones of the loop, which are the same for all forms."""
    a, b, h0, reset, h_init = on_device(problem(case, dtype))

    def plain(a, b, h0, h_init):
        return plain_loop(a, b, h0, reset, h_init, jnp)

    pull_back = jax.jit(lambda arguments, cotangent: jax.vjp(plain, *arguments)[1](cotangent))
    return pull_back((a, b, h0, h_init), cotangent_of(b))


def cotangent_of(b):
    return jnp.asarray(draw(np.random.default_rng(1), b.shape, b.dtype))


def close(got, want, tolerance):
    """Largest error relative to the largest entry of `want`."""
    got, want = np.asarray(got), np.asarray(want)
    assert got.shape == want.shape
    assert np.abs(got - want).max() <= tolerance * np.abs(want).max()


CASES = [(case, "complex128") for case in SHAPES] + [
    (case, "float64") for case in ("scalar state", "constant [1, N]", "a[t] over batch", "no reset")
]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize(("case", "dtype"), CASES)
def test_states_and_gradients_equal_those_of_a_plain_loop(case, dtype, method):
    """Gradients with respect to a, b, h0 and h_init, against automatic ones of the loop."""
    arguments = problem(case, dtype)
    want = plain_loop(*arguments)
    a, b, h0, reset, h_init = on_device(arguments)
    h, gradients = pulled_back(method)(a, b, h0, reset, h_init, cotangent_of(b))
    assert h.dtype == dtype
    close(h, want, 1e-13)
    jax.tree.map(lambda x, y: close(x, y, 1e-12), gradients, plain_gradients(case, dtype))


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_single_precision(dtype, method):
    """Same arguments, rounded to single precision, against the loop in double precision."""
    a, b, h0, reset, h_init = problem("constant [N]", dtype)
    single = "float32" if dtype == "float64" else "complex64"
    rounded = [x.astype(single) for x in (a, b, h0, h_init)]
    a, b, h0, h_init = (x.astype(dtype) for x in rounded)
    want = plain_loop(a, b, h0, reset, h_init)
    got = scan(method)(*rounded[:3], reset, rounded[3])
    assert got.dtype == single
    close(got, want, 1e-6)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("steps", [2, 5, 6, 7])
@pytest.mark.parametrize("method", FORMS)
def test_every_pattern_of_resets(method, steps):
    """All 2^T of them, one per batch entry: whether a merge keeps a flag depends on where it is."""
    rng = np.random.default_rng(0)
    reset = np.array(list(itertools.product([False, True], repeat=steps))).T
    a, b, cotangent = (rng.standard_normal(reset.shape) for _ in range(3))
    h0, h_init = rng.standard_normal(reset.shape[1]), np.array(0.7)
    h, (_, b_bar, h0_bar, _) = pulled_back(method)(a, b, h0, reset, h_init, cotangent)
    close(h, plain_loop(a, b, h0, reset, h_init), 1e-13)
    # b's cotangent is the same recurrence backwards: g[t] = ȳ[t] + a[t+1] g[t+1] unless reset[t+1].
    g = [np.zeros_like(h0)]
    for t in reversed(range(steps)):
        g.append(cotangent[t] + g[-1])
        want = g[-1]
        close(b_bar[t], want, 1e-13)
        g.append(np.where(reset[t], 0, a[t] * want))
    close(h0_bar, g[-1], 1e-13)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("case", ["constant [N]", "a[t] in full"])
def test_windows_chain(case, method):
    a, b, h0, reset, h_init = on_device(problem(case, "complex128"))
    want = scan(method)(a, b, h0, reset, h_init)
    parts = []
    for window in (slice(0, 1), slice(1, 4), slice(4, T)):
        a_window = a[window] if a.ndim == b.ndim else a
        h = scan(method)(a_window, b[window], h0, reset[window], h_init)
        parts.append(h)
        h0 = h[-1]
    close(jnp.concatenate(parts), want, 1e-13)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("a_axis", [None, 0])
def test_vmap(method, a_axis):
    """Over everything, and with `a` shared, states and gradients as one call after the other."""
    seeds = [
        problem("a[t] over batch" if a_axis == 0 else "constant [N]", "float64", s)
        for s in range(3)
    ]
    a, b, h0, reset = (jnp.stack([jnp.asarray(s[i]) for s in seeds]) for i in range(4))
    a = a if a_axis == 0 else a[0]

    def call(a, b, h0, reset):
        h, pull_back = jax.vjp(lambda *x: linear_scan(*x, reset, method=method), a, b, h0)
        return h, pull_back(jnp.cos(h))

    got = jax.jit(jax.vmap(call, in_axes=(a_axis, 0, 0, 0)))(a, b, h0, reset)
    call = jax.jit(call)
    one_by_one = [call(a[i] if a_axis == 0 else a, b[i], h0[i], reset[i]) for i in range(3)]
    want = jax.tree.map(lambda *leaves: jnp.stack(leaves), *one_by_one)
    jax.tree.map(lambda x, y: close(x, y, 1e-12), got, want)


# Resets select; they never multiply.


def poisoned(method, value, target):
    """States, and the cotangents of (a, b, h0), with and without `value` planted in `target`."""
    rng = np.random.default_rng(0)
    a, b, h0, _, h_init = problem("a[t] in full", "float64")
    reset = np.zeros((T, 2), bool)
    reset[4] = True
    if target == "h0":
        h0[0, 1] = value
    elif target is not None:
        {"a": a, "b": b}[target][2, 0, 1] = value
    cotangent = jnp.asarray(rng.standard_normal(b.shape))  # non-zero everywhere, also before
    a, b, h0, reset, h_init = on_device((a, b, h0, reset, h_init))
    h, (*cotangents, _) = pulled_back(method)(a, b, h0, reset, h_init, cotangent)
    return h, cotangents


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("target", ["a", "b", "h0"])
def test_nothing_crosses_a_reset(target, value, method):
    clean_h, (clean_a, clean_b, _) = poisoned(method, 0.0, None)
    h, (a_bar, b_bar, _) = poisoned(method, value, target)
    assert not np.isfinite(h[:4]).all()  # the poison works
    np.testing.assert_array_equal(h[4:], clean_h[4:])
    np.testing.assert_array_equal(a_bar[4:], clean_a[4:])
    np.testing.assert_array_equal(b_bar[4:], clean_b[4:])


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_gradients_before_a_reset_know_nothing_of_what_is_after(value, method):
    a, b, h0, _, h_init = problem("a[t] in full", "float64")
    reset = np.zeros((T, 2), bool)
    reset[4] = True
    cotangent = np.ones(b.shape)

    def cotangents(a, cotangent):
        return pulled_back(method)(a, b, h0, reset, h_init, cotangent)[1][:3]

    clean = cotangents(a, cotangent)
    cotangent[5], a[5] = value, value
    a_bar, b_bar, h0_bar = cotangents(a, cotangent)
    assert not np.isfinite(b_bar[4:]).all()
    np.testing.assert_array_equal(a_bar[:4], clean[0][:4])
    np.testing.assert_array_equal(b_bar[:4], clean[1][:4])
    np.testing.assert_array_equal(h0_bar, clean[2])


@pytest.mark.parametrize("method", FORMS)
def test_gradients_across_a_reset_are_exactly_zero(method):
    a, b, h0, _, h_init = on_device(problem("a[t] in full", "float64"))
    reset = jnp.zeros((T, 2), bool).at[4].set(True)

    def cotangents(read):
        return pulled_back(method)(a, b, h0, reset, h_init, read)[1][:3]

    a_bar, b_bar, h0_bar = cotangents(jnp.ones_like(b).at[:4].set(0))  # read after the reset only
    for before in (a_bar[:4], b_bar[:4], h0_bar):
        np.testing.assert_array_equal(before, 0)
    assert np.all(np.asarray(b_bar[4:]) != 0)
    a_bar, b_bar, h0_bar = cotangents(jnp.ones_like(b).at[4:].set(0))  # and before it only
    np.testing.assert_array_equal(a_bar[4:], 0)
    np.testing.assert_array_equal(b_bar[4:], 0)
    assert np.all(np.asarray(h0_bar) != 0)


@pytest.mark.parametrize("method", FORMS)
def test_reset_at_the_first_step_hides_h0(method):
    a, b, h0, _, h_init = on_device(problem("constant [N]", "float64"))
    reset = jnp.zeros((T, 2), bool).at[0].set(True)
    read = jnp.ones_like(b)
    poison = jnp.full_like(h0, jnp.nan)
    h, (_, _, h0_bar, _) = pulled_back(method)(a, b, poison, reset, h_init, read)
    np.testing.assert_array_equal(h, scan(method)(a, b, h0, reset, h_init))
    np.testing.assert_array_equal(h0_bar[0], 0)
    assert np.isfinite(h[:, 0]).all()


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("case", ["constant [N]", "a[t] in full"])
def test_an_unused_h_init_may_be_anything(case, method):
    a, b, h0, _, h_init = on_device(problem(case, "float64"))
    reset = jnp.zeros((T, 2), bool)
    poison = jnp.full_like(h_init, jnp.nan)
    h, cotangents = pulled_back(method)(a, b, h0, reset, poison, jnp.ones_like(b))
    np.testing.assert_array_equal(h, scan(method)(a, b, h0, reset))
    *others, h_init_bar = cotangents
    assert all(np.isfinite(x).all() for x in others)
    np.testing.assert_array_equal(h_init_bar, 0)


# Edges of the decay.


@pytest.mark.parametrize("method", FORMS)
def test_zero_decay_forgets_everything(method):
    _, b, h0, reset, _ = on_device(problem("constant [N]", "float64"))
    np.testing.assert_array_equal(scan(method)(jnp.zeros(3), b, h0, reset), b)


@pytest.mark.parametrize("method", FORMS)
def test_unit_decay_is_a_sum(method):
    """Integers in floats add up exactly, whichever way the tree is built."""
    b = jnp.asarray(np.random.default_rng(0).integers(-9, 9, (200, 2, 3)), jnp.float32)
    h0 = jnp.full((2, 3), 5.0)
    got = scan(method)(jnp.ones(3), b, h0)
    np.testing.assert_array_equal(got, np.cumsum(np.asarray(b), axis=0) + 5)


@pytest.mark.parametrize("method", FORMS)
def test_unit_modulus_neither_grows_nor_fades(method):
    """h[t] = e^{iωt} after an impulse. A complex product errs by √8 ε/2 at most; t of them."""
    steps = 1024
    a = jnp.exp(1j * jnp.asarray([0.0, 0.1, 3.0], jnp.float32)).astype(jnp.complex64)
    b = jnp.zeros((steps, 3), jnp.complex64).at[0].set(1)
    h = scan(method)(a, b, jnp.zeros(3, jnp.complex64))
    exact = np.asarray(a, np.complex128) ** np.arange(steps)[:, None]
    bound = np.sqrt(8) / 2 * np.finfo(np.float32).eps * np.arange(1, steps + 1)[:, None]
    assert np.all(np.abs(np.asarray(h) - exact) <= bound * np.abs(exact))


# How it is computed.


def lowered(platform, steps, method="auto", gradient=False):
    def call(a, b, h0, reset):
        return linear_scan(a, b, h0, reset, method=method)

    def pulled_back(a, b, h0, reset):
        h, pull_back = jax.vjp(lambda *x: call(*x, reset), a, b, h0)
        return pull_back(h)

    arguments = (
        jnp.ones(3),
        jnp.ones((steps, 2, 3)),
        jnp.ones((2, 3)),
        jnp.zeros((steps, 2), bool),
    )
    traced = jax.jit(pulled_back if gradient else call).trace(*arguments)
    return traced.lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.parametrize("gradient", [False, True])
@pytest.mark.parametrize("platform", ["cuda", "tpu", "rocm"])
def test_accelerators_get_the_associative_form(platform, gradient):
    """No loop, and every doubling of the sequence adds the same number of operations."""
    texts = [lowered(platform, steps, gradient=gradient) for steps in (16, 32, 64, 128)]
    assert not any("stablehlo.while" in text for text in texts)
    products = [text.count("stablehlo.multiply") for text in texts]
    growth = {after - before for before, after in itertools.pairwise(products)}
    assert len(growth) == 1 and growth.pop() > 0


@pytest.mark.parametrize("gradient", [False, True])
def test_cpus_get_the_sequential_form(gradient):
    short, long = (lowered("cpu", steps, gradient=gradient) for steps in (16, 128))
    assert short.count("stablehlo.while") == long.count("stablehlo.while") == 1 + gradient
    assert short.count("stablehlo.multiply") == long.count("stablehlo.multiply")


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_one_step_is_sequential_everywhere(platform):
    for method in METHODS:
        assert "stablehlo.while" in lowered(platform, 1, method)
    assert "stablehlo.while" not in lowered(platform, 2, "associative")
    assert "stablehlo.while" in lowered(platform, 2, "sequential")


def test_auto_computes_what_the_platforms_form_computes():
    a, b, h0, reset, h_init = on_device(problem("constant [N]", "float64"))
    form = "sequential" if jax.default_backend() == "cpu" else "associative"
    want = scan(form)(a, b, h0, reset, h_init)
    np.testing.assert_array_equal(scan("auto")(a, b, h0, reset, h_init), want)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("case", "sequences"), [("constant [N]", 1), ("a[t] in full", 2)])
def test_the_backward_pass_keeps_only_a_and_h(case, sequences, method):
    """Nothing else of the size of the sequence, and no constant decay spread over time."""
    a, b, h0, reset, h_init = on_device(problem(case, "float64"))

    @jax.jit
    def pull_back(a, b, h0, h_init):
        return jax.vjp(lambda *x: scan(method)(*x[:3], reset, x[3]), a, b, h0, h_init)[1]

    pull_back = pull_back(a, b, h0, h_init)
    kept = [x for x in jax.tree.leaves(pull_back) if x.size >= b.size]
    assert len(kept) == sequences


def test_a_constant_decay_is_not_read_as_a_sequence():
    """One loop over (b, reset): [T, B, N] copies of a constant decay would be a third input."""
    a, b, h0, reset, _ = on_device(problem("constant [N]", "float64"))
    program = jax.make_jaxpr(lambda *x: linear_scan(*x, method="sequential"))(a, b, h0, reset)
    text = str(program)
    assert text.count("scan[") == 1
    assert f"f32[{T},2,3]" in text  # the inputs are written like this, and once only each
    loops = [e for e in equations(program.jaxpr) if e.primitive.name == "scan"]
    (loop,) = loops
    body = getattr(loop.params["jaxpr"], "jaxpr", loop.params["jaxpr"])
    shapes = [
        (outer.aval.shape, of.aval.shape)
        for outer, of in zip(loop.invars, body.invars, strict=True)
    ]
    # Constants and the carry enter the body as they are, of sequences one step.
    sequences = [outer for outer, one in shapes if outer != one]
    assert sorted(sequences) == [(T, 2, 1), (T, 2, 3)]


# Dtypes and errors.


def test_the_result_has_the_common_dtype_of_a_and_b():
    a, b, h0, reset, _ = on_device(problem("constant [N]", "float64"))
    half = jnp.bfloat16
    assert linear_scan(a.astype(half), b, h0, reset).dtype == jnp.float32
    assert linear_scan(a.astype(half), b.astype(half), h0, reset).dtype == half
    assert linear_scan(a.astype(jnp.complex64), b, h0, reset).dtype == jnp.complex64


GOOD = {
    "a": jnp.ones(3),
    "b": jnp.ones((5, 2, 3)),
    "h0": jnp.ones((2, 3)),
    "reset": jnp.zeros((5, 2), bool),
    "h_init": None,
    "method": "auto",
}

# what is wrong → (the changed arguments, what the message must say)
BAD = {
    "method": ({"method": "parallel"}, ["parallel", "sequential", "associative", "auto"]),
    "empty": (
        {"b": jnp.ones((0, 2, 3)), "reset": jnp.zeros((0, 2), bool)},
        ["T >= 1", "(0, 2, 3)"],
    ),
    "no time axis": ({"b": jnp.ones(()), "h0": jnp.ones(())}, ["T >= 1", "()"]),
    "h0": ({"h0": jnp.ones((3, 2))}, ["(3, 2)", "(2, 3)"]),
    "a rank": ({"a": jnp.ones((1, 5, 2, 3))}, ["(1, 5, 2, 3)", "(5, 2, 3)"]),
    "a width": ({"a": jnp.ones(4)}, ["(4,)", "(2, 3)"]),
    "a too wide": ({"h0": jnp.ones((2, 1)), "b": jnp.ones((5, 2, 1))}, ["(3,)", "(2, 1)"]),
    "a length": ({"a": jnp.ones((4, 2, 3))}, ["(4, 2, 3)", "(5, 2, 3)"]),
    "reset length": ({"reset": jnp.zeros((4, 2), bool)}, ["(4, 2)", "(5, 2, 3)"]),
    "reset rank": ({"reset": jnp.zeros((), bool)}, ["()", "(5, 2, 3)"]),
    "reset dtype": ({"reset": jnp.zeros((5, 2))}, ["bool", "float32"]),
    "h_init width": ({"h_init": jnp.ones(4)}, ["(4,)", "(2, 3)"]),
    "h_init rank": ({"h_init": jnp.ones((1, 2, 3))}, ["(1, 2, 3)", "(2, 3)"]),
    "integers": ({"a": jnp.ones(3, int), "b": jnp.ones((5, 2, 3), int)}, ["float", "int32"]),
    "complex h0": ({"h0": jnp.ones((2, 3), complex)}, ["complex64", "float32"]),
    "complex h_init": ({"h_init": jnp.ones(3, complex)}, ["complex64", "float32"]),
}


@pytest.mark.parametrize("what", BAD)
def test_errors_say_what_was_expected_and_what_came(what):
    changes, parts = BAD[what]
    arguments = GOOD | changes
    with unchecked(), pytest.raises(ValueError, match="linear_scan") as error:
        linear_scan(
            arguments.pop("a"), arguments.pop("b"), arguments.pop("h0"), arguments.pop("reset"),
            **arguments,
        )  # fmt: skip
    for part in parts:
        assert part in str(error.value)


def test_the_good_arguments_are_good():
    assert linear_scan(GOOD["a"], GOOD["b"], GOOD["h0"], GOOD["reset"]).shape == (5, 2, 3)


# The algebra.


def random_affine(rng, dtype):
    return tuple(jnp.asarray(draw(rng, (2, 3), dtype)) for _ in "ab")


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("dtype", ["float64", "complex128"])
def test_affine_combine_is_associative_and_composes_maps(dtype):
    rng = np.random.default_rng(0)
    x, y, z = (random_affine(rng, dtype) for _ in range(3))
    left = affine_combine(affine_combine(x, y), z)
    right = affine_combine(x, affine_combine(y, z))
    jax.tree.map(lambda p, q: close(p, q, 1e-14), left, right)
    h = jnp.asarray(draw(rng, (2, 3), dtype))
    one_by_one = y[0] * (x[0] * h + x[1]) + y[1]
    a, b = affine_combine(x, y)
    close(a * h + b, one_by_one, 1e-14)


def test_affine_identity():
    x = random_affine(np.random.default_rng(0), "float64")
    identity = affine_identity(x)
    for same in (affine_combine(identity, x), affine_combine(x, identity)):
        jax.tree.map(np.testing.assert_array_equal, same, x)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("flags", list(itertools.product([False, True], repeat=3)))
def test_resettable_is_associative_and_forgets(flags):
    rng = np.random.default_rng(0)
    combine = resettable(affine_combine)
    raw = [random_affine(rng, "float64") for _ in flags]
    x, y, z = ((element, jnp.full((2, 1), flag)) for element, flag in zip(raw, flags, strict=True))
    left, right = combine(combine(x, y), z), combine(x, combine(y, z))
    jax.tree.map(lambda p, q: close(p, q, 1e-14), left[0], right[0])
    np.testing.assert_array_equal(left[1], right[1])
    np.testing.assert_array_equal(left[1], any(flags))
    # What is left is the product from the last start on.
    last = max([0] + [i for i, flag in enumerate(flags) if flag])
    want = raw[last]
    for element in raw[last + 1 :]:
        want = affine_combine(want, element)
    jax.tree.map(lambda p, q: close(p, q, 1e-14), left[0], want)


def test_resettable_selects():
    combine = resettable(affine_combine)
    y = random_affine(np.random.default_rng(0), "float64")
    poison = jax.tree.map(lambda leaf: jnp.full_like(leaf, jnp.nan), y)
    element, flag = combine((poison, jnp.array(False)), (y, jnp.array(True)))
    jax.tree.map(np.testing.assert_array_equal, element, y)
    assert flag


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("value", [jnp.nan, jnp.inf])
def test_gradients_of_resettable_select(value):
    def combine(left, right):  # its derivatives at infinity are NaN
        return jnp.exp(left - jnp.maximum(left, right)) + right

    def call(left, right):
        return resettable(combine)((left, jnp.array(False)), (right, jnp.array(True)))[0]

    assert jax.grad(call, (0, 1))(value, 2.0) == (0.0, 1.0)
    assert jax.grad(call, (0, 1))(2.0, value)[0] == 0.0


# Nothing to scan.


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_a_batch_may_have_no_entries(method, constant):
    b, h0 = jnp.ones((5, 0, 3)), jnp.ones((0, 3))
    a, reset = h0 if constant else b, jnp.zeros((5, 0), bool)

    def total(a, b, h0):
        h = linear_scan(a, b, h0, reset, method=method)
        assert h.shape == (5, 0, 3)
        return h.sum()

    value, gradients = jax.value_and_grad(total, (0, 1, 2))(a, b, h0)
    assert value == 0
    assert [gradient.shape for gradient in gradients] == [a.shape, b.shape, h0.shape]
    start = affine_identity((0.0, 0.0))
    h = operator_scan(affine_combine, (b, b), (h0, h0), reset, start, method=method)
    assert [leaf.shape for leaf in h] == [(5, 0, 3)] * 2


def running_sum(carry, x):
    return carry + x.sum(0), jnp.cumsum(x, 0) + carry


@pytest.mark.parametrize("steps", [1, 3, 6, 7])
def test_blocks_may_have_no_entries(steps):
    last, y = scan_in_blocks(running_sum, jnp.zeros((0, 2)), jnp.ones((steps, 0, 2)), 3)
    assert (last.shape, y.shape) == ((0, 2), (steps, 0, 2))


def matrices_merged(earlier, later):
    """Products of 2 x 2 matrices: associative, and the order matters."""
    return {"M": later["M"] @ earlier["M"]}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("steps", [1, 2, 5, 6])
@pytest.mark.parametrize("method", FORMS)
def test_an_operator_under_every_pattern_of_resets(method, steps):
    """Against a plain loop, from a carried state and from a start that are no identities."""
    rng = np.random.default_rng(0)
    reset = np.array(list(itertools.product([False, True], repeat=steps))).T
    elements = rng.standard_normal((*reset.shape, 2, 2))
    carried, start = rng.standard_normal((reset.shape[1], 2, 2)), rng.standard_normal((2, 2))
    arguments = ({"M": elements}, {"M": carried}, reset, {"M": start})
    arguments = jax.tree.map(jnp.asarray, arguments)
    merged = operator_scan(matrices_merged, *arguments, method=method)
    state = carried
    for t in range(steps):
        state = elements[t] @ np.where(reset[t][:, None, None], start, state)
        close(merged["M"][t], state, 1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_an_operator_has_steps_to_merge(method):
    b, start = jnp.ones((0, 2)), affine_identity((0.0, 0.0))
    with pytest.raises(ValueError, match=r"operator_scan.*T >= 1.*\(0, 2\)"):
        reset = jnp.zeros((0, 2), bool)
        operator_scan(
            affine_combine, (b, b), (jnp.ones(2), jnp.ones(2)), reset, start, method=method
        )


@pytest.mark.parametrize(("steps", "block"), [(0, 3), (5, 0), (5, -1)])
def test_blocks_have_steps(steps, block):
    with pytest.raises(ValueError, match=f"scan_in_blocks.*>= 1.*{steps} and {block}"):
        scan_in_blocks(running_sum, jnp.zeros(2), jnp.ones((steps, 2)), block)


@pytest.mark.parametrize(
    ("steps", "lengths"), [(1, {1}), (2, {2}), (3, {3}), (6, {3}), (7, {3, 1})]
)
def test_blocks_follow_each_other_and_what_remains_is_the_last(steps, lengths):
    """The body sees no empty block, and lets the compiler see which sums are the same."""
    seen = set()

    def body(carry, x):
        seen.add(len(x))
        return running_sum(carry, x)

    x, start = jnp.arange(1.0, 2 * steps + 1).reshape(steps, 2), jnp.array([100.0, 200.0])
    last, y = scan_in_blocks(body, start, x, 3)
    np.testing.assert_array_equal(y, np.cumsum(x, 0) + np.asarray(start))
    np.testing.assert_array_equal(last, y[-1])
    assert seen == lengths
    program = str(jax.make_jaxpr(lambda *given: scan_in_blocks(running_sum, *given, 3))(start, x))
    assert "prevent_cse=False" in program and "prevent_cse=True" not in program
    # One block is no loop.
    assert ("scan[" in program) is (steps > 5)


@pytest.mark.parametrize(
    ("platform", "steps", "loops"), [("cuda", 2, 0), ("cuda", 8, 0), ("cpu", 8, 1)]
)
def test_an_operator_takes_the_form_of_the_platform(platform, steps, loops):
    b, start = jnp.ones((steps, 3)), affine_identity((0.0, 0.0))
    reset = jnp.zeros((steps, 3), bool)
    traced = jax.jit(lambda *given: operator_scan(affine_combine, *given, start)).trace(
        (b, b), (b[0], b[0]), reset
    )
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.while") == loops

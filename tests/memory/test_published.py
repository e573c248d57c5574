"""Every memory against its published equations, and S5 against the facts of its initialisation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from ssmrl.memory import list_memories, make_memory, memory_config
from ssmrl.memory.diagonal import lost_power
from ssmrl.memory.s5 import hippo_legs_eigen
from tests.compiling import quick_jit
from tests.memory import references
from tests.memory.cases import (
    B,
    F,
    T,
    build,
    case,
    close,
    double_precision,
    draw,
    every_case,
    flags,
    is_inexact,
    run_without_carries,
    runner,
    used_carry,
)


def test_every_memory_has_a_reference():
    assert set(references.REFERENCES) == set(list_memories())


def wide(tree):
    """The same numbers in double precision; integers and flags as they are."""

    def widened(leaf):
        leaf = np.asarray(leaf)
        if not is_inexact(leaf):
            return leaf
        return leaf.astype(complex if np.iscomplexobj(leaf) else float)

    return jax.tree.map(widened, tree)


def reference_run(case, carry, x, reset):
    _, params = build(case)
    options = dataclasses.asdict(memory_config(case.name)(**case.options))
    params = wide(params).get("params", {})
    return references.stack(case.name, params, options, wide(x), reset, wide(carry))


def compare(case, tolerance):
    """Both ways to compute: with all carries, and without, where chunks and convolutions are.

    Of the two patterns of resets one is at random, and one has none after the first step.
    """
    params, carry, x = build(case)[1], used_carry(case), draw(T, B, F)
    for reset in (np.random.default_rng(2).random((T, B)) < 0.2, flags((0, slice(None, None, 2)))):
        want = reference_run(case, carry, x, reset)
        close(runner(case)(carry, x, reset)[:2], want, tolerance)
        close(run_without_carries(case, params, carry, x, reset), want, tolerance)


@every_case
def test_the_published_equations(case):
    """Double precision: the difference is rounding, or there is a mistake."""
    with double_precision():
        compare(case, 1e-12)


@pytest.mark.slow
@every_case
def test_the_published_equations_in_single_precision(case):
    compare(case, 1e-5)


# The block around a memory; around the memory that is none, which leaves the block alone.


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize(
    ("norm", "glu", "activation"),
    [
        ("none", "full", "gelu"),
        ("pre", "half", "silu"),
        ("post", "none", "relu"),
        ("pre", "full", "tanh"),
        ("post", "half", "none"),
    ],
)
def test_the_block(residual, norm, glu, activation):
    options = {"residual": residual, "norm": norm, "glu": glu, "activation": activation}
    with double_precision():
        compare(case("none", layers=2, **options), 1e-12)


# S5: what the paper says about the matrices at the start.


def hippo(size):
    """The matrix A and the vector P of HiPPO-LegS, entry by entry."""
    A, P = np.zeros((size, size)), np.zeros(size)
    for n in range(size):
        P[n] = np.sqrt(n + 0.5)
        for k in range(n + 1):
            A[n, k] = -(n + 1) if n == k else -np.sqrt((2 * n + 1) * (2 * k + 1))
    return A, P


def normal_part(size):
    A, P = hippo(size)
    return A + np.outer(P, P)


def with_mirror_images(eigenvalues, vectors):
    return (
        np.concatenate([eigenvalues, eigenvalues.conj()]),
        np.concatenate([vectors, vectors.conj()], axis=1),
    )


@pytest.mark.parametrize("size", [2, 4, 16, 64, 256])
def test_the_eigenvectors_rebuild_the_normal_part_of_hippo(size):
    S = normal_part(size)
    np.testing.assert_allclose(S @ S.T, S.T @ S, atol=1e-10 * np.abs(S @ S.T).max())
    eigenvalues, vectors = hippo_legs_eigen(size)
    assert eigenvalues.shape == (size // 2,) and vectors.shape == (size, size // 2)
    np.testing.assert_allclose(eigenvalues.real, -0.5, rtol=0, atol=1e-12)
    assert np.all(eigenvalues.imag > 0)
    eigenvalues, V = with_mirror_images(eigenvalues, vectors)
    np.testing.assert_allclose(V.conj().T @ V, np.eye(size), atol=1e-10)
    rebuilt = V @ np.diag(eigenvalues) @ V.conj().T
    np.testing.assert_allclose(rebuilt, S, atol=1e-10 * np.abs(S).max())


def fresh_s5(**options):
    """Parameters of the S5 inside one layer, as initialised."""
    memory = make_memory("s5", layers=1, **options)
    arguments = initial_carry_and_inputs(memory, options["features"])
    params = quick_jit(memory.init)(jax.random.key(0), *arguments)
    return memory, wide(params["params"]["layers_0"]["memory"])


def initial_carry_and_inputs(memory, features):
    return memory.initialize_carry((1,)), draw(1, 1, features), np.ones((1, 1), bool)


def test_s5_starts_as_blocks_of_hippo():
    _, params = fresh_s5(features=16, state_size=24, blocks=3)
    eigenvalues = -np.exp(params["log_decay"]) + 1j * params["frequency"]
    assert eigenvalues.shape == (12,)
    for block in np.split(eigenvalues, 3):
        np.testing.assert_allclose(block, hippo_legs_eigen(8)[0], rtol=1e-6)


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_s5_starts_stable_with_steps_in_their_range(discretization):
    _, params = fresh_s5(features=256, discretization=discretization)
    steps = np.exp(params["log_step"])
    assert steps.shape == (128,)
    assert steps.min() >= 1e-3 * (1 - 1e-6) and steps.max() <= 1e-1 * (1 + 1e-6)
    # Log-uniform: of 128 independent draws each third of the log range gets 43 ± 6 sigma (5.3).
    thirds = np.histogram(params["log_step"], np.linspace(np.log(1e-3), np.log(1e-1), 4))[0]
    assert np.all(np.abs(thirds - 128 / 3) <= 6 * np.sqrt(128 * 2 / 9))
    decay, _ = references.s5_discrete(params, {"discretization": discretization})
    assert np.all(np.abs(decay) < 1)


@pytest.mark.parametrize("discretization", ["zoh", "bilinear"])
def test_lost_power_has_all_digits_where_states_hardly_decay(discretization):
    """In float32, where 1 - |Λ̄|² itself has none left below 1e-7."""
    step = np.geomspace(1e-7, 10, 40)
    eigenvalue = np.complex64(-0.5 + 3j)
    ours = lost_power(discretization, jnp.asarray(eigenvalue), jnp.asarray(step, jnp.float32))
    decay, _ = references.discretized({"discretization": discretization}, -0.5 + 3j, step)
    np.testing.assert_allclose(ours, 1 - np.abs(decay) ** 2, rtol=3e-6)


def test_s5_projections_start_at_the_scale_of_lecun():
    """B is real with variance 1/inputs before V*, both parts of C have 1/states before V."""
    inputs, size = 64, 256
    _, params = fresh_s5(features=inputs, state_size=size, blocks=2)
    N = size // 2
    B = (params["B"][:, :N] + 1j * params["B"][:, N:]).T
    V = scipy.linalg.block_diag(*[hippo_legs_eigen(size // 2)[1]] * 2)
    real_B = 2 * (V @ B).real  # V V* and its mirror image make the identity
    C = references.s5_output_matrix(params)
    for entries, variance in ((real_B, 1 / inputs), (C.real, 1 / size), (C.imag, 1 / size)):
        # A sample variance of n normal numbers has relative standard deviation √(2/n).
        deviation = np.mean(entries**2) / variance - 1
        assert abs(deviation) <= 6 * np.sqrt(2 / entries.size)


@pytest.mark.parametrize("blocks", [1, 2])
def test_s5_is_the_dense_real_system(blocks):
    """With one Δ, S5 at the start is x' = Sx + Bu held over Δ, computed by a matrix exponential.

    S is the real matrix before diagonalisation: this is what keeping one half of the conjugate
    pairs, and putting 2 Re in front, must not change.
    """
    size, inputs, step = 8, 4, 0.05
    with double_precision():
        memory, params = fresh_s5(features=inputs, state_size=size, blocks=blocks)
    params["log_step"] = np.full_like(params["log_step"], np.log(step))
    V = scipy.linalg.block_diag(*[hippo_legs_eigen(size // blocks)[1]] * blocks)
    S = scipy.linalg.block_diag(*[normal_part(size // blocks)] * blocks)
    N = size // 2
    real_B = 2 * (V @ (params["B"][:, :N] + 1j * params["B"][:, N:]).T).real
    transition = scipy.linalg.expm(S * step)
    held = np.linalg.solve(S, (transition - np.eye(size)) @ real_B)
    u = draw(20, inputs).astype(float)
    x, outputs = np.zeros(size), []
    for u_t in u:
        x = transition @ x + held @ u_t
        y = 2 * (references.s5_output_matrix(params) @ (V.conj().T @ x)).real
        outputs.append(y + params["D"] * u_t)
    with double_precision():
        arguments = (np.zeros((1, N), complex), u[:, None], np.zeros((20, 1), bool))
        _, got = quick_jit(memory.layers[0].memory.apply)({"params": params}, *arguments)
        close(got[:, 0], np.stack(outputs), 1e-11)


# S4 and S4D: likewise.


def fresh_bank(name, **options):
    """Parameters of the bank of systems inside one layer, as initialised."""
    memory = make_memory(name, layers=1, features=2, **options)
    params = quick_jit(memory.init)(jax.random.key(0), *initial_carry_and_inputs(memory, 2))
    return wide(params["params"]["layers_0"]["memory"])


def test_s4_starts_as_hippo():
    size = 16
    systems = references.s4_dense(fresh_bank("s4", state_size=size))
    _, V = with_mirror_images(*hippo_legs_eigen(size))
    wanted, _ = hippo(size)
    for A, inputs, _ in zip(*systems, strict=True):
        np.testing.assert_allclose(V @ A @ V.conj().T, wanted, atol=1e-5 * np.abs(wanted).max())
        np.testing.assert_allclose(
            V @ inputs, np.sqrt(2 * np.arange(size) + 1), rtol=1e-5, atol=1e-5
        )


def test_s4d_inv_has_the_frequencies_of_hippo():
    """Gu et al. 2022, conjecture 5: the largest approach those of the normal part."""
    size = 64
    frequency = fresh_bank("s4d", state_size=size, initialization="inv")["frequency"][0]
    largest_first = hippo_legs_eigen(size)[0].imag[::-1]
    np.testing.assert_allclose(frequency[:3], largest_first[:3], rtol=0.1)

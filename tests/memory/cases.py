"""What the memory tests share: cases over the registry, parameters, and double precision.

A newly registered memory is covered without a change here. Where its defaults are too large for a
quick test, `SMALL` has smaller ones; `VARIANTS` adds options that deserve a run of their own.

All tests of a case use one shape and one compiled program where they can, and prepare their data in
NumPy: on CPUs these tests compile much longer than they run.
"""

import contextlib
import sys
from dataclasses import dataclass, fields
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.memory import list_memories, make_memory, memory_config
from tests.compiling import quick_jit

T, B = 8, 8
F = 5  # inputs; not the memories' width, so that projections are covered
WIDTH = 6

# Chunks of 3 do not divide the T steps, and windows of 4 are shorter than they.
CHUNKED = {"heads": 2, "key_size": 4, "chunk_size": 3}
SMALL: dict[str, dict] = {
    "aaren": {"heads": 2},
    "deltanet": CHUNKED,
    "dss": {"state_size": 4},
    "ffm": {"trace_size": 4, "context_size": 3},
    "frame_stack": {"frames": 3},
    "gated_deltanet": CHUNKED,
    "gla": CHUNKED,
    "hgrn2": CHUNKED,
    "linear_attention": CHUNKED,
    "lmu": {"channels": 2, "order": 4, "theta": 6.0},
    "longhorn": {"state_size": 4},
    "lru": {"state_size": 4},
    "mamba": {"state_size": 4},
    "mamba2": CHUNKED,
    "mlstm": CHUNKED,
    "retnet": CHUNKED,
    "s4": {"state_size": 4},
    "s4d": {"state_size": 4},
    # Keys and queries are positive parts: of 4 numbers each, a third have nothing in common.
    "shm": {"memory_size": 16, "rows": 8},
    "transformer": {"heads": 3, "window": 4},  # rotary positions turn pairs of channels
}

REAL = {"complex_state": False, "reparameterization": "softplus"}
STABLE = {"reparameterization": "stable", "polarized": True}
VARIANTS: dict[str, list[dict]] = {
    "dss": [STABLE, REAL, {"discretization": "bilinear", "step_rescale": 2.0}],
    "frame_stack": [{"frames": 1}],
    "lru": [STABLE, REAL | {"step_rescale": 2.0}],
    "mamba": [{"conv_width": 1, "dt_rank": 2}],
    "s4d": [
        STABLE | {"initialization": "inv"},
        REAL | {"polarized": True},
        {"discretization": "bilinear", "step_rescale": 2.0, "initialization": "lin"},
        {"reparameterization": "stable", "initialization": "real"},
        {"form": "recurrence"},
    ],
    "s5": [
        {"state_size": 12, "blocks": 2, "discretization": "bilinear"},
        STABLE | {"state_size": 12, "blocks": 2},
        REAL | {"blocks": 2, "step_rescale": 2.0, "normalized": True},
        {"normalized": True, "discretization": "bilinear", "state_size": 12},
        {"complex_state": False, "reparameterization": "stable", "polarized": True, "blocks": 2},
    ],
    "transformer": [
        {"positions": "alibi", "gate": "gtrxl", "norm": "post"},
        {"positions": "none", "window": 1, "feedforward": 0},
        {"window": 20},  # longer than the sequence
    ],
}
IN_FULL = {"gru", "s5"}
"""Whose two layers, parallel forms and long tests are not left to the slow tests."""


@dataclass(frozen=True)
class Case:
    """A memory by name, with options (as items, so that a case can be a cache key)."""

    name: str
    items: tuple

    @property
    def options(self) -> dict:
        return dict(self.items)

    def __str__(self) -> str:
        hidden = {"features": WIDTH} | SMALL.get(self.name, {})
        shown = [f"{k}={v}" for k, v in self.items if k not in hidden or hidden[k] != v]
        return "-".join([self.name, *shown])


def option_names(name: str) -> set[str]:
    return {field.name for field in fields(memory_config(name))}


def case(name: str, **options) -> Case:
    return Case(name, tuple(({"features": WIDTH} | SMALL.get(name, {}) | options).items()))


def cases_of(name: str) -> list:
    """One and two layers; where there are such options, a learned start and the parallel form.

    As pytest's parameters: all but one layer with defaults are slow, but for memories `IN_FULL`.
    """
    learned = {"learned_initial_carry": True} if has_learned_start(name) else {}
    cases = [case(name, layers=1), case(name, layers=2, **learned)]
    if "scan_method" in option_names(name):
        cases.append(case(name, layers=1, scan_method="associative", **learned))
    cases += [case(name, **{"layers": 1} | options) for options in VARIANTS.get(name, [])]
    fast = 4 if name in IN_FULL else 1
    return cases[:fast] + [pytest.param(c, marks=pytest.mark.slow, id=str(c)) for c in cases[fast:]]


def has_learned_start(name: str) -> bool:
    return "learned_initial_carry" in option_names(name)


def looks_back(case: Case) -> bool:
    """Whether anything but the present step matters to it."""
    return case.name != "none" and 1 not in (case.options.get("frames"), case.options.get("window"))


ALL_CASES = [c for name in list_memories() for c in cases_of(name)]
every_case = pytest.mark.parametrize("case", ALL_CASES, ids=str)
every_case_in_time = pytest.mark.parametrize(
    "case",
    [
        pytest.param(c, marks=() if c.name in IN_FULL else pytest.mark.slow)
        if isinstance(c, Case)
        else c
        for c in ALL_CASES
    ],
    ids=str,
)
"""All cases; those of memories that are not `IN_FULL` in the slow tests only."""
every_memory = pytest.mark.parametrize("name", list_memories())
every_memory_in_time = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in IN_FULL else pytest.mark.slow)
        for name in list_memories()
    ],
)
"""All memories; those that are not `IN_FULL` in the slow tests only."""


def build(case: Case, dtype: str | None = None, inputs: int = F):
    """The memory, and parameters away from their special initial values.

    Zeros and ones hide mistakes: a bias of zero cannot show that it is read in the wrong place, and
    a learned initial carry of zeros cannot be told from none.
    """
    return _build(case, dtype, inputs, jax.config.jax_enable_x64)


@cache
def _build(case, dtype, inputs, double):
    memory = make_memory(case.name, **case.options)

    def init():
        x = jnp.zeros((1, 1, inputs), dtype or float)
        return memory.init(jax.random.key(0), fresh_carry(memory, (1,)), x, jnp.ones((1, 1), bool))

    def perturb(path, leaf):
        name = jax.tree_util.keystr(path)
        noise = np.random.default_rng(sum(map(ord, name))).standard_normal(leaf.shape)
        leaf = noise if "initial_carry" in name else np.asarray(leaf) + 0.3 * noise
        # In double precision all of them: flax's own layers make single precision ones.
        return jnp.asarray(leaf, float if double else np.float32)

    return memory, jax.tree_util.tree_map_with_path(perturb, quick_jit(init)())


def runner(case: Case):
    """`run(carry, x, reset)`: the last carry, y, and the carries after every step, as NumPy."""
    return partial(run_with, case, build(case)[1])


def run_with(case: Case, params, carry, x, reset):
    """The same with other parameters."""
    apply = _compiled(case, jax.config.jax_enable_x64)
    return jax.device_get(apply(params, carry, x, reset))


@cache
def _compiled(case, double):
    memory, _ = build(case)
    return quick_jit(lambda *arguments: memory.apply(*arguments, return_carries=True))


def run_without_carries(case: Case, params, carry, x, reset):
    """The last carry and y as training computes them: by chunks or convolutions if there are."""
    apply = _compiled_without_carries(case, jax.config.jax_enable_x64)
    return jax.device_get(apply(params, carry, x, reset))


@cache
def _compiled_without_carries(case, double):
    return quick_jit(build(case)[0].apply)


def draw(*shape, seed=0, dtype=None):
    x = np.random.default_rng(seed).standard_normal(shape)
    return x.astype(dtype or jnp.zeros(0).dtype)


def flags(*entries, shape=(T, B)):
    """Booleans, all False except for `entries`."""
    reset = np.zeros(shape, bool)
    for entry in entries:
        reset[entry] = True
    return reset


def fresh_carry(memory, batch):
    """The initial carry; where x64 is on, with complex numbers in double precision too."""
    carry = memory.initialize_carry(batch)
    if not jax.config.jax_enable_x64:
        return carry
    return jax.tree.map(lambda x: x.astype(complex) if jnp.iscomplexobj(x) else x, carry)


def initial_carry(case: Case, batch=(B,)):
    return jax.device_get(fresh_carry(build(case)[0], batch))


def used_carry(case: Case, seed=1):
    """A carry that is not the initial one: after T random inputs."""
    return runner(case)(initial_carry(case), draw(T, B, F, seed=seed), flags(0))[0]


@contextlib.contextmanager
def double_precision():
    """The same code, with states in double precision.

    The memories keep their states in float32 by design, so that switching x64 on alone would leave
    float32's rounding in every comparison. `STATE_DTYPE` is the one place that says so.
    """
    modules = [m for name, m in sys.modules.items() if name.startswith("ssmrl.memory")]
    with jax.enable_x64(True), pytest.MonkeyPatch.context() as patch:
        for module in modules:
            if hasattr(module, "STATE_DTYPE"):
                patch.setattr(module, "STATE_DTYPE", jnp.float64)
        yield


def close(got, want, tolerance):
    """Trees alike; errors relative to the largest entry of each leaf of `want`.

    Integers and flags must be equal.
    """
    assert jax.tree.structure(got) == jax.tree.structure(want)
    paths = jax.tree_util.tree_leaves_with_path(want)
    for got_leaf, (path, want_leaf) in zip(jax.tree.leaves(got), paths, strict=True):
        got_leaf, want_leaf = np.asarray(got_leaf), np.asarray(want_leaf)
        assert got_leaf.shape == want_leaf.shape
        if not is_inexact(want_leaf):
            np.testing.assert_array_equal(got_leaf, want_leaf, jax.tree_util.keystr(path))
            continue
        wide = complex if np.iscomplexobj(want_leaf) else float
        error = np.abs(got_leaf.astype(wide) - want_leaf.astype(wide)).max(initial=0)
        scale = np.abs(want_leaf.astype(wide)).max(initial=0)
        assert error <= tolerance * scale, f"{jax.tree_util.keystr(path)}: {error} of {scale}"


def same(got, want):
    """Trees alike, to the bit."""
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(np.testing.assert_array_equal, got, want)


def at(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


def is_inexact(leaf) -> bool:
    return jnp.issubdtype(leaf.dtype, jnp.inexact)


def inexact(tree) -> list:
    """The leaves that can hold a NaN and have a gradient."""
    return [leaf for leaf in jax.tree.leaves(tree) if is_inexact(leaf)]


def with_inexact(tree, leaves):
    """`tree` with its inexact leaves replaced by `leaves`."""
    leaves = iter(leaves)
    return jax.tree.map(lambda leaf: next(leaves) if is_inexact(leaf) else leaf, tree)

"""What a program costs, counted from its jaxpr: nothing is compiled or computed.

XLA's own cost analysis counts the body of a loop once, however often it runs, and an agent's
iteration is loops: over steps, over updates, over windows. Here a scan counts as often as it runs.
Of a `cond` the dearest branch counts; a `while`, whose number of rounds nobody knows, counts once.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import jax
import numpy as np
from jax.extend.core import Var

# Read and written from and to memory by themselves; all else is taken to be fused with its like.
HEAVY = frozenset(
    (
        *("dot_general", "conv_general_dilated", "gather", "scatter", "scatter-add", "sort"),
        *("cumsum", "reduce_sum", "reduce_max", "argmax", "dynamic_update_slice"),
    )
)
UPDATES = frozenset(("scatter", "scatter-add", "dynamic_update_slice"))
_FREE = frozenset(
    (
        *("reshape", "broadcast_in_dim", "squeeze", "transpose", "slice", "convert_element_type"),
        *("concatenate", "dynamic_slice", "copy", "stop_gradient", "iota", "pad", "rev"),
    )
)


@dataclass
class Costs:
    """Of a program.

    Attributes:
        flops: of matrix products and convolutions by the type of their factors, and under "other"
            one for every element that anything else makes.
        bytes: that the `HEAVY` operations read and write.
        kernels: how many of those run one after the other; of a scan's round at least one.
    """

    flops: dict[str, float] = field(default_factory=dict)
    bytes: float = 0.0
    kernels: float = 0.0

    def add(self, other: "Costs", times: float = 1) -> None:
        """Counts `other` so many times more."""
        for kind, flops in other.flops.items():
            self.flops[kind] = self.flops.get(kind, 0) + flops * times
        self.bytes += other.bytes * times
        self.kernels += other.kernels * times


def costs_of(program: Any) -> Costs:
    """The costs of what `jax.make_jaxpr` gives."""
    return _count(program.jaxpr)


def peak_bytes(program: Any) -> int:
    """The most that a program holds beside its arguments if it runs in the order it is written in.

    An upper estimate: what XLA fuses is never held.
    """
    return _peak(program.jaxpr)


def _peak(jaxpr: Any) -> int:
    uses = [(i, v) for i, e in enumerate(jaxpr.eqns) for v in e.invars if isinstance(v, Var)]
    uses += [(len(jaxpr.eqns), v) for v in jaxpr.outvars if isinstance(v, Var)]
    last, outside = {v: i for i, v in uses}, {*jaxpr.invars, *jaxpr.constvars}
    held = most = 0
    for i, equation in enumerate(jaxpr.eqns):
        new = {*equation.outvars} - _in_place(equation)
        outside |= {*equation.outvars} - new  # It is where what it updates is.
        held += sum(_bytes(v.aval) for v in new)
        most = max(most, held + max(map(_peak, _inner(equation)), default=0))
        own = {v for v in (*equation.invars, *equation.outvars) if isinstance(v, Var)}
        held -= sum(_bytes(v.aval) for v in own - outside if last.get(v, i) <= i)
    return most


def _in_place(equation: Any) -> set[Var]:
    """The results that XLA writes over what they are an update of, such as a replay buffer."""
    if equation.primitive.name in UPDATES:
        return {*equation.outvars}
    found = set()
    for inner in _inner(equation):
        made = _all_in_place(inner)
        pairs = zip(equation.outvars, inner.outvars, strict=False)
        found |= {v for v, result in pairs if isinstance(result, Var) and result in made}
    return found


@functools.cache
def _all_in_place(jaxpr: Any) -> set[Var]:
    return {v for equation in jaxpr.eqns for v in _in_place(equation)}


def _count(jaxpr: Any) -> Costs:
    total = Costs()
    for equation in jaxpr.eqns:
        inner = [_count(sub) for sub in _inner(equation)]
        if equation.primitive.name == "cond":
            inner = [max(inner, key=lambda c: (sum(c.flops.values()), c.kernels))]
        for costs in inner:
            if equation.primitive.name == "scan":  # a round is not free, whatever is in it
                costs.kernels = max(costs.kernels, 1)
            total.add(costs, _rounds(equation))
        if not inner:
            total.add(_one(equation))
    return total


def _inner(equation: Any) -> Iterator[Any]:
    """The programs that an operation contains, but for a `while`'s condition and a reduction's."""
    if equation.primitive.name in HEAVY:
        return
    for name, value in equation.params.items():
        for sub in value if isinstance(value, (tuple, list)) else (value,):
            sub = getattr(sub, "jaxpr", sub)
            if hasattr(sub, "eqns") and name != "cond_jaxpr":
                yield sub


def _rounds(equation: Any) -> int:
    return equation.params["length"] if equation.primitive.name == "scan" else 1


def _one(equation: Any) -> Costs:
    name, result = equation.primitive.name, equation.outvars[0].aval
    size = math.prod(getattr(result, "shape", ()))
    if name == "dot_general":
        (contracted, _), _ = equation.params["dimension_numbers"]
        left = equation.invars[0].aval
        flops = 2 * size * math.prod(left.shape[axis] for axis in contracted)
        kind = str(left.dtype)
    elif name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        outputs = kernel.shape[equation.params["dimension_numbers"].rhs_spec[0]]
        flops = 2 * size * math.prod(kernel.shape) // outputs
        kind = str(kernel.dtype)
    else:
        flops, kind = (0 if name in _FREE else size), "other"
    if name not in HEAVY:
        return Costs({kind: flops})
    # Of a table that is looked up, only what is found is read; an update writes only what is new.
    operands = equation.invars[1:] if name in UPDATES | {"gather"} else equation.invars
    read = sum(_bytes(v.aval) for v in operands)
    made = sum(_bytes(v.aval) for v in equation.outvars)
    moved = {"gather": read + 2 * made}.get(name, 2 * read if name in UPDATES else read + made)
    return Costs({kind: flops}, moved, 1)


def _bytes(aval: Any) -> int:
    dtype = getattr(aval, "dtype", None)
    if dtype is None:
        return 0
    size = 8 if jax.dtypes.issubdtype(dtype, jax.dtypes.prng_key) else np.dtype(dtype).itemsize
    return math.prod(aval.shape) * size

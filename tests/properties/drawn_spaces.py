"""Spaces as hypothesis draws them: ours, gymnasium's and gymnax's, nested, and elements of them.

Shapes are few, because every shape is compiled for.
"""

import gymnasium
import numpy as np
from hypothesis import strategies as st

from ssmrl.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Tuple

SHAPES = [(), (0,), (3,), (2, 3), (8, 8, 0)]
FLOATS = [np.float16, np.float32]
INTEGERS = [np.int8, np.uint8, np.uint16, np.int32, np.uint32]
WIDE = [np.float64, np.int64, np.uint64]
"""What gymnasium's spaces have and JAX has not."""
EDGES = [0, 1, -1, 127, 255, 2**15, 2**24 + 1, 2**31 - 1, 2**31, 2**32 - 1, 2**53 + 1, 2**63 - 1]


def _finite(dtype: np.dtype) -> st.SearchStrategy:
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        edges = [limits.min, limits.max, *(e for e in EDGES if limits.min <= e <= limits.max)]
        return st.sampled_from(edges) | st.integers(int(limits.min), int(limits.max))
    limits = np.finfo(dtype)
    edges = [float(limits.max), float(limits.min), float(limits.tiny), 0.0, -1.0, 1.0]
    return st.sampled_from(edges) | st.floats(
        float(limits.min), float(limits.max), width=dtype.itemsize * 8
    )


@st.composite
def bounds(draw, dtypes, shapes=SHAPES):
    """(low, high, shape, dtype): each bound finite, the dtype's own limit, or none."""
    dtype = np.dtype(draw(st.sampled_from(dtypes)))
    shape = draw(st.sampled_from(shapes))
    size = int(np.prod(shape))
    number = _finite(dtype)
    lows, highs = [], []
    same = draw(st.booleans())
    for i in range(size):
        if same and i:
            lows.append(lows[0])
            highs.append(highs[0])
            continue
        low, high = sorted((draw(number), draw(number)))
        if dtype.kind == "f":
            low = -np.inf if draw(st.integers(0, 3)) == 0 else low
            high = np.inf if draw(st.integers(0, 3)) == 0 else high
        lows.append(low)
        highs.append(high)
    low, high = (np.array(x, dtype).reshape(shape) for x in (lows, highs))
    return low, high, shape, dtype


@st.composite
def boxes(draw, dtypes=(*FLOATS, *INTEGERS), shapes=SHAPES):
    """Our Box."""
    return Box(*draw(bounds(list(dtypes), shapes)))


def _discretes():
    return st.builds(Discrete, st.sampled_from([1, 2, 5]))


def _multi_discretes():
    return st.sampled_from([[1], [2, 5], [[2, 3], [4, 1]]]).map(MultiDiscrete)


def nested(leaf: st.SearchStrategy) -> st.SearchStrategy:
    """Dicts and tuples of `leaf`, empty ones too."""
    return st.recursive(
        leaf,
        lambda inner: (
            st.dictionaries(st.sampled_from(["a", "b", "z 1"]), inner, max_size=2).map(Dict)
            | st.lists(inner, max_size=2).map(Tuple)
        ),
        max_leaves=3,
    )


def spaces() -> st.SearchStrategy:
    """Any space of ours."""
    return nested(boxes() | _discretes() | _multi_discretes())


def action_spaces() -> st.SearchStrategy:
    """Spaces that agents may act in, and some that they may not."""
    return nested(boxes(dtypes=FLOATS) | boxes() | _discretes() | _multi_discretes())


@st.composite
def _gymnasium_leaf(draw):
    g = gymnasium.spaces
    kind = draw(st.sampled_from(["box", "box", "box", "discrete", "multi", "binary", "text"]))
    if kind == "box":
        low, high, shape, dtype = draw(bounds([*FLOATS, *INTEGERS, *WIDE]))
        return g.Box(low, high, shape, dtype.type)
    if kind == "discrete":
        # gymnasium checks itself that the last value is one of int64.
        return g.Discrete(
            draw(st.sampled_from([1, 3, 2**31, 2**40])), start=draw(st.integers(-9, 9))
        )
    if kind == "multi":
        return g.MultiDiscrete(draw(st.sampled_from([[2, 3], [[2], [4]]])))
    if kind == "binary":
        return g.MultiBinary(draw(st.sampled_from([1, 3, [2, 2]])))
    return g.Text(3)


def gymnasium_spaces() -> st.SearchStrategy:
    """Any of gymnasium's that its users write, those included that we have to refuse."""
    g = gymnasium.spaces
    return st.recursive(
        _gymnasium_leaf(),
        lambda inner: (
            st.dictionaries(st.sampled_from(["a", "b"]), inner, max_size=2).map(g.Dict)
            | st.lists(inner, max_size=2).map(g.Tuple)
        ),
        max_leaves=3,
    )


def corner(space, high: bool):
    """The element of a space with every entry at its bound, or at a large number without one."""
    if isinstance(space, Dict):
        return {name: corner(part, high) for name, part in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(corner(part, high) for part in space.spaces)
    if isinstance(space, Discrete):
        return np.int32(space.n - 1 if high else 0)
    if isinstance(space, MultiDiscrete):
        return space.nvec - 1 if high else np.zeros_like(space.nvec)
    bound = space.high if high else space.low
    if space.dtype.kind == "f":
        bound = np.clip(bound, -1e4, 1e4).clip(space.low, space.high)
    return bound.astype(space.dtype)

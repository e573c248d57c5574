"""Beginning with what another run has learned (``init_from``), and which spaces fit each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from ssmrl.training.agent import TransferableAgent
from ssmrl.training.errors import RunError


def make_transfer(
    source: Any,
    source_state: Any,
    source_seeds: int,
    target: Any,
    target_state: Any,
    target_seeds: int,
    chosen: Sequence[str],
    where: str,
) -> tuple[Callable[[Any], Any], str]:
    """How to put parts of a trained state into a new one.

    Args:
        source: the agent that has learned.
        source_state: its state; leaves ``[source_seeds, ...]`` if there are several seeds.
        source_seeds: seeds trained there.
        target: the agent that is to begin.
        target_state: its state as ShapeDtypeStructs, leaves ``[target_seeds, ...]`` likewise.
        target_seeds: seeds to train; the i-th begins with what the i-th there has learned, counted
            from the first again where there are fewer.
        chosen: names of parts; none means all.
        where: the run, for messages.

    Returns:
        A function from the new agent's state to the state to begin with, and a line that says what
        is loaded and what is not.

    Raises:
        RunError: an agent cannot do this, or a part does not exist or does not fit.
    """
    for agent, which in ((source, "that run's"), (target, "this")):
        if not isinstance(agent, TransferableAgent):
            raise RunError(f"init_from={where}: {which} agent has no parts to hand over")
    there, here = source.parts(source_state), target.parts(target_state)
    names = list(chosen) or list(here)
    for name in names:
        for parts, what in ((here, "agent"), (there, "run there")):
            if name not in parts:
                raise RunError(
                    f"init_from={where}: the {what} has no part {name!r}; "
                    f"its parts are {', '.join(parts)}"
                )
    loaded = {name: _for_seeds(there[name], source_seeds, target_seeds) for name in names}
    for name in names:
        _check_part(name, loaded[name], here[name], where)

    def transfer(state: Any) -> Any:
        return target.with_parts(state, jax.tree.map(jax.numpy.array, loaded))

    counts = [f"{name} ({_size(loaded[name]) // target_seeds:,} numbers)" for name in names]
    rest = [name for name in here if name not in names]
    return transfer, f"loaded: {', '.join(counts)}; from scratch: {', '.join([*rest, 'optimiser'])}"


def _for_seeds(part: Any, source_seeds: int, target_seeds: int) -> Any:
    """Leaves ``[source_seeds, ...]`` as ``[target_seeds, ...]``, without an axis for one seed."""

    def leaf(x: Any) -> Any:
        rows = x if source_seeds > 1 else x[None]
        rows = rows[np.arange(target_seeds) % source_seeds]
        return rows if target_seeds > 1 else rows[0]

    return jax.tree.map(leaf, part)


def _check_part(name: str, there: Any, here: Any, where: str) -> None:
    def table(part: Any) -> dict[str, str]:
        flat = jax.tree_util.tree_flatten_with_path(part)[0]
        return {jax.tree_util.keystr(p): f"{x.dtype}{list(x.shape)}" for p, x in flat}

    old, new = table(there), table(here)
    different = [key for key in dict.fromkeys([*new, *old]) if old.get(key) != new.get(key)]
    if different:
        key = different[0]
        more = f" (and {len(different) - 1} more)" if len(different) > 1 else ""
        raise RunError(
            f"init_from={where}: {name} does not fit: {key} is {old.get(key, 'absent')} there and "
            f"{new.get(key, 'absent')} here{more}; choose what to load with init_parts"
        )


def _size(part: Any) -> int:
    return sum(x.size for x in jax.tree.leaves(part))


# ------------------------------------------------------------------------------------- spaces


def same_kind(a: Any, b: Any) -> bool:
    """Whether elements of two spaces have one structure, shape, dtype and, where discrete, values.

    The bounds of a `Box` do not matter: a policy is a function of the numbers that it sees, whose
    scaling was settled by the space that it was trained with.
    """
    return _kind(a) == _kind(b)


def same_scale(a: Any, b: Any) -> bool:
    """`same_kind`, and one scale for numbers that encoders scale by their bounds.

    Those are integers and pictures. Vectors of floats go in as they are.
    """
    return same_kind(a, b) and all(
        np.array_equal(x.low, y.low) and np.array_equal(x.high, y.high)
        for x, y in zip(_boxes(a), _boxes(b), strict=True)
        if np.dtype(x.dtype).kind != "f" or len(x.shape) > 1
    )


def covers(outer: Any, inner: Any) -> bool:
    """Whether every element of ``inner`` lies within the bounds of ``outer``, of the same kind."""
    pairs = zip(_boxes(outer), _boxes(inner), strict=True)
    return all((o.low <= i.low).all() and (i.high <= o.high).all() for o, i in pairs)


def _parts(space: Any) -> list[tuple[Any, Any]] | None:
    """(name, space) of each part of a Dict or Tuple, else None."""
    spaces = getattr(space, "spaces", None)
    if isinstance(spaces, Mapping):
        return sorted(spaces.items())
    return None if spaces is None else list(enumerate(spaces))


def _kind(space: Any) -> Any:
    parts = _parts(space)
    if parts is not None:
        return type(space).__name__, tuple((name, _kind(part)) for name, part in parts)
    if _is_box(space):
        return "Box", tuple(space.shape), np.dtype(space.dtype).name
    return space


def _boxes(space: Any) -> list[Any]:
    parts = _parts(space)
    if parts is not None:
        return [box for _, part in parts for box in _boxes(part)]
    return [space] if _is_box(space) else []


def _is_box(space: Any) -> bool:
    return hasattr(space, "low") and hasattr(space, "high")

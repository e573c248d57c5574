"""What environments promise, checked: every fault is one line that says where, what, and what came.

Two kinds of environments are held to it. Those in JAX are checked while they are traced
(:func:`reset_checked`, :func:`step_checked`, and :func:`vector_reset_checked`,
:func:`vector_step_checked` for a user's own vector environments), which costs a running program
nothing; values, which a trace does not see, by playing a few steps (:func:`first_steps_fault`).
Python environments are checked where they answer (:mod:`ssmrl.envs.adapters.gymnasium`), with the
same :class:`Leaf`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import traceback
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssmrl.envs.batching import strip_weak_types
from ssmrl.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple

ROUNDING = 1e-5
"""By what share of its range (of its size, where one side is open) a float may leave its bounds: an
environment that clips in float64 or normalises a vector is right, and off by a rounding."""


class EnvironmentFault(ValueError):
    """An environment does not do what it promises; the message is one line.

    It names the environment, the place, the part of the observation, what was expected and what
    came.
    """


def signature(dtype: Any, shape: Any) -> str:
    """``float32[4]``: how messages write what an array is."""
    return f"{getattr(dtype, 'name', dtype)}{list(shape)}"


def one_line(error: BaseException, limit: int = 300) -> str:
    """The message of an exception as one line, with its type."""
    text = " ".join(str(error).split())
    text = text if len(text) <= limit else f"{text[: limit - 1]}…"
    return f"{text} ({type(error).__name__})" if text else type(error).__name__


# ------------------------------------------------------------------------------------- leaves


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of the elements of a space, and the values it may take.

    Attributes:
        name: for messages, e.g. ``observation['camera'][0]``.
        shape, dtype: of an element.
        low, high: the bounds, roundings allowed for; None where the dtype has no other values.
        space: where it comes from.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    low: np.ndarray | None
    high: np.ndarray | None
    space: Space

    def fault(self, batch: np.ndarray) -> tuple[int, str] | None:
        """The first row of ``batch [B, ...]`` with a value that may not be, and what is wrong."""
        good: Any = True
        if self.dtype.kind == "f":
            good = np.isfinite(batch)
        if self.low is not None:
            good = good & (batch >= self.low) & (batch <= self.high)
        if np.all(good):
            return None
        row, *entry = (int(i) for i in np.argwhere(~good)[0])
        value = batch[(row, *entry)]
        where = f"{self.name}{entry or ''}"
        if self.dtype.kind == "f" and not np.isfinite(value):
            return row, f"{where} must be finite, got {value}"
        return row, f"{where} must be in {self._range(tuple(entry))}, got {value}"

    def _range(self, entry: tuple[int, ...]) -> str:
        if isinstance(self.space, Box):
            return f"[{self.space.low[entry]}, {self.space.high[entry]}]"
        n = self.space.n if isinstance(self.space, Discrete) else self.space.nvec[entry]
        return f"0 … {n - 1}"


def leaves_of(space: Space, name: str = "observation") -> list[Leaf]:
    """The leaves of the elements of ``space``, in the order of ``jax.tree.leaves``."""
    if isinstance(space, Dict):
        parts = [(f"{name}[{key!r}]", space.spaces[key]) for key in sorted(space.spaces)]
        return [leaf for part, inner in parts for leaf in leaves_of(inner, part)]
    if isinstance(space, Tuple):
        return [x for i, inner in enumerate(space.spaces) for x in leaves_of(inner, f"{name}[{i}]")]
    low: np.ndarray | None
    high: np.ndarray | None
    if isinstance(space, Discrete):
        low, high = np.asarray(0, np.int32), np.asarray(space.n - 1, np.int32)
    elif isinstance(space, MultiDiscrete):
        low, high = np.zeros_like(space.nvec), space.nvec - 1
    else:
        assert isinstance(space, Box)
        low, high = _bounds_with_rounding(space)
    return [Leaf(name, space.shape, space.dtype, low, high, space)]


def _bounds_with_rounding(space: Box) -> tuple[np.ndarray | None, np.ndarray | None]:
    if space.dtype.kind in "iu":
        limits = np.iinfo(space.dtype)
        if (space.low == limits.min).all() and (space.high == limits.max).all():
            return None, None
        return space.low, space.high
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    if np.isinf(low).all() and np.isinf(high).all():
        return None, None
    size = np.maximum(*(np.where(np.isfinite(bound), np.abs(bound), 0) for bound in (low, high)))
    both = np.isfinite(low) & np.isfinite(high)
    # inf - inf, not taken; and beyond the largest float32 there is no bound.
    with np.errstate(invalid="ignore", over="ignore"):
        slack = ROUNDING * np.where(both, high - low, np.maximum(size, 1))
        return np.asarray(low - slack, np.float32), np.asarray(high + slack, np.float32)


def check_space(name: str, what: str, space: Any) -> Space:
    """``space``, if it is one of ours.

    Raises:
        EnvironmentFault: if it is something else, a space of gymnasium say.
    """
    if isinstance(space, Space):
        return space
    cls = type(space)
    raise EnvironmentFault(
        f"{name}: {what} must give a space of ssmrl.envs.spaces, got {cls.__module__}."
        f"{cls.__name__} (from_gymnasium and from_gymnax there convert)"
    )


# ------------------------------------------------------------------- environments in JAX: types


def reset_checked(name: str, env: Any, space: Space, key: Any, params: Any) -> tuple[Any, Any]:
    """``env.reset_env(key, params)``, held to its contract.

    Args:
        name: of the environment, for messages.
        env: an :class:`~ssmrl.envs.Environment`.
        space: its observation space.
        key, params: for ``reset_env``.

    Returns:
        obs, state; the leaves strongly typed arrays.

    Raises:
        EnvironmentFault: as the module's docstring says.
    """
    where = f"{name}, reset_env"
    with _own_code(where):
        result = env.reset_env(key, params)
    return _reset_result(where, result, space)


def step_checked(
    name: str, env: Any, space: Space, key: Any, state: Any, action: Any, params: Any
) -> tuple[Any, Any, Any, Any, Any, dict[str, Any]]:
    """``env.step_env(key, state, action, params)``, held to its contract.

    Args:
        name, env, space: as for :func:`reset_checked`.
        key, state, action, params: for ``step_env``.

    Returns:
        obs, state, reward f32[], terminated bool[], truncated bool[], info; strongly typed arrays.

    Raises:
        EnvironmentFault: as the module's docstring says.
    """
    where = f"{name}, step_env"
    # A copy of the containers: what the environment writes into a dict of its state is not ours.
    with _own_code(where):
        result = env.step_env(key, jax.tree.map(lambda x: x, state), action, params)
    return _step_result(where, state, result, space)


def vector_reset_checked(venv: Any, key: Any) -> tuple[Any, Any]:
    """``venv.reset(key)`` of a :class:`~ssmrl.envs.VectorEnv`, held to its contract.

    Returns:
        obs, state; the leaves strongly typed arrays.

    Raises:
        EnvironmentFault: as the module's docstring says.
    """
    where = f"{venv.name}, reset"
    with _own_code(where):
        result = venv.reset(key)
    return _reset_result(where, result, venv.observation_space, (venv.num_envs,))


def vector_step_checked(venv: Any, state: Any, action: Any) -> tuple[Any, ...]:
    """``venv.step(state, action)`` of a :class:`~ssmrl.envs.VectorEnv`, held to its contract.

    Returns:
        obs, state, reward f32[B], terminated bool[B], truncated bool[B], info; strongly typed.

    Raises:
        EnvironmentFault: as the module's docstring says.
    """
    where, space, batch = f"{venv.name}, step", venv.observation_space, (venv.num_envs,)
    with _own_code(where):
        result = venv.step(jax.tree.map(lambda x: x, state), action)
    *others, info = _step_result(where, state, result, space, batch, ("final_observation",))
    final = info["final_observation"]
    final = _conform(where, space, final, "info['final_observation']", batch)
    return *others, info | {"final_observation": final}


def _reset_result(where: str, result: Any, space: Space, batch: tuple[int, ...] = ()) -> Any:
    """What a reset returned, checked; observations have the leading axes ``batch``."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise EnvironmentFault(f"{where} must return (obs, state), got {describe(result)}")
    obs, state = result
    return _conform(where, space, obs, "observation", batch), _arrays(where, state, "state")


def _step_result(
    where: str,
    state: Any,
    result: Any,
    space: Space,
    batch: tuple[int, ...] = (),
    keys: tuple[str, ...] = (),
) -> tuple[Any, Any, Any, Any, Any, dict[str, Any]]:
    """What a step from ``state`` returned, likewise; its info must have the ``keys``."""
    names = "obs, state, reward, terminated, truncated, info"
    if not isinstance(result, tuple) or len(result) != 6:
        hint = " (terminated and truncated are two)" if length(result) == 5 else ""
        raise EnvironmentFault(f"{where} must return {names}{hint}, got {describe(result)}")
    obs, after, reward, terminated, truncated, info = result
    if not isinstance(info, Mapping) or not info.keys() >= set(keys):
        expected = "".join(f" with {key!r}" for key in keys)
        got = f"keys {sorted(map(str, info))}" if isinstance(info, Mapping) else describe(info)
        raise EnvironmentFault(f"{where}: info must be a dict{expected}, got {got}")
    obs = _conform(where, space, obs, "observation", batch)
    after = _arrays(where, after, "state")
    _check_same_types(where, state, after)
    reward = _scalar(where, "reward", reward, "real", batch).astype(jnp.float32)
    terminated = _scalar(where, "terminated", terminated, "bool", batch)
    truncated = _scalar(where, "truncated", truncated, "bool", batch)
    return obs, after, reward, terminated, truncated, _arrays(where, dict(info), "info")


@contextlib.contextmanager
def _own_code(where: str) -> Iterator[None]:
    """Turns what an environment's own code raises into one line with its place."""
    try:
        yield
    except EnvironmentFault:
        raise
    except Exception as error:
        advice = _advice(error)
        what = f"{advice} ({type(error).__name__})" if advice else one_line(error)
        raise EnvironmentFault(f"{where}: {what}{_place(error)}") from error


def _advice(error: Exception) -> str | None:
    """What to do about Python that asks for the value of something traced."""
    errors = jax.errors
    if isinstance(error, errors.TracerBoolConversionError):
        return (
            "a Python `if`, `while`, `and`, `or` or `not` on a traced value; "
            "use jnp.where, jax.lax.cond or jnp.logical_and"
        )
    if isinstance(error, errors.TracerArrayConversionError):
        return "numpy on a traced value; use jax.numpy"
    if isinstance(error, errors.TracerIntegerConversionError):
        return "a traced value where Python needs an integer; index jax.numpy arrays instead"
    if isinstance(error, (errors.ConcretizationTypeError, errors.NonConcreteBooleanIndexError)):
        return "a traced value where Python needs its number (int(), float(), a shape, a mask)"
    return None


def _place(error: Exception) -> str:
    """The innermost line outside JAX and numpy."""
    foreign = tuple(os.path.dirname(module.__file__ or "") for module in (jax, np))
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if not frame.filename.startswith((*foreign, "<"))
    ]
    if not frames:
        return ""
    frame = frames[-1]
    return f", at {os.path.basename(frame.filename)}:{frame.lineno}: {frame.line}"


def _conform(where: str, space: Space, x: Any, name: str, batch: tuple[int, ...] = ()) -> Any:
    """``x`` if it has the structure, shapes and dtypes of ``space``, as strongly typed arrays.

    Its leaves have the leading axes ``batch``.

    With ``jax_enable_x64`` the same code makes 64-bit numbers: they become the space's 32-bit ones.
    """
    if isinstance(space, Dict):
        if not isinstance(x, Mapping) or set(x) != set(space.spaces):
            got = f"keys {sorted(map(str, x))}" if isinstance(x, Mapping) else describe(x)
            raise EnvironmentFault(
                f"{where}: {name} must be a dict of {sorted(space.spaces)}, got {got}"
            )
        return {
            key: _conform(where, s, x[key], f"{name}[{key!r}]", batch)
            for key, s in space.spaces.items()
        }
    if isinstance(space, Tuple):
        if not isinstance(x, (tuple, list)) or len(x) != len(space.spaces):
            raise EnvironmentFault(
                f"{where}: {name} must be a tuple of {len(space.spaces)}, got {describe(x)}"
            )
        parts = enumerate(zip(space.spaces, x, strict=True))
        return tuple(_conform(where, s, part, f"{name}[{i}]", batch) for i, (s, part) in parts)
    array, shape = _array(where, x, name), (*batch, *space.shape)
    if array.shape != shape or _narrow(array.dtype) != _narrow(space.dtype):
        expected = signature(space.dtype, shape)
        got = signature(array.dtype, array.shape)
        raise EnvironmentFault(f"{where}: {name} must be {expected} as its space, got {got}")
    return array.astype(space.dtype)


def _narrow(dtype: Any) -> Any:
    return {"float64": "float32", "int64": "int32", "uint64": "uint32"}.get(dtype.name, dtype.name)


def _array(where: str, x: Any, name: str) -> Any:
    with contextlib.suppress(TypeError):  # what JAX says to strings and the like
        if jax.tree_util.all_leaves([x]):
            return strip_weak_types(x)
    raise EnvironmentFault(f"{where}: {name} must be an array, got {describe(x)}")


def _arrays(where: str, tree: Any, name: str) -> Any:
    """``tree`` with strongly typed arrays for leaves."""

    def leaf(path: Any, x: Any) -> Any:
        return _array(where, x, f"{name}{jax.tree_util.keystr(path)}")

    return jax.tree_util.tree_map_with_path(leaf, tree)


def _scalar(where: str, name: str, x: Any, kind: str, batch: tuple[int, ...] = ()) -> Any:
    array = _array(where, x, name)
    is_bool = array.dtype == jnp.bool_
    is_real = jnp.issubdtype(array.dtype, jnp.integer) or jnp.issubdtype(array.dtype, jnp.floating)
    if array.shape != batch or not (is_bool or (is_real and kind == "real")):
        got = signature(array.dtype, array.shape)
        expected = f"{kind}{list(batch)}" if batch else f"a {kind} scalar"
        raise EnvironmentFault(f"{where}: {name} must be {expected}, got {got}")
    return array


def _check_same_types(where: str, before: Any, after: Any) -> None:
    """A state must keep its structure, shapes and dtypes, or no loop can carry it."""
    old, new = (dict(jax.tree_util.tree_flatten_with_path(tree)[0]) for tree in (before, after))
    for path in [*old, *(path for path in new if path not in old)]:
        name = f"state{jax.tree_util.keystr(path)}"
        pair = [
            signature(tree[path].dtype, tree[path].shape) if path in tree else "nothing"
            for tree in (old, new)
        ]
        if pair[0] != pair[1]:
            raise EnvironmentFault(f"{where} must keep {name}: it was {pair[0]}, now {pair[1]}")
    if jax.tree.structure(before) != jax.tree.structure(after):
        raise EnvironmentFault(
            f"{where} must keep the structure of the state: it was {describe(before)}, "
            f"now {describe(after)}"
        )


def length(x: Any) -> int | None:
    """The length of a tuple or list; of anything else None."""
    return len(x) if isinstance(x, (tuple, list)) else None


def describe(x: Any) -> str:
    """What ``x`` is, shortly: an array's signature, a container's size, a type's name."""
    if hasattr(x, "dtype") and hasattr(x, "shape"):
        return signature(x.dtype, x.shape)
    if isinstance(x, (tuple, list)):
        return f"a {type(x).__name__} of {len(x)}"
    if isinstance(x, (bool, int, float, str)) or x is None:
        return repr(x) if len(repr(x)) < 40 else type(x).__name__
    return f"a {type(x).__name__}"


# ------------------------------------------------------------------ environments in JAX: values


def first_steps_fault(venv: Any, *, steps: int = 8, seed: int = 0) -> str | None:
    """What is wrong with the values that an environment gives at first, or None.

    One program plays ``steps`` steps with drawn actions and looks at observations and rewards: a
    trace has shown their types already, not whether they are finite and in their bounds.

    Args:
        venv: a :class:`~ssmrl.envs.VectorEnv`, of one environment for choice.
        steps: how many.
        seed: of episodes and actions.
    """

    def play(key: Any) -> Any:
        obs, state = venv.reset(key)

        def step(state: Any, key: Any) -> Any:
            keys = jax.random.split(key, venv.num_envs)
            action = jax.vmap(venv.action_space.sample)(keys)
            obs, state, reward, *_, info = venv.step(state, action)
            return state, (info["final_observation"], obs, reward)

        return obs, jax.lax.scan(step, state, jax.random.split(key, steps))[1]

    first, (final_obs, obs, reward) = jax.device_get(jax.jit(play)(jax.random.key(seed)))
    leaves = leaves_of(venv.observation_space)
    for t in range(steps + 1):
        if t and not np.isfinite(reward[t - 1]).all():
            return f"step {t}: reward must be finite, got {reward[t - 1].ravel()[0]}"
        seen = [jax.tree.map(lambda x, t=t: x[t - 1], tree) for tree in (final_obs, obs)]
        for tree in seen if t else [first]:
            for leaf, batch in zip(leaves, jax.tree.leaves(tree), strict=True):
                if fault := leaf.fault(batch):
                    return f"{f'step {t}' if t else 'reset'}: {fault[1]}"
    return None

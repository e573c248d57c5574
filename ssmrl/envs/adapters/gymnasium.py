"""Python environments with gymnasium's interface, stepped from compiled programs.

:class:`HostVectorEnv` steps them through an *ordered* ``io_callback``: the compiler may neither
drop, repeat nor reorder a step, as it may with ``pure_callback``. The environments' memory lives in
the Python process:

- it is not in ``state``, so a checkpoint does not hold it, and a restored run begins new episodes
  with :meth:`HostVectorEnv.reset`;
- the program cannot be vmapped over seeds, and there is one run per :class:`HostVectorEnv` at a
  time.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.experimental import io_callback
from jaxtyping import PRNGKeyArray

from ssmrl.envs.adapters import require
from ssmrl.envs.contract import (
    EnvironmentFault,
    Leaf,
    describe,
    leaves_of,
    length,
    one_line,
    signature,
)
from ssmrl.envs.environment import Leaf as StateLeaf
from ssmrl.envs.registry import UnknownEnvironmentError, unknown_environment
from ssmrl.envs.spaces import from_gymnasium, gymnasium_kind
from ssmrl.envs.vector import VectorEnv, VectorTransition, check_num_envs
from ssmrl.envs.wrappers import NOT_OWN

OWN_SCALARS = ("success", "is_success")
"""Numbers in ``info`` that are passed on unasked, by the names that gymnasium's users give them."""


class HostEnvironmentError(EnvironmentFault, RuntimeError):
    """A Python environment raised, broke its contract, or was stepped before its reset.

    The message is one line, the ``__cause__`` what the environment raised itself.
    """


def _is_news(record: logging.LogRecord) -> bool:
    """JAX logs what a callback raises with two tracebacks, before the caller gets to know it."""
    raised = record.exc_info[1] if record.exc_info else None
    return not isinstance(raised, HostEnvironmentError)


logging.getLogger("jax._src.callback").addFilter(_is_news)


@struct.dataclass
class HostState:
    """``time``: steps since :meth:`HostVectorEnv.reset`. The environments are elsewhere."""

    time: StateLeaf


@jax.custom_batching.custom_vmap
def _unbatched(x: Any) -> Any:
    """The identity, which refuses to be vmapped: an ordered callback would fail less readably."""
    return x


@_unbatched.def_vmap
def _refuse_vmap(axis_size: int, in_batched: Any, x: Any) -> Any:
    raise ValueError(
        "a Python environment cannot be vmapped (over seeds, say): it has one state, in this "
        "process; run the seeds one after the other, or use an environment written in JAX"
    )


class HostVectorEnv(VectorEnv):
    """``num_envs`` gymnasium environments with auto-reset in the same step, usable in ``jit``.

    Of what the environments say in ``info``, the numbers (bool, int or float) under the names in
    ``own_scalars`` are passed on, f32 ``[B]``. An environment need not say them at every step: what
    it said last in the same episode holds, and until it says anything, infinity stands for that.
    The names are fixed beforehand, because the program is compiled before the first step.

    Args:
        make_env: makes one gymnasium environment.
        num_envs: how many.
        name: for messages.
        info: names to pass on beside :data:`OWN_SCALARS`.

    Attributes:
        own_scalars: the names that are passed on.
        max_episode_steps: the longest episode, where the environment's specification declares it.

    Raises:
        ValueError: if ``num_envs`` is not a positive integer, a space has no fixed array form,
            ``make_env`` gives the same environment twice, or ``info`` is not a sequence of names.
    """

    is_host = True

    def __init__(
        self,
        make_env: Callable[[], Any],
        num_envs: int,
        *,
        name: str,
        info: Sequence[str] = (),
    ):
        self.num_envs = check_num_envs(num_envs)
        self.name = name
        self.own_scalars = _names(info)
        self._asked_for = frozenset(info)
        self._own = np.full((len(self.own_scalars), self.num_envs), np.inf, np.float32)
        self._envs = [self._make(make_env, i) for i in range(self.num_envs)]
        if len(set(map(id, self._envs))) < self.num_envs:
            raise ValueError(
                f"{name}: what makes an environment gave the same one twice, and each of "
                f"{self.num_envs} needs a state of its own: make it within the function"
            )
        self._obs_space = self._envs[0].observation_space
        self._act_space = self._envs[0].action_space
        spec = getattr(self._envs[0], "spec", None)
        self.max_episode_steps: int | None = getattr(spec, "max_episode_steps", None)
        self.observation_space = from_gymnasium(self._obs_space)
        self.action_space = from_gymnasium(self._act_space)
        self._check_actions()
        self._reader = ElementReader(self._obs_space)
        for line in self._reader.roundings:
            warnings.warn(f"{name}: {line}", stacklevel=2)
        self._time = 0
        self._started = False
        self._failure: HostEnvironmentError | None = None
        self._obs_shapes = jax.eval_shape(
            jax.vmap(self.observation_space.sample), jax.random.split(jax.random.key(0), num_envs)
        )
        self._obs_leaves, self._obs_structure = jax.tree.flatten(self._obs_shapes)

    @property
    def failure(self) -> HostEnvironmentError | None:
        """What an environment raised or did wrong; forgotten at the next :meth:`reset`."""
        return self._failure

    def reset(self, key: PRNGKeyArray) -> tuple[Any, HostState]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(self.num_envs))
        seeds = jax.vmap(lambda k: jax.random.bits(k, (), jnp.uint32))(keys)
        obs = io_callback(self._host_reset, self._obs_shapes, _unbatched(seeds), ordered=True)
        return obs, HostState(time=jnp.zeros(self.num_envs, jnp.uint32))

    def step(self, state: HostState, action: Any) -> VectorTransition:
        batch = (self.num_envs,)
        shapes = (
            self._obs_shapes,
            jax.ShapeDtypeStruct(batch, jnp.float32),
            jax.ShapeDtypeStruct(batch, jnp.bool_),
            jax.ShapeDtypeStruct(batch, jnp.bool_),
            self._obs_shapes,
            jax.ShapeDtypeStruct((len(self.own_scalars), *batch), jnp.float32),
        )
        action = jax.tree.map(_unbatched, action)
        obs, reward, terminated, truncated, final_obs, own = io_callback(
            self._host_step, shapes, action, ordered=True
        )
        info = {**dict(zip(self.own_scalars, own, strict=True)), "final_observation": final_obs}
        return obs, HostState(time=state.time + 1), reward, terminated, truncated, info

    def render(self, state: HostState, index: int = 0) -> np.ndarray:
        """The environment's own picture; make it with ``render_mode="rgb_array"``."""
        env = self._envs[index]
        picture = env.render() if env.render_mode == "rgb_array" else None
        if not isinstance(picture, np.ndarray):
            raise NotImplementedError(
                f"{self.name} gives no picture; make it with render_mode='rgb_array' "
                "(env.kwargs.render_mode=rgb_array)"
            )
        return picture

    def encode_observation(self, obs: Any) -> Any:
        parts: list[tuple[Any, Any]] = []
        _take_apart(self._obs_space, obs, "observation", parts)
        starts = [getattr(space, "start", None) for space, _ in parts]
        values = [np.asarray(value) for _, value in parts]
        pairs = zip(values, starts, strict=True)
        return self._as_tree([x if start is None else np.asarray(x - start) for x, start in pairs])

    def decode_action(self, action: Any) -> Any:
        return to_gymnasium(self._act_space, action)

    def close(self) -> None:
        for env in self._envs:
            env.close()

    def _check_actions(self) -> None:
        declared = [part.dtype for part in _leaf_spaces(self._act_space)]
        for leaf, dtype in zip(leaves_of(self.action_space, "action"), declared, strict=True):
            if dtype.kind in "iu" and leaf.dtype.kind == "f":
                raise ValueError(
                    f"{leaf.name} of {dtype.name} does not fit int32: {self._act_space!r}"
                )

    # Below: Python, called from the running program. Nothing there may call JAX's own functions,
    # which can wait for the very program that waits for the callback.

    def _host_reset(self, seeds: Any) -> Any:
        self._time, self._started, self._failure = 0, True, None
        obs = self._empty_observations()
        for i, seed in enumerate(np.asarray(seeds)):
            self._reset_one(obs, i, seed=int(seed))
        self._check(obs)
        return self._as_tree(obs)

    def _host_step(self, action: Any) -> Any:
        if not self._started:
            self._failure = HostEnvironmentError(
                f"{self.name} was stepped before it was reset in this process; a checkpoint does "
                "not hold a Python environment: call reset and begin new episodes"
            )
            raise self._failure
        self._time += 1
        action = to_gymnasium(self._act_space, jax.tree.map(np.asarray, action))
        final_obs, reward, terminated, truncated = self._step_all(action)
        obs, own = [array.copy() for array in final_obs], self._own.copy()
        ended = np.flatnonzero(terminated | truncated).tolist()
        for i in ended:
            self._reset_one(obs, i)
        self._check(final_obs)
        if ended:  # elsewhere the two are the same
            self._check(obs)
        return self._as_tree(obs), reward, terminated, truncated, self._as_tree(final_obs), own

    def _reset_one(self, obs: list[np.ndarray], i: int, **options: Any) -> None:
        result = self._call(i, self._envs[i].reset, **options)
        if type(result) is not tuple or len(result) != 2 or not isinstance(result[1], Mapping):
            got = describe(result)
            raise self._error(i, f"reset must return (observation, info), got {got}")
        self._write(obs, i, result[0])
        self._own[:, i] = np.inf
        self._write_own(i, result[1])

    def _step_all(self, action: Any) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
        obs = self._empty_observations()
        scalars = []
        for i, env in enumerate(self._envs):
            is_array = isinstance(action, np.ndarray)  # as most are, and indexed at once
            own = action[i] if is_array else _one(self._act_space, action, i)
            result = self._call(i, env.step, own)
            if type(result) is not tuple or len(result) != 5:
                expected = "observation, reward, terminated, truncated, info"
                hint = " (four are gym's old form)" if length(result) == 4 else ""
                got = describe(result)
                raise self._error(i, f"step must return {expected}{hint}, got {got}")
            self._write(obs, i, result[0])
            scalars.append(result[1:4])
            self._write_own(i, result[4])
        reward, terminated, truncated = zip(*scalars, strict=True)
        return (
            obs,
            self._rewards(reward),
            self._flags("terminated", terminated),
            self._flags("truncated", truncated),
        )

    def _rewards(self, values: tuple[Any, ...]) -> np.ndarray:
        with np.errstate(over="ignore"):
            reward = self._scalars("reward", values).astype(np.float32)
        if not np.isfinite(reward).all():
            i = int(np.flatnonzero(~np.isfinite(reward))[0])
            raise self._error(i, f"reward must be finite, got {values[i]}")
        return reward

    def _flags(self, name: str, values: tuple[Any, ...]) -> np.ndarray:
        flags = self._scalars(name, values)
        if flags.dtype.kind != "b" and not np.isin(flags, (0, 1)).all():
            i = int(np.flatnonzero(~np.isin(flags, (0, 1)))[0])
            raise self._error(i, f"{name} must be True or False, got {values[i]!r}")
        return flags.astype(bool)

    def _scalars(self, name: str, values: tuple[Any, ...]) -> np.ndarray:
        """One scalar of each environment as an array: all of them are checked at once."""
        if (array := _as_numbers(values)) is not None and array.shape == (self.num_envs,):
            return array
        for i, value in enumerate(values):
            number = _as_numbers(value)
            if number is None or number.shape != ():
                got = describe(value) if number is None else signature(number.dtype, number.shape)
                raise self._error(i, f"{name} must be a real scalar, got {got}")
        raise AssertionError("scalars make no array")

    def _make(self, make_env: Callable[[], Any], i: int) -> Any:
        try:
            return make_env()
        except (ImportError, EnvironmentFault, UnknownEnvironmentError):
            raise
        except Exception as error:
            where = f"{self.name}, environment {i}, when it was made"
            raise HostEnvironmentError(f"{one_line(error)}; raised by {where}") from error

    def _call(self, i: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except (Exception, SystemExit) as error:  # a window that was closed, in many a game
            # The environment's own words come first: whoever wrote it knows them.
            failure = HostEnvironmentError(f"{one_line(error)}; raised by {self._where(i)}")
            self._failure = failure
            raise failure from error

    def _error(self, i: int, what: str) -> HostEnvironmentError:
        self._failure = HostEnvironmentError(f"{self._where(i)}: {what}")
        return self._failure

    def _where(self, i: int) -> str:
        return f"{self.name}, environment {i}, {f'step {self._time}' if self._time else 'reset'}"

    def _empty_observations(self) -> list[np.ndarray]:
        # New arrays each time: the program may keep those of the step before.
        return [np.empty(shape.shape, shape.dtype) for shape in self._obs_leaves]

    def _as_tree(self, leaves: list[np.ndarray]) -> Any:
        return jax.tree.unflatten(self._obs_structure, leaves)

    def _write(self, batch: list[np.ndarray], i: int, obs: Any) -> None:
        # Most environments give one array that is just what they declare: it costs no more calls.
        if type(obs) is np.ndarray and (obs.shape, obs.dtype) == self._reader.plain:
            batch[0][i] = obs
            return
        try:
            self._reader.write(batch, i, obs)
        except EnvironmentFault as fault:
            raise self._error(i, str(fault)) from None

    def _write_own(self, i: int, info: Any) -> None:
        """Note the numbers of environment ``i``'s own; None is the same as saying nothing."""
        if type(info) is not dict and not isinstance(info, Mapping):
            raise self._error(i, f"info must be a dict, got {describe(info)}")
        for row, name in zip(self._own, self.own_scalars, strict=True):
            value = info.get(name)
            if value is None:
                continue
            number = _as_numbers(value)
            if number is not None and number.shape == ():
                with np.errstate(over="ignore"):
                    row[i] = number
            elif name in self._asked_for:
                got = describe(value) if number is None else signature(number.dtype, number.shape)
                raise self._error(i, f"info[{name!r}] must be a real scalar, got {got}")

    def _check(self, batch: list[np.ndarray]) -> None:
        for leaf, array in zip(self._reader.leaves, batch, strict=True):
            if fault := leaf.fault(array):
                raise self._error(*fault)


class ElementReader:
    """Copies elements of a gymnasium space into batches of ours, and refuses what does not fit.

    What has another dtype than the space says is taken if nothing is lost: an int for a float, a
    Python float 3.0 for a uint8, not .7. Floats are rounded to float32. Bounds are not looked at:
    a whole batch is checked at once, by :meth:`Leaf.fault`.

    Attributes:
        leaves: of the elements, in the order of ``jax.tree.leaves``.
        plain: shape and dtype of elements that can be copied as they are; None if there are none.
        roundings: a line for each leaf of integers that float32 has to hold.
    """

    def __init__(self, space: Any):
        self.space = space
        self.leaves = leaves_of(from_gymnasium(space))
        declared = [part.dtype for part in _leaf_spaces(space)]
        self._rounded = [
            leaf.dtype.kind == "f" and dtype.kind in "iu"
            for leaf, dtype in zip(self.leaves, declared, strict=True)
        ]
        self.plain = None
        if gymnasium_kind(space) == "Box" and _is_copied(declared[0], self.leaves[0].dtype):
            self.plain = (self.leaves[0].shape, declared[0])
        self.roundings = [
            f"{leaf.name} holds integers up to {leaf.space.high.max():.0f}, which int32 cannot; "
            "they are given as float32, exact up to 2**24 and to seven digits beyond, and are not "
            "scaled by their bounds (PPO: set agent.normalize_observations=true)"
            for leaf, rounded in zip(self.leaves, self._rounded, strict=True)
            if rounded and np.isfinite(leaf.space.high).any()
        ]

    def write(self, batch: list[np.ndarray], i: int, element: Any) -> None:
        """Put ``element`` into row ``i`` of ``batch``, an array for each leaf.

        Raises:
            EnvironmentFault: for another structure, shape or dtype; the line names the leaf.
        """
        parts: list[tuple[Any, Any]] = []
        _take_apart(self.space, element, "observation", parts)
        for array, leaf, rounded, (part, value) in zip(
            batch, self.leaves, self._rounded, parts, strict=True
        ):
            array[i] = _fitting(leaf, rounded, getattr(part, "start", None), value)


def _names(info: Any) -> tuple[str, ...]:
    """Names in ``info`` to pass on, the usual ones first."""
    if isinstance(info, str) or not all(isinstance(name, str) for name in info):
        raise ValueError(f"info must be a list of names, e.g. [score], got {info!r}")
    if taken := NOT_OWN.intersection(info):
        raise ValueError(f"info cannot have the name {sorted(taken)[0]}, which has another meaning")
    return tuple(dict.fromkeys((*OWN_SCALARS, *info)))


def _is_copied(declared: np.dtype, ours: np.dtype) -> bool:
    """Whether a copy may lose no more than a rounding: an int64 may be too large for int32."""
    return declared == ours or ours.kind == "f" or declared.kind == "b"


def _as_numbers(x: Any) -> np.ndarray | None:
    """``x`` as an array of numbers or truth values, None if it is none."""
    try:
        array = np.asarray(x)
    except ValueError:  # ragged
        return None
    return array if array.dtype.kind in "biuf" else None


def _leaf_spaces(space: Any) -> list[Any]:
    """The spaces of a gymnasium space's leaves, as ``jax.tree.leaves`` orders the arrays."""
    kind = gymnasium_kind(space)
    if kind == "Dict":
        return [leaf for name in sorted(space.spaces) for leaf in _leaf_spaces(space.spaces[name])]
    if kind == "Tuple":
        return [leaf for part in space.spaces for leaf in _leaf_spaces(part)]
    return [space]


def _take_apart(space: Any, x: Any, name: str, parts: list[tuple[Any, Any]]) -> None:
    """Append (space, value) of every leaf of ``x``, or raise an EnvironmentFault."""
    kind = gymnasium_kind(space)
    if kind == "Dict":
        if not isinstance(x, Mapping) or x.keys() != space.spaces.keys():
            got = f"keys {sorted(map(str, x))}" if isinstance(x, Mapping) else describe(x)
            raise EnvironmentFault(f"{name} must be a dict of {sorted(space.spaces)}, got {got}")
        for key in sorted(space.spaces):
            _take_apart(space.spaces[key], x[key], f"{name}[{key!r}]", parts)
    elif kind == "Tuple":
        if length(x) != len(space.spaces):
            got = describe(x)
            raise EnvironmentFault(f"{name} must be a tuple of {len(space.spaces)}, got {got}")
        for index, (inner, part) in enumerate(zip(space.spaces, x, strict=True)):
            _take_apart(inner, part, f"{name}[{index}]", parts)
    else:
        parts.append((space, x))


def _fitting(leaf: Leaf, rounded: bool, start: Any, value: Any) -> Any:
    """``value``, which a space that begins at ``start`` gave, for an array of ``leaf.dtype``."""
    array = _as_numbers(value)
    if array is None or array.shape != leaf.shape:
        got = describe(value) if array is None else signature(array.dtype, array.shape)
        raise EnvironmentFault(
            f"{leaf.name} must be {signature(leaf.dtype, leaf.shape)}, got {got}"
        )
    if start is not None:
        array = np.asarray(array - start)
    both_floats = array.dtype.kind == leaf.dtype.kind == "f"
    if rounded or both_floats or array.dtype == leaf.dtype:
        return array
    with np.errstate(invalid="ignore"):  # NaN has no integer, and is found below
        converted = array.astype(leaf.dtype)
    if not (converted == array).all():
        lost = array[converted != array].ravel()[0] + (0 if start is None else np.ravel(start)[0])
        raise EnvironmentFault(
            f"{leaf.name} must be {signature(leaf.dtype, leaf.shape)}, got "
            f"{signature(array.dtype, array.shape)} with {lost}, which is no {leaf.dtype.name}"
        )
    return converted


def to_gymnasium(space: Any, batch: Any) -> Any:
    """A batch of elements of ``from_gymnasium(space)``, in numpy, with the values of ``space``.

    Whatever the dtypes, none leaves its box: .1 in float32 is more than .1 in float64.
    """
    kind = gymnasium_kind(space)
    if kind == "Dict":
        return {name: to_gymnasium(s, batch[name]) for name, s in space.spaces.items()}
    if kind == "Tuple":
        return tuple(to_gymnasium(s, part) for s, part in zip(space.spaces, batch, strict=True))
    if kind in ("Discrete", "MultiDiscrete"):
        return batch.astype(space.dtype) + space.start
    if kind == "Box":
        return np.clip(batch.astype(space.dtype), space.low, space.high)
    return batch.astype(space.dtype)


def _one(space: Any, batch: Any, i: int) -> Any:
    """Entry ``i`` of a batch."""
    kind = gymnasium_kind(space)
    if kind == "Dict":
        return {name: _one(s, batch[name], i) for name, s in space.spaces.items()}
    if kind == "Tuple":
        return tuple(_one(s, part, i) for s, part in zip(space.spaces, batch, strict=True))
    return batch[i]


PACKAGES = {
    r"ALE/|.*NoFrameskip-v\d+$": ("ale_py", "ale-py"),
    r"MiniGrid-|BabyAI-": ("minigrid", "minigrid"),
    r"(Adroit|AntMaze|Fetch|FrankaKitchen|Hand|PointMaze)": (
        "gymnasium_robotics",
        "gymnasium-robotics",
    ),
}
"""Ids that other packages register: a pattern, the module to import, the name to install."""


def make_gymnasium(
    id_: str, num_envs: int, *, info: Sequence[str] = (), **kwargs: Any
) -> HostVectorEnv:
    """``num_envs`` environments that gymnasium has registered.

    Args:
        id_: gymnasium's id, ``CartPole-v1`` or ``module:id``. Case, underscores, hyphens do not
            matter, and without a version it is the newest one.
        num_envs: how many.
        info: names of numbers in the environment's ``info`` to pass on, see :class:`HostVectorEnv`.
        **kwargs: for ``gymnasium.make``.

    Raises:
        ImportError: if gymnasium, or what the environment needs, is not installed.
        UnknownEnvironmentError: if gymnasium does not know the id.
        HostEnvironmentError: if the environment cannot be made.
    """
    gymnasium = require("gymnasium", "gymnasium")
    known = id_ if ":" in id_ else _registered_id(id_, list(gymnasium.registry))
    name = f"gymnasium/{known}"

    def make_env() -> Any:
        try:
            return gymnasium.make(known, disable_env_checker=True, **kwargs)
        except gymnasium.error.DependencyNotInstalled as error:
            raise ImportError(one_line(error)) from error
        except gymnasium.error.UnregisteredEnv as error:
            raise UnknownEnvironmentError(f"unknown environment {name!r}: {error}") from error

    return HostVectorEnv(make_env, num_envs, name=name, info=info)


def registered_ids() -> list[str]:
    """All ids that gymnasium has registered; none if it is not installed."""
    try:
        return list(require("gymnasium", "gymnasium").registry)
    except ImportError:
        return []


def _registered_id(id_: str, registered: list[str]) -> str:
    """The one of ``registered`` that ``id_`` means."""
    if id_ in registered:
        return id_

    def plain(name: str) -> str:
        return re.sub(r"[_\-\s]", "", name).lower()

    def version(name: str) -> int:
        found = re.search(r"-v(\d+)$", name)
        return int(found[1]) if found else -1

    same = [name for name in registered if plain(name) == plain(id_)]
    unversioned = [n for n in registered if plain(re.sub(r"-v\d+$", "", n)) == plain(id_)]
    if not same and not unversioned:
        for pattern, (module, package) in PACKAGES.items():
            if re.match(pattern, id_):
                raise UnknownEnvironmentError(_elsewhere(id_, module, package))
        raise unknown_environment(f"gymnasium/{id_}")
    return same[0] if same else max(unversioned, key=version)


def _elsewhere(id_: str, module: str, package: str) -> str:
    """What to say about an id that another package registers when it is imported."""
    full = f"gymnasium/{module}:{id_}"
    if importlib.util.find_spec(module) is None:
        return f"gymnasium/{id_} is of the package {package}: pip install {package}, then {full!r}"
    return f"unknown environment 'gymnasium/{id_}'; did you mean {full!r}?"

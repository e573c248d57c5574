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

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.experimental import io_callback
from jaxtyping import PRNGKeyArray

from ssmrl.envs.adapters import require
from ssmrl.envs.environment import Leaf
from ssmrl.envs.registry import unknown_environment
from ssmrl.envs.spaces import from_gymnasium
from ssmrl.envs.vector import VectorEnv, VectorTransition, check_num_envs


class HostEnvironmentError(RuntimeError):
    """A Python environment raised, gave a NaN or an infinity, or was stepped before its reset."""


@struct.dataclass
class HostState:
    """``time``: steps since :meth:`HostVectorEnv.reset`. The environments are elsewhere."""

    time: Leaf


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

    Args:
        make_env: makes one gymnasium environment.
        num_envs: how many.
        name: for messages.

    Raises:
        ValueError: if ``num_envs`` is not a positive integer, or a space has no fixed array form.
    """

    is_host = True

    def __init__(self, make_env: Callable[[], Any], num_envs: int, *, name: str):
        self.num_envs = check_num_envs(num_envs)
        self.name = name
        self._envs = [make_env() for _ in range(self.num_envs)]
        self._obs_space = self._envs[0].observation_space
        self._act_space = self._envs[0].action_space
        self.observation_space = from_gymnasium(self._obs_space)
        self.action_space = from_gymnasium(self._act_space)
        self._time = 0
        self._started = False
        self._obs_shapes = jax.eval_shape(
            jax.vmap(self.observation_space.sample), jax.random.split(jax.random.key(0), num_envs)
        )
        self._obs_leaves, self._obs_structure = jax.tree.flatten(self._obs_shapes)

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
        )
        action = jax.tree.map(_unbatched, action)
        obs, reward, terminated, truncated, final_obs = io_callback(
            self._host_step, shapes, action, ordered=True
        )
        info = {"final_observation": final_obs}
        return obs, HostState(time=state.time + 1), reward, terminated, truncated, info

    def render(self, state: HostState, index: int = 0) -> np.ndarray:
        """The environment's own picture; make it with ``render_mode="rgb_array"``."""
        env = self._envs[index]
        picture = env.render() if env.render_mode == "rgb_array" else None
        if not isinstance(picture, np.ndarray):
            raise NotImplementedError(
                f"{self.name} gives no picture; make it with render_mode='rgb_array'"
            )
        return picture

    def encode_observation(self, obs: Any) -> Any:
        return self._as_tree([np.asarray(leaf) for leaf in _leaves(self._obs_space, obs)])

    def decode_action(self, action: Any) -> Any:
        return to_gymnasium(self._act_space, action)

    def close(self) -> None:
        for env in self._envs:
            env.close()

    # Below: Python, called from the running program. Nothing there may call JAX's own functions,
    # which can wait for the very program that waits for the callback.

    def _host_reset(self, seeds: Any) -> Any:
        self._time, self._started = 0, True
        obs = self._empty_observations()
        for i, seed in enumerate(np.asarray(seeds)):
            self._write(obs, i, self._call(i, self._envs[i].reset, seed=int(seed))[0])
        self._check_finite(obs)
        return self._as_tree(obs)

    def _host_step(self, action: Any) -> Any:
        if not self._started:
            raise HostEnvironmentError(
                f"{self.name} was stepped before it was reset in this process; a checkpoint does "
                "not hold a Python environment: call reset and begin new episodes"
            )
        self._time += 1
        action = to_gymnasium(self._act_space, jax.tree.map(np.asarray, action))
        final_obs, reward, terminated, truncated = self._step_all(action)
        obs = [array.copy() for array in final_obs]
        for i in np.flatnonzero(terminated | truncated).tolist():
            self._write(obs, i, self._call(i, self._envs[i].reset)[0])
        self._check_finite(final_obs)
        self._check_finite(obs)
        return self._as_tree(obs), reward, terminated, truncated, self._as_tree(final_obs)

    def _step_all(self, action: Any) -> tuple[list[np.ndarray], np.ndarray, np.ndarray, np.ndarray]:
        obs = self._empty_observations()
        reward = np.empty(self.num_envs, np.float32)
        terminated, truncated = np.empty((2, self.num_envs), bool)
        for i, env in enumerate(self._envs):
            own = _one(self._act_space, action, i)
            seen, reward[i], terminated[i], truncated[i], _ = self._call(i, env.step, own)
            self._write(obs, i, seen)
        if not np.isfinite(reward).all():
            i = int(np.flatnonzero(~np.isfinite(reward))[0])
            raise self._error(i, f"gave the reward {reward[i]}")
        return obs, reward, terminated, truncated

    def _call(self, i: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise self._error(i, f"raised {type(error).__name__}: {error}") from error

    def _error(self, i: int, what: str) -> HostEnvironmentError:
        return HostEnvironmentError(f"{self.name}, environment {i}, step {self._time}: {what}")

    def _empty_observations(self) -> list[np.ndarray]:
        # New arrays each time: the program may keep those of the step before.
        return [np.empty(shape.shape, shape.dtype) for shape in self._obs_leaves]

    def _as_tree(self, leaves: list[np.ndarray]) -> Any:
        return jax.tree.unflatten(self._obs_structure, leaves)

    def _write(self, batch: list[np.ndarray], i: int, obs: Any) -> None:
        for array, value in zip(batch, _leaves(self._obs_space, obs), strict=True):
            array[i] = value

    def _check_finite(self, batch: list[np.ndarray]) -> None:
        for array in batch:
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                finite = np.isfinite(array.reshape(self.num_envs, -1)).all(axis=1)
                i = int(np.flatnonzero(~finite)[0])
                raise self._error(i, f"gave an observation that is not finite: {array[i]}")


def _leaves(space: Any, x: Any) -> list[Any]:
    """The arrays of an element of a gymnasium space as ``jax.tree.leaves`` orders ours, from 0."""
    kind = type(space).__name__
    if kind == "Dict":
        parts = [(space.spaces[name], x[name]) for name in sorted(space.spaces)]
        return [leaf for part in parts for leaf in _leaves(*part)]
    if kind == "Tuple":
        return [leaf for part in zip(space.spaces, x, strict=True) for leaf in _leaves(*part)]
    if kind in ("Discrete", "MultiDiscrete"):
        return [x - space.start]
    return [x]


def to_gymnasium(space: Any, batch: Any) -> Any:
    """A batch of elements of ``from_gymnasium(space)``, in numpy, with the values of ``space``."""
    kind = type(space).__name__
    if kind == "Dict":
        return {name: to_gymnasium(s, batch[name]) for name, s in space.spaces.items()}
    if kind == "Tuple":
        return tuple(to_gymnasium(s, part) for s, part in zip(space.spaces, batch, strict=True))
    if kind in ("Discrete", "MultiDiscrete"):
        return batch.astype(space.dtype) + space.start
    return batch.astype(space.dtype)


def _one(space: Any, batch: Any, i: int) -> Any:
    """Entry ``i`` of a batch."""
    kind = type(space).__name__
    if kind == "Dict":
        return {name: _one(s, batch[name], i) for name, s in space.spaces.items()}
    if kind == "Tuple":
        return tuple(_one(s, part, i) for s, part in zip(space.spaces, batch, strict=True))
    return batch[i]


def make_gymnasium(id_: str, num_envs: int, **kwargs: Any) -> HostVectorEnv:
    """``num_envs`` environments that gymnasium has registered.

    Args:
        id_: gymnasium's id, ``CartPole-v1`` or ``module:id``. Case, underscores, hyphens do not
            matter, and without a version it is the newest one.
        num_envs: how many.
        **kwargs: for ``gymnasium.make``.

    Raises:
        ImportError: if gymnasium, or what the environment needs, is not installed.
        UnknownEnvironmentError: if gymnasium does not know the id.
    """
    gymnasium = require("gymnasium", "gymnasium")
    known = id_ if ":" in id_ else _registered_id(id_, list(gymnasium.registry))

    def make_env() -> Any:
        return gymnasium.make(known, disable_env_checker=True, **kwargs)

    return HostVectorEnv(make_env, num_envs, name=f"gymnasium/{known}")


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
        names = [f"gymnasium/{name}" for name in registered]
        raise unknown_environment(f"gymnasium/{id_}", names)
    return same[0] if same else max(unversioned, key=version)

"""Python environments with gymnasium's interface, stepped from compiled programs.

:class:`HostVectorEnv` steps them through an *ordered* ``io_callback``: the compiler may neither drop, repeat
nor reorder a step, as it may with ``pure_callback``. The environments' memory lives in the Python process:

- it is not in ``state``, so a checkpoint does not hold it, and a restored run begins new episodes with
  :meth:`HostVectorEnv.reset`;
- the program cannot be vmapped over seeds, and there is one run per :class:`HostVectorEnv` at a time.
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
from jaxtyping import Array, PRNGKeyArray, UInt32

from ssmrl.envs.adapters import require
from ssmrl.envs.registry import unknown_environment
from ssmrl.envs.spaces import from_gymnasium
from ssmrl.envs.vector import VectorEnv, VectorTransition, check_num_envs


class HostEnvironmentError(RuntimeError):
    """A Python environment raised, gave something that is not a number, or was stepped before reset."""


@struct.dataclass
class HostState:
    """``time``: steps since :meth:`HostVectorEnv.reset`. The environments themselves are elsewhere."""

    time: UInt32[Array, "B"]


@jax.custom_batching.custom_vmap
def _unbatched(x: Any) -> Any:
    """The identity, which refuses to be vmapped: an ordered callback would fail less readably."""
    return x


@_unbatched.def_vmap
def _refuse_vmap(axis_size: int, in_batched: Any, x: Any) -> Any:
    raise ValueError(
        "a Python environment cannot be vmapped (over seeds, say): it has one state, in this process; "
        "run the seeds one after the other, or use an environment written in JAX"
    )


class HostVectorEnv(VectorEnv):
    """``num_envs`` gymnasium environments with same-step auto-reset, usable in ``jit`` and ``scan``.

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
        picture = self._envs[index].render()
        if not isinstance(picture, np.ndarray):
            raise NotImplementedError(
                f"{self.name} gives no picture; make it with render_mode='rgb_array'"
            )
        return picture

    def close(self) -> None:
        for env in self._envs:
            env.close()

    # Below: Python, called from the running program. Nothing there may call JAX's own functions, which
    # can wait for the very program that waits for the callback.

    def _host_reset(self, seeds: Any) -> Any:
        obs = self._empty_observations()
        self._time, self._started = 0, True
        for i, seed in enumerate(np.asarray(seeds)):
            self._write(obs, i, self._call(i, self._envs[i].reset, seed=int(seed))[0])
        return obs

    def _host_step(self, action: Any) -> Any:
        if not self._started:
            raise HostEnvironmentError(
                f"{self.name} was stepped before it was reset in this process; a checkpoint does not "
                "hold a Python environment: call reset and begin new episodes"
            )
        self._time += 1
        action = jax.tree.map(np.asarray, action)
        obs, final_obs = self._empty_observations(), self._empty_observations()
        reward = np.empty(self.num_envs, np.float32)
        terminated, truncated = np.empty((2, self.num_envs), bool)
        for i, env in enumerate(self._envs):
            own = to_gymnasium(self._act_space, jax.tree.map(lambda a, i=i: a[i], action))
            seen, reward[i], terminated[i], truncated[i], _ = self._call(i, env.step, own)
            if not np.isfinite(reward[i]):
                raise self._error(i, f"gave the reward {reward[i]}")
            self._write(final_obs, i, seen)
            if terminated[i] or truncated[i]:
                seen, _ = self._call(i, env.reset)
            self._write(obs, i, seen)
        return obs, reward, terminated, truncated, final_obs

    def _call(self, i: int, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise self._error(i, f"raised {type(error).__name__}: {error}") from error

    def _error(self, i: int, what: str) -> HostEnvironmentError:
        return HostEnvironmentError(f"{self.name}, environment {i}, step {self._time}: {what}")

    def _empty_observations(self) -> Any:
        # New arrays each time: the program may keep those of the step before.
        return jax.tree.map(lambda s: np.empty(s.shape, s.dtype), self._obs_shapes)

    def _write(self, batch: Any, i: int, obs: Any) -> None:
        one = from_gymnasium_element(self._obs_space, obs)
        for array, value in zip(jax.tree.leaves(batch), jax.tree.leaves(one), strict=True):
            if value.dtype.kind == "f" and not np.isfinite(value).all():
                raise self._error(i, f"gave an observation that is not finite: {value}")
            array[i] = value


def from_gymnasium_element(space: Any, x: Any) -> Any:
    """An element of a gymnasium space as one of ``from_gymnasium(space)``, in numpy."""
    kind = type(space).__name__
    if kind == "Dict":
        return {name: from_gymnasium_element(s, x[name]) for name, s in space.spaces.items()}
    if kind == "Tuple":
        parts = zip(space.spaces, x, strict=True)
        return tuple(from_gymnasium_element(s, part) for s, part in parts)
    if kind in ("Discrete", "MultiDiscrete"):
        return np.asarray(x) - space.start
    return np.asarray(x)


def to_gymnasium(space: Any, x: Any) -> Any:
    """An element of ``from_gymnasium(space)``, in numpy, as one of ``space``."""
    kind = type(space).__name__
    if kind == "Dict":
        return {name: to_gymnasium(s, x[name]) for name, s in space.spaces.items()}
    if kind == "Tuple":
        return tuple(to_gymnasium(s, part) for s, part in zip(space.spaces, x, strict=True))
    if kind == "Discrete":
        return space.start + space.dtype.type(x)
    if kind == "MultiDiscrete":
        return space.start + np.asarray(x, space.dtype)
    return np.asarray(x, space.dtype)


def make_gymnasium(id_: str, num_envs: int, **kwargs: Any) -> HostVectorEnv:
    """``num_envs`` environments that gymnasium has registered.

    Args:
        id_: gymnasium's id, ``CartPole-v1`` or ``module:id``. Case, underscores, hyphens do not matter,
            and without a version it is the newest one.
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

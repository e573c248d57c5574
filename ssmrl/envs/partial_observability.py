"""Wrappers that make any environment harder to know: less is seen, later, or not for sure.

:func:`obscure` puts them around a :class:`~ssmrl.envs.VectorEnv` in the order of its arguments, the
first one innermost; ``env.observe=positions``, ``env.flicker=0.5`` and so on do it from the command
line. What an episode ended with, ``info["final_observation"]``, is seen the same way as every other
observation: it is what the value of a truncated episode is estimated from.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, PRNGKeyArray

from ssmrl.envs import spaces
from ssmrl.envs.batching import any_across_batch, select
from ssmrl.envs.environment import Leaf, is_integer
from ssmrl.envs.vector import VectorEnv, VectorTransition
from ssmrl.envs.wrappers import VectorWrapper, as_elements, none_action, with_none

LAYOUTS: dict[str, tuple[int, list[int], list[int]]] = {
    "gymnax/acrobot": (6, [0, 1, 2, 3], [4, 5]),
    "gymnax/cartpole": (4, [0, 2], [1, 3]),
    "gymnax/mountain_car_continuous": (2, [0], [1]),
    "gymnax/mountain_car": (2, [0], [1]),
    "gymnax/pendulum": (3, [0, 1], [2]),
    "brax/ant": (27, [*range(13)], [*range(13, 27)]),
    "brax/half_cheetah": (17, [*range(8)], [*range(8, 17)]),
    "brax/hopper": (11, [*range(5)], [*range(5, 11)]),
    "brax/humanoid": (244, [*range(22)], [*range(22, 45)]),
    "brax/humanoid_standup": (244, [*range(22)], [*range(22, 45)]),
    "brax/inverted_double_pendulum": (8, [*range(5)], [*range(5, 8)]),
    "brax/inverted_pendulum": (4, [0, 1], [2, 3]),
    "brax/pusher": (23, [*range(7), *range(14, 23)], [*range(7, 14)]),
    "brax/reacher": (11, [*range(6), *range(8, 11)], [6, 7]),
    "brax/walker2d": (17, [*range(8)], [*range(8, 17)]),
    "meta/cartpole": (4, [0, 2], [1, 3]),
}
"""Of environments that are known: the size of an observation, and which of its entries are
positions (angles, their sines and cosines, distances too) and which velocities. A humanoid's other
entries, inertias, momenta and forces, are neither."""


def obscure(
    venv: VectorEnv,
    *,
    action_delay: int = 0,
    observe: str | Sequence[int] | None = None,
    observation_noise: float = 0.0,
    flicker: float = 0.0,
    observation_delay: int = 0,
) -> VectorEnv:
    """``venv`` inside the wrappers that were asked for; itself where none was.

    Args:
        venv: any vector environment, without :class:`~ssmrl.envs.ObservationExtras`.
        action_delay: see :class:`ActionDelay`.
        observe: see :class:`Observe`.
        observation_noise: see :class:`ObservationNoise`.
        flicker: see :class:`Flicker`.
        observation_delay: see :class:`ObservationDelay`.

    Raises:
        ValueError: for values that mean nothing, and spaces that a wrapper cannot be applied to.
    """
    if action_delay != 0:
        venv = ActionDelay(venv, action_delay)
    if observe is not None:
        venv = Observe(venv, observe)
    if observation_noise != 0:
        venv = ObservationNoise(venv, observation_noise)
    if flicker != 0:
        venv = Flicker(venv, flicker)
    if observation_delay != 0:
        venv = ObservationDelay(venv, observation_delay)
    return venv


# ------------------------------------------------------------------------------------- masks


class Observe(VectorWrapper):
    """Only some entries of an observation, in the order given; it becomes smaller.

    Args:
        venv: its observations are a ``Box`` of one axis, or a ``Dict`` with one as ``observation``,
            such as that of trials, of which all else stays.
        entries: ``"positions"`` or ``"velocities"`` of an environment in :data:`LAYOUTS`, or the
            indices of what is seen.

    Raises:
        ValueError: for other observations, entries that are not there or come twice, and words for
            environments of which nobody said what they are.
    """

    def __init__(self, venv: VectorEnv, entries: str | Sequence[int]):
        super().__init__(venv)
        whole = venv.observation_space
        part = whole.spaces.get("observation") if isinstance(whole, spaces.Dict) else None
        self._is_part, space = part is not None, whole if part is None else part
        if not isinstance(space, spaces.Box) or len(space.shape) != 1:
            raise ValueError(
                f"observe={_said(entries)} needs observations in a Box of one axis; "
                f"those of {venv.name} are {space}"
            )
        (size,) = space.shape
        if isinstance(entries, str):
            chosen = _layout(venv.name, entries, size)
        else:
            chosen = _indices(entries, size)
        self._entries = np.asarray(chosen, np.int32)
        low, high = space.low[self._entries], space.high[self._entries]
        seen: spaces.Space = spaces.Box(low, high, self._entries.shape, space.dtype)
        if isinstance(whole, spaces.Dict):
            seen = spaces.Dict({**whole.spaces, "observation": seen})
        self.observation_space = seen

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        obs, state = self.venv.reset(key)
        return self._see(obs), state

    def step(self, state: Any, action: Any) -> VectorTransition:
        obs, state, reward, terminated, truncated, info = self.venv.step(state, action)
        info = {**info, "final_observation": self._see(info["final_observation"])}
        return self._see(obs), state, reward, terminated, truncated, info

    def _see(self, obs: Any) -> Any:
        if self._is_part:
            return {**obs, "observation": obs["observation"][:, self._entries]}
        return obs[:, self._entries]


def _layout(name: str, word: str, size: int) -> list[int]:
    """The entries of an environment that a word is for."""
    if word not in ("positions", "velocities"):
        raise ValueError(
            f"observe={word!r} must be positions, velocities, or indices such as [0,2]"
        )
    known, positions, velocities = LAYOUTS.get(name, (0, [], []))
    if known != size:
        raise ValueError(
            f"observe={word}: nobody said which of the {size} entries of {name} are {word}; "
            "give their indices, observe=[0,2], say"
        )
    return positions if word == "positions" else velocities


def _indices(entries: Sequence[int], size: int) -> list[int]:
    indices = list(entries) if isinstance(entries, Sequence | np.ndarray) else [None]
    fine = all(is_integer(i) and 0 <= i < size for i in indices)
    if not indices or not fine or len(set(indices)) < len(indices):
        raise ValueError(
            f"observe={_said(entries)} must be different indices from 0 to {size - 1}, at least one"
        )
    return [int(i) for i in indices]


def _said(entries: str | Sequence[int]) -> str:
    return str(entries).replace(" ", "")


# ------------------------------------------------------------------------------------- chance


@struct.dataclass
class ChanceState:
    """The wrapped state; ``key``: one for each environment; ``time``: steps since the reset."""

    inner: Any
    key: Leaf
    time: Leaf


class _Chance(VectorWrapper):
    """Observations that chance has a part in: the base of wrappers that draw something for each.

    Environment ``i`` draws from a key of its own and its clock, like :class:`JaxVectorEnv`: an odd
    number for what a step ends with, an even one for what an episode begins with.
    """

    @abc.abstractmethod
    def _draw(self, key: PRNGKeyArray, obs: Any) -> Any:
        """What is seen of one observation."""

    def reset(self, key: PRNGKeyArray) -> tuple[Any, ChanceState]:
        key_own, key_inner = jax.random.split(key)
        obs, inner = self.venv.reset(key_inner)
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key_own, jnp.arange(self.num_envs))
        time = jnp.zeros(self.num_envs, jnp.uint32)
        return self._see(keys, 2 * time, obs), ChanceState(inner=inner, key=keys, time=time)

    def step(self, state: ChanceState, action: Any) -> VectorTransition:
        obs, inner, reward, terminated, truncated, info = self.venv.step(state.inner, action)
        time, done = state.time + 1, terminated | truncated
        final = self._see(state.key, 2 * time - 1, info["final_observation"])
        obs = jax.lax.cond(
            any_across_batch(done),
            lambda: select(done, self._see(state.key, 2 * time, obs), final),
            lambda: final,
        )
        info = {**info, "final_observation": final}
        state = ChanceState(inner=inner, key=state.key, time=time)
        return obs, state, reward, terminated, truncated, info

    def _see(self, keys: Array, numbers: Array, obs: Any) -> Any:
        return jax.vmap(self._draw)(jax.vmap(jax.random.fold_in)(keys, numbers), obs)

    def render(self, state: ChanceState, index: int = 0) -> np.ndarray:
        return self.venv.render(state.inner, index)


class ObservationNoise(_Chance):
    """Normal noise on every number of an observation that is a float; what has bounds keeps them.

    Args:
        venv: its observations hold a ``Box`` of floats.
        scale: standard deviation, in the units of the observation.

    Raises:
        ValueError: without floats, or for a scale that is not a positive number.
    """

    def __init__(self, venv: VectorEnv, scale: float):
        super().__init__(venv)
        if not 0 < scale < math.inf:
            raise ValueError(f"observation_noise={scale} must be a deviation of at least 0")
        if not any(map(_is_float, jax.tree.leaves(spaces.as_tree(self.observation_space)))):
            raise ValueError(
                f"observation_noise={scale} needs floats to add noise to; observations of "
                f"{venv.name} are {self.observation_space}"
            )
        self._scale = scale

    def _draw(self, key: PRNGKeyArray, obs: Any) -> Any:
        parts, structure = jax.tree.flatten(spaces.as_tree(self.observation_space))
        leaves = structure.flatten_up_to(obs)
        keys = jax.random.split(key, len(parts))
        noisy = [self._noisy(*leaf) for leaf in zip(parts, leaves, keys, strict=True)]
        return jax.tree.unflatten(structure, noisy)

    def _noisy(self, space: Any, x: Array, key: PRNGKeyArray) -> Array:
        if not _is_float(space):
            return x
        noise = jax.random.normal(key, x.shape, x.dtype)
        return jnp.clip(x + jnp.asarray(self._scale, x.dtype) * noise, space.low, space.high)


def _is_float(space: Any) -> bool:
    return isinstance(space, spaces.Box) and bool(jnp.issubdtype(space.dtype, jnp.floating))


class Flicker(_Chance):
    """Now and then nothing is seen (Hausknecht and Stone, 2015), an episode's first step included.

    Nothing is zeros of a ``Box``, and one value more, the last, of what is discrete: the spaces are
    those of :func:`~ssmrl.envs.wrappers.with_none`.

    Args:
        venv: any.
        probability: that an observation is not seen, each for itself.

    Raises:
        ValueError: for a probability that is not between 0 and 1.
    """

    def __init__(self, venv: VectorEnv, probability: float):
        super().__init__(venv)
        if not 0 < probability <= 1:
            raise ValueError(f"flicker={probability} must be a probability, from 0 to 1")
        self.hides_steps = True
        self._probability = probability
        self._nothing = none_action(venv.observation_space)
        self.observation_space = with_none(venv.observation_space)

    def _draw(self, key: PRNGKeyArray, obs: Any) -> Any:
        return select(jax.random.bernoulli(key, self._probability), self._nothing, obs)


# ------------------------------------------------------------------------------------- delays


@struct.dataclass
class DelayState:
    """The wrapped state, and what is on its way: leaves ``[B, delay, ...]``, the oldest first."""

    inner: Any
    waiting: Any


class _Delay(VectorWrapper):
    """The base of wrappers in which something waits."""

    def __init__(self, venv: VectorEnv, name: str, delay: int):
        super().__init__(venv)
        if not is_integer(delay) or delay < 1:
            raise ValueError(f"{name}={delay} must be a number of steps, at least 0")
        self._delay = int(delay)

    def _queue(self, tree: Any) -> Any:
        """Leaves ``[B, ...]`` as a queue of so many equal ones."""
        return jax.tree.map(lambda x: jnp.stack([x] * self._delay, 1), tree)

    @staticmethod
    def _shift(waiting: Any, newest: Any) -> tuple[Any, Any]:
        """What is through, and the queue without it but with the newest."""
        longer = jax.tree.map(lambda w, x: jnp.concatenate([w, x[:, None]], 1), waiting, newest)
        return jax.tree.map(lambda x: x[:, 0], longer), jax.tree.map(lambda x: x[:, 1:], longer)

    def render(self, state: DelayState, index: int = 0) -> np.ndarray:
        return self.venv.render(state.inner, index)


class ObservationDelay(_Delay):
    """Observations come some steps late; an episode's first one is seen until the second arrives.

    Rewards and ends are told at once: those of the step before, not of what is seen.

    Args:
        venv: any.
        delay: in steps.

    Raises:
        ValueError: for a delay that is no positive integer.
    """

    def __init__(self, venv: VectorEnv, delay: int):
        super().__init__(venv, "observation_delay", delay)
        self.hides_steps = True

    def reset(self, key: PRNGKeyArray) -> tuple[Any, DelayState]:
        obs, inner = self.venv.reset(key)
        return obs, DelayState(inner=inner, waiting=self._queue(obs))

    def step(self, state: DelayState, action: Any) -> VectorTransition:
        obs, inner, reward, terminated, truncated, info = self.venv.step(state.inner, action)
        final, waiting = self._shift(state.waiting, info["final_observation"])
        begun = obs, self._queue(obs)
        obs, waiting = select(terminated | truncated, begun, (final, waiting))
        info = {**info, "final_observation": final}
        state = DelayState(inner=inner, waiting=waiting)
        return obs, state, reward, terminated, truncated, info


class ActionDelay(_Delay):
    """Actions take effect some steps late; until an episode's first does, it is the one of zeros.

    That is 0 of what is discrete, and what is next to 0 within a ``Box``. Actions under way when an
    episode ends are lost.

    Args:
        venv: any.
        delay: in steps.

    Raises:
        ValueError: for a delay that is no positive integer.
    """

    def __init__(self, venv: VectorEnv, delay: int):
        super().__init__(venv, "action_delay", delay)

        def zeros(space: Any) -> Array:
            x = np.zeros((self.num_envs, *space.shape), space.dtype)
            return jnp.asarray(np.clip(x, *_bounds(space)))

        self._still = jax.tree.map(zeros, spaces.as_tree(self.action_space))

    def reset(self, key: PRNGKeyArray) -> tuple[Any, DelayState]:
        obs, inner = self.venv.reset(key)
        return obs, DelayState(inner=inner, waiting=self._queue(self._still))

    def step(self, state: DelayState, action: Any) -> VectorTransition:
        action, waiting = self._shift(state.waiting, as_elements(self.action_space, action))
        obs, inner, reward, terminated, truncated, info = self.venv.step(state.inner, action)
        waiting = select(terminated | truncated, self._queue(self._still), waiting)
        state = DelayState(inner=inner, waiting=waiting)
        return obs, state, reward, terminated, truncated, info


def _bounds(space: Any) -> tuple[Any, Any]:
    return (space.low, space.high) if isinstance(space, spaces.Box) else (0, None)

"""Wrappers of a :class:`~ssmrl.envs.VectorEnv`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, PRNGKeyArray

from ssmrl.envs import spaces
from ssmrl.envs.batching import select
from ssmrl.envs.contract import check_space, vector_reset_checked, vector_step_checked
from ssmrl.envs.environment import Leaf
from ssmrl.envs.vector import VectorEnv, VectorTransition

NOT_OWN = frozenset({"final_observation", "episode", "discount", "trial", "trial_discount"})
"""Names in ``info`` that are no numbers of an environment's own: what vector environments and
wrappers put there, gymnax's discount, which is the termination once more, and what trials
(:class:`ssmrl.envs.meta.Trials`) say to those who count them."""


class VectorWrapper(VectorEnv):
    """Passes everything on to ``venv``: the base of wrappers that keep no state of their own."""

    def __init__(self, venv: VectorEnv):
        self.venv = venv
        self.name = venv.name
        self.num_envs = venv.num_envs
        self.observation_space = venv.observation_space
        self.action_space = venv.action_space
        self.is_host = venv.is_host
        self.hides_steps = venv.hides_steps

    @property
    def unwrapped(self) -> VectorEnv:
        """The vector environment inside all wrappers."""
        return self.venv.unwrapped if isinstance(self.venv, VectorWrapper) else self.venv

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        return self.venv.reset(key)

    def step(self, state: Any, action: Any) -> VectorTransition:
        return self.venv.step(state, action)

    def render(self, state: Any, index: int = 0) -> np.ndarray:
        return self.venv.render(state, index)

    @property
    def failure(self) -> Exception | None:
        return self.venv.failure

    def encode_observation(self, obs: Any) -> Any:
        return self.venv.encode_observation(obs)

    def decode_action(self, action: Any) -> Any:
        return self.venv.decode_action(action)

    def close(self) -> None:
        self.venv.close()


class CheckedVectorEnv(VectorWrapper):
    """Holds a vector environment of a user's own to its contract, as it is traced.

    Raises:
        EnvironmentFault: in ``reset`` and ``step``, a line that says what is wrong; here for spaces
            that are none of ours.
    """

    def __init__(self, venv: VectorEnv):
        super().__init__(venv)
        check_space(self.name, "observation_space", self.observation_space)
        check_space(self.name, "action_space", self.action_space)

    def reset(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        return vector_reset_checked(self.venv, key)

    def step(self, state: Any, action: Any) -> VectorTransition:
        return vector_step_checked(self.venv, state, action)


def checked(venv: VectorEnv) -> VectorEnv:
    """``venv`` itself if its class is the library's, which checks what it is made of."""
    own = type(venv).__module__.partition(".")[0] == "ssmrl"
    return venv if own else CheckedVectorEnv(venv)


@struct.dataclass
class EpisodeStatisticsState:
    """The wrapped state; return f32[B] and length i32[B] so far of the episodes under way."""

    inner: Any
    episode_return: Leaf
    episode_length: Leaf


class EpisodeStatistics(VectorWrapper):
    """Adds ``info["episode"]``: ``done`` bool[B], ``return`` f32[B], ``length`` i32[B].

    ``return`` is the plain sum of the episode's rewards and ``length`` its number of steps; both
    are valid where ``done``, which is terminated or truncated. Elsewhere they are the sums so far.
    A number of the environment's own for each copy, ``info["success"]`` [B], is there as
    ``"info/success"``, f32[B]: what it is in this step. Where it is not finite, the environment has
    not said what it is.
    """

    def reset(self, key: PRNGKeyArray) -> tuple[Any, EpisodeStatisticsState]:
        obs, inner = self.venv.reset(key)
        return obs, EpisodeStatisticsState(
            inner=inner,
            episode_return=jnp.zeros(self.num_envs, jnp.float32),
            episode_length=jnp.zeros(self.num_envs, jnp.int32),
        )

    def step(self, state: EpisodeStatisticsState, action: Any) -> VectorTransition:
        obs, inner, reward, terminated, truncated, info = self.venv.step(state.inner, action)
        done = terminated | truncated
        total, length = state.episode_return + reward, state.episode_length + 1
        episode = {"done": done, "return": total, "length": length, **self._scalars(info)}
        info = {**info, "episode": episode}
        state = EpisodeStatisticsState(
            inner=inner,
            episode_return=jnp.where(done, jnp.zeros_like(total), total),
            episode_length=jnp.where(done, jnp.zeros_like(length), length),
        )
        return obs, state, reward, terminated, truncated, info

    def _scalars(self, info: Mapping[str, Any]) -> dict[str, Any]:
        return {
            f"info/{name}": value.astype(jnp.float32)
            for name, value in info.items()
            if name not in NOT_OWN and getattr(value, "shape", None) == (self.num_envs,)
            if value.dtype == bool or jnp.issubdtype(value.dtype, jnp.number)
            if not jnp.issubdtype(value.dtype, jnp.complexfloating)
        }

    def render(self, state: EpisodeStatisticsState, index: int = 0) -> np.ndarray:
        return self.venv.render(state.inner, index)


class ObservationExtras(VectorWrapper):
    """Puts what the agent did, what it got, and whether the episode is new into the observation.

    The observation becomes a dict of ``observation`` and what was asked for:

    - ``previous_action``: the action that led here. Discrete and multi-discrete actions get one
      more value, the last, for "none": ``Discrete(n + 1)`` with ``n`` at an episode's first
      observation, so that a one-hot code tells "none" from every action. ``Box`` actions are zeros
      then.
    - ``previous_reward``: f32 ``[1]``, 0 at the first observation.
    - ``first``: ``Discrete(2)``, 1 at the first observation.

    ``info["final_observation"]`` carries the extras of the episode that ended: the action just
    taken, its reward, ``first`` 0.

    Raises:
        ValueError: if nothing is asked for.
    """

    def __init__(
        self,
        venv: VectorEnv,
        previous_action: bool = False,
        previous_reward: bool = False,
        first_flag: bool = False,
    ):
        super().__init__(venv)
        if not (previous_action or previous_reward or first_flag):
            raise ValueError("ObservationExtras needs at least one extra")
        self.previous_action = previous_action
        self.previous_reward = previous_reward
        self.first_flag = first_flag
        parts: dict[str, spaces.Space] = {"observation": venv.observation_space}
        if previous_action:
            parts["previous_action"] = with_none(venv.action_space)
        if previous_reward:
            parts["previous_reward"] = spaces.Box(-np.inf, np.inf, (1,), np.float32)
        if first_flag:
            parts["first"] = spaces.Discrete(2)
        self.observation_space = spaces.Dict(parts)

    def reset(self, key: PRNGKeyArray) -> tuple[dict[str, Any], Any]:
        obs, state = self.venv.reset(key)
        first, reward = jnp.ones(self.num_envs, bool), jnp.zeros(self.num_envs, jnp.float32)
        return self.extend(obs, self.none(self.num_envs), reward, first), state

    def step(self, state: Any, action: Any) -> VectorTransition:
        obs, state, reward, terminated, truncated, info = self.venv.step(state, action)
        final = self.extend(info["final_observation"], action, reward, jnp.zeros_like(terminated))
        obs = self.extend(obs, action, reward, terminated | truncated)
        info = {**info, "final_observation": final}
        return obs, state, reward, terminated, truncated, info

    def none(self, num_envs: int) -> Any:
        """:func:`none_action` ``num_envs`` times: what goes before an episode's first action."""
        return jax.tree.map(
            lambda x: jnp.broadcast_to(x, (num_envs, *x.shape)), none_action(self.action_space)
        )

    def extend(self, obs: Any, action: Any, reward: Array, first: Array) -> dict[str, Any]:
        """``obs`` with what was asked for.

        Args:
            obs: leaves ``[B, ...]``, of the environment inside.
            action: leaves ``[B, ...]``, the one that led to ``obs``.
            reward: f32 ``[B]``, that came with it.
            first: bool ``[B]``, where ``obs`` begins an episode: no action led there.
        """
        num_envs = first.shape[0]
        action = as_elements(self.action_space, action)
        none = (self.none(num_envs), jnp.zeros(num_envs, jnp.float32))
        action, reward = select(first, none, (action, reward))
        extended = {"observation": obs}
        if self.previous_action:
            extended["previous_action"] = action
        if self.previous_reward:
            extended["previous_reward"] = reward[:, None]
        if self.first_flag:
            extended["first"] = first.astype(jnp.int32)
        return extended


def find_extras(venv: VectorEnv) -> ObservationExtras | None:
    """The wrapper of ``venv`` that adds to the observations, if there is one."""
    while isinstance(venv, VectorWrapper):
        if isinstance(venv, ObservationExtras):
            return venv
        venv = venv.venv
    return None


def with_none(space: spaces.Space) -> spaces.Space:
    """``space`` with room for :func:`none_action`.

    Raises:
        ValueError: for a space that is none of ours.
    """
    if isinstance(space, spaces.Discrete):
        return spaces.Discrete(space.n + 1)
    if isinstance(space, spaces.MultiDiscrete):
        return spaces.MultiDiscrete(space.nvec + 1)
    if isinstance(space, spaces.Box):
        low, high = np.minimum(space.low, 0), np.maximum(space.high, 0)
        return spaces.Box(low, high, space.shape, space.dtype)
    if isinstance(space, spaces.Dict):
        return spaces.Dict({name: with_none(s) for name, s in space.spaces.items()})
    if isinstance(space, spaces.Tuple):
        return spaces.Tuple([with_none(s) for s in space.spaces])
    raise ValueError(f"no previous action for actions of {space!r}")


def none_action(space: spaces.Space) -> Any:
    """What stands for "no action yet": one past the last value if discrete, zeros if not.

    Raises:
        ValueError: for a space that is none of ours.
    """
    if isinstance(space, spaces.Discrete):
        return jnp.asarray(space.n, space.dtype)
    if isinstance(space, spaces.MultiDiscrete):
        return jnp.asarray(space.nvec, space.dtype)
    if isinstance(space, spaces.Box):
        return jnp.zeros(space.shape, space.dtype)
    if isinstance(space, spaces.Dict):
        return {name: none_action(s) for name, s in space.spaces.items()}
    if isinstance(space, spaces.Tuple):
        return tuple(none_action(s) for s in space.spaces)
    raise ValueError(f"no previous action for actions of {space!r}")


def as_elements(space: spaces.Space, action: Any) -> Any:
    """``action`` in the space's own dtypes: agents may hand over int64, or a weakly typed float."""
    reference = none_action(space)
    return jax.tree.map(lambda a, r: jax.lax.convert_element_type(a, r.dtype), action, reference)

"""Many environments at once, under one interface for JAX and for Python environments.

An agent needs nothing else: ``obs, state = venv.reset(key)`` and ``obs, state, reward, terminated,
truncated, info = venv.step(state, action)``, both jittable and usable inside ``lax.scan``. Every
leaf carries a leading axis ``B = num_envs``. ``obs`` is already the next episode's first
observation where the episode ended; what it ended with is in ``info["final_observation"]``.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Float, PRNGKeyArray, UInt32

from ssmrl.envs.batching import any_across_batch, replace_in_blocks
from ssmrl.envs.contract import check_space, reset_checked, step_checked
from ssmrl.envs.environment import Environment, Leaf
from ssmrl.envs.spaces import Space

VectorTransition = tuple[
    Any, Any, Float[Array, "B"], Bool[Array, "B"], Bool[Array, "B"], dict[str, Any]
]


class VectorEnv(abc.ABC):
    """``num_envs`` environments with auto-reset.

    Attributes:
        name: canonical name, for people and for messages.
        num_envs: the size of the batch axis.
        observation_space: space of *one* observation.
        action_space: space of *one* action.
        is_host: True for Python environments, which are stepped through an ordered callback: they
            cannot be vmapped, and what they remember is not in ``state``, so that a restored
            checkpoint has to call :meth:`reset` and start new episodes.
        hides_steps: True where what a step shows is not always seen when it comes.
    """

    name: str
    num_envs: int
    observation_space: Space
    action_space: Space
    is_host: bool = False
    hides_steps: bool = False

    @abc.abstractmethod
    def reset(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """Start an episode in every environment.

        Environment ``i`` depends on ``key`` and ``i`` alone, not on how many there are.

        Returns:
            obs ``[B, ...]`` and state, a pytree of arrays (typed keys included).
        """

    @abc.abstractmethod
    def step(self, state: Any, action: Any) -> VectorTransition:
        """One step of every environment; those whose episode ended start the next one.

        Args:
            state: from :meth:`reset` or :meth:`step`.
            action: ``[B, ...]`` of :attr:`action_space`.

        Returns:
            obs ``[B, ...]``, state, reward f32[B], terminated bool[B], truncated bool[B], info.
            ``info["final_observation"]`` has the structure of ``obs``: the observation before the
            auto-reset where terminated or truncated, ``obs`` itself elsewhere.
        """

    def render(self, state: Any, index: int = 0) -> np.ndarray:
        """A picture of environment ``index``, uint8 ``[H, W, 3]``, on the host.

        Raises:
            NotImplementedError: if the environment has no picture.
        """
        raise NotImplementedError(f"{self.name} has no picture")

    @property
    def failure(self) -> Exception | None:
        """What ended a program that stepped these environments, or None.

        A compiled program passes on only the text of what is raised in it, as a JaxRuntimeError
        with JAX's own frames; this is the exception itself: its message is one line, its
        ``__cause__`` what the environment raised.
        """
        return None

    def encode_observation(self, obs: Any) -> Any:
        """Observations as the environment's own package gives them, as those of this class.

        Only packages whose values are changed on the way have something to do: gymnasium's
        discrete values that do not begin at 0, say. ``obs`` may have leading axes.
        """
        return obs

    def decode_action(self, action: Any) -> Any:
        """Actions of this class, in numpy, as the environment's own package takes them."""
        return action

    def close(self) -> None:  # noqa: B027  # not abstract: most have nothing to do
        """Release what the environments hold; nothing for JAX environments."""


def check_num_envs(num_envs: int) -> int:
    """``num_envs`` if there can be so many environments.

    Raises:
        ValueError: unless it is a positive integer.
    """
    return check_positive("num_envs", num_envs)


def check_positive(name: str, value: int) -> int:
    """``value``, of the argument ``name``.

    Raises:
        ValueError: unless it is a positive integer.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be a positive integer, got {value!r}")
    return int(value)


RESET_BLOCKS = {"cpu": 8, "default": 1024}
"""Environments that are reset at a time, by platform. A processor pays for each of them, so that
few idle ones may be in a block; an accelerator pays for the number of blocks."""


@struct.dataclass
class VectorState:
    """``env``: the environments' states. ``key``: one each. ``time``: steps since the reset."""

    env: Any
    key: Leaf
    time: Leaf


class JaxVectorEnv(VectorEnv):
    """A JAX environment, vmapped, that draws new episodes only where one ended.

    gymnax draws a new episode for every environment at every step and mostly throws it away. Here
    those that ended are gathered into blocks of a fixed size, and only as many blocks are drawn as
    it takes, most often none (:func:`ssmrl.envs.batching.replace_in_blocks`). What is drawn does
    not depend on the block: environment ``i`` resets from its own key and clock.

    Args:
        env: the environment.
        params: its parameters, None for the default ones.
        num_envs: how many.
        name: canonical name; the environment's own if left out.
        reset_block: how many environments are reset at a time. None: :data:`RESET_BLOCKS`.

    Raises:
        ValueError: if ``num_envs`` or ``reset_block`` is not a positive integer.
        EnvironmentFault: a ValueError; here for spaces that are none of ours, in :meth:`reset` and
            :meth:`step` where the environment does not do what it promises.
    """

    def __init__(
        self,
        env: Environment,
        params: Any,
        num_envs: int,
        *,
        name: str | None = None,
        reset_block: int | None = None,
    ):
        self.env = env
        self.params = env.default_params if params is None else params
        self.num_envs = check_num_envs(num_envs)
        self.name = name or env.name
        observation, action = env.observation_space(self.params), env.action_space(self.params)
        self.observation_space = check_space(self.name, "observation_space", observation)
        self.action_space = check_space(self.name, "action_space", action)
        if reset_block is not None:
            check_positive("reset_block", reset_block)
        self.reset_block = reset_block

    def reset(self, key: PRNGKeyArray) -> tuple[Any, VectorState]:
        keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(self.num_envs))
        time = jnp.zeros(self.num_envs, jnp.uint32)
        obs, env_state = self._reset_envs(keys, time)
        return obs, VectorState(env=env_state, key=keys, time=time)

    def step(self, state: VectorState, action: Any) -> VectorTransition:
        time = state.time + 1
        final_obs, env_state, reward, terminated, truncated, info = jax.vmap(self._step_env)(
            # A counter folded into a constant key: an environment that draws nothing pays nothing.
            jax.vmap(jax.random.fold_in)(state.key, 2 * time - 1),
            state.env,
            action,
        )
        done = terminated | truncated

        obs, env_state = jax.lax.cond(
            any_across_batch(done),
            lambda: self._begin_episodes(done, state.key, time, (final_obs, env_state)),
            lambda: (final_obs, env_state),
        )
        state = VectorState(env=env_state, key=state.key, time=time)
        info = {**info, "final_observation": final_obs}
        return obs, state, reward, terminated, truncated, info

    def _begin_episodes(self, done: Array, keys: Array, time: Array, old: Any) -> tuple[Any, Any]:
        """``old``, observations and states, with new episodes where ``done``."""

        def draw(index: Array) -> tuple[Any, Any]:
            return self._reset_envs(keys[index], time[index])

        def in_blocks_of(block_size: int) -> Callable[[Any], Any]:
            return lambda old: replace_in_blocks(done, draw, old, block_size)

        if self.reset_block is not None or self.num_envs <= min(RESET_BLOCKS.values()):
            return in_blocks_of(self.reset_block or self.num_envs)(old)
        # Only the branch of the platform that the program is for gets compiled.
        branches = {platform: in_blocks_of(size) for platform, size in RESET_BLOCKS.items()}
        return jax.lax.platform_dependent(old, **branches)

    def _reset_envs(self, keys: Array, time: UInt32[Array, "B"]) -> tuple[Any, Any]:
        keys = jax.vmap(jax.random.fold_in)(keys, 2 * time)
        return jax.vmap(self._reset_env)(keys)

    def _reset_env(self, key: PRNGKeyArray) -> tuple[Any, Any]:
        """One environment's, checked as it is traced."""
        return reset_checked(self.name, self.env, self.observation_space, key, self.params)

    def _step_env(self, key: PRNGKeyArray, state: Any, action: Any) -> Any:
        """One environment's, checked as it is traced."""
        space = self.observation_space
        return step_checked(self.name, self.env, space, key, state, action, self.params)

    def render(self, state: VectorState, index: int = 0) -> np.ndarray:
        one = jax.tree.map(lambda x: x[index], state.env)
        return np.asarray(self.env.render(one, self.params))

"""One environment, as pure functions: gymnax 1.x's contract.

A subclass writes :meth:`Environment.reset_env`, :meth:`Environment.step_env` and its two spaces.
The differences from gymnax are confined to ``step_env``, which also returns ``truncated`` (in
gymnax a separate method computes it from the state's clock); ``reset`` and ``step`` are called and
answer as in gymnax, so an agent written for gymnax runs on these environments unchanged.
"""

from __future__ import annotations

import abc
import dataclasses
import difflib
import math
import numbers
from functools import partial
from typing import Any, Generic, TypeVar

import jax
from flax import struct
from jaxtyping import Array, PRNGKeyArray

from ssmrl.envs.batching import select, strip_weak_types
from ssmrl.envs.spaces import Discrete, Space, flat_size

State = TypeVar("State")
Params = TypeVar("Params")
# A leaf of a state. An array, but JAX also builds states of shapes, dtypes and the like, so that a
# dataclass of leaves must not insist.
Leaf = Any
Transition = tuple[Any, State, Array, Array, Array, dict[str, Any]]


@struct.dataclass
class NoParams:
    """The parameters of an environment that has none."""


class Environment(abc.ABC, Generic[State, Params]):
    """Base class. Observations and states are pytrees of arrays; everything is jittable."""

    @property
    def name(self) -> str:
        """Name for people."""
        return type(self).__name__

    @property
    def default_params(self) -> Params:
        """Parameters of the environment as published, a ``flax.struct`` dataclass; here: none."""
        return NoParams()  # type: ignore[return-value]

    @abc.abstractmethod
    def reset_env(self, key: PRNGKeyArray, params: Params) -> tuple[Any, State]:
        """Draw the first observation and state of an episode."""

    @abc.abstractmethod
    def step_env(self, key: PRNGKeyArray, state: State, action: Any, params: Params) -> Transition:
        """One transition, without auto-reset.

        Returns:
            obs, state, reward f32[], terminated bool[], truncated bool[], info. ``terminated``: the
            episode ended by the rules, nothing follows. ``truncated``: it was cut off by a time
            limit, the value of what would have followed is worth estimating.
        """

    @abc.abstractmethod
    def observation_space(self, params: Params) -> Space:
        """Space of one observation."""

    @abc.abstractmethod
    def action_space(self, params: Params) -> Space:
        """Space of one action."""

    @property
    def num_actions(self) -> int:
        """Number of actions of a discrete environment, entries of the action of any other."""
        space = self.action_space(self.default_params)
        return space.n if isinstance(space, Discrete) else flat_size(space)

    @partial(jax.jit, static_argnames=("self",))
    def reset(self, key: PRNGKeyArray, params: Params | None = None) -> tuple[Any, State]:
        """First observation and state of an episode."""
        params = self.default_params if params is None else params
        return strip_weak_types(self.reset_env(key, params))

    @partial(jax.jit, static_argnames=("self",))
    def step(
        self, key: PRNGKeyArray, state: State, action: Any, params: Params | None = None
    ) -> Transition:
        """One transition with auto-reset, as gymnax does it.

        Where the episode ended, ``obs`` and ``state`` already belong to the next one, and
        ``info["final_observation"]`` is the observation before the reset. This draws a new episode
        at every step; :class:`ssmrl.envs.JaxVectorEnv` does so only when one is needed.
        """
        params = self.default_params if params is None else params
        key_step, key_reset = jax.random.split(key)
        transition = self.step_env(key_step, state, action, params)
        final_obs, state, reward, terminated, truncated, info = strip_weak_types(transition)
        first = strip_weak_types(self.reset_env(key_reset, params))
        obs, state = select(terminated | truncated, first, (final_obs, state))
        info = {
            **info,
            "terminated": terminated,
            "truncated": truncated,
            "final_observation": final_obs,
        }
        return obs, state, reward, terminated, truncated, info

    def render(self, state: State, params: Params) -> Array:
        """A picture of ``state``, uint8 ``[H, W, 3]``.

        Raises:
            NotImplementedError: if the environment has no picture.
        """
        raise NotImplementedError(f"{self.name} has no picture")

    def make_params(self, **overrides: Any) -> Params:
        """The default parameters with some fields replaced.

        Raises:
            ValueError: for a field that does not exist, naming the near match; for one that must be
                an integer, a number or a truth value and is not; for values that make no game (see
                :meth:`check_params`).
        """
        for field, value in overrides.items():
            default = getattr(self.default_params, field, None)
            if type(default) is int:
                if not is_integer(value):
                    raise ValueError(f"{self.name} needs an integer {field}, got {value!r}")
                if not abs(value) < 2**31:
                    raise ValueError(
                        f"{self.name}'s {field} must be a number that 32 bits hold, got {value!r}"
                    )
                overrides[field] = int(value)
            elif type(default) is float:
                check_number(f"{self.name}'s {field}", value)
            elif type(default) is bool:
                check_truth(f"{self.name}'s {field}", value)
        params = replace_fields(self.name, self.default_params, overrides)
        self.check_params(params)
        return params

    def check_params(self, params: Params) -> None:
        """Raise a ValueError that says what is needed if ``params`` make no game."""


def is_integer(value: Any) -> bool:
    """Whether ``value`` is an integer, numpy's included, and no truth value."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def check_number(name: str, value: Any) -> None:
    """Raise a ValueError unless ``value``, called ``name``, is a number, or an array."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not (is_number or hasattr(value, "dtype")) or (is_number and math.isnan(value)):
        raise ValueError(f"{name} must be a number, got {value!r}")


def check_truth(name: str, value: Any) -> None:
    """Raise a ValueError unless ``value``, called ``name``, is true or false, or an array.

    ``no`` from a command line is a word, and a word counts as true.
    """
    if not isinstance(value, bool) and not hasattr(value, "dtype"):
        raise ValueError(f"{name} must be true or false, got {value!r}")


def replace_fields(name: str, params: Any, overrides: dict[str, Any]) -> Any:
    """``params``, a dataclass, with ``overrides``; a ValueError names an unknown field."""
    if not overrides:
        return params
    known = [f.name for f in dataclasses.fields(params)] if dataclasses.is_dataclass(params) else []
    for field, value in overrides.items():
        if field not in known:
            near = difflib.get_close_matches(field, known, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            options = ", ".join(known) or "none"
            raise ValueError(f"{name} has no option {field!r}{hint} (options: {options})")
        if isinstance(getattr(params, field), float) and type(value) is int:
            # 5 for 5.0: written into a program, the two have different dtypes.
            overrides = {**overrides, field: float(value)}
    return dataclasses.replace(params, **overrides)

"""Several environments as one task distribution, seen through random projections.

A task is one of the environments, a random linear map of its observation to a shared width, and a
random map from shared actions to its own (Lu et al., "Structured State Space Models for In-Context
Reinforcement Learning", 2023). What an observation's entries mean and what an action does has to be
found out in every task; nothing can be known about it beforehand.

With x in R^D an observation flattened, discrete parts one-hot and padded with zeros to the widest
environment's D, and d the environment's own width, the agent sees

    o = M x,   M[i, j] ~ N(0, 1 / d)

Where all environments have discrete actions, the shared ones are 0 … n - 1, with n the largest
number: a random permutation π gives an environment with m of them the action π(a) mod m. Where any
has continuous actions, the shared ones are vectors a in [-1, 1]^A, and with rows u of N of length 1
in random directions

    continuous:  entry i = low + (high - low) (clip(u_i · a, -1, 1) + 1) / 2
    discrete:    the action i with the largest u_i · a

All environments of a batch are stepped by one program: `lax.switch` on the task. Batched, a switch
computes all its branches and selects, so that a step costs as much as one of each environment.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray

from ssmrl.envs.drawing import gauges, side_by_side
from ssmrl.envs.environment import Environment, Leaf, Transition
from ssmrl.envs.meta.task import Episodes, TaskEnvironment
from ssmrl.envs.spaces import (
    Box,
    Dict,
    Discrete,
    MultiDiscrete,
    Space,
    Tuple,
    as_tree,
)
from ssmrl.envs.vector import check_positive

LARGEST = 1024
"""Numbers of an observation, at most: beyond, it is a picture, which no projection is meant for."""
_FULL = 2.0  # the entry of an observation that fills a gauge


@dataclasses.dataclass(frozen=True)
class Member:
    """An environment of several.

    Attributes:
        env: it; one that is no task distribution itself draws a new episode for every trial.
        params: its parameters; None for the default ones.
        reward_scale: its rewards are multiplied by it, so that returns are of one size.
    """

    env: Environment
    params: Any = None
    reward_scale: float = 1.0


@struct.dataclass
class JoinedTask:
    """``which`` i32[]: number of the environment. ``own``: each environment's own task.

    ``observation`` f32[W, D]: M. ``action``: i32[n], π, or f32[rows, A], N.
    """

    which: Leaf
    own: tuple[Any, ...]
    observation: Leaf
    action: Leaf


@struct.dataclass
class JoinedState:
    """``inner``: the state of each environment, of which only that of the task moves.

    ``seen``: the environment's own observation x, f32[D].
    """

    task: JoinedTask
    inner: tuple[Any, ...]
    seen: Leaf


class Joined(TaskEnvironment[JoinedState, tuple]):
    """See the module. Parameters are a tuple, those of each environment in turn.

    Args:
        members: the environments by name, those that are held out included, so that spaces are the
            same in both splits.
        tasks: names of those to train in; None for all that are not held out.
        held_out: names of those that are not trained in.
        split: "train" or "held_out": which of both are drawn from.
        observation_width: W.
        action_width: A, for continuous actions; None for as many as the largest own number.
        label: a name for people.

    Raises:
        ValueError: for names that are unknown, or in both lists; for no environment to draw from;
            for spaces that cannot be joined; for widths below 1.
    """

    def __init__(
        self,
        members: Mapping[str, Member],
        *,
        tasks: Sequence[str] | None = None,
        held_out: Sequence[str] = (),
        split: str = "train",
        observation_width: int = 16,
        action_width: int | None = None,
        label: str = "joined",
    ):
        tasks, held_out = chosen_names(list(members), tasks, held_out)
        self.held_out = held_out
        self.names = [*tasks, *held_out]
        drawn = held_out if split == "held_out" and held_out else tasks
        self.drawn = np.array([self.names.index(name) for name in drawn], np.int32)
        self.label = label
        self.scales = np.array([members[n].reward_scale for n in self.names], np.float32)
        self.envs = [as_tasks(members[name].env) for name in self.names]
        self._params = tuple(
            env.default_params if members[name].params is None else members[name].params
            for name, env in zip(self.names, self.envs, strict=True)
        )
        spaces = [
            (env.observation_space(p), env.action_space(p))
            for env, p in zip(self.envs, self._params, strict=True)
        ]
        for name, (observation, action) in zip(self.names, spaces, strict=True):
            check_joinable(name, observation, action)
        self._observations = [observation for observation, _ in spaces]
        self._actions = [action for _, action in spaces]
        self.sizes = np.array([one_hot_size(space) for space in self._observations], np.int32)
        self.width = check_positive("observation_width", observation_width)
        self.is_continuous = any(isinstance(action, Box) for action in self._actions)
        self.rows = max(map(action_rows, self._actions))
        if action_width is not None and not self.is_continuous:
            raise ValueError(
                f"action_width={action_width}: the actions of {', '.join(self.names)} are all "
                f"discrete, and joined as {self.rows} of them; leave it out"
            )
        self.action_width = check_positive(
            "action_width", self.rows if action_width is None else action_width
        )

    @property
    def name(self) -> str:
        return self.label

    @property
    def default_params(self) -> tuple[Any, ...]:
        return self._params

    def make_params(self, **overrides: Any) -> tuple[Any, ...]:
        """The parameters of a single environment, with some replaced.

        Raises:
            ValueError: if several environments are joined and anything is to be replaced; for what
                that environment refuses.
        """
        if not overrides:
            return self._params
        if len(self.envs) > 1:
            raise ValueError(
                f"{self.name} has no option {next(iter(overrides))!r}: parameters can be set for "
                f"one environment only, and it joins {len(self.envs)}"
            )
        return (self.envs[0].make_params(**overrides),)

    def observation_space(self, params: Any) -> Box:
        return Box(-np.inf, np.inf, (self.width,), np.float32)

    def action_space(self, params: Any) -> Space:
        if self.is_continuous:
            return Box(-1.0, 1.0, (self.action_width,), np.float32)
        return Discrete(self.rows)

    # ........................................................................ tasks

    def sample_task(self, key: PRNGKeyArray, params: tuple[Any, ...]) -> JoinedTask:
        key_which, key_observation, key_action, key_own = jax.random.split(key, 4)
        which = jax.random.choice(key_which, jnp.asarray(self.drawn))
        keys = jax.random.split(key_own, len(self.envs))
        own = tuple(
            env.sample_task(k, p) for env, k, p in zip(self.envs, keys, params, strict=True)
        )
        shape = (self.width, int(np.max(self.sizes)))
        deviation = 1 / jnp.sqrt(jnp.asarray(self.sizes)[which].astype(jnp.float32))
        observation = deviation * jax.random.normal(key_observation, shape, jnp.float32)
        return JoinedTask(which, own, observation, self._draw_action_map(key_action))

    def _draw_action_map(self, key: PRNGKeyArray) -> Array:
        if not self.is_continuous:
            return jax.random.permutation(key, self.rows)
        rows = jax.random.normal(key, (self.rows, self.action_width), jnp.float32)
        return rows / jnp.linalg.norm(rows, axis=1, keepdims=True)

    # ........................................................................ trials

    def reset_trial(
        self, key: PRNGKeyArray, task: JoinedTask, params: tuple[Any, ...]
    ) -> tuple[Array, JoinedState]:
        # All begin one: batched, a switch would not do less.
        keys = jax.random.split(key, len(self.envs))
        first = [
            env.reset_trial(k, own, p)
            for env, k, own, p in zip(self.envs, keys, task.own, params, strict=True)
        ]
        seen = jnp.stack([self._flat(i, obs) for i, (obs, _) in enumerate(first)])[task.which]
        return task.observation @ seen, JoinedState(task, tuple(state for _, state in first), seen)

    def step_env(
        self, key: PRNGKeyArray, state: JoinedState, action: Any, params: tuple[Any, ...]
    ) -> Transition:
        branches = [partial(self._step_one, i) for i in range(len(self.envs))]
        which = state.task.which
        seen, inner, reward, terminated, truncated = jax.lax.switch(
            which, branches, key, state, action, params
        )
        reward = reward * jnp.asarray(self.scales)[which]
        obs = state.task.observation @ seen
        return obs, JoinedState(state.task, inner, seen), reward, terminated, truncated, {}

    def _step_one(
        self, i: int, key: PRNGKeyArray, state: JoinedState, action: Any, params: tuple[Any, ...]
    ) -> tuple[Any, ...]:
        """A step of environment ``i``: its observation padded, and all states."""
        own = self._own_action(i, state.task.action, action)
        obs, after, reward, terminated, truncated, _ = self.envs[i].step_env(
            key, state.inner[i], own, params[i]
        )
        inner = (*state.inner[:i], _of_types(after, state.inner[i]), *state.inner[i + 1 :])
        ends = jnp.asarray(terminated, bool), jnp.asarray(truncated, bool)
        return self._flat(i, obs), inner, jnp.asarray(reward, jnp.float32), *ends

    def _flat(self, i: int, obs: Any) -> Float[Array, "N"]:
        flat = one_hot(self._observations[i], obs)
        return jnp.pad(flat, (0, int(np.max(self.sizes)) - flat.shape[0]))

    def _own_action(self, i: int, mapping: Array, action: Any) -> Any:
        space = self._actions[i]
        rows = action_rows(space)
        if isinstance(space, Box):
            unit = (jnp.clip(mapping[:rows] @ action, -1.0, 1.0) + 1) / 2
            unit = unit.reshape(space.shape)
            return (space.low + (space.high - space.low) * unit).astype(space.dtype)
        if self.is_continuous:
            number = jnp.argmax(mapping[:rows] @ action)
        else:
            number = mapping[action] % rows
        if isinstance(space, MultiDiscrete):
            digits = jnp.unravel_index(number, tuple(space.nvec.ravel().tolist()))
            return jnp.stack(digits).reshape(space.shape).astype(space.dtype)
        return number.astype(jnp.int32)

    # ........................................................................ pictures

    def render(self, state: JoinedState, params: tuple[Any, ...]) -> Array:
        """What the agent sees, as gauges, beside the picture of the task's environment."""
        pictures = [partial(self._picture, i) for i in range(len(self.envs))]
        shapes = [jax.eval_shape(picture, state, params).shape for picture in pictures]
        height, width = (max(shape[axis] for shape in shapes) for axis in (0, 1))

        def padded(picture: Any) -> Array:
            own = picture(state, params)
            margins = (0, height - own.shape[0]), (0, width - own.shape[1]), (0, 0)
            return jnp.pad(own, margins, constant_values=255)

        truth = jax.lax.switch(state.task.which, [partial(padded, each) for each in pictures])
        view = gauges(state.task.observation @ state.seen, _FULL, height, width=64)
        return side_by_side(view, truth)

    def _picture(self, i: int, state: JoinedState, params: tuple[Any, ...]) -> Array:
        """Of environment ``i``: its own, or gauges of its observation if it has none."""
        try:
            return self.envs[i].render(state.inner[i], params[i])
        except NotImplementedError:
            return gauges(state.seen[: self.sizes[i]], _FULL, height=64, width=64)


def _of_types(tree: Any, like: Any) -> Any:
    """``tree`` in the dtypes of ``like``: a switch takes branches of one type only."""
    return jax.tree.map(
        lambda x, y: x if x.dtype == y.dtype else x.astype(y.dtype),
        jax.tree.map(jnp.asarray, tree),
        like,
    )


def as_tasks(env: Environment) -> TaskEnvironment:
    """``env``, or its episodes as trials that have the rules in common."""
    return env if isinstance(env, TaskEnvironment) else Episodes(env, repeat=False)


def chosen_names(
    known: Sequence[str],
    tasks: Sequence[str] | None,
    held_out: Sequence[str],
    default: Sequence[str] | None = None,
) -> tuple[list[str], list[str]]:
    """The names to train in, and those held out.

    Args:
        known: all that there are.
        tasks: those to train in; None for those of ``default`` that are not held out.
        held_out: those not to train in.
        default: some of ``known``; None for all.

    Raises:
        ValueError: for what is no list; for a name that is unknown or given twice, or in both; for
            none to train in.
    """
    for option, names in (("tasks", () if tasks is None else tasks), ("held_out", held_out)):
        # A word is a sequence too, of its letters.
        if isinstance(names, str) or not isinstance(names, Sequence):
            raise ValueError(f"{option} must be a list of names, [{names}] say, got {names!r}")
    held_out = list(held_out)
    if tasks is None:
        tasks = [name for name in (known if default is None else default) if name not in held_out]
    tasks = list(tasks)
    for option, names in (("tasks", tasks), ("held_out", held_out)):
        for name in names:
            if name not in known:
                raise ValueError(f"{option} has {name!r}; there are {', '.join(known)}")
        if len(set(names)) < len(names):
            raise ValueError(f"{option} names an environment twice: {', '.join(names)}")
    if both := [name for name in tasks if name in held_out]:
        raise ValueError(
            f"{', '.join(both)} cannot be both trained in and held out: take it from tasks or from "
            "held_out"
        )
    if not tasks:
        raise ValueError(f"tasks is empty; there are {', '.join(known)}")
    return tasks, held_out


# ------------------------------------------------------------------------------------- spaces


def check_joinable(name: str, observation: Space, action: Space) -> None:
    """Whether an environment can be joined with others.

    Raises:
        ValueError: for actions without bounds or of several parts, and for pictures.
    """
    if not isinstance(action, (Discrete, MultiDiscrete, Box)):
        raise ValueError(
            f"{name} cannot be joined: its actions are {action}, of several parts; "
            "Discrete, MultiDiscrete and Box can be"
        )
    bounded = not isinstance(action, Box) or np.isfinite([action.low, action.high]).all()
    if not bounded or (isinstance(action, Box) and action.dtype.kind != "f"):
        raise ValueError(
            f"{name} cannot be joined: its actions are {action}; a Box needs finite bounds and "
            "real numbers"
        )
    if (size := one_hot_size(observation)) > LARGEST:
        raise ValueError(
            f"{name} cannot be joined: its observation has {size:,} numbers, more than {LARGEST:,}"
        )


def action_rows(space: Any) -> int:
    """Entries of a continuous action, or how many discrete ones there are."""
    if isinstance(space, Discrete):
        return space.n
    if isinstance(space, MultiDiscrete):
        return math.prod(space.nvec.ravel().tolist())
    return math.prod(space.shape)


def one_hot_size(space: Space) -> int:
    """Numbers of :func:`one_hot`."""
    if isinstance(space, Dict):
        return sum(map(one_hot_size, space.spaces.values()))
    if isinstance(space, Tuple):
        return sum(map(one_hot_size, space.spaces))
    if isinstance(space, Discrete):
        return space.n
    if isinstance(space, MultiDiscrete):
        return int(space.nvec.sum())
    assert isinstance(space, Box)
    return math.prod(space.shape)


def one_hot(space: Space, obs: Any) -> Float[Array, "N"]:
    """An observation as one vector: discrete parts one-hot; entries of boxes with finite bounds
    from -1, at their low, to 1, the others as they are."""
    parts = jax.tree.map(_one_hot_leaf, as_tree(space), obs)
    return jnp.concatenate([x.ravel() for x in jax.tree.leaves(parts)])


def _one_hot_leaf(space: Any, x: Array) -> Array:
    if isinstance(space, Discrete):
        return jax.nn.one_hot(x, space.n, dtype=jnp.float32)
    if isinstance(space, MultiDiscrete):
        sizes = space.nvec.ravel().tolist()
        flat = jnp.ravel(x)
        return jnp.concatenate(
            [jax.nn.one_hot(flat[i], n, dtype=jnp.float32) for i, n in enumerate(sizes)]
        )
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    bounded = np.isfinite(low) & np.isfinite(high) & (high > low)
    middle = np.where(bounded, (np.where(bounded, low, 0) + np.where(bounded, high, 0)) / 2, 0)
    half = np.where(bounded, (np.where(bounded, high, 1) - np.where(bounded, low, -1)) / 2, 1)
    return (x.astype(jnp.float32) - middle.astype(np.float32)) / half.astype(np.float32)

"""Episodes of our environments played by scripts that see observations only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np

import ssmrl.envs


class Sample(NamedTuple):
    """A mean over independent episodes, and its standard error."""

    mean: float
    error: float
    episodes: int


class Player(Protocol):
    """Plays one episode; whatever it remembers is its own."""

    def act(self, obs: Any) -> Any:
        """The action after an observation."""


def sample(returns: Any) -> Sample:
    """Mean and standard error of independent ``returns``."""
    returns = np.asarray(returns, np.float64)
    error = returns.std(ddof=1) / np.sqrt(len(returns))
    return Sample(float(returns.mean()), float(error), len(returns))


def play(id_: str, make_player: Callable[[], Player], episodes: int, seed: int = 0) -> np.ndarray:
    """Returns float64 ``[episodes]`` of as many players, an episode each, side by side.

    The environment steps in JAX as one batch; the players think one after the other.
    """
    env, params = ssmrl.envs.make(id_)
    reset = jax.jit(jax.vmap(lambda key: env.reset_env(key, params)))
    step = jax.jit(jax.vmap(lambda key, state, action: env.step_env(key, state, action, params)))
    key_reset, key = jax.random.split(jax.random.key(seed))
    obs, state = reset(jax.random.split(key_reset, episodes))
    players = [make_player() for _ in range(episodes)]
    actions = np.zeros((episodes, *env.action_space(params).shape), np.int32)
    returns, alive, time = np.zeros(episodes), np.ones(episodes, bool), 0
    while alive.any():
        seen = jax.device_get(obs)
        for i in np.flatnonzero(alive):
            actions[i] = players[i].act(jax.tree.map(lambda entries, i=i: entries[i], seen))
        keys = jax.random.split(jax.random.fold_in(key, time), episodes)
        obs, state, reward, terminated, truncated, _ = step(keys, state, actions)
        returns += np.where(alive, np.asarray(reward, np.float64), 0.0)
        alive &= ~np.asarray(terminated | truncated)
        time += 1
    return returns

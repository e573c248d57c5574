"""CartPole and the noisy families: what a policy with a filter in front of it reaches.

A policy is a pair of functions of JAX: ``begin(obs)`` gives the memory at an episode's first
observation, ``act(memory, obs)`` the memory after it and the action.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ssmrl.envs.popgym import _cartpole, position_only_pendulum


class Policy(NamedTuple):
    begin: Callable[[Array], Any]
    act: Callable[[Any, Array], tuple[Any, Array]]


def play(env, params, policy: Policy, episodes: int, seed: int = 0) -> np.ndarray:
    """Returns ``[episodes]`` of an episode each."""

    @jax.jit
    def run(key):
        def step(carry, key):
            obs, state, memory, alive, total = carry
            memory, action = jax.vmap(policy.act)(memory, obs)
            keys = jax.random.split(key, episodes)
            transition = jax.vmap(env.step_env, (0, 0, 0, None))(keys, state, action, params)
            obs, state, reward, terminated, truncated, _ = transition
            total = total + jnp.where(alive, reward, 0.0)
            return (obs, state, memory, alive & ~(terminated | truncated), total), None

        key_reset, key_steps = jax.random.split(key)
        keys = jax.random.split(key_reset, episodes)
        obs, state = jax.vmap(env.reset_env, (0, None))(keys, params)
        memory = jax.vmap(policy.begin)(obs)
        carry = (obs, state, memory, jnp.ones(episodes, bool), jnp.zeros(episodes))
        steps = jax.random.split(key_steps, int(params.max_episode_length))
        return jax.lax.scan(step, carry, steps)[0][-1]

    return np.asarray(run(jax.random.key(seed)))


def push_under(physics: Float[Array, "4"]) -> Array:
    """CartPole: to the side to which the pole will have fallen a little later, or the cart gone."""
    x, x_dot, theta, theta_dot = physics
    return (theta + 0.3 * theta_dot + 0.02 * x + 0.1 * x_dot > 0).astype(jnp.int32)


def from_positions(params) -> Policy:
    """Velocities are differences of the last two positions."""

    def act(before, obs):
        velocity = (obs - before) / params.seconds_per_step
        return obs, push_under(jnp.stack([obs[0], velocity[0], obs[1], velocity[1]]))

    return Policy(lambda obs: obs, act)


def from_velocities(params) -> Policy:
    """Positions are those shown at reset and the sum of all velocities."""

    def act(memory, obs):
        position, velocity, is_first = memory
        position = position + params.seconds_per_step * velocity
        velocity = jnp.where(is_first, 0.0, obs)
        action = push_under(jnp.stack([position[0], velocity[0], position[1], velocity[1]]))
        return (position, velocity, jnp.asarray(False)), action

    return Policy(lambda obs: (obs, jnp.zeros(2), jnp.asarray(True)), act)


def extended_kalman(dynamics, observe, noise_sigma, control, first_belief) -> Policy:
    """Acts on the mean of an extended Kalman filter's belief.

    Args:
        dynamics: state, action -> state.
        observe: state -> observation, without noise.
        noise_sigma: of the observation's noise.
        control: state -> action.
        first_belief: first observation -> mean and covariance before it is seen.
    """

    def update(mean, covariance, obs):
        H = jax.jacfwd(observe)(mean)
        S = H @ covariance @ H.T + noise_sigma**2 * jnp.eye(obs.shape[0])
        gain = jnp.linalg.solve(S, H @ covariance).T
        return mean + gain @ (obs - observe(mean)), covariance - gain @ H @ covariance

    def act(memory, obs):
        mean, covariance = update(*memory, obs)
        action = control(mean)
        F = jax.jacfwd(dynamics)(mean, action)
        # A little distrust keeps the covariance positive in float32.
        covariance = F @ covariance @ F.T + 1e-6 * jnp.eye(mean.shape[0])
        return (dynamics(mean, action), covariance), action

    return Policy(first_belief, act)


def noisy_cartpole(params) -> Policy:
    """Knows the physics, and that an episode begins within ±.05 of everything."""
    return extended_kalman(
        partial(_cartpole.integrate, params=params),
        _cartpole.positions,
        params.noise_sigma,
        push_under,
        lambda obs: (jnp.zeros(4), 0.1**2 / 12 * jnp.eye(4)),
    )


def noisy_pendulum(params, control) -> Policy:
    """Knows the physics; the first observation says about where it hangs."""

    def dynamics(physics, action):
        # Not wrapped: the filter's differences are of angles close to each other.
        after = position_only_pendulum.integrate(physics, action[0], params)
        turns = jnp.round((physics[0] - after[0]) / (2 * math.pi))
        return after.at[0].add(2 * math.pi * turns)

    def first_belief(obs):
        mean = jnp.stack([jnp.arctan2(obs[1], obs[0]), 0.0])
        return mean, jnp.diag(jnp.array([4 * params.noise_sigma**2, 1 / 3]))

    observe = position_only_pendulum.observe
    return extended_kalman(dynamics, observe, params.noise_sigma, control, first_belief)

"""A cart with a pole on it: the physics, rules and pictures that three families share.

Every step pays ``1 / max_episode_length``, the one that drops the pole included. The episode
terminates when the cart leaves ±2.4 m or the pole ±12°, and is truncated after
``max_episode_length`` steps (both can happen at once).

Equations of motion: Barto, Sutton & Anderson (1983) without friction, in the corrected form of
Florian (2007), integrated by Euler's explicit method, as gymnasium's CartPole does. With the cart's
mass m_c, the pole's mass m_p and half-length l, force F and M = m_c + m_p:

    s = (F + m_p l θ̇² sin θ) / M
    θ̈ = (g sin θ - cos θ · s) / (l (4/3 - m_p cos² θ / M))
    ẍ = s - m_p l θ̈ cos θ / M

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

import abc
import math
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import BLACK, GREY, ORANGE, canvas, gauges, paint, pixel_grid, rod
from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.popgym._base import PopGymEnv
from ssmrl.envs.spaces import Discrete


@struct.dataclass
class EnvParams:
    """Numbers in SI units; angles in radians, ``length`` is half the pole's."""

    max_episode_length: Leaf = 200
    gravity: Leaf = 9.8
    cart_mass: Leaf = 1.0
    pole_mass: Leaf = 0.1
    length: Leaf = 0.5
    force: Leaf = 10.0
    seconds_per_step: Leaf = 0.02
    x_threshold: Leaf = 2.4
    theta_threshold: Leaf = 12 * 2 * math.pi / 360


@struct.dataclass
class EnvState:
    """``physics`` is [x, ẋ, θ, θ̇] in JAX's default float: under x64 float64, as upstream."""

    physics: Leaf
    time: Leaf


Params = TypeVar("Params", bound=EnvParams)


class CartPole(PopGymEnv[EnvState, Params]):
    """Action: push left (0) or right (1). A family says what of the physics is observed."""

    @abc.abstractmethod
    def observe(self, physics: Float[Array, "4"], params: Params) -> Float[Array, "2"]:
        """What the agent sees of [x, ẋ, θ, θ̇], in float32."""

    def observe_first(self, physics: Float[Array, "4"], params: Params) -> Float[Array, "2"]:
        """What it sees at reset."""
        return self.observe(physics, params)

    def check_params(self, params: Params) -> None:
        super().check_params(params)
        if params.max_episode_length < 1:
            raise ValueError(f"{self.name} needs at least one step an episode, got {params}")

    def action_space(self, params: Params) -> Discrete:
        return Discrete(2)

    def reset_env(self, key: PRNGKeyArray, params: Params) -> tuple[Array, EnvState]:
        physics = jax.random.uniform(key, (4,), jnp.result_type(float), -0.05, 0.05)
        return self.observe_first(physics, params), EnvState(physics=physics, time=jnp.int32(0))

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: Params
    ) -> Transition:
        physics = integrate(state.physics, action, params)
        time = state.time + 1
        fallen = (jnp.abs(physics[0]) > params.x_threshold) | (
            jnp.abs(physics[2]) > params.theta_threshold
        )
        reward = jnp.asarray(1.0 / params.max_episode_length, jnp.float32)
        truncated = time >= params.max_episode_length
        obs = self.observe(physics, params)
        return obs, EnvState(physics, time), reward, fallen, truncated, {}


def positions(physics: Float[Array, "4"]) -> Float[Array, "2"]:
    """``[x, θ]`` of ``[x, ẋ, θ, θ̇]``, in float32."""
    return jnp.stack([physics[0], physics[2]]).astype(jnp.float32)


def velocities(physics: Float[Array, "4"]) -> Float[Array, "2"]:
    """``[ẋ, θ̇]`` of ``[x, ẋ, θ, θ̇]``, in float32."""
    return jnp.stack([physics[1], physics[3]]).astype(jnp.float32)


def integrate(physics: Float[Array, "4"], action: Any, params: EnvParams) -> Float[Array, "4"]:
    """``[x, ẋ, θ, θ̇]`` one step of ``seconds_per_step`` later."""
    _, x_dot, theta, theta_dot = physics
    mass = params.cart_mass + params.pole_mass
    moment = params.pole_mass * params.length
    sin, cos = jnp.sin(theta), jnp.cos(theta)
    force = jnp.where(action == 1, params.force, -params.force).astype(physics.dtype)
    shared = (force + moment * theta_dot**2 * sin) / mass
    theta_acc = (params.gravity * sin - cos * shared) / (
        params.length * (4.0 / 3.0 - params.pole_mass * cos**2 / mass)
    )
    x_acc = shared - moment * theta_acc * cos / mass
    return physics + params.seconds_per_step * jnp.stack([x_dot, x_acc, theta_dot, theta_acc])


def draw(position: Float[Array, "2"], params: EnvParams) -> UInt8[Array, "64 128 3"]:
    """Cart and pole at ``[x, θ]``: 128 pixels are as wide as the track and a little more.

    The ends of the track are where the episode ends.
    """
    height, width, ground = 64, 128, 48.0
    rows, columns = pixel_grid(height, width)
    scale = 0.45 * width / params.x_threshold
    cart = width / 2 + position[0] * scale
    on_cart = (jnp.abs(columns - cart) < 8) & (jnp.abs(rows - ground) < 4)
    on_pole = rod(rows, columns, (ground - 4, cart), position[1], 2 * params.length * scale)
    edge = params.x_threshold * scale
    on_track = (np.abs(rows - ground - 5) < 1) & (np.abs(columns - width / 2) < edge)
    picture = paint(canvas(height, width), on_track, GREY)
    return paint(paint(picture, on_cart, BLACK), on_pole, ORANGE)


def draw_velocities(velocity: Float[Array, "2"]) -> UInt8[Array, "64 32 3"]:
    """Gauges of ``[ẋ, θ̇]``, full at 3 m/s and 3 rad/s."""
    return gauges(velocity, 3.0, height=64)

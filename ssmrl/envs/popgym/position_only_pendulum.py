"""PositionOnlyPendulum: swing a pendulum up and hold it, seeing its angle but not its speed.

The state is the angle θ from upright (rad) and its rate θ̇ (rad/s). With the torque u, clipped to
±2 N m, and before the pendulum moves, a step costs

    c = θ² + 0.1 θ̇² + 0.001 u²,   θ in [-π, π)

and pays ``(1 - c / h) / max_episode_length`` with ``h = 8.1368022``, half the largest cost: an
episode's return lies in [-1, 1]. It is truncated after ``max_episode_length`` steps.

Equations of motion: a rod of mass m and length l about its end, integrated by Euler's semi-implicit
method, as gymnasium's Pendulum does:

    θ̇' = clip(θ̇ + (3 g / (2 l) sin θ + 3 u / (m l²)) dt, ±8),   θ' = θ + θ̇' dt

The package lets θ grow without bound. Here it is kept in [-π, π), which no observation or reward
can tell, so that float32 loses nothing after many turns.

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import (
    BLACK,
    ORANGE,
    canvas,
    gauges,
    paint,
    pixel_grid,
    rod,
    side_by_side,
)
from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.popgym._base import PopGymEnv
from ssmrl.envs.spaces import Box

HALF_COST = 16.2736044 / 2
"""h above. π² + 0.1 · 8² + 0.001 · 2² is 16.2736044."""


@struct.dataclass
class EnvParams:
    """Numbers in SI units."""

    max_episode_length: Leaf = 200
    gravity: Leaf = 10.0
    mass: Leaf = 1.0
    length: Leaf = 1.0
    max_speed: Leaf = 8.0
    max_torque: Leaf = 2.0
    seconds_per_step: Leaf = 0.05


@struct.dataclass
class EnvState:
    """``physics`` is [θ, θ̇] in JAX's default float: under x64 float64, as upstream."""

    physics: Leaf
    time: Leaf


class PositionOnlyPendulum(PopGymEnv[EnvState, EnvParams]):
    """Observation: ``[cos θ, sin θ]``, float32. Action: a torque (N m), float32 ``[1]``.

    200 steps (easy), 150 (medium) or 100 (hard).
    """

    PARAMS: ClassVar[Mapping[str, EnvParams]] = {
        "easy": EnvParams(max_episode_length=200),
        "medium": EnvParams(max_episode_length=150),
        "hard": EnvParams(max_episode_length=100),
    }

    def check_params(self, params: EnvParams) -> None:
        super().check_params(params)
        if params.max_episode_length < 1:
            raise ValueError(f"{self.name} needs at least one step an episode, got {params}")

    def observation_space(self, params: EnvParams) -> Box:
        return Box(-1.0, 1.0, (2,))

    def action_space(self, params: EnvParams) -> Box:
        return Box(-params.max_torque, params.max_torque, (1,))

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Array, EnvState]:
        high = jnp.asarray([math.pi, 1.0])
        physics = jax.random.uniform(key, (2,), jnp.result_type(float), -high, high)
        return observe(physics), EnvState(physics=physics, time=jnp.int32(0))

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        torque = jnp.clip(action[0], -params.max_torque, params.max_torque)
        angle, speed = state.physics
        cost = angle**2 + 0.1 * speed**2 + 0.001 * torque**2
        reward = ((1 - cost / HALF_COST) / params.max_episode_length).astype(jnp.float32)
        physics, time = integrate(state.physics, torque, params), state.time + 1
        truncated = time >= params.max_episode_length
        terminated = jnp.zeros_like(truncated)
        return observe(physics), EnvState(physics, time), reward, terminated, truncated, {}

    def render(self, state: EnvState, params: EnvParams) -> Array:
        """The pendulum, which is what the agent sees, beside a gauge of its speed."""
        speed = gauges(state.physics[1:], params.max_speed, height=64, width=16)
        return side_by_side(draw(state.physics[0]), speed)


def observe(physics: Float[Array, "2"]) -> Float[Array, "2"]:
    """``[cos θ, sin θ]`` of ``[θ, θ̇]``, in float32."""
    return jnp.stack([jnp.cos(physics[0]), jnp.sin(physics[0])]).astype(jnp.float32)


def integrate(physics: Float[Array, "2"], torque: Array, params: EnvParams) -> Float[Array, "2"]:
    """``[θ, θ̇]`` one step of ``seconds_per_step`` later, θ in [-π, π)."""
    angle, speed = physics
    acceleration = 3 * params.gravity / (2 * params.length) * jnp.sin(angle) + (
        3.0 / (params.mass * params.length**2) * torque
    )
    speed = speed + acceleration * params.seconds_per_step
    speed = jnp.clip(speed, -params.max_speed, params.max_speed)
    angle = angle + speed * params.seconds_per_step
    return jnp.stack([wrap(angle), speed])


def wrap(angle: Array) -> Array:
    """``angle`` (rad), in [-π, π)."""
    return jnp.mod(angle + math.pi, 2 * math.pi) - math.pi


def draw(angle: Array) -> UInt8[Array, "64 64 3"]:
    """A pendulum at ``angle`` from upright; angles grow counter-clockwise."""
    rows, columns = pixel_grid(64, 64)
    on_rod = rod(rows, columns, (32.0, 32.0), -angle, 26.0)
    on_axle = (rows - 32) ** 2 + (columns - 32) ** 2 < 3**2
    return paint(paint(canvas(64, 64), on_rod, ORANGE), on_axle, BLACK)

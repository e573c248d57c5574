"""Pictures of gymnax's classic control tasks, whose own are drawn outside of programs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, UInt8

from ssmrl.envs.drawing import BLACK, GREEN, GREY, ORANGE, canvas, paint, pixel_grid, rod
from ssmrl.envs.environment import Leaf
from ssmrl.envs.popgym import _cartpole, position_only_pendulum


def cart_pole(state: Any, params: Any) -> UInt8[Array, "64 128 3"]:
    """Cart, pole and track."""
    ours = _cartpole.EnvParams(x_threshold=params.x_threshold, length=params.length)
    return _cartpole.draw(jnp.stack([state.x, state.theta]), ours)


def pendulum(state: Any, params: Any) -> UInt8[Array, "64 64 3"]:
    """The pendulum, upright at angle 0."""
    return position_only_pendulum.draw(jnp.reshape(state.theta, ()))


def acrobot(state: Any, params: Any) -> UInt8[Array, "64 64 3"]:
    """Both links, which hang at angles 0, and the height that the tip is to reach."""
    rows, columns = pixel_grid(64, 64)
    total = params.link_length_1 + params.link_length_2
    scale, middle = 28 / total, 32.0
    # From upright, as `rod` counts; gymnax counts from hanging, the second from the first.
    first = math.pi - state.joint_angle1
    second = first - state.joint_angle2
    length = scale * params.link_length_1
    elbow = middle - length * jnp.cos(first), middle + length * jnp.sin(first)
    goal = jnp.abs(rows - (middle - length)) < 0.6
    picture = paint(canvas(64, 64), goal, GREEN)
    picture = paint(picture, rod(rows, columns, (middle, middle), first, length), BLACK)
    lower = rod(rows, columns, elbow, second, scale * params.link_length_2)
    return paint(picture, lower, ORANGE)


def mountain_car(state: Any, params: Any) -> UInt8[Array, "64 128 3"]:
    """The car in its valley, and the goal."""
    rows, columns = pixel_grid(64, 128)
    across = params.max_position - params.min_position

    def ground(position: Any) -> Any:
        """The row of the ground, 64 at the bottom; the valley is sin 3x."""
        return 44 - 16 * jnp.sin(3 * position)

    def column(position: Any) -> Any:
        return 128 * (position - params.min_position) / across

    position = jnp.reshape(state.position, ())
    positions = params.min_position + columns / 128 * across
    picture = paint(canvas(64, 128), rows > ground(positions), GREY)
    goal, place = params.goal_position, column(position)
    on_flag = (jnp.abs(columns - column(goal)) < 1) & (jnp.abs(rows - ground(goal) + 8) < 8)
    on_car = (columns - place) ** 2 + (rows - ground(position) + 4) ** 2 < 4**2
    return paint(paint(picture, on_flag, GREEN), on_car, BLACK)


PICTURES: dict[str, Callable[[Any, Any], Leaf]] = {
    "CartPole-v1": cart_pole,
    "Pendulum-v1": pendulum,
    "Acrobot-v1": acrobot,
    "MountainCar-v0": mountain_car,
    "MountainCarContinuous-v0": mountain_car,
}
"""By gymnax's id: a picture of a state, uint8 ``[H, W, 3]``."""

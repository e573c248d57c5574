"""PositionOnlyCartPole: balance a pole on a cart, seeing positions but no velocities.

Physics, rewards and ends of episodes: :mod:`ssmrl.envs.popgym._cartpole`.

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
from jaxtyping import Array, Float

from ssmrl.envs.drawing import side_by_side
from ssmrl.envs.popgym._cartpole import (
    CartPole,
    EnvParams,
    EnvState,
    draw,
    draw_velocities,
    positions,
    velocities,
)
from ssmrl.envs.spaces import Box


class PositionOnlyCartPole(CartPole[EnvParams]):
    """Observation: ``[x, θ]`` (m, rad), float32. Action: push left (0) or right (1).

    200 steps (easy), 400 (medium) or 600 (hard).
    """

    PARAMS: ClassVar[Mapping[str, EnvParams]] = {
        "easy": EnvParams(max_episode_length=200),
        "medium": EnvParams(max_episode_length=400),
        "hard": EnvParams(max_episode_length=600),
    }

    def observation_space(self, params: EnvParams) -> Box:
        # Twice the thresholds, so that the observation that ends an episode is inside.
        high = 2 * np.array([params.x_threshold, params.theta_threshold], np.float32)
        return Box(-high, high, (2,), np.float32)

    def observe(self, physics: Float[Array, "4"], params: EnvParams) -> Float[Array, "2"]:
        return positions(physics)

    def render(self, state: EnvState, params: EnvParams) -> Array:
        """The cart, which is what the agent sees, beside gauges of the velocities."""
        view = draw(positions(state.physics), params)
        return side_by_side(view, draw_velocities(velocities(state.physics)))

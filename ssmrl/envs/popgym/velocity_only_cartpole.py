"""VelocityOnlyCartPole: balance a pole on a cart, seeing velocities but no positions.

Physics, rewards and ends of episodes: :mod:`ssmrl.envs.popgym._cartpole`.

The package's first observation of an episode is ``[x, θ]``, though every other one is ``[ẋ, θ̇]``:
an oversight that tells the agent where it starts. It is kept, so that results compare;
``positions_at_reset=False`` shows velocities from the start, which is what the name says.

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from flax import struct
from jaxtyping import Array, Float

from ssmrl.envs.drawing import side_by_side
from ssmrl.envs.environment import Leaf
from ssmrl.envs.popgym import _cartpole
from ssmrl.envs.popgym._cartpole import (
    CartPole,
    EnvState,
    draw,
    draw_velocities,
    positions,
    velocities,
)
from ssmrl.envs.spaces import Box


@struct.dataclass
class EnvParams(_cartpole.EnvParams):
    """``positions_at_reset``: the first observation is of positions, as in the package."""

    positions_at_reset: Leaf = struct.field(pytree_node=False, default=True)


class VelocityOnlyCartPole(CartPole[EnvParams]):
    """Observation: ``[ẋ, θ̇]`` (m/s, rad/s), float32. Action: push left (0) or right (1).

    200 steps (easy), 400 (medium) or 600 (hard). The first observation is ``[x, θ]`` (m, rad)
    unless ``positions_at_reset=False``.
    """

    PARAMS: ClassVar[dict[str, EnvParams]] = {
        "easy": EnvParams(max_episode_length=200),
        "medium": EnvParams(max_episode_length=400),
        "hard": EnvParams(max_episode_length=600),
    }

    def check_params(self, params: EnvParams) -> None:
        super().check_params(params)
        if not isinstance(params.positions_at_reset, bool):
            raise ValueError(f"{self.name} needs positions_at_reset True or False, got {params}")

    def observation_space(self, params: EnvParams) -> Box:
        return Box(-np.inf, np.inf, (2,), np.float32)

    def observe(self, physics: Float[Array, "4"], params: EnvParams) -> Float[Array, "2"]:
        return velocities(physics)

    def observe_first(self, physics: Float[Array, "4"], params: EnvParams) -> Float[Array, "2"]:
        return positions(physics) if params.positions_at_reset else velocities(physics)

    def render(self, state: EnvState, params: EnvParams) -> Array:
        """Gauges of the velocities, which is what the agent sees, beside the cart."""
        view = draw_velocities(velocities(state.physics))
        return side_by_side(view, draw(positions(state.physics), params))

"""NoisyPositionOnlyCartPole: :class:`PositionOnlyCartPole` with noise on what is observed.

Every observation, the first included, gets independent Gaussian noise on ``x`` (m) and ``θ`` (rad)
and is clipped to the observation space, which reaches to ±4.8 m and ±24°.

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from ssmrl.envs.drawing import side_by_side
from ssmrl.envs.environment import Leaf
from ssmrl.envs.popgym import _cartpole
from ssmrl.envs.popgym._cartpole import draw, positions
from ssmrl.envs.popgym._noise import NOISE_SIGMA, NoisyObservations
from ssmrl.envs.popgym.position_only_cartpole import PositionOnlyCartPole


@struct.dataclass
class EnvParams(_cartpole.EnvParams):
    """``noise_sigma``: standard deviation of the noise, in m for ``x`` and in rad for ``θ``."""

    noise_sigma: Leaf = 0.1


class NoisyPositionOnlyCartPole(NoisyObservations, PositionOnlyCartPole):
    """Observation: ``[x, θ]`` (m, rad) and noise, float32. Action: push left (0) or right (1).

    200 steps; noise of standard deviation 0.1 (easy), 0.2 (medium) or 0.3 (hard).
    """

    PARAMS: ClassVar[Mapping[str, EnvParams]] = {
        difficulty: EnvParams(noise_sigma=sigma) for difficulty, sigma in NOISE_SIGMA.items()
    }

    def observation_bound(self, params: Any) -> Array:
        return 2 * jnp.stack([params.x_threshold, params.theta_threshold]).astype(jnp.float32)

    def render(self, state: Any, params: Any) -> Array:
        """The cart where it is observed beside the cart where it is."""
        return side_by_side(draw(state.obs, params), draw(positions(state.hidden.physics), params))

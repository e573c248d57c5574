"""NoisyPositionOnlyPendulum: :class:`PositionOnlyPendulum` with noise on what is observed.

Every observation, the first included, gets independent Gaussian noise on ``cos θ`` and ``sin θ``
and is clipped to [-1, 1].

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
from ssmrl.envs.popgym import position_only_pendulum
from ssmrl.envs.popgym._noise import NOISE_SIGMA, NoisyObservations
from ssmrl.envs.popgym.position_only_pendulum import PositionOnlyPendulum, draw


@struct.dataclass
class EnvParams(position_only_pendulum.EnvParams):
    """``noise_sigma``: standard deviation of the noise on ``cos θ`` and on ``sin θ``."""

    noise_sigma: Leaf = 0.1


class NoisyPositionOnlyPendulum(NoisyObservations, PositionOnlyPendulum):
    """Observation: ``[cos θ, sin θ]`` and noise, float32. Action: a torque (N m), float32 ``[1]``.

    200 steps; noise of standard deviation 0.1 (easy), 0.2 (medium) or 0.3 (hard).
    """

    PARAMS: ClassVar[Mapping[str, EnvParams]] = {
        difficulty: EnvParams(noise_sigma=sigma) for difficulty, sigma in NOISE_SIGMA.items()
    }

    def observation_bound(self, params: Any) -> Array:
        return jnp.ones(2, jnp.float32)

    def render(self, state: Any, params: Any) -> Array:
        """The pendulum where it is observed beside the pendulum where it is."""
        seen = jnp.arctan2(state.obs[1], state.obs[0])
        return side_by_side(draw(seen), draw(state.hidden.physics[0]))

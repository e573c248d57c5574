"""MultiarmedBandit: find the arm that pays best, and stay with it.

An episode draws each arm's probability of paying from U(0, 1). Pulling an arm pays
``1 / max_episode_length`` with that probability and costs as much otherwise; the observation says
which. The episode is truncated after ``max_episode_length`` pulls.

The observation does not say which arm was pulled: the package marks this family as one that needs
the previous action in the observation (``previous_action=True`` of ``ssmrl.envs.make_vector``).

Source: Morad et al., POPGym: Benchmarking Partially Observable Reinforcement Learning (ICLR 2023);
the rules are those of the ``popgym`` package.
"""

from __future__ import annotations

from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, PRNGKeyArray, UInt8

from ssmrl.envs.drawing import BLUE, GREEN, RED, canvas, paint, pixel_grid, side_by_side
from ssmrl.envs.environment import Leaf, Transition
from ssmrl.envs.popgym._base import PopGymEnv
from ssmrl.envs.spaces import Discrete


@struct.dataclass
class EnvParams:
    """``num_bandits`` arms are pulled ``max_episode_length`` times."""

    num_bandits: int = struct.field(pytree_node=False, default=10)
    max_episode_length: Leaf = 200


@struct.dataclass
class EnvState:
    """``bandits`` f32[n]: the arms' probabilities. ``last_action`` is -1 at first, ``paid`` 0."""

    bandits: Leaf
    time: Leaf
    last_action: Leaf
    paid: Leaf


class MultiarmedBandit(PopGymEnv[EnvState, EnvParams]):
    """Observation: whether the last pull paid, ``Discrete(2)``, 0 at first. Action: an arm.

    10 arms, 200 pulls (easy), 20, 400 (medium) or 30, 600 (hard).
    """

    PARAMS: ClassVar[dict[str, EnvParams]] = {
        "easy": EnvParams(num_bandits=10, max_episode_length=200),
        "medium": EnvParams(num_bandits=20, max_episode_length=400),
        "hard": EnvParams(num_bandits=30, max_episode_length=600),
    }

    def check_params(self, params: EnvParams) -> None:
        if params.num_bandits < 1 or params.max_episode_length < 1:
            raise ValueError(f"{self.name} needs at least one arm and one pull, got {params}")

    def observation_space(self, params: EnvParams) -> Discrete:
        return Discrete(2)

    def action_space(self, params: EnvParams) -> Discrete:
        return Discrete(params.num_bandits)

    def reset_env(self, key: PRNGKeyArray, params: EnvParams) -> tuple[Array, EnvState]:
        bandits = jax.random.uniform(key, (params.num_bandits,), jnp.float32)
        zero = jnp.int32(0)
        return zero, EnvState(bandits, time=zero, last_action=jnp.int32(-1), paid=zero)

    def pays(self, key: PRNGKeyArray, probability: Array) -> Bool[Array, ""]:
        """Whether an arm that pays with ``probability`` pays now."""
        return jax.random.uniform(key, (), jnp.float32) < probability

    def step_env(
        self, key: PRNGKeyArray, state: EnvState, action: Any, params: EnvParams
    ) -> Transition:
        pays = self.pays(key, state.bandits[action])
        scale = jnp.float32(1.0 / params.max_episode_length)
        paid, time = pays.astype(jnp.int32), state.time + 1
        state = EnvState(state.bandits, time, jnp.asarray(action, jnp.int32), paid)
        truncated = time >= params.max_episode_length
        reward = jnp.where(pays, scale, -scale)
        return paid, state, reward, jnp.zeros_like(truncated), truncated, {}

    def render(self, state: EnvState, params: EnvParams) -> UInt8[Array, "H W 3"]:
        """The last pull (green if it paid, red if not) beside all arms' probabilities."""
        height, width = 64, 4 * params.num_bandits
        rows, columns = pixel_grid(height, width)
        arm = (columns // 4).astype(np.int32)
        pulled = arm == state.last_action
        colour = jnp.where(state.paid == 1, jnp.asarray(GREEN), jnp.asarray(RED))
        view = paint(canvas(height, width), pulled, colour)
        filled = (1 - rows / height < state.bandits[arm]) & (columns % 4 > 1)
        return side_by_side(view, paint(canvas(height, width), filled, BLUE))

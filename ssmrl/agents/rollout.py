"""What agents share when they collect experience."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from ssmrl.envs.vector import VectorEnv
from ssmrl.networks.distributions import parameter_size


def check_environment(env: VectorEnv, num_envs: int) -> None:
    """Whether an agent can act in `env`.

    Raises:
        ValueError: it has not `num_envs` copies, or actions that cannot be drawn.
    """
    if env.num_envs != num_envs:
        raise ValueError(f"the environment has {env.num_envs} copies, agent.num_envs is {num_envs}")
    parameter_size(env.action_space)


def add_time(tree: Any) -> Any:
    """Leaves `[B, ...]` as a sequence of one step, `[1, B, ...]`."""
    return jax.tree.map(lambda x: x[None], tree)


def without_time(tree: Any) -> Any:
    """A sequence of one step, leaves `[1, B, ...]`, as that step."""
    return jax.tree.map(lambda x: x[0], tree)


def episode_metrics(episode: dict[str, Array]) -> dict[str, Array]:
    """Mean return and length of the episodes that ended in a rollout; NaN where none did.

    And of each ``info/…`` of the environment's own, as it is in the last step of those episodes.
    """
    done = episode["done"]
    count = done.sum()

    def mean(x):
        return jnp.where(count > 0, jnp.where(done, x, 0).sum() / jnp.maximum(count, 1), jnp.nan)

    return {
        "episodes": count.astype(jnp.float32),
        "episode_return": mean(episode["return"]),
        "episode_length": mean(episode["length"].astype(jnp.float32)),
        **{name: mean(value) for name, value in episode.items() if name.startswith("info/")},
    }

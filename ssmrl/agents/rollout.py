"""What agents share when they collect experience."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from ssmrl.envs.meta.trials import Trials
from ssmrl.envs.vector import VectorEnv
from ssmrl.envs.wrappers import find_extras
from ssmrl.memory import Memory
from ssmrl.networks.distributions import parameter_size


def check_environment(env: VectorEnv, num_envs: int, *, discounts_trials: bool = False) -> None:
    """Whether an agent can act in `env`.

    Args:
        env: the environments.
        num_envs: how many the agent takes.
        discounts_trials: whether the agent reads ``info["trial_discount"]``.

    Raises:
        ValueError: it has not `num_envs` copies, or actions that cannot be drawn, or weighs what
            comes after a trial, and the agent would not notice.
    """
    if env.num_envs != num_envs:
        raise ValueError(f"the environment has {env.num_envs} copies, agent.num_envs is {num_envs}")
    trials = getattr(getattr(env, "unwrapped", env), "env", None)
    if isinstance(trials, Trials) and trials.trial_discount is not None and not discounts_trials:
        raise ValueError(
            f"{env.name} has trial_discount={trials.trial_discount}, which only ppo and pqn read; "
            "leave it out"
        )
    parameter_size(env.action_space)


def check_memory(memory: Memory) -> None:
    """Whether an agent can learn with a memory.

    Raises:
        ValueError: it, or a module inside it, has dropout, which no agent here draws masks for.
    """
    if dropout := _dropout(memory):
        raise ValueError(
            f"memory.dropout={dropout}: an update must compute what acting computed, so that an "
            "agent's memory can have no dropout; set memory.dropout=0"
        )


def _dropout(module: nn.Module) -> float:
    """The largest ``dropout`` of a module and of those inside it."""

    def is_module(x: Any) -> bool:
        return isinstance(x, nn.Module)

    fields = [getattr(module, name) for name in module.__dataclass_fields__ if name != "parent"]
    inside = filter(is_module, jax.tree.leaves(fields, is_leaf=is_module))
    own = getattr(module, "dropout", 0.0)
    return max([own if isinstance(own, float) else 0.0, *map(_dropout, inside)])


def add_time(tree: Any) -> Any:
    """Leaves `[B, ...]` as a sequence of one step, `[1, B, ...]`."""
    return jax.tree.map(lambda x: x[None], tree)


def without_time(tree: Any) -> Any:
    """A sequence of one step, leaves `[1, B, ...]`, as that step."""
    return jax.tree.map(lambda x: x[0], tree)


def episode_metrics(episode: dict[str, Array]) -> dict[str, Array]:
    """What a rollout says of its episodes: of those that ended, and of when they began.

    How many ended, and the mean of their return, their length and of each ``info/…`` of the
    environment's own, as it is in their last step (`own_means`). Such a mean favours episodes that
    end soon, and is a first look; what a training is judged by is made of `episode_starts`, which
    are in here too. Other means of no episodes are 0, and not reported
    (`ssmrl.training.agent.Agent.iteration`): a NaN would say it better, but stop everything under
    `jax_debug_nans`.

    Args:
        episode: ``info["episode"]`` of every step, leaves `[T, B]`.
    """
    done = episode["done"]
    count = done.sum()

    def mean(x):
        return jnp.where(done, x, 0).sum() / jnp.maximum(count, 1)

    return {
        "episodes": count.astype(jnp.float32),
        "episode_return": mean(episode["return"]),
        "episode_length": mean(episode["length"].astype(jnp.float32)),
        **own_means(episode),
        **episode_starts(episode),
    }


def episode_starts(episode: dict[str, Array]) -> dict[str, Array]:
    """The episodes that ended in a rollout by the rollout that they began in.

    All but the first that ends in an environment began in the rollout itself.

    Args:
        episode: as in `episode_metrics`.

    Returns:
        Under names that begin with ``starts/``, as `ssmrl.training.agent.Agent.iteration` has them:

        - ``episodes``, ``return``: number, and sum of the returns, of those that began in this one;
        - ``ago`` i32 `[B]`: how many rollouts ago the one of each environment began that did not;
            0 where none ended. ``earlier_return`` `[B]`: its return;
        - ``unfinished`` i32: how many rollouts ago the oldest of those began that are under way at
            the end; -1 where every last step ended one;
        - ``longest`` i32: how many rollouts after its own one as long as the longest ends at the
            latest; 0 where none ended.
    """
    done, length = episode["done"], episode["length"]
    steps = done.shape[0]

    def rollouts(x):
        return -(-x // steps)

    # Steps of it that were taken before this rollout; not positive where it began in here.
    before = length - 1 - jnp.arange(steps, dtype=length.dtype)[:, None]
    here, earlier = done & (before <= 0), done & (before > 0)
    under_way = jnp.where(done[-1], -1, rollouts(jnp.maximum(before[-1], 0)))
    return {
        "starts/episodes": here.sum(dtype=jnp.int32),
        "starts/return": jnp.where(here, episode["return"], 0).sum(),
        "starts/ago": jnp.where(earlier, rollouts(before), 0).max(axis=0),
        "starts/earlier_return": jnp.where(earlier, episode["return"], 0).sum(axis=0),
        "starts/unfinished": under_way.max(),
        "starts/longest": jnp.where(done, rollouts(length - 1), 0).max(),
    }


def own_means(episode: dict[str, Array]) -> dict[str, Array]:
    """Of each ``info/…``, the mean over the episodes that ended and had said what it is.

    Infinity where there are none, which is not reported (`ssmrl.training.loop.fetch_metrics`): a
    NaN would stop everything under `jax_debug_nans`.
    """

    def mean(x):
        said = episode["done"] & jnp.isfinite(x)
        total, count = jnp.where(said, x, 0).sum(), said.sum()
        return jnp.where(count > 0, total / jnp.maximum(count, 1), jnp.inf)

    return {name: mean(value) for name, value in episode.items() if name.startswith("info/")}


def environment_metrics(env: VectorEnv, observation: Any, reward: Array) -> dict[str, Array]:
    """What the environments gave in a rollout, so that a NaN of theirs is not laid at our door.

    Nor ours at theirs: the previous action, which `ObservationExtras` adds, is not looked at.

    Args:
        env: the environments, with their wrappers.
        observation: leaves `[T, B, ...]`.
        reward: `[T, B]`.

    Returns:
        `env/reward`, the mean per step, and, if observations hold real numbers, `env/observation`,
        the size of the largest.
    """
    if find_extras(env) is not None:
        observation = observation["observation"]
    metrics = {"env/reward": reward.mean()}
    sizes = [
        jnp.abs(x).max().astype(jnp.float32)
        for x in jax.tree.leaves(observation)
        if jnp.issubdtype(x.dtype, jnp.floating) and x.size
    ]
    if sizes:
        metrics["env/observation"] = jnp.stack(sizes).max()
    return metrics

"""A world model alone, learned offline: collect episodes with a policy, and learn from them.

No actor, no critic and no replay buffer: the data are arrays `[T, N, ...]` of N windows that begin
with an episode's first observation, and do not change.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from ssmrl.agents.dreamer.replay import Batch, Step, unfold
from ssmrl.agents.dreamer.world_model import WorldModel, initial_start
from ssmrl.envs import JaxVectorEnv


def collect(
    venv: JaxVectorEnv, policy: Callable[..., Array], key: Array, length: int
) -> tuple[Batch, Any]:
    """Play a policy in environments with auto-reset, from their first observations on.

    Args:
        venv: N environments.
        policy: `policy(key, state, params) -> action` of one environment, which may look at its
            hidden state; see `ssmrl.envs.worlds.POLICIES`.
        key: draws episodes and actions.
        length: T. An episode's final observation counts; what follows it belongs to the next one.

    Returns:
        windows `[T, N, ...]`, and the hidden states `[T, N, ...]` that were acted on: those of the
        windows' observations as long as no episode has ended.
    """
    key_reset, key = jax.random.split(key)
    observation, state = venv.reset(key_reset)

    def step(carry, key):
        observation, state, reset = carry
        keys = jax.random.split(key, venv.num_envs)
        action = jax.vmap(lambda *x: policy(*x, venv.params))(keys, state.env)
        following, after, reward, terminated, truncated, info = venv.step(state, action)
        row = Step(
            observation=observation,
            reset=reset,
            context=None,
            action=action,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            final_observation=info["final_observation"],
        )
        return (following, after, terminated | truncated), (row, state.env)

    first = (observation, state, jnp.ones(venv.num_envs, bool))
    _, (steps, states) = lax.scan(step, first, jax.random.split(key, length))
    return unfold(steps, has_context=False), states


def init_params(model: WorldModel, batch: Batch, key: Array) -> Any:
    """The parameters of a world model for data like `batch`."""
    one = jax.tree.map(lambda x: x[:1, :1], batch)
    start = initial_start(model.memory, model.config, 1)
    return model.init(key, start, one.observation, one.action, one.reset, jnp.zeros(()))


def world_model_loss(model: WorldModel, params: Any, batch: Batch, key: Array) -> Array:
    """The weighted sum of the world model's losses, averaged over a batch `[T, B, ...]`."""
    start = initial_start(model.memory, model.config, batch.reset.shape[1])
    noise = jax.random.gumbel(key, (len(batch.reset), *start.z.shape))
    apply: Any = model.apply
    _, losses = apply(params, start, batch, noise, every_carry=False, method="losses")
    weight = model.config.loss_weight
    return sum((weight(name) * value.mean() for name, value in losses.items()), jnp.zeros(()))


def train(
    model: WorldModel,
    optimizer: optax.GradientTransformation,
    data: Batch,
    key: Array,
    *,
    updates: int,
    batch_size: int,
) -> tuple[Any, Array]:
    """Learn from data `[T, N, ...]`, `batch_size` of the N windows in each update.

    Returns:
        the parameters, and the loss `[updates]` before each update.
    """
    key_init, key = jax.random.split(key)
    objective = partial(world_model_loss, model)
    params = init_params(model, data, key_init)

    def update(carry, key):
        params, state = carry
        key_choice, key_loss = jax.random.split(key)
        chosen = jax.random.choice(key_choice, data.reset.shape[1], (batch_size,))
        batch = jax.tree.map(lambda x: x[:, chosen], data)
        loss, gradient = jax.value_and_grad(objective)(params, batch, key_loss)
        changes, state = optimizer.update(gradient, state, params)
        return (optax.apply_updates(params, changes), state), loss

    keys = jax.random.split(key, updates)
    (params, _), losses = lax.scan(update, (params, optimizer.init(params)), keys)
    return params, losses

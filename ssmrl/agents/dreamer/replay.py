"""Replay: steps of all environments in a ring buffer, read back as windows of observations.

What is stored is one row per environment step: the observation that was acted on, the action, and
all that the step led to. What the world model learns from is a sequence of *observations*, each
with what led to it:

    step t goes on:    observation[t+1] arrives with action[t], reward[t], continue 1
    step t ends:       final_observation[t] arrives with action[t], reward[t], continue 0 where the
                       episode terminated; observation[t+1] begins the next with neither

An episode of N steps is thus N + 1 observations, its final one included: that is the one that the
last reward and the end of the episode belong to. `unfold` turns the first form into the second.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from ssmrl.agents.dreamer.config import DreamerConfig
from ssmrl.envs.batching import select
from ssmrl.envs.environment import Leaf


@struct.dataclass
class Step:
    """One environment step, as it is stored. Leaves `[B, ...]`, or `[T, B, ...]` in a window."""

    observation: Any
    """The one that was acted on."""
    reset: Leaf
    """bool: `observation` begins an episode."""
    context: Any
    """The agent's carry before `observation`, or None where carries are not stored."""
    action: Any
    reward: Leaf
    terminated: Leaf
    truncated: Leaf
    final_observation: Any
    """What the step led to: the next observation, or the last one of the episode."""


@struct.dataclass
class Batch:
    """Windows of observations, each with what led to it. Leaves `[T, B, ...]`."""

    observation: Any
    reset: Leaf
    """bool: the world model starts afresh here, and sees no previous action."""
    action: Any
    """The one that led to `observation`; without meaning where `reset`."""
    reward: Leaf
    """The one that came with `observation`; 0 where an episode begins."""
    known: Leaf
    """bool: the reward can be predicted from the window. False at its start within an episode."""
    terminated: Leaf
    last: Leaf
    """bool: `observation` is the last one of its episode that is known."""


class Replay:
    """A ring buffer of environment steps on the device (flashbax), one row per environment.

    The oldest steps make way for new ones. Windows are contiguous steps of one environment, drawn
    uniformly, and never reach across the place of the next write, where new steps would follow old.
    """

    def __init__(self, config: DreamerConfig):
        # Imported here: importing it pulls in much that only a world model needs.
        import flashbax

        self.config = config
        per_env = config.replay_capacity // config.num_envs
        self._buffer = flashbax.make_trajectory_buffer(
            add_batch_size=config.num_envs,
            sample_batch_size=config.batch_size,
            sample_sequence_length=config.batch_length,
            period=1,
            min_length_time_axis=config.batch_length,
            max_length_time_axis=per_env,
        )

    def init(self, step: Step) -> Any:
        """An empty buffer; `step` (leaves `[B, ...]`) has the shapes and dtypes."""
        return self._buffer.init(jax.tree.map(lambda x: x[0], step))

    def add(self, state: Any, steps: Step) -> Any:
        """Append steps `[T, B, ...]`, which follow those of the previous call."""
        return self._buffer.add(state, jax.tree.map(_swap_time_and_batch, steps))

    def ready(self, state: Any) -> Array:
        """bool []: there is at least one whole window."""
        return self._buffer.can_sample(state)

    def sample(self, state: Any, key: Array) -> tuple[Any, Batch]:
        """Draw windows: the carries to start from (None without `replay_context`), and a batch."""
        steps = self._buffer.sample(state, key).experience
        steps = jax.tree.map(_swap_time_and_batch, steps)
        context = jax.tree.map(lambda x: x[0], steps.context)
        batch = unfold(steps.replace(context=None), has_context=context is not None)
        if context is not None:
            # The action in front of the window is in the carry, not in the window.
            action = jax.tree.map(lambda x, a: x.at[0].set(a), batch.action, context.action)
            batch = batch.replace(action=action)
        return context, batch


def unfold(steps: Step, *, has_context: bool) -> Batch:
    """Windows of steps `[T, B, ...]` as windows of observations of the same length.

    Final observations are put in behind the steps that ended an episode; what no longer fits is cut
    off at the window's end.

    Args:
        steps: contiguous steps, without their context.
        has_context: the window goes on from a carry that was stored. Otherwise its first
            observation is a fresh start for the world model, whatever it was for the environment.
    """
    ended = steps.terminated | steps.truncated
    length = ended.shape[0]
    before = jnp.cumsum(ended, axis=0) - ended
    position = jnp.arange(length)[:, None] + before  # of observation[t] in the window to be
    place = jnp.arange(length)
    step = jax.vmap(lambda p: jnp.searchsorted(p, place, side="right") - 1, 1, 1)(position)
    final = place[:, None] > jnp.take_along_axis(position, step, axis=0)
    # Where a final observation is meant, the step that led to it is `step`, else the one before.
    cause = jnp.where(final, step, jnp.maximum(step - 1, 0))

    def take(tree, index):
        columns = jnp.arange(index.shape[1])
        return jax.tree.map(lambda x: x[index, columns], tree)

    begins = take(steps.reset, step) & ~final
    follows = jnp.concatenate([begins[1:], jnp.zeros_like(begins[:1])])
    start = (place == 0)[:, None]
    return Batch(
        observation=select(
            final, take(steps.final_observation, step), take(steps.observation, step)
        ),
        reset=begins if has_context else begins | start,
        action=take(steps.action, cause),
        reward=jnp.where(begins | start, 0.0, take(steps.reward, cause)),
        known=begins | ~start,
        terminated=final & take(steps.terminated, step),
        # An episode that was interrupted, by a resume with new environments, has no final one.
        last=final | follows,
    )


def _swap_time_and_batch(x: Array) -> Array:
    return jnp.swapaxes(x, 0, 1)

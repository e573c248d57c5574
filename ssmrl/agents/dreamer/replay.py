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
import numpy as np
from flax import struct
from jax import Array, lax

from ssmrl.agents.dreamer.config import DreamerConfig
from ssmrl.envs.batching import select
from ssmrl.envs.environment import Leaf
from ssmrl.envs.spaces import Space, as_tree
from ssmrl.training.fit import bytes_of


@struct.dataclass
class Step:
    """One environment step, as it is stored. Leaves `[B, ...]`, or `[T, B, ...]` in a window."""

    observation: Any
    """The one that was acted on."""
    reset: Leaf
    """bool: `observation` begins an episode."""
    context: Any
    """The agent's carry before `observation`, or None where carries are not stored.

    A tree with the fields memory, z and action; see `dreamer.Carry`."""
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


@struct.dataclass
class ReplayState:
    """What is stored. Updates change `contexts` and `served`, and nothing else."""

    steps: Any
    """flashbax's ring of `Step`s without their contexts, leaves `[num_envs, capacity, ...]`.

    With `replay_storage="host"` without observations, too."""
    added: Leaf
    """int32 []: steps of each environment that were ever added."""
    contexts: Any
    """flashbax's ring of the carries before these steps, or None."""
    served: Leaf
    """int32 []: windows that the online queue has handed out."""
    hosted: Any = None
    """`HostedObservations` in NumPy; None in a program of the device, and where it has all."""


@struct.dataclass
class HostedObservations:
    """The part of `Step`s that the host has; in its ring, leaves `[num_envs, capacity, ...]`."""

    observation: Any
    final_observation: Any


@struct.dataclass
class HostRequest:
    """What the host is to store and to read; see `exchange`."""

    new: HostedObservations
    """Of new steps, leaves `[T, B, ...]`."""
    place: Leaf
    """int32 `[T]`: where in the ring they go."""
    env: Leaf
    """int32 `[..., T, N]`: of each observation that is asked for, the environment."""
    time: Leaf
    """int32 `[..., T, N]`: its place in the ring."""
    final: Leaf
    """bool `[..., T, N]`: it is that step's final observation."""


@struct.dataclass
class Windows:
    """Where in the ring the windows of a batch are, int32 `[N]`."""

    env: Leaf
    start: Leaf


class Replay:
    """A ring buffer of environment steps on the device (flashbax), one row per environment.

    The oldest steps make way for new ones. Windows are contiguous steps of one environment, drawn
    uniformly, and never reach across the place of the next write, where new steps would follow old.

    With `replay_online` a batch is filled up with those; first come windows that nothing was
    learned from yet: each row is cut into windows that do not overlap, and each of these is handed
    out once, as soon as it is whole, oldest first (Hafner et al. 2023, "online queue").
    """

    def __init__(self, config: DreamerConfig):
        # Imported here: importing it pulls in much that only a world model needs.
        import flashbax

        self.config = config
        self.capacity = config.replay_capacity // config.num_envs
        self._buffer = flashbax.make_trajectory_buffer(
            add_batch_size=config.num_envs,
            sample_batch_size=config.batch_size,
            sample_sequence_length=config.batch_length,
            period=1,
            min_length_time_axis=config.batch_length,
            max_length_time_axis=self.capacity,
        )

    def init(self, step: Step) -> ReplayState:
        """An empty buffer; `step` (leaves `[B, ...]`) has the shapes and dtypes."""
        one = jax.tree.map(lambda x: x[0], self._on_device(step))
        return ReplayState(
            steps=self._buffer.init(one.replace(context=None)),
            added=jnp.zeros((), jnp.int32),
            contexts=None if one.context is None else self._buffer.init(one.context),
            served=jnp.zeros((), jnp.int32),
        )

    def add(self, state: ReplayState, steps: Step) -> ReplayState:
        """Append steps `[T, B, ...]`, which follow those of the previous call."""
        steps = self._on_device(steps)
        context = steps.context
        steps = jax.tree.map(_swap_time_and_batch, steps.replace(context=None))
        state = state.replace(
            steps=self._buffer.add(state.steps, steps), added=state.added + steps.reset.shape[1]
        )
        if context is not None:
            carries = jax.tree.map(_swap_time_and_batch, context)
            state = state.replace(contexts=self._buffer.add(state.contexts, carries))
        return state

    def _on_device(self, steps: Step) -> Step:
        """Of steps, what the device's ring has."""
        if self.config.replay_storage == "device":
            return steps
        return steps.replace(observation=None, final_observation=None)

    def ready(self, state: ReplayState) -> Array:
        """bool []: there is at least one whole window."""
        return self._buffer.can_sample(state.steps)

    def sample(self, state: ReplayState, key: Array) -> tuple[Any, Batch]:
        """`draw` and `read` in one."""
        return self.read(state, self.draw(state, key)[0])

    def draw(self, state: ReplayState, key: Array) -> tuple[Windows, ReplayState]:
        """Choose the windows of a batch; the state remembers which the online queue gave."""
        c = self.config
        # flashbax does not tell what it draws: it draws from a buffer of places.
        places = jnp.arange(c.num_envs * self.capacity, dtype=jnp.int32)
        rows = places.reshape(c.num_envs, self.capacity)
        drawn = self._buffer.sample(state.steps.replace(experience=rows), key).experience[:, 0]
        windows = Windows(drawn // self.capacity, drawn % self.capacity)
        return self._from_queue(state, windows) if c.replay_online else (windows, state)

    def _from_queue(self, state: ReplayState, windows: Windows) -> tuple[Windows, ReplayState]:
        """Window n of the queue is the (n // num_envs)-th of environment n % num_envs."""
        c = self.config
        whole = state.added // c.batch_length * c.num_envs
        # Where fewer are learned from than come in, some are overwritten before their turn.
        oldest = jnp.maximum(state.added - self.capacity, 0)
        first = -(-oldest // c.batch_length) * c.num_envs
        served = jnp.maximum(state.served, first)
        number = served + jnp.arange(c.batch_size, dtype=jnp.int32)
        start = number // c.num_envs * c.batch_length % self.capacity
        queued = Windows(number % c.num_envs, start)
        windows = select(number < whole, queued, windows)
        served = jnp.minimum(served + c.batch_size, whole)
        return windows, state.replace(served=served)

    def request(self, state: ReplayState, steps: Step, windows: Windows) -> HostRequest:
        """What the host is to store and to read, with `replay_storage="host"`.

        Args:
            state: the buffer.
            steps: `[T, B, ...]`, those that were added last.
            windows: to be read, leaves `[U, N]`.
        """

        def observations(windows: Windows) -> tuple[Array, Array, Array]:
            ring = state.steps.experience
            terminated, truncated = self._gather((ring.terminated, ring.truncated), windows)
            step, final = _layout(terminated | truncated)
            env = jnp.broadcast_to(windows.env, step.shape)
            return env, (windows.start + step) % self.capacity, final

        env, time, final = jax.vmap(observations)(windows)
        length = len(steps.reward)
        return HostRequest(
            new=HostedObservations(steps.observation, steps.final_observation),
            place=(state.added - length + jnp.arange(length)) % self.capacity,
            env=env,
            time=time,
            final=final,
        )

    def read(
        self, state: ReplayState, windows: Windows, observation: Any = None
    ) -> tuple[Any, Batch]:
        """The carries that windows start from (None without `replay_context`), and a batch.

        Args:
            state: the buffer.
            windows: of it.
            observation: of the batch, leaves `[T, N, ...]`, where the host has them.
        """
        steps = self._gather(state.steps.experience, windows)
        batch = unfold(steps, has_context=state.contexts is not None)
        if observation is not None:
            batch = batch.replace(observation=observation)
        if state.contexts is None:
            return None, batch
        place = (windows.env, windows.start)
        context = jax.tree.map(lambda x: x[place], state.contexts.experience)
        # The action in front of the window is in the carry, not in the window.
        action = jax.tree.map(lambda x, a: x.at[0].set(a), batch.action, context.action)
        return context, batch.replace(action=action)

    def refresh(self, state: ReplayState, windows: Windows, memory: Any, z: Array) -> ReplayState:
        """Put carries that an update has computed in the place of the stored ones.

        Those were computed by parameters that have changed since. The carry at a window's start
        stays: nothing in the window says what it should be. (Hafner et al. 2023: "write the fresh
        latent states of the training rollout back into the buffer".)

        Args:
            state: the buffer.
            windows: what `read` has read.
            memory, z: the carries behind the observations of that batch, leaves `[T, N, ...]`.
        """
        ring = self._gather(state.steps.experience, windows)
        position = positions(ring.terminated | ring.truncated)
        # The carry before observation[t] is that behind observation[t-1] of the same episode.
        source, length = position[:-1], len(position)
        index = (windows.start + jnp.arange(1, length)[:, None]) % self.capacity
        kept = ring.reset[1:] | (source >= length)
        column = jnp.arange(source.shape[1])
        fresh = jax.tree.map(lambda x: x[jnp.minimum(source, length - 1), column], (memory, z))
        # A carry that is not finite would spoil all updates that start from it.
        spoiled = [~jnp.isfinite(x).all((0, *range(2, x.ndim))) for x in jax.tree.leaves(fresh)]
        index = jnp.where(kept | jnp.any(jnp.stack(spoiled), 0), self.capacity, index)

        def write(carries, window):
            # One after the other: windows overlap, and which is last must not be up to the device.
            env, index, fresh = window
            put = lambda old, new: old.at[env, index].set(new, mode="drop")  # noqa: E731
            memory, z = jax.tree.map(put, (carries.memory, carries.z), fresh)
            return carries.replace(memory=memory, z=z), None

        rows = (windows.env, index.T, jax.tree.map(_swap_time_and_batch, fresh))
        carries, _ = lax.scan(write, state.contexts.experience, rows)
        return state.replace(contexts=state.contexts.replace(experience=carries))

    def _gather(self, ring: Any, windows: Windows) -> Any:
        """The windows' entries of a ring, leaves `[T, N, ...]`."""
        time = jnp.arange(self.config.batch_length)[:, None]
        place = (windows.env, (windows.start + time) % self.capacity)
        return jax.tree.map(lambda x: x[place], ring)


def exchange(hosted: HostedObservations, request: HostRequest) -> Any:
    """Store new observations and read others, in NumPy.

    Args:
        hosted: changed in place.
        request: its arrays as NumPy's.

    Returns:
        the observations asked for, leaves `[..., T, N, ...]`.
    """

    def store(ring: np.ndarray, new: np.ndarray) -> None:
        ring[:, request.place] = np.swapaxes(new, 0, 1)

    def read(before: np.ndarray, after: np.ndarray) -> np.ndarray:
        block, final = before[request.env, request.time], request.final
        block[final] = after[request.env[final], request.time[final]]
        return block

    jax.tree.map(store, hosted, request.new)
    return jax.tree.map(read, hosted.observation, hosted.final_observation)


def bytes_per_step(observation_space: Space, action_space: Space, carry: Any) -> tuple[int, int]:
    """Memory that one stored step takes, without its context, and that of the context.

    Args:
        observation_space, action_space: of one environment.
        carry: of one environment, arrays or their shapes.
    """
    # The observation before and after; the reward, and three flags.
    step = 2 * bytes_of(as_tree(observation_space)) + bytes_of(as_tree(action_space)) + 4 + 3
    return step, bytes_of(carry)


def positions(ended: Array) -> Array:
    """Where in a window of observations that of each step is, int `[T, B]`; from T on, cut off.

    Args:
        ended: bool `[T, B]`, the step ended its episode, and a final observation comes behind it.
    """
    before = jnp.cumsum(ended, axis=0) - ended
    return jnp.arange(len(ended))[:, None] + before


def unfold(steps: Step, *, has_context: bool) -> Batch:
    """Windows of steps `[T, B, ...]` as windows of observations of the same length.

    Final observations are put in behind the steps that ended an episode; what no longer fits is cut
    off at the window's end.

    Args:
        steps: contiguous steps, without their context.
        has_context: the window goes on from a carry that was stored. Otherwise its first
            observation is a fresh start for the world model, whatever it was for the environment.
    """
    step, final = _layout(steps.terminated | steps.truncated)
    place = jnp.arange(len(step))
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


def _layout(ended: Array) -> tuple[Array, Array]:
    """What each place of a window of observations shows, int and bool `[T, B]`.

    Args:
        ended: bool `[T, B]`, the step ended its episode.

    Returns:
        the step, and whether it is its final observation rather than the one that was acted on.
    """
    position, place = positions(ended), jnp.arange(len(ended))
    step = jax.vmap(lambda p: jnp.searchsorted(p, place, side="right") - 1, 1, 1)(position)
    return step, place[:, None] > jnp.take_along_axis(position, step, axis=0)


def _swap_time_and_batch(x: Array) -> Array:
    return jnp.swapaxes(x, 0, 1)

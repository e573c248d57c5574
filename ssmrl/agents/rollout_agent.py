"""What PPO and PQN share: collect a rollout, learn from it a few times over, throw it away.

Reading order: the options, what is stored, estimates of returns, and the agent: beginning,
collecting, targets, updating, acting. What an agent decides by and learns is in its own file.

Conventions that recurrent implementations tend to get wrong, and that the tests hold us to:

- `reset[t]` is True where `observation[t]` begins an episode; it is stored beside the observation,
  and acting and updating hand the same flag to the memory. The update starts from the carry
  *before* the first observation of its window: before any update it computes what acting did.
- A termination has no future. A truncation has one that was not seen: its value is V(final
  observation), computed with the carry behind the last real step, never V of the next episode.
- Minibatches are whole windows of some environments, never a stride through time.
"""

import abc
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssmrl.agents.optimizer import OptimizerConfig, make_optimizer, make_schedule
from ssmrl.agents.rollout import (
    add_time,
    check_environment,
    environment_metrics,
    episode_metrics,
)
from ssmrl.envs.batching import any_across_batch
from ssmrl.envs.environment import Leaf
from ssmrl.envs.spaces import Box, Space, as_tree
from ssmrl.envs.vector import VectorEnv
from ssmrl.memory import Memory
from ssmrl.networks.boxes import is_scaled, scaled_entries
from ssmrl.networks.encoders import PICTURE_ENCODERS, ObservationEncoder, leaves
from ssmrl.networks.mlp import ACTIVATIONS
from ssmrl.networks.statistics import RunningStatistics
from ssmrl.training.devices import split_batch, split_environments

Metrics = dict[str, Array]
Loss = Callable[[Any, Array, Any], tuple[Array, Metrics]]
"""(minibatch, key, parameters) → the loss `[]` and metrics."""


# ------------------------------------------------------------------------------------ options


@dataclass(frozen=True)
class RolloutConfig(OptimizerConfig):
    """Options of collecting, of going through what was collected, and of what is in front.

    Attributes:
        num_envs: environments stepped side by side.
        rollout_length: steps of each environment per iteration. Metrics, checkpoints and signals
            wait for the end of an iteration, epochs included: where that takes half a minute or
            more, choose fewer steps.
        window_length: steps that the update unrolls at a time, a divisor of `rollout_length`; None
            means all of them. Gradients stop at a window's start, the carry is passed on.
        epochs: passes over each iteration's data.
        minibatches: updates per pass; divides num_envs * rollout_length / window_length.
        discount: γ.
        bootstrap_truncated: a truncated episode is worth what its last observation is, as if it had
            gone on. False: nothing follows, as after a termination: the time limit is part of the
            task, and what is not earned by then is lost.
        normalize_observations: scale real-valued observations by their running mean and standard
            deviation. Pictures and bounded integers are scaled by their bounds in any case.
        normalize_rewards: divide rewards by the running standard deviation of the discounted
            return. Otherwise rewards of 1/T make value targets so small that the critic teaches the
            memory nothing.
        encoder: widths of the hidden layers before the memory.
        critic: widths of the critic's hidden layers after the memory.
        activation: activation function of those layers.
        picture_encoder: how pictures are encoded: "convolutions" of four by four pixels with a
            stride of 2, or "patches", matrix products over patches that do not overlap, about
            twenty times as fast on a CPU.
        picture_depth: channels of the picture encoder's first layer.
    """

    num_envs: int = 64
    rollout_length: int = 128
    window_length: int | None = None
    epochs: int = 4
    minibatches: int = 8
    discount: float = 0.99
    bootstrap_truncated: bool = True
    normalize_observations: bool = False
    normalize_rewards: bool = True
    encoder: list[int] = field(default_factory=lambda: [128])
    critic: list[int] = field(default_factory=lambda: [128])
    activation: str = "silu"
    picture_encoder: str = "convolutions"
    picture_depth: int = 16

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_envs", "rollout_length", "epochs", "minibatches"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        choices = f"one of {', '.join(ACTIVATIONS)}"
        require(self, "activation", self.activation in ACTIVATIONS, choices)
        choices = f"one of {', '.join(PICTURE_ENCODERS)}"
        require(self, "picture_encoder", self.picture_encoder in PICTURE_ENCODERS, choices)
        require(self, "picture_depth", self.picture_depth >= 1, "at least 1")
        require(self, "discount", 0 <= self.discount <= 1, "between 0 and 1")
        for name in ("encoder", "critic"):
            require(self, name, all(w >= 1 for w in getattr(self, name)), "widths of at least 1")
        divides = 1 <= self.window <= self.rollout_length and self.rollout_length % self.window == 0
        expected = f"a divisor of rollout_length = {self.rollout_length}"
        require(self, "window_length", divides, expected)
        expected = f"a divisor of the {self.windows} windows per iteration"
        require(self, "minibatches", self.windows % self.minibatches == 0, expected)

    @property
    def window(self) -> int:
        """Steps in one window."""
        return self.rollout_length if self.window_length is None else self.window_length

    @property
    def windows(self) -> int:
        """Windows in one iteration."""
        return self.num_envs * (self.rollout_length // self.window)


def require(config: Any, name: str, holds: bool, expected: str) -> None:
    """Raise a ValueError that names the option, what it must be and what it is."""
    if not holds:
        raise ValueError(f"agent.{name} must be {expected}, got {getattr(config, name)}")


def make_encoder(config: RolloutConfig, space: Space, *, layer_norm: bool = False):
    """The network in front of the memory, as an unnamed submodule."""
    return ObservationEncoder(
        space,
        tuple(config.encoder),
        config.activation,
        config.picture_encoder,
        config.picture_depth,
        layer_norm,
    )


# --------------------------------------------------------------------------------------- data


@struct.dataclass
class ActingState:
    """What collecting hands from step to step. Leading axis of arrays: the environments."""

    env: Any
    observation: Any
    reset: Leaf
    """bool [B]: `observation` begins an episode."""
    carry: Any
    """The memory's, before `observation`."""
    discounted_return: Leaf
    """float [B], of the running episode; for the normalisation of rewards."""
    key: Leaf


@struct.dataclass
class Normalizers:
    """Running statistics, held fixed during an iteration so that acting and updating agree."""

    observation: RunningStatistics
    discounted_return: RunningStatistics


@struct.dataclass
class TrainState:
    """Everything that training needs to go on: the unit of checkpoints."""

    params: Any
    optimizer: Any
    normalizers: Any
    acting: ActingState
    iteration: Leaf


@struct.dataclass
class Transition:
    """One step of every environment; stacked over time by the rollout.

    Agents add what they need to know of their choice.
    """

    observation: Any
    reset: Leaf
    value: Leaf
    reward: Leaf
    terminated: Leaf
    truncated: Leaf
    final_value: Leaf
    """V(final observation) where the episode was truncated, else 0."""
    discount: Leaf
    """γ, less where a trial ended and the environment says so."""
    discounted_return: Leaf
    episode: dict[str, Leaf]


@struct.dataclass
class Window:
    """What the update reads: time first, then whole windows; `carry` is the one at their start.

    Agents add fields of `Transition`, and targets.
    """

    carry: Any
    observation: Any
    reset: Leaf


SomeWindow = TypeVar("SomeWindow", bound=Window)


# ---------------------------------------------------------------------------------- estimates


def generalized_advantages(
    reward: Array,
    value: Array,
    next_value: Array,
    final_value: Array,
    terminated: Array,
    truncated: Array,
    discount: Array | float,
    decay: float,
) -> Array:
    """Generalised advantage estimates (Schulman et al. 2016, equation 16), cut at episode ends.

    Added to `value`, they are λ-returns, G[t] = r[t] + γ ((1 - λ) V[t+1] + λ G[t+1]): with V[t]
    subtracted on both sides, that is δ[t] + γλ (G[t+1] - V[t+1]).

    Args:
        reward, value, terminated, truncated: `[T, B]`; value[t] = V(observation[t]).
        next_value: `[B]`, V(observation[T]).
        final_value: `[T, B]`, V(final observation) where truncated[t].
        discount: γ, or `[T, B]`, for each step what counts of all that comes after it.
        decay: λ.

    Returns:
        advantages `[T, B]`. An episode that terminated is worth nothing afterwards; one that was
        truncated is worth `final_value`; both together count as a termination.
    """
    following = jnp.concatenate([value[1:], next_value[None]])
    following = jnp.where(truncated, final_value, following)
    following = jnp.where(terminated, 0.0, following)
    delta = reward + discount * following - value
    done = terminated | truncated
    factor = jnp.broadcast_to(jnp.asarray(discount * decay, delta.dtype), delta.shape)

    def step(advantage, inputs):
        delta_t, done_t, factor_t = inputs
        # Chosen, not multiplied by 0: a NaN in one episode must not reach the one before.
        advantage = delta_t + jnp.where(done_t, 0.0, factor_t * advantage)
        return advantage, advantage

    return lax.scan(step, jnp.zeros_like(next_value), (delta, done, factor), reverse=True)[1]


# -------------------------------------------------------------------------------------- agent


class RolloutAgent(abc.ABC):
    """An agent with any memory, on any batched environment, that learns from rollouts.

    Subclasses set `network` and write `_apply`, `_choose` and `iteration`.

    Args:
        config: hyperparameters.
        memory: the memory module.
        env: environments to train in; `env.num_envs` must be `config.num_envs`.
        total_steps: environment steps of the whole training, for the schedules.
        skip_nonfinite: leave out updates whose gradient is not finite.

    Raises:
        ValueError: where the environment does not fit the configuration, or there are more updates
            than 32 bits count.
    """

    config: RolloutConfig
    network: nn.Module

    transition: ClassVar[type[Transition]]
    """What `_collect` makes, with the fields that `_choose` notes."""

    heads: ClassVar[dict[str, tuple[str, ...]]]
    """The parameters after the memory, by the part of the agent that they are; "critic" too."""

    statistics: ClassVar = {"observation": "encoder", "discounted_return": "critic"}
    """The normalisers that go with a part of the agent, and which; others are of one training."""

    def __init__(
        self,
        config: RolloutConfig,
        memory: Memory,
        env: VectorEnv,
        *,
        total_steps: int,
        skip_nonfinite: bool = False,
    ):
        check_environment(env, config.num_envs, discounts_trials=True)
        self.config, self.memory, self.env = config, memory, env
        self.iterations = -(-total_steps // self.steps_per_iteration)  # the loop rounds up too
        updates = self.iterations * config.epochs * config.minibatches
        if updates >= 2**31:
            raise ValueError(
                f"total_steps={total_steps} takes {updates} updates, of which 32 bits count only "
                f"{2**31 - 1}; choose fewer steps, agent.epochs or agent.minibatches"
            )
        self.learning_rate = make_schedule(config, updates)
        self.optimizer = make_optimizer(config, memory, skip_nonfinite=skip_nonfinite)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps in one iteration."""
        return self.config.num_envs * self.config.rollout_length

    # ........................................................................ to be written

    @abc.abstractmethod
    def _apply(self, params, normalizers, carry, observation, reset) -> tuple[Any, Any, Array]:
        """The network on raw observations `[T, B, ...]`, between normalisers.

        Returns:
            the carry, what choices are made from, and values `[T, B]` of the observations.
        """

    @abc.abstractmethod
    def _choose(self, state: TrainState, outputs: Any, key: Array, *, greedy: bool):
        """Actions `[B, ...]` from what `_apply` gave for one step, and what to note of them.

        The notes are fields of `transition`, leaves `[B, ...]`.
        """

    def _new_normalizers(self, one_observation: Any) -> Normalizers:
        return Normalizers(
            observation=RunningStatistics.zeros(one_observation),
            discounted_return=RunningStatistics.zeros(jnp.zeros(())),
        )

    # ........................................................................ beginning

    def init(self, key: Array) -> TrainState:
        """The state before training, from one key."""
        key_env, key_params, key_acting = jax.random.split(key, 3)
        acting = self._begin_acting(key_env, key_acting)
        window = (acting.carry, add_time(acting.observation), acting.reset[None])
        params = self.network.init(key_params, *window)
        real = real_leaves(self.env.observation_space, acting.observation)
        return TrainState(
            params=params,
            optimizer=self.optimizer.init(params),
            normalizers=self._new_normalizers(jax.tree.map(lambda x: x[0], real)),
            acting=acting,
            iteration=jnp.zeros((), jnp.int32),
        )

    def restart(self, state: TrainState, key: Array) -> TrainState:
        """`state` with new episodes in all environments; for those that no checkpoint can hold."""
        return state.replace(acting=self._begin_acting(key, state.acting.key))

    def _begin_acting(self, key_env: Array, key_acting: Array) -> ActingState:
        observation, env_state = self.env.reset(key_env)
        num_envs = self.config.num_envs
        return ActingState(
            env=env_state,
            observation=observation,
            reset=jnp.ones(num_envs, bool),
            carry=self.initialize_carry(num_envs),
            discounted_return=jnp.zeros(num_envs, jnp.float32),
            key=key_acting,
        )

    def parts(self, state: TrainState) -> dict[str, Any]:
        """What was learned; see `ssmrl.training.agent.TransferableAgent`.

        Statistics of observations belong to the encoder, which reads what they standardise; units
        of values and rewards to the critic, which predicts in them.
        """
        params = state.params["params"]
        groups = {"memory": ("memory",), **self.heads}
        known = {name for names in groups.values() for name in names}
        groups["encoder"] = tuple(sorted(set(params) - known))
        parts: dict[str, Any] = {
            part: {"params": {name: params[name] for name in names if name in params}}
            for part, names in groups.items()
        }
        for name, part in self.statistics.items():
            parts[part][name] = getattr(state.normalizers, name)
        return parts

    def with_parts(self, state: TrainState, parts: dict[str, Any]) -> TrainState:
        """`state` with these parts of another."""
        parts = self.parts(state) | parts
        statistics = {name: parts[part][name] for name, part in self.statistics.items()}
        params = {name: x for part in parts.values() for name, x in part["params"].items()}
        normalizers = state.normalizers.replace(**statistics)
        return state.replace(params={"params": params}, normalizers=normalizers)

    def for_acting(self, state: TrainState) -> TrainState:
        """See `ssmrl.training.agent.LeanAgent`."""
        own = {f.name for f in dataclasses.fields(state.normalizers)} - self.statistics.keys()
        unread = {name: without_leaves(getattr(state.normalizers, name)) for name in own}
        return state.replace(
            optimizer=None,
            acting=without_leaves(state.acting),
            normalizers=state.normalizers.replace(**unread),
        )

    def shardings(self, mesh: Mesh, state: TrainState) -> TrainState:
        """Where the leaves of `state` live on a mesh with axis "data": environments are split."""
        shared = NamedSharding(mesh, P())
        acting = split_environments(mesh, state.acting, self.config.num_envs).replace(key=shared)
        return jax.tree.map(lambda _: shared, state).replace(acting=acting)

    # ........................................................................ one iteration

    @abc.abstractmethod
    def iteration(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """Collect a rollout, then update on it.

        Returns:
            the new state, and metrics as scalars; means over episodes are 0 where none ended.
        """

    def _rollout_metrics(self, rollout: Any, prediction: Array, target: Array) -> Metrics:
        """What a rollout says, and how much of the targets' variance was foretold, of `[T, B]`."""
        residual = (target - prediction).var() / jnp.maximum(target.var(), 1e-8)
        return {
            **episode_metrics(rollout.episode),
            **environment_metrics(self.env, rollout.observation, rollout.reward),
            "explained_variance": 1 - residual,
        }

    # ........................................................................ collecting

    def _collect(self, state: TrainState) -> tuple[ActingState, Any, Any]:
        """One rollout.

        Returns:
            what goes on afterwards, the carries at the windows' starts, leaves `[windows, B, ...]`,
            and the transitions, leaves `[rollout_length, B, ...]`.
        """
        c = self.config
        acting, (starts, rollout) = lax.scan(
            partial(self._collect_window, state),
            state.acting,
            length=c.rollout_length // c.window,
        )
        steps = jax.tree.map(lambda x: x.reshape(c.rollout_length, *x.shape[2:]), rollout)
        return acting, starts, steps

    def _collect_window(self, state: TrainState, acting: ActingState, _):
        step = partial(self._collect_step, state)
        end, window = lax.scan(step, acting, length=self.config.window)
        return end, (acting.carry, window)

    def _collect_step(self, state: TrainState, acting: ActingState, _):
        key, key_action = jax.random.split(acting.key)
        apply = partial(self._apply, state.params, state.normalizers)
        carry, outputs, value = apply(
            acting.carry, add_time(acting.observation), acting.reset[None]
        )
        action, noted = self._choose(state, outputs, key_action, greedy=False)
        observation, env_state, reward, terminated, truncated, info = self.env.step(
            acting.env, action
        )
        done = terminated | truncated
        if not self.config.bootstrap_truncated:
            terminated = done
        only_truncated = truncated & ~terminated

        def final_value():
            """The carry has seen the whole episode up to here; the final observation comes next."""
            final = add_time(info["final_observation"])
            _, _, value = apply(carry, final, jnp.zeros_like(acting.reset)[None])
            return jnp.where(only_truncated, value[0], 0.0)

        later = info.get("trial_discount", jnp.ones_like(reward))
        discounted_return = self.config.discount * acting.discounted_return + reward
        transition = self.transition(
            observation=acting.observation,
            reset=acting.reset,
            value=value[0],
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            final_value=lax.cond(
                any_across_batch(only_truncated), final_value, lambda: jnp.zeros_like(value[0])
            ),
            discount=self.config.discount * later,
            discounted_return=discounted_return,
            episode=info["episode"],
            **noted,
        )
        acting = ActingState(
            env=env_state,
            observation=observation,
            reset=done,
            carry=carry,
            discounted_return=jnp.where(done, 0.0, later * discounted_return),
            key=key,
        )
        return acting, transition

    # ........................................................................ targets

    def _standardize(self, normalizers: Any, observation: Any) -> Any:
        """Raw observations as the network gets them."""
        if not self.config.normalize_observations:
            return observation
        return standardize(self.env.observation_space, observation, normalizers.observation)

    def _update_normalizers(self, normalizers: Any, rollout: Any) -> Any:
        c = self.config
        if c.normalize_rewards:
            returns = normalizers.discounted_return.update(rollout.discounted_return)
            normalizers = normalizers.replace(discounted_return=returns)
        if c.normalize_observations:
            real = real_leaves(self.env.observation_space, rollout.observation)
            observation = normalizers.observation.update(real)
            normalizers = normalizers.replace(observation=observation)
        return normalizers

    def _advantages(self, state: TrainState, acting, normalizers, rollout: Any, decay: float):
        """Advantages and value targets, which are λ-returns, `[T, B]`; `decay` is λ."""
        _, _, next_value = self._apply(
            state.params,
            state.normalizers,
            acting.carry,
            add_time(acting.observation),
            acting.reset[None],
        )
        advantage = generalized_advantages(
            rollout.reward / normalizers.discounted_return.std,
            rollout.value,
            next_value[0],
            rollout.final_value,
            rollout.terminated,
            rollout.truncated,
            rollout.discount,
            decay,
        )
        return advantage, advantage + rollout.value

    def _cut_windows(
        self, kind: type[SomeWindow], starts: Any, rollout: Any, **targets: Array
    ) -> SomeWindow:
        """Leaves `[rollout_length, B]` become `[window, windows * B]`; carries `[windows * B]`.

        Args:
            kind: its fields, but for the carry, are fields of the transitions, or targets.
            starts, rollout: from `_collect`.
            **targets: `[rollout_length, B]`.
        """

        c = self.config

        # Sizes are written out: an observation's part of no numbers leaves nothing to infer from.
        def cut(x):
            x = x.reshape(c.rollout_length // c.window, c.window, *x.shape[1:])
            x = jnp.moveaxis(x, 0, 1)
            return x.reshape(c.window, c.windows, *x.shape[3:])

        names = [f.name for f in dataclasses.fields(kind) if f.name not in ("carry", *targets)]
        series = {name: getattr(rollout, name) for name in names} | targets
        carry = jax.tree.map(lambda x: x.reshape(c.windows, *x.shape[2:]), starts)
        return kind(carry=carry, **jax.tree.map(cut, series))

    # ........................................................................ updating

    def _update(
        self,
        state: TrainState,
        windows: Window,
        loss: Loss,
        key: Array,
        stops: Callable[[Metrics], Array] | None = None,
    ):
        """All epochs of minibatch updates.

        Args:
            state: for its parameters and the optimiser.
            windows: what was collected.
            loss: of a minibatch.
            key: draws which windows make a minibatch, and goes to the losses.
            stops: whether metrics of a minibatch forbid to learn from it, and from all that follow
                in this iteration; None: never.

        Returns:
            parameters, the optimiser's state, and metrics, means over all minibatches.
        """
        c = self.config
        count = windows.reset.shape[1]
        key_order, key_loss = jax.random.split(key)
        orders = jax.vmap(partial(jax.random.permutation, x=count))(
            jax.random.split(key_order, c.epochs)
        )
        batches = orders.reshape(c.epochs * c.minibatches, -1)
        keys = jax.random.split(key_loss, len(batches))
        # Every minibatch counts, learned from or not, so that the schedule ends with the training.
        counts = state.iteration * len(batches) + jnp.arange(len(batches))

        def minibatch(carry, inputs):
            params, optimizer, stopped = carry
            chosen, key_batch, count = inputs
            batch_loss = partial(loss, take_windows(windows, chosen), key_batch)
            gradient, metrics = jax.grad(batch_loss, has_aux=True)(params)
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            metrics["learning_rate"] = rate = self.learning_rate(count)
            updates, new_optimizer = self.optimizer.update(gradient, optimizer, params)
            new = optax.apply_updates(params, optax.tree.scale(rate, updates)), new_optimizer
            if stops is not None:
                stopped = stopped | stops(metrics)
                new = jax.tree.map(partial(jnp.where, stopped), (params, optimizer), new)
            return (*new, stopped), metrics

        start = (state.params, state.optimizer, jnp.zeros((), bool))
        (params, optimizer, _), metrics = lax.scan(minibatch, start, (batches, keys, counts))
        return params, optimizer, jax.tree.map(jnp.mean, metrics)

    # ........................................................................ acting

    def initialize_carry(self, batch_size: int) -> Any:
        """The memory's carry for new episodes; the first call of `act` must come with resets."""
        return self.memory.initialize_carry((batch_size,))

    def act(self, state: TrainState, carry, observation, reset: Array, key: Array, *, greedy: bool):
        """One action for each environment of a batch.

        Args:
            state: the training state, for its parameters and normalisers.
            carry: from `initialize_carry` or the previous call.
            observation: leaves `[B, ...]`.
            reset: bool `[B]`, True where the observation begins an episode.
            key: randomness; unused when greedy.
            greedy: the action that seems best instead of a draw as in training.

        Returns:
            the new carry and actions `[B, ...]` for the environment.
        """
        carry, outputs, _ = self._apply(
            state.params, state.normalizers, carry, add_time(observation), reset[None]
        )
        action, _ = self._choose(state, outputs, key, greedy=greedy)
        return carry, action


# ------------------------------------------------------------------------------------ helpers


def without_leaves(tree: Any) -> Any:
    """The structure, with None in every leaf's place."""
    return jax.tree.map(lambda _: None, tree)


def take_windows(windows: SomeWindow, chosen: Array) -> SomeWindow:
    """Some of the windows, by their numbers `[K]`."""
    carry = jax.tree.map(lambda x: x[chosen], windows.carry)
    batch = jax.tree.map(lambda x: x[:, chosen], windows.replace(carry=None))
    return split_batch(batch, 1).replace(carry=split_batch(carry, 0))


def _is_real(space: Space) -> bool:
    """Whether normalisation is about observations of an elementary space."""
    return isinstance(space, Box) and not is_scaled(space)


def real_leaves(space: Space, observation: Any) -> list[Array]:
    """What `standardize` is about: leaves of an observation that nothing else scales."""
    return [value for part, value in leaves(space, observation) if _is_real(part)]


def standardize(space: Space, observation: Any, statistics: RunningStatistics) -> Any:
    """Observations whose `real_leaves` have mean 0 and deviation 1, cut at ±10."""
    pairs = iter(zip(statistics.mean, statistics.std, strict=True))

    def leaf(part, x):
        if not _is_real(part):
            return x
        mean, std = next(pairs)
        # The encoder scales entries that have bounds.
        return jnp.where(scaled_entries(part), x, jnp.clip((x - mean) / std, -10, 10))

    return jax.tree.map(leaf, as_tree(space), observation)

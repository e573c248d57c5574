"""Proximal policy optimisation for agents with memory, in one file.

Schulman et al., "Proximal Policy Optimization Algorithms" (2017). Reading order: the configuration,
the network, what is stored, one iteration (collect, advantages, update), the agent's interface.

Conventions that recurrent implementations tend to get wrong, and that the tests hold us to:

- `reset[t]` is True where `observation[t]` begins an episode; it is stored beside the observation,
  and acting and updating hand the same flag to the memory. The update starts from the carry
  *before* the first observation of its window: before any update the probability ratio is 1.
- A termination has no future. A truncation has one that was not seen: its value is V(final
  observation), computed with the carry behind the last real step, never V of the next episode.
- Minibatches are whole windows of some environments, never a stride through time.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any

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
    check_memory,
    environment_metrics,
    episode_metrics,
    without_time,
)
from ssmrl.envs.batching import any_across_batch
from ssmrl.envs.environment import Leaf
from ssmrl.envs.spaces import Box, Space, as_tree
from ssmrl.envs.vector import VectorEnv
from ssmrl.memory import Memory, build_memory
from ssmrl.networks.boxes import is_scaled, scaled_entries
from ssmrl.networks.distributions import action_distribution, parameter_size, scale_size
from ssmrl.networks.encoders import PICTURE_ENCODERS, ObservationEncoder, leaves
from ssmrl.networks.mlp import ACTIVATIONS, MLP
from ssmrl.networks.statistics import RunningStatistics

Metrics = dict[str, Array]


# ------------------------------------------------------------------------------ configuration


@dataclass(frozen=True)
class PPOConfig(OptimizerConfig):
    """Hyperparameters of PPO.

    The defaults of the learning rate, λ and the normalisation of rewards were searched for on six
    ids of POPGym: docs/recipe.md has the trials.

    Attributes:
        lr: learning rate at the start.
        num_envs: environments stepped side by side.
        rollout_length: steps of each environment per iteration. Metrics, checkpoints and signals
            wait for the end of an iteration, its epochs included: where that takes half a minute,
            fewer are better.
        window_length: steps that the update unrolls at a time, a divisor of `rollout_length`; None
            means all of them. Gradients stop at a window's start, the carry does not.
        epochs: passes over each iteration's data.
        minibatches: updates per pass; divides num_envs * rollout_length / window_length.
        discount: γ.
        gae_lambda: λ of the generalised advantage estimate. Tasks that pay for every answer at once
            want less than the usual .95, whose estimates are noisy with what other answers pay.
        clip: ε, how far the probability ratio may leave 1.
        value_clip: the same for the value's change; None for no clipping.
        value_coefficient: weight of the value loss.
        entropy_coefficient: weight of the entropy bonus at the start of training.
        entropy_coefficient_final: and at its end, linearly in between; None means constant.
        target_kl: stop an iteration's updates when the policy has moved this far; None for never.
        normalize_advantages: to mean 0 and deviation 1 in every minibatch, which must hold at least
            two transitions: the difference of one from its own mean is 0, and teaches nothing.
        normalize_observations: real-valued observations by their running mean and deviation; what
            is scaled by its bounds, as pictures and bounded integers are, stays as it is.
        normalize_rewards: by the running deviation of the discounted return. Rewards of 1/T make
            value targets so small that the critic teaches the memory nothing.
        normalize_values: learn values in units of their running deviation (PopArt, van Hasselt et
            al. 2016: the output layer is rescaled so that predictions stay the same).
        encoder, actor, critic: widths of the hidden layers in front of and behind the memory.
        activation: of those layers.
        picture_encoder: what pictures go through: "convolutions", four by four pixels with a stride
            of 2, or "patches", matrix products over patches that do not overlap, which a CPU does
            about twenty times as fast.
        picture_depth: channels of its first layer.
        initial_log_std: of continuous actions.
    """

    name: str = "ppo"
    lr: float = 2e-3
    num_envs: int = 64
    rollout_length: int = 128
    window_length: int | None = None
    epochs: int = 4
    minibatches: int = 8
    discount: float = 0.99
    gae_lambda: float = 0.8
    clip: float = 0.2
    value_clip: float | None = None
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.01
    entropy_coefficient_final: float | None = None
    target_kl: float | None = None
    normalize_advantages: bool = True
    normalize_observations: bool = False
    normalize_rewards: bool = True
    normalize_values: bool = False
    encoder: list[int] = field(default_factory=lambda: [128])
    actor: list[int] = field(default_factory=lambda: [128])
    critic: list[int] = field(default_factory=lambda: [128])
    activation: str = "silu"
    picture_encoder: str = "convolutions"
    picture_depth: int = 16
    initial_log_std: float = -0.5

    def __post_init__(self):
        super().__post_init__()
        for name in ("num_envs", "rollout_length", "epochs", "minibatches"):
            require(self, name, getattr(self, name) >= 1, "at least 1")
        choices = f"one of {', '.join(ACTIVATIONS)}"
        require(self, "activation", self.activation in ACTIVATIONS, choices)
        choices = f"one of {', '.join(PICTURE_ENCODERS)}"
        require(self, "picture_encoder", self.picture_encoder in PICTURE_ENCODERS, choices)
        require(self, "picture_depth", self.picture_depth >= 1, "at least 1")
        for name in ("discount", "gae_lambda"):
            require(self, name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        for name in ("value_coefficient", "entropy_coefficient"):
            require(self, name, 0 <= getattr(self, name) < math.inf, "at least 0")
        final = self.entropy_coefficient_final
        require(self, "entropy_coefficient_final", final is None or final >= 0, "at least 0")
        require(self, "clip", self.clip > 0, "positive")
        require(self, "value_clip", self.value_clip is None or self.value_clip > 0, "positive")
        not_nan = self.target_kl is None or not math.isnan(self.target_kl)
        require(self, "target_kl", not_nan, "a number")
        require(self, "initial_log_std", math.isfinite(self.initial_log_std), "finite")
        for name in ("encoder", "actor", "critic"):
            require(self, name, all(w >= 1 for w in getattr(self, name)), "widths of at least 1")
        divides = 1 <= self.window <= self.rollout_length and self.rollout_length % self.window == 0
        expected = f"a divisor of rollout_length = {self.rollout_length}"
        require(self, "window_length", divides, expected)
        windows = self.num_envs * (self.rollout_length // self.window)
        expected = f"a divisor of the {windows} windows per iteration"
        require(self, "minibatches", windows % self.minibatches == 0, expected)
        transitions = windows * self.window // self.minibatches
        size = "num_envs * rollout_length / minibatches"
        expected = f"false where a minibatch holds one transition ({size} = 1)"
        alone = self.normalize_advantages and transitions == 1
        require(self, "normalize_advantages", not alone, expected)

    @property
    def window(self) -> int:
        """Steps in one window."""
        return self.rollout_length if self.window_length is None else self.window_length


def require(config: Any, name: str, holds: bool, expected: str) -> None:
    """Raise a ValueError that names the option, what it must be and what it is."""
    if not holds:
        raise ValueError(f"agent.{name} must be {expected}, got {getattr(config, name)}")


# ------------------------------------------------------------------------------------ network


class ActorCritic(nn.Module):
    """Encoder → memory → policy and value heads, over windows `[T, B, ...]`."""

    observation_space: Space
    action_space: Space
    memory: Memory
    config: PPOConfig

    @nn.compact
    def __call__(self, carry: Any, observation: Any, reset: Array):
        """Returns the carry, the action distribution and values, both over `[T, B]`."""
        c = self.config
        features = ObservationEncoder(
            self.observation_space,
            tuple(c.encoder),
            c.activation,
            c.picture_encoder,
            c.picture_depth,
        )
        carry, y = self.memory(carry, features(observation), reset)
        outputs = parameter_size(self.action_space)
        policy = MLP(tuple(c.actor), c.activation, outputs, 0.01, name="actor")(y)
        value = MLP(tuple(c.critic), c.activation, 1, name="critic")(y)
        log_std = None
        if scales := scale_size(self.action_space):
            init = nn.initializers.constant(c.initial_log_std)
            log_std = self.param("log_std", init, (scales,), jnp.float32)
        return carry, action_distribution(self.action_space, policy, log_std), value[..., 0]


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
    value: RunningStatistics


@struct.dataclass
class TrainState:
    """Everything that training needs to go on: the unit of checkpoints."""

    params: Any
    optimizer: Any
    normalizers: Normalizers
    acting: ActingState
    iteration: Leaf


@struct.dataclass
class Transition:
    """One step of every environment; stacked over time by the rollout."""

    observation: Any
    reset: Leaf
    raw_action: Any
    log_prob: Leaf
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
    """What the update reads: time first, then whole windows; `carry` is the one at their start."""

    carry: Any
    observation: Any
    reset: Leaf
    raw_action: Any
    log_prob: Leaf
    value: Leaf
    advantage: Leaf
    target: Leaf


# --------------------------------------------------------------------------------- advantages


def generalized_advantages(
    reward: Array,
    value: Array,
    next_value: Array,
    final_value: Array,
    terminated: Array,
    truncated: Array,
    discount: Array | float,
    gae_lambda: float,
) -> Array:
    """Generalised advantage estimates (Schulman et al. 2016, equation 16), cut at episode ends.

    Args:
        reward, value, terminated, truncated: `[T, B]`; value[t] = V(observation[t]).
        next_value: `[B]`, V(observation[T]).
        final_value: `[T, B]`, V(final observation) where truncated[t].
        discount: γ, or `[T, B]`, for each step what counts of all that comes after it.
        gae_lambda: λ.

    Returns:
        advantages `[T, B]`. An episode that terminated is worth nothing afterwards; one that was
        truncated is worth `final_value`; both together count as a termination.
    """
    following = jnp.concatenate([value[1:], next_value[None]])
    following = jnp.where(truncated, final_value, following)
    following = jnp.where(terminated, 0.0, following)
    delta = reward + discount * following - value
    done = terminated | truncated
    decay = jnp.broadcast_to(jnp.asarray(discount * gae_lambda, delta.dtype), delta.shape)

    def step(advantage, inputs):
        delta_t, done_t, decay_t = inputs
        # Chosen, not multiplied by 0: a NaN in one episode must not reach the one before.
        advantage = delta_t + jnp.where(done_t, 0.0, decay_t * advantage)
        return advantage, advantage

    return lax.scan(step, jnp.zeros_like(next_value), (delta, done, decay), reverse=True)[1]


def normalized(advantage: Array) -> Array:
    """Advantages with mean 0 and deviation 1; zeros where all are equal.

    Measured from one of them: the rounding error of a mean of equal numbers, divided by a deviation
    that is rounding error too, would be of size 1 and push all actions the same way.
    """
    difference = advantage - advantage.ravel()[0]
    centred = difference - difference.mean()
    return centred / (centred.std() + 1e-8)


# -------------------------------------------------------------------------------------- agent


class PPO:
    """PPO with any memory, on any batched environment.

    Args:
        config: hyperparameters.
        memory: the memory module.
        env: environments to train in; `env.num_envs` must be `config.num_envs`.
        total_steps: environment steps of the whole training, for the schedules.
        skip_nonfinite: leave out updates whose gradient is not finite.

    Raises:
        ValueError: where the environment does not fit the configuration.
    """

    def __init__(
        self,
        config: PPOConfig,
        memory: Memory,
        env: VectorEnv,
        *,
        total_steps: int,
        skip_nonfinite: bool = False,
    ):
        check_environment(env, config.num_envs, discounts_trials=True)
        self.config, self.memory, self.env = config, memory, env
        self.network = ActorCritic(env.observation_space, env.action_space, memory, config)
        self.iterations = -(-total_steps // self.steps_per_iteration)  # the loop rounds up too
        updates = self.iterations * config.epochs * config.minibatches
        self.learning_rate = make_schedule(config, updates)
        self.optimizer = make_optimizer(config, memory, skip_nonfinite=skip_nonfinite)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps in one iteration."""
        return self.config.num_envs * self.config.rollout_length

    # ........................................................................ beginning

    def init(self, key: Array) -> TrainState:
        """The state before training, from one key."""
        key_env, key_params, key_acting = jax.random.split(key, 3)
        observation, env_state = self.env.reset(key_env)
        num_envs = self.config.num_envs
        acting = ActingState(
            env=env_state,
            observation=observation,
            reset=jnp.ones(num_envs, bool),
            carry=self.initialize_carry(num_envs),
            discounted_return=jnp.zeros(num_envs, jnp.float32),
            key=key_acting,
        )
        window = (acting.carry, add_time(observation), acting.reset[None])
        params = self.network.init(key_params, *window)
        real = _real_leaves(self.env.observation_space, observation)
        one_observation = jax.tree.map(lambda x: x[0], real)
        scalar = jnp.zeros(())
        return TrainState(
            params=params,
            optimizer=self.optimizer.init(params),
            normalizers=Normalizers(
                observation=RunningStatistics.zeros(one_observation),
                discounted_return=RunningStatistics.zeros(scalar),
                value=RunningStatistics.zeros(scalar),
            ),
            acting=acting,
            iteration=jnp.zeros((), jnp.int32),
        )

    def restart(self, state: TrainState, key: Array) -> TrainState:
        """`state` with new episodes in all environments; for those that no checkpoint can hold."""
        observation, env_state = self.env.reset(key)
        num_envs = self.config.num_envs
        acting = state.acting.replace(
            env=env_state,
            observation=observation,
            reset=jnp.ones(num_envs, bool),
            carry=self.initialize_carry(num_envs),
            discounted_return=jnp.zeros(num_envs, jnp.float32),
        )
        return state.replace(acting=acting)

    def parts(self, state: TrainState) -> dict[str, Any]:
        """What was learned; see `ssmrl.training.agent.TransferableAgent`.

        Statistics of observations belong to the encoder, which reads what they standardise; units
        of values and rewards to the critic, which predicts in them.
        """
        params, statistics = state.params["params"], state.normalizers
        groups = {"memory": ("memory",), "actor": ("actor", "log_std"), "critic": ("critic",)}
        known = {name for names in groups.values() for name in names}
        groups["encoder"] = tuple(sorted(set(params) - known))
        parts: dict[str, Any] = {
            part: {"params": {name: params[name] for name in names if name in params}}
            for part, names in groups.items()
        }
        parts["encoder"]["observation"] = statistics.observation
        parts["critic"]["value"] = statistics.value
        parts["critic"]["discounted_return"] = statistics.discounted_return
        return parts

    def with_parts(self, state: TrainState, parts: dict[str, Any]) -> TrainState:
        """`state` with these parts of another."""
        parts = self.parts(state) | parts
        normalizers = Normalizers(
            observation=parts["encoder"]["observation"],
            discounted_return=parts["critic"]["discounted_return"],
            value=parts["critic"]["value"],
        )
        params = {name: x for part in parts.values() for name, x in part["params"].items()}
        return state.replace(params={"params": params}, normalizers=normalizers)

    def shardings(self, mesh: Mesh, state: TrainState) -> TrainState:
        """Where the leaves of `state` live on a mesh with axis "data": environments are split."""
        shared, split = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
        num_envs = self.config.num_envs
        if num_envs % mesh.size:
            raise ValueError(
                f"agent.num_envs = {num_envs} must be divisible by {mesh.size} devices"
            )

        def environments(x):
            return split if x.ndim and x.shape[0] == num_envs else shared

        everywhere = jax.tree.map(lambda _: shared, state)
        acting = jax.tree.map(environments, state.acting).replace(key=shared)
        return everywhere.replace(acting=acting)

    # ........................................................................ one iteration

    def iteration(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """Collect a rollout, then update on it.

        Returns:
            the new state, and metrics as scalars; means over episodes are 0 where none ended.
        """
        c = self.config
        acting, (starts, rollout) = lax.scan(
            partial(self._collect_window, state),
            state.acting,
            length=c.rollout_length // c.window,
        )
        rollout = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rollout)
        normalizers = self._update_normalizers(state.normalizers, rollout)
        advantage, target = self._advantages(state, acting, normalizers, rollout)
        windows = self._cut_windows(starts, rollout, advantage, target)
        key_acting, key_update = jax.random.split(acting.key)
        params, optimizer, metrics = self._update(state, windows, target, key_update)
        if c.normalize_values:
            new_value = normalizers.value.update(target)
            params = _rescale_value_head(params, normalizers.value, new_value)
            normalizers = normalizers.replace(value=new_value)
        metrics |= episode_metrics(rollout.episode)
        metrics |= environment_metrics(self.env, rollout.observation, rollout.reward)
        residual = (target - rollout.value).var() / jnp.maximum(target.var(), 1e-8)
        metrics["explained_variance"] = 1 - residual
        state = TrainState(
            params=params,
            optimizer=optimizer,
            normalizers=normalizers,
            acting=acting.replace(key=key_acting),
            iteration=state.iteration + 1,
        )
        return state, metrics

    # ........................................................................ collecting

    def _collect_window(self, state: TrainState, acting: ActingState, _):
        step = partial(self._collect_step, state.params, state.normalizers)
        end, window = lax.scan(step, acting, length=self.config.window)
        return end, (acting.carry, window)

    def _collect_step(self, params, normalizers, acting: ActingState, _):
        key, key_action = jax.random.split(acting.key)
        apply = partial(self._apply, params, normalizers)
        carry, distribution, value = apply(
            acting.carry, add_time(acting.observation), acting.reset[None]
        )
        raw = distribution.sample(seed=key_action)
        log_prob = distribution.log_prob(raw)[0]
        action = without_time(distribution.action(raw))
        observation, env_state, reward, terminated, truncated, info = self.env.step(
            acting.env, action
        )
        done = terminated | truncated
        only_truncated = truncated & ~terminated

        def final_value():
            """The carry has seen the whole episode up to here; the final observation comes next."""
            final = add_time(info["final_observation"])
            _, _, value = apply(carry, final, jnp.zeros_like(acting.reset)[None])
            return jnp.where(only_truncated, value[0], 0.0)

        later = info.get("trial_discount", jnp.ones_like(reward))
        discounted_return = self.config.discount * acting.discounted_return + reward
        transition = Transition(
            observation=acting.observation,
            reset=acting.reset,
            raw_action=without_time(raw),
            log_prob=log_prob,
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

    def _apply(self, params, normalizers: Normalizers, carry, observation, reset):
        """The network on raw observations, values in the units of (normalised) rewards."""
        if self.config.normalize_observations:
            space = self.env.observation_space
            observation = _standardize(space, observation, normalizers.observation)
        outputs: Any = self.network.apply(params, carry, observation, reset)
        carry, distribution, value = outputs
        return carry, distribution, value * normalizers.value.std + normalizers.value.mean

    # ........................................................................ targets

    def _update_normalizers(self, normalizers: Normalizers, rollout: Transition) -> Normalizers:
        c = self.config
        if c.normalize_rewards:
            returns = normalizers.discounted_return.update(rollout.discounted_return)
            normalizers = normalizers.replace(discounted_return=returns)
        if c.normalize_observations:
            real = _real_leaves(self.env.observation_space, rollout.observation)
            observation = normalizers.observation.update(real)
            normalizers = normalizers.replace(observation=observation)
        return normalizers

    def _advantages(self, state: TrainState, acting, normalizers, rollout: Transition):
        """Advantages and value targets `[T, B]`."""
        c = self.config
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
            c.gae_lambda,
        )
        return advantage, advantage + rollout.value

    def _cut_windows(self, starts, rollout: Transition, advantage, target) -> Window:
        """Leaves `[rollout_length, B]` become `[window, windows * B]`; carries `[windows * B]`."""

        def cut(x):
            x = x.reshape(-1, self.config.window, *x.shape[1:])
            x = jnp.moveaxis(x, 0, 1)
            return x.reshape(x.shape[0], -1, *x.shape[3:])

        series = {
            name: jax.tree.map(cut, getattr(rollout, name))
            for name in ("observation", "reset", "raw_action", "log_prob", "value")
        }
        carry = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), starts)
        return Window(carry=carry, advantage=cut(advantage), target=cut(target), **series)

    # ........................................................................ updating

    def _update(self, state: TrainState, windows: Window, target: Array, key: Array):
        """All epochs of minibatch updates; stops moving once the policy has moved too far."""
        c = self.config
        entropy_coefficient = self._entropy_coefficient(state.iteration)
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
            batch = _take_windows(windows, chosen)
            loss = partial(self._loss, state.normalizers, batch, entropy_coefficient, key_batch)
            gradient, metrics = jax.grad(loss, has_aux=True)(params)
            metrics["gradient_norm"] = optax.tree.norm(gradient)
            metrics["learning_rate"] = rate = self.learning_rate(count)
            updates, new_optimizer = self.optimizer.update(gradient, optimizer, params)
            new = optax.apply_updates(params, optax.tree.scale(rate, updates)), new_optimizer
            if c.target_kl is not None:
                stopped = stopped | (metrics["approx_kl"] > c.target_kl)
                new = jax.tree.map(partial(jnp.where, stopped), (params, optimizer), new)
            return (*new, stopped), metrics

        start = (state.params, state.optimizer, jnp.zeros((), bool))
        (params, optimizer, _), metrics = lax.scan(minibatch, start, (batches, keys, counts))
        return params, optimizer, jax.tree.map(jnp.mean, metrics)

    def _loss(self, normalizers, batch: Window, entropy_coefficient, key, params):
        c = self.config
        _, distribution, value = self._apply(
            params, normalizers, batch.carry, batch.observation, batch.reset
        )
        log_ratio = distribution.log_prob(batch.raw_action) - batch.log_prob
        ratio = jnp.exp(log_ratio)
        advantage = batch.advantage
        if c.normalize_advantages:
            advantage = normalized(advantage)
        clipped = jnp.clip(ratio, 1 - c.clip, 1 + c.clip)
        policy_loss = -jnp.minimum(ratio * advantage, clipped * advantage).mean()
        value_loss = self._value_loss(value, batch, normalizers.value.std)
        entropy = distribution.entropy(seed=key).mean()
        loss = policy_loss + c.value_coefficient * value_loss - entropy_coefficient * entropy
        metrics = {
            "loss/total": loss,
            "loss/policy": policy_loss,
            "loss/value": value_loss,
            "entropy": entropy,
            "approx_kl": (ratio - 1 - log_ratio).mean(),
            "clip_fraction": (jnp.abs(ratio - 1) > c.clip).mean(),
        }
        return loss, metrics

    def _value_loss(self, value: Array, batch: Window, unit: Array) -> Array:
        """Half the squared error in units of the values' deviation; optionally clipped."""
        squared = ((value - batch.target) / unit) ** 2
        if self.config.value_clip is not None:
            limit = self.config.value_clip * unit
            near = batch.value + jnp.clip(value - batch.value, -limit, limit)
            squared = jnp.maximum(squared, ((near - batch.target) / unit) ** 2)
        return 0.5 * squared.mean()

    def _entropy_coefficient(self, iteration: Array) -> Array:
        c = self.config
        final = c.entropy_coefficient_final
        end = c.entropy_coefficient if final is None else final
        schedule = optax.linear_schedule(c.entropy_coefficient, end, self.iterations)
        return schedule(iteration)

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
            greedy: the most likely action instead of a sample.

        Returns:
            the new carry and actions `[B, ...]` for the environment.
        """
        carry, distribution, _ = self._apply(
            state.params, state.normalizers, carry, add_time(observation), reset[None]
        )
        raw = distribution.mode() if greedy else distribution.sample(seed=key)
        return carry, without_time(distribution.action(raw))


# ------------------------------------------------------------------------------------ helpers


def make_ppo(
    config: PPOConfig, memory_config: Any, env: VectorEnv, *, total_steps: int, skip_nonfinite=False
) -> PPO:
    """PPO from its configuration and an instance of `ssmrl.memory.memory_config(name)`.

    Raises:
        ValueError: for a memory with dropout, and where configuration and environment do not fit.
    """
    memory = build_memory(memory_config)
    check_memory(memory)
    return PPO(config, memory, env, total_steps=total_steps, skip_nonfinite=skip_nonfinite)


def _take_windows(windows: Window, chosen: Array) -> Window:
    carry = jax.tree.map(lambda x: x[chosen], windows.carry)
    batch = jax.tree.map(lambda x: x[:, chosen], windows.replace(carry=None))
    return batch.replace(carry=carry)


def _is_real(space: Space) -> bool:
    """Whether normalisation is about observations of an elementary space."""
    return isinstance(space, Box) and not is_scaled(space)


def _real_leaves(space: Space, observation: Any) -> list[Array]:
    return [value for part, value in leaves(space, observation) if _is_real(part)]


def _standardize(space: Space, observation: Any, statistics: RunningStatistics) -> Any:
    pairs = iter(zip(statistics.mean, statistics.std, strict=True))

    def leaf(part, x):
        if not _is_real(part):
            return x
        mean, std = next(pairs)
        # The encoder scales entries that have bounds.
        return jnp.where(scaled_entries(part), x, jnp.clip((x - mean) / std, -10, 10))

    return jax.tree.map(leaf, as_tree(space), observation)


def _rescale_value_head(params, old: RunningStatistics, new: RunningStatistics):
    """Keep predictions where the units change: σ' (w'y + b') + μ' = σ (wy + b) + μ."""
    head = params["params"]["critic"]["output"]
    scale = old.std / new.std
    head = {
        "kernel": head["kernel"] * scale,
        "bias": head["bias"] * scale + (old.mean - new.mean) / new.std,
    }
    critic = params["params"]["critic"] | {"output": head}
    return params | {"params": params["params"] | {"critic": critic}}

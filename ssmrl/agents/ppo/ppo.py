"""Proximal policy optimisation for agents with memory, in one file.

Schulman et al., "Proximal Policy Optimization Algorithms" (2017). Reading order: the configuration,
the network, what is stored, one iteration (collect, advantages, update), how PopArt rescales. How a
rollout is collected and gone through, resets and truncations among it, is shared with PQN:
`ssmrl.agents.rollout_agent`.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array

from ssmrl.agents import rollout_agent
from ssmrl.agents.rollout import check_memory, without_time
from ssmrl.agents.rollout_agent import (
    Metrics,
    RolloutAgent,
    RolloutConfig,
    TrainState,
    make_encoder,
    require,
)
from ssmrl.envs.environment import Leaf
from ssmrl.envs.spaces import Space
from ssmrl.envs.vector import VectorEnv
from ssmrl.memory import Memory, build_memory
from ssmrl.networks.distributions import action_distribution, parameter_size, scale_size
from ssmrl.networks.mlp import MLP
from ssmrl.networks.statistics import RunningStatistics

# ------------------------------------------------------------------------------ configuration


ADVANTAGE_SCALES = ("running", "minibatch")


@dataclass(frozen=True)
class PPOConfig(RolloutConfig):
    """Hyperparameters of PPO.

    The defaults of the learning rate, λ and the normalisation of rewards were searched for on six
    ids of POPGym: docs/recipe.md has the trials.

    Attributes:
        max_grad_norm: gradients are scaled down to this global norm. Where nearly all of S5's are,
            as often at the usual .5, a minibatch without a success counts as much as one with; far
            above it, outliers make policies collapse that are almost deterministic.
        gae_lambda: λ of the generalised advantage estimate. Where every answer is rewarded at
            once, it should be less than the usual .95, which adds the rewards of other answers as
            noise.
        clip: ε, how far the probability ratio may move away from 1.
        dual_clip: c > 1: where an advantage is negative, a ratio above it has no gradient, so that
            an action that has become likely cannot outweigh all others (Ye et al. 2020, "Mastering
            Complex Control in MOBA Games with Deep Reinforcement Learning", eq. 4); None: no bound.
        value_clip: how far a value may move from what it was in acting; None for no clipping.
        value_coefficient: weight of the value loss.
        entropy_coefficient: weight of the entropy bonus at the start of training.
        entropy_coefficient_final: the same at its end, linear in between; None means constant.
        target_kl: stop an iteration's updates when the policy has moved this far; None for never.
        normalize_advantages: advantages get a mean of 0 and a standard deviation of about 1, by
            `advantage_scale`.
        advantage_scale: "running": the mean of their rollout is subtracted, and they are divided by
            the standard deviation of all so far. "minibatch": the mean of their minibatch, and its
            own deviation. Where rewards are rare most minibatches hold none, and what is scaled up
            there to a deviation of 1 is the critic's error.
        normalize_values: learn values in units of their running standard deviation (PopArt, van
            Hasselt et al. 2016: the output layer is rescaled so that predictions stay the same).
        actor: widths of the policy's hidden layers after the memory.
        initial_log_std: log of the initial standard deviation of continuous actions.
    """

    name: str = "ppo"
    lr: float = 2e-3
    max_grad_norm: float = 2.0
    gae_lambda: float = 0.8
    clip: float = 0.2
    dual_clip: float | None = None
    value_clip: float | None = None
    value_coefficient: float = 0.5
    entropy_coefficient: float = 0.01
    entropy_coefficient_final: float | None = None
    target_kl: float | None = None
    normalize_advantages: bool = True
    advantage_scale: str = "running"
    normalize_values: bool = False
    actor: list[int] = field(default_factory=lambda: [128])
    initial_log_std: float = -0.5

    def __post_init__(self):
        super().__post_init__()
        require(self, "gae_lambda", 0 <= self.gae_lambda <= 1, "between 0 and 1")
        for name in ("value_coefficient", "entropy_coefficient"):
            finite = 0 <= getattr(self, name) < math.inf
            require(self, name, finite, "at least 0 and finite")
        final = self.entropy_coefficient_final
        finite = final is None or 0 <= final < math.inf
        require(self, "entropy_coefficient_final", finite, "at least 0 and finite")
        require(self, "clip", self.clip > 0, "positive")
        require(self, "dual_clip", self.dual_clip is None or self.dual_clip > 1, "greater than 1")
        require(self, "value_clip", self.value_clip is None or self.value_clip > 0, "positive")
        not_nan = self.target_kl is None or not math.isnan(self.target_kl)
        require(self, "target_kl", not_nan, "a number")
        require(self, "initial_log_std", math.isfinite(self.initial_log_std), "finite")
        require(self, "actor", all(w >= 1 for w in self.actor), "widths of at least 1")
        choices = f"one of {', '.join(ADVANTAGE_SCALES)}"
        require(self, "advantage_scale", self.advantage_scale in ADVANTAGE_SCALES, choices)
        # Less the mean of what it is normalised over, a single one would be 0.
        batch, parts, size = "rollout", 1, "num_envs * rollout_length"
        if self.advantage_scale == "minibatch":
            batch, parts, size = "minibatch", self.minibatches, f"{size} / minibatches"
        expected = f"false where a {batch} holds one transition ({size} = 1)"
        alone = self.normalize_advantages and self.windows * self.window == parts
        require(self, "normalize_advantages", not alone, expected)


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
        features = make_encoder(c, self.observation_space)
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
class Normalizers(rollout_agent.Normalizers):
    """And the statistics of value targets, for PopArt, and of advantages."""

    value: RunningStatistics
    advantage: RunningStatistics


@struct.dataclass
class Transition(rollout_agent.Transition):
    """What acting chose, and how likely that was."""

    raw_action: Any
    log_prob: Leaf


@struct.dataclass
class Window(rollout_agent.Window):
    """What the update reads."""

    raw_action: Any
    log_prob: Leaf
    value: Leaf
    advantage: Leaf
    target: Leaf


def normalized(advantage: Array) -> Array:
    """Advantages with mean 0 and deviation 1; zeros where all are equal.

    Measured from one of them: the rounding error of a mean of equal numbers, divided by a deviation
    that is rounding error too, would be of size 1 and push all actions the same way.
    """
    difference = advantage - advantage.ravel()[0]
    centred = difference - difference.mean()
    return centred / (centred.std() + 1e-8)


# -------------------------------------------------------------------------------------- agent


class PPO(RolloutAgent):
    """PPO with any memory, on any batched environment; arguments are `RolloutAgent`'s."""

    config: PPOConfig
    transition = Transition
    heads: ClassVar = {"actor": ("actor", "log_std"), "critic": ("critic",)}
    statistics: ClassVar = RolloutAgent.statistics | {"value": "critic"}

    def __init__(self, config: PPOConfig, memory: Memory, env: VectorEnv, **options: Any):
        super().__init__(config, memory, env, **options)
        self.network = ActorCritic(env.observation_space, env.action_space, memory, config)

    # ........................................................................ one iteration

    def iteration(self, state: TrainState) -> tuple[TrainState, Metrics]:
        c = self.config
        acting, starts, rollout = self._collect(state)
        normalizers = self._update_normalizers(state.normalizers, rollout)
        advantage, target = self._advantages(state, acting, normalizers, rollout, c.gae_lambda)
        normalizers, advantage = self._in_running_scale(normalizers, advantage)
        windows = self._cut_windows(Window, starts, rollout, advantage=advantage, target=target)
        key_acting, key_update = jax.random.split(acting.key)
        loss = partial(self._loss, state.normalizers, self._entropy_coefficient(state.iteration))
        limit = c.target_kl
        stops = None if limit is None else lambda metrics: metrics["approx_kl"] > limit
        params, optimizer, metrics = self._update(state, windows, loss, key_update, stops)
        if c.normalize_values:
            new_value = normalizers.value.update(target)
            params = _rescale_value_head(params, normalizers.value, new_value)
            normalizers = normalizers.replace(value=new_value)
        metrics |= self._rollout_metrics(rollout, rollout.value, target)
        state = TrainState(
            params=params,
            optimizer=optimizer,
            normalizers=normalizers,
            acting=acting.replace(key=key_acting),
            iteration=state.iteration + 1,
        )
        return state, metrics

    # ........................................................................ acting

    def _apply(self, params, normalizers: Normalizers, carry, observation, reset):
        """The network on raw observations, values in the units of (normalised) rewards."""
        observation = self._standardize(normalizers, observation)
        outputs: Any = self.network.apply(params, carry, observation, reset)
        carry, distribution, value = outputs
        return carry, distribution, value * normalizers.value.std + normalizers.value.mean

    def _choose(self, state: TrainState, outputs: Any, key: Array, *, greedy: bool):
        raw = outputs.mode() if greedy else outputs.sample(seed=key)
        noted = {"raw_action": without_time(raw), "log_prob": outputs.log_prob(raw)[0]}
        return without_time(outputs.action(raw)), noted

    def _new_normalizers(self, one_observation: Any) -> Normalizers:
        scalar = RunningStatistics.zeros(jnp.zeros(()))
        observation = RunningStatistics.zeros(one_observation)
        return Normalizers(
            observation=observation, discounted_return=scalar, value=scalar, advantage=scalar
        )

    # ........................................................................ learning

    def _in_running_scale(self, normalizers: Normalizers, advantage: Array):
        """A rollout's advantages as the loss gets them, and the statistics that hold them too."""
        if not (self.config.normalize_advantages and self.config.advantage_scale == "running"):
            return normalizers, advantage
        statistics = normalizers.advantage.update(advantage)
        scaled = (advantage - advantage.mean()) / statistics.std
        return normalizers.replace(advantage=statistics), scaled

    def _loss(self, normalizers, entropy_coefficient, batch: Window, key, params):
        c = self.config
        _, distribution, value = self._apply(
            params, normalizers, batch.carry, batch.observation, batch.reset
        )
        log_ratio = distribution.log_prob(batch.raw_action) - batch.log_prob
        ratio = jnp.exp(log_ratio)
        advantage = batch.advantage
        if c.normalize_advantages and c.advantage_scale == "minibatch":
            advantage = normalized(advantage)
        clipped = jnp.clip(ratio, 1 - c.clip, 1 + c.clip)
        surrogate = jnp.minimum(ratio * advantage, clipped * advantage)
        if c.dual_clip is not None:
            bound = jnp.where(advantage < 0, c.dual_clip * advantage, -jnp.inf)
            surrogate = jnp.maximum(surrogate, bound)
        policy_loss = -surrogate.mean()
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


# ------------------------------------------------------------------------------------ helpers


def make_ppo(
    config: PPOConfig, memory_config: Any, env: VectorEnv, *, total_steps: int, skip_nonfinite: bool
) -> PPO:
    """PPO from its configuration and an instance of `ssmrl.memory.memory_config(name)`.

    Raises:
        ValueError: for a memory with dropout, and where configuration and environment do not fit.
    """
    memory = build_memory(memory_config)
    check_memory(memory)
    return PPO(config, memory, env, total_steps=total_steps, skip_nonfinite=skip_nonfinite)


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

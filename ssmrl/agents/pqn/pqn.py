"""Parallel Q-learning for agents with memory, in one file.

Gallici et al., "Simplifying Deep Temporal Difference Learning" (2024): Q-learning from the rollouts
of many environments at once. No replay and no target network; what keeps it stable is LayerNorm and
λ-returns. Reading order: the configuration, the network, what is stored, one iteration (collect,
λ-returns, update), how actions are chosen. How a rollout is collected and gone through, resets and
truncations among it, is shared with PPO: `ssmrl.agents.rollout_agent`.

The value of an observation is V = max Q, of the parameters that collect, and holds for one
iteration: targets are computed once and epochs move towards them (algorithm 1 of the paper).
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax import Array

from ssmrl.agents import rollout_agent
from ssmrl.agents.rollout import check_memory
from ssmrl.agents.rollout_agent import (
    Metrics,
    Normalizers,
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
from ssmrl.networks.enumeration import count_actions, numbered_action
from ssmrl.networks.mlp import MLP

# ------------------------------------------------------------------------------ configuration


@dataclass(frozen=True)
class PQNConfig(RolloutConfig):
    """Hyperparameters of PQN.

    λ and exploration are about those of the authors' recurrent agent on Craftax, the passes over a
    rollout and the learning rate those of our PPO. Their optimiser is RAdam, ours Adam. Tried on
    popgym/repeat_previous_easy with S5, 250,000 steps, one seed: the return at the end was .97 with
    λ = .5, .91 with .8 and -.01 with .95 (PPO: .99).

    Attributes:
        return_lambda: λ of the returns that Q learns: 0 for one step, 1 for the whole rollout.
        epsilon: share of actions that are drawn uniformly at the start of training.
        epsilon_final: the same after the decay.
        epsilon_decay: share of training over which epsilon decays linearly; 0: it reaches its final
            value after the first iteration.
        layer_norm: LayerNorm before every activation of the encoder and the critic.
    """

    name: str = "pqn"
    lr: float = 2e-3
    return_lambda: float = 0.5
    epsilon: float = 1.0
    epsilon_final: float = 0.01
    epsilon_decay: float = 0.2
    layer_norm: bool = True

    def __post_init__(self):
        super().__post_init__()
        for name in ("return_lambda", "epsilon", "epsilon_final", "epsilon_decay"):
            require(self, name, 0 <= getattr(self, name) <= 1, "between 0 and 1")


# ------------------------------------------------------------------------------------ network


class QNetwork(nn.Module):
    """Encoder → memory → a value for every action, over windows `[T, B, ...]`."""

    observation_space: Space
    num_actions: int
    memory: Memory
    config: PQNConfig

    @nn.compact
    def __call__(self, carry: Any, observation: Any, reset: Array):
        """Returns the carry and Q `[T, B, num_actions]`."""
        c = self.config
        features = make_encoder(c, self.observation_space, layer_norm=c.layer_norm)
        carry, y = self.memory(carry, features(observation), reset)
        head = MLP(
            tuple(c.critic), c.activation, self.num_actions, 0.01, c.layer_norm, name="critic"
        )
        return carry, head(y)


# --------------------------------------------------------------------------------------- data


@struct.dataclass
class Transition(rollout_agent.Transition):
    """What acting chose, and what it thought of that."""

    number: Leaf
    """i32 [B], of the action (`ssmrl.networks.enumeration`)."""
    q: Leaf
    """Q(observation, action); `value` is that of the best action."""


@struct.dataclass
class Window(rollout_agent.Window):
    """What the update reads."""

    number: Leaf
    target: Leaf


# -------------------------------------------------------------------------------------- agent


class PQN(RolloutAgent):
    """PQN with any memory, on any batched environment of finitely many actions.

    Actions of several parts have a value for every combination. Arguments are `RolloutAgent`'s.

    Raises:
        ValueError: for other actions, or more than `ssmrl.networks.enumeration.LARGEST_COUNT`.
    """

    config: PQNConfig
    transition = Transition
    heads: ClassVar = {"critic": ("critic",)}

    def __init__(self, config: PQNConfig, memory: Memory, env: VectorEnv, **options: Any):
        super().__init__(config, memory, env, **options)
        try:
            self.num_actions = count_actions(env.action_space)
        except ValueError as error:
            message = f"agent=pqn has a value for every action: {error}; use agent=ppo"
            raise ValueError(message) from error
        self.network = QNetwork(env.observation_space, self.num_actions, memory, config)

    # ........................................................................ one iteration

    def iteration(self, state: TrainState) -> tuple[TrainState, Metrics]:
        acting, starts, rollout = self._collect(state)
        normalizers = self._update_normalizers(state.normalizers, rollout)
        decay = self.config.return_lambda
        _, target = self._advantages(state, acting, normalizers, rollout, decay)
        windows = self._cut_windows(Window, starts, rollout, target=target)
        key_acting, key_update = jax.random.split(acting.key)
        loss = partial(self._loss, state.normalizers)
        params, optimizer, metrics = self._update(state, windows, loss, key_update)
        metrics |= self._rollout_metrics(rollout, rollout.q, target)
        metrics["epsilon"] = self._epsilon(state.iteration)
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
        """The network on raw observations, Q in the units of (normalised) rewards."""
        observation = self._standardize(normalizers, observation)
        outputs: Any = self.network.apply(params, carry, observation, reset)
        carry, q = outputs
        return carry, q, q.max(-1)

    def _choose(self, state: TrainState, outputs: Array, key: Array, *, greedy: bool):
        """The action of the largest Q; if not `greedy`, ε of them are drawn from all alike."""
        q = outputs[0]
        number = q.argmax(-1).astype(jnp.int32)
        if not greedy:
            key_whether, key_which = jax.random.split(key)
            any_action = jax.random.randint(key_which, number.shape, 0, self.num_actions)
            explores = jax.random.uniform(key_whether, number.shape)
            explores = explores < self._epsilon(state.iteration)
            number = jnp.where(explores, any_action.astype(jnp.int32), number)
        noted = {"number": number, "q": _entries(q, number)}
        return numbered_action(self.env.action_space, number), noted

    def _epsilon(self, iteration: Array | None) -> Array:
        """The share of random actions; at the end of training where nothing is known of it."""
        c = self.config
        if iteration is None:
            return jnp.asarray(c.epsilon_final)
        end = max(c.epsilon_decay * self.iterations, 1e-6)
        share = jnp.clip(iteration / end, 0, 1)
        return c.epsilon + share * (c.epsilon_final - c.epsilon)

    # ........................................................................ learning

    def _loss(self, normalizers: Normalizers, batch: Window, key: Array, params: Any):
        """Half the squared distance of the chosen actions' Q from their λ-returns."""
        _, q, value = self._apply(params, normalizers, batch.carry, batch.observation, batch.reset)
        chosen = _entries(q, batch.number)
        error = chosen - batch.target
        loss = 0.5 * (error**2).mean()
        metrics = {
            "loss/total": loss,
            "q/chosen": chosen.mean(),
            "q/greedy": value.mean(),
            "q/error": jnp.abs(error).mean(),
        }
        return loss, metrics


# ------------------------------------------------------------------------------------ helpers


def make_pqn(
    config: PQNConfig, memory_config: Any, env: VectorEnv, *, total_steps: int, skip_nonfinite: bool
) -> PQN:
    """PQN from its configuration and an instance of `ssmrl.memory.memory_config(name)`.

    Raises:
        ValueError: for a memory with dropout, and where configuration and environment do not fit.
    """
    memory = build_memory(memory_config)
    check_memory(memory)
    return PQN(config, memory, env, total_steps=total_steps, skip_nonfinite=skip_nonfinite)


def _entries(q: Array, number: Array) -> Array:
    """Of `q` `[..., num_actions]` the entries `number` `[...]`."""
    return jnp.take_along_axis(q, number[..., None], axis=-1)[..., 0]

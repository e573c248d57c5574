"""Dreamer: a world model on any memory, and a policy learned inside it. In one file, to read down.

Hafner et al., "Mastering Diverse Domains through World Models" (2023), the newest version's single
loss and optimiser; with the parallel posterior, S4WM (Deng et al. 2023) and R2I (Samsami et al.
2024). Reading order: what changes, the loss, one update, collecting, the agent's interface.

Each iteration steps the environments, adds what happened to the replay buffer, and makes a fixed
number of updates on windows of it; all of that is one program.
"""

from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array, lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from ssmrl.agents.dreamer.behaviour import (
    Actor,
    Critic,
    ReturnRange,
    imagination_losses,
    imagine,
    policy_features,
    replay_value_loss,
)
from ssmrl.agents.dreamer.config import DreamerConfig
from ssmrl.agents.dreamer.losses import two_hot_mean
from ssmrl.agents.dreamer.observations import compare
from ssmrl.agents.dreamer.replay import (
    Batch,
    HostedObservations,
    HostRequest,
    Replay,
    ReplayState,
    Step,
    Windows,
    bytes_per_step,
    exchange,
)
from ssmrl.agents.dreamer.world_model import (
    Latent,
    Start,
    WorldModel,
    initial_start,
    open_loop,
)
from ssmrl.agents.laprop import laprop
from ssmrl.agents.optimizer import label_ssm_parameters, leave_out_nonfinite
from ssmrl.agents.rollout import (
    add_time,
    check_environment,
    check_memory,
    environment_metrics,
    episode_metrics,
)
from ssmrl.envs.batching import any_across_batch
from ssmrl.envs.environment import Leaf
from ssmrl.envs.spaces import as_tree
from ssmrl.envs.vector import VectorEnv
from ssmrl.memory import Memory, build_memory
from ssmrl.training.devices import (
    check_divides,
    device_memory,
    host_memory,
    split_batch,
    split_environments,
)
from ssmrl.training.fit import bytes_of, format_bytes

Metrics = dict[str, Array]


# --------------------------------------------------------------------------------------- data


@struct.dataclass
class Carry:
    """What acting hands from step to step. Leaves `[B, ...]`."""

    memory: Any
    z: Leaf
    action: Any
    """The last one; without meaning before an episode's first."""


@struct.dataclass
class ActingState:
    """The environments and the agent in them. Leading axis of arrays: the environments."""

    env: Any
    observation: Any
    reset: Leaf
    """bool [B]: `observation` begins an episode."""
    carry: Carry
    """Before `observation`."""


@struct.dataclass
class TrainState:
    """Everything that training needs to go on: the unit of checkpoints."""

    params: dict[str, Any]
    """Of "world", "actor" and "critic"."""
    slow_critic: Any
    """Running average of the critic's parameters."""
    returns: ReturnRange
    optimizer: Any
    replay: Any
    acting: ActingState
    key: Leaf


# -------------------------------------------------------------------------------------- agent


class Dreamer:
    """Dreamer with any memory, on any batched environment.

    Args:
        config: hyperparameters.
        memory: the world model's backbone.
        env: environments to train in; `env.num_envs` must be `config.num_envs`.
        skip_nonfinite: leave out updates whose gradient is not finite.

    Raises:
        ValueError: where the environment does not fit the configuration.
    """

    def __init__(
        self,
        config: DreamerConfig,
        memory: Memory,
        env: VectorEnv,
        *,
        skip_nonfinite: bool = False,
    ):
        check_environment(env, config.num_envs)
        self.config, self.memory, self.env = config, memory, env
        dtype = compute_dtype(config.compute_dtype)
        self.world = WorldModel(env.observation_space, env.action_space, memory, config, dtype)
        self.actor = Actor(env.action_space, config, dtype)
        self.critic = Critic(config, dtype)
        self.replay = Replay(config)
        self.optimizer = make_dreamer_optimizer(config, memory, skip_nonfinite=skip_nonfinite)

    @property
    def steps_per_iteration(self) -> int:
        """Environment steps in one iteration."""
        return self.config.steps_per_iteration

    def training_notes(self, seeds: int) -> list[str]:
        """What a user should know before a training of so many seeds side by side, in lines.

        Raises:
            ValueError: the device, or the host, cannot hold its part of the replay buffer.
        """
        c, env = self.config, self.env
        carry = jax.eval_shape(partial(self.initialize_carry, 1)) if c.replay_context else ()
        step, context = bytes_per_step(env.observation_space, env.action_space, carry)
        on_host = 2 * bytes_of(as_tree(env.observation_space)) if self.stores_on_host else 0
        fetched = on_host // 2 * c.updates_per_iteration * c.batch_size * c.batch_length
        on_device = step - on_host + context
        steps = c.replay_capacity * seeds
        taken = format_bytes(steps * on_device)
        if context:
            taken += f", {format_bytes(steps * context)} of it carries"
        self._check_device_memory(seeds, on_device, context, taken, seeds * fetched)
        if not on_host:
            return [f"replay buffer: {steps:,} steps, {taken}"]
        self._check_host_memory(seeds, on_host)
        return [
            f"replay buffer: {steps:,} steps, {format_bytes(steps * on_host)} on the host, "
            f"{taken} on the device, and {format_bytes(seeds * fetched)} there for the windows "
            "of an iteration"
        ]

    def _check_device_memory(
        self, seeds: int, per_step: int, context: int, taken: str, fetched: int
    ) -> None:
        """Refuse a buffer of more bytes than the device has, beside those that are fetched."""
        c, available = self.config, device_memory()
        if available is None or c.replay_capacity * seeds * per_step + fetched <= available:
            return
        half = (available // 2 - fetched) // per_step // seeds
        ways = [f"agent.replay_capacity={half}"] if half >= c.smallest_capacity else []
        ways += ["agent.replay_context=false"] if context else []
        if not self.stores_on_host and jax.default_backend() != "cpu":
            ways += ["agent.replay_storage=host"]
        beside = f" and {format_bytes(fetched)} for the windows of an iteration" if fetched else ""
        raise ValueError(
            f"agent.replay_capacity={c.replay_capacity} takes {taken}{beside}, and the device has "
            f"{format_bytes(available)}; set {' or '.join(ways or ['fewer seeds'])}"
        )

    def _check_host_memory(self, seeds: int, per_step: int) -> None:
        """Refuse a buffer that the host cannot hold, or not together with its copy."""
        c, available = self.config, host_memory()
        taken = c.replay_capacity * seeds * per_step
        if available is None or 2 * taken <= available:
            return
        fits = available // 3 // per_step // seeds
        way = f"agent.replay_capacity={fits}" if fits >= c.smallest_capacity else "fewer seeds"
        raise ValueError(
            f"agent.replay_capacity={c.replay_capacity} takes {format_bytes(taken)} of the host's "
            "memory, and as much again while a checkpoint is written; it has "
            f"{format_bytes(available)}; set {way}"
        )

    # ........................................................................ beginning

    def init(self, key: Array) -> TrainState:
        """The state before training, from one key."""
        key_env, key_params, key = jax.random.split(key, 3)
        acting = self._begin_episodes(key_env)
        params = self._init_params(key_params, acting)
        # The shapes and dtypes of one step, without taking it.
        step = jax.eval_shape(partial(self._collect_step, params), acting, key)[1][0]
        step = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), step)
        return TrainState(
            params=params,
            slow_critic=params["critic"],
            returns=ReturnRange.zeros(),
            optimizer=self.optimizer.init(params),
            replay=self.replay.init(step),
            acting=acting,
            key=key,
        )

    def _init_params(self, key: Array, acting: ActingState) -> dict[str, Any]:
        keys = jax.random.split(key, 3)
        start = Start(acting.carry.memory, acting.carry.z)
        inputs = add_time((acting.observation, acting.carry.action, acting.reset))
        noise = jnp.zeros(())
        (latent, *_), world = self.world.init_with_output(keys[0], start, *inputs, noise)
        features = policy_features(self.memory, latent, self.config.policy_inputs)
        return {
            "world": world,
            "actor": self.actor.init(keys[1], features),
            "critic": self.critic.init(keys[2], features),
        }

    def _begin_episodes(self, key: Array) -> ActingState:
        observation, env_state = self.env.reset(key)
        return ActingState(
            env=env_state,
            observation=observation,
            reset=jnp.ones(self.config.num_envs, bool),
            carry=self.initialize_carry(self.config.num_envs),
        )

    def restart(self, state: TrainState, key: Array) -> TrainState:
        """`state` with new episodes in all environments; for those that no checkpoint can hold."""
        return state.replace(acting=self._begin_episodes(key))

    def parts(self, state: TrainState) -> dict[str, Any]:
        """What was learned; see `ssmrl.training.agent.TransferableAgent`.

        The world model's modules one by one, the memory among them; the critic with its slow copy
        and the range of returns.
        """
        critic = {
            "params": state.params["critic"],
            "slow": state.slow_critic,
            "returns": state.returns,
        }
        heads = {"actor": state.params["actor"], "critic": critic}
        return {**state.params["world"]["params"], **heads}

    def with_parts(self, state: TrainState, parts: dict[str, Any]) -> TrainState:
        """`state` with these parts of another."""
        world = self.parts(state) | parts
        actor, critic = world.pop("actor"), world.pop("critic")
        params = {"world": {"params": world}, "actor": actor, "critic": critic["params"]}
        return state.replace(params=params, slow_critic=critic["slow"], returns=critic["returns"])

    def for_acting(self, state: TrainState) -> TrainState:
        """See `ssmrl.training.agent.LeanAgent`."""
        acting = jax.tree.map(lambda _: None, state.acting)
        return state.replace(optimizer=None, replay=None, acting=acting, key=None)

    def shardings(self, mesh: Mesh, state: TrainState) -> TrainState:
        """Where the leaves of `state` live on a mesh with axis "data".

        Environments are split, and with them the rows of the replay buffer; each update's windows
        are drawn from all of it, and then split as well.
        """
        c = self.config
        check_divides(mesh, "batch_size", c.batch_size)
        everywhere = jax.tree.map(lambda _: NamedSharding(mesh, P()), state)
        acting, replay = split_environments(mesh, (state.acting, state.replay), c.num_envs)
        return everywhere.replace(acting=acting, replay=replay)

    # ........................................................................ one iteration

    def iteration(self, state: TrainState) -> tuple[TrainState, Metrics]:
        """Collect a rollout into the replay buffer, then update on windows of it.

        Returns:
            the new state, and metrics as scalars; means over episodes are 0 where none ended.
            Until the buffer holds a whole window there are no updates, and losses are 0.

        Raises:
            ValueError: the replay buffer is on the host.
        """
        if self.stores_on_host:
            raise ValueError(
                "agent.replay_storage=host: an iteration is more than one program, see "
                "ssmrl.training.host_storage.HostStoredIteration"
            )
        state, _, collected = self._collect(state)
        return self._learn_from_replay(state, collected)

    def _collect(self, state: TrainState) -> tuple[TrainState, Step, tuple[Array, Metrics]]:
        """Also the new steps; and, for what follows, a key and the metrics of collecting."""
        key, key_collect, key_update = jax.random.split(state.key, 3)
        collect = partial(self._collect_step, state.params)
        keys = jax.random.split(key_collect, self.config.steps_per_rollout)
        acting, (steps, episode) = lax.scan(collect, state.acting, keys)
        replay = self.replay.add(state.replay, steps)
        state = state.replace(acting=acting, replay=replay, key=key)
        reward = steps.reward / self.config.reward_scale
        metrics = environment_metrics(self.env, steps.observation, reward)
        return state, steps, (key_update, metrics | episode_metrics(episode))

    def _learn_from_replay(
        self, state: TrainState, collected: tuple[Array, Metrics], observations: Any = None
    ) -> tuple[TrainState, Metrics]:
        """The updates, as soon as there is a window.

        Args:
            state: of which the environments are left alone.
            collected: from `_collect`.
            observations: of all updates' windows, leaves `[U, T, N, ...]`, where the host has them.
        """
        key_update, collecting = collected
        replay = state.replay
        learned = (state.params, state.slow_critic, state.returns, state.optimizer)
        # Of the buffer, only what updates change: the rest would be copied through the `cond`.
        changing = (learned, replay.contexts, replay.served)

        def update():
            keys = self._update_keys(key_update)
            new, metrics = lax.scan(partial(self._update, replay), changing, (keys, observations))
            return new, jax.tree.map(jnp.mean, metrics)

        def wait():
            _, metrics = jax.eval_shape(update)
            return changing, jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), metrics)

        ready = any_across_batch(self.replay.ready(replay))
        (learned, contexts, served), metrics = lax.cond(ready, update, wait)
        params, slow_critic, returns, optimizer = learned
        state = state.replace(
            params=params,
            slow_critic=slow_critic,
            returns=returns,
            optimizer=optimizer,
            replay=replay.replace(contexts=contexts, served=served),
        )
        metrics["updates"] = jnp.where(ready, float(self.config.updates_per_iteration), 0.0)
        return state, metrics | collecting

    def _update_keys(self, key: Array) -> Array:
        """`[U, 2]`: of each update that for its windows, and that for its loss."""
        return jax.vmap(jax.random.split)(jax.random.split(key, self.config.updates_per_iteration))

    # ........................................................................ replay on the host

    @property
    def stores_on_host(self) -> bool:
        """See `ssmrl.training.agent.HostStoringAgent`, as for the next methods."""
        return self.config.replay_storage == "host"

    def storage_shapes(self) -> HostedObservations:
        """The replay buffer's observations, before and after each step."""
        rows = (self.config.num_envs, self.replay.capacity)
        ring = jax.tree.map(
            lambda space: jax.ShapeDtypeStruct((*rows, *space.shape), space.dtype),
            as_tree(self.env.observation_space),
        )
        return HostedObservations(ring, ring)

    def storage_of(self, state: TrainState) -> Any:
        return state.replay.hosted

    def with_storage(self, state: TrainState, storage: Any) -> TrainState:
        return state.replace(replay=state.replay.replace(hosted=storage))

    def before_exchange(self, state: TrainState) -> tuple[TrainState, Any, HostRequest]:
        """Collect, and draw the windows of all updates: which they are depends on none of them."""
        state, steps, collected = self._collect(state)

        def draw(replay: ReplayState, keys: Array) -> tuple[ReplayState, Windows]:
            windows, drawn = self.replay.draw(replay, keys[0])
            return drawn, windows

        _, windows = lax.scan(draw, state.replay, self._update_keys(collected[0]))
        return state, collected, self.replay.request(state.replay, steps, windows)

    def exchange(self, storage: HostedObservations, request: HostRequest) -> Any:
        return exchange(storage, request)

    def block_shapes(self, request: HostRequest) -> Any:
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*request.env.shape, *x.shape[2:]), x.dtype),
            request.new.observation,
        )

    def after_exchange(
        self, state: TrainState, carried: Any, block: Any
    ) -> tuple[TrainState, Metrics]:
        """Update on the windows whose observations the host has given."""
        return self._learn_from_replay(state, carried, block)

    # ........................................................................ collecting

    def _collect_step(self, params, acting: ActingState, key: Array):
        carry, _ = self._act(params, acting, key, greedy=False)
        observation, env_state, reward, terminated, truncated, info = self.env.step(
            acting.env, carry.action
        )
        step = Step(
            observation=acting.observation,
            reset=acting.reset,
            context=acting.carry if self.config.replay_context else None,
            action=carry.action,
            reward=reward * self.config.reward_scale,
            terminated=terminated,
            truncated=truncated,
            final_observation=info["final_observation"],
        )
        acting = ActingState(
            env=env_state, observation=observation, reset=terminated | truncated, carry=carry
        )
        return acting, (step, info["episode"])

    def _act(self, params, acting: ActingState, key: Array, *, greedy: bool) -> tuple[Carry, Any]:
        """The carry behind the observation, its action included, and the latent."""
        key_latent, key_action = jax.random.split(key)
        carry = acting.carry
        noise = 0.0 if greedy else jax.random.gumbel(key_latent, carry.z.shape)
        inputs = add_time((acting.observation, carry.action, acting.reset))
        seen: Any = self.world.apply(
            params["world"], Start(carry.memory, carry.z), *inputs, noise, method="observe"
        )
        latent = jax.tree.map(lambda x: x[0], seen.latent)
        distribution = self._policy(params["actor"], latent)[1]
        raw = distribution.mode() if greedy else distribution.sample(seed=key_action)
        return Carry(latent.memory, latent.z, distribution.action(raw)), latent

    def _policy(self, params, latent: Latent) -> tuple[Array, Any]:
        """What the actor reads, and its distribution over actions."""
        features = policy_features(self.memory, latent, self.config.policy_inputs)
        return features, self.actor.apply(params, features)

    # ........................................................................ updating

    def _update(self, replay: ReplayState, changing, given):
        """One gradient step on windows drawn from the replay buffer."""
        learned, contexts, served = changing
        (key_sample, key_loss), observation = given
        replay = replay.replace(contexts=contexts, served=served)
        windows, replay = self.replay.draw(replay, key_sample)
        context, batch = self.replay.read(replay, windows, observation)
        context, batch = split_batch(context, 0), split_batch(batch, 1)
        learned, metrics, latent = self._learn(learned, context, batch, key_loss)
        if context is not None:
            replay = self.replay.refresh(replay, windows, latent.memory, latent.z)
        return (learned, replay.contexts, replay.served), metrics

    def learn(self, learned, context, batch: Batch, key: Array) -> tuple[Any, Metrics]:
        """One gradient step of world model, actor and critic on one batch of windows.

        Args:
            learned: parameters, the slow critic's, the range of returns, the optimiser's state; as
                in `TrainState`.
            context: the carries that the windows start from, or None for fresh starts.
            batch: the windows.
            key: randomness.

        Returns:
            the new `learned`, and metrics as scalars.
        """
        learned, metrics, _ = self._learn(learned, context, batch, key)
        return learned, metrics

    def _learn(self, learned, context, batch: Batch, key: Array) -> tuple[Any, Metrics, Latent]:
        """`learn`, and the latents `[T, B, ...]` of the batch, before the step."""
        params, slow_critic, returns, optimizer = learned
        loss = partial(self._loss, slow_critic, returns, context, batch, key)
        gradient, (returns, metrics, latent) = jax.grad(loss, has_aux=True)(params)
        metrics["gradient_norm"] = optax.tree.norm(gradient)
        updates, optimizer = self.optimizer.update(gradient, optimizer, params)
        params = optax.apply_updates(params, updates)
        slow_critic = optax.incremental_update(
            params["critic"], slow_critic, self.config.slow_critic_rate
        )
        return (params, slow_critic, returns, optimizer), metrics, latent

    def _loss(self, slow_critic, ranges, context, batch: Batch, key: Array, params):
        """The sum of all losses; also the new range of returns, metrics, and latents."""
        c = self.config
        key_latent, key_starts, key_imagine, key_entropy = jax.random.split(key, 4)
        start = initial_start(self.memory, c, c.batch_size)
        if context is not None:
            start = Start(context.memory, context.z)
        noise = jax.random.gumbel(key_latent, (c.batch_length, *start.z.shape))
        world: Any = partial(self.world.apply, params["world"])
        latent, losses = world(start, batch, noise, method="losses")
        chosen, starts = self._choose_starts(latent, key_starts)
        imagined = self._imagine(params, slow_critic, starts, key_imagine)
        actor: Any = self.actor.apply
        critic: Any = self.critic.apply
        behaviour, ranges, returns, metrics = imagination_losses(
            actor, critic, params, imagined, ranges, c, key_entropy
        )
        losses |= behaviour
        if c.replay_value_weight > 0:
            losses["replay_value"] = self._replay_value_loss(
                params["critic"], slow_critic, latent, batch, chosen, returns[0]
            )
        means = {name: value.mean() for name, value in losses.items()}
        total = sum(c.loss_weight(name) * value for name, value in means.items())
        metrics |= {f"loss/{name}": value for name, value in means.items()}
        return total, (ranges, metrics | {"loss/total": total}, latent)

    def _choose_starts(self, latent: Latent, key: Array) -> tuple[Array, Latent]:
        """Where imagination starts: places in the flattened batch `[N]`, and latents `[N, ...]`."""
        c = self.config
        count = c.batch_length * c.batch_size
        flat = jax.tree.map(lambda x: x.reshape(count, *x.shape[2:]), lax.stop_gradient(latent))
        if c.imagination_starts is None or c.imagination_starts >= count:
            return jnp.arange(count), split_batch(flat, 0)
        chosen = jax.random.permutation(key, count)[: c.imagination_starts]
        return chosen, split_batch(jax.tree.map(lambda x: x[chosen], flat), 0)

    def _imagine(self, params, slow_critic, starts: Latent, key: Array):
        """Trajectories without a gradient: REINFORCE differentiates the policy's density alone."""
        params = lax.stop_gradient(params)
        world: Any = partial(self.world.apply, params["world"])
        critic: Any = self.critic.apply

        def evaluate(features):
            return two_hot_mean(critic(slow_critic, features))

        return imagine(
            partial(world, method="imagine"),
            partial(world, method="predict"),
            evaluate,
            partial(self._policy, params["actor"]),
            starts,
            self.config,
            key,
        )

    def _replay_value_loss(self, critic, slow_critic, latent, batch: Batch, chosen, returns):
        """On replayed steps; bootstraps are imagined returns, or values where none was imagined."""
        features = policy_features(self.memory, latent, self.config.policy_inputs)
        logits: Any = self.critic.apply(critic, features)
        value = lax.stop_gradient(two_hot_mean(logits))
        bootstrap = value.reshape(-1).at[chosen].set(returns).reshape(value.shape)
        slow_logits: Any = self.critic.apply(slow_critic, features)
        return replay_value_loss(
            batch.reward,
            batch.terminated,
            batch.last,
            bootstrap,
            logits,
            slow_logits,
            self.config,
        )

    # ........................................................................ acting

    def initialize_carry(self, batch_size: int) -> Carry:
        """The carry for new episodes; the first call of `act` must come with resets."""
        start = initial_start(self.memory, self.config, batch_size)
        action = jax.tree.map(
            lambda space: jnp.zeros((batch_size, *space.shape), space.dtype),
            as_tree(self.env.action_space),
        )
        return Carry(start.memory, start.z, action)

    def act(self, state: TrainState, carry, observation, reset: Array, key: Array, *, greedy: bool):
        """One action for each environment of a batch.

        Args:
            state: the training state, for its parameters.
            carry: from `initialize_carry` or the previous call.
            observation: leaves `[B, ...]`.
            reset: bool `[B]`, True where the observation begins an episode.
            key: randomness; unused when greedy.
            greedy: the most likely latent and action instead of samples.

        Returns:
            the new carry and actions `[B, ...]` for the environment.
        """
        acting = ActingState(env=None, observation=observation, reset=reset, carry=carry)
        carry, _ = self._act(state.params, acting, key, greedy=greedy)
        return carry, carry.action

    def open_loop(self, state: TrainState, observation, action, context: int):
        """What the world model predicts of an episode of which it sees the beginning.

        Every draw is the most likely value. See `ssmrl.training.agent.PredictingAgent`.
        """
        observations, actions = jax.tree.map(lambda x: x[:, None], (observation, action))
        params = state.params["world"]
        features = open_loop(self.world, params, observations, actions, context)[:, 0]
        prediction: Any = self.world.apply(params, features, method="decode")
        return compare(self.env.observation_space, observation, prediction)


# ------------------------------------------------------------------------------------ helpers


def make_dreamer(
    config: DreamerConfig, memory_config: Any, env: VectorEnv, *, total_steps: int, skip_nonfinite
) -> Dreamer:
    """Dreamer from its configuration and an instance of `ssmrl.memory.memory_config(name)`.

    Raises:
        ValueError: for a memory with dropout, and where configuration and environment do not fit.
    """
    del total_steps  # nothing is scheduled over the training
    memory_config = replace(memory_config, features=config.memory_width(memory_config))
    memory = build_memory(memory_config)
    check_memory(memory)
    return Dreamer(config, memory, env, skip_nonfinite=skip_nonfinite)


def make_dreamer_optimizer(
    config: DreamerConfig, memory: Memory, *, skip_nonfinite: bool
) -> optax.GradientTransformation:
    """LaProp with a warm-up, and a group of its own for a memory's time scales."""
    warmup = optax.linear_schedule(0.0, 1.0, config.warmup)

    def group(lr: float) -> optax.GradientTransformation:
        return laprop(
            # The first update is the first of the warm-up, not one of size 0.
            lambda count: lr * (warmup(count + 1) if config.warmup else 1.0),
            beta1=config.beta1,
            beta2=config.beta2,
            eps=config.eps,
            clip=config.clip,
        )

    groups = {"default": group(config.lr), "ssm": group(config.lr * config.ssm_lr_scale)}
    names = memory.all_ssm_parameters()
    optimizer = optax.multi_transform(groups, lambda params: label_ssm_parameters(params, names))
    return leave_out_nonfinite(optimizer) if skip_nonfinite else optimizer


def compute_dtype(name: str) -> Any:
    """The dtype of activations; "auto" is bfloat16 except on CPUs, which have no units for it."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    return jnp.dtype(name)

"""Environments that play back a table, small agents, and a look inside one iteration."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.agents import make_agent
from ssmrl.agents.ppo import PPOConfig, ppo
from ssmrl.envs import EpisodeStatistics, VectorEnv, spaces
from ssmrl.memory import memory_config
from ssmrl.training.evaluation import Evaluator
from tests.compiling import quick_jit


class Scripted(VectorEnv):
    """Plays back tables `[N, B]` over and over, whatever is done.

    `observation[t]` `[B, K]` is what the agent sees at t, drawn once; `final[t]` is what an episode
    that ends in step t ends with. Both are public, so that tests can replay episodes by hand.
    """

    name = "scripted"

    def __init__(self, terminated, truncated, reward=None, *, action_space=None, size=3, seed=0):
        rng = np.random.default_rng(seed)
        self.terminated = np.asarray(terminated, bool)
        self.truncated = np.asarray(truncated, bool)
        self.length, self.num_envs = self.terminated.shape
        shape = self.terminated.shape
        self.reward = np.asarray(rng.normal(size=shape) if reward is None else reward, np.float32)
        self.observation = rng.normal(1.0, 2.0, (*shape, size)).astype(np.float32)
        self.final = rng.normal(1.0, 2.0, (*shape, size)).astype(np.float32)
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,))
        self.action_space = action_space or spaces.Discrete(3)

    def reset(self, key):
        return jnp.asarray(self.observation[0]), jnp.zeros(self.num_envs, jnp.int32)

    def step(self, state, action):
        now = state[0] % self.length
        observation = jnp.asarray(self.observation)[(now + 1) % self.length]
        terminated, truncated = (
            jnp.asarray(table)[now] for table in (self.terminated, self.truncated)
        )
        ended = (terminated | truncated)[:, None]
        final = jnp.where(ended, jnp.asarray(self.final)[now], observation)
        reward = jnp.asarray(self.reward)[now]
        return (
            observation,
            state + 1,
            reward,
            terminated,
            truncated,
            {"final_observation": final},
        )


class Recording(Scripted):
    """Remembers the actions it was given, in order; an action is worth its number on top."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.actions = []

    def step(self, state, action):
        jax.debug.callback(lambda a: self.actions.append(np.asarray(a)), action, ordered=True)
        observation, state, reward, *rest = super().step(state, action)
        worth = action.reshape(self.num_envs, -1).sum(-1).astype(jnp.float32)
        return observation, state, reward + worth, *rest

    def taken(self, steps: int) -> np.ndarray:
        """The actions `[steps, B, ...]` of the last `steps` steps."""
        jax.effects_barrier()
        return np.stack(self.actions[-steps:])


def flags(rows: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Tables (terminated, truncated) from one string per environment.

    A letter per step: "." goes on, "E" terminated, "U" truncated, "X" both.
    """
    table = np.array([list(row) for row in rows]).T
    return np.isin(table, ["E", "X"]), np.isin(table, ["U", "X"])


def small_agent(
    env: VectorEnv,
    memory: str = "s5",
    *,
    kind: type = PPOConfig,
    iterations: int = 10,
    skip_nonfinite: bool = False,
    memory_options: dict[str, Any] | None = None,
    **options: Any,
):
    """An agent of a few hundred parameters; one update per iteration unless asked otherwise."""
    defaults = {
        "num_envs": env.num_envs,
        "rollout_length": 8,
        "epochs": 1,
        "minibatches": 1,
        "normalize_rewards": False,  # rewards and values are then in the table's units
        "encoder": [8],
        "critic": [8],
        **({"actor": [8]} if kind is PPOConfig else {}),
    }
    config = kind(**(defaults | options))
    memory_cfg = memory_config(memory)(**({"features": 8, "layers": 1} | (memory_options or {})))
    total_steps = iterations * config.num_envs * config.rollout_length
    return make_agent(
        config,
        memory_cfg,
        EpisodeStatistics(env),
        total_steps=total_steps,
        skip_nonfinite=skip_nonfinite,
    )


def start(agent, seed: int = 0, random: bool = False):
    """The state before training; with `random`, every parameter is drawn from N(0, 1/4).

    At initialisation policies are nearly uniform and learned initial carries zero, and much that is
    wrong would go unseen. (It also compiles faster than real initialisers.)
    """
    key = jax.random.key(seed)
    with pytest.MonkeyPatch.context() as patch:
        if random:
            shapes = jax.eval_shape(lambda: agent.init(key).params)
            rng = np.random.default_rng(seed)
            params = jax.tree.map(lambda x: jnp.float32(rng.normal(0, 0.5, x.shape)), shapes)
            patch.setattr(type(agent.network), "init", lambda *_: params)
        return quick_jit(agent.init)(key)


class Collected(NamedTuple):
    """One rollout, as `[T, B]` and as windows, with what the update computes from the windows."""

    acting: Any
    rollout: Any
    windows: Any
    log_prob: jax.Array
    value: jax.Array


def collect(agent, state) -> Collected:
    """What `agent.iteration(state)` collects, and the update's view of it before any step."""
    acting, starts, rollout = agent._collect(state)
    zeros = jnp.zeros_like(rollout.reward)
    windows = agent._cut_windows(ppo.Window, starts, rollout, advantage=zeros, target=zeros)
    _, distribution, value = agent._apply(
        state.params, state.normalizers, windows.carry, windows.observation, windows.reset
    )
    log_prob = distribution.log_prob(windows.raw_action)
    return Collected(acting, rollout, windows, log_prob, value)


def assert_trees_close(a, b, **tolerance):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(
        jax.tree_util.tree_flatten_with_path(a)[0], jax.tree.leaves(b), strict=True
    ):
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            x, y = jax.random.key_data(x), jax.random.key_data(y)
        np.testing.assert_allclose(x, y, **tolerance, err_msg=jax.tree_util.keystr(path))


def scalars(metrics):
    """The metrics of an iteration but for those that say when episodes began: bookkeeping, [B]."""
    return {name: x for name, x in metrics.items() if not name.startswith("starts/")}


def assert_one_trajectory(agent, state, iteration):
    """Training, acting and evaluating in the agent's `Recording` take the same actions, and acting
    ends with training's carry: all see the same observations, resets and carries.

    The policy in `state` must be one in which draws make no difference; otherwise its actions
    should change from step to step, or there is nothing to compare.
    """
    env, steps = agent.env.unwrapped, agent.config.rollout_length
    assert (env.terminated | env.truncated)[: steps - 1].any()
    after = iteration(state)[0].acting
    trained = env.taken(steps)
    assert (trained != trained[0]).any()
    act = quick_jit(agent.act, static_argnames="greedy")
    for greedy in (True, False):
        carry, reset = agent.initialize_carry(env.num_envs), np.ones(env.num_envs, bool)
        for t in range(steps):
            key = jax.random.key(t)
            carry, action = act(state, carry, env.observation[t], reset, key, greedy=greedy)
            np.testing.assert_array_equal(action, trained[t])
            reset = env.terminated[t] | env.truncated[t]
        assert_trees_close(carry, after.carry, rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(reset, after.reset)
    env.actions.clear()
    Evaluator(agent, agent.env, episodes=1)(state, jax.random.key(1))
    jax.effects_barrier()
    np.testing.assert_array_equal(env.actions[:steps], trained)

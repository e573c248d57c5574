"""A tiny agent, memory and environment that go through the whole training machinery in a second.

The agent fits a linear model to noise drawn from its key, so that a lost key, a repeated iteration
or a forgotten optimiser moment all change the numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from ssmrl.training.components import Components
from ssmrl.training.config import option


@dataclass
class StubConfig:
    name: str = "stub"
    num_envs: int = option(4, "environments stepped side by side", min=1)
    lr: float = option(1e-2, "learning rate", above=0.0)
    width: int = option(3, "inputs of the linear model", min=1)
    fail_at: int = option(0, "iteration whose loss is NaN; 0: none", min=0)
    slow: float = option(0.0, "seconds each iteration sleeps", min=0.0)


@dataclass
class StubMemoryConfig:
    name: str = "tape"
    features: int = option(8, "output features", min=1)
    layers: int = option(2, "layers", min=1)


@dataclass(frozen=True)
class Box:
    size: int


class StubVectorEnv:
    """Episode ``e`` of environment ``b`` has ``length(b)`` steps and returns the sum of actions."""

    is_host = False

    def __init__(
        self,
        num_envs: int,
        size: int = 3,
        length: int = 5,
        previous_action: bool = False,
        previous_reward: bool = False,
        first_flag: bool = False,
    ):
        if length < 1:
            raise ValueError(f"length={length} must be positive")
        self.num_envs, self.size, self.length = num_envs, size, length
        self.observation_space, self.action_space = Box(size), Box(1)

    def render(self, state: Any, index: int = 0) -> Any:
        raise NotImplementedError

    def _observe(self, state: dict[str, Any]) -> jax.Array:
        return jnp.tile(state["time"][:, None].astype(jnp.float32), (1, self.size))

    def reset(self, key: jax.Array) -> tuple[Any, Any]:
        zeros = jnp.zeros(self.num_envs)
        state = {"time": zeros.astype(jnp.int32), "return": zeros, "key": key}
        return self._observe(state), state

    def step(self, state: dict[str, Any], action: jax.Array) -> Any:
        # Environments differ in length: the case in which counting first finishers is biased.
        lengths = self.length * (1 + jnp.arange(self.num_envs))
        time, total = state["time"] + 1, state["return"] + action
        done = time >= lengths
        episode = {"done": done, "return": total, "length": time}
        state = {
            "time": jnp.where(done, 0, time),
            "return": jnp.where(done, 0.0, total),
            "key": state["key"],
        }
        info = {"episode": episode, "final_observation": self._observe(state)}
        return self._observe(state), state, action, done, jnp.zeros_like(done), info


class StubAgent:
    def __init__(self, config: StubConfig, memory: Any, venv: Any, skip_nonfinite: bool):
        self.config, self.memory, self.venv = config, memory, venv
        self.steps_per_iteration = config.num_envs * 5

    def init(self, key: jax.Array) -> dict[str, Any]:
        key, weights_key, env_key = jax.random.split(key, 3)
        return {
            "w": jax.random.normal(weights_key, (self.config.width, self.memory.features)),
            "momentum": jnp.zeros((self.config.width, self.memory.features)),
            "eigenvalues": jnp.exp(1j * jnp.arange(3.0)).astype(jnp.complex64),
            "half": jnp.ones(2, jnp.bfloat16),
            "nothing": jnp.zeros((0, 2)),
            "env": self.venv.reset(env_key),
            "key": key,
            "count": jnp.int32(0),
        }

    def iteration(self, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, jax.Array]]:
        key, draw = jax.random.split(state["key"])
        if self.config.slow:
            import time

            jax.debug.callback(lambda _: time.sleep(self.config.slow), state["count"])
        x = jax.random.normal(draw, (32, self.config.width))
        loss, grad = jax.value_and_grad(lambda w: jnp.mean(jnp.sin(x @ w - 1.0) ** 2))(state["w"])
        momentum = 0.9 * state["momentum"] + grad
        count = state["count"] + 1
        loss = jnp.where(count == self.config.fail_at, jnp.nan, loss)
        new = state | {
            "w": state["w"] - self.config.lr * momentum,
            "momentum": momentum,
            "eigenvalues": state["eigenvalues"] * jnp.exp(0.1j).astype(jnp.complex64),
            "key": key,
            "count": count,
        }
        episode = jnp.where(count % 2 == 0, -loss, jnp.nan)
        # Every other iteration one episode begins and ends.
        ended = (count + 1) % 2
        starts = {
            "episodes": ended,
            "return": jnp.where(ended, episode, 0.0),
            "ago": jnp.zeros(self.config.num_envs, jnp.int32),
            "earlier_return": jnp.zeros(self.config.num_envs),
            "unfinished": jnp.int32(-1),
            "longest": ended,
        }
        metrics = {"loss/total": loss, "episode_return": episode, "episodes": ended}
        return new, metrics | {f"starts/{name}": value for name, value in starts.items()}

    def parts(self, state: dict[str, Any]) -> dict[str, Any]:
        return {"model": {"w": state["w"]}, "memory": {"eigenvalues": state["eigenvalues"]}}

    def with_parts(self, state: dict[str, Any], parts: dict[str, Any]) -> dict[str, Any]:
        return state | {name: x for part in parts.values() for name, x in part.items()}

    def initialize_carry(self, batch_size: int) -> jax.Array:
        return jnp.zeros(batch_size)

    def act(
        self, state: Any, carry: Any, observation: Any, reset: Any, key: Any, *, greedy: bool
    ) -> Any:
        # Acts 1 on the first step of an episode and 0.5 after: the return shows that the carry
        # starts afresh exactly where `reset` is set.
        carry = jnp.where(reset, 0.0, carry) + 1.0
        return carry, jnp.where(carry == 1.0, 1.0, 0.5)


def _make_vector(name: str, num_envs: int, **options: Any) -> StubVectorEnv:
    size = {"stub/line": 3, "stub/wide": 4}.get(name)
    if size is None:
        raise ValueError(f"unknown environment {name!r}")
    return StubVectorEnv(num_envs, size, **options)


def _canonical(name: str) -> str:
    if name.lower() not in ("stub/line", "stub/wide"):
        raise ValueError(f"unknown environment {name!r}; did you mean 'stub/line'?")
    return name.lower()


STUB = Components(
    list_agents=lambda: ["stub"],
    agent_config=lambda name: StubConfig,
    make_agent=lambda agent, memory, venv, *, total_steps, skip_nonfinite=False: StubAgent(
        agent, memory, venv, skip_nonfinite
    ),
    list_memories=lambda: ["tape"],
    memory_config=lambda name: StubMemoryConfig,
    list_envs=lambda: ["stub/line", "stub/wide"],
    canonical_name=_canonical,
    make_vector=_make_vector,
)

"""Train, look, act and export from Python, with an environment and a memory of one's own.

    python examples/python_api.py

The same lines work in a notebook, where the progress is a panel and `run.plot()` a picture.
"""

from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

import ssmrl
from ssmrl.envs import Environment
from ssmrl.envs.spaces import Discrete
from ssmrl.memory import ScanMemory


@struct.dataclass
class State:
    bit: jax.Array
    time: jax.Array


class RememberOneBit(Environment):
    """Shows a bit, then nothing; after `delay` steps the action must be that bit."""

    delay = 5

    def reset_env(self, key, params):
        bit = jax.random.randint(key, (), 0, 2)
        return bit, State(bit, jnp.zeros((), jnp.int32))

    def step_env(self, key, state, action, params):
        time = state.time + 1
        terminated = time == self.delay
        reward = jnp.where(terminated & (action == state.bit), 1.0, 0.0)
        state = State(state.bit, time)
        return jnp.full((), 2, jnp.int32), state, reward, terminated, jnp.zeros((), bool), {}

    def observation_space(self, params):
        return Discrete(3)

    def action_space(self, params):
        return Discrete(2)


class MovingAverage(ScanMemory):
    """h[t] = σ(a) h[t-1] + (1 - σ(a)) W x[t];  y = h."""

    def initialize_carry(self, batch_shape):
        return jnp.zeros((*batch_shape, self.features))

    def encode(self, x):
        decay = nn.sigmoid(self.param("decay", nn.initializers.normal(1.0), (self.features,)))
        return decay, (1 - decay) * nn.Dense(self.features)(x)

    def decode(self, states, x):
        return states


def train(run_dir: str | None = None, total_steps: int = 60_000) -> ssmrl.Run:
    """Until nine answers of ten are right."""

    def enough(line):
        if line.get("episode_return", 0) > 0.9:
            raise ssmrl.StopTraining

    return ssmrl.train(
        agent="ppo",
        memory=MovingAverage,
        env=RememberOneBit(),
        total_steps=total_steps,
        agent_options={"lr": 3e-3, "num_envs": 32, "rollout_length": 20, "encoder": [32]},
        memory_options={"features": 32},
        run_dir=run_dir,
        callback=enough,
    )


def play(policy: ssmrl.Policy, bit: int) -> int:
    """The policy's answer to a bit that was shown five steps ago."""
    policy.reset()
    actions = [policy(np.int32(bit))]
    actions += [policy(np.int32(2)) for _ in range(RememberOneBit.delay - 1)]
    return int(actions[-1])


def main() -> None:
    run = train()
    print(run.metrics["episode_return"][-5:])
    print(run.evaluate(episodes=64)["mean"])
    # Elsewhere, later: objects are handed over again, names are found in the run.
    policy = ssmrl.load(run.path, env=RememberOneBit(), memory=MovingAverage).policy()
    print([play(policy, bit) for bit in (0, 1)])
    print(policy.export(Path(run.path) / "policy.stablehlo"))


if __name__ == "__main__":
    main()

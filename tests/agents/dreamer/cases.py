"""Small world models with random parameters, and random sequences for them."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ssmrl.agents.dreamer import DreamerConfig
from ssmrl.agents.dreamer.world_model import Start, WorldModel, initial_start
from ssmrl.envs import spaces
from ssmrl.memory import make_memory
from tests.compiling import quick_jit

T, B = 8, 6
OBSERVATIONS = spaces.Box(-np.inf, np.inf, (3,))
ACTIONS = spaces.Box(-1.0, 1.0, (2,))
MEMORIES: dict[str, dict[str, Any]] = {
    "s5": {"layers": 1, "state_size": 8, "learned_initial_carry": True},
    "gru": {"learned_initial_carry": True},
    "none": {"layers": 1},
}


def small_config(**options) -> DreamerConfig:
    defaults = {
        "size": "nano",
        "deter": 16,
        "num_envs": B,
        "rollout_length": T,
        "batch_size": 4,
        "batch_length": T,
        "train_ratio": 4 / B,
        "replay_capacity": 1000,
        "imagination_length": 3,
        "bins": 15,
        "warmup": 0,
    }
    return DreamerConfig(**(defaults | options))


def random_like(shapes, seed: int = 0):
    """Every parameter from N(0, 1/16): at initialisation, zeros would hide what is wrong."""
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.25, x.shape), x.dtype), shapes)


@cache
def world_model(memory: str = "s5", posterior: str = "parallel"):
    """A world model for vectors and continuous actions, and its parameters."""
    config = small_config(posterior=posterior)
    backbone = make_memory(memory, features=16, **MEMORIES[memory])
    model = WorldModel(OBSERVATIONS, ACTIONS, backbone, config)
    start = initial_start(backbone, config, B)
    inputs = [jnp.zeros((1, B, 3)), jnp.zeros((1, B, 2)), jnp.ones((1, B), bool), jnp.zeros(())]
    shapes = jax.eval_shape(model.init, jax.random.key(0), start, *inputs)
    return model, random_like(shapes)


@cache
def observe(memory: str, posterior: str):
    """`observe(params, start, observation, action, reset, noise)`, compiled."""
    model, _ = world_model(memory, posterior)
    return quick_jit(lambda params, *inputs: model.apply(params, *inputs, method="observe"))


def draw_sequence(seed: int = 0):
    """observation `[T, B, 3]`, action `[T, B, 2]`, and Gumbel noise `[T, B, 4, 8]`."""
    rng = np.random.default_rng(seed)
    observation = jnp.float32(rng.normal(size=(T, B, 3)))
    action = jnp.float32(rng.uniform(-1, 1, (T, B, 2)))
    return observation, action, jnp.float32(rng.gumbel(size=(T, B, 4, 8)))


def used_start(model, seed: int = 1) -> Start:
    """A start that is no episode's: random states, and a one-hot z."""
    start = initial_start(model.memory, model.config, B)
    rng = np.random.default_rng(seed)

    def randomly(x):
        noise = rng.normal(size=x.shape)
        if jnp.iscomplexobj(x):
            noise = noise + 1j * rng.normal(size=x.shape)
        return jnp.asarray(noise, x.dtype)

    z = jax.nn.one_hot(rng.integers(8, size=start.z.shape[:-1]), 8)
    return Start(jax.tree.map(randomly, start.memory), z)

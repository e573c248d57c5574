"""How many parameters each size has, without making them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.agents.dreamer import SIZES, DreamerV3Config
from ssmrl.agents.dreamer.behaviour import Actor, Critic, policy_features
from ssmrl.agents.dreamer.world_model import WorldModel, initial_start
from ssmrl.envs import spaces
from ssmrl.memory import make_memory

# Millions, of DreamerV3 on pictures of 64 × 64 pixels and 18 actions: world model, actor, critic.
MILLIONS = {
    "1m": (0.53, 0.05, 0.07),
    "12m": (8.20, 0.79, 0.85),
    "25m": (18.37, 1.78, 1.87),
    "50m": (32.60, 3.16, 3.28),
    "100m": (73.20, 7.10, 7.28),
    "200m": (130.02, 12.61, 12.85),
    "400m": (292.26, 28.35, 28.71),
}


def count_parameters(size: str, memory: str, **options) -> list[float]:
    """Millions of parameters of the world model, the actor and the critic."""
    config = DreamerV3Config(size=size)
    backbone = make_memory(memory, features=SIZES[size].deter, **options)
    actions = spaces.Discrete(18)
    world = WorldModel(spaces.Box(0, 255, (64, 64, 3), np.uint8), actions, backbone, config)

    def init(key):
        picture, reset = jnp.zeros((1, 1, 64, 64, 3), jnp.uint8), jnp.ones((1, 1), bool)
        inputs = (picture, jnp.zeros((1, 1), jnp.int32), reset, jnp.zeros(()))
        start = initial_start(backbone, config, 1)
        (latent, *_), params = world.init_with_output(key, start, *inputs)
        features = policy_features(backbone, latent, config.policy_inputs)
        return params, *(
            net.init(key, features) for net in (Actor(actions, config), Critic(config))
        )

    shapes = jax.eval_shape(init, jax.random.key(0))
    return [sum(x.size for x in jax.tree.leaves(part)) / 1e6 for part in shapes]


@pytest.mark.parametrize("size", MILLIONS)
def test_sizes(size):
    millions = count_parameters(size, "block_gru", summary=SIZES[size].hidden)
    np.testing.assert_allclose(millions, MILLIONS[size], atol=0.006)
    # The names are those of the published sizes, rounded as generously.
    assert 0.6 < sum(millions) / float(size[:-1]) < 1


def test_the_smallest_size_is_small():
    assert sum(count_parameters("nano", "gru")) < 0.6

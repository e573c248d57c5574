"""How many parameters each size has, without making them."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ssmrl.agents.dreamer import SIZES, DreamerV3Config
from ssmrl.agents.dreamer.behaviour import Actor, Critic, policy_features
from ssmrl.agents.dreamer.world_model import WorldModel, initial_start
from ssmrl.envs import spaces
from ssmrl.memory import make_memory

ACTIONS = 18


def published(size: str) -> tuple[int, int, int]:
    """Parameters of DreamerV3's world model, actor and critic, summed up layer by layer.

    After its code of 2025 (github.com/danijar/dreamerv3: rssm.py, agent.py and configs.yaml), for
    pictures of 64 × 64 × 3. Linear layers and convolutions have biases, norms have scales alone.
    """
    s = SIZES[size]
    D, H, U, Z = s.deter, s.hidden, s.units, s.variables * s.classes
    channels = [3, *(s.depth * n for n in (2, 3, 4, 4))]
    last = channels[-1]
    code = 4 * 4 * last  # of the smallest picture

    def linear(inputs, outputs):
        return inputs * outputs + outputs

    def hidden(inputs, outputs):
        return linear(inputs, outputs) + outputs  # the norm

    def conv(inputs, outputs):
        return linear(25 * inputs, outputs)

    encoder = sum(conv(a, b) + b for a, b in itertools.pairwise(channels))
    recurrence = hidden(D, H) + hidden(Z, H) + hidden(ACTIONS, H)
    recurrence += D * (D // 8 + 3 * H) + 2 * D  # 8 blocks see their part of h, and all embeddings
    recurrence += 3 * D * (D // 8) + 3 * D
    posterior = hidden(D + code, H) + linear(H, Z)
    prior = hidden(D, H) + hidden(H, H) + linear(H, Z)
    spread = code * (D // 8) + code + hidden(Z, 2 * U) + linear(2 * U, code) + last
    decoder = sum(conv(b, a) + a for a, b in itertools.pairwise(channels[1:]))
    heads = 2 * hidden(D + Z, U) + linear(U, 255) + linear(U, 1)
    world = encoder + recurrence + posterior + prior + spread + decoder + conv(channels[1], 3)

    def mlp(outputs):
        return hidden(D + Z, U) + 2 * hidden(U, U) + linear(U, outputs)

    return world + heads, mlp(ACTIONS), mlp(255)


def count_parameters(size: str, memory: str) -> tuple[int, ...]:
    """Parameters of the world model, the actor and the critic."""
    config = DreamerV3Config(size=size)
    backbone = make_memory(memory, features=SIZES[size].deter)
    actions = spaces.Discrete(ACTIONS)
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
    return tuple(sum(x.size for x in jax.tree.leaves(part)) for part in shapes)


@pytest.mark.parametrize("size", [size for size in SIZES if size[0].isdigit()])
def test_sizes(size):
    counts = count_parameters(size, "block_gru")
    assert counts == published(size)
    # The names are rounded: of all that is kept, the slow critic too.
    assert 0.75 < (sum(counts) + counts[2]) / 1e6 / float(size[:-1]) < 1.02


def test_the_smallest_size_is_small():
    assert sum(count_parameters("nano", "gru")) < 0.6e6

"""From observations of any space to one feature vector."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple, as_tree
from ssmrl.networks.boxes import arrange_picture, is_picture, to_centred
from ssmrl.networks.mlp import MLP, activation_function


class ObservationEncoder(nn.Module):
    """Encodes observations `[*leading, ...]` of a space as features `[*leading, K]`.

    Discrete values become one-hot vectors (an index outside the space becomes zeros), boxes are
    flattened, dicts and tuples concatenated; all of that goes through an MLP. Boxes that hold
    pictures go through a convolutional network each and join behind. What is a picture, in which
    layout, and what is scaled by its bounds: see `ssmrl.networks.boxes`.

    Attributes:
        space: the space of one observation.
        hidden: widths of the MLP; empty for none.
        activation: see `ssmrl.networks.mlp`.
        picture_depth: channels of the first convolution; they double with every halving.
    """

    space: Space
    hidden: tuple[int, ...] = (128,)
    activation: str = "silu"
    picture_depth: int = 16

    @nn.compact
    def __call__(self, observation: Any) -> Array:
        vectors, pictures = [], []
        for space, value in leaves(self.space, observation):
            if is_picture(space):
                picture = arrange_picture(space, to_centred(space, value))
                pictures.append(Convolutions(self.picture_depth, self.activation)(picture))
            else:
                vectors.append(encode_leaf(space, value))
        if vectors:
            joined = MLP(self.hidden, self.activation)(jnp.concatenate(vectors, -1))
            pictures.insert(0, joined)
        return jnp.concatenate(pictures, -1)


class Convolutions(nn.Module):
    """Halves a picture `[*leading, height, width, channels]` down to about 4 × 4, then flattens."""

    depth: int = 16
    activation: str = "silu"

    @nn.compact
    def __call__(self, picture: Array) -> Array:
        activate = activation_function(self.activation)
        x = picture
        halvings = max(1, round(math.log2(max(min(picture.shape[-3:-1]), 8) / 4)))
        for i in range(halvings):
            x = nn.Conv(self.depth * 2**i, (4, 4), strides=(2, 2), padding="SAME")(x)
            x = activate(x)
        return x.reshape(*x.shape[:-3], -1)


def leaves(space: Space, value: Any) -> list[tuple[Space, Any]]:
    """Pairs of (elementary space, its part of `value`); dict entries in order of their names."""
    if isinstance(space, Dict):
        return [pair for k in sorted(space.spaces) for pair in leaves(space.spaces[k], value[k])]
    if isinstance(space, Tuple):
        parts = zip(space.spaces, value, strict=True)
        return [pair for part, part_value in parts for pair in leaves(part, part_value)]
    return [(space, value)]


def elementary_spaces(space: Space) -> list[Space]:
    """The spaces of `leaves(space, ...)`, in its order, which is that of a value's own leaves."""
    return jax.tree.leaves(as_tree(space))


def encode_leaf(space: Space, value: Array) -> Array:
    """One elementary observation as a float32 vector `[*leading, K]`.

    Raises:
        ValueError: for spaces that have no such code.
    """
    if isinstance(space, Discrete):
        return jax.nn.one_hot(value, space.n)
    if isinstance(space, MultiDiscrete):
        sizes = np.ravel(space.nvec)
        flat = jnp.reshape(value, (*value.shape[: value.ndim - len(space.shape)], sizes.size))
        return jnp.concatenate([jax.nn.one_hot(flat[..., i], n) for i, n in enumerate(sizes)], -1)
    if isinstance(space, Box):
        leading = value.shape[: value.ndim - len(space.shape)]
        return jnp.reshape(to_centred(space, value), (*leading, -1))
    raise ValueError(f"no encoding for observations of space {space!r}")

"""Observations and actions of any space in and out of the world model."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.agents.dreamer.losses import symexp, symlog
from ssmrl.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple
from ssmrl.networks.distributions import Bounds
from ssmrl.networks.encoders import encode_leaf, is_picture, leaves
from ssmrl.networks.normed import NormedMLP
from ssmrl.networks.pictures import PictureDecoder, PictureEncoder

Prediction = dict[str, Array]
"""What the decoder says about each elementary observation, by its place in `leaves`: logits of
discrete values, symlogs of boxes `[*leading, K]`, pictures from 0 to 1."""


class SymlogEncoder(nn.Module):
    """Observations `[*leading, ...]` of a space → features `[*leading, K]`.

    Discrete values are one-hot, boxes go through symlog, and all of that through an MLP; pictures
    through convolutions.

    Attributes:
        space: of one observation.
        layers, units: of the MLP.
        depth: unit of the convolutions' channels.
        dtype: of activations.
    """

    space: Space
    layers: int
    units: int
    depth: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observation: Any) -> Array:
        vectors, pictures = [], []
        for space, value in leaves(self.space, observation):
            if is_picture(space):
                pictures.append(PictureEncoder(self.depth, self.dtype)(value))
            else:
                vector = encode_leaf(space, value)
                vectors.append(symlog(vector) if isinstance(space, Box) else vector)
        if vectors:
            mlp = NormedMLP(self.layers, self.units, dtype=self.dtype)
            pictures.insert(0, mlp(jnp.concatenate(vectors, -1)))
        return jnp.concatenate(pictures, -1)


class Decoder(nn.Module):
    """Features `[*leading, K]` → a `Prediction` of the observation; see `SymlogEncoder`.

    `state` says how many of the features come first as the memory's output.
    """

    space: Space
    layers: int
    units: int
    depth: int
    dtype: Any = jnp.float32
    state: int = 0

    @nn.compact
    def __call__(self, features: Array) -> Prediction:
        spaces = elementary_spaces(self.space)
        predictions = {}
        if not all(map(is_picture, spaces)):
            hidden = NormedMLP(self.layers, self.units, dtype=self.dtype, name="mlp")(features)
        for i, space in enumerate(spaces):
            if is_picture(space):
                sizes = (self.depth, self.units, self.dtype, self.state)
                predictions[str(i)] = PictureDecoder(space.shape, *sizes)(features)
            else:
                output = NormedMLP(0, 0, outputs=code_size(space), name=f"vector_{i}")
                predictions[str(i)] = output(hidden)
        return predictions


def reconstruction_loss(space: Space, prediction: Prediction, observation: Any) -> Array:
    """Summed over all entries `[*leading]`: squared errors of symlogs and of pictures (0 … 1),
    cross-entropies of discrete values."""
    total: Any = 0.0
    for i, (leaf, value) in enumerate(leaves(space, observation)):
        predicted = prediction[str(i)]
        if is_picture(leaf):
            error = (predicted - as_picture(value)) ** 2
            total += error.sum((-3, -2, -1))
        elif isinstance(leaf, Box):
            total += ((predicted - symlog(encode_leaf(leaf, value))) ** 2).sum(-1)
        else:
            log_probability = jnp.concatenate(
                [jax.nn.log_softmax(part) for part in split_logits(leaf, predicted)], -1
            )
            total -= (encode_leaf(leaf, value) * log_probability).sum(-1)
    return total


def most_likely(space: Space, prediction: Prediction) -> list[Array]:
    """The predicted elementary observations, in the order of `leaves`; pictures from 0 to 1."""
    values = []
    for i, leaf in enumerate(elementary_spaces(space)):
        predicted = prediction[str(i)]
        leading = predicted.shape[:-1]
        if is_picture(leaf):
            values.append(predicted)
        elif isinstance(leaf, Box):
            values.append(symexp(predicted).reshape(*leading, *leaf.shape))
        else:
            parts = [part.argmax(-1) for part in split_logits(leaf, predicted)]
            values.append(jnp.stack(parts, -1).reshape(*leading, *leaf.shape))
    return values


def as_picture(value: Array) -> Array:
    """A picture as float32 from 0 to 1."""
    scale = 255 if jnp.issubdtype(value.dtype, jnp.integer) else 1
    return value.astype(jnp.float32) / scale


def elementary_spaces(space: Space) -> list[Space]:
    """The spaces of `leaves(space, ...)`, in its order."""
    if isinstance(space, Dict):
        return [s for key in sorted(space.spaces) for s in elementary_spaces(space.spaces[key])]
    if isinstance(space, Tuple):
        return [s for part in space.spaces for s in elementary_spaces(part)]
    return [space]


def code_size(space: Space) -> int:
    """Length of `encode_leaf`'s vectors.

    Raises:
        ValueError: for spaces that it does not encode.
    """
    if isinstance(space, Discrete):
        return space.n
    if isinstance(space, MultiDiscrete):
        return int(np.sum(space.nvec))
    if isinstance(space, Box):
        return math.prod(space.shape)
    raise ValueError(f"no encoding for observations of space {space!r}")


def split_logits(space: Space, logits: Array) -> list[Array]:
    """Logits `[..., code_size]` of each entry of a discrete or multi-discrete value."""
    sizes = np.ravel(space.nvec) if isinstance(space, MultiDiscrete) else [logits.shape[-1]]
    return jnp.split(logits, np.cumsum(sizes)[:-1], axis=-1)


def encode_action(space: Space, action: Any) -> Array:
    """Actions, leaves `[*leading, ...]`, as vectors `[*leading, K]`: one-hot, or numbers.

    Entries of a box are scaled to -1 … 1 where they have two bounds; others are the symlog of their
    distance from the one bound, or from 0, so that a large action still differs from a larger one.
    Parts of Tuple and Dict actions stand side by side.
    """
    parts = [_encode_action_leaf(*pair) for pair in leaves(space, action)]
    return jnp.concatenate(parts, -1)


def _encode_action_leaf(space: Space, action: Array) -> Array:
    if not isinstance(space, Box):
        return encode_leaf(space, action)
    bounds = Bounds.of(space)
    flat = action.reshape(*action.shape[: action.ndim - len(space.shape)], -1).astype(jnp.float32)
    distance = flat - bounds.origin.astype(np.float32)
    scaled = distance / bounds.half_range.astype(np.float32)
    return jnp.where(bounds.two, scaled, symlog(distance))

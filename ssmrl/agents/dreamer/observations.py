"""Observations and actions of any space in and out of the world model."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.agents.dreamer.losses import symexp, symlog
from ssmrl.envs.spaces import Box, Discrete, MultiDiscrete, Space
from ssmrl.networks.boxes import (
    arrange_picture,
    from_centred,
    is_picture,
    is_scaled,
    picture_shape,
    to_unit,
)
from ssmrl.networks.distributions import Bounds
from ssmrl.networks.encoders import elementary_spaces, encode_leaf, leaves
from ssmrl.networks.normed import NormedMLP
from ssmrl.networks.pictures import PICTURE_NETWORKS

Prediction = dict[str, Array]
"""What the decoder says about each elementary observation, by its place in `leaves`: logits of
discrete values; of boxes, what `box_target` makes of them."""


class SymlogEncoder(nn.Module):
    """Observations `[*leading, ...]` of a space → features `[*leading, K]`.

    Discrete values are one-hot, boxes go through symlog, and all of that through an MLP; pictures
    through networks of their own. What has bounds is scaled by them before: see
    `ssmrl.networks.boxes`.

    Attributes:
        space: of one observation.
        layers, units: of the MLP.
        depth: unit of the pictures' channels.
        picture_encoder: which of `ssmrl.networks.pictures.PICTURE_NETWORKS` pictures go through.
        dtype: of activations.
    """

    space: Space
    layers: int
    units: int
    depth: int
    picture_encoder: str = "convolutions"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, observation: Any) -> Array:
        vectors, pictures = [], []
        for space, value in leaves(self.space, observation):
            if is_picture(space):
                target = box_target(space, value)
                picture = target - 0.5 if is_scaled(space) else target
                encoder, _ = PICTURE_NETWORKS[self.picture_encoder]
                pictures.append(encoder(self.depth, self.dtype)(picture))
            elif isinstance(space, Box):
                vectors.append(box_target(space, value))
            else:
                vectors.append(encode_leaf(space, value))
        if not (pictures or any(vector.shape[-1] for vector in vectors)):
            raise ValueError(f"no numbers to encode in observations of {self.space!r}")
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
    picture_encoder: str = "convolutions"
    dtype: Any = jnp.float32
    state: int = 0

    @nn.compact
    def __call__(self, features: Array) -> Prediction:
        spaces = elementary_spaces(self.space)
        predictions = {}
        if not all(map(is_picture, spaces)):
            hidden = NormedMLP(self.layers, self.units, dtype=self.dtype, name="mlp")(features)
        for i, space in enumerate(spaces):
            if code_size(space) == 0:
                predictions[str(i)] = jnp.zeros((*features.shape[:-1], 0), jnp.float32)
            elif is_picture(space):
                sizes = (self.depth, self.units, self.dtype, self.state)
                _, decoder = PICTURE_NETWORKS[self.picture_encoder]
                picture = decoder(picture_shape(space), *sizes, bounded=is_scaled(space))
                predictions[str(i)] = picture(features)
            else:
                output = NormedMLP(0, 0, outputs=code_size(space), name=f"vector_{i}")
                predictions[str(i)] = output(hidden)
        return predictions


def box_target(space: Box, value: Array) -> Array:
    """What the decoder is to say about a box, float32.

    Pictures that are scaled by their bounds `[*leading, height, width, channels]` from 0 to 1. What
    has no bounds can be anything, and goes through symlog: pictures in the same layout, vectors as
    `[*leading, K]`, their scaled entries from symlog(-0.5) to symlog(0.5).
    """
    if not is_picture(space):
        return symlog(encode_leaf(space, value))
    picture = arrange_picture(space, to_unit(space, value))
    return picture if is_scaled(space) else symlog(picture)


def reconstruction_loss(space: Space, prediction: Prediction, observation: Any) -> Array:
    """Summed over all entries `[*leading]`: squared errors of boxes (see `box_target`),
    cross-entropies of discrete values."""
    total: Any = 0.0
    for i, (leaf, value) in enumerate(leaves(space, observation)):
        predicted = prediction[str(i)]
        if isinstance(leaf, Box):
            error = (predicted - box_target(leaf, value)) ** 2
            total += error.sum((-3, -2, -1) if is_picture(leaf) else -1)
        else:
            log_probability = jnp.concatenate(
                [jax.nn.log_softmax(part) for part in split_logits(leaf, predicted)], -1
            )
            total -= (encode_leaf(leaf, value) * log_probability).sum(-1)
    return total


def most_likely(space: Space, prediction: Prediction) -> list[Array]:
    """The predicted elementary observations, in the order of `leaves`.

    Pictures are `[*leading, height, width, channels]`, from 0 to 1 where they have bounds.
    """
    values = []
    for i, leaf in enumerate(elementary_spaces(space)):
        predicted = prediction[str(i)]
        leading = predicted.shape[:-1]
        if is_picture(leaf):
            values.append(predicted if is_scaled(leaf) else symexp(predicted))
        elif isinstance(leaf, Box):
            values.append(from_centred(leaf, symexp(predicted).reshape(*leading, *leaf.shape)))
        else:
            parts = [part.argmax(-1) for part in split_logits(leaf, predicted)]
            values.append(jnp.stack(parts, -1).reshape(*leading, *leaf.shape))
    return values


def compare(space: Space, observation: Any, prediction: Prediction) -> list[tuple[Array, Array]]:
    """What was and what the model says, for people; see `ssmrl.training.agent.PredictingAgent`.

    Args:
        space: of one observation.
        observation: leaves `[T, ...]`.
        prediction: of the decoder, leaves `[T, ...]`.
    """
    pairs = []
    for (leaf, truth), predicted in zip(
        leaves(space, observation), most_likely(space, prediction), strict=True
    ):
        if is_picture(leaf):
            truth = arrange_picture(leaf, to_unit(leaf, truth))
            if not is_scaled(leaf):
                # Without bounds, what was seen goes from black to white.
                low, high = truth.min(), truth.max()
                truth, predicted = ((x - low) / (high - low + 1e-8) for x in (truth, predicted))
        elif truth.ndim > 2:
            truth, predicted = (x.reshape(len(x), -1) for x in (truth, predicted))
        pairs.append((truth, predicted))
    return pairs


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

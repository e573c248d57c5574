"""From observations of any space to one feature vector."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from ssmrl.envs.spaces import Box, Dict, Discrete, MultiDiscrete, Space, Tuple, as_tree
from ssmrl.memory.linear import Dense
from ssmrl.networks.boxes import arrange_picture, has_one_range, is_picture, to_centred
from ssmrl.networks.convolution import Conv
from ssmrl.networks.mlp import MLP, activation_function
from ssmrl.networks.patches import cut_patches, halvings, patch_sides

PICTURE_ENCODERS = ("convolutions", "patches")


class ObservationEncoder(nn.Module):
    """Encodes observations `[*leading, ...]` of a space as features `[*leading, K]`.

    Discrete values become one-hot vectors (an index outside the space becomes zeros), boxes are
    flattened, dicts and tuples concatenated; all of that goes through an MLP. Boxes that hold
    pictures go through a network of their own each and join behind. What is a picture, in which
    layout, and what is scaled by its bounds: see `ssmrl.networks.boxes`.

    Attributes:
        space: the space of one observation.
        hidden: widths of the MLP; empty for none.
        activation: see `ssmrl.networks.mlp`.
        picture_encoder: what pictures go through, one of `PICTURE_ENCODERS`: `Convolutions`, or
            `Patches`, which a CPU does about twenty times as fast.
        picture_depth: channels of the first layer.
        layer_norm: normalise the channels in front of every activation (Ba et al. 2016).
    """

    space: Space
    hidden: tuple[int, ...] = (128,)
    activation: str = "silu"
    picture_encoder: str = "convolutions"
    picture_depth: int = 16
    layer_norm: bool = False

    @nn.compact
    def __call__(self, observation: Any) -> Array:
        vectors, pictures = [], []
        for space, value in leaves(self.space, observation):
            if is_picture(space):
                pictures.append(self._encode_picture(space, value))
            else:
                vectors.append(encode_leaf(space, value))
        if not (pictures or any(vector.shape[-1] for vector in vectors)):
            raise ValueError(f"no numbers to encode in observations of {self.space!r}")
        if vectors:
            mlp = MLP(self.hidden, self.activation, layer_norm=self.layer_norm)
            joined = mlp(jnp.concatenate(vectors, -1))
            pictures.insert(0, joined)
        return jnp.concatenate(pictures, -1)

    def _encode_picture(self, space: Box, value: Array) -> Array:
        if self.picture_encoder == "patches":
            return Patches(space, self.picture_depth, self.activation, self.layer_norm)(value)
        picture = arrange_picture(space, to_centred(space, value))
        return Convolutions(self.picture_depth, self.activation, self.layer_norm)(picture)


class Convolutions(nn.Module):
    """Halves a picture `[*leading, height, width, channels]` down to about 4 × 4, then flattens.

    Attributes:
        depth: channels of the first convolution; they double with every halving.
        activation: see `ssmrl.networks.mlp`.
        layer_norm: normalise the channels in front of every activation.
    """

    depth: int = 16
    activation: str = "silu"
    layer_norm: bool = False

    @nn.compact
    def __call__(self, picture: Array) -> Array:
        activate = activation_function(self.activation)
        x = picture
        for i in range(halvings(*picture.shape[-3:-1])):
            x = Conv(self.depth * 2**i, (4, 4), strides=(2, 2))(x)
            x = activate(nn.LayerNorm()(x) if self.layer_norm else x)
        return x.reshape(*x.shape[:-3], -1)


class Patches(nn.Module):
    """Pictures `[*leading, *space.shape]` → vectors `[*leading, K]`, by layers over patches.

    Convolutions whose stride is their size, down to about 4 × 4, the first one over patches of up
    to 8 × 8 pixels. Each is one matrix product over patches that do not overlap (Dosovitskiy et
    al., "An Image is Worth 16x16 Words", 2021, begin like this). Small integers stay such until
    they are cut: what is rearranged is then a quarter as large.

    Attributes:
        space: of one picture.
        depth: channels of the first layer; the following ones have twice as many.
        activation: see `ssmrl.networks.mlp`.
        layer_norm: normalise the channels in front of every activation.
    """

    space: Box
    depth: int = 16
    activation: str = "silu"
    layer_norm: bool = False

    @nn.compact
    def __call__(self, picture: Array) -> Array:
        activate = activation_function(self.activation)
        # One range for all entries holds for patches as well; others belong to their pixels.
        late = has_one_range(self.space)
        x = arrange_picture(self.space, picture if late else to_centred(self.space, picture))
        sides = patch_sides(*x.shape[-3:-1])
        for i, side in enumerate(sides):
            x = cut_patches(x, side)
            if late and i == 0:
                x = to_centred(self.space, x)
            x = Dense(self.depth * min(i + 1, 2))(x)
            x = activate(nn.LayerNorm()(x) if self.layer_norm else x)
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

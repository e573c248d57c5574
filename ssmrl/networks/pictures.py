"""Encoders and decoders of pictures for world models, in pairs that are mirror images.

The convolutions are those of Hafner et al., "Mastering Diverse Domains through World Models"
(2023), the newest version: 5 × 5, a normalisation and SiLU each; pooling halves and repetition
doubles. The layers over patches that do not overlap (see `ssmrl.networks.encoders.Patches`) are
matrix products, for CPUs.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.linear import block_dense
from ssmrl.networks.convolution import Conv
from ssmrl.networks.normed import EPSILON, NormedMLP
from ssmrl.networks.patches import cut_patches, halvings, join_patches, patch_sides

MULTIPLES = (2, 3, 4, 4)
"""Channels behind each halving, in units of `depth`; the last one repeats for larger pictures."""
KERNEL = (5, 5)
PATCH_CHANNELS = 8
"""Of every layer over patches, in units of `depth`."""
BLOCKS = 8
"""Of the layer between a wide recurrent state and a picture, where that many divide both."""


def channel_counts(height: int, width: int, depth: int) -> list[int]:
    """Channels behind each halving, from the picture's own resolution downwards."""
    count = halvings(height, width)
    return [depth * MULTIPLES[min(i, len(MULTIPLES) - 1)] for i in range(count)]


class PictureEncoder(nn.Module):
    """Pictures `[*leading, height, width, channels]` of any leading axes → vectors `[*leading, K]`.

    Attributes:
        depth: the unit of channels, see `MULTIPLES`.
        dtype: of the convolutions.
    """

    depth: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, picture: Array) -> Array:
        leading, shape = picture.shape[:-3], picture.shape[-3:]
        x = picture.reshape(-1, *shape).astype(self.dtype)
        for i, channels in enumerate(channel_counts(shape[0], shape[1], self.depth)):
            x = Conv(channels, KERNEL, dtype=self.dtype, name=f"conv_{i}")(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
            x = nn.silu(nn.RMSNorm(EPSILON, dtype=self.dtype, name=f"norm_{i}")(x))
        return x.reshape(*leading, -1)


class PatchEncoder(PictureEncoder):
    """As `PictureEncoder`, by layers over patches."""

    @nn.compact
    def __call__(self, picture: Array) -> Array:
        x = picture
        for i, side in enumerate(patch_sides(*picture.shape[-3:-1])):
            layer = NormedMLP(1, self.depth * PATCH_CHANNELS, dtype=self.dtype, name=f"patches_{i}")
            x = layer(cut_patches(x, side))
        return x.reshape(*x.shape[:-3], -1)


class PictureDecoder(nn.Module):
    """Vectors `[*leading, K]` → pictures `[*leading, height, width, channels]`.

    Attributes:
        shape: height, width and channels.
        depth: the unit of channels, see `MULTIPLES` and `PATCH_CHANNELS`.
        units: half the width of the hidden layer in front.
        dtype: of the layers; pictures come out as float32.
        state: the first so many entries of a vector are a recurrent state, which reaches the
            smallest picture through a block-diagonal layer: each block has channels of its own.
            What is behind them goes through the hidden layer.
        bounded: values are from 0 to 1; otherwise any number.
    """

    shape: tuple[int, int, int]
    depth: int
    units: int
    dtype: Any = jnp.float32
    state: int = 0
    bounded: bool = True

    @nn.compact
    def __call__(self, x: Array) -> Array:
        leading = x.shape[:-1]
        counts = channel_counts(*self.shape[:2], self.depth)
        x = self._begin(x, 2 ** len(counts), counts[-1])
        for i, count in reversed(list(enumerate(counts[:-1]))):
            x = Conv(count, KERNEL, dtype=self.dtype, name=f"conv_{i}")(_double(x))
            x = nn.silu(nn.RMSNorm(EPSILON, dtype=self.dtype, name=f"norm_{i}")(x))
        x = Conv(self.shape[2], KERNEL, dtype=self.dtype, name="output")(_double(x))
        return self._end(x, leading)

    def _begin(self, x: Array, halved: int, channels: int) -> Array:
        """The picture to begin with, so many times smaller, `[N, …, …, channels]`.

        Rounded up, so that odd sizes fit too; what is too much is cut off in the end.
        """
        height, width = (-(-side // halved) for side in self.shape[:2])
        x = self._spread(x.reshape(-1, x.shape[-1]), (height, width, channels)).astype(self.dtype)
        return nn.silu(nn.RMSNorm(EPSILON, dtype=self.dtype, name="norm")(x))

    def _end(self, picture: Array, leading: tuple[int, ...]) -> Array:
        """The picture in its size and range."""
        height, width, _ = self.shape
        x = picture[:, :height, :width].astype(jnp.float32)
        return (nn.sigmoid(x) if self.bounded else x).reshape(*leading, *self.shape)

    def _spread(self, x: Array, smallest: tuple[int, int, int]) -> Array:
        """`[N, K]` → `[N, *smallest]`."""
        height, width, channels = smallest
        state, rest = x[:, : self.state].astype(self.dtype), x[:, self.state :]
        mlp = NormedMLP(1, 2 * self.units, math.prod(smallest), dtype=self.dtype, name="spread")
        picture = mlp(rest).reshape(-1, *smallest)
        if not self.state:
            return picture
        count = math.gcd(BLOCKS, self.state, channels)
        blocks = state.reshape(len(x), count, -1)
        blocks = block_dense(self, "blocks", blocks, math.prod(smallest) // count)
        blocks = blocks.reshape(-1, count, height, width, channels // count)
        return picture + jnp.moveaxis(blocks, 1, -2).reshape(picture.shape)


class PatchDecoder(PictureDecoder):
    """As `PictureDecoder`, by layers over patches."""

    @nn.compact
    def __call__(self, x: Array) -> Array:
        leading, channels = x.shape[:-1], self.depth * PATCH_CHANNELS
        first, *others = patch_sides(*self.shape[:2])
        x = self._begin(x, first * 2 ** len(others), channels)
        for i, side in reversed(list(enumerate(others))):
            layer = NormedMLP(1, side**2 * channels, dtype=self.dtype, name=f"patches_{i + 1}")
            x = join_patches(layer(x), side)
        output = NormedMLP(0, 0, first**2 * self.shape[2], name="output")
        return self._end(join_patches(output(x), first), leading)


def _double(x: Array) -> Array:
    """Every pixel of `[N, height, width, channels]` as two by two."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


PICTURE_NETWORKS = {
    "convolutions": (PictureEncoder, PictureDecoder),
    "patches": (PatchEncoder, PatchDecoder),
}
"""By the names of `ssmrl.networks.encoders.PICTURE_ENCODERS`."""

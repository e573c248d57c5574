"""Convolutional encoder and decoder of pictures, mirror images of each other.

As in Hafner et al., "Mastering Diverse Domains through World Models" (2023), the newest version:
5 × 5 convolutions, a normalisation and SiLU each; pooling halves and repetition doubles.
"""

import math
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from ssmrl.memory.linear import block_dense
from ssmrl.networks.normed import EPSILON, NormedMLP

SMALLEST = 4
"""Pictures are halved until their shorter side is about so many pixels."""
MULTIPLES = (2, 3, 4, 4)
"""Channels behind each halving, in units of `depth`; the last one repeats for larger pictures."""
KERNEL = (5, 5)
BLOCKS = 8
"""Of the layer between a wide recurrent state and a picture, where that many divide both."""


def channel_counts(height: int, width: int, depth: int) -> list[int]:
    """Channels behind each halving, from the picture's own resolution downwards."""
    halvings = max(1, round(math.log2(min(height, width) / SMALLEST)))
    return [depth * MULTIPLES[min(i, len(MULTIPLES) - 1)] for i in range(halvings)]


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
            x = nn.Conv(channels, KERNEL, dtype=self.dtype, name=f"conv_{i}")(x)
            x = nn.max_pool(x, (2, 2), strides=(2, 2), padding="SAME")
            x = nn.silu(nn.RMSNorm(EPSILON, dtype=self.dtype, name=f"norm_{i}")(x))
        return x.reshape(*leading, -1)


class PictureDecoder(nn.Module):
    """Vectors `[*leading, K]` → pictures `[*leading, height, width, channels]`.

    Attributes:
        shape: height, width and channels.
        depth: the unit of channels, see `MULTIPLES`.
        units: half the width of the hidden layer in front.
        dtype: of the convolutions; pictures come out as float32.
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
        height, width, channels = self.shape
        counts = channel_counts(height, width, self.depth)
        # Rounded up, so that odd sizes fit too; what is too much is cut off in the end.
        small = [-(-side // 2 ** len(counts)) for side in (height, width)]
        x = self._spread(x.reshape(-1, x.shape[-1]), (*small, counts[-1])).astype(self.dtype)
        x = nn.silu(nn.RMSNorm(EPSILON, dtype=self.dtype, name="norm")(x))
        for i, count in reversed(list(enumerate(counts[:-1]))):
            x = nn.Conv(count, KERNEL, dtype=self.dtype, name=f"conv_{i}")(_double(x))
            x = nn.silu(nn.RMSNorm(EPSILON, dtype=self.dtype, name=f"norm_{i}")(x))
        x = nn.Conv(channels, KERNEL, dtype=self.dtype, name="output")(_double(x))
        x = x[:, :height, :width].astype(jnp.float32)
        return (nn.sigmoid(x) if self.bounded else x).reshape(*leading, *self.shape)

    def _spread(self, x: Array, smallest: tuple[int, int, int]) -> Array:
        """The picture to begin with, `[N, *smallest]`."""
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


def _double(x: Array) -> Array:
    """Every pixel of `[N, height, width, channels]` as two by two."""
    return x.repeat(2, axis=1).repeat(2, axis=2)

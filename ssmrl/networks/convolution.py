"""Convolutions whose gradients are as fast inside a loop as outside.

XLA's CPU compiler hands a convolution to its fast routine only if its axes have the standard order.
Outside loops it rearranges the others to fit; inside, it falls back to plain loops (JAX's issue
12868). The two gradients of a convolution are convolutions with other orders of axes, and an
agent's updates are a loop. There, with 8 channels and 32 × 32 pixels, the gradient with respect to
the kernel took 300 times as long as outside. Here both are written in the standard order, with the
rearrangement before and after. Other platforms have JAX's own gradients.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

AXES = ("NHWC", "HWIO", "NHWC")


class Conv(nn.Module):
    """`[*leading, height, width, channels]` → `[*leading, rows, columns, features]`.

    Zero padding makes rows the height over the stride, rounded up. Parameters are named, shaped and
    initialised as those of `flax.linen.Conv`.

    Attributes:
        features: channels of the output.
        kernel_size: height and width, each at least the stride.
        strides: in both directions.
        dtype: of the computation; None for what inputs and parameters are together.
    """

    features: int
    kernel_size: tuple[int, int]
    strides: tuple[int, int] = (1, 1)
    dtype: Any = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        y = convolve(x.reshape(-1, *x.shape[-3:]), kernel, self.strides) + bias
        return y.reshape(*x.shape[:-3], *y.shape[-3:])


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def convolve(x: Array, kernel: Array, strides: tuple[int, int]) -> Array:
    """Convolution with zero padding, rounded up: `[N, H, W, I]`, `[h, w, I, O]` → `[N, R, C, O]`.

    Reverse-mode derivatives only. A stride must not exceed the kernel's side.
    """
    return lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=AXES)


def _forward(x: Array, kernel: Array, strides: tuple[int, int]):
    return convolve(x, kernel, strides), (x, kernel)


def _backward(strides: tuple[int, int], inputs: tuple[Array, Array], gradient: Array):
    def standard(x: Array, kernel: Array, gradient: Array):
        convolution = partial(
            lax.conv_general_dilated,
            window_strides=strides,
            padding="SAME",
            dimension_numbers=AXES,
        )
        return jax.vjp(convolution, x, kernel)[1](gradient)

    def in_order(x: Array, kernel: Array, gradient: Array):
        pads = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], strides, "SAME")
        return (
            _input_gradient(x.shape, kernel, gradient, strides, pads),
            _kernel_gradient(x, gradient, strides, pads),
        )

    return lax.platform_dependent(*inputs, gradient, cpu=in_order, default=standard)


convolve.defvjp(_forward, _backward)


def _input_gradient(shape, kernel: Array, gradient: Array, strides, pads) -> Array:
    """Every pixel gets what it gave: a convolution with the mirrored kernel, its axes exchanged.

    Strided gradients have zeros in between. Padding is such that the result has the input's shape.
    """
    mirrored = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    padding = [
        (side - 1 - before, size - 1 - (count - 1) * stride + before)
        for side, (before, _), size, count, stride in zip(
            kernel.shape[:2], pads, shape[1:3], gradient.shape[1:3], strides, strict=True
        )
    ]
    return lax.conv_general_dilated(
        gradient, mirrored, (1, 1), padding, lhs_dilation=strides, dimension_numbers=AXES
    )


def _kernel_gradient(x: Array, gradient: Array, strides, pads) -> Array:
    """Sums over pictures and places: pictures become the channels that a convolution sums over, and
    the gradient its kernel."""
    summed = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        gradient.transpose(1, 2, 0, 3),
        (1, 1),
        pads,
        rhs_dilation=strides,
        dimension_numbers=AXES,
    )
    return summed.transpose(1, 2, 0, 3)

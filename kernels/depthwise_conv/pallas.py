"""The convolution on a TPU and a GPU (Pallas): shifted images times weights.

On a TPU some channels of a whole image lie in VMEM, its strides taken apart by XLA before; on a GPU a program
has a part of a row. Not run on either yet: both lower, and their numbers are the reference's if interpreted.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.compile_for import compile_for
from efficient.kernels.depthwise_conv.reference import Window
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

LANES = 128  # channels of a block
COLUMNS = 16  # places of a row of a GPU's program


def on_tpu(x: Any, weights: Any, *, window: Window, interpret: bool = False) -> jax.Array:
    """See `depthwise_conv.reference`."""
    (b, _, _, c), (tall, wide, _) = x.shape, weights.shape
    down, across = window.sizes(x.shape[1:3], (tall, wide))
    up, left = window.strides
    padded = jnp.pad(x, [(0, 0), *window.padding, (0, 0)])
    padded = jnp.pad(padded, [(0, 0), (0, -padded.shape[1] % up), (0, -padded.shape[2] % left), (0, 0)])
    _, height, width, _ = padded.shape
    apart = padded.reshape(b, height // up, up, width // left, left, c).transpose(0, 2, 4, 1, 3, 5)
    lanes = min(LANES, c)
    return pl.pallas_call(
        functools.partial(_tpu_kernel, window=window),
        grid=(b, pl.cdiv(c, lanes)),
        in_specs=[
            pl.BlockSpec((None, *apart.shape[1:5], lanes), lambda i, j: (i, 0, 0, 0, 0, j)),
            pl.BlockSpec((tall, wide, lanes), lambda i, j: (0, 0, j)),
        ],
        out_specs=pl.BlockSpec((None, down, across, lanes), lambda i, j: (i, 0, 0, j)),
        out_shape=jax.ShapeDtypeStruct((b, down, across, c), jnp.float32),
        compiler_params=compile_for("pallas_tpu", grid=("parallel", "parallel")),
        interpret=interpret,
    )(apart, weights)


def _tpu_kernel(x_ref: Any, weights_ref: Any, out_ref: Any, *, window: Window) -> None:
    """Some channels of one image, by [stride, stride, height, width]."""
    down, across, _ = out_ref.shape
    (up, left), (dy, dx) = window.strides, window.dilation
    total = jnp.zeros(out_ref.shape, jnp.float32)
    for i in range(weights_ref.shape[0]):
        for j in range(weights_ref.shape[1]):
            (y, row), (x, column) = divmod(i * dy, up), divmod(j * dx, left)
            part = x_ref[row, column, y : y + down, x : x + across, :]
            total = total + part.astype(jnp.float32) * weights_ref[i, j][None, None].astype(jnp.float32)
    out_ref[...] = total


def on_gpu(x: Any, weights: Any, *, window: Window, interpret: bool = False) -> jax.Array:
    """See `depthwise_conv.reference`."""
    down, across = window.sizes(x.shape[1:3], weights.shape[:2])
    lanes = min(LANES, max(16, pl.next_power_of_2(x.shape[3])))
    return pl.pallas_call(
        functools.partial(_gpu_kernel, window=window, lanes=lanes),
        grid=(x.shape[0] * down, pl.cdiv(across, COLUMNS), pl.cdiv(x.shape[3], lanes)),
        out_shape=jax.ShapeDtypeStruct((x.shape[0], down, across, x.shape[3]), jnp.float32),
        compiler_params=compile_for("pallas_gpu"),
        interpret=interpret,
    )(x, weights)


def _gpu_kernel(x_ref: Any, weights_ref: Any, out_ref: Any, *, window: Window, lanes: int) -> None:
    """Some channels of a part of a row."""
    (_, height, width, c), (_, down, across, _) = x_ref.shape, out_ref.shape
    line = pl.program_id(0)
    image, y = jax.lax.div(line, down), jax.lax.rem(line, down)
    column = pl.program_id(1) * COLUMNS + jnp.arange(COLUMNS)
    channel = pl.program_id(2) * lanes + jnp.arange(lanes)
    is_channel = channel < c
    total = jnp.zeros((COLUMNS, lanes), jnp.float32)
    for i in range(weights_ref.shape[0]):
        for j in range(weights_ref.shape[1]):
            row = y * window.strides[0] + i * window.dilation[0] - window.padding[0][0]
            at = column * window.strides[1] + j * window.dilation[1] - window.padding[1][0]
            is_row = (row >= 0) & (row < height)
            there = is_row & (at >= 0) & (at < width) & (column < across)
            x = plgpu.load(
                x_ref.at[image, jnp.where(is_row, row, 0), at[:, None], channel[None, :]],
                mask=there[:, None] & is_channel[None, :],
                other=0,
            )
            weight = plgpu.load(weights_ref.at[i, j, channel], mask=is_channel, other=0)
            total = total + x.astype(jnp.float32) * weight.astype(jnp.float32)[None, :]
    mask = (column < across)[:, None] & is_channel[None, :]
    plgpu.store(out_ref.at[image, y, column[:, None], channel[None, :]], total, mask=mask)

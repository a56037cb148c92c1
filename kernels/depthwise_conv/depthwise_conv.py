"""A convolution of each channel by itself: the entry point, which picks the tier."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.depthwise_conv.reference import Window, reference
from efficient.kernels.derivative import derived_from
from efficient.kernels.tiers import PALLAS, Native, by_tier
from jaxtyping import Array, Float

NATIVE = Native(
    name="depthwise_conv",
    source=Path(__file__).parent / "cpu.cc",
    symbol="EfficientDepthwiseConv",
    tiers={"cpu": 0, "cpu_portable": 1},
    others=("pallas_tpu", "pallas_gpu"),
)
Pair = tuple[int, int]


def depthwise_conv(
    x: Float[Array, "b h w c"],
    weights: Float[Array, "i j channels"],
    *,
    strides: Pair = (1, 1),
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0)),
    dilation: Pair = (1, 1),
    implementation: str | None = None,
) -> Float[Array, "b down across c"]:
    """y[b, h, w, c] = sum_ij x[b, s h + d i, s w + d j, c] weights[i, j, c], x with zeros around it.

    XLA's own on a CPU is tens of times slower than the sum of shifted images that the reference is. Works
    under `jit`, `vmap`, `scan` and derivatives of any order, in x and the weights.

    Args:
      x: any float, channels last; summed in float32, returned in its own dtype.
      weights: any float; of each place of the window and channel.
      strides: s, places of x from one result to the next, from 1.
      padding: zeros before and after, for each axis, from 0.
      dilation: d, places of x from one weight to the next, from 1.
      implementation: None picks, of the reference and C++; "cpu" wants the C++ kernel, "cpu_portable" that
        without AVX-512; "pallas_tpu" and "pallas_gpu" want theirs, interpreted off their platform.

    Raises:
      ValueError: channels that differ, a window that is none, or one larger than the padded image.
      NotImplementedError: an implementation that is not to be had here.
    """
    window = Window(tuple(strides), tuple(map(tuple, padding)), tuple(dilation))
    if min(*window.strides, *window.dilation) < 1 or min(map(min, window.padding)) < 0:
        raise ValueError(f"strides and dilation must be from 1, padding from 0, got {window}.")
    if weights.shape[2] != x.shape[3] or 0 in weights.shape:
        raise ValueError(
            f"weights must be [i, j, {x.shape[3]} channels], got {weights.shape}; each channel has its own."
        )
    if min(window.sizes(x.shape[1:3], weights.shape[:2])) < 1:
        raise ValueError(
            f"the window must fit the padded image, got {weights.shape[:2]} with dilation {window.dilation} "
            f"on {x.shape[1:3]}; pad it."
        )
    return _run(x, weights, window=window, tier=NATIVE.picked(implementation)).astype(x.dtype)


@functools.partial(jax.jit, static_argnames=("window", "tier"))  # traced once for layers of one shape
def _run(x: Any, weights: Any, *, window: Window, tier: str) -> Any:
    """By a tier, in float32."""
    plain = functools.partial(reference, window=window)
    native = functools.partial(_native, window=window, tier=tier)
    kernel = functools.partial(by_tier, tier, plain, native, pallas=_pallas(tier, window))
    return derived_from(plain, kernel)(x, weights)


def _native(x: Any, weights: Any, *, window: Window, tier: str) -> Any:
    """The C++ kernel."""
    shape = (x.shape[0], *window.sizes(x.shape[1:3], weights.shape[:2]), x.shape[3])
    numbers = dict(zip(("stride_y", "stride_x"), window.strides, strict=True))
    numbers |= dict(zip(("dilation_y", "dilation_x"), window.dilation, strict=True))
    numbers |= {"top": window.padding[0][0], "left": window.padding[1][0]}
    return NATIVE.call(tier, shape, x.astype(jnp.float32), weights.astype(jnp.float32), **numbers)


def _pallas(tier: str, window: Window) -> Any:
    """The kernel of a Pallas tier, or None."""
    if tier not in PALLAS:
        return None
    from efficient.kernels.depthwise_conv import pallas

    return functools.partial(pallas.on_tpu if tier == "pallas_tpu" else pallas.on_gpu, window=window)

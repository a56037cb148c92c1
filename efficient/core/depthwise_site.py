"""Depthwise site: a convolution of each channel by itself that met a leaf, by a kernel that is given."""

from collections.abc import Callable
from typing import Any

import jax

from efficient.core.matrix_site import FLOATS

NHWC, HWIO = (0, 3, 1, 2), (3, 2, 0, 1)


def depthwise(site: Any, leaf: Any, kernel: Callable[..., Any], native: Any) -> Any:
    """The site's result by `kernel`, the leaf made dense; None where it is no such convolution of images.

    A depthwise weight is small, so decoding it costs nothing; the convolution does, where XLA makes it.
    """
    if site.eqn.primitive.name != "conv_general_dilated" or site.index != 1 or site.other.ndim != 4:
        return None
    p = site.params
    numbers, groups = p["dimension_numbers"], p["feature_group_count"]
    channels = site.other.shape[3]
    has_channels_last = numbers.lhs_spec == NHWC == numbers.out_spec and numbers.rhs_spec == HWIO
    is_plain = p["batch_group_count"] == 1 and set(p["lhs_dilation"]) <= {1} and channels > 1
    if not has_channels_last or not is_plain or not groups == channels == leaf.shape[3]:
        return None
    is_float = jax.numpy.dtype(site.other.dtype) in FLOATS and jax.numpy.dtype(site.out_dtype) in FLOATS
    if (
        not is_float
        or min(map(min, p["padding"])) < 0
        or jax.default_backend() != "cpu"
        or not native.is_ready
    ):
        return None
    if 0 in site.other.shape or 0 in site.out_shape:
        return None
    site.computed_by(native.words)
    out = kernel(
        site.other,
        leaf.dense().reshape(*leaf.shape[:2], channels),
        strides=tuple(p["window_strides"]),
        padding=tuple(map(tuple, p["padding"])),
        dilation=tuple(p["rhs_dilation"]),
    )
    return out.astype(site.out_dtype)

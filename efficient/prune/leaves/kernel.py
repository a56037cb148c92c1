"""Kernel: a sparse leaf's products by a kernel, where it has one on this machine."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from efficient.core.depthwise_site import depthwise
from efficient.core.matrix_site import matrix_site
from efficient.kernels.depthwise_conv import depthwise_conv
from efficient.kernels.depthwise_conv.depthwise_conv import NATIVE as DEPTHWISE
from efficient.kernels.tiers import Native


def by_kernel(site: Any, leaf: Any, native: Native, run: Callable[[jax.Array], jax.Array]) -> Any:
    """A site's result by `run`, from x [..., k] to [..., n]; `NotImplemented` where it is no product.

    The weight is seen as a matrix whose last axis are its columns; all others are summed over. A convolution
    of each channel by itself goes to the kernel for it.
    """
    if jax.default_backend() != "cpu" or not native.is_ready:
        return NotImplemented
    if (out := depthwise(site, leaf, depthwise_conv, DEPTHWISE)) is not None:
        return out
    found = matrix_site(site)
    if found is None or len(found.columns) != 1:
        return NotImplemented
    site.computed_by(native.words)
    x = found.x if found.x.dtype == found.dtype else found.x.astype(jnp.float32)
    return found.result(run(x))

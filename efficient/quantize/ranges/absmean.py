"""Absolute mean: the scale that is best for signs alone."""

from typing import Any

import jax.numpy as jnp

from efficient.core.transform import recipe
from efficient.quantize.format import Format
from efficient.quantize.range import Range


@recipe
def absmean() -> Range:
    """-b to b with b = mean |x|: argmin over b of ||x - b sign(x)||^2.

    Source: Rastegari et al., 2016, arXiv:1603.05279, equation 6.
    """

    def of(values: Any, weights: Any, grid: Format) -> tuple[Any, Any]:
        del grid
        mean = jnp.sum(jnp.abs(values) * weights, -1) / jnp.maximum(jnp.sum(weights, -1), 1.0)
        return -mean, mean

    return Range(of)

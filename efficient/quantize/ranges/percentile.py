"""Percentile: the range that holds a share of the numbers; outliers are clipped."""

from typing import Any

import jax.numpy as jnp

from efficient.core.transform import recipe
from efficient.quantize.format import Format
from efficient.quantize.range import Range


@recipe
def percentile(share: float = 99.9) -> Range:
    """Leaves out the largest |x|; with a zero point, (100 - share) / 2 percent at each end.

    A bound is a number that occurs: the least that has at least the share at or below it.

    Args:
      share: in (0, 100]; 100 is `minmax`.

    Raises:
      ValueError: a share out of range.

    Source: McKinstry et al., 2018, arXiv:1809.04191, section 4; Wu et al., 2020, arXiv:2004.09602, section
    3.3.
    """
    if not 0 < share <= 100:
        raise ValueError(f"share must be in (0, 100], got {share!r}; it is a percentage, 99.9 is usual.")

    def of(values: Any, weights: Any, grid: Format) -> tuple[Any, Any]:
        if grid.is_affine:
            half = (100 - share) / 200
            return -_quantile(-values, weights, 1 - half), _quantile(values, weights, 1 - half)
        bound = _quantile(jnp.abs(values), weights, share / 100)
        return -bound, bound

    return Range(of)


def _quantile(values: Any, weights: Any, share: float) -> Any:
    """The least value with at least `share` of the weight at or below it."""
    order = jnp.argsort(values, axis=-1)
    ordered = jnp.take_along_axis(values, order, -1)
    heavy = jnp.take_along_axis(weights, order, -1)
    below = jnp.cumsum(heavy, -1)
    wanted = share * below[..., -1:] * (1 - 2.0**-20)  # sums of float32 are not exact
    reached = (below >= wanted) & (heavy > 0)
    place = jnp.argmax(reached, -1)[..., None]
    found = jnp.take_along_axis(ordered, place, -1)[..., 0]
    return jnp.where(jnp.any(reached, -1), found, 0.0)

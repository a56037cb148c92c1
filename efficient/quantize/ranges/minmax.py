"""Min-max: from the least number to the largest; nothing is clipped."""

from typing import Any

import jax.numpy as jnp

from efficient.core.transform import recipe
from efficient.quantize.format import Format
from efficient.quantize.range import Range


@recipe
def minmax() -> Range:
    """The least and the largest. NaN shows: a block with one has NaN bounds.

    Source: Jacob et al., 2018, arXiv:1712.05877, section 3.1.
    """

    def of(values: Any, weights: Any, grid: Format) -> tuple[Any, Any]:
        del grid
        counts = weights > 0
        low = jnp.min(jnp.where(counts, values, jnp.inf), -1, initial=jnp.inf)
        high = jnp.max(jnp.where(counts, values, -jnp.inf), -1, initial=-jnp.inf)
        is_empty = low > high
        return jnp.where(is_empty, 0.0, low), jnp.where(is_empty, 0.0, high)

    return Range(of)

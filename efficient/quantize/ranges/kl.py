"""KL divergence: the clipping bound that keeps most of the distribution's information.

Source: Migacz, 2017, "8-bit inference with TensorRT", GTC; Wu et al., 2020, arXiv:2004.09602, section 3.3.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.transform import recipe
from efficient.quantize.format import Format
from efficient.quantize.range import Range


@recipe
def kl(bins: int = 2048, *, stride: int = 16) -> Range:
    """-b to b, with b of least KL(P || Q): P the histogram of |x| clipped at b, Q the same in levels.

    |x| is counted in `bins` bins from 0 to its largest. For each bound, P is the bins below it, all beyond
    added to the last; Q merges the same bins into as many levels as the grid has above zero, and spreads the
    mass of each evenly over those of its bins that hold something. Both are smoothed where Q is empty.

    Args:
      bins: from 64.
      stride: bins from one bound that is tried to the next, from 1.

    Raises:
      ValueError: an argument out of range; at `init`, a format with a zero point.

    *Differs:* every `stride`-th bound is tried. The first bin counts for nothing: what is next to zero stays
    there under any bound, and after a ReLU outweighs the rest.
    """
    if bins < 64 or stride < 1:
        raise ValueError(
            f"bins must be from 64 and stride from 1, got {bins!r} and {stride!r}; leave them out."
        )

    def of(values: Any, weights: Any, grid: Format) -> tuple[Any, Any]:
        if grid.is_affine:
            raise ValueError(f"format must be symmetric for kl, got {grid!r}; minmax and mse take any.")
        levels = min(2 ** (grid.bits - (grid.low < 0)), bins)
        size = jnp.abs(values)
        largest = jnp.max(jnp.where(weights > 0, size, 0.0), -1)
        lead = largest.shape
        flat = lambda a: a.reshape(-1, a.shape[-1])  # noqa: E731
        one = lambda s, w, top: _bound(_histogram(s, w, top, bins), top, levels, stride)  # noqa: E731
        bound = jax.lax.map(lambda block: one(*block), (flat(size), flat(weights), largest.ravel()))
        return -bound.reshape(lead), bound.reshape(lead)

    return Range(of)


def _histogram(
    size: Float[Array, " n"], weights: Float[Array, " n"], largest: Float[Array, ""], bins: int
) -> Float[Array, " bins"]:
    """How much lies in each bin from 0 to the largest; the first is left empty."""
    place = jnp.clip((size / jnp.where(largest > 0, largest, 1.0) * bins).astype(jnp.int32), 0, bins - 1)
    return jnp.zeros(bins).at[place].add(jnp.where(place > 0, weights, 0.0))


def _bound(
    histogram: Float[Array, " bins"], largest: Float[Array, ""], levels: int, stride: int
) -> Float[Array, ""]:
    """The best bound of one histogram."""
    bins = histogram.size
    ends = jnp.arange(levels, bins + 1, stride) if levels < bins else jnp.array([bins])
    losses = jax.lax.map(lambda end: _divergence(histogram, end, levels), ends)
    return largest * ends[jnp.argmin(losses)] / bins


def _divergence(histogram: Float[Array, " bins"], end: Any, levels: int) -> Any:
    """KL(P || Q) where bins from `end` on are clipped."""
    bins = histogram.size
    index = jnp.arange(bins)
    is_kept = index < end
    outside = jnp.sum(jnp.where(is_kept, 0.0, histogram))
    clipped = jnp.where(is_kept, histogram, 0.0)
    p = clipped + jnp.where(index == end - 1, outside, 0.0)
    level = jnp.clip(index * levels // end, 0, levels - 1)
    holds = is_kept & (p > 0)
    mass = jnp.zeros(levels).at[level].add(clipped)
    many = jnp.zeros(levels).at[level].add(holds.astype(jnp.float32))
    q = jnp.where(holds, mass[level] / jnp.maximum(many[level], 1.0), 0.0)
    p, q = p / jnp.maximum(jnp.sum(p), 1e-30), q / jnp.maximum(jnp.sum(q), 1e-30)
    least = 1e-9
    return jnp.sum(
        jnp.where(p > 0, p * (jnp.log(jnp.maximum(p, least)) - jnp.log(jnp.maximum(q, least))), 0.0)
    )

"""Mean squared error: the range, of so many, whose rounding and clipping err least (so of highest SNR)."""

from typing import Any

import jax
import jax.numpy as jnp

from efficient.core.transform import recipe
from efficient.quantize.format import Format, safe
from efficient.quantize.range import Range
from efficient.quantize.ranges.minmax import minmax


@recipe
def mse(candidates: int = 64, *, least: float = 0.2) -> Range:
    """Of `candidates` shrunk copies of the min-max range, the one of least sum of squared errors.

    The copies are evenly spaced from `least` times the range to all of it; a tie keeps the wider. Exact for
    any format, at the cost of rounding each number so many times.

    Args:
      candidates: from 2.
      least: in (0, 1).

    Raises:
      ValueError: an argument out of range.

    Source: Banner et al., 2019, arXiv:1810.05723, section 3, by search in place of the closed form.
    """
    if candidates < 2 or not 0 < least < 1:
        raise ValueError(
            f"candidates must be from 2, least in (0, 1), got {candidates!r} and {least!r}; leave them out."
        )

    def of(values: Any, weights: Any, grid: Format) -> tuple[Any, Any]:
        low, high = minmax().of(values, weights, grid)
        shares = jnp.linspace(1.0, least, candidates)

        def better(best: tuple[Any, Any], share: Any) -> tuple[tuple[Any, Any], None]:
            error, chosen = best
            new = _error(values, weights, grid, low * share, high * share)
            return (jnp.minimum(error, new), jnp.where(new < error, share, chosen)), None

        start = (_error(values, weights, grid, low, high), jnp.ones_like(low))
        (_, share), _ = jax.lax.scan(better, start, shares[1:])
        return low * share, high * share

    return Range(of)


def _error(values: Any, weights: Any, grid: Format, low: Any, high: Any) -> Any:
    """The weighted sum of squared errors of each block."""
    scale, zero = grid.scaled(low, high)
    x = values / safe(scale)[..., None]
    rounded = grid.round(x) if zero is None else grid.round(x + zero[..., None]) - zero[..., None]
    return jnp.sum(weights * jnp.square(values - rounded * scale[..., None]), -1)

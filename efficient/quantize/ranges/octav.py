"""OCTAV: the clipping bound of least mean squared error, by Newton's method, for evenly spaced grids.

Source: Sakr et al., 2022, arXiv:2206.06501, section 3 and equation 6.
"""

from typing import Any

import jax
import jax.numpy as jnp

from efficient.core.transform import recipe
from efficient.quantize.format import Format
from efficient.quantize.range import Range


@recipe
def octav(iterations: int = 20) -> Range:
    """-b to b, with b the fixed point of

        b = sum |x| [|x| > b] / (4^-B / 3 sum [0 < |x| <= b] + sum [|x| > b])

    where the error within the grid is that of even noise, and beyond it that of clipping. B is the format's
    bits; a grid -q..q has the step b / q, and (b / q)^2 / 12 stands in for the paper's 4^-B b^2 / 3.

    Args:
      iterations: of Newton's method, from 1; it converges in about ten.

    Raises:
      ValueError: fewer than 1 iteration; at `init`, a format with a zero point or one not evenly spaced.
    """
    if iterations < 1:
        raise ValueError(f"iterations must be from 1, got {iterations!r}; leave it out.")

    def of(values: Any, weights: Any, grid: Format) -> tuple[Any, Any]:
        if not grid.is_even or grid.is_affine:
            raise ValueError(
                f"format must be evenly spaced and symmetric for octav, got {grid!r}; mse() takes any."
            )
        size = jnp.abs(values)
        noise = 1 / (12 * grid.high**2)

        def step(_: Any, bound: Any) -> Any:
            beyond = weights * (size > bound[..., None])
            within = weights * ((size > 0) & (size <= bound[..., None]))
            count = noise * jnp.sum(within, -1) + jnp.sum(beyond, -1)
            total = jnp.sum(beyond * size, -1)
            return jnp.where(total > 0, total / jnp.maximum(count, 1e-30), bound)

        mean = jnp.sum(weights * size, -1) / jnp.maximum(jnp.sum(weights * (size > 0), -1), 1.0)
        bound = jax.lax.fori_loop(0, iterations, step, mean)
        largest = jnp.max(jnp.where(weights > 0, size, 0.0), -1)
        return -jnp.minimum(bound, largest), jnp.minimum(bound, largest)

    return Range(of)

"""AWQ: input channels that matter are scaled up before rounding, by a power of their mean magnitude.

Source: Lin et al., 2023, arXiv:2306.00978, section 3.2, equations 4 and 5.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from efficient.core.layer import layer
from efficient.core.statistics import known
from efficient.core.transform import Key, Transform, recipe
from efficient.quantize.basis import INPUTS, Diagonal, in_basis
from efficient.quantize.quantize import quantize
from efficient.quantize.quantizer import Quantizer

EXACT = jax.lax.Precision.HIGHEST


@recipe
def awq(quantizer: Quantizer, *, points: int = 20) -> Transform:
    """Quantizes s W, for inputs x / s, with s_j = (mean |x_j|)^a, the a whose layer output errs least.

    a is searched over `points` even steps of [0, 1), 0 being no scaling; s is divided by the root of its
    least times its largest. The error is |X (Q(s W) / s - W)|^2, from the Gram matrix alone.

    Args:
      quantizer: how.
      points: from 1.

    Raises:
      ValueError: at once, fewer points than 1; at `init`, no statistics `absmean` and `gram` of a leaf.

    Source: module docstring. *Differs:* scales stay at the product, unmerged; clipping is the quantizer's
    range (`mse()` is the nearest to the authors' search).
    """
    if points < 1:
        raise ValueError(f"points must be from 1, got {points!r}; the authors' code has 20.")

    def choose(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Any:
        del key
        ask = "pass stats=observe(..., statistics=('absmean', 'gram'))"
        known(stats, "abstotal", path=path, how=ask)
        problem, size = layer(value, path=path, stats=stats), stats.absmean
        if size.shape != (value.shape[INPUTS],) or problem.weights.shape[0] != 1:
            raise ValueError(
                f"stats of {path!r} must be of its {value.shape[INPUTS]} input channels, got {size.shape}; "
                "scope scanned layers with stacked(...), exclude grouped convolutions."
            )
        (gram,), (weights,), channel = problem.gram, problem.weights, problem.channel

        def scales(a: jax.Array) -> jax.Array:
            s = jnp.maximum(size, 1e-4) ** a
            return s / jnp.sqrt(jnp.max(s) * jnp.min(s))

        def error(a: jax.Array) -> jax.Array:
            s = scales(a)
            column = jnp.broadcast_to(s[:, None], value.shape)
            rounded = problem.cut(quantizer.fake(value.astype(jnp.float32) * column))[0] / s[channel][:, None]
            change = rounded - weights
            return jnp.sum(change * jnp.matmul(gram, change, precision=EXACT))

        tried = jnp.asarray(np.arange(points) / points, jnp.float32)
        errors = jax.lax.map(error, tried)
        return scales(tried[jnp.nanargmin(errors)])

    return in_basis(Diagonal(), choose, quantize(quantizer))

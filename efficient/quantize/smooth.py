"""Smooth: outliers of the inputs are handed to the weights, channel by channel, before both are quantized.

Source: Xiao et al., 2023, arXiv:2211.10438, section 4, equation 4 (SmoothQuant).
"""

from typing import Any

import jax
import jax.numpy as jnp

from efficient.core.statistics import known
from efficient.core.transform import Key, Transform, recipe
from efficient.quantize.basis import Diagonal, in_basis


@recipe
def smooth(inner: Transform, *, alpha: float = 0.5) -> Transform:
    """Runs `inner` on s W, for inputs x / s, with s_j = max|x_j|^alpha / max|w_j|^(1 - alpha).

    smooth(chain(linear(8), quantize_inputs(Integer(8)))) is SmoothQuant's W8A8 with static ranges.

    Args:
      inner: what quantizes weights, and inputs.
      alpha: in [0, 1]: how much of the inputs' outliers moves to the weights.

    Raises:
      ValueError: at once, `alpha` out of range; at `init`, no statistic `absmax` of a leaf.

    Source: module docstring. *Differs:* the division stays at the product; it is not merged into the layer
    before, which need not exist.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha!r}; 0.5 is usual.")

    def choose(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Any:
        del key
        largest = known(stats, "absmax", path=path, how="pass stats=observe(..., statistics='absmax')")
        heights = jnp.max(jnp.abs(value.astype(jnp.float32)), axis=(*range(value.ndim - 2), value.ndim - 1))
        if largest.shape != heights.shape:
            raise ValueError(
                f"stats of {path!r} must be of its {heights.size} input channels, got {largest.shape}; "
                "scope scanned layers with stacked(...), exclude grouped convolutions."
            )
        least = 1e-5
        s = jnp.maximum(largest, least) ** alpha / jnp.maximum(heights, least) ** (1 - alpha)
        return jnp.where((largest > 0) & (heights > 0), s, 1.0)

    return in_basis(Diagonal(), choose, inner)

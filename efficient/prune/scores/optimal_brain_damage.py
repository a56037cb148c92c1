"""Optimal brain damage: h w^2 / 2, how much the loss rises at second order when a weight goes by itself.

Source: LeCun, Denker and Solla, 1990, "Optimal brain damage", section 2.
Differs: the paper computes the diagonal h by a recursion of its own; here it is the empirical Fisher's, or an
unbiased estimate of the Hessian's. The Fisher's is that of a batch's mean gradient: at a minimum, about
the Hessian's over the size of a batch, which changes no order.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.statistics import known
from efficient.core.transform import Key, recipe
from efficient.prune.score import Score, keep_memory

CURVATURES = {
    "fisher": ("mean_gradient_square", "gradient_squares"),
    "hessian": ("mean_hessian_diagonal", "hessian_diagonal"),
}


@recipe
def optimal_brain_damage(curvature: Literal["fisher", "hessian"] = "fisher") -> Score:
    """The saliency h w^2 / 2, with h the curvature at the start, its memory, and w the weight now.

    Args:
      curvature: "fisher" needs `observe_gradients(..., statistics="gradient_squares")`, and is never
        negative; "hessian" needs `"hessian_diagonal"` (and its key), and may be, at a saddle or by chance:
        such a weight goes first.

    Raises:
      ValueError: at once, an unknown curvature; at `init`, `stats` without it.

    Source: module docstring.
    """
    if curvature not in CURVATURES:
        raise ValueError(f"curvature must be 'fisher' or 'hessian', got {curvature!r}; choose one.")
    field, statistic = CURVATURES[curvature]

    def start(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Float[Array, "*shape"]:
        del value, key
        how = f"call observe_gradients(..., statistics={statistic!r})"
        return known(stats, field, path=path, how=how)

    return Score(start, keep_memory, lambda memory, value: 0.5 * memory * jnp.square(value))

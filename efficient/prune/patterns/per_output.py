"""Per output: each output keeps the same number of its weights.

Source: Sun et al., 2024, arXiv:2306.11695, section 3 (Wanda's comparison group).
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from efficient.core.transform import recipe
from efficient.prune.pattern import Pattern, best_of_each, require_axis, whole


@recipe
def per_output(*, axis: int | tuple[int, ...] = -1) -> Pattern:
    """Weights compete only with those of the same output; all outputs keep as many, one at least.

    That number is the nearest to the budget over the outputs; half way, the higher.

    Args:
      axis: that of the outputs, or all that index them, such as (-2, -1) of attention's [in, heads, dim].

    Raises:
      ValueError: at `init`, an array without such an axis.

    Source: module docstring. *Differs:* any axes; a budget to the nearest, where the paper's rounds down what
    goes.
    """
    axes = (axis,) if isinstance(axis, int) else axis

    def check(shape: tuple[int, ...], path: str) -> None:
        for one in axes:
            require_axis(one, shape, path)

    def choose(pooled: Float[Array, "*units"], keep: int | Int[Array, ""]) -> Bool[Array, "*units"]:
        first = tuple(range(len(axes)))
        moved = jnp.moveaxis(pooled, axes, first)
        outputs = max(1, math.prod(moved.shape[: len(axes)]))
        each = jnp.maximum(1, (keep + outputs // 2) // outputs)
        rows = moved.reshape(outputs, pooled.size // outputs)
        return jnp.moveaxis(best_of_each(rows, each).reshape(moved.shape), first, axes)

    return Pattern(check, whole, choose, lambda chosen, shape: chosen)

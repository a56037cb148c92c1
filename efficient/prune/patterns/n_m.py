"""N:M: of every M weights in a row along one axis, N stay.

Source: Mishra et al., 2021, arXiv:2104.08378, section 2 (2:4 on sparse tensor cores).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from efficient.core.transform import recipe
from efficient.prune.pattern import Pattern, best_of_each, require_axis, whole


@recipe
def n_m(n: int = 2, m: int = 4, *, axis: int = -2) -> Pattern:
    """Of every `m` neighbours along `axis`, the `n` best stay.

    A budget above n/m (on the way there, along a ramp) keeps more of each group, the same number in all: that
    whose total is nearest to the budget, half way the higher. One below n/m keeps n/m. A tie keeps the lower
    index; NaN goes first. A last group that is not full keeps at most the same number.

    Args:
      n: how many stay, from 1 to m.
      m: how many stand in a group, from 1.
      axis: along which groups run; -2 is the last input axis of Flax's kernels, along which a matmul sums.

    Raises:
      ValueError: at once, n outside 1..m; at `init`, an array without such an axis.

    Source: module docstring. *Differs:* any N, M and axis; sizes that M does not divide.
    """
    if not 1 <= n <= m:
        raise ValueError(f"n must be from 1 to m with m {m!r}, got {n!r}; 2:4 is n_m(2, 4).")

    def check(shape: tuple[int, ...], path: str) -> None:
        require_axis(axis, shape, path)

    def choose(pooled: Float[Array, "*units"], keep: int | Int[Array, ""]) -> Bool[Array, "*units"]:
        last = jnp.moveaxis(pooled, axis, -1)  # [..., length]
        *rows, length = last.shape
        full, rest = divmod(length, m)
        steps = np.arange(m, n - 1, -1)  # how many of each group may stay, the most first
        totals = int(np.prod(rows)) * (full * steps + np.minimum(steps, rest))
        each = m - jnp.argmin(jnp.abs(totals - keep))
        padding = [(0, 0)] * len(rows) + [(0, -length % m)]
        groups = jnp.pad(last, padding, constant_values=jnp.nan).reshape(*rows, -(-length // m), m)
        chosen = best_of_each(groups, each).reshape(*rows, -(-length // m) * m)[..., :length]
        return jnp.moveaxis(chosen, -1, axis)

    return Pattern(check, whole, choose, lambda chosen, shape: chosen, sparsity=1 - n / m)

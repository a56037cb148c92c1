"""N:M: of every M weights in a row along one axis, N stay.

Source: Mishra et al., 2021, arXiv:2104.08378, section 2 (2:4 on sparse tensor cores).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from efficient.core.transform import recipe
from efficient.prune.pattern import Pattern, require_axis


@recipe
def n_m(n: int = 2, m: int = 4, *, axis: int = -2) -> Pattern:
    """Of every `m` neighbours along `axis`, the `n` best stay.

    A budget above n/m (on the way there, along a ramp) keeps more of each group, the same number in all; one
    below n/m keeps n/m. A tie keeps the lower index. A last group that is not full keeps at most n.

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
        each = jnp.maximum(n, jnp.round(jnp.asarray(keep, jnp.float32) * m / pooled.size))
        last = jnp.moveaxis(pooled, axis, -1)
        groups = -(-last.shape[-1] // m)
        padding = [(0, 0)] * (last.ndim - 1) + [(0, groups * m - last.shape[-1])]
        filled = jnp.pad(_nan_last(last), padding, constant_values=-jnp.inf)
        grouped = filled.reshape(*last.shape[:-1], groups, m)
        order = jnp.argsort(-grouped, axis=-1, stable=True)
        rank = jnp.argsort(order, axis=-1, stable=True)
        chosen = (rank < each).reshape(*last.shape[:-1], groups * m)[..., : last.shape[-1]]
        return jnp.moveaxis(chosen, -1, axis)

    return Pattern(check, lambda scores: scores, choose, lambda chosen, shape: chosen, sparsity=1 - n / m)


def _nan_last(scores: jax.Array) -> jax.Array:
    """Scores with NaN below every number but the padding's."""
    return jnp.where(jnp.isnan(scores), jnp.finfo(scores.dtype).min, scores)

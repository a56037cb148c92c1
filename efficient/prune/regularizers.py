"""Regularizers: penalties to add to a loss, under which weights become small, or zero in groups.

    value + 1e-4 * group_lasso(weights, channel(), where="**/kernel")

Each takes what the model sees and returns a float32 sum over the values that `where` chooses, leaves made
dense, integers left out. The gradient at zero is zero (that of `jnp.abs` is one).

Source: l1 and l2 as in Han et al., 2015, arXiv:1506.02626, section 3.1.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.paths import Where, select
from efficient.core.transform import dense_value, is_float
from efficient.prune.pattern import Pattern


def l1(weights: Any, *, where: Where = "**/kernel") -> Float[Array, ""]:
    """The sum of |w|.

    Args:
      weights: a pytree of arrays or leaves.
      where: which of them, as `paths.matches` takes it.

    Raises:
      ValueError: `where` chooses nothing, or no floating value.
    """
    return _total([jnp.sum(w * jax.lax.stop_gradient(jnp.sign(w))) for w in _chosen(weights, where).values()])


def l2(weights: Any, *, where: Where = "**/kernel") -> Float[Array, ""]:
    """1/2 sum w^2, whose gradient is w: weight decay, under plain SGD.

    Args and Raises: as `l1`.
    """
    return _total([0.5 * jnp.sum(jnp.square(w)) for w in _chosen(weights, where).values()])


def group_lasso(weights: Any, pattern: Pattern, *, where: Where = "**/kernel") -> Float[Array, ""]:
    """The sum over groups g of sqrt(n_g) ||w_g||_2, with n_g the number of weights of the group.

    Groups are the units of a pattern: filters are `channel()`, input channels `channel(axis=-2)`.

    Args:
      weights: a pytree of arrays or leaves.
      pattern: which weights make a group.
      where: which values, as `paths.matches` takes it.

    Raises:
      ValueError: `where` chooses nothing, or no floating value, or one that cannot have the pattern.

    Example:
      >>> from efficient.prune.patterns import channel
      >>> weights = {"kernel": jnp.array([[3.0, 0.0], [4.0, 0.0], [0.0, 0.0], [0.0, 0.0]])}
      >>> float(group_lasso(weights, channel(), where="kernel"))
      10.0

    Source: Yuan and Lin, 2006, J. R. Statist. Soc. B 68(1), equation 2.1 with K_j = p_j I; for networks, Wen
    et al., 2016, arXiv:1608.03665, section 3. *Differs:* the second leaves sqrt(n_g) out.
    """
    return _total([_groups(w, pattern, path) for path, w in _chosen(weights, where).items()])


def slimming_penalty(weights: Any, *, where: Where = "**/scale") -> Float[Array, ""]:
    """The sum of |gamma| over the scales of normalizations, each the worth of a channel.

    Args and Raises: as `l1`.

    Source: Liu et al., 2017, arXiv:1708.06519, equation 1.
    """
    return l1(weights, where=where)


def _chosen(weights: Any, where: Where) -> dict[str, Float[Array, "..."]]:
    """The floating values that `where` chooses, in float32, by path."""
    own = {
        path: dense_value(value).astype(jnp.float32)
        for path, value in select(weights, where).items()
        if is_float(value)
    }
    if not own:
        raise ValueError(f"where must choose a floating value, got {where!r} that chooses none; widen it.")
    return own


def _total(sums: list[Float[Array, ""]]) -> Float[Array, ""]:
    """The sum of one number a value."""
    return jnp.sum(jnp.stack(sums))


def _groups(weight: Float[Array, "*shape"], pattern: Pattern, path: str) -> Float[Array, ""]:
    """The penalty of one array. A pattern pools by means, of which each weight is a part 1 / n_g."""
    pattern.check(weight.shape, path)
    parts = jax.grad(lambda scores: jnp.sum(pattern.pool(scores)))(jnp.zeros(weight.shape))
    sizes = pattern.pool(1 / parts)  # [*units], n_g
    squares = pattern.pool(jnp.square(weight))  # [*units], ||w_g||^2 / n_g
    is_zero = squares == 0  # there the square root has no gradient
    return jnp.sum(jnp.where(is_zero, 0, sizes * jnp.sqrt(jnp.where(is_zero, 1, squares))))

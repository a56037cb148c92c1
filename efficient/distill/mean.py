"""Mean: how all losses here are reduced: a sum over the positions that count, over how many count."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def mean_over(
    values: Float[Array, "*lead"], mask: Bool[Array, "*lead"] | None = None, *, count: Any = None
) -> Float[Array, ""]:
    """The sum of `values` where `mask` is True, over `count`; 0 where nothing counts.

    Args:
      values: one number a position; what is masked may be anything, NaN too, and has no gradient.
      mask: None: every position counts.
      count: None: the positions that count. Under gradient accumulation give the number in the whole batch,
        tokens of all its parts: the losses and gradients of the parts then add up to those of the batch.
    """
    kept = values if mask is None else jnp.where(mask, values, 0.0)
    if count is None:
        count = values.size if mask is None else jnp.sum(mask, dtype=jnp.float32)
    return jnp.sum(kept, dtype=jnp.float32) / jnp.maximum(count, 1)


def only(
    x: Float[Array, "*lead features"], mask: Bool[Array, "*lead"] | None
) -> Float[Array, "*lead features"]:
    """`x` with zeros in masked positions, so that nothing of them, NaN least of all, reaches a gradient."""
    return x if mask is None else jnp.where(mask[..., None], x, 0.0)


def require_temperature(temperature: float) -> None:
    """Refuses what cannot divide logits.

    Raises:
      ValueError: it is not above 0, or not finite.
    """
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be above 0 and finite, got {temperature!r}; 4 is usual.")

"""Masks: which weights stay. The one place where a budget becomes a mask."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


@jax.jit
def top_mask(score: Float[Array, "*shape"], keep: int | Int[Array, ""]) -> Bool[Array, "*shape"]:
    """True at the `keep` largest scores: exactly `keep` of them.

    A tie keeps the lower flat index; NaN goes last.

    Args:
      score: any shape; higher stays.
      keep: how many stay, from 0 to the size; may be traced.

    Example:
      >>> import jax.numpy as jnp
      >>> top_mask(jnp.array([3.0, 1.0, 3.0, jnp.nan, 2.0]), 2).tolist()
      [True, False, True, False, False]
    """
    order = jnp.argsort(-score.ravel(), stable=True)  # NaN sorts after everything
    rank_is_low = jnp.arange(score.size) < keep
    return jnp.zeros(score.size, bool).at[order].set(rank_is_low, unique_indices=True).reshape(score.shape)


def kept_of(size: int, sparsity: float | Float[Array, ""]) -> int | Int[Array, ""]:
    """How many of `size` weights stay at `sparsity`: all but round(sparsity * size), at least one.

    Exact for a Python float; for a traced one the product is float32, off by size / 2^24 at most.
    """
    if isinstance(sparsity, float | int):
        return max(1, size - round(sparsity * size))
    return jnp.maximum(1, size - jnp.round(jnp.asarray(sparsity, jnp.float32) * size).astype(jnp.int32))


def masked(value: jax.Array, mask: jax.Array) -> jax.Array:
    """`value` where the mask is True, +0 elsewhere, whatever stood there; there it has no gradient.

    Raises:
      ValueError: the two differ in shape: the mask is that of other params.
    """
    if tuple(value.shape) != tuple(mask.shape):
        raise ValueError(
            f"params must be those of init, got shape {tuple(value.shape)} for a mask of "
            f"{tuple(mask.shape)}; make a new state."
        )
    return jnp.where(mask, value, jnp.zeros((), value.dtype))

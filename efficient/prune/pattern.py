"""Pattern: which weights go together, and how a budget becomes a mask of them.

A unit is what stays or goes whole: one weight, a row of a block, a channel. A pattern pools scores over each
unit, chooses among units, and spreads the choice over the weights again.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from efficient.prune.mask import top_mask


class Pattern(NamedTuple):
    """Units of weights.

    check(shape, path): raises `ValueError` where an array of this shape cannot have the pattern.
    pool(scores [*shape]): float32 [*units], the mean score of each unit's weights; NaN where one is NaN.
    choose(pooled [*units], keep): Bool [*units], `keep` of them where the pattern leaves that free; it may be
      traced.
    spread(chosen [*units], shape): Bool [*shape].
    sparsity: the one that the pattern itself asks for, such as 0.5 of 2:4; None: any.
    """

    check: Callable[[tuple[int, ...], str], None]
    pool: Callable[[Float[Array, "*shape"]], Float[Array, "*units"]]
    choose: Callable[[Float[Array, "*units"], int | Int[Array, ""]], Bool[Array, "*units"]]
    spread: Callable[[Bool[Array, "*units"], tuple[int, ...]], Bool[Array, "*shape"]]
    sparsity: float | None = None
    name: str = "Pattern(...)"

    def __repr__(self) -> str:
        return self.name


def any_shape(shape: tuple[int, ...], path: str) -> None:
    """The `check` of a pattern that every array can have."""
    del shape, path


def best(pooled: Float[Array, "*units"], keep: int | Int[Array, ""]) -> Bool[Array, "*units"]:
    """The `choose` of a pattern whose units are free: the `keep` best, ties to the lower index."""
    return top_mask(pooled, keep)


def best_of_each(scores: Float[Array, "*rows n"], each: int | Int[Array, ""]) -> Bool[Array, "*rows n"]:
    """True at the `each` largest along the last axis; ties to the lower index, NaN last, as `top_mask`."""
    order = jnp.argsort(-scores, axis=-1, stable=True)
    return jnp.argsort(order, axis=-1, stable=True) < each  # the rank of each


def require_axis(axis: int, shape: tuple[int, ...], path: str) -> int:
    """`axis` counted from 0.

    Raises:
      ValueError: the array has no such axis.
    """
    if not -len(shape) <= axis < len(shape):
        raise ValueError(
            f"axis must be one of the {len(shape)} axes of {path!r}, got {axis}; exclude the leaf."
        )
    return axis % len(shape)


def whole(scores: jax.Array) -> Any:
    """The `pool` of a pattern whose units are single weights."""
    return scores

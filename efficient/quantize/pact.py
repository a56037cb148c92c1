"""PACT: the bound at which inputs are clipped is trained.

Source: Choi et al., 2018, arXiv:1805.06085, section 3.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.per_leaf import per_leaf
from efficient.core.transform import Key, State, Transform, recipe
from efficient.quantize.formats.integer import require_bits
from efficient.quantize.product_leaf import ProductLeaf, ProductRule


@jax.custom_jvp
def snapped(x: Float[Array, "*shape"], step: Float[Array, ""]) -> Float[Array, "*shape"]:
    """round(x / step) step; the gradient in x is 1, in the step 0."""
    return jnp.round(x / step) * step


@snapped.defjvp
def _snapped_jvp(primals: Any, tangents: Any) -> Any:
    return snapped(*primals), tangents[0]


def clipped(x: Float[Array, "*shape"], bound: Float[Array, ""], *, bits: int) -> Float[Array, "*shape"]:
    """Y = 0.5 (|x| - |x - a| + a), rounded to 2^bits - 1 steps of a / (2^bits - 1) (equations 1 and 2).

    dy/da is 0 where x < a, else 1 (equation 3); dy/dx is 1 from 0 to a, else 0.

    Args:
      x: float32.
      bound: a, > 0.
      bits: from 1.
    """
    y = jnp.where(x >= bound, bound, jnp.where(x > 0, x, 0.0))
    return snapped(y, bound / (2**bits - 1))


@dataclasses.dataclass(frozen=True)
class LearnedBound(ProductRule):
    """Inputs clipped to 0..a, and rounded; a is trained."""

    bits: int

    def before(self, x: Any, args: Any, axes: tuple[int, ...]) -> Any:
        """Clipped and rounded; a bound below 1e-3 counts as that."""
        del axes
        return clipped(x.astype(jnp.float32), jnp.maximum(args, 1e-3), bits=self.bits)


@recipe
def pact(bits: int = 4, *, bound: float = 10.0) -> Transform:
    """What enters each weight clipped to 0..a and rounded, a trained: `State.train` by path.

    Add `strength * bound_penalty(state)` to the loss: without it bounds fall slowly.

    Args:
      bits: 1 to 8.
      bound: where every a starts, > 0.

    Raises:
      ValueError: at once, an argument out of range.

    Source: module docstring. *Differs:* a is kept above 1e-3.
    """
    require_bits(bits, 1)
    if not bound > 0:
        raise ValueError(f"bound must be above 0, got {bound!r}; the paper has 10.")

    def init(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> State:
        del value, path, stats, key
        return State(train=jnp.float32(bound))

    def apply(value: Any, state: State) -> ProductLeaf:
        return ProductLeaf(weight=value, args=state.train, rule=LearnedBound(bits), axis=-2)

    return per_leaf(init=init, apply=apply, nests=True)


def bound_penalty(state: State) -> Float[Array, ""]:
    """The sum of a^2 over all that `state.train` holds: PACT's L2 regularizer of bounds (section 3.1)."""
    return sum((jnp.sum(jnp.square(a)) for a in jax.tree.leaves(state.train)), jnp.float32(0))

"""Contraction: what a leaf's rule must know of the `dot_general` that met it.

`dot_general(lhs, rhs)` sums over the contracting axes, keeps the batch axes in front, then the free axes
of `lhs`, then those of `rhs`. A leaf may be either side.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Contraction(NamedTuple):
    """The axes of a `dot_general`, as the leaf sees them."""

    contract: tuple[int, ...]  # the leaf's axes that are summed over
    batch: tuple[int, ...]  # its batch axes
    free: tuple[int, ...]  # the axes that it leaves in the result, ascending
    other_contract: tuple[int, ...]  # the other operand's axes, in the order of `contract`
    other_batch: tuple[int, ...]
    other_free: int  # how many axes the other operand leaves in the result
    leaf_is_lhs: bool

    def result_axis(self) -> dict[int, int]:
        """By axis of the leaf, the axis of the result that it becomes."""
        before = len(self.batch) + (0 if self.leaf_is_lhs else self.other_free)
        batch = {axis: i for i, axis in enumerate(self.batch)}
        return batch | {axis: before + i for i, axis in enumerate(self.free)}


def contraction(site: Any) -> Contraction:
    """The contraction of a `dot_general` site."""
    contract, batch = site.params["dimension_numbers"]
    me, it = site.index, 1 - site.index
    ndim = len(site.operands[me].shape)
    free = tuple(a for a in range(ndim) if a not in contract[me] and a not in batch[me])
    other_free = site.other.ndim - len(contract[it]) - len(batch[it])
    return Contraction(
        tuple(contract[me]),
        tuple(batch[me]),
        free,
        tuple(contract[it]),
        tuple(batch[it]),
        other_free,
        me == 0,
    )


def spread(values: jax.Array, c: Contraction) -> jax.Array:
    """`values`, with the leaf's axes (1 along those contracted), laid along the axes of the result."""
    shape = [1] * (len(c.batch) + c.other_free + len(c.free))
    for axis, place in c.result_axis().items():
        shape[place] = values.shape[axis]
    kept = (*c.batch, *c.free)
    if list(kept) != sorted(kept):  # else only axes of length 1 move
        values = jnp.transpose(values, (*kept, *c.contract))
    return jax.lax.reshape(values, shape)


def settings(site: Any) -> dict[str, Any]:
    """The precision and accumulator that the equation asked for, as `jax.lax.dot_general` takes them."""
    return {key: site.params[key] for key in ("precision", "preferred_element_type") if key in site.params}

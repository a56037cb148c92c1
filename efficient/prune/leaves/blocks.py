"""Blocks: the matmul with a matrix of which some blocks are stored; a single weight is a block of 1x1."""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, Num

from efficient.core.contraction import contraction, settings


def dot(
    site: Any,
    blocks: Num[Array, "kept height width"],
    places: tuple[Int[Array, " kept"], Int[Array, " kept"]],
    *,
    moved: float,
) -> Any:
    """`dot_general` with the matrix: each block meets its part of what enters; parts of a result are summed.

    Sums are in float32 at least. An absent weight meets nothing: what enters it, were it infinite or NaN,
    does not show.

    Args:
      site: of the leaf.
      blocks: those that are stored.
      places: row and column of each, counted in blocks; out of bounds is padding, of zeros.
      moved: the most numbers that parts of inputs and outputs may be, as a multiple of the matrix's size;
        where there would be more, making it dense is faster.

    Returns:
      The result, or `NotImplemented`: the weight is no floating matrix, or too much would be moved.
    """
    c, shape = contraction(site), site.operands[site.index].shape
    is_float = jnp.issubdtype(blocks.dtype, jnp.floating) and jnp.issubdtype(site.out_dtype, jnp.floating)
    if len(shape) != 2 or c.batch or len(c.contract) != 1 or not is_float:
        return NotImplemented
    near, far = c.contract[0], 1 - c.contract[0]  # the axes of the matrix that are summed, and left
    size_in, size_out = blocks.shape[1 + near], blocks.shape[1 + far]
    entering = jnp.moveaxis(site.other, c.other_contract[0], -1)  # [*rest, in]
    rest = entering.shape[:-1]
    count = math.prod(rest)
    if blocks.shape[0] * count * (size_in + size_out) >= moved * math.prod(shape):
        return NotImplemented
    flat = jnp.pad(entering.reshape(count, shape[near]), [(0, 0), (0, -shape[near] % size_in)])
    parts = flat.reshape(count, -(-shape[near] // size_in), size_in).swapaxes(0, 1)
    met = parts.at[places[near]].get(mode="fill", fill_value=0)  # [kept, rest, size_in]
    wide = jnp.promote_types(site.out_dtype, jnp.float32)
    options = settings(site) | {"preferred_element_type": wide}
    made = jax.lax.dot_general(met, blocks, (((2,), (1 + near,)), ((0,), (0,))), **options)
    sums = jnp.zeros((-(-shape[far] // size_out), count, size_out), wide)
    sums = sums.at[places[far]].add(made, mode="drop").swapaxes(0, 1)  # [rest, blocks, size_out]
    out = sums.reshape(count, sums.shape[1] * size_out)[:, : shape[far]]
    out = out.reshape(*rest, shape[far]).astype(site.out_dtype)
    return jnp.moveaxis(out, -1, 0) if c.leaf_is_lhs else out

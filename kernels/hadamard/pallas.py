"""The transform on a TPU and a GPU (Pallas): products with two small matrices, as H_ab = H_a (x) H_b.

A run of a * b entries, as a matrix X [a, b], becomes H_a X H_b; short runs lie side by side in one matrix.
Not run on either yet: it lowers for both, and its numbers are the reference's in interpret mode.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from efficient.kernels.compile_for import compile_for
from jax.experimental import pallas as pl

LANES, LEAST = 128, 16  # columns of a matrix; rows of one, at least


def pallas(x: Any, *, tier: str, interpret: bool = False) -> jax.Array:
    """The transform of rows [m, n], n a power of two."""
    m, n = x.shape
    across, down = min(n, LANES), max(1, n // LANES)
    tall = max(LEAST, down)
    left, right = _side_by_side(down, tall), _side_by_side(across, LANES)
    filled = jnp.pad(x.reshape(-1), (0, -x.size % (tall * LANES))).reshape(-1, tall, LANES)
    at_once = max(1, min(4096 // (tall * LANES), len(filled))) if tier == "pallas_tpu" else 1
    filled = jnp.pad(filled, [(0, -len(filled) % at_once), (0, 0), (0, 0)])
    block = pl.BlockSpec((at_once, tall, LANES), lambda i: (i, 0, 0))
    whole = [pl.BlockSpec(matrix.shape, lambda i: (0, 0)) for matrix in (left, right)]
    out = pl.pallas_call(
        functools.partial(_kernel, scale=1 / math.sqrt(n)),
        grid=(len(filled) // at_once,),
        in_specs=[block, *whole],
        out_specs=block,
        out_shape=jax.ShapeDtypeStruct(filled.shape, jnp.float32),
        compiler_params=compile_for(tier, grid=("parallel",)),
        interpret=interpret,
    )(filled, left, right)
    return out.reshape(-1)[: x.size].reshape(m, n)


def _side_by_side(size: int, wide: int) -> jax.Array:
    """I (x) H of `size`, [wide, wide], as numbers 1, -1 and 0 (exact in every float)."""
    places = np.arange(size)
    signs = 1 - 2 * (np.bitwise_count(places[:, None] & places[None, :]).astype(int) % 2)
    return jnp.asarray(np.kron(np.eye(wide // size), signs), jnp.float32)


def _kernel(x_ref: Any, left_ref: Any, right_ref: Any, out_ref: Any, *, scale: float) -> None:
    """Some matrices."""
    dot = functools.partial(jnp.dot, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
    left, right = left_ref[...], right_ref[...]
    for i in range(x_ref.shape[0]):
        out_ref[i] = dot(dot(left, x_ref[i].astype(jnp.float32)), right) * jnp.float32(scale)

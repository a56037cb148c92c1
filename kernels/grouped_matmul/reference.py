"""Reference: each matrix times all rows, of which its own are kept, in plain jnp. The oracle of every tier.

`jax.lax.ragged_dot` does less, and has no `vmap` over rows.
"""

from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.quantized_matmul.arguments import Packing, decoded
from jaxtyping import Array, Float, Int


def reference(
    x: Float[Array, "m k"], weights: Float[Array, "e k n"], sizes: Int[Array, " e"]
) -> Float[Array, "m n"]:
    """See `grouped_matmul`; float32."""
    x, weights = x.astype(jnp.float32), weights.astype(jnp.float32)
    ends, row = jnp.cumsum(sizes), jnp.arange(x.shape[0])

    def with_group(total: Any, group: Any) -> Any:
        matrix, start, end = group
        own = jnp.where(((row >= start) & (row < end))[:, None], x, 0)
        return total + jnp.matmul(own, matrix, precision=jax.lax.Precision.HIGHEST), None

    zeros = jnp.zeros((x.shape[0], weights.shape[2]), jnp.float32)
    return jax.lax.scan(with_group, zeros, (weights, ends - sizes, ends))[0]


def quantized_reference(
    x: Float[Array, "m k"], sizes: Any, codes: Any, scale: Any, shift: Any, table: Any, *, packing: Packing
) -> Float[Array, "m n"]:
    """See `grouped_quantized_matmul`; float32."""
    each = jax.vmap(lambda c, s, h: decoded(c, s, h, table, packing))
    return reference(x, each(codes, scale, shift), sizes)

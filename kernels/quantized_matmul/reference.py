"""Reference: codes decoded in plain jnp, then a float32 product. The oracle of every tier."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8


def decoded(
    codes: UInt8[Array, "k p"],
    table: Float[Array, " codes"],
    scale: Float[Array, "..."],
    shift: Float[Array, "..."] | None,
    *,
    bits: int,
    group: int,
    columns: int,
) -> Float[Array, "k n"]:
    """W[k, n] = (table[code] - shift[g, n]) scale[g, n], g = k // group; see `quantized_matmul`."""
    if bits == 4:
        pair = jnp.stack([codes & 15, codes >> 4], -1)
        codes = pair.reshape(codes.shape[0], -1)[:, :columns]
    numbers = table[codes]
    if shift is not None:
        numbers = numbers - _rows(shift, numbers.shape, group)
    return numbers * _rows(scale, numbers.shape, group)


def reference(
    x: Float[Array, "m k"],
    codes: UInt8[Array, "k p"],
    table: Float[Array, " codes"],
    scale: Float[Array, "..."],
    shift: Float[Array, "..."] | None,
    *,
    bits: int,
    group: int,
    columns: int,
) -> Float[Array, "m n"]:
    """X W in float32, at the highest precision."""
    weights = decoded(codes, table, scale, shift, bits=bits, group=group, columns=columns)
    return jnp.matmul(x, weights, precision=jax.lax.Precision.HIGHEST)


def _rows(values: Float[Array, "..."], shape: tuple[int, ...], group: int) -> Float[Array, "k n"]:
    """A number of each run of rows, at every row and column."""
    whole = jnp.repeat(values, min(group, max(shape[0], 1)), axis=0)[: shape[0]]
    return jnp.broadcast_to(whole, shape)

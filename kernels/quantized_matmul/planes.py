"""Planes: what packed bytes stand for, inside a Pallas kernel; and scales laid out as bytes are.

A byte of b bits a code holds 8 / b neighbouring columns. To spread them over lanes costs more than to
multiply, so kernels work by plane: the first column of every byte, the second, ... A result
[planes, m, bytes] becomes [m, columns] outside, where it is small.
"""

from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.quantized_matmul.arguments import Packing


def planes_of(packing: Packing) -> int:
    """Columns of a byte."""
    return 8 // packing.bits


def numbers(codes: Any, plane: int, packing: Packing, table: Any) -> jax.Array:
    """The numbers of one plane of int32 bytes, float32.

    `table` gives the number of a code by its index, 16 of them, or is None.
    """
    bits = packing.bits
    code = jax.lax.shift_right_logical(codes, jnp.int32(bits * plane)) & jnp.int32(2**bits - 1)
    if table is None:
        if packing.is_signed:
            half = jnp.int32(2 ** (bits - 1))
            code = (code ^ half) - half
        return code.astype(jnp.float32)
    found = [table[i] for i in range(min(2**bits, 16))]
    for bit in range(min(bits, 4)):  # a tree of choices, by the lowest bit first
        is_set = (code & jnp.int32(1 << bit)) != 0
        found = [jnp.where(is_set, found[i + 1], found[i]) for i in range(0, len(found), 2)]
    return found[0]


def by_plane(values: Any, packing: Packing, width: int) -> jax.Array:
    """Scales [runs, columns or 1] as [planes, runs, width or 1], as the bytes' columns lie."""
    planes = planes_of(packing)
    if values.shape[1] == 1:
        return jnp.broadcast_to(values[None], (planes, *values.shape))
    filled = jnp.pad(values, [(0, 0), (0, planes * width - values.shape[1])])
    return jnp.moveaxis(filled.reshape(values.shape[0], width, planes), -1, 0)


def in_columns(out: Any, columns: int) -> jax.Array:
    """[planes, m, width] as [m, columns]."""
    planes, m, width = out.shape
    return jnp.moveaxis(out, 0, -1).reshape(m, width * planes)[:, :columns]

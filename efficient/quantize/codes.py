"""Codes: a quantized weight as kernels take it, a matrix of codes, and its products.

A leaf's rule asks `product`; where the axes or the format are none of a kernel's, it gets None and decodes.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from efficient.core.depthwise_site import depthwise
from efficient.core.matrix_site import MatrixSite, matrix_site, shaped
from efficient.kernels.depthwise_conv import depthwise_conv
from efficient.kernels.depthwise_conv.depthwise_conv import NATIVE as DEPTHWISE
from efficient.kernels.quantized_matmul import (
    int8,
    int8_matmul,
    matmul,
    quantized_matmul,
    transposed,
    transposed_matmul,
)
from efficient.quantize.format import Format

MOST_PATCHES = 256  # rows up to which a float convolution is faster as a product of patches
LEAST_DEPTH = 64  # rows of W below which XLA is faster where there are more rows of x than that


class Codes(NamedTuple):
    """W [k, n] in codes, or W^T [n, k]; see `quantized_matmul` and `transposed_matmul` of the kernels."""

    codes: Any  # bytes [k, ceil(n * bits / 8)], or [n, ceil(k * bits / 8)]
    scale: Any  # [runs, n or 1], or [n or 1, runs]
    shift: Any  # the same, or None
    table: Any  # the number of every code, or None: whole numbers
    bits: int
    group: int  # of what is summed over, in a run; 0: all
    is_signed: bool


class Step(NamedTuple):
    """How x is rounded: to -127..127 steps."""

    size: Any = None  # of all of x, a scalar; None: the largest magnitude / 127
    per_row: bool = False  # of each row, or of all of x


def product(site: Any, leaf: Any, *, step: Step | None = None) -> Any:
    """A site's result by a kernel; None where it is none of a kernel's.

    Args:
      site: of a `dot_general` or a `conv_general_dilated`.
      leaf: has `as_codes(summed)`: its `Codes` with so many leading axes summed over, or None; and
        `as_rows(summed)`, those of W^T with so many last ones.
      step: how x is rounded to 8 bits; None leaves it as it is.
    """
    if not hasattr(leaf, "as_codes"):
        return None
    if step is None and (out := depthwise(site, leaf, depthwise_conv, DEPTHWISE)) is not None:
        return out
    patches = MOST_PATCHES if step is None else None
    found = matrix_site(site, most_patches=patches, may_transpose=hasattr(leaf, "as_rows"))
    if found is None or (step is not None and step.per_row and found.is_patches):
        return None
    if found.rows > MOST_PATCHES and found.x.shape[-1] < LEAST_DEPTH:
        return None
    codes = (leaf.as_rows if found.is_transposed else leaf.as_codes)(found.summed)
    if codes is None or (step is not None and codes.table is not None):
        return None
    kernel = transposed if found.is_transposed else matmul if step is None else int8
    site.computed_by(kernel.NATIVE.words)
    return found.result(multiplied(found, codes, step))


def as_matrix(codes: Any, shape: tuple[int, ...], summed: int) -> Any:
    """Packed codes of a weight of `shape`, as rows of bytes, one for each place of its first axes."""
    rows = math.prod(shape[:summed])
    return shaped(codes, (rows, codes.size // rows))


def multiplied(found: MatrixSite, codes: Codes, step: Step | None) -> jax.Array:
    """Rows of x times W."""
    x, options = found.x, codes._asdict()
    x = x if x.dtype == found.dtype else x.astype(jnp.float32)  # a product comes in the dtype of x
    if found.is_transposed:
        how = {} if step is None else {"is_rounded": True, "x_scale": step.size, "per_row": step.per_row}
        return transposed_matmul(x, **options, **how)
    options |= {"columns": math.prod(found.columns)}
    if step is None:
        return quantized_matmul(x, **options)
    del options["table"]
    return int8_matmul(x, **options, x_scale=step.size, per_row=step.per_row)


def numbering(grid: Format, bits: int) -> tuple[Any, bool]:
    """`(table or None, is_signed)` for codes of a format that are kept in so many bits."""
    table = _table(grid)
    count = len(table)
    if np.array_equal(table, np.arange(count)):
        return None, False
    if count == 2**bits and np.array_equal(table, (np.arange(count) + count // 2) % count - count // 2):
        return None, True
    return jnp.asarray(table), False


@functools.cache
def _table(grid: Format) -> np.ndarray:
    """The numbers of a format; a model asks for each of its weights."""
    return grid.table()


def by_columns(values: Any, shape: tuple[int, ...], summed: int) -> Any:
    """Numbers that broadcast against a weight and are the same along what is summed over, as [1, n or 1]."""
    free = shape[summed:]
    if values.size == 1:
        return values.reshape(1, 1)
    if values.shape == (1, *free) and len(free) == 1:
        return values
    return jnp.broadcast_to(values.reshape(values.shape[summed:]), free).reshape(1, math.prod(free))

"""Qwix arrays: quantized weights from and to qwix's `QArray`, number by number the same.

    ours = from_qwix(array)              # a leaf: lift, store, explain
    array = to_qwix(leaf)                # for qwix's own matrix products and checkpoints

A `QArray` keeps a value a weight (int4, int8, float8, float4, or an index of NF4), a scale for each block,
and perhaps a zero point; blocks divide the axes. See github.com/google/qwix, `qwix.QArray`, version 0.1.8.
"""

from typing import Any

import jax.numpy as jnp
import numpy as np

from efficient.quantize.block_leaf import BlockLeaf, packed_leaf, plain
from efficient.quantize.blocks import Layout, blocked
from efficient.quantize.format import Format
from efficient.quantize.formats import E2M1, E4M3, E5M2, NF4, Affine, Integer
from efficient.quantize.packing import pack_codes

_FLOATS: dict[str, Format] = {
    "float8_e4m3fn": E4M3, "mxfp8": E4M3, "float8_e5m2": E5M2, "float4_e2m1fn": E2M1, "mxfp4": E2M1,
    "nvfp4": E2M1,
}  # fmt: skip
_DTYPES = {E4M3: jnp.float8_e4m3fn, E5M2: jnp.float8_e5m2, E2M1: jnp.float4_e2m1fn}
_WIDTHS = {"int8": 8, "int7": 7, "int6": 6, "int5": 5, "int4": 4, "int3": 3, "int2": 2}


def from_qwix(array: Any) -> BlockLeaf:
    """A leaf of the numbers, scales and zero points of a `QArray`; what it stands for is the same.

    Args:
      array: a `qwix.QArray`, or what has its fields `qvalue`, `scale`, `zero_point` and `qtype`.

    Raises:
      ValueError: a type of numbers that no format here has; or scales that do not divide the axes.
    """
    value, scale, zero = array.qvalue, array.scale, array.zero_point
    name = array.qtype if isinstance(array.qtype, str) else jnp.dtype(array.qtype).name
    if scale.ndim != value.ndim or any(n % m for n, m in zip(value.shape, scale.shape, strict=True)):
        raise ValueError(
            f"scale must divide the axes of {value.shape}, got {scale.shape}; quantize with qwix.quantize."
        )
    layout = tuple(0 if m == 1 and n > 1 else n // m for n, m in zip(value.shape, scale.shape, strict=True))
    common = {"layout": layout, "dtype": scale.dtype}
    if name == "nf4":
        return _of_codes(value.astype(jnp.uint8), scale, grid=NF4, **common)
    if name in _FLOATS and zero is None:
        return packed_leaf(value.astype(jnp.float32), scale, None, grid=_FLOATS[name], **common)
    if name in _WIDTHS:
        bits, whole = _WIDTHS[name], value.astype(jnp.int32)
        if zero is None:  # two's complement holds -2^(bits - 1) too, which qwix uses
            return _of_codes((whole & (2**bits - 1)).astype(jnp.uint8), scale, grid=Integer(bits), **common)
        middle = 2 ** (bits - 1)
        zeros = jnp.broadcast_to(zero.astype(jnp.int32), scale.shape) + middle
        return packed_leaf(
            (whole + middle).astype(jnp.float32),
            scale,
            zeros.astype(jnp.float32),
            grid=Affine(bits),
            **common,
        )
    raise ValueError(
        f"qtype must be int2 to int8, float8, float4 or nf4, got {name!r}"
        f"{'' if zero is None else ' with a zero point'}; make it dense with qwix.dequantize."
    )


def to_qwix(leaf: BlockLeaf) -> Any:
    """A `qwix.QArray` of the numbers, scales and zero points of a leaf; what it stands for is the same.

    Scales that are quantized themselves become plain.

    Raises:
      ImportError: qwix is not installed.
      ValueError: a format that qwix has no type for, or blocks that do not divide the axes.
    """
    try:
        from qwix import QArray
    except ImportError as error:
        raise ImportError("to_qwix needs the package qwix; install it with pip install qwix.") from error
    layout = leaf.own_layout
    if any(n % (span or n) for n, span in zip(leaf.shape, layout, strict=True)):
        raise ValueError(
            f"blocks must divide the axes for qwix, got spans {layout} of {leaf.shape}; choose another size."
        )
    scale = plain(leaf.scale).astype(leaf.out_dtype)
    if scale.shape != blocked(leaf.shape, layout):
        raise ValueError(f"leaf must be of one weight, got stacked scales {scale.shape}; take a slice.")
    codes, grid = leaf.unpacked(), leaf.grid
    if grid == NF4:
        return QArray(codes.astype(jnp.uint4), scale, None, "nf4")
    if grid in _DTYPES:
        dtype = _DTYPES[grid]
        return QArray(grid.decode(codes).astype(dtype), scale, None, dtype)
    if isinstance(grid, Integer | Affine):
        dtype = jnp.int4 if grid.bits <= 4 else jnp.int8
        qtype = dtype if grid.bits in (4, 8) else f"int{grid.bits}"
        if leaf.zero is None:
            return QArray(grid.decode(codes).astype(dtype), scale, None, qtype)
        if grid.bits > 1:
            middle = 2 ** (grid.bits - 1)
            value, zero = (a.astype(jnp.int32) - middle for a in (codes, leaf.zero))
            return QArray(value.astype(dtype), scale, zero.astype(dtype), qtype)
    raise ValueError(
        f"format must be Integer, Affine from 2 bits, E4M3, E5M2, E2M1 or NF4, got {grid!r}; make it dense."
    )


def _of_codes(codes: Any, scale: Any, *, grid: Format, layout: Layout, dtype: Any) -> BlockLeaf:
    """The leaf of codes as they are."""
    return BlockLeaf(
        codes=pack_codes(codes, grid.bits),
        scale=scale,
        zero=None,
        grid=grid,
        layout=layout,
        length=int(np.shape(codes)[-1]),
        is_packed=grid.bits < 8,
        out_dtype=dtype,
    )

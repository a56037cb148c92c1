"""Reference: in plain jnp, axis by axis. The oracle of every tier."""

import functools
from typing import Any

import jax.numpy as jnp
import numpy as np
from efficient.kernels.quantize_pack.packed import Packed
from jaxtyping import Array, Float

TINY = np.finfo(np.float32).tiny


def reference(x: Float[Array, "r k n"], *, bits: int, group: int, axis: int, is_symmetric: bool) -> Packed:
    """See `quantize_pack`; axis 1 or 2, scales [r, runs, n] or [r, k, runs]."""
    x = x.astype(jnp.float32)
    runs = -(-x.shape[axis] // group)
    filled = jnp.pad(x, [(0, -x.shape[i] % group if i == axis else 0) for i in range(3)])
    cut = filled.reshape(*x.shape[:axis], runs, group, *x.shape[axis + 1 :])
    if is_symmetric:
        most = 2 ** (bits - 1) - 1
        low, top = -most, jnp.max(jnp.abs(cut), axis=axis + 1, keepdims=True)
        bottom = jnp.zeros_like(top)
    else:
        low, most = 0, 2**bits - 1
        bottom = jnp.minimum(jnp.min(cut, axis=axis + 1, keepdims=True), 0)
        top = jnp.maximum(jnp.max(cut, axis=axis + 1, keepdims=True), 0)
    is_finite = jnp.all(jnp.isfinite(cut), axis=axis + 1, keepdims=True)
    scale, inverse, shift = steps(bottom, top, is_finite, most)
    whole = jnp.round(jnp.where(is_finite, cut, 0) * inverse) + (0 if is_symmetric else jnp.nan_to_num(shift))
    whole = jnp.clip(whole, low, most).astype(jnp.int32)
    back = tuple(slice(0, size) for size in x.shape)
    codes = _in_bytes(whole.reshape(filled.shape)[back], bits)
    return Packed(codes, scale.squeeze(axis + 1), None if is_symmetric else shift.squeeze(axis + 1))


def steps(bottom: Any, top: Any, is_finite: Any, most: int, nearest: Any = jnp.round) -> tuple[Any, Any, Any]:
    """The scale of runs from their ranges, 1 / it, and the code of 0: products, which all round alike."""
    scale = (top - bottom) * np.float32(1 / most)
    is_small = scale < TINY
    inverse = jnp.where(is_small, 0.0, 1 / jnp.where(is_small, 1.0, scale))
    shift = nearest(-bottom * inverse)
    scale = jnp.where(is_finite, jnp.where(is_small, 0.0, scale), jnp.nan)
    return scale, jnp.where(is_finite, inverse, 0.0), jnp.where(is_finite, shift, jnp.nan)


def unpack(packed: Packed, n: int, *, axis: int = -1, group: int = 0) -> Float[Array, "..."]:
    """The numbers that are kept, float32 [..., n], in plain jnp.

    Args:
      packed: as `quantize_pack` makes it.
      n: numbers on the last axis; what is left of its last byte is dropped. Bits of a code are told from it.
      axis: along which runs lie, -1 or -2.
      group: numbers of a run; 0 is all.

    Raises:
      ValueError: n is not what 2, 4 or 8 bits make of the bytes.
    """
    bits = bits_of(packed, n)
    codes = jnp.asarray(packed.codes).view(jnp.uint8)
    places = np.arange(0, 8, bits, dtype=np.uint8)
    apart = jnp.stack([codes >> place for place in places], -1) & np.uint8(2**bits - 1)
    whole = apart.reshape(*codes.shape[:-1], -1)[..., :n].astype(jnp.int32)
    if packed.shift is None:
        half = 2 ** (bits - 1)
        whole = (whole ^ half) - half
    size = whole.shape[axis]

    def of_each(values: Any) -> Any:
        return (
            values
            if values.shape[axis] == 1
            else jnp.repeat(values, group or size, axis).take(np.arange(size), axis)
        )

    numbers = whole.astype(jnp.float32)
    if packed.shift is not None:
        numbers = numbers - of_each(packed.shift)
    return numbers * of_each(packed.scale)


def bits_of(packed: Packed, n: int) -> int:
    """Bits of a code, as n of them lie in a row of bytes.

    Raises:
      ValueError: none of 2, 4 and 8.
    """
    wide = packed.codes.shape[-1]
    for bits in (2, 4, 8):
        if wide == -(-n * bits // 8):
            return bits
    raise ValueError(
        f"codes must be {n} numbers of 2, 4 or 8 bits a row, got {wide} bytes; see quantize_pack."
    )


def _in_bytes(whole: Any, bits: int) -> Any:
    """Int32 [..., n] as uint8 [..., ceil(n bits / 8)]."""
    if bits == 8:
        return whole.astype(jnp.int8).view(jnp.uint8)
    many = 8 // bits
    filled = jnp.pad(whole & (2**bits - 1), [(0, 0)] * (whole.ndim - 1) + [(0, -whole.shape[-1] % many)])
    apart = filled.reshape(*filled.shape[:-1], -1, many)
    parts = [apart[..., i] << (bits * i) for i in range(many)]
    return functools.reduce(jnp.bitwise_or, parts).astype(jnp.uint8)

"""Packed: an array as codes in bytes, with the scales of its runs."""

from typing import NamedTuple

from jaxtyping import Array, Float, UInt8

CODES = (2, 4, 8)  # bits of a code


class Packed(NamedTuple):
    """Numbers (code - shift) scale; a pytree of arrays alone, so caches of it go through `scan` and `jit`.

    Codes lie side by side along the last axis, the first of a byte in its lowest bits. Without a shift they
    are two's complement, else unsigned.
    """

    codes: UInt8[Array, "... n bytes"]
    scale: Float[Array, "..."]  # float32, of each run
    shift: Float[Array, "..."] | None = None  # float32, of each run: the code of 0

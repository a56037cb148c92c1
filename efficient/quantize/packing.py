"""Packing: codes of 1 to 8 bits side by side in bytes, the first in the lowest bits.

k = 8 / gcd(bits, 8) codes fill k bits / 8 bytes exactly; a row of codes is filled up to whole runs by zeros.
"""

import math

import jax.numpy as jnp
from jaxtyping import Array, UInt8


def run_of(bits: int) -> tuple[int, int]:
    """How many codes, and the bytes that they fill exactly."""
    codes = 8 // math.gcd(bits, 8)
    return codes, codes * bits // 8


def pack_codes(codes: UInt8[Array, "*lead n"], bits: int) -> UInt8[Array, "*lead bytes"]:
    """Packs along the last axis: ceil(n / k) runs of k codes.

    Args:
      codes: each below 2^bits.
      bits: 1 to 8; at 8 the codes are returned as they are.
    """
    if bits == 8:
        return codes
    many, wide = run_of(bits)
    *lead, n = codes.shape
    runs = -(-n // many)
    filled = jnp.pad(codes, [(0, 0)] * len(lead) + [(0, runs * many - n)])
    places = jnp.arange(bits, dtype=jnp.uint8)
    single = (filled[..., None] >> jnp.broadcast_to(places, (*filled.shape, bits))) & jnp.uint8(1)
    bytes_ = single.reshape(*lead, runs * wide, 8)
    weights = jnp.broadcast_to(jnp.left_shift(jnp.uint8(1), jnp.arange(8, dtype=jnp.uint8)), bytes_.shape)
    return jnp.sum(bytes_ * weights, axis=-1, dtype=jnp.uint8)


def unpack_codes(packed: UInt8[Array, "*lead bytes"], bits: int, n: int) -> UInt8[Array, "*lead n"]:
    """The first `n` codes of each row of `pack_codes`."""
    if bits == 8:
        return packed
    *lead, wide = packed.shape
    places = jnp.broadcast_to(jnp.arange(8, dtype=jnp.uint8), (*packed.shape, 8))
    single = (packed[..., None] >> places) & jnp.uint8(1)
    codes = single.reshape(*lead, wide * 8 // bits, bits)
    weights = jnp.broadcast_to(jnp.left_shift(jnp.uint8(1), jnp.arange(bits, dtype=jnp.uint8)), codes.shape)
    return jnp.sum(codes * weights, axis=-1, dtype=jnp.uint8)[..., :n]

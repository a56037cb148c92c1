"""Integers: evenly spaced numbers, symmetric, from zero up, or around a zero point.

Source: Jacob et al., 2018, arXiv:1712.05877, section 2.1; Krishnamoorthi, 2018, arXiv:1806.08342, sections
2.1 and 2.2.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from efficient.quantize.format import Format


def require_bits(bits: int, least: int) -> None:
    """Refuses widths that a byte does not hold.

    Raises:
      ValueError: `bits` outside least..8.
    """
    if not least <= bits <= 8:
        raise ValueError(f"bits must be from {least} to 8, got {bits!r}; 8 and 4 are usual.")


@dataclasses.dataclass(frozen=True)
class Integer(Format):
    """The integers -q..q with q = 2^(bits-1) - 1; codes are two's complement.

    Raises:
      ValueError: `bits` outside 2..8.
    """

    width: int  # bits, 2 to 8

    def __post_init__(self) -> None:
        require_bits(self.width, 2)

    @property
    def bits(self) -> int:
        """Those given."""
        return self.width

    @property
    def high(self) -> float:
        """2^(bits-1) - 1."""
        return float(2 ** (self.width - 1) - 1)

    @property
    def is_even(self) -> bool:
        """Yes."""
        return True

    def round(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Half to even."""
        return jnp.clip(jnp.round(x), self.low, self.high)

    def saturates(self, x: Float[Array, "*shape"]) -> Array:
        """True where the rounded number is beyond the grid."""
        return jnp.abs(jnp.round(x)) > self.high

    def encode(self, x: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
        """Two's complement; NaN is 0."""
        whole = jnp.nan_to_num(x).astype(jnp.int32)
        return (whole & (2**self.width - 1)).astype(jnp.uint8)

    def decode(self, codes: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The lowest code is -2^(bits-1), which no weight is rounded to."""
        whole = codes.astype(jnp.int32)
        return (whole - (2**self.width) * (whole >= 2 ** (self.width - 1))).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Unsigned(Format):
    """The integers 0..2^bits - 1: for numbers that are never negative, such as scales.

    Raises:
      ValueError: `bits` outside 1..8.
    """

    width: int  # bits, 1 to 8

    def __post_init__(self) -> None:
        require_bits(self.width, 1)

    @property
    def bits(self) -> int:
        """Those given."""
        return self.width

    @property
    def high(self) -> float:
        """2^bits - 1."""
        return float(2**self.width - 1)

    @property
    def low(self) -> float:
        """0."""
        return 0.0

    @property
    def is_even(self) -> bool:
        """Yes."""
        return True

    def round(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Half to even."""
        return jnp.clip(jnp.round(x), self.low, self.high)

    def saturates(self, x: Float[Array, "*shape"]) -> Array:
        """True where the rounded number is beyond the grid."""
        rounded = jnp.round(x)
        return (rounded > self.high) | (rounded < self.low)

    def encode(self, x: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
        """The number itself; NaN is 0."""
        return jnp.nan_to_num(x).astype(jnp.uint8)

    def decode(self, codes: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The number itself."""
        return codes.astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class Affine(Unsigned):
    """The integers 0..2^bits - 1 around a zero point Z: weight = scale (code - Z), zero exactly a code.

    Source: arXiv:1712.05877, equation 1.
    """

    @property
    def is_affine(self) -> bool:
        """Yes."""
        return True

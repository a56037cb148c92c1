"""Powers of two: products by them are shifts.

Source: Miyashita et al., 2016, arXiv:1603.01025, section 3; Zhou et al., 2017, arXiv:1702.03044.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from efficient.quantize.format import Format
from efficient.quantize.formats.integer import require_bits


@dataclasses.dataclass(frozen=True)
class PowerOfTwo(Format):
    """0 and +-2^-i, i from 0 to 2^(bits-1) - 2. Rounded in the logarithm, half-way the larger.

    Raises:
      ValueError: `bits` outside 2..6: with 7 there would be 2^-62.

    *Differs:* the first paper's code for zero is an exponent of its own here too, and the largest is 1.
    """

    width: int  # bits, 2 to 6

    def __post_init__(self) -> None:
        require_bits(self.width, 2)
        if self.width > 6:
            raise ValueError(f"bits must be from 2 to 6, got {self.width!r}; 5 reach 2^-14.")

    @property
    def bits(self) -> int:
        """Those given."""
        return self.width

    @property
    def high(self) -> float:
        """1."""
        return 1.0

    @property
    def least(self) -> int:
        """The lowest exponent."""
        return 2 - 2 ** (self.width - 1)

    def round(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Zero below the lowest power's share, 2^(least - 1/2)."""
        power = self._power(x)
        rounded = jnp.where(power < self.least, 0.0, jnp.ldexp(jnp.float32(1), power))
        return jnp.where(jnp.isnan(x), jnp.nan, jnp.copysign(rounded, x)).astype(jnp.float32)

    def _power(self, x: Float[Array, "*shape"]) -> Array:
        """The nearest exponent, at most 0; below the lowest for zero."""
        fraction, power = jnp.frexp(jnp.abs(jnp.nan_to_num(x)))
        nearest = power - (fraction < 2**-0.5)  # f 2^p is nearer to 2^p where f >= sqrt(1/2)
        return jnp.where(x == 0, self.least - 1, jnp.clip(nearest, self.least - 1, 0))

    def encode(self, x: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
        """A sign, and one more than the power below the lowest; 0 is zero."""
        sign = (jnp.signbit(x) & (x != 0)).astype(jnp.int32) << (self.width - 1)
        return (self._power(x) - self.least + 1 + sign).astype(jnp.uint8)

    def decode(self, codes: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Zero has a code with a sign too."""
        step = (codes % 2 ** (self.width - 1)).astype(jnp.int32)
        magnitude = jnp.where(step == 0, 0.0, jnp.ldexp(jnp.float32(1), step + self.least - 1))
        return jnp.where(codes >> (self.width - 1), -magnitude, magnitude)

"""Small floating-point numbers: sign, exponent, mantissa; beyond the largest it is the largest.

Source: Micikevicius et al., 2022, arXiv:2209.05433 (FP8); Open Compute Project, Microscaling Formats v1.0,
2023 (FP6, FP4). *Differs:* E5M2's infinities are not used: what is too large becomes the largest number, as
all the others do.
"""

import dataclasses

import jax.numpy as jnp
import ml_dtypes
import numpy as np
from jaxtyping import Array, Float, UInt8

from efficient.quantize.format import Format
from efficient.quantize.formats.integer import require_bits


@dataclasses.dataclass(frozen=True)
class Floating(Format):
    """Numbers (-1)^s 2^(e - bias) (1 + m / 2^mantissa), and below the least exponent evenly spaced ones.

    Raises:
      ValueError: fewer than 1 bit of exponent, or more than 8 bits in all.
    """

    exponent: int  # bits, >= 1
    mantissa: int  # bits, >= 0
    bias: int
    largest: float  # where codes are spent on NaN and infinity, below what the bits allow

    def __post_init__(self) -> None:
        require_bits(self.bits, 2)
        if self.exponent < 1 or self.mantissa < 0:
            raise ValueError(
                f"exponent must be from 1 and mantissa from 0, got {self.exponent} and {self.mantissa}; "
                "E2M1 is the smallest in use."
            )

    @property
    def bits(self) -> int:
        """A sign, the exponent and the mantissa."""
        return 1 + self.exponent + self.mantissa

    @property
    def high(self) -> float:
        """The largest number."""
        return self.largest

    def round(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Half to even mantissa. Exact: the quantum of each octave is a power of two."""
        magnitude = jnp.minimum(jnp.abs(x), self.largest)
        _, power = jnp.frexp(magnitude)  # magnitude = f 2^power, 1/2 <= f < 1
        power = jnp.maximum(jnp.where(magnitude > 0, power - 1, 1 - self.bias), 1 - self.bias) - self.mantissa
        quantum = jnp.ldexp(jnp.float32(1), power)
        rounded = jnp.minimum(jnp.round(magnitude / quantum) * quantum, self.largest)
        return jnp.where(jnp.isnan(x), jnp.nan, jnp.copysign(rounded, x)).astype(jnp.float32)

    def encode(self, x: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
        """Sign, exponent and mantissa, as IEEE 754 lays them out."""
        magnitude = jnp.abs(jnp.nan_to_num(x))
        _, power = jnp.frexp(magnitude)
        stored = jnp.maximum(jnp.where(magnitude > 0, power - 1, 1 - self.bias) + self.bias, 1)
        steps = jnp.round(magnitude / jnp.ldexp(jnp.float32(1), stored - self.bias - self.mantissa))
        code = (stored - 1) * 2**self.mantissa + steps.astype(jnp.int32)  # a subnormal has steps < 2^mantissa
        sign = jnp.signbit(x).astype(jnp.int32) << (self.bits - 1)
        return (code + sign).astype(jnp.uint8)

    def decode(self, codes: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
        """By look-up; codes above the largest number are NaN."""
        return jnp.asarray(self._numbers())[codes]

    def _numbers(self) -> np.ndarray:
        codes = np.arange(2**self.bits)
        stored, steps = (codes >> self.mantissa) % 2**self.exponent, codes % 2**self.mantissa
        is_normal = stored > 0
        magnitude = np.ldexp(
            steps + is_normal * 2.0**self.mantissa, np.maximum(stored, 1) - self.bias - self.mantissa
        )
        magnitude[magnitude > self.largest] = np.nan
        return np.where(codes >> (self.bits - 1), -magnitude, magnitude).astype(np.float32)


E4M3 = Floating(4, 3, 7, float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max))  # 448
E5M2 = Floating(5, 2, 15, float(ml_dtypes.finfo(ml_dtypes.float8_e5m2).max))  # 57,344
E3M2 = Floating(3, 2, 3, 28.0)
E2M3 = Floating(2, 3, 1, 7.5)
E2M1 = Floating(2, 1, 1, 6.0)

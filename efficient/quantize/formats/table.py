"""Tables: any ascending numbers, each code an index."""

import dataclasses
import itertools
import math

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from efficient.quantize.format import Format


@dataclasses.dataclass(frozen=True)
class Table(Format):
    """The numbers given, ascending; half-way the lower.

    Raises:
      ValueError: fewer than 2 or more than 256 numbers, not finite, not ascending, or none above zero.
    """

    numbers: tuple[float, ...]

    def __post_init__(self) -> None:
        n = self.numbers
        is_ascending = all(a < b for a, b in itertools.pairwise(n))
        if not 2 <= len(n) <= 256 or not all(map(math.isfinite, n)) or not is_ascending or n[-1] <= 0:
            raise ValueError(
                f"numbers must be 2 to 256 finite ones, ascending, the last above 0, got {n!r}; sort them."
            )

    @property
    def bits(self) -> int:
        """Enough for an index."""
        return (len(self.numbers) - 1).bit_length()

    @property
    def high(self) -> float:
        """The largest magnitude: what a block's largest is scaled to."""
        return max(self.numbers[-1], -self.numbers[0])

    @property
    def low(self) -> float:
        """The first."""
        return self.numbers[0]

    def round(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """By binary search between the middles."""
        return jnp.where(jnp.isnan(x), jnp.nan, self.decode(self.encode(x)))

    def saturates(self, x: Float[Array, "*shape"]) -> Array:
        """True beyond the first and the last."""
        return (x > self.numbers[-1]) | (x < self.numbers[0])

    def encode(self, x: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
        """The index of the nearest; NaN is the last."""
        middles = [(a + b) / 2 for a, b in itertools.pairwise(self.numbers)]
        return jnp.searchsorted(jnp.array(middles, jnp.float32), x, side="left").astype(jnp.uint8)

    def decode(self, codes: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
        """By look-up; an index beyond the last is NaN."""
        unused = (math.nan,) * (2**self.bits - len(self.numbers))
        return jnp.array(self.numbers + unused, jnp.float32)[codes]

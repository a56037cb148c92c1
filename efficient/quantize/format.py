"""Format: a grid of numbers, and the code of each; what a scaled weight is rounded to.

A weight is stored as codes and, for each block of it, a scale (`Quantizer`): weight = decode(code) * scale. A
format knows only the numbers before the scale.
"""

import abc
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from efficient.core.constant import Constant


@dataclasses.dataclass(frozen=True)
class Format(Constant, abc.ABC):
    """A grid of at most 256 numbers. Subclasses are frozen dataclasses: values that hash and compare."""

    @property
    @abc.abstractmethod
    def bits(self) -> int:
        """Bits of a code, 1 to 8."""

    @property
    @abc.abstractmethod
    def high(self) -> float:
        """The number that the largest magnitude of a block is scaled to."""

    @property
    def low(self) -> float:
        """The lowest number of the grid."""
        return -self.high

    @property
    def is_affine(self) -> bool:
        """Whether a block has a zero point beside its scale."""
        return False

    @property
    def is_even(self) -> bool:
        """Whether the numbers are evenly spaced, one apart."""
        return False

    def scaled(self, low: Any, high: Any) -> tuple[Any, Any]:
        """`(scale, zero)` of ranges, covered by the grid times the scale; `zero` is None without zero points.

        Args:
          low: float32 of any shape, at most `high`.
          high: the same.

        Returns:
          scale: max(-low, high) / self.high, or with a zero point (high - low) / (2^bits - 1) where the range
            is widened to hold 0; 0 where there is nothing to cover: divide by `safe(scale)`.
          zero: round(-low / scale), a code, as a float.
        """
        if self.is_affine:
            low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
            scale = (high - low) / (self.high - self.low)
            return scale, jnp.clip(jnp.round(-low / safe(scale)), self.low, self.high)
        bound = jnp.maximum(-low, high) if self.low < 0 else jnp.maximum(high, 0.0)
        return bound / self.high, None

    @abc.abstractmethod
    def round(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The nearest number of the grid, the lowest or highest beyond it; NaN stays NaN."""

    @abc.abstractmethod
    def encode(self, x: Float[Array, "*shape"]) -> UInt8[Array, "*shape"]:
        """The codes of numbers of the grid (of `round`'s results)."""

    @abc.abstractmethod
    def decode(self, codes: UInt8[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The numbers of codes, in float32."""

    def saturates(self, x: Float[Array, "*shape"]) -> Any:
        """True where `x` is beyond the grid, so that `round` clips it."""
        return (x > self.high) | (x < self.low)

    def table(self) -> np.ndarray:
        """The number of every code, float32[2^bits]; NaN where a code stands for none."""
        with jax.ensure_compile_time_eval():
            return np.asarray(self.decode(jnp.arange(2**self.bits, dtype=jnp.uint8)))


def safe(scale: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """1 in place of what is too small to divide by; a NaN stays, and shows."""
    return jnp.where(~(scale > 0) & ~jnp.isnan(scale), 1.0, scale)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def round_to(grid: Format, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """`grid.round(x)`, with the straight-through gradient: 1 inside the grid's range, 0 where x is clipped.

    Source: Bengio et al., 2013, arXiv:1308.3432.
    """
    return grid.round(x)


@round_to.defjvp
def _round_to_jvp(grid: Format, primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return round_to(grid, x), jnp.where(grid.saturates(x), 0.0, dx)

"""Integer arithmetic: r = S (q - Z), and products that are rescaled without a floating-point number.

Source: Jacob et al., 2018, arXiv:1712.05877, sections 2.1 to 2.4; MIT 6.5940, Lab 2, for its two functions.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

LOW, HIGH = -128, 127  # of int8


class Affine8(NamedTuple):
    """What int8 numbers of one tensor stand for: scale * (q - zero)."""

    scale: float
    zero: int

    def real(self, q: Integer[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The real numbers."""
        return (q.astype(jnp.float32) - self.zero) * jnp.float32(self.scale)

    def nearest(self, x: Float[Array, "*shape"]) -> Integer[Array, "*shape"]:
        """The nearest int8 numbers, half to even, clipped."""
        return jnp.clip(jnp.round(x / jnp.float32(self.scale)) + self.zero, LOW, HIGH).astype(jnp.int8)


class Multiplier(NamedTuple):
    """M = mantissa 2^-shift, mantissa from 2^30 to 2^31 - 1 (0 for M = 0): equation 6 without the reals."""

    mantissa: Any  # int32, a number or one a channel
    shift: Any  # int32, 1 to 62


def affine_of(low: float, high: float) -> Affine8:
    """The scale and zero point of int8 numbers that cover low..high and hold 0 exactly.

    Raises:
      ValueError: not finite, or high below low.
    """
    if not (math.isfinite(low) and math.isfinite(high) and low <= high):
        raise ValueError(f"low and high must be finite and ascend, got {low!r} and {high!r}; calibrate anew.")
    low, high = min(low, 0.0), max(high, 0.0)
    scale = float(np.float32((high - low) / (HIGH - LOW))) or 1.0
    return Affine8(scale, int(np.clip(round(LOW - low / scale), LOW, HIGH)))


def multiplier(values: Any) -> Multiplier:
    """Positive numbers as fixed-point multipliers, to 31 bits.

    Raises:
      ValueError: a number that is negative, not finite, or not from 2^-31 to 2^29.
    """
    m = np.asarray(values, np.float64)
    if not np.isfinite(m).all() or (m < 0).any() or (m >= 2.0**29).any():
        raise ValueError(f"values must be from 0 to below 2^29 and finite, got {values!r}; rescale them.")
    fraction, power = np.frexp(m)  # m = fraction 2^power, fraction in [1/2, 1)
    mantissa = np.round(fraction * 2.0**31).astype(np.int64)
    over = mantissa == 2**31
    mantissa, power = np.where(over, 2**30, mantissa), power + over
    shift = 31 - power
    lost = np.maximum(shift - 62, 0)  # too small for 62 bits of shift: the mantissa gives some of its own
    mantissa = np.where(lost > 31, 0, mantissa >> np.minimum(lost, 31))
    shift = np.minimum(np.where(m == 0, 31, shift), 62)
    return Multiplier(jnp.asarray(mantissa.astype(np.int32)), jnp.asarray(shift.astype(np.int32)))


def requantize(acc: Int[Array, "*shape"], by: Multiplier) -> Int[Array, "*shape"]:
    """round(acc * M) in int32, half up: (acc * mantissa + 2^(shift - 1)) >> shift, 64 bits in two words.

    Exact for every int32; what does not fit in int32 saturates.

    Args:
      acc: int32.
      by: M; its arrays broadcast along the last axes of `acc`.
    """
    acc = acc.astype(jnp.int32)
    mantissa, shift = (jnp.broadcast_to(a, acc.shape) for a in by)
    high, low = _wide_product(acc, mantissa)
    is_long = shift > 32  # the half stands in the high word
    half_low = jnp.where(is_long, 0, jnp.left_shift(jnp.uint32(1), _amount(shift - 1)))
    half_high = jnp.where(is_long, jnp.left_shift(jnp.int32(1), _amount(shift - 33).astype(jnp.int32)), 0)
    total = low + half_low.astype(jnp.uint32)
    high = high + half_high + (total < low).astype(jnp.int32)
    beyond = jnp.right_shift(high, jnp.clip(shift - 32, 0, 31))
    upper = jnp.left_shift(high, jnp.clip(32 - shift, 0, 31))
    lower = jnp.right_shift(total, _amount(shift)).astype(jnp.int32)
    joined = jnp.where(shift == 32, high, upper | lower)
    is_lost = (shift < 32) & (jnp.right_shift(high, jnp.clip(shift - 1, 0, 31)) != jnp.right_shift(high, 31))
    most = jnp.where(high < 0, jnp.int32(-(2**31)), jnp.int32(2**31 - 1))
    return jnp.where(shift > 32, beyond, jnp.where(is_lost, most, joined))


def _amount(shift: Any) -> Any:
    """A shift within a word."""
    return jnp.clip(shift, 0, 31).astype(jnp.uint32)


def _wide_product(a: Any, b: Any) -> tuple[Any, Any]:
    """The 64-bit product of int32 and non-negative int32: its high word, and its low one, unsigned."""
    a_high, a_low = jnp.right_shift(a, 16), (a & 0xFFFF).astype(jnp.uint32)
    b_high, b_low = jnp.right_shift(b, 16), (b & 0xFFFF).astype(jnp.uint32)
    low = a_low * b_low
    one = a_high * b_low.astype(jnp.int32)  # fits: 2^15 * (2^16 - 1)
    two = (a_low * b_high.astype(jnp.uint32)).astype(jnp.int32)
    middle = (one & 0xFFFF).astype(jnp.uint32) + (two & 0xFFFF).astype(jnp.uint32) + (low >> 16)
    high = (
        a_high * b_high
        + jnp.right_shift(one, 16)
        + jnp.right_shift(two, 16)
        + (middle >> 16).astype(jnp.int32)
    )
    return high, (middle << 16) | (low & 0xFFFF)


def linear_quantize(x: Float[Array, "*shape"], bits: int, scale: Any, zero: Any) -> Int[Array, "*shape"]:
    """clip(round(x / S) + Z, -2^(bits-1), 2^(bits-1) - 1), half to even: Lab 2's `linear_quantize`.

    Args:
      x: float32.
      bits: 1 to 8.
      scale: S, a number or an array that broadcasts.
      zero: Z, likewise.

    Raises:
      ValueError: `bits` out of range.
    """
    if not 1 <= bits <= 8:
        raise ValueError(f"bits must be from 1 to 8, got {bits!r}; int8 holds no more.")
    q = jnp.round(x / scale) + zero
    return jnp.clip(q, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1).astype(jnp.int32)


def shifted_bias(bias: Int[Array, " out"], weight: Int[Array, "in out"], zero: int) -> Int[Array, " out"]:
    """Q_bias = q_b - Z_x sum q_w, so that a product needs no input's zero point (section 2.3, equation 7)."""
    return bias - zero * jnp.sum(weight.astype(jnp.int32), 0)


def quantized_dense(
    x: Int[Array, "batch in"],
    weight: Int[Array, "in out"],
    q_bias: Int[Array, " out"],
    by: Multiplier,
    zero: int,
    *,
    bits: int = 8,
) -> Int[Array, "batch out"]:
    """clip(round(M (q_x q_w + Q_bias)) + Z_y): a dense layer, as Lab 2's `quantized_linear`.

    Args:
      x: q_x, integers of `bits` bits.
      weight: q_w, symmetric ones.
      q_bias: `shifted_bias`.
      by: M = S_x S_w / S_y.
      zero: Z_y.
      bits: of the result.
    """
    acc = jax.lax.dot(x.astype(jnp.int32), weight.astype(jnp.int32))
    acc = acc + jnp.broadcast_to(q_bias, acc.shape)
    return jnp.clip(requantize(acc, by) + zero, -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)

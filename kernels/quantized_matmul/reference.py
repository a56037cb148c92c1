"""Reference: codes decoded in plain jnp, then a float32 product. The oracle of every tier."""

from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.quantized_matmul.arguments import Packing, decoded
from jaxtyping import Array, Float, Int


def reference(
    x: Float[Array, "m k"], codes: Any, scale: Any, shift: Any, table: Any, *, packing: Packing
) -> Float[Array, "m n"]:
    """X W in float32, at the highest precision; arguments as `quantized_matmul`'s."""
    weights = decoded(codes, scale, shift, table, packing)
    return jnp.matmul(x.astype(jnp.float32), weights, precision=jax.lax.Precision.HIGHEST)


def rounded(
    x: Float[Array, "m k"], step: Float[Array, ""] | None, per_row: bool
) -> tuple[Int[Array, "m k"], Float[Array, "m 1"]]:
    """The integers of each row and their step; where there can be none, zeros and a step of nan."""
    x = x.astype(jnp.float32)
    top, tiny = jnp.max(jnp.abs(x), axis=1, keepdims=True, initial=0), jnp.finfo(jnp.float32).tiny
    if not per_row and step is None:
        top = jnp.broadcast_to(jnp.max(top, initial=0), top.shape)
    used = (
        jnp.maximum(top * jnp.float32(1 / 127), tiny) if step is None else jnp.broadcast_to(step, top.shape)
    )
    is_sound = jnp.isfinite(top) & jnp.isfinite(used) & (used >= tiny)
    by = 1 / jnp.where(is_sound, used, 1)
    values = jnp.clip(jnp.round(jnp.where(is_sound, x, 0) * by), -127, 127).astype(jnp.int32)
    return values, jnp.where(is_sound, used, jnp.nan)


def int8_reference(
    x: Float[Array, "m k"],
    codes: Any,
    scale: Any,
    shift: Any,
    step: Any,
    *,
    packing: Packing,
    per_row: bool = True,
) -> Float[Array, "m n"]:
    """Q(x) W: weights decoded, x rounded, a float32 product at the highest precision.

    The gradient passes to x where it is not clipped, and not to its step.
    """
    return by_rounded(x, decoded(codes, scale, shift, None, packing), step, per_row)


def by_rounded(
    x: Float[Array, "m k"], weights: Float[Array, "k n"], step: Float[Array, ""] | None, per_row: bool
) -> Float[Array, "m n"]:
    """Q(x) times weights."""
    still, x = jax.lax.stop_gradient, x.astype(jnp.float32)
    values, used = rounded(still(x), None if step is None else still(step), per_row)
    passes = x if step is None else jnp.where(jnp.abs(still(x)) <= 127.5 * used, x, still(x))
    through = still(values.astype(jnp.float32)) + (passes - still(passes)) / used
    return jnp.matmul(through, weights, precision=jax.lax.Precision.HIGHEST) * used

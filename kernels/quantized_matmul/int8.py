"""Products in 8-bit integers, x rounded as it comes (W8A8, W4A8): the oracle and the entry point."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.quantized_matmul.arguments import by_tier, checked_group, picked
from efficient.kernels.quantized_matmul.reference import decoded
from jaxtyping import Array, Float, Int, Num, UInt8

TARGET = "efficient_int8_matmul"
SYMBOL = "EfficientInt8Matmul"
NATIVES = {"cpu": 0, "cpu_portable": 1, "cpu_vnni": 2}  # and what C++ knows them by
SOURCE = Path(__file__).parent / "int8.cc"


def int8_matmul(
    x: Float[Array, "... k"],
    codes: UInt8[Array, "..."],
    scale: Float[Array, "..."],
    shift: Num[Array, "..."] | None = None,
    *,
    bits: int,
    columns: int,
    group: int = 0,
    x_scale: Float[Array, ""] | None = None,
    implementation: str | None = None,
) -> Float[Array, "... n"]:
    """Q(x) W, W[k, n] = (code[k, n] - shift[g, n]) scale[g, n], g = k // group, Q to signed 8 bits.

    Sums over runs of up to 256 rows are exact integers; scales are applied to them in float32. A row of x
    with an infinity or a nan gives nan throughout. The gradient goes to x as if it were not rounded.

    Source: Jacob et al., 2018, arXiv:1712.05877, section 2.2 (products of integers), with a step for each row
    as in Dettmers et al., LLM.int8(), 2022, arXiv:2208.07339. *Differs:* no column of x is kept in float.

    Args:
      x: any float; its rows are rounded to the nearest (ties to even) of -127 to 127 steps.
      codes: of 4 bits, two a byte along the columns, the first lowest, [k, ceil(columns / 2)]; or of 8,
        [k, columns]. Unsigned: signed weights of `b` bits are shifted by 2^(b - 1).
      scale: [runs, columns or 1], of each run of `group` rows.
      shift: the same, taken off codes before the scale: zero points; None is 0.
      bits: of a code, 4 or 8.
      columns: n.
      group: rows of a run, the last of which may be shorter; 0 is one run.
      x_scale: the step of all of x (static); one that is no positive normal number gives nan.
        None takes the largest absolute value of each row / 127 (dynamic).
      implementation: None picks; "cpu" wants the C++ kernel, "cpu_portable" the same without AVX-512,
        "cpu_vnni" without AMX.

    Raises:
      ValueError: shapes or sizes that do not go together.
      NotImplementedError: an implementation that is not to be had here.
    """
    if bits not in (4, 8):
        raise ValueError(f"bits must be 4 or 8, got {bits}; codes of fewer bits are kept in 4.")
    group = checked_group(x, codes, scale, shift, bits=bits, columns=columns, group=group)
    flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    shift = jnp.zeros((0, 0), jnp.float32) if shift is None else shift.astype(jnp.float32)
    step = jnp.zeros(0, jnp.float32) if x_scale is None else x_scale.astype(jnp.float32).reshape(1)
    tier = picked(implementation, NATIVES, SOURCE, SYMBOL, TARGET)
    out = _differentiable(flat, codes, scale.astype(jnp.float32), shift, step, bits, group, columns, tier)
    return out.reshape(*x.shape[:-1], columns).astype(x.dtype)


def rounded(
    x: Float[Array, "m k"], step: Float[Array, "..."]
) -> tuple[Int[Array, "m k"], Float[Array, "m 1"]]:
    """The integers of each row and their step; where there can be none, zeros and a step of nan."""
    top, tiny = jnp.max(jnp.abs(x), axis=1, keepdims=True, initial=0), jnp.finfo(jnp.float32).tiny
    dynamic = jnp.maximum(top * jnp.float32(1 / 127), tiny)
    used = jnp.broadcast_to(step, top.shape) if step.size else dynamic
    is_sound = jnp.isfinite(top) & jnp.isfinite(used) & (used >= tiny)
    by = 1 / jnp.where(is_sound, used, 1)
    values = jnp.clip(jnp.round(jnp.where(is_sound, x, 0) * by), -127, 127).astype(jnp.int32)
    return values, jnp.where(is_sound, used, jnp.nan)


def int8_reference(
    x: Float[Array, "m k"],
    codes: UInt8[Array, "k p"],
    scale: Float[Array, "..."],
    shift: Float[Array, "..."],
    step: Float[Array, "..."],
    *,
    bits: int,
    group: int,
    columns: int,
) -> Float[Array, "m n"]:
    """The oracle: weights decoded, x rounded, a float32 product at the highest precision."""
    values, used = rounded(x, step)
    weights = _weights(codes, scale, shift, bits=bits, group=group, columns=columns)
    product = jnp.matmul(values.astype(jnp.float32), weights, precision=jax.lax.Precision.HIGHEST)
    return product * used


def _weights(codes: Any, scale: Any, shift: Any, *, bits: int, group: int, columns: int) -> Any:
    """W in float32."""
    table = jnp.arange(2**bits, dtype=jnp.float32)
    shift = shift if shift.size else None
    return decoded(codes, table, scale, shift, bits=bits, group=group, columns=columns)


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def _differentiable(
    x: Any, codes: Any, scale: Any, shift: Any, step: Any, bits: int, group: int, columns: int, tier: str
) -> Any:
    """The product; its gradient goes to x."""
    plain = functools.partial(int8_reference, bits=bits, group=group, columns=columns)
    native = functools.partial(_native, bits=bits, group=group, columns=columns, tier=tier)
    return by_tier(tier, plain, native, x, codes, scale, shift, step)


def _native(
    x: Any, codes: Any, scale: Any, shift: Any, step: Any, *, bits: int, group: int, columns: int, tier: str
) -> Any:
    """The C++ kernel."""
    call = jax.ffi.ffi_call(
        TARGET, jax.ShapeDtypeStruct((x.shape[0], columns), jnp.float32), vmap_method="sequential"
    )
    return call(x, codes, scale, shift, step, bits=bits, group=group, tier=NATIVES.get(tier, 0))


def _forward(x: Any, codes: Any, scale: Any, shift: Any, step: Any, *static: Any) -> Any:
    return _differentiable(x, codes, scale, shift, step, *static), (codes, scale, shift, step)


def _backward(bits: int, group: int, columns: int, tier: str, kept: Any, slope: Any) -> Any:
    """Dx = dy W^T; nothing for the weights, which are packed, nor for the step."""
    codes, scale, shift, step = kept
    weights = _weights(codes, scale, shift, bits=bits, group=group, columns=columns)
    dx = jnp.matmul(slope, weights.T, precision=jax.lax.Precision.HIGHEST)
    zeros = [jnp.zeros_like(a) for a in (scale, shift, step)]
    return dx, jnp.zeros(codes.shape, jax.dtypes.float0), *zeros


_differentiable.defvjp(_forward, _backward)

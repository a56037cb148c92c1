"""x W^T where a row of codes is summed over, as of tied embeddings: the entry point, which picks the tier."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.derivative import derived_from
from efficient.kernels.quantized_matmul.arguments import Packing, decoded_along, single_precision
from efficient.kernels.quantized_matmul.reference import by_rounded
from efficient.kernels.rows import flat_rows, like_rows, rows_together
from efficient.kernels.tiers import Native, by_tier
from jaxtyping import Array, Float, Int8, Num, UInt8

NATIVE = Native(
    name="transposed_matmul",
    source=Path(__file__).parent / "transposed.cc",
    symbol="EfficientTransposedMatmul",
    tiers={"cpu": 0, "cpu_portable": 1},
)


def transposed_matmul(
    x: Float[Array, "... k"],
    codes: UInt8[Array, "..."] | Int8[Array, "..."],
    scale: Float[Array, "..."],
    shift: Num[Array, "..."] | None = None,
    *,
    bits: int,
    table: Num[Array, "..."] | None = None,
    group: int = 0,
    is_signed: bool = False,
    is_rounded: bool = False,
    x_scale: Float[Array, ""] | None = None,
    per_row: bool = True,
    implementation: str | None = None,
) -> Float[Array, "... n"]:
    """X W^T, W[n, k] = (number of code[n, k] - shift[n, g]) scale[n, g], g = k // group; x rounded or not.

    Works under `jit`, `vmap`, `scan` and derivatives of any order, in every float argument.

    Args:
      x: any float; summed in float32, returned in its own dtype.
      codes: bytes [n, ceil(k * bits / 8)], side by side along what is summed over, the first of a byte in its
        lowest bits.
      scale: [n or 1, runs], of each run of `group` columns.
      shift: the same, taken off numbers before the scale; None is 0.
      bits: of a code, 2, 4 or 8.
      table: the number of each code, at most 2^bits; None: codes are whole numbers.
      group: columns of a run, the last of which may be shorter; 0 is one run.
      is_signed: whole numbers are two's complement, as int8 codes always are.
      is_rounded: x is rounded to signed 8 bits, as `int8_matmul` does.
      x_scale: its step; None is the largest absolute value / 127, of each row or of all.
      per_row: a step is each row's own.
      implementation: None picks; "cpu" wants the C++ kernel, "cpu_portable" the same without AVX-512.

    Raises:
      ValueError: shapes or sizes that do not go together.
      NotImplementedError: an implementation that is not to be had here.
    """
    packing = _checked(x, codes, scale, shift, bits=bits, group=group, is_signed=is_signed)
    if table is not None:
        if table.ndim != 1 or not 1 <= table.shape[0] <= 2**bits:
            raise ValueError(
                f"table must have a number for each code, at most {2**bits}, got {table.shape}; fill it up."
            )
        table = jnp.pad(table.astype(jnp.float32), (0, 2**bits - table.shape[0]))
    rounds = (2 if per_row and x_scale is None else 1) if is_rounded else 0
    if x_scale is not None and not is_rounded:
        raise ValueError("x_scale must go with is_rounded, got it alone; x is not rounded without.")
    tier = NATIVE.picked(implementation)
    args = (codes, *map(single_precision, (scale, shift)), table, single_precision(x_scale))
    return like_rows(_run(flat_rows(x), *args, packing=packing, rounds=rounds, tier=tier), x)


def _checked(
    x: Any, codes: Any, scale: Any, shift: Any, *, bits: int, group: int, is_signed: bool
) -> Packing:
    """The packing; `columns` are what is summed over.

    Raises:
      ValueError: shapes or sizes that do not go together.
    """
    if bits not in (2, 4, 8):
        raise ValueError(f"bits must be 2, 4 or 8, got {bits}; codes of other widths are kept in the next.")
    k = x.shape[-1] if x.ndim else -1
    group = group or max(k, 1)
    if codes.ndim != 2 or codes.shape[1] != -(-k * bits // 8) or group < 1:
        raise ValueError(
            f"codes must be rows of bytes of {k} columns, and group from 0, got {codes.shape} and {group}; "
            "pack along what is summed over."
        )
    runs = -(-k // group)
    for name, values in (("scale", scale), ("shift", shift)):
        if values is not None and values.shape not in ((codes.shape[0], runs), (1, runs)):
            raise ValueError(
                f"{name} must be [{codes.shape[0]} rows or 1, {runs} runs of {group}], got {values.shape}."
            )
    return Packing(bits, k, group, is_signed or codes.dtype == jnp.int8)


@functools.partial(jax.jit, static_argnames=("packing", "rounds", "tier"))  # traced once for each shape
def _run(
    x: Any,
    codes: Any,
    scale: Any,
    shift: Any,
    table: Any,
    step: Any,
    *,
    packing: Packing,
    rounds: int,
    tier: str,
) -> Any:
    """The product of a tier, in float32."""

    def plain(x: Any, codes: Any, scale: Any, shift: Any, table: Any, step: Any) -> Any:
        weights = decoded_along(codes, scale, shift, table, packing).T
        if rounds:
            return by_rounded(x, weights, step, rounds == 2)
        return jnp.matmul(x.astype(jnp.float32), weights, precision=jax.lax.Precision.HIGHEST)

    native = functools.partial(_native, packing=packing, rounds=rounds, tier=tier)
    native = rows_together(native, is_each=rounds != 1 or step is not None)
    run = derived_from(plain, functools.partial(by_tier, tier, plain, native))
    return run(x, codes, scale, shift, table, step)


def _native(
    x: Any,
    codes: Any,
    scale: Any,
    shift: Any,
    table: Any,
    step: Any,
    *,
    packing: Packing,
    rounds: int,
    tier: str,
) -> Any:
    """The C++ kernel."""
    none, empty = jnp.zeros((0, 0), jnp.float32), jnp.zeros(0, jnp.float32)
    return NATIVE.call(
        tier,
        (x.shape[0], codes.shape[0]),
        x.astype(jnp.float32),
        codes,
        empty if table is None else table,
        scale,
        none if shift is None else shift,
        empty if step is None else step.reshape(1),
        bits=packing.bits,
        group=packing.group,
        is_signed=packing.is_signed,
        rounds=rounds,
    )

"""Rows of x in groups, each times a matrix of its own: the entry points, which pick the tier."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.derivative import derived_from
from efficient.kernels.grouped_matmul.reference import quantized_reference, reference
from efficient.kernels.quantized_matmul.arguments import (
    Packing,
    checked_packing,
    filled_table,
    single_precision,
)
from efficient.kernels.tiers import PALLAS, Native, by_tier
from jaxtyping import Array, Float, Int, Int8, Num, UInt8

SOURCE = Path(__file__).parent.parent / "quantized_matmul" / "cpu.cc"
NATIVE = Native(
    name="grouped_matmul",
    source=SOURCE,
    symbol="EfficientGroupedMatmul",
    tiers={"cpu": 0, "cpu_portable": 1},
    others=("pallas_tpu", "pallas_gpu"),
)
QUANTIZED = Native(
    name="grouped_quantized_matmul",
    source=SOURCE,
    symbol="EfficientGroupedQuantizedMatmul",
    tiers={"cpu": 0, "cpu_portable": 1},
)


def grouped_matmul(
    x: Float[Array, "m k"],
    weights: Float[Array, "groups rows n"],
    sizes: Int[Array, "..."],
    *,
    implementation: str | None = None,
) -> Float[Array, "m n"]:
    """y[i] = x[i] weights[e], where row i is one of the `sizes[e]` rows of group e, which follow one another.

    What `jax.lax.ragged_dot` is, whose cost on a CPU grows with the number of groups. Works under `jit`,
    `vmap`, `scan` and derivatives of any order, in x and the weights.

    Args:
      x: any float, rows in the order of their groups; summed in float32, returned in its own dtype.
      weights: any float, a matrix for each of e groups.
      sizes: int32 [e], from 0; rows beyond their sum give 0, groups beyond the rows are cut off.
      implementation: None picks, of the reference and C++; "cpu" wants the C++ kernel, "cpu_portable" that
        without AVX-512; "pallas_tpu" and "pallas_gpu" want theirs, interpreted off their platform.

    Raises:
      ValueError: shapes that do not go together.
      NotImplementedError: an implementation that is not to be had here.
    """
    if weights.shape[1] != x.shape[1] or sizes.shape != (weights.shape[0],) or 0 in weights.shape:
        raise ValueError(
            f"weights must be [e, {x.shape[1]}, n] and sizes [e], got {weights.shape} and {sizes.shape}."
        )
    tier = NATIVE.picked(implementation)
    return _run(x, weights, _within(sizes, x.shape[0]), tier=tier).astype(x.dtype)


def grouped_quantized_matmul(
    x: Float[Array, "m k"],
    sizes: Int[Array, "..."],
    codes: UInt8[Array, "..."] | Int8[Array, "..."],
    scale: Float[Array, "..."],
    shift: Num[Array, "..."] | None = None,
    *,
    bits: int,
    columns: int,
    table: Num[Array, "..."] | None = None,
    group: int = 0,
    is_signed: bool = False,
    implementation: str | None = None,
) -> Float[Array, "m n"]:
    """`grouped_matmul` with each group's matrix in packed codes, as `quantized_matmul` has one.

    Args:
      x: any float, rows in the order of their groups.
      sizes: int32 [e], from 0; rows beyond their sum give 0.
      codes: [e, k, bytes].
      scale: [e, runs, columns or 1].
      shift: the same, or None.
      bits: of a code, 2, 4 or 8; and so on as there.
      columns: n.
      table: one for all groups, or None.
      group: rows of a run of a matrix; 0 is one run.
      is_signed: whole numbers are two's complement.
      implementation: None picks; "cpu" wants the C++ kernel, "cpu_portable" that without AVX-512.

    Raises:
      ValueError: shapes or sizes that do not go together.
      NotImplementedError: an implementation that is not to be had here.
    """
    stacked = [a for a in (codes, scale, shift) if a is not None]
    if sizes.ndim != 1 or not sizes.size or any(a.ndim != 3 or len(a) != len(sizes) for a in stacked):
        raise ValueError(
            f"codes, scale and shift must have a matrix for each of sizes {sizes.shape}, got "
            f"{[a.shape for a in stacked]}; stack them."
        )
    one = (None if a is None else jax.eval_shape(lambda a: a[0], a) for a in (codes, scale, shift))
    packing = checked_packing(x, *one, bits=bits, columns=columns, group=group, is_signed=is_signed)
    table = None if table is None else filled_table(table, bits)
    tier = QUANTIZED.picked(implementation)
    args = (codes, *map(single_precision, (scale, shift)), table)
    return _quantized(x, _within(sizes, x.shape[0]), *args, packing=packing, tier=tier).astype(x.dtype)


def _within(sizes: Any, rows: int) -> Any:
    """Sizes whose sum is at most the rows."""
    ends = jnp.minimum(jnp.cumsum(jnp.maximum(sizes.astype(jnp.int32), 0)), rows)
    return jnp.diff(ends, prepend=0)


@functools.partial(jax.jit, static_argnames="tier")  # traced once for layers of one shape
def _run(x: Any, weights: Any, sizes: Any, *, tier: str) -> Any:
    """By a tier, in float32."""

    def native(x: Any, weights: Any, sizes: Any) -> Any:
        shape = (x.shape[0], weights.shape[2])
        return NATIVE.call(tier, shape, *(a.astype(jnp.float32) for a in (x, weights)), sizes)

    pallas = None
    if tier in PALLAS:
        from efficient.kernels.grouped_matmul import pallas as kernels

        pallas = kernels.on_tpu if tier == "pallas_tpu" else kernels.on_gpu
    kernel = functools.partial(by_tier, tier, reference, native, pallas=pallas)
    return derived_from(reference, kernel)(x, weights, sizes)


@functools.partial(jax.jit, static_argnames=("packing", "tier"))  # traced once for layers of one shape
def _quantized(
    x: Any, sizes: Any, codes: Any, scale: Any, shift: Any, table: Any, *, packing: Packing, tier: str
) -> Any:
    """By a tier, in float32."""
    plain = functools.partial(quantized_reference, packing=packing)

    def native(x: Any, sizes: Any, codes: Any, scale: Any, shift: Any, table: Any) -> Any:
        return QUANTIZED.call(
            tier,
            (x.shape[0], packing.columns),
            x.astype(jnp.float32),
            sizes,
            codes,
            jnp.zeros(0, jnp.float32) if table is None else table,
            scale,
            jnp.zeros((0, 0, 0), jnp.float32) if shift is None else shift,
            bits=packing.bits,
            group=packing.group,
            is_signed=packing.is_signed,
        )

    kernel = functools.partial(by_tier, tier, plain, native)
    return derived_from(plain, kernel)(x, sizes, codes, scale, shift, table)

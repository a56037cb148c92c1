"""Products with x in float: the entry point, which picks the tier."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.derivative import derived_from
from efficient.kernels.quantized_matmul.arguments import (
    Packing,
    checked_packing,
    filled_table,
    single_precision,
)
from efficient.kernels.quantized_matmul.reference import reference
from efficient.kernels.rows import flat_rows, like_rows, rows_together
from efficient.kernels.tiers import PALLAS, Native, by_tier
from jaxtyping import Array, Float, Int8, Num, UInt8

NATIVE = Native(
    name="quantized_matmul",
    source=Path(__file__).parent / "cpu.cc",
    symbol="EfficientQuantizedMatmul",
    tiers={"cpu": 0, "cpu_portable": 1, "cpu_avx512": 2},
    others=("pallas_tpu", "pallas_gpu"),
)


def quantized_matmul(
    x: Float[Array, "... k"],
    codes: UInt8[Array, "..."] | Int8[Array, "..."],
    scale: Float[Array, "..."],
    shift: Num[Array, "..."] | None = None,
    *,
    bits: int,
    columns: int,
    table: Float[Array, "..."] | None = None,
    group: int = 0,
    is_signed: bool = False,
    implementation: str | None = None,
) -> Float[Array, "... n"]:
    """X W in float32, W[k, n] = (number of code[k, n] - shift[g, n]) * scale[g, n], g = k // group.

    On a CPU, C++ decodes the weights where they are multiplied; elsewhere, and where nothing can be compiled,
    XLA decodes them first. Works under `jit`, `vmap`, `scan` and derivatives of any order, in x, scale, shift
    and table; under `vmap` over x alone, all rows are multiplied at once.

    Args:
      x: any float; summed in float32, returned in its own dtype.
      codes: bytes [k, ceil(columns * bits / 8)], codes side by side along the columns, the first of a byte in
        its lowest bits.
      scale: [runs, columns or 1], of each run of `group` rows.
      shift: the same, taken off before the scale: zero points; None is 0.
      bits: of a code, 2, 4 or 8.
      columns: n.
      table: the number of every code that occurs, at most 2^bits; of at most 16 codes it is fast. None: codes
        are whole numbers.
      group: rows of a run, the last of which may be shorter; 0 is one run.
      is_signed: whole numbers are two's complement, as int8 codes always are.
      implementation: None picks, of the reference and C++; "pallas_tpu" and "pallas_gpu" want those kernels,
        interpreted off their platform; "cpu" wants the C++ kernel, "cpu_avx512" the same without AMX,
        "cpu_portable" without AVX-512.

    Raises:
      ValueError: shapes or sizes that do not go together.
      NotImplementedError: an implementation that is not to be had here.
    """
    packing = checked_packing(
        x, codes, scale, shift, bits=bits, columns=columns, group=group, is_signed=is_signed
    )
    table = None if table is None else filled_table(table, bits)
    tier = NATIVE.picked(implementation)
    _check_pallas(tier, table)
    out = _run(
        flat_rows(x),
        codes,
        single_precision(scale),
        single_precision(shift),
        table,
        packing=packing,
        tier=tier,
    )
    return like_rows(out, x)


@functools.partial(jax.jit, static_argnames=("packing", "tier"))  # traced once for layers of one shape
def _run(x: Any, codes: Any, scale: Any, shift: Any, table: Any, *, packing: Packing, tier: str) -> Any:
    """The product of a tier, in float32."""
    plain = functools.partial(reference, packing=packing)
    native = rows_together(functools.partial(_native, packing=packing, tier=tier))
    kernel = functools.partial(by_tier, tier, plain, native, pallas=_pallas(tier, packing))
    return derived_from(plain, kernel)(x, codes, scale, shift, table)


def _native(x: Any, codes: Any, scale: Any, shift: Any, table: Any, *, packing: Packing, tier: str) -> Any:
    """The C++ kernel."""
    shape = (x.shape[0], packing.columns)
    none, empty = jnp.zeros((0, 0), jnp.float32), jnp.zeros(0, jnp.float32)
    return NATIVE.call(
        tier,
        shape,
        x.astype(jnp.float32),
        codes,
        empty if table is None else table,
        scale,
        none if shift is None else shift,
        bits=packing.bits,
        group=packing.group,
        is_signed=packing.is_signed,
    )


def _check_pallas(tier: str, table: Any) -> None:
    """Refuses what the Pallas kernels cannot do.

    Raises:
      NotImplementedError: a large table.
    """
    if tier in PALLAS and table is not None and table.shape[0] > 16:
        raise NotImplementedError(
            f"table must have at most 16 numbers for {tier}, got {table.shape[0]}; leave implementation out."
        )


def _pallas(tier: str, packing: Packing) -> Any:
    """The kernel of a Pallas tier, or None."""
    if tier not in PALLAS:
        return None
    from efficient.kernels.quantized_matmul.pallas_gpu import pallas_gpu
    from efficient.kernels.quantized_matmul.pallas_tpu import pallas_tpu

    return functools.partial(pallas_tpu if tier == "pallas_tpu" else pallas_gpu, packing=packing)

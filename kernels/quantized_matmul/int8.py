"""Products in 8-bit integers, x rounded as it comes (W8A8, W4A8): the entry point, which picks the tier."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.derivative import derived_from
from efficient.kernels.quantized_matmul.arguments import (
    Packing,
    checked_packing,
    single_precision,
)
from efficient.kernels.quantized_matmul.reference import int8_reference
from efficient.kernels.rows import flat_rows, like_rows, rows_together
from efficient.kernels.tiers import PALLAS, Native, by_tier
from jaxtyping import Array, Float, Int8, Num, UInt8

NATIVE = Native(
    name="int8_matmul",
    source=Path(__file__).parent / "int8.cc",
    symbol="EfficientInt8Matmul",
    tiers={"cpu": 0, "cpu_portable": 1, "cpu_vnni": 2},
    others=("pallas_tpu", "pallas_gpu"),
)


def int8_matmul(
    x: Float[Array, "... k"],
    codes: UInt8[Array, "..."] | Int8[Array, "..."],
    scale: Float[Array, "..."],
    shift: Num[Array, "..."] | None = None,
    *,
    bits: int,
    columns: int,
    group: int = 0,
    is_signed: bool = False,
    x_scale: Float[Array, ""] | None = None,
    per_row: bool = True,
    implementation: str | None = None,
) -> Float[Array, "... n"]:
    """Q(x) W, W[k, n] = (code[k, n] - shift[g, n]) scale[g, n], g = k // group, Q to signed 8 bits.

    Sums over runs of up to 256 rows are exact integers; scales are applied to them in float32. A row of x
    with an infinity or a nan gives nan throughout. The gradient goes to x as if it were not rounded, and is 0
    where it is clipped; the step of x has none.

    Source: Jacob et al., 2018, arXiv:1712.05877, section 2.2 (products of integers), with a step for each row
    as in Dettmers et al., LLM.int8(), 2022, arXiv:2208.07339. *Differs:* no column of x is kept in float.

    Args:
      x: any float; its rows are rounded to the nearest (ties to even) of -127 to 127 steps.
      codes: bytes [k, ceil(columns * bits / 8)], codes side by side along the columns, the first of a byte in
        its lowest bits.
      scale: [runs, columns or 1], of each run of `group` rows.
      shift: the same, taken off codes before the scale: zero points; None is 0.
      bits: of a code, 2, 4 or 8.
      columns: n.
      group: rows of a run, the last of which may be shorter; 0 is one run.
      is_signed: codes are two's complement, as int8 codes always are.
      x_scale: the step of all of x (static); one that is no positive normal number gives nan.
        None takes the largest absolute value / 127 (dynamic).
      per_row: a dynamic step is each row's own; else that of all of x.
      implementation: None picks, of the reference and C++; "pallas_tpu" and "pallas_gpu" want those kernels,
        interpreted off their platform; "cpu" wants the C++ kernel, "cpu_portable" the same without AVX-512,
        "cpu_vnni" without AMX.

    Raises:
      ValueError: shapes or sizes that do not go together.
      NotImplementedError: an implementation that is not to be had here.
    """
    packing = checked_packing(
        x, codes, scale, shift, bits=bits, columns=columns, group=group, is_signed=is_signed
    )
    tier = NATIVE.picked(implementation)
    _check_pallas(tier, packing, x.shape[-1])
    arrays = map(single_precision, (scale, shift, x_scale))
    out = _run(flat_rows(x), codes, *arrays, packing=packing, per_row=per_row, tier=tier)
    return like_rows(out, x)


# Traced once for all layers of one shape.
@functools.partial(jax.jit, static_argnames=("packing", "per_row", "tier"))
def _run(
    x: Any, codes: Any, scale: Any, shift: Any, step: Any, *, packing: Packing, per_row: bool, tier: str
) -> Any:
    """The product of a tier, in float32."""
    plain = functools.partial(int8_reference, packing=packing, per_row=per_row)
    native = functools.partial(_native, packing=packing, per_row=per_row, tier=tier)
    native = rows_together(native, is_each=per_row or step is not None)
    kernel = functools.partial(by_tier, tier, plain, native, pallas=_pallas(tier, packing, per_row))
    return derived_from(plain, kernel)(x, codes, scale, shift, step)


def _native(
    x: Any, codes: Any, scale: Any, shift: Any, step: Any, *, packing: Packing, per_row: bool, tier: str
) -> Any:
    """The C++ kernel."""
    shape = (x.shape[0], packing.columns)
    return NATIVE.call(
        tier,
        shape,
        x.astype(jnp.float32),
        codes,
        scale,
        jnp.zeros((0, 0), jnp.float32) if shift is None else shift,
        jnp.zeros(0, jnp.float32) if step is None else step.reshape(1),
        bits=packing.bits,
        group=packing.group,
        is_signed=packing.is_signed,
        per_row=per_row,
    )


def _check_pallas(tier: str, packing: Packing, rows: int) -> None:
    """Refuses what the Pallas kernels cannot do.

    Raises:
      NotImplementedError: runs that registers are not cut by.
    """
    if tier in PALLAS and packing.group < rows and packing.group % 32:
        raise NotImplementedError(
            f"group must be all rows or a multiple of 32 for {tier}, got {packing.group}; leave "
            "implementation out."
        )


def _pallas(tier: str, packing: Packing, per_row: bool) -> Any:
    """The kernel of a Pallas tier, or None."""
    if tier not in PALLAS:
        return None
    from efficient.kernels.quantized_matmul.int8_pallas import int8_pallas_gpu, int8_pallas_tpu

    kernel = int8_pallas_tpu if tier == "pallas_tpu" else int8_pallas_gpu
    return functools.partial(kernel, packing=packing, per_row=per_row)

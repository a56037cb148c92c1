"""Quantized matmul: the entry point, which picks the tier."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.quantized_matmul.arguments import by_tier, checked_group, picked
from efficient.kernels.quantized_matmul.reference import decoded, reference
from jaxtyping import Array, Float, Num, UInt8

TARGET = "efficient_quantized_matmul"
SYMBOL = "EfficientQuantizedMatmul"
NATIVES = {"cpu": 0, "cpu_portable": 1}  # and what C++ knows them by
SOURCE = Path(__file__).parent / "cpu.cc"


def quantized_matmul(
    x: Float[Array, "... k"],
    codes: UInt8[Array, "..."],
    table: Float[Array, "..."],
    scale: Float[Array, "..."],
    shift: Num[Array, "..."] | None = None,
    *,
    columns: int,
    group: int = 0,
    implementation: str | None = None,
) -> Float[Array, "... n"]:
    """X W in float32, W[k, n] = (table[code[k, n]] - shift[g, n]) * scale[g, n], g = k // group.

    On a CPU, C++ decodes the weights where they are multiplied; elsewhere, and where nothing can be compiled,
    XLA decodes them first. Works under `jit`, `grad` (in x alone), `vmap` and `scan`.

    Args:
      x: any float; computed in float32, returned in its own dtype.
      codes: of 4 bits, two a byte along the columns, the first lowest, [k, ceil(columns / 2)]; or of 8,
        [k, columns].
      table: the number of every code: 16 of them say that codes have 4 bits, 256 that they have 8.
      scale: [runs, columns or 1], of each run of `group` rows.
      shift: the same, taken off before the scale: zero points; None is 0.
      columns: n.
      group: rows of a run, the last of which may be shorter; 0 is one run.
      implementation: None picks; "cpu" wants the C++ kernel, "cpu_portable" the same without AVX-512.

    Raises:
      ValueError: shapes or sizes that do not go together.
      NotImplementedError: an implementation that is not to be had here.
    """
    bits = _bits(table)
    group = checked_group(x, codes, scale, shift, bits=bits, columns=columns, group=group)
    flat = x.reshape(-1, x.shape[-1]).astype(jnp.float32)
    shift = None if shift is None else shift.astype(jnp.float32)
    args = (flat, codes, table.astype(jnp.float32), scale.astype(jnp.float32), shift)
    out = _differentiable(
        *args, bits, group, columns, picked(implementation, NATIVES, SOURCE, SYMBOL, TARGET)
    )
    return out.reshape(*x.shape[:-1], columns).astype(x.dtype)


def _bits(table: Array) -> int:
    """Of a code.

    Raises:
      ValueError: neither 16 nor 256 numbers.
    """
    if table.shape not in ((16,), (256,)):
        raise ValueError(f"table must have 16 or 256 numbers, one a code, got {table.shape}; fill it up.")
    return 4 if table.shape == (16,) else 8


@functools.partial(jax.custom_vjp, nondiff_argnums=(5, 6, 7, 8))
def _differentiable(
    x: Any, codes: Any, table: Any, scale: Any, shift: Any, bits: int, group: int, columns: int, tier: str
) -> Any:
    """The product; its gradient goes to x."""
    plain = functools.partial(reference, bits=bits, group=group, columns=columns)
    native = functools.partial(_native, bits=bits, group=group, columns=columns, tier=tier)
    return by_tier(tier, plain, native, x, codes, table, scale, shift)


def _native(
    x: Any, codes: Any, table: Any, scale: Any, shift: Any, *, bits: int, group: int, columns: int, tier: str
) -> Any:
    """The C++ kernel."""
    call = jax.ffi.ffi_call(
        TARGET, jax.ShapeDtypeStruct((x.shape[0], columns), jnp.float32), vmap_method="sequential"
    )
    empty = jnp.zeros((0, 0), jnp.float32) if shift is None else shift
    return call(x, codes, table, scale, empty, bits=bits, group=group, tier=NATIVES.get(tier, 0))


def _forward(x: Any, codes: Any, table: Any, scale: Any, shift: Any, *static: Any) -> Any:
    return _differentiable(x, codes, table, scale, shift, *static), (codes, table, scale, shift)


def _backward(bits: int, group: int, columns: int, tier: str, kept: Any, slope: Any) -> Any:
    """Dx = dy W^T; nothing for the weights, which are packed."""
    codes, table, scale, shift = kept
    weights = decoded(codes, table, scale, shift, bits=bits, group=group, columns=columns)
    dx = jnp.matmul(slope, weights.T, precision=jax.lax.Precision.HIGHEST)
    zeros = [None if a is None else jnp.zeros_like(a) for a in (table, scale, shift)]
    return dx, jnp.zeros(codes.shape, jax.dtypes.float0), *zeros


_differentiable.defvjp(_forward, _backward)

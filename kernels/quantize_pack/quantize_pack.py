"""Quantize and pack: the entry point, which picks the tier."""

import functools
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.quantize_pack.packed import CODES, Packed
from efficient.kernels.quantize_pack.reference import reference
from efficient.kernels.tiers import PALLAS, Native, by_tier
from jaxtyping import Array, Float

NATIVE = Native(
    name="quantize_pack",
    source=Path(__file__).parent / "cpu.cc",
    symbol="EfficientQuantizePack",
    tiers={"cpu": 0, "cpu_portable": 1},
    others=("pallas_tpu", "pallas_gpu"),
)


def quantize_pack(
    x: Float[Array, "... n"],
    *,
    bits: int,
    group: int = 0,
    axis: int = -1,
    is_symmetric: bool = True,
    implementation: str | None = None,
) -> Packed:
    """Whole numbers of `bits` bits, packed along the last axis, with a scale for each run of `group` numbers.

    Symmetric: code = round(x / scale), scale = max|x| / (2^(bits - 1) - 1), two's complement. Else: code =
    round(x / scale) + shift, unsigned, scale = (top - bottom) / (2^bits - 1), shift = round(-bottom / scale),
    where [bottom, top] is the range of the run and 0. Ties go to the even. Every tier gives the same bits.
    Source: Jacob et al., 2018, arXiv:1712.05877, equation 1.

    Along `axis=-1` runs are what a cache of keys and values has, see `decode_attention`; along `axis=-2` they
    are `quantized_matmul`'s arguments: codes [k, bytes], scale [runs, n].

    Args:
      x: any float; a run with a nan or an infinity reads as nan, one below 2^-126 of full scale as zeros.
      bits: of a code, 2, 4 or 8.
      group: numbers of a run, the last of which may be shorter; 0 is all.
      axis: along which runs lie, -1 or -2.
      is_symmetric: 0 is the middle of the codes.
      implementation: None picks, of the reference and C++; "cpu" wants the C++ kernel, "cpu_portable"
        those without AVX-512; "pallas_tpu" and "pallas_gpu" want that kernel (axis=-1), interpreted off
        its platform.

    Returns:
      Packed: codes uint8 [..., ceil(n bits / 8)]; scale and shift float32, x's shape with runs for `axis`.

    Raises:
      ValueError: bits, group or axis are none of these, or x has too few axes.
      NotImplementedError: an implementation that is not to be had here.
    """
    if bits not in CODES:
        raise ValueError(f"bits must be 2, 4 or 8, got {bits}; keep other widths in the next.")
    if axis not in (-1, -2) or x.ndim < -axis or 0 in x.shape:
        raise ValueError(
            f"axis must be -1 or -2, and x must have it and no axis of 0, got {axis} and {x.shape}."
        )
    if group < 0:
        raise ValueError(f"group must be from 0, got {group}; 0 is the whole axis.")
    size = x.shape[axis]
    group = min(group or size, size)
    tier = NATIVE.picked(implementation)
    if tier in PALLAS and axis == -2:
        raise NotImplementedError(f"axis must be -1 for {tier}, got -2; leave implementation out.")
    rows = x.shape[-2] if axis == -2 else math.prod(x.shape[:-1])
    cut = x.reshape(-1, rows, x.shape[-1])
    out = _run(cut, bits=bits, group=group, axis=3 + axis, is_symmetric=is_symmetric, tier=tier)
    lead = x.shape[:-2] if axis == -2 else x.shape[:-1]
    own = (lambda a: a.reshape(*lead, *a.shape[1:])) if axis == -2 else (lambda a: a.reshape(*lead, -1))
    return jax.tree.map(own, out)


@functools.partial(jax.jit, static_argnames=("bits", "group", "axis", "is_symmetric", "tier"))
def _run(x: Any, *, bits: int, group: int, axis: int, is_symmetric: bool, tier: str) -> Packed:
    """By a tier, of x [r, k, n]."""
    options: dict[str, Any] = {"bits": bits, "group": group, "is_symmetric": is_symmetric}
    plain = functools.partial(reference, axis=axis, **options)
    native = functools.partial(_native, axis=axis, tier=tier, **options)
    return by_tier(tier, plain, native, x, pallas=_pallas(tier, options))


def _native(x: Any, *, bits: int, group: int, axis: int, is_symmetric: bool, tier: str) -> Packed:
    """The C++ kernel."""
    shape = [-(-n // group) if i == axis else n for i, n in enumerate(x.shape)]
    codes = jax.ShapeDtypeStruct((*x.shape[:2], -(-x.shape[2] * bits // 8)), jnp.uint8)
    scale = jax.ShapeDtypeStruct(tuple(shape), jnp.float32)
    shift = jax.ShapeDtypeStruct((0, 0, 0) if is_symmetric else tuple(shape), jnp.float32)
    attributes = {"bits": bits, "group": group, "axis": axis}
    codes, scale, shift = NATIVE.calls(tier, (codes, scale, shift), x.astype(jnp.float32), **attributes)
    return Packed(codes, scale, None if is_symmetric else shift)


def _pallas(tier: str, options: dict[str, Any]) -> Any:
    """The kernel of a Pallas tier, or None."""
    if tier not in PALLAS:
        return None
    from efficient.kernels.quantize_pack.pallas import pallas

    return functools.partial(pallas, tier=tier, **options)

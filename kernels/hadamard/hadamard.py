"""The Walsh-Hadamard transform: the entry point, which picks the tier."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.derivative import derived_from
from efficient.kernels.hadamard.reference import reference
from efficient.kernels.rows import like_rows, rows_together
from efficient.kernels.tiers import PALLAS, Native, by_tier
from jaxtyping import Array, Float

NATIVE = Native(
    name="hadamard",
    source=Path(__file__).parent / "cpu.cc",
    symbol="EfficientHadamard",
    tiers={"cpu": 0, "cpu_portable": 1},
    others=("pallas_tpu", "pallas_gpu"),
)
MOST_PALLAS = 32_768  # of a run: what a block of a kernel holds


def hadamard(
    x: Float[Array, "... n"], *, size: int | None = None, implementation: str | None = None
) -> Float[Array, "... n"]:
    """X (I (x) H) / sqrt(size): each run of `size` neighbours on the last axis, transformed.

    H is the Walsh-Hadamard matrix in natural order: symmetric, and with its scale its own inverse; so the
    gradient is a transform too. Works under `jit`, `vmap`, `scan` and derivatives of any order.

    Args:
      x: any float; summed in float32, returned in its own dtype.
      size: a power of two that divides n; None is n.
      implementation: None picks, of the reference and C++; "cpu" wants the C++ kernel, "cpu_portable"
        those without AVX-512; "pallas_tpu" and "pallas_gpu" want that kernel, interpreted off
        its platform.

    Raises:
      ValueError: size is no power of two, or does not divide n.
      NotImplementedError: an implementation that is not to be had here.

    Source: Ashkboos et al., 2024, arXiv:2404.00456, section 3.1.
    """
    n = x.shape[-1] if x.ndim else 0
    if size is None and (n < 1 or n & (n - 1)):
        raise ValueError(f"n must be a power of two, got {n}; say the size of runs, a power of two.")
    size = n if size is None else size
    if size < 1 or size & (size - 1) or n % size:
        raise ValueError(f"size must be a power of two that divides n={n}, got {size}.")
    tier = NATIVE.picked(implementation)
    if tier in PALLAS and size > MOST_PALLAS:
        raise NotImplementedError(
            f"size must be at most {MOST_PALLAS} for {tier}, got {size}; leave implementation out."
        )
    if not x.size:
        return x
    return like_rows(_run(x.reshape(-1, size), tier=tier).reshape(*x.shape[:-1], n), x)


@functools.partial(jax.jit, static_argnames="tier")
def _run(x: Any, *, tier: str) -> Any:
    """The transform of rows by a tier, in float32."""
    native = rows_together(functools.partial(_native, tier=tier))
    kernel = functools.partial(by_tier, tier, reference, native, pallas=_pallas(tier))
    return derived_from(reference, kernel)(x)


def _native(x: Any, *, tier: str) -> Any:
    """The C++ kernel."""
    return NATIVE.call(tier, x.shape, x.astype(jnp.float32))


def _pallas(tier: str) -> Any:
    """The kernel of a Pallas tier, or None."""
    if tier not in PALLAS:
        return None
    from efficient.kernels.hadamard.pallas import pallas

    return functools.partial(pallas, tier=tier)

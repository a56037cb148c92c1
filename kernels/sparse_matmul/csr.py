"""Products with a matrix in compressed rows or columns: the entry point, which picks the tier."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.derivative import derived_from
from efficient.kernels.rows import flat_rows, like_rows, rows_together
from efficient.kernels.sparse_matmul.reference import dense_of_lines, times
from efficient.kernels.tiers import Native, by_tier
from jaxtyping import Array, Float, UInt

NATIVE = Native(
    name="csr_matmul",
    source=Path(__file__).parent / "csr.cc",
    symbol="EfficientCsrMatmul",
    tiers={"cpu": 0, "cpu_portable": 1},
)


def csr_matmul(
    x: Float[Array, "... k"],
    values: Float[Array, " kept"],
    indices: UInt[Array, "..."],
    pointers: UInt[Array, "..."],
    *,
    size: int,
    by_row: bool = True,
    implementation: str | None = None,
) -> Float[Array, "... n"]:
    """X W in float32, W in compressed rows (CSR) or columns (CSC).

    On a CPU, one row of x meets one weight at a time, and several 16 rows at once. Works under `jit`, `vmap`,
    `scan` and derivatives of any order, in x and the values.

    Args:
      x: any float; summed in float32, returned in its own dtype. Where it is not finite, absent weights may
        show it or not, by the tier.
      values: those that are stored.
      indices: place in the line, ascending in each line, each once; out of bounds is padding.
      pointers: where each line begins, and where the last ends; lines are rows of W, or columns.
      size: n, columns of W.
      by_row: lines are rows of W.
      implementation: None picks; "cpu" wants the C++ kernel, "cpu_portable" the same without AVX-512.

    Raises:
      ValueError: shapes or sizes that do not go together.
      NotImplementedError: an implementation that is not to be had here.
    """
    lines = (x.shape[-1] if by_row else size) + 1
    if size < 1 or indices.shape != values.shape or pointers.shape != (lines,):
        raise ValueError(
            f"indices must be one a value, pointers {lines} and size positive, got {indices.shape}, "
            f"{pointers.shape} and {size} with {values.shape} values; see CSRLeaf.from_dense."
        )
    tier = NATIVE.picked(implementation)
    out = _run(
        flat_rows(x), values.astype(jnp.float32), indices, pointers, size=size, by_row=by_row, tier=tier
    )
    return like_rows(out, x)


@functools.partial(jax.jit, static_argnames=("size", "by_row", "tier"))  # traced once for layers of one shape
def _run(x: Any, values: Any, indices: Any, pointers: Any, *, size: int, by_row: bool, tier: str) -> Any:
    """The product of a tier, in float32."""

    def plain(x: Any, values: Any, indices: Any, pointers: Any) -> Any:
        return times(x, dense_of_lines(values, indices, pointers, shape=(x.shape[1], size), by_row=by_row))

    native = rows_together(functools.partial(_native, size=size, by_row=by_row, tier=tier))
    run = derived_from(plain, functools.partial(by_tier, tier, plain, native))
    return run(x, values, indices, pointers)


def _native(x: Any, values: Any, indices: Any, pointers: Any, *, size: int, by_row: bool, tier: str) -> Any:
    """The C++ kernel."""
    return NATIVE.call(
        tier, (x.shape[0], size), x.astype(jnp.float32), values, indices, pointers, by_row=by_row
    )

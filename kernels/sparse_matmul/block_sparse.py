"""Products with a block-sparse matrix: the entry point, which picks the tier."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.derivative import derived_from
from efficient.kernels.rows import flat_rows, like_rows, rows_together
from efficient.kernels.sparse_matmul.reference import dense_of_blocks, times
from efficient.kernels.tiers import Native, by_tier
from jaxtyping import Array, Float, UInt

NATIVE = Native(
    name="block_sparse_matmul",
    source=Path(__file__).parent / "block_sparse.cc",
    symbol="EfficientBlockSparseMatmul",
    tiers={"cpu": 0, "cpu_portable": 1},
)


def block_sparse_matmul(
    x: Float[Array, "... k"],
    values: Float[Array, "kept height width"],
    columns: UInt[Array, "..."],
    pointers: UInt[Array, "..."],
    *,
    size: int,
    implementation: str | None = None,
) -> Float[Array, "... n"]:
    """X W in float32, W as its blocks that are present, row of blocks by row of blocks (BSR).

    On a CPU, time is that of the blocks that are there. Works under `jit`, `vmap`, `scan` and derivatives of
    any order, in x and the values; under `vmap` over x alone, all rows are multiplied at once.

    Args:
      x: any float; summed in float32, returned in its own dtype. Where it is not finite, absent blocks may
        show it or not, by the tier.
      values: the blocks; what of one lies beyond W is not read.
      columns: of blocks, ascending in each row of blocks, each once; out of bounds is padding.
      pointers: where each of ceil(k / height) rows of blocks begins, and where the last ends.
      size: n, columns of W.
      implementation: None picks; "cpu" wants the C++ kernel, "cpu_portable" the same without AVX-512.

    Raises:
      ValueError: shapes or sizes that do not go together.
      NotImplementedError: an implementation that is not to be had here.

    Source: block compressed rows, as in Gray et al., 2017, GPU kernels for block-sparse weights.
    """
    lines = -(-x.shape[-1] // max(values.shape[1], 1)) + 1
    if size < 1 or 0 in values.shape[1:] or columns.shape != values.shape[:1] or pointers.shape != (lines,):
        raise ValueError(
            f"columns must be one a block, pointers {lines} and size positive, got {columns.shape}, "
            f"{pointers.shape} and {size} with values {values.shape}; see BlockSparseLeaf.from_dense."
        )
    tier = NATIVE.picked(implementation)
    out = _run(flat_rows(x), values.astype(jnp.float32), columns, pointers, size=size, tier=tier)
    return like_rows(out, x)


@functools.partial(jax.jit, static_argnames=("size", "tier"))  # traced once for layers of one shape
def _run(x: Any, values: Any, columns: Any, pointers: Any, *, size: int, tier: str) -> Any:
    """The product of a tier, in float32."""

    def plain(x: Any, values: Any, columns: Any, pointers: Any) -> Any:
        return times(x, dense_of_blocks(values, columns, pointers, shape=(x.shape[1], size)))

    native = rows_together(functools.partial(_native, size=size, tier=tier))
    run = derived_from(plain, functools.partial(by_tier, tier, plain, native))
    return run(x, values, columns, pointers)


def _native(x: Any, values: Any, columns: Any, pointers: Any, *, size: int, tier: str) -> Any:
    """The C++ kernel."""
    return NATIVE.call(tier, (x.shape[0], size), x.astype(jnp.float32), values, columns, pointers)

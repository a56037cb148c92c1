"""Products with n of every m weights: the entry point, which picks the tier."""

import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.derivative import derived_from
from efficient.kernels.rows import flat_rows, like_rows, rows_together
from efficient.kernels.sparse_matmul.reference import dense_of_groups, times
from efficient.kernels.tiers import Native, by_tier
from jaxtyping import Array, Float, UInt8

NATIVE = Native(
    name="n_m_matmul",
    source=Path(__file__).parent / "n_m.cc",
    symbol="EfficientNMMatmul",
    tiers={"cpu": 0, "cpu_portable": 1},
)


def n_m_matmul(
    x: Float[Array, "... k"],
    values: Float[Array, "groups n columns"],
    positions: UInt8[Array, " bytes"],
    *,
    m: int,
    implementation: str | None = None,
) -> Float[Array, "... columns"]:
    """X W in float32, W with n values of every m neighbours along its rows (2:4, 1:4, 4:8).

    On a CPU, one row of x meets what is stored alone; for more than four, W is decoded into cache, and bytes
    are saved, not multiplications. Works under `jit`, `vmap`, `scan` and derivatives of any order, in x and
    the values.

    Args:
      x: any float; summed in float32, returned in its own dtype. Where it is not finite, absent weights may
        show it or not, by the tier.
      values: n of each of ceil(k / m) groups.
      positions: the place in its group of every value, ceil(log2 m) bits each in the order of `values`, the
        first in the top bits; one beyond the last row of W stands for a zero.
      m: places of a group, 1 to 256.
      implementation: None picks; "cpu" wants the C++ kernel, "cpu_portable" the same without AVX-512.

    Raises:
      ValueError: shapes or sizes that do not go together.
      NotImplementedError: an implementation that is not to be had here.

    Source: Mishra et al., 2021, arXiv:2104.08378, section 2.1.
    """
    rows, (groups, n, columns) = x.shape[-1], values.shape
    if not 1 <= m <= 256 or not 1 <= n <= m or groups != -(-rows // m) or not columns:
        raise ValueError(
            f"values must be n from 1 to m of each of ceil({rows} / m) groups, m at most 256, got "
            f"{values.shape} and m={m}; see NMLeaf.from_dense."
        )
    if positions.shape != (-(-values.size * (m - 1).bit_length() // 8),):
        raise ValueError(
            f"positions must be {(m - 1).bit_length()} bits for each of {values.size} values, got "
            f"{positions.shape} bytes; see NMLeaf.from_dense."
        )
    tier = NATIVE.picked(implementation)
    out = _run(flat_rows(x), values.astype(jnp.float32), positions, m=m, tier=tier)
    return like_rows(out, x)


@functools.partial(jax.jit, static_argnames=("m", "tier"))  # traced once for layers of one shape
def _run(x: Any, values: Any, positions: Any, *, m: int, tier: str) -> Any:
    """The product of a tier, in float32."""

    def plain(x: Any, values: Any, positions: Any) -> Any:
        return times(x, dense_of_groups(values, positions, rows=x.shape[1], m=m))

    native = rows_together(functools.partial(_native, m=m, tier=tier))
    run = derived_from(plain, functools.partial(by_tier, tier, plain, native))
    return run(x, values, positions)


def _native(x: Any, values: Any, positions: Any, *, m: int, tier: str) -> Any:
    """The C++ kernel."""
    return NATIVE.call(tier, (x.shape[0], values.shape[2]), x.astype(jnp.float32), values, positions, m=m)

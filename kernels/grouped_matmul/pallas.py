"""Rows in groups on a TPU and a GPU (Pallas): a tile of rows meets the matrices of the groups that it has.

On a TPU a list of visits, tile by tile and group by group, is made before and fetched ahead; on a GPU a
program goes through the groups of its tile. Not run on either yet: both lower, and their numbers are the
reference's if interpreted.
"""

from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.compile_for import compile_for
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu

ROWS, LANES, DEPTH = 128, 128, 512  # of a block on a TPU, at most: rows of x, columns, rows of a matrix
SIDE = 64  # of a GPU's


def _bounds(sizes: Any) -> tuple[Any, Any]:
    """First rows of groups, and those after their last."""
    ends = jnp.cumsum(sizes)
    return (ends - sizes).astype(jnp.int32), ends.astype(jnp.int32)


def _dot(a: Any, b: Any) -> Any:
    """A product, exact for what float32 holds."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.dot(a, b.astype(a.dtype), preferred_element_type=jnp.float32, precision=precision)


def on_tpu(x: Any, weights: Any, sizes: Any, *, interpret: bool = False) -> jax.Array:
    """See `grouped_matmul.reference`."""
    (m, k), (groups, _, n) = x.shape, weights.shape
    rows, lanes, depth = min(ROWS, -(-m // 8) * 8), min(LANES, n), min(DEPTH, k)
    tiles, steps = pl.cdiv(m, rows), pl.cdiv(k, depth)
    starts, ends = _bounds(sizes)
    first, last = starts // rows, -(-ends // rows)
    counts = jnp.where(sizes > 0, last - first, 0)
    until = jnp.cumsum(counts)
    visit = jnp.arange(tiles + groups - 1, dtype=jnp.int32)
    group = jnp.searchsorted(until, visit, side="right").astype(jnp.int32)
    is_one = visit < until[-1]
    group = jnp.where(is_one, jnp.minimum(group, groups - 1), groups - 1)
    tile = jnp.where(is_one, first[group] + visit - (until - counts)[group], tiles - 1).astype(jnp.int32)
    start = jnp.where(is_one, starts[group], 0)
    end = jnp.where(is_one, ends[group], 0)  # an idle visit has no rows

    def kernel(tile_ref: Any, group_ref: Any, start_ref: Any, end_ref: Any, x_ref: Any, weights_ref: Any,
               out_ref: Any) -> None:  # fmt: skip
        del group_ref
        at, step = pl.program_id(1), pl.program_id(2)
        own = tile_ref[at]
        is_first = (step == 0) & ((at == 0) | (own != tile_ref[jnp.maximum(at - 1, 0)]))

        @pl.when(is_first)
        def _() -> None:
            out_ref[...] = jnp.zeros_like(out_ref)

        row = own * rows + jax.lax.broadcasted_iota(jnp.int32, x_ref.shape, 0)
        place = step * depth + jax.lax.broadcasted_iota(jnp.int32, x_ref.shape, 1)
        line = step * depth + jax.lax.broadcasted_iota(jnp.int32, weights_ref.shape, 0)
        is_own = (row >= start_ref[at]) & (row < end_ref[at]) & (place < k)
        x = jnp.where(is_own, x_ref[...], 0)
        out_ref[...] += _dot(x, jnp.where(line < k, weights_ref[...], 0))

    spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=4,
        grid=(pl.cdiv(n, lanes), len(visit), steps),
        in_specs=[
            pl.BlockSpec((rows, depth), lambda j, v, d, tile, *_: (tile[v], d)),
            pl.BlockSpec((None, depth, lanes), lambda j, v, d, tile, group, *_: (group[v], d, j)),
        ],
        out_specs=pl.BlockSpec((rows, lanes), lambda j, v, d, tile, *_: (tile[v], j)),
    )
    out = pl.pallas_call(
        kernel,
        grid_spec=spec,
        out_shape=jax.ShapeDtypeStruct((m, n), jnp.float32),
        compiler_params=compile_for("pallas_tpu", grid=("parallel", "arbitrary", "arbitrary")),
        interpret=interpret,
    )(tile, group, start, end, x, weights)
    return jnp.where((jnp.arange(m) < ends[-1])[:, None], out, 0)  # tiles of no group were not visited


def on_gpu(x: Any, weights: Any, sizes: Any, *, interpret: bool = False) -> jax.Array:
    """See `grouped_matmul.reference`."""
    (m, k), n = x.shape, weights.shape[2]
    rows = min(SIDE, max(16, pl.next_power_of_2(m)))
    tiles = pl.cdiv(m, rows)
    starts, ends = _bounds(sizes)
    tile = jnp.arange(tiles, dtype=jnp.int32) * rows
    first = jnp.searchsorted(ends, tile, side="right").astype(jnp.int32)
    last = jnp.searchsorted(starts, tile + rows, side="left").astype(jnp.int32)

    def kernel(first_ref: Any, last_ref: Any, starts_ref: Any, ends_ref: Any, x_ref: Any, weights_ref: Any,
               out_ref: Any) -> None:  # fmt: skip
        at = pl.program_id(0)
        row = at * rows + jnp.arange(rows)
        column = pl.program_id(1) * SIDE + jnp.arange(SIDE)

        def of_group(group: Any, total: Any) -> Any:
            is_own = (row >= starts_ref[group]) & (row < ends_ref[group])

            def step(index: Any, total: Any) -> Any:
                line = index * SIDE + jnp.arange(SIDE)
                is_line = line < k
                x = plgpu.load(
                    x_ref.at[row[:, None], line[None, :]], mask=is_own[:, None] & is_line[None, :], other=0
                )
                there = is_line[:, None] & (column < n)[None, :]
                part = plgpu.load(weights_ref.at[group, line[:, None], column[None, :]], mask=there, other=0)
                return total + _dot(x, part)

            return jax.lax.fori_loop(0, pl.cdiv(k, SIDE), step, total)

        zeros = jnp.zeros((rows, SIDE), jnp.float32)
        total = jax.lax.fori_loop(first_ref[at], last_ref[at], of_group, zeros)
        mask = (row < m)[:, None] & (column < n)[None, :]
        plgpu.store(out_ref.at[row[:, None], column[None, :]], total, mask=mask)

    return pl.pallas_call(
        kernel,
        grid=(tiles, pl.cdiv(n, SIDE)),
        out_shape=jax.ShapeDtypeStruct((m, n), jnp.float32),
        compiler_params=compile_for("pallas_gpu", stages=3),
        interpret=interpret,
    )(first, last, starts, ends, x, weights)

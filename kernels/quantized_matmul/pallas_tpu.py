"""The product with x in float on a TPU (Mosaic): codes become numbers in VMEM, block by block of W.

Not run on a TPU yet: it lowers for one, and its numbers are the reference's in interpret mode.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.quantized_matmul.arguments import Packing
from efficient.kernels.quantized_matmul.planes import by_plane, in_columns, numbers, planes_of
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
    """Sizes of blocks in VMEM."""

    rows: int = 256  # of x, at most; a multiple of 8
    depth: int = 512  # rows of W, about: a multiple of 128, and of a run of rows
    width: int = 256  # bytes of a row of W, at most; a multiple of 128

    def __post_init__(self) -> None:
        if (
            min(self.rows, self.depth, self.width) < 1
            or self.rows % 8
            or self.width % 128
            or self.depth % 128
        ):
            raise ValueError(f"rows, depth and width must be multiples of 8, 128 and 128, got {self}.")


def pallas_tpu(
    x: Any, codes: Any, scale: Any, shift: Any, table: Any, *, packing: Packing,
    blocks: Blocks | None = None, interpret: bool = False,
) -> jax.Array:  # fmt: skip
    """The product; arguments as `reference`'s, of any size: what blocks reach beyond the arrays is masked."""
    (m, k), width, blocks = x.shape, codes.shape[1], blocks or Blocks()
    planes, group = planes_of(packing), packing.group
    scale, shift = (None if a is None else by_plane(a, packing, width) for a in (scale, shift))
    depth, run = _depth(k, group, blocks.depth)
    if run == 1:
        scale, shift = (None if a is None else jnp.repeat(a, group, 1)[:, :k] for a in (scale, shift))
    rows, wide = min(blocks.rows, -(-m // 8) * 8), min(blocks.width, width)
    grid = (pl.cdiv(m, rows), pl.cdiv(width, wide), pl.cdiv(k, depth))
    of_scale = functools.partial(_scale_spec, planes=planes, run=run, group=group, depth=depth, wide=wide)
    specs = [
        pl.BlockSpec((rows, depth), lambda i, j, d: (i, d)),
        pl.BlockSpec((depth, wide), lambda i, j, d: (d, j)),
    ]
    args = [x, codes]
    for values in (scale, shift):
        if values is not None:
            args.append(values[:, :, None] if run != 1 else values)
            specs.append(of_scale(args[-1]))
    if table is not None:
        args.append(table)
        specs.append(pl.BlockSpec(memory_space=pltpu.SMEM))
    kernel = functools.partial(
        _kernel, packing=packing, run=run, k=k, has_shift=shift is not None, has_table=table is not None
    )
    out = pl.pallas_call(
        kernel,
        grid=grid,
        in_specs=specs,
        out_specs=pl.BlockSpec((planes, rows, wide), lambda i, j, d: (0, i, j)),
        out_shape=jax.ShapeDtypeStruct((planes, m, width), jnp.float32),
        scratch_shapes=[pltpu.VMEM((planes, rows, wide), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=interpret,
    )(*args)
    return in_columns(out, packing.columns)


def _depth(k: int, group: int, limit: int) -> tuple[int, int]:
    """Rows of a block of W, and of a run in it; 0: the block lies in one run, 1: a scale for each row."""
    whole = k <= limit  # a block as deep as W may have any depth
    if group >= k:
        return (k if whole else limit), 0
    if group % 128 == 0 and group >= limit:
        return math.gcd(group, limit), 0
    if group % 8 == 0 and whole and k % group == 0:
        return k, group
    own = math.lcm(group, 128)
    if group % 8 == 0 and not whole and own <= 4 * limit:
        return own * max(1, limit // own), group
    return (k if whole else limit), 1  # runs that registers are not cut by


def _scale_spec(values: Any, *, planes: int, run: int, group: int, depth: int, wide: int) -> pl.BlockSpec:
    """The block of scales that goes with a block of codes."""
    has_columns = values.shape[-1] != 1
    last = wide if has_columns else 1
    column = (lambda j: j) if has_columns else (lambda j: 0)
    if run == 0:
        return pl.BlockSpec(
            (planes, 1, 1, last), lambda i, j, d: (0, jax.lax.div(d * depth, group), 0, column(j))
        )
    if run == 1:
        return pl.BlockSpec((planes, depth, last), lambda i, j, d: (0, d, column(j)))
    return pl.BlockSpec((planes, depth // run, 1, last), lambda i, j, d: (0, d, 0, column(j)))


def _kernel(x_ref: Any, codes_ref: Any, scale_ref: Any, *rest: Any, packing: Packing, run: int, k: int,
            has_shift: bool, has_table: bool) -> None:  # fmt: skip
    """One block of W."""
    *own, out_ref, sums_ref = rest
    shift_ref = own[0] if has_shift else None
    table = own[-1] if has_table else None
    step, (depth, wide) = pl.program_id(2), codes_ref.shape

    @pl.when(step == 0)
    def _() -> None:
        sums_ref[...] = jnp.zeros_like(sums_ref)

    x, codes = x_ref[...], codes_ref[...].astype(jnp.int32) & jnp.int32(255)
    there: Any = None
    if k % depth:
        left = k - step * depth
        x = jnp.where(jax.lax.broadcasted_iota(jnp.int32, x.shape, 1) < left, x, jnp.zeros_like(x))
        there = jax.lax.broadcasted_iota(jnp.int32, (depth, wide), 0) < left
    for plane in range(planes_of(packing)):
        own_numbers = numbers(codes, plane, packing, table)
        weights = _scaled(own_numbers, scale_ref, shift_ref, plane, run)
        if there is not None:
            weights = jnp.where(there, weights, 0.0)
        sums_ref[plane] += jnp.dot(
            x,
            weights.astype(x.dtype),
            preferred_element_type=jnp.float32,
            precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
        )

    @pl.when(step == pl.num_programs(2) - 1)
    def _() -> None:
        out_ref[...] = sums_ref[...]


def _scaled(values: Any, scale_ref: Any, shift_ref: Any, plane: int, run: int) -> jax.Array:
    """Shifts off, times scales."""
    depth, wide = values.shape
    if run > 1:
        values = values.reshape(depth // run, run, wide)
    if run == 0:
        scale, shift = scale_ref[plane, 0], None if shift_ref is None else shift_ref[plane, 0]
    else:
        scale, shift = scale_ref[plane], None if shift_ref is None else shift_ref[plane]
    if shift is not None:
        values = values - shift
    return (values * scale).reshape(depth, wide)

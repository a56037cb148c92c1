"""The product with x in float on a GPU (Pallas through Triton): codes become numbers in registers.

Not run on a GPU yet: it lowers for CUDA, and its numbers are the reference's in interpret mode. JAX calls
this backend deprecated since 0.11; it is the one that serves cards of every age.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from efficient.kernels.quantized_matmul.arguments import Packing
from efficient.kernels.quantized_matmul.planes import by_plane, in_columns, numbers, planes_of
from efficient.kernels.tune import chosen, shape_class
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu


@dataclasses.dataclass(frozen=True, kw_only=True)
class Blocks:
    """Sizes of a program's blocks; powers of two, from 16."""

    rows: int = 64  # of x, at most
    depth: int = 64  # rows of W at once
    width: int = 64  # bytes of a row of W
    warps: int = 4
    stages: int = 3

    def __post_init__(self) -> None:
        sizes = (self.rows, self.depth, self.width)
        if min(sizes) < 16 or any(n & (n - 1) for n in (*sizes, self.warps)):
            raise ValueError(
                f"rows, depth, width and warps must be powers of two, sizes from 16, got {self}; 64 is one."
            )


OPERATION = "quantized_matmul"  # as `tune` knows it
FEW, MANY = Blocks(rows=16, depth=128, width=32), Blocks()  # defaults for few rows of x, which read W once


def blocks_for(rows: int, depth: int, packing: Packing) -> Blocks:
    """Tuned ones, or the default of a class of shapes."""
    shape = shape_class(rows, depth, packing.columns, packing.bits)
    return chosen(OPERATION, shape, FEW if rows <= 16 else MANY)


def pallas_gpu(
    x: Any, codes: Any, scale: Any, shift: Any, table: Any, *, packing: Packing,
    blocks: Blocks | None = None, interpret: bool = False,
) -> jax.Array:  # fmt: skip
    """The product; arguments as `reference`'s, of any size: what blocks reach beyond the arrays is masked."""
    (m, k), width = x.shape, codes.shape[1]
    blocks = blocks or blocks_for(m, k, packing)
    planes = planes_of(packing)
    rows = min(blocks.rows, max(16, pl.next_power_of_2(m)))
    scales = [None if a is None else by_plane(a, packing, width) for a in (scale, shift)]
    args = [x, codes, *(a for a in (*scales, table) if a is not None)]
    kernel = functools.partial(
        _kernel, packing=packing, blocks=dataclasses.replace(blocks, rows=rows),
        has_shift=shift is not None, has_table=table is not None,
    )  # fmt: skip
    out = pl.pallas_call(
        kernel,
        grid=(pl.cdiv(m, rows), pl.cdiv(width, blocks.width)),
        out_shape=jax.ShapeDtypeStruct((planes, m, width), jnp.float32),
        compiler_params=plgpu.CompilerParams(num_warps=blocks.warps, num_stages=blocks.stages),
        interpret=interpret,
    )(*args)
    return in_columns(out, packing.columns)


def _kernel(x_ref: Any, codes_ref: Any, scale_ref: Any, *rest: Any, packing: Packing, blocks: Blocks,
            has_shift: bool, has_table: bool) -> None:  # fmt: skip
    """One block of y, over all rows of W."""
    *own, out_ref = rest
    shift_ref = own[0] if has_shift else None
    table = [own[-1][i] for i in range(16)] if has_table else None
    (m, k), width = x_ref.shape, codes_ref.shape[1]
    row = pl.program_id(0) * blocks.rows + jnp.arange(blocks.rows)
    column = pl.program_id(1) * blocks.width + jnp.arange(blocks.width)
    planes = planes_of(packing)

    def step(index: Any, sums: tuple[Any, ...]) -> tuple[Any, ...]:
        line = index * blocks.depth + jnp.arange(blocks.depth)
        x = plgpu.load(
            x_ref.at[row[:, None], line[None, :]],
            mask=(row[:, None] < m) & (line[None, :] < k),
            other=0.0,
        )
        there = (line[:, None] < k) & (column[None, :] < width)
        codes = plgpu.load(codes_ref.at[line[:, None], column[None, :]], mask=there, other=0)
        codes = codes.astype(jnp.int32) & jnp.int32(255)
        run = jax.lax.div(line, jnp.full_like(line, packing.group))
        out = []
        for plane in range(planes):
            weights = numbers(codes, plane, packing, table)
            if shift_ref is not None:
                weights = weights - _of_run(shift_ref, plane, run, column, there)
            weights = weights * _of_run(scale_ref, plane, run, column, there)
            out.append(
                sums[plane]
                + jnp.dot(
                    x,
                    weights.astype(x.dtype),
                    preferred_element_type=jnp.float32,
                    precision=jax.lax.Precision.HIGHEST if x.dtype == jnp.float32 else None,
                )
            )
        return tuple(out)

    zeros = tuple(jnp.zeros((blocks.rows, blocks.width), jnp.float32) for _ in range(planes))
    sums = jax.lax.fori_loop(0, pl.cdiv(k, blocks.depth), step, zeros)
    for plane in range(planes):
        plgpu.store(
            out_ref.at[plane, row[:, None], column[None, :]],
            sums[plane],
            mask=(row[:, None] < m) & (column[None, :] < width),
        )


def _of_run(ref: Any, plane: int, run: Any, column: Any, there: Any) -> jax.Array:
    """The scale of each weight's run; 0 beyond the arrays."""
    if ref.shape[2] == 1:
        own = plgpu.load(ref.at[plane, run, 0], mask=run < ref.shape[1], other=0.0)
        return jnp.broadcast_to(own[:, None], there.shape)
    return plgpu.load(ref.at[plane, run[:, None], column[None, :]], mask=there, other=0.0)

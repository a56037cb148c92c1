"""Products in 8-bit integers on a TPU and a GPU: x is rounded by XLA, integers are multiplied as such.

Sums of a run of rows, or of a part of one, are exact in int32; scales come after. Not run on either yet: both
lower, and their numbers are the reference's in interpret mode.
"""

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from efficient.kernels.quantized_matmul.arguments import Packing
from efficient.kernels.quantized_matmul.planes import by_plane, in_columns, planes_of
from efficient.kernels.quantized_matmul.reference import rounded
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu

ROWS, DEPTH, WIDTH = 256, 512, 256  # of a block on a TPU: of x, of W, bytes
WARPS, STAGES = 4, 3


class Parts(NamedTuple):
    """Rounded x cut along the rows of W into parts of one run each, and what goes with a part."""

    x: jax.Array  # int8 [parts, m, depth], zeros where a part is filled up
    sums: jax.Array  # float32 [parts, m, 1]
    steps: jax.Array  # float32 [m, 1]
    scale: jax.Array  # float32 [planes, parts, 1, width or 1]
    shift: jax.Array | None  # the same, off the integers that are multiplied


def parts_of(
    x: Any, scale: Any, shift: Any, step: Any, *, packing: Packing, per_row: bool, width: int, depth: int
) -> Parts:
    """X [m, k] in parts of `depth`, which divides a run, or of which a last one is filled up."""
    values, steps = rounded(x, step, per_row)
    m, k = x.shape
    filled = jnp.pad(values, [(0, 0), (0, -k % depth)]).astype(jnp.int8)
    cut = jnp.moveaxis(filled.reshape(m, -1, depth), 1, 0)
    base = 0.0 if packing.is_signed or packing.bits < 8 else 128.0
    if shift is not None or base:
        shift = (jnp.zeros((scale.shape[0], 1)) if shift is None else shift) - base
    repeat = -(-min(packing.group, k) // depth)

    def of_parts(values: Any) -> Any:
        """A part's own: its run's; where one run is all, every part's."""
        if values is None:
            return None
        own = by_plane(jnp.repeat(values, repeat, 0)[: cut.shape[0]], packing, width)
        return jnp.broadcast_to(own, (own.shape[0], cut.shape[0], own.shape[2]))[:, :, None]

    sums = jnp.sum(cut.astype(jnp.int32), axis=2, keepdims=True).astype(jnp.float32)
    return Parts(cut, sums, steps, of_parts(scale), of_parts(shift))


def integers(codes: Any, plane: int, packing: Packing) -> jax.Array:
    """One plane of int32 bytes as the int8 that are multiplied: unsigned bytes less 128."""
    bits = packing.bits
    code = jax.lax.shift_right_logical(codes, jnp.int32(bits * plane)) & jnp.int32(2**bits - 1)
    if packing.is_signed:
        code = (code ^ jnp.int32(2 ** (bits - 1))) - jnp.int32(2 ** (bits - 1))
    elif bits == 8:
        code = code - jnp.int32(128)
    return code.astype(jnp.int8)


def int8_pallas_tpu(
    x: Any,
    codes: Any,
    scale: Any,
    shift: Any,
    step: Any,
    *,
    packing: Packing,
    per_row: bool = True,
    interpret: bool = False,
) -> jax.Array:
    """The product; arguments as `int8_reference`'s."""
    (m, k), width, planes = x.shape, codes.shape[1], planes_of(packing)
    depth = min(DEPTH, -(-k // 128) * 128) if packing.group >= k else math.gcd(packing.group, DEPTH)
    p = parts_of(x, scale, shift, step, packing=packing, per_row=per_row, width=width, depth=depth)
    at_once = max(1, min(DEPTH // depth, p.x.shape[0]))  # parts of a block
    wide, rows = min(WIDTH, width), min(ROWS, -(-m // 32) * 32)

    def whole(a: Any, axis: int) -> Any:
        return jnp.pad(a, [(0, -a.shape[axis] % at_once if i == axis else 0) for i in range(a.ndim)])

    args = [whole(p.x, 0), whole(p.sums, 0), codes, whole(p.scale, 1)]
    args += [] if p.shift is None else [whole(p.shift, 1)]

    def of_scale(values: Any) -> pl.BlockSpec:
        is_one = values.shape[-1] == 1
        column = (lambda j: 0) if is_one else (lambda j: j)
        return pl.BlockSpec((planes, at_once, 1, 1 if is_one else wide), lambda i, j, d: (0, d, 0, column(j)))

    out = pl.pallas_call(
        functools.partial(_tpu_kernel, packing=packing, has_shift=p.shift is not None),
        grid=(pl.cdiv(m, rows), pl.cdiv(width, wide), args[0].shape[0] // at_once),
        in_specs=[
            pl.BlockSpec((at_once, rows, depth), lambda i, j, d: (d, i, 0)),
            pl.BlockSpec((at_once, rows, 1), lambda i, j, d: (d, i, 0)),
            pl.BlockSpec((at_once * depth, wide), lambda i, j, d: (d, j)),
            *map(of_scale, args[3:]),
        ],
        out_specs=pl.BlockSpec((planes, rows, wide), lambda i, j, d: (0, i, j)),
        out_shape=jax.ShapeDtypeStruct((planes, m, width), jnp.float32),
        scratch_shapes=[pltpu.VMEM((planes, rows, wide), jnp.float32)],
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel", "arbitrary")),
        interpret=interpret,
    )(*args)
    return in_columns(out, packing.columns) * p.steps


def _tpu_kernel(x_ref: Any, of_sums_ref: Any, codes_ref: Any, scale_ref: Any, *rest: Any,
                packing: Packing, has_shift: bool) -> None:  # fmt: skip
    """Some parts of one block of y."""
    shift_ref = rest[0] if has_shift else None
    out_ref, sums_ref = rest[-2:]

    @pl.when(pl.program_id(2) == 0)
    def _() -> None:
        sums_ref[...] = jnp.zeros_like(sums_ref)

    parts, _, depth = x_ref.shape
    for part in range(parts):
        codes = codes_ref[part * depth : (part + 1) * depth].astype(jnp.int32) & jnp.int32(255)
        for plane in range(planes_of(packing)):
            own = integers(codes, plane, packing)
            made = jnp.dot(x_ref[part], own, preferred_element_type=jnp.int32).astype(jnp.float32)
            if shift_ref is not None:
                made = made - of_sums_ref[part] * shift_ref[plane, part]
            sums_ref[plane] += made * scale_ref[plane, part]

    @pl.when(pl.program_id(2) == pl.num_programs(2) - 1)
    def _() -> None:
        out_ref[...] = sums_ref[...]


def int8_pallas_gpu(
    x: Any,
    codes: Any,
    scale: Any,
    shift: Any,
    step: Any,
    *,
    packing: Packing,
    per_row: bool = True,
    interpret: bool = False,
) -> jax.Array:
    """The product; arguments as `int8_reference`'s."""
    (m, k), width = x.shape, codes.shape[1]
    depth = 64 if packing.group >= k else math.gcd(packing.group, 64)
    p = parts_of(x, scale, shift, step, packing=packing, per_row=per_row, width=width, depth=depth)
    rows, wide = min(64, max(16, pl.next_power_of_2(m))), 64
    args = [p.x, p.sums[:, :, 0], codes, p.scale[:, :, 0], *([] if p.shift is None else [p.shift[:, :, 0]])]
    out = pl.pallas_call(
        functools.partial(_gpu_kernel, packing=packing, rows=rows, wide=wide, has_shift=p.shift is not None),
        grid=(pl.cdiv(m, rows), pl.cdiv(width, wide)),
        out_shape=jax.ShapeDtypeStruct((planes_of(packing), m, width), jnp.float32),
        compiler_params=plgpu.CompilerParams(num_warps=WARPS, num_stages=STAGES),
        interpret=interpret,
    )(*args)
    return in_columns(out, packing.columns) * p.steps


def _gpu_kernel(x_ref: Any, of_sums_ref: Any, codes_ref: Any, scale_ref: Any, *rest: Any,
                packing: Packing, rows: int, wide: int, has_shift: bool) -> None:  # fmt: skip
    """One block of y, over all parts."""
    shift_ref, out_ref = (rest[0] if has_shift else None), rest[-1]
    (parts, m, depth), (k, width) = x_ref.shape, codes_ref.shape
    row = pl.program_id(0) * rows + jnp.arange(rows)
    column = pl.program_id(1) * wide + jnp.arange(wide)
    in_part = jnp.arange(depth)
    planes = planes_of(packing)

    def of_part(ref: Any, plane: int, part: Any) -> jax.Array:
        if ref.shape[2] == 1:
            return jnp.broadcast_to(ref[plane, part, 0], (1, wide))
        return plgpu.load(ref.at[plane, part, column], mask=column < width, other=0.0)[None, :]

    def step(part: Any, sums: tuple[Any, ...]) -> tuple[Any, ...]:
        is_row = jnp.broadcast_to(row[:, None] < m, (rows, depth))
        x = plgpu.load(x_ref.at[part, row[:, None], in_part[None, :]], mask=is_row, other=0)
        line = part * depth + in_part
        there = (line[:, None] < k) & (column[None, :] < width)
        codes = plgpu.load(codes_ref.at[line[:, None], column[None, :]], mask=there, other=0)
        codes = codes.astype(jnp.int32) & jnp.int32(255)
        of_x = plgpu.load(of_sums_ref.at[part, row], mask=row < m, other=0.0)[:, None]
        out = []
        for plane in range(planes):
            made = jnp.dot(x, integers(codes, plane, packing), preferred_element_type=jnp.int32)
            made = made.astype(jnp.float32)
            if shift_ref is not None:
                made = made - of_x * of_part(shift_ref, plane, part)
            out.append(sums[plane] + made * of_part(scale_ref, plane, part))
        return tuple(out)

    zeros = tuple(jnp.zeros((rows, wide), jnp.float32) for _ in range(planes))
    sums = jax.lax.fori_loop(0, parts, step, zeros)
    for plane in range(planes):
        plgpu.store(
            out_ref.at[plane, row[:, None], column[None, :]],
            sums[plane],
            mask=(row[:, None] < m) & (column[None, :] < width),
        )

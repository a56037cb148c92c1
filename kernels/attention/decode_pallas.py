"""Attention of one token over a cache on a TPU and a GPU (Pallas): codes become numbers as they are read.

Numbers of a row lie plane by plane, as in `quantized_matmul.planes`: the first of every byte, the second, ...
On a GPU a program has some keys of one head and parts are joined by XLA; on a TPU one goes through all keys,
page by page. Not run on either yet: both lower, and their numbers are the reference's in interpret mode.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from efficient.kernels.attention.masks import Mask, visible
from efficient.kernels.attention.reference import NEVER
from efficient.kernels.compile_for import compile_for
from efficient.kernels.quantize_pack import Packed
from efficient.kernels.quantize_pack.reference import bits_of
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu
from jax.experimental.pallas import triton as plgpu

KEYS = 64  # of a step
PART = 256  # keys that are worth a program
MOST_PARTS = 16
MOST_PAGE = 2**19  # numbers of a page that VMEM has room for


class Kind(NamedTuple):
    """How a row of a cache is kept."""

    bits: int  # of a code; 0: floats
    wide: int  # bytes, or numbers
    runs: int  # with a scale each
    is_signed: bool

    @property
    def planes(self) -> int:
        """Numbers of a byte."""
        return 8 // self.bits if self.bits else 1


def kind_of(cache: Any, size: int) -> Kind:
    """Of keys or values of `size` numbers."""
    if not isinstance(cache, Packed):
        return Kind(0, size, 1, True)
    return Kind(bits_of(cache, size), cache.codes.shape[3], cache.scale.shape[3], cache.shift is None)


def check(tier: str, size: int, *caches: Any) -> None:
    """Refuses what a kernel cannot do.

    Raises:
      NotImplementedError: several scales a row, on a TPU; runs that bytes are not cut by; a page too large.
    """
    for cache in caches:
        kind = kind_of(cache, size)
        if kind.runs > 1 and (tier == "pallas_tpu" or size // kind.runs % kind.planes):
            raise NotImplementedError(
                f"scales must be one for each token and head for {tier}, or on a GPU for whole bytes, got "
                f"{kind.runs} of {size} numbers; leave implementation out."
            )


def _arrays(cache: Any) -> list[Any]:
    """What a kernel is given of a cache, floats alone or codes, scale and shift."""
    if not isinstance(cache, Packed):
        return [cache]
    return [cache.codes, *(a.astype(jnp.float32) for a in (cache.scale, cache.shift) if a is not None)]


def _queries(q: Any, kind: Kind, groups: int, least: int, lanes: int) -> Any:
    """[b, h, d] as [b, g, planes, rows, lanes]: rows of heads that read one head of keys."""
    b, h, d = q.shape
    rows = max(least, pl.next_power_of_2(h // groups))
    filled = jnp.pad(q, [(0, 0), (0, 0), (0, kind.planes * kind.wide - d)])
    apart = filled.reshape(b, groups, h // groups, kind.wide, kind.planes).transpose(0, 1, 4, 2, 3)
    return jnp.pad(apart, [(0, 0)] * 3 + [(0, rows - h // groups), (0, lanes - kind.wide)])


def _in_order(sums: Any, q: Any, kind: Kind) -> Any:
    """[b, g, planes, rows, lanes] as [b, h, d]."""
    (b, h, d), groups = q.shape, sums.shape[1]
    own = sums[:, :, :, : h // groups, : kind.wide].transpose(0, 1, 3, 4, 2)
    return own.reshape(b, h, -1)[:, :, :d]


def _plane(kind: Kind, codes: Any, plane: int, scale: Any, shift: Any) -> Any:
    """One plane of rows as numbers, float32."""
    if not kind.bits:
        return codes.astype(jnp.float32)
    whole = codes.astype(jnp.int32) & jnp.int32(255)
    whole = jax.lax.shift_right_logical(whole, jnp.int32(kind.bits * plane)) & jnp.int32(2**kind.bits - 1)
    if kind.is_signed:
        half = jnp.int32(2 ** (kind.bits - 1))
        return ((whole ^ half) - half).astype(jnp.float32) * scale
    return (whole.astype(jnp.float32) - shift) * scale


def _dot(a: Any, b: Any) -> Any:
    """A product, exact for what float32 holds."""
    precision = jax.lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return jnp.dot(a, b.astype(a.dtype), preferred_element_type=jnp.float32, precision=precision)


def _joined(
    scores: Any, seen: Any, top: Any, total: Any, sums: list[Any], values: list[Any], dtype: Any
) -> Any:
    """What is known of some keys, and some more."""
    scores = jnp.where(seen, scores, NEVER)
    best = jnp.maximum(top, jnp.max(scores, axis=1, keepdims=True))
    weights = jnp.where(seen, jnp.exp(scores - best), 0.0)
    keep = jnp.exp(top - best)
    made = [old * keep + _dot(weights.astype(dtype), new) for old, new in zip(sums, values, strict=True)]
    return best, total * keep + jnp.sum(weights, axis=1, keepdims=True), made


def on_gpu(
    q: Any, keys: Any, values: Any, lengths: Any, pages: Any, *, mask: Mask, scale: float, interpret: bool
) -> Any:
    """See `decode_reference`."""
    kinds = [kind_of(cache, q.shape[-1]) for cache in (keys, values)]
    lanes = [max(16, pl.next_power_of_2(kind.wide)) for kind in kinds]
    per_page, groups = (keys.codes if isinstance(keys, Packed) else keys).shape[1:3]
    most = per_page * pages.shape[1]
    rows = _queries(q, kinds[0], groups, 16, lanes[0])
    b, _, _, height, _ = rows.shape
    parts = max(1, min(MOST_PARTS, most // PART))
    flat = [a.reshape(-1, *a.shape[2:]) for cache in (keys, values) for a in _arrays(cache)]
    shape = (b, groups, parts, height)
    planes = kinds[1].planes
    tops, totals, sums = pl.pallas_call(
        functools.partial(_gpu_kernel, kinds=kinds, lanes=lanes, per_page=per_page, mask=mask, scale=scale),
        grid=(b, groups, parts),
        out_shape=[
            *(jax.ShapeDtypeStruct((*shape, 1), jnp.float32) for _ in range(2)),
            jax.ShapeDtypeStruct((b, groups, parts, planes, height, lanes[1]), jnp.float32),
        ],
        compiler_params=compile_for("pallas_gpu"),
        interpret=interpret,
    )(lengths, pages, rows, *flat)
    top = jnp.max(tops, axis=2, keepdims=True)
    keep = jnp.exp(tops - top) * (totals > 0)
    total = jnp.sum(totals * keep, axis=2)
    made = jnp.sum(sums * keep[:, :, :, None], axis=2)
    return _in_order(made / jnp.where(total == 0, 1, total)[:, :, None], q, kinds[1])


def _gpu_kernel(lengths_ref: Any, pages_ref: Any, q_ref: Any, *refs: Any, kinds: list[Kind], lanes: list[int],
                per_page: int, mask: Mask, scale: float) -> None:  # fmt: skip
    """Some keys of one head."""
    *caches, top_ref, total_ref, sums_ref = refs
    batch, group, part = (pl.program_id(i) for i in range(3))
    parts, count = top_ref.shape[2], 1 if not kinds[0].bits else 3 - kinds[0].is_signed
    own = (caches[:count], caches[count:])
    length = lengths_ref[batch]
    begin = jnp.maximum(length - mask.window, 0) if mask.window else jnp.int32(0)
    sinks = jnp.minimum(begin, mask.sinks)
    seen = length - begin + sinks  # keys, counted over the gap
    each = jax.lax.div(seen + parts - 1, jnp.int32(parts))
    last = jnp.minimum(seen, (part + 1) * each)
    rows = [q_ref[batch, group, plane] for plane in range(kinds[0].planes)]

    def planes(which: int, line: Any, is_there: Any) -> list[Any]:
        kind, refs = kinds[which], own[which]
        lane = jnp.arange(lanes[which])
        there = is_there[:, None] & (lane[None, :] < kind.wide)
        codes = plgpu.load(refs[0].at[line[:, None], group, lane[None, :]], mask=there, other=0)
        out = []
        for plane in range(kind.planes):
            steps: list[Any] = [None, None]
            if kind.bits:
                size = kind.wide * kind.planes // kind.runs if kind.runs > 1 else kind.wide * kind.planes
                run = jax.lax.div(lane * kind.planes + plane, jnp.full_like(lane, size))
                for i, ref in enumerate(refs[1:]):
                    steps[i] = plgpu.load(ref.at[line[:, None], group, run[None, :]], mask=there, other=0.0)
            out.append(_plane(kind, codes, plane, *steps))
        return out

    def step(index: Any, carry: tuple[Any, ...]) -> tuple[Any, ...]:
        top, total, *sums = carry
        at = part * each + index * KEYS + jnp.arange(KEYS)
        is_there = at < last
        key = jnp.where(at < sinks, at, begin + at - sinks)
        page = plgpu.load(
            pages_ref.at[batch, jax.lax.div(key, jnp.full_like(key, per_page))], mask=is_there, other=0
        )
        line = page * per_page + jax.lax.rem(key, jnp.full_like(key, per_page))
        scores = jnp.zeros((rows[0].shape[0], KEYS), jnp.float32)
        for row, numbers in zip(rows, planes(0, line, is_there), strict=True):
            scores = scores + _dot(row, numbers.T)
        values = planes(1, line, is_there)
        there = jnp.broadcast_to(is_there[None, :], scores.shape)
        top, total, made = _joined(scores * np.float32(scale), there, top, total, sums, values, rows[0].dtype)
        return top, total, *made

    height = rows[0].shape[0]
    start = [jnp.full((height, 1), NEVER, jnp.float32), jnp.zeros((height, 1), jnp.float32)]
    start += [jnp.zeros((height, lanes[1]), jnp.float32) for _ in range(kinds[1].planes)]
    steps = jax.lax.div(jnp.maximum(last - part * each, 0) + (KEYS - 1), jnp.int32(KEYS))
    top, total, *sums = jax.lax.fori_loop(0, steps, step, tuple(start))
    top_ref[batch, group, part], total_ref[batch, group, part] = top, total
    for plane, made in enumerate(sums):
        sums_ref[batch, group, part, plane] = made


def on_tpu(
    q: Any, keys: Any, values: Any, lengths: Any, pages: Any, *, mask: Mask, scale: float, interpret: bool
) -> Any:
    """See `decode_reference`."""
    kinds = [kind_of(cache, q.shape[-1]) for cache in (keys, values)]
    arrays = [_arrays(cache) for cache in (keys, values)]
    per_page, groups = arrays[0][0].shape[1:3]
    rows = _queries(q, kinds[0], groups, 8, kinds[0].wide)
    is_paged = pages.shape[1] > 1 or per_page * groups * q.shape[-1] <= MOST_PAGE
    size = per_page if is_paged else max(8, MOST_PAGE // (groups * q.shape[-1]) // 8 * 8)
    blocks = pages.shape[1] if is_paged else pl.cdiv(per_page, size)

    def of_cache(a: Any) -> pl.BlockSpec:
        at = (
            (lambda b, j, lengths, pages: (pages[b, j], 0, 0, 0))
            if is_paged
            else (lambda b, j, lengths, pages: (pages[b, 0], j, 0, 0))
        )
        return pl.BlockSpec((1, size, groups, a.shape[3]), at)

    planes, height = kinds[1].planes, rows.shape[3]
    out_block = (1, groups, planes, height, kinds[1].wide)
    out = pl.BlockSpec(out_block, lambda b, j, *_: (b, 0, 0, 0, 0))
    spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=2,
        grid=(q.shape[0], blocks),
        in_specs=[
            pl.BlockSpec((1, *rows.shape[1:]), lambda b, j, *_: (b, 0, 0, 0, 0)),
            *(of_cache(a) for own in arrays for a in own),
        ],
        out_specs=out,
        scratch_shapes=[
            pltpu.VMEM((groups, height, 1), jnp.float32),
            pltpu.VMEM((groups, height, 1), jnp.float32),
            pltpu.VMEM((groups, planes, height, kinds[1].wide), jnp.float32),
        ],
    )
    sums = pl.pallas_call(
        functools.partial(_tpu_kernel, kinds=kinds, mask=mask, scale=scale, count=len(arrays[0])),
        grid_spec=spec,
        out_shape=jax.ShapeDtypeStruct((q.shape[0], *out_block[1:]), jnp.float32),
        compiler_params=compile_for("pallas_tpu", grid=("parallel", "arbitrary")),
        interpret=interpret,
    )(lengths, pages, rows, *arrays[0], *arrays[1])
    return _in_order(sums, q, kinds[1])


def _tpu_kernel(lengths_ref: Any, pages_ref: Any, q_ref: Any, *refs: Any, kinds: list[Kind], mask: Mask,
                scale: float, count: int) -> None:  # fmt: skip
    """One page of one sequence, all heads."""
    del pages_ref
    *caches, out_ref, top_ref, total_ref, sums_ref = refs
    own = (caches[:count], caches[count:])
    block, length = pl.program_id(1), lengths_ref[pl.program_id(0)]
    _, size, groups, _ = own[0][0].shape
    height = q_ref.shape[3]

    @pl.when(block == 0)
    def begins() -> None:
        top_ref[...] = jnp.full_like(top_ref, NEVER)
        total_ref[...] = jnp.zeros_like(total_ref)
        sums_ref[...] = jnp.zeros_like(sums_ref)

    def seen_by(axis: int, shape: tuple[int, ...]) -> Any:
        key = block * size + jax.lax.broadcasted_iota(jnp.int32, shape, axis)
        return visible(length - 1, key, length, mask)

    def planes(which: int, group: int) -> list[Any]:
        kind, refs = kinds[which], own[which]
        codes, *steps = (ref[0, :, group, :] for ref in refs)
        steps = [*steps, None, None][:2]
        is_there = seen_by(0, codes.shape)  # what lies beyond a sequence may be nan
        return [jnp.where(is_there, _plane(kind, codes, p, *steps), 0.0) for p in range(kind.planes)]

    begin = jnp.maximum(length - mask.window, 0) if mask.window else 0
    is_in = (block * size < length) & ((block * size + size > begin) | (block * size < mask.sinks))

    @pl.when(is_in)
    def joins() -> None:
        for group in range(groups):
            scores = jnp.zeros((height, size), jnp.float32)
            for plane, numbers in enumerate(planes(0, group)):
                scores = scores + _dot(q_ref[0, group, plane], numbers.T)
            sums = [sums_ref[group, plane] for plane in range(kinds[1].planes)]
            top, total, made = _joined(
                scores * np.float32(scale), seen_by(1, scores.shape), top_ref[group], total_ref[group], sums,
                planes(1, group), q_ref.dtype,
            )  # fmt: skip
            top_ref[group], total_ref[group] = top, total
            for plane, values in enumerate(made):
                sums_ref[group, plane] = values

    @pl.when(block == pl.num_programs(1) - 1)
    def ends() -> None:
        total = total_ref[...][:, None]
        out_ref[0] = sums_ref[...] / jnp.where(total == 0, 1.0, total)

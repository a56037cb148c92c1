"""Block leaf: a weight as packed codes of a format, with a scale and perhaps a zero point a block."""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from efficient.core.leaf import Leaf, is_leaf, leaf, static
from efficient.core.rows import rows
from efficient.quantize.blocks import Layout, spread
from efficient.quantize.codes import Codes, as_matrix, numbering, product
from efficient.quantize.format import Format
from efficient.quantize.packing import pack_codes, unpack_codes


@leaf
class BlockLeaf(Leaf):
    """A weight `decode(code) * scale`, or `(code - zero) * scale`.

    Stored: `grid.bits` bits a weight, rows of the last axis filled up to whole bytes; the scales, which may
    be quantized themselves, and the zero points, one byte each.
    """

    codes: Any  # uint8 [*axes but the last, bytes]
    scale: Any  # float [*blocks], or a leaf that stands for that
    zero: Any  # uint8 [*blocks], or None
    grid: Format = static()
    layout: Layout = static()  # of the weight's axes, from the last
    length: int = static()  # of the weight's last axis
    is_packed: bool = static()  # False: a code a byte, as layout equations leave it
    out_dtype: Any = static()

    def __post_init__(self) -> None:
        spans = self.layout if isinstance(self.layout, tuple) else (-1,)
        if not isinstance(self.grid, Format) or not all(
            isinstance(n, int) and n >= 0 for n in (*spans, self.length)
        ):
            raise ValueError(
                f"grid must be a Format, layout and length whole numbers from 0, got {self.grid!r}, "
                f"{self.layout!r} and {self.length!r}; encode with a Quantizer."
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """That of the weight."""
        return (*self.codes.shape[:-1], self.length)

    @property
    def dtype(self) -> Any:
        """What `dense` returns."""
        return self.out_dtype

    @property
    def own_layout(self) -> Layout:
        """The layout of the axes that are left, where a scan has sliced leading ones off."""
        return self.layout[len(self.layout) - self.codes.ndim :]

    def unpacked(self) -> Any:
        """The codes, one a byte."""
        return unpack_codes(self.codes, self.grid.bits, self.length) if self.is_packed else self.codes

    def dense(self) -> jax.Array:
        """Decoded and scaled in float32."""
        if self.codes.ndim > len(self.layout):
            return jax.vmap(lambda one: one.dense())(self)
        scale = plain(self.scale).astype(jnp.float32)
        return scaled(self.unpacked(), scale, self.zero, self.grid, self.own_layout).astype(self.out_dtype)

    def stack(self, length: int) -> Any:
        """Sliceable: what all layers share is repeated."""
        if self.codes.ndim > len(self.layout) or self.codes.shape[0] != length:
            return super().stack(length)
        if self.layout[0] == 1:
            return self if not is_leaf(self.scale) else dataclasses.replace(self, scale=plain(self.scale))
        if self.layout[0] != 0 and self.layout[0] != length:
            return NotImplemented
        again = lambda a: None if a is None else jnp.broadcast_to(a, (length, *a.shape[1:]))  # noqa: E731
        return dataclasses.replace(self, scale=again(plain(self.scale)), zero=again(self.zero))

    def dot_general(self, site: Any) -> Any:
        """Rule: by a kernel of packed codes, or decoded where it is multiplied."""
        out = product(site, self)
        return site.bind(self.dense()) if out is None else out

    conv_general_dilated = dot_general

    def as_codes(self, summed: int) -> Codes | None:
        """The weight for kernels, or None: where blocks are no runs of rows, or codes straddle bytes."""
        bits, shape = self.grid.bits if self.is_packed else 8, self.shape
        layout = self.own_layout
        is_whole = shape[-1] * bits % 8 == 0 or summed == len(shape) - 1
        if bits not in (2, 4, 8) or len(layout) != self.codes.ndim or not is_whole or 0 in shape:
            return None
        spans = [span or n for span, n in zip(layout, shape, strict=True)]
        inner, outer = spans[summed - 1], spans[: summed - 1]
        if all(span == n for span, n in zip(spans[:summed], shape, strict=False)):
            group, runs = 0, 1
        elif all(span == 1 or n == 1 for span, n in zip(outer, shape, strict=False)) and (
            shape[summed - 1] % inner == 0 or math.prod(shape[: summed - 1]) == 1
        ):
            group, runs = inner, math.prod(shape[: summed - 1]) * -(-shape[summed - 1] // inner)
        else:
            return None
        table, is_signed = numbering(self.grid, bits)
        free = shape[summed:]

        def of_runs(values: Any) -> Any:
            if values is None:
                return None
            lead = values.reshape(runs, *values.shape[summed:]).astype(jnp.float32)
            if lead.size == runs:
                return lead.reshape(runs, 1)
            return spread(lead, (1, *layout[summed:]), (runs, *free)).reshape(runs, math.prod(free))

        return Codes(
            codes=as_matrix(self.codes, shape, summed),
            scale=of_runs(plain(self.scale)),
            shift=of_runs(self.zero),
            table=table,
            bits=bits,
            group=group,
            is_signed=is_signed,
        )

    def as_rows(self, summed: int) -> Codes | None:
        """The same, its last axes summed over."""
        bits, shape = self.grid.bits if self.is_packed else 8, self.shape
        layout, count = self.own_layout, len(shape) - summed
        is_whole = shape[-1] * bits % 8 == 0 or summed == 1
        if bits not in (2, 4, 8) or len(layout) != self.codes.ndim or not is_whole or 0 in shape:
            return None
        spans = [span or n for span, n in zip(layout, shape, strict=True)]
        outer = list(zip(spans[count:-1], shape[count:-1], strict=True))
        inner, last = spans[-1], shape[-1]
        if inner >= last and all(span == n for span, n in outer):
            group, runs = 0, 1
        elif all(span == 1 or n == 1 for span, n in outer) and (last % inner == 0 or not outer):
            group, runs = inner, math.prod(n for _, n in outer) * -(-last // inner)
        else:
            return None
        table, is_signed = numbering(self.grid, bits)

        def of_runs(values: Any) -> Any:
            if values is None:
                return None
            along = values.reshape(*values.shape[:count], runs).astype(jnp.float32)
            if along.size == runs:
                return along.reshape(1, runs)
            return spread(along, (*layout[:count], 1), (*shape[:count], runs)).reshape(-1, runs)

        return Codes(
            codes=as_matrix(self.codes, shape, count),
            scale=of_runs(plain(self.scale)),
            shift=of_runs(self.zero),
            table=table,
            bits=bits,
            group=group,
            is_signed=is_signed,
        )

    def gather(self, site: Any) -> Any:
        """Rule: only the rows asked for are decoded; one out of bounds is NaN where the mode says so."""
        found = rows(site)
        if found is None or self.own_layout[:1] != (1,) or self.codes.ndim < 2:
            return NotImplemented
        codes = found.take(self.codes.astype(jnp.int32), fill=-1)
        scale, zero = found.take(plain(self.scale).astype(jnp.float32), fill=jnp.nan), None
        if self.zero is not None:
            zero = found.take(self.zero.astype(jnp.int32), fill=0)
            zero = zero.reshape(-1, *self.zero.shape[1:]).astype(jnp.uint8)
        taken = dataclasses.replace(
            self,
            codes=jnp.maximum(codes, 0).reshape(-1, *self.codes.shape[1:]).astype(jnp.uint8),
            scale=scale.reshape(-1, *scale.shape[codes.ndim - self.codes.ndim + 1 :]),
            zero=zero,
            out_dtype=site.out_dtype,
        )
        return taken.dense().reshape(site.out_shape)

    def transpose(self, site: Any) -> Any:
        """Rule: codes and scales change places, a code a byte."""
        if self.codes.ndim != len(self.own_layout):
            return NotImplemented
        order = site.params["permutation"]
        moved = lambda a: None if a is None else jnp.transpose(a, order)  # noqa: E731
        return self._laid(
            moved(self.unpacked()),
            moved(plain(self.scale)),
            moved(self.zero),
            tuple(self.own_layout[i] for i in order),
        )

    def squeeze(self, site: Any) -> Any:
        """Rule: axes of length 1 go."""
        return self.reshape(site)

    def reshape(self, site: Any) -> Any:
        """Rule, where only axes of length 1 come and go."""
        new = site.out_shape
        if self.codes.ndim != len(self.own_layout) or [n for n in new if n != 1] != [
            n for n in self.shape if n != 1
        ]:
            return NotImplemented
        own = iter(
            [
                (m, span)
                for m, span, n in zip(plain(self.scale).shape, self.own_layout, self.shape, strict=True)
                if n != 1
            ]
        )
        pairs = [(1, 1) if n == 1 else next(own) for n in new]
        counts = [m for m, _ in pairs]
        again = lambda a: None if a is None else a.reshape(counts)  # noqa: E731
        return self._laid(
            self.unpacked().reshape(new),
            again(plain(self.scale)),
            again(self.zero),
            tuple(s for _, s in pairs),
        )

    def _laid(self, codes: Any, scale: Any, zero: Any, layout: Layout) -> "BlockLeaf":
        """The leaf of other axes, unpacked."""
        return dataclasses.replace(
            self,
            codes=codes,
            scale=scale,
            zero=zero,
            layout=layout,
            length=codes.shape[-1],
            is_packed=False,
        )


def plain(scale: Any) -> Any:
    """A scale as an array."""
    return scale.dense() if is_leaf(scale) else scale


def scaled(codes: Any, scale: Any, zero: Any, grid: Format, layout: Layout) -> jax.Array:
    """The weights of codes, in float32."""
    numbers = grid.decode(codes)
    if zero is not None:
        numbers = numbers - spread(zero.astype(jnp.float32), layout, codes.shape)
    return numbers * spread(scale, layout, codes.shape)


def packed_leaf(
    numbers: Any, scale: Any, zero: Any, *, grid: Format, layout: Layout, dtype: Any
) -> BlockLeaf:
    """The leaf of numbers of the grid (with a zero point: numbers before it is taken off)."""
    return BlockLeaf(
        codes=pack_codes(grid.encode(numbers), grid.bits),
        scale=scale,
        zero=None if zero is None else zero.astype(jnp.uint8),
        grid=grid,
        layout=layout,
        length=numbers.shape[-1],
        is_packed=grid.bits < 8,
        out_dtype=dtype,
    )

"""Blocks: which weights share a scale: all, a channel, a group along an axis, a tile.

    layout = group(64).of(kernel.shape, path="kernel")       # by axis, how many places a block spans
    largest = jnp.max(jnp.abs(split(kernel, layout)), -1)    # one number a block
    scaled = kernel / spread(largest, layout, kernel.shape)

Sizes need not divide: the last block of an axis is shorter, filled up inside.
"""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from efficient.core.transform import recipe

Layout = tuple[int, ...]
"""By axis, the last being the array's last, the places that a block spans; 0 is the whole axis."""


class Blocks(NamedTuple):
    """A way to cut arrays into blocks."""

    spans: tuple[tuple[int, int], ...]  # (axis, places); other axes span `rest`
    rest: int  # 0: whole axes, 1: one place
    name: str = "Blocks(...)"

    def __repr__(self) -> str:
        return self.name

    def of(self, shape: tuple[int, ...], *, path: str = "the array") -> Layout:
        """The layout for an array.

        Raises:
          ValueError: the array lacks an axis that is named.
        """
        found = [self.rest] * len(shape)
        for axis, span in self.spans:
            if not -len(shape) <= axis < len(shape):
                raise ValueError(
                    f"axis must be one of the {len(shape)} axes of {path!r}, got {axis} in {self.name}; "
                    "tensor() is one block."
                )
            found[axis] = span
        return tuple(n if 0 < span >= n else span for span, n in zip(found, shape, strict=True))


@recipe
def tensor() -> Blocks:
    """One block."""
    return Blocks((), 0)


@recipe
def channel(axis: int = -1) -> Blocks:
    """A block for each place along an axis; -1 is the output channel of Flax's kernels."""
    return Blocks(((axis, 1),), 0)


@recipe
def group(size: int, axis: int = -2) -> Blocks:
    """A block for each run of `size` places along an axis, at every place of the others.

    Args:
      size: places, from 1; the last block is shorter where it does not divide.
      axis: -2 is the input channel of Flax's kernels.

    Raises:
      ValueError: a size below 1.
    """
    require_size(size, "size")
    return Blocks(((axis, size),), 1)


@recipe
def tile(rows: int, columns: int) -> Blocks:
    """A block for each tile of the last two axes.

    Raises:
      ValueError: a size below 1.
    """
    require_size(rows, "rows")
    require_size(columns, "columns")
    return Blocks(((-2, rows), (-1, columns)), 1)


def require_size(size: int, name: str) -> None:
    """Refuses empty blocks."""
    if size < 1:
        raise ValueError(f"{name} must be from 1, got {size!r}; 32 to 128 are usual.")


def blocked(shape: tuple[int, ...], layout: Layout) -> tuple[int, ...]:
    """How many blocks there are along each axis."""
    return tuple(-(-n // (span or n)) if n else 0 for n, span in zip(shape, layout, strict=True))


def split(value: Float[Array, "*shape"], layout: Layout, *, fill: float = 0.0) -> Float[Array, "*blocks n"]:
    """The elements of each block along a last axis, in the array's order; `fill` where a block is short."""
    counts = blocked(value.shape, layout)
    spans = [span or n for n, span in zip(value.shape, layout, strict=True)]
    padding = [(0, m * b - n) for n, m, b in zip(value.shape, counts, spans, strict=True)]
    whole = jnp.pad(value, padding, constant_values=fill) if any(p for _, p in padding) else value
    pairs = whole.reshape([size for pair in zip(counts, spans, strict=True) for size in pair])
    apart = jnp.transpose(pairs, (*range(0, pairs.ndim, 2), *range(1, pairs.ndim, 2)))
    return apart.reshape(*counts, math.prod(spans))


def inside(shape: tuple[int, ...], layout: Layout) -> Bool[Array, "*blocks n"]:
    """True where `split` has an element of the array."""
    if all(n % (span or n or 1) == 0 for n, span in zip(shape, layout, strict=True)):
        counts = blocked(shape, layout)
        return jnp.ones((*counts, math.prod(shape) // max(math.prod(counts), 1)), bool)
    return split(jnp.ones(shape), layout) > 0


def spread(values: Float[Array, "*blocks"], layout: Layout, shape: tuple[int, ...]) -> Float[Array, "*shape"]:
    """One number a block, at every place of the block."""
    spans = [span or n for n, span in zip(shape, layout, strict=True)]
    if all(b == n or b == 1 for n, b in zip(shape, spans, strict=True)):
        return jnp.broadcast_to(values, shape)
    apart = jnp.broadcast_to(
        jnp.expand_dims(values, tuple(range(1, 2 * values.ndim, 2))),
        [size for m, b in zip(values.shape, spans, strict=True) for size in (m, b)],
    )
    whole = apart.reshape([m * b for m, b in zip(values.shape, spans, strict=True)])
    return whole[tuple(map(slice, shape))] if whole.shape != shape else whole

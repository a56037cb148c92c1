"""Quantizer: a format, the blocks that share a scale, the range that the scale covers, and how it is kept.

    q = Quantizer(format=Integer(4), blocks=group(64), range=mse())
    grid = q.grid(w)                  # a scale, and perhaps a zero point, for each block
    q.fake(w, grid)                   # rounded, in float32; the gradient passes straight through
    q.encode(w, grid)                 # the same numbers as packed codes

Scales may be quantized by a quantizer of their own: two levels of NVFP4, VS-Quant and double quantization.
"""

import abc
import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.quantize.block_leaf import BlockLeaf, packed_leaf, plain
from efficient.quantize.blocks import Blocks, Layout, inside, split, spread, tensor
from efficient.quantize.format import Format, round_to, safe
from efficient.quantize.range import Range
from efficient.quantize.ranges.minmax import minmax


class Grid(NamedTuple):
    """Where the grid of each block lies."""

    scale: Any  # [*blocks], an array or a leaf that stands for one
    zero: Any = None  # [*blocks] codes, as floats, where the format has zero points


@dataclasses.dataclass(frozen=True)
class Scale(abc.ABC):
    """How scales are kept."""

    @abc.abstractmethod
    def store(self, scale: Float[Array, "*blocks"], high: float) -> Any:
        """Scales as they are kept, an array or a leaf. `scale * high` is what they have to cover."""


@dataclasses.dataclass(frozen=True)
class Plain(Scale):
    """Scales of a floating dtype."""

    dtype: str = "float32"

    def store(self, scale: Float[Array, "*blocks"], high: float) -> Any:
        """Cast; one that the dtype cannot hold is its least or largest."""
        del high
        if self.dtype == "float32":
            return scale
        limits = jnp.finfo(self.dtype)
        return jnp.clip(scale, float(limits.tiny), float(limits.max)).astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class SharedExponent(Scale):
    """Powers of two in one byte (E8M0): 2^(floor(log2 largest) - floor(log2 of the format's largest)).

    Source: Open Compute Project, Microscaling Formats v1.0, 2023, section 6.3; Rouhani et al., 2023,
    arXiv:2310.10537, algorithm 1.
    """

    def store(self, scale: Float[Array, "*blocks"], high: float) -> Any:
        """What is too large for the power saturates."""
        power = jnp.frexp(scale * high)[1] - jnp.frexp(jnp.float32(high))[1]
        exact = jnp.ldexp(jnp.float32(1), jnp.clip(power, -126, 127))
        return jnp.where(jnp.isnan(scale), jnp.nan, exact).astype(jnp.float8_e8m0fnu)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantizer(Scale):
    """How arrays are quantized. A value: it hashes, compares, and prints as it was written.

    As a `scale` of another, it quantizes that one's scales (`store`).
    """

    format: Format
    blocks: Blocks = dataclasses.field(default_factory=tensor)
    range: Range = dataclasses.field(default_factory=minmax)
    scale: Scale = Plain()

    def layout(self, shape: tuple[int, ...], path: str = "the array") -> Layout:
        """The blocks of an array; raises as `Blocks.of`."""
        return self.blocks.of(shape, path=path)

    def grid(self, value: Float[Array, "*shape"]) -> Grid:
        """The grid of each block, without a gradient."""
        value = jax.lax.stop_gradient(value).astype(jnp.float32)
        layout = self.layout(value.shape)
        low, high = self.range.of(
            split(value, layout), inside(value.shape, layout).astype(jnp.float32), self.format
        )
        scale, zero = self.format.scaled(low, high)
        return Grid(self.scale.store(scale, self.format.high), zero)

    def trained_scale(self, value: Float[Array, "*shape"]) -> Float[Array, "*blocks"]:
        """The scales of `grid` as plain arrays, with the gradient of the range in the values."""
        layout = self.layout(value.shape)
        low, high = self.range.of(
            split(value.astype(jnp.float32), layout),
            inside(value.shape, layout).astype(jnp.float32),
            self.format,
        )
        return self.format.scaled(low, high)[0]

    def numbers(self, value: Float[Array, "*shape"], grid: Grid) -> Float[Array, "*shape"]:
        """Numbers of the format, before scales (and before zero points are taken off)."""
        layout = self.layout(value.shape)
        scale = spread(safe(plain(grid.scale).astype(jnp.float32)), layout, value.shape)
        x = value.astype(jnp.float32) / scale
        if grid.zero is not None:
            x = x + spread(grid.zero, layout, value.shape)
        return round_to(self.format, x)

    def fake(self, value: Float[Array, "*shape"], grid: Grid | None = None) -> Float[Array, "*shape"]:
        """What `encode` stands for, in float32; straight through to `value`, 0 where it is clipped."""
        grid = self.grid(value) if grid is None else grid
        layout, numbers = self.layout(value.shape), self.numbers(value, grid)
        if grid.zero is not None:
            numbers = numbers - spread(grid.zero, layout, value.shape)
        return numbers * spread(plain(grid.scale).astype(jnp.float32), layout, value.shape)

    def encode(self, value: Float[Array, "*shape"], grid: Grid | None = None) -> BlockLeaf:
        """The packed leaf."""
        grid = self.grid(value) if grid is None else grid
        return packed_leaf(
            self.numbers(value, grid),
            grid.scale,
            grid.zero,
            grid=self.format,
            layout=self.layout(value.shape),
            dtype=value.dtype,
        )

    def store(self, scale: Float[Array, "*blocks"], high: float) -> Any:
        """Scales quantized: a leaf."""
        del high
        return self.encode(scale)

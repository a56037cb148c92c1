"""Range: which part of a block's numbers a grid covers; what lies beyond is clipped."""

from typing import NamedTuple, Protocol, runtime_checkable

from jaxtyping import Array, Float

from efficient.quantize.format import Format


@runtime_checkable
class Bounds(Protocol):
    """`(values, weights, format) -> (low, high)`: of each block, over its last axis.

    values: float32 [*blocks, n]. weights: how often each counts, float32 of that shape, 0 for what is only
    fill; of every block some are above 0, or the bounds are 0. low <= high; a format without a zero point
    covers -b..b with b = max(-low, high).
    """

    def __call__(  # noqa: D102
        self, values: Float[Array, "*blocks n"], weights: Float[Array, "*blocks n"], grid: Format
    ) -> tuple[Float[Array, "*blocks"], Float[Array, "*blocks"]]: ...


class Range(NamedTuple):
    """How the bounds of blocks are chosen."""

    of: Bounds
    name: str = "Range(...)"

    def __repr__(self) -> str:
        return self.name

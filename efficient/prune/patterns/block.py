"""Block: boxes of neighbours stay or go together.

Source: Narang et al., 2017, arXiv:1711.02782, section 3.1; the grain of Mao et al., 2017, arXiv:1705.08922.
"""

from efficient.core.transform import recipe
from efficient.prune.pattern import Pattern, require_axis
from efficient.prune.patterns.tiles import tiles


@recipe
def block(shape: tuple[int, ...] = (4, 4), *, axes: tuple[int, ...] = (-2, -1)) -> Pattern:
    """Boxes of `shape` along `axes`; by the other axes, every index has boxes of its own.

    At an edge that a size does not divide, boxes are smaller, and score the mean of the weights they have:
    the number of boxes is exact, that of weights where all are of one size.

    Args:
      shape: sizes of a box, each at least 1.
      axes: along which they lie, one for each size; (-2, -1) are inputs and outputs of Flax's kernels.

    Raises:
      ValueError: at once, a size below 1, or not one axis a size; at `init`, an array without these axes.

    Source: module docstring. *Differs:* the first paper scores a block by its largest weight; here by the
    mean of its weights' scores.
    """
    if not shape or any(size < 1 for size in shape):
        raise ValueError(f"shape must be sizes of at least 1, got {shape!r}; (4, 4) is blocks of 16 weights.")
    if len(axes) != len(shape):
        raise ValueError(
            f"axes must be one for each of the sizes {shape!r}, got {axes!r}; name an axis a size."
        )

    def sizes(array: tuple[int, ...], path: str) -> tuple[int, ...]:
        own = [require_axis(axis, array, path) for axis in axes]
        if len(set(own)) != len(own):
            raise ValueError(f"axes must be different axes of {path!r}, got {axes!r}; name each once.")
        by_axis = dict(zip(own, shape, strict=True))
        return tuple(by_axis.get(axis, 1) for axis in range(len(array)))

    return tiles(sizes)

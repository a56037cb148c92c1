"""Layer: an array stays or goes whole.

Source: Sajjad et al., 2020, arXiv:2004.03844, section 3 (layers of a trained Transformer that are dropped).
"""

from efficient.core.transform import recipe
from efficient.prune.pattern import Pattern, require_axis
from efficient.prune.patterns.tiles import tiles


@recipe
def layer(*, axis: int | None = None) -> Pattern:
    """The whole array; with `axis`, each slice along it, as of scanned layers [layers, ...] with axis 0.

    A whole array is a single unit, and a budget keeps one at least: give it the allocation `together`, where
    all compete.

    Args:
      axis: that which indexes the layers; None where the array is one.

    Raises:
      ValueError: at `init`, an array without such an axis.

    Source: module docstring. *Differs:* the paper drops layers by where they stand or by what they do
    to activations; here by any score.
    """

    def sizes(shape: tuple[int, ...], path: str) -> tuple[int, ...]:
        own = None if axis is None else require_axis(axis, shape, path)
        return tuple(1 if a == own else length for a, length in enumerate(shape))

    return tiles(sizes)

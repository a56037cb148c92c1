"""Channel: whole slices across an axis stay or go.

Source: Li et al., 2017, arXiv:1608.08710, section 3.1 (filters); He et al., 2017, arXiv:1707.06168 (input
channels).
"""

from efficient.core.transform import recipe
from efficient.prune.pattern import Pattern, require_axis
from efficient.prune.patterns.tiles import tiles


@recipe
def channel(*, axis: int = -1) -> Pattern:
    """All weights of one index along `axis`: with -1 an output channel (a filter), with -2 an input channel.

    The array keeps its shape; it is zeroed by whole channels.

    Args:
      axis: that which indexes the channels, in Flax's layout [..., in, out].

    Raises:
      ValueError: at `init`, an array without such an axis.

    Source: module docstring.
    """

    def sizes(shape: tuple[int, ...], path: str) -> tuple[int, ...]:
        own = require_axis(axis, shape, path)
        return tuple(1 if a == own else length for a, length in enumerate(shape))

    return tiles(sizes)

"""Head: attention heads stay or go whole.

Source: Michel et al., 2019, arXiv:1905.10650, section 2.3.
"""

from efficient.core.transform import recipe
from efficient.prune.pattern import Pattern, require_axis
from efficient.prune.patterns.tiles import tiles


@recipe
def head(heads: int, *, axis: int = -1) -> Pattern:
    """All weights of one head, of `heads` that lie one after another along `axis`.

    The axis has heads * dim indices, as of a fused projection [in, heads * dim], or one a head, as of Flax's
    attention [in, heads, dim] with axis -2 and [heads, dim, out] with axis -3. Each array chooses its own.

    Args:
      heads: how many there are, at least 1.
      axis: along which they lie.

    Raises:
      ValueError: at once, `heads` below 1; at `init`, an array without such an axis, or whose axis they do
        not divide.

    Source: module docstring.
    """
    if heads < 1:
        raise ValueError(f"heads must be at least 1, got {heads!r}; it counts the heads along the axis.")

    def sizes(shape: tuple[int, ...], path: str) -> tuple[int, ...]:
        own = require_axis(axis, shape, path)
        if shape[own] % heads:
            raise ValueError(
                f"heads must divide axis {axis} of {path!r} with {shape[own]} indices, got {heads!r}; "
                "name the axis of the heads, or exclude the leaf."
            )
        return tuple(shape[own] // heads if a == own else length for a, length in enumerate(shape))

    return tiles(sizes)

"""Kernel: the spatial kernel from one input channel to one output channel stays or goes whole.

Source: Mao et al., 2017, arXiv:1705.08922, section 3 (2-D kernels).
"""

from efficient.core.transform import recipe
from efficient.prune.pattern import Pattern
from efficient.prune.patterns.tiles import tiles


@recipe
def kernel() -> Pattern:
    """Spatial kernels of convolutions, in Flax's layout [*spatial, in, out].

    Raises:
      ValueError: at `init`, an array without a spatial axis.

    Source: module docstring.
    """

    def sizes(shape: tuple[int, ...], path: str) -> tuple[int, ...]:
        if len(shape) < 3:
            raise ValueError(
                f"shape of {path!r} must be [*spatial, in, out] of a convolution, got {shape!r}; "
                "exclude the leaf."
            )
        return (*shape[:-2], 1, 1)

    return tiles(sizes)

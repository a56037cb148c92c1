"""Vector: runs of neighbours along one axis stay or go together.

Source: Mao et al., 2017, arXiv:1705.08922, section 3 (1-D vectors between single weights and kernels).
"""

from efficient.core.transform import recipe
from efficient.prune.pattern import Pattern
from efficient.prune.patterns.block import block


@recipe
def vector(length: int, *, axis: int = -1) -> Pattern:
    """Runs of `length` weights along `axis`; the last of a row may be shorter.

    Args:
      length: of a run, at least 1.
      axis: along which runs lie; -1 is the outputs of Flax's kernels, whose weights are next in memory.

    Raises:
      ValueError: at once, `length` below 1; at `init`, an array without such an axis.

    Source: module docstring. *Differs:* any length; the paper's vectors are rows or columns of a kernel.
    """
    if length < 1:
        raise ValueError(f"length must be at least 1, got {length!r}; it counts the weights of a run.")
    return block((length,), axes=(axis,))

"""Unstructured: every weight by itself.

Source: Han et al., 2015, arXiv:1506.02626.
"""

from efficient.core.transform import recipe
from efficient.prune.pattern import Pattern, any_shape, best, whole


@recipe
def unstructured() -> Pattern:
    """Every weight stays or goes by itself."""
    return Pattern(any_shape, whole, best, lambda chosen, shape: chosen)

"""Per leaf: every array has the same sparsity.

Source: Han et al., 2015, arXiv:1506.02626, section 3.
"""

from collections.abc import Mapping
from typing import Any

from efficient.core.transform import recipe
from efficient.prune.allocation import Allocation
from efficient.prune.mask import kept_of


@recipe
def per_leaf() -> Allocation:
    """The same sparsity for every array; each keeps a unit at least."""

    def share(
        pooled: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], sparsity: Any
    ) -> dict[str, Any]:
        del shapes
        return {path: kept_of(scores.size, sparsity) for path, scores in pooled.items()}

    return Allocation(share)

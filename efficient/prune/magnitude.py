"""Magnitude pruning: zero the weights of smallest absolute value.

Source: Han et al., 2015, arXiv:1506.02626, section 3. With a schedule: Zhu and Gupta, 2017,
arXiv:1710.01878, section 3.
Differs: the first paper thresholds at a multiple of each layer's standard deviation; here the *count* is
set, so that the sparsity asked for is the sparsity obtained.
"""

from typing import Literal

from efficient.core.transform import Transform, recipe
from efficient.prune.allocations.per_leaf import per_leaf
from efficient.prune.allocations.together import together
from efficient.prune.prune import Schedule, prune
from efficient.prune.scores.absolute import absolute


@recipe
def magnitude(
    sparsity: float | Schedule, *, scope: Literal["leaf", "global"] = "leaf", every: int = 1
) -> Transform:
    """Zeros a fraction `sparsity` of the weights that it is given: those of smallest |w|.

    `prune(absolute(), sparsity)`, which says the rest. At least one weight of every budget stays.

    Args:
      sparsity: in [0, 1); or a schedule step -> sparsity, such as `cubic_ramp`, applied by `update`.
      scope: "leaf" gives each leaf its own budget; "global" ranks all leaves together.
      every: under a schedule, masks are made anew at steps that `every` divides.

    Raises:
      ValueError: an unknown `scope`; or as `prune`.

    Source: module docstring.
    """
    if scope not in ("leaf", "global"):
        raise ValueError(f"scope must be 'leaf' or 'global', got {scope!r}; choose one.")
    allocation = per_leaf() if scope == "leaf" else together()
    return prune(absolute(), sparsity, allocation=allocation, every=every)

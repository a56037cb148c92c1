"""Together: all units compete, wherever they stand (global pruning).

Source: Lee et al., 2019, arXiv:1810.02340, section 4 (SNIP ranks all weights of a network together).
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from efficient.core.transform import recipe
from efficient.prune.allocation import Allocation
from efficient.prune.mask import kept_of


@recipe
def together() -> Allocation:
    """The units of highest score stay, wherever they stand; an array may go whole.

    The budget is one of weights, and exact where units are single weights. Of larger ones, the best are taken
    as long as each brings the number of weights nearer to the budget; one unit stays in any case. The units
    of one array count alike: its weights divided by its units, rounded.
    """

    def share(
        pooled: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], sparsity: Any
    ) -> dict[str, Any]:
        budget = kept_of(sum(math.prod(shape) for shape in shapes.values()), sparsity)
        units = np.array([scores.size for scores in pooled.values()])
        sizes = [round(math.prod(shapes[path]) / max(1, s.size)) for path, s in pooled.items()]
        owner = jnp.repeat(jnp.arange(len(pooled)), units, total_repeat_length=units.sum())
        flat = jnp.concatenate([scores.ravel() for scores in pooled.values()])
        order = jnp.argsort(-flat, stable=True)  # NaN last
        size = jnp.asarray(sizes)[owner[order]]
        after = jnp.cumsum(size)
        is_taken = (after - budget < budget - (after - size)) | (jnp.arange(flat.size) == 0)
        counts = jnp.zeros(len(pooled), jnp.int32).at[owner[order]].add(is_taken)
        return dict(zip(pooled, counts, strict=True))

    return Allocation(share)

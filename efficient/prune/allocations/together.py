"""Together: all units compete, wherever they stand (global pruning).

Source: Lee et al., 2019, arXiv:1810.02340, section 4 (SNIP ranks all weights of a network together).
"""

import math
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp

from efficient.core.transform import recipe
from efficient.prune.allocation import Allocation
from efficient.prune.mask import kept_of


@recipe
def together() -> Allocation:
    """The units of highest score stay, wherever they stand; an array may go whole.

    Units of single weights meet the budget exactly. Where units differ in size, the best are taken until the
    next would pass the budget of weights; one unit stays in any case.
    """

    def share(
        pooled: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], sparsity: Any
    ) -> dict[str, Any]:
        total = sum(math.prod(shape) for shape in shapes.values())
        flat = jnp.concatenate([scores.ravel() for scores in pooled.values()])
        size = jnp.concatenate(
            [jnp.full(s.size, math.prod(shapes[path]) / s.size) for path, s in pooled.items()]
        )
        owner = jnp.concatenate([jnp.full(s.size, i) for i, s in enumerate(pooled.values())])
        order = jnp.argsort(-flat, stable=True)  # NaN last
        taken = jnp.cumsum(size[order]) <= jnp.maximum(kept_of(total, sparsity), size[order[0]])
        counts = jnp.zeros(len(pooled), jnp.int32).at[owner[order]].add(taken)
        return dict(zip(pooled, counts, strict=True))

    return Allocation(share)

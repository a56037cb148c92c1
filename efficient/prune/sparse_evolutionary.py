"""Sparse evolutionary training (SET): the smallest weights give way to others at random.

Source: Mocanu et al., 2018, arXiv:1707.04780 (the SET procedure).
Differs: the paper drops the smallest positive and the largest negative weights apart, here the smallest |w|;
it draws new weights at random, here they start at zero (as Evci et al., 2020, arXiv:1911.11134, have it).
"""

from typing import Any

import jax
from jaxtyping import Array, Float

from efficient.core.transform import Transform, recipe
from efficient.prune.allocation import Allocation
from efficient.prune.drop_and_grow import sparse_training
from efficient.prune.prune import EACH
from efficient.prune.static_sparse import static_sparse


@recipe
def sparse_evolutionary(
    sparsity: float, *, every: int, fraction: float = 0.3, allocation: Allocation = EACH
) -> Transform:
    """Trains a fixed number of weights; those of smallest |w| give way to others, drawn evenly.

    The first mask and all draws come from the key that `init` is given. `drop_and_grow` says the ties, and
    what weight decay does.

    Args:
      sparsity: in [0, 1).
      every: steps between two moves, at least 1; the paper's is an epoch.
      fraction: how many of the active weights of each leaf move, in (0, 1]; the paper's zeta.
      allocation: how the budget is shared out among arrays; the paper's is `erdos_renyi(kernel=False)`.

    Raises:
      ValueError: at once, an argument out of its range; at `init`, no key, or as `prune`.

    Source, *Differs:* module docstring.
    """
    if every < 1:
        raise ValueError(f"every must be at least 1, got {every!r}; count optimizer steps.")
    if not 0 < fraction <= 1:
        raise ValueError(
            f"fraction must be in (0, 1], got {fraction!r}; 0.3 moves three active weights in ten."
        )

    def promise(value: jax.Array, grad: Any, key: Any) -> Float[Array, "*shape"]:
        del grad
        return jax.random.uniform(key, value.shape)

    return sparse_training(
        static_sparse(sparsity, allocation=allocation),
        is_due=lambda step: step % every == 0,
        fraction=lambda step: fraction,
        promise=promise,
    )

"""Static sparse training: a random mask, drawn once, under which the rest is trained.

Source: Liu et al., 2022, arXiv:2202.02643, section 3; "static" in Evci et al., 2020, arXiv:1911.11134.
"""

from typing import Any

from efficient.core.transform import State, Transform, keep_state, recipe
from efficient.prune.allocation import Allocation
from efficient.prune.prune import EACH, Pruned, prune
from efficient.prune.scores.random import random


@recipe
def static_sparse(sparsity: float, *, allocation: Allocation = EACH) -> Transform:
    """Keeps weights drawn at random by the key that `init` is given; the mask never changes.

    `prune(random(), sparsity, allocation=allocation)`, less the memory of what was drawn.

    Args:
      sparsity: in [0, 1).
      allocation: how the budget is shared out among arrays; the papers' best is `erdos_renyi()`.

    Raises:
      ValueError: at once, `sparsity` no number in [0, 1); at `init`, no key; or as `prune`.

    Source: module docstring.
    """
    if callable(sparsity):
        raise ValueError(f"sparsity must be a number in [0, 1), got {sparsity!r}; schedules are for `prune`.")
    drawn = prune(random(), sparsity, allocation=allocation)

    def init(params: Any, *, stats: Any = None, key: Any = None) -> State:
        state = drawn.init(params, stats=stats, key=key)
        return State(state.train, Pruned(state.fixed.masks, {}))

    return Transform(init, keep_state, drawn.apply, drawn.pack)

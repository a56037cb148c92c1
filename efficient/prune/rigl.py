"""RigL: sparse training that grows weights where the dense gradient is largest.

Source: Evci et al., 2020, arXiv:1911.11134, section 3 and algorithm 1.
Differs: in a step that moves masks the weights take their optimizer's step first, as in all others, and the
gradient is that of before it; the paper leaves the step out. The number that moves is rounded to the nearest.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.transform import Transform, recipe
from efficient.prune.allocation import Allocation
from efficient.prune.drop_and_grow import sparse_training
from efficient.prune.prune import EACH
from efficient.prune.static_sparse import static_sparse


@recipe
def rigl(
    sparsity: float, *, end: int, every: int = 100, alpha: float = 0.3, allocation: Allocation = EACH
) -> Transform:
    """Trains a fixed number of weights; those of smallest |w| give way to those of largest |gradient|.

    At each step t < `end` that `every` divides, every leaf drops the fraction

        f(t) = alpha / 2 (1 + cos(pi t / end))

    of its active weights and grows as many, at zero, among all that are then inactive. The first mask is
    drawn by the key that `init` is given. `drop_and_grow` says the ties, and what weight decay does.

    Args:
      sparsity: in [0, 1).
      end: the step at which masks stop moving, at least 1; the paper's is 3/4 of the training.
      every: steps between two moves, at least 1; the paper's Delta T.
      alpha: the fraction that moves at first, in (0, 1].
      allocation: how the budget is shared out among arrays; the paper's best is `erdos_renyi()`.

    Raises:
      ValueError: at once, an argument out of its range; at `init`, no key, or as `prune`; at `update`, no
        gradients.

    Source, *Differs:* module docstring.
    """
    for name, value in (("end", end), ("every", every)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}; count optimizer steps.")
    if not 0 < alpha <= 1:
        raise ValueError(f"alpha must be in (0, 1], got {alpha!r}; 0.3 moves three active weights in ten.")

    def promise(value: jax.Array, grad: Any, key: Any) -> Float[Array, "*shape"]:
        del value, key
        if grad is None:
            raise ValueError("grads must be given to grow by, got None; pass update(grads=...).")
        return jnp.abs(grad.astype(jnp.float32))

    return sparse_training(
        static_sparse(sparsity, allocation=allocation),
        is_due=lambda step: (step % every == 0) & (step < end),
        fraction=lambda step: alpha / 2 * (1 + jnp.cos(jnp.pi * step / end)),
        promise=promise,
    )

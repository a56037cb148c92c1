"""GraSP: which weights the gradient flows through, before any training.

Removing weight w changes the squared norm of the gradient by -2 w (H g) at first order. The paper's
S = -w (H g) is therefore *high* where the gradient grows when the weight goes, and it removes the highest.
Here what stays scores highest, so the score is -S = w (H g).

Source: Wang et al., 2020, arXiv:2002.07376, section 4 and algorithm 1.
Differs: H g is the mean over batches of each batch's own product; the paper's temperature is the loss's
business: divide the logits by it (200 there). `allocation=together()` is the paper's ranking.
"""

from typing import Any

import jax
from jaxtyping import Array, Float

from efficient.core.statistics import known
from efficient.core.transform import Key, recipe
from efficient.prune.score import Score, keep_memory


@recipe
def grasp() -> Score:
    """The product w (H g), with H the Hessian and g the gradient, all at the start; that is its memory.

    Needs, in `stats`: `observe_gradients(..., statistics="hessian_gradient")`. H runs over the weights that
    its `where` chooses: give it those that are pruned.

    Raises:
      ValueError: at `init`, `stats` without Hessian-gradient products.

    Source: module docstring.
    """

    def start(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Float[Array, "*shape"]:
        del key
        product = known(
            stats,
            "mean_hessian_gradient",
            path=path,
            how="call observe_gradients(..., statistics='hessian_gradient')",
        )
        return value * product

    return Score(start, keep_memory, lambda memory, value: memory)

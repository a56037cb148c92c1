"""Group norm: the mean |w| ** p, so that a pattern ranks its units by their Lp norm.

Source: p = 1: Li et al., 2017, arXiv:1608.08710, section 3.1 (filters); p = 2: He et al., 2018,
arXiv:1808.06866, section 3.2.
Differs: a unit's worth is the *mean* of |w| ** p, which orders units of one size as their norms do; units of
several sizes, ranked together, are compared by the weight.
"""

from typing import Literal

import jax.numpy as jnp

from efficient.core.transform import recipe
from efficient.prune.score import Score, of_weights


@recipe
def group_norm(order: Literal[1, 2] = 2) -> Score:
    """|w| ** order; what a pattern pools of it is the unit's norm ** order over its size.

    Args:
      order: p, 1 or 2.

    Raises:
      ValueError: at once, another `order`.

    Example:
      >>> score, w = group_norm(2), jnp.array([[3.0, 0.0], [4.0, 2.0]])
      >>> score.of((), w).mean(axis=0).tolist()  # of columns of norms 5 and 2: 25 / 2 and 4 / 2
      [12.5, 2.0]

    Source: module docstring.
    """
    if order not in (1, 2):
        raise ValueError(f"order must be 1 or 2, got {order!r}; 2 ranks units by their Euclidean norm.")
    return of_weights(jnp.abs if order == 1 else jnp.square)

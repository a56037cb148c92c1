"""Absolute value: |w|.

Source: Han et al., 2015, arXiv:1506.02626, section 3.
"""

import jax.numpy as jnp

from efficient.core.transform import recipe
from efficient.prune.score import Score, of_weights


@recipe
def absolute() -> Score:
    """|w|. Pooled over units it is their L1 norm by weight."""
    return of_weights(jnp.abs)

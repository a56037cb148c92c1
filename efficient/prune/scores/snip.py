"""SNIP: |g w|, how much the loss changes at first order when a connection goes, before any training.

Source: Lee et al., 2019, arXiv:1810.02340, section 4.
Differs: not divided by its sum over all weights, which changes no order. Several batches give one gradient,
their mean; the paper takes one batch. `prune(snip(), ..., allocation=together())` is the paper's ranking.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.statistics import known
from efficient.core.transform import Key, recipe
from efficient.prune.score import Score, keep_memory


@recipe
def snip() -> Score:
    """|g w|, with g the mean gradient and w the weight, both at the start; that is its memory.

    Needs, in `stats`: `observe_gradients(..., statistics="gradient")`.

    Raises:
      ValueError: at `init`, `stats` without gradients.

    Source: module docstring.
    """

    def start(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Float[Array, "*shape"]:
        del key
        gradient = known(
            stats, "mean_gradient", path=path, how="call observe_gradients(..., statistics='gradient')"
        )
        return jnp.abs(gradient * value)

    return Score(start, keep_memory, lambda memory, value: memory)

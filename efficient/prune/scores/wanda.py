"""Wanda: |w| times the norm of the input that it multiplies.

Source: Sun et al., 2023, arXiv:2306.11695, section 3.
Differs: any weight that `observe` sees: that of a convolution has the norm of its input channel, over batch
and space. The paper ranks within each output: give `pattern=per_output()`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.statistics import known
from efficient.core.transform import Key, recipe
from efficient.prune.score import Score, keep_memory
from efficient.prune.scores.features import along_features


@recipe
def wanda() -> Score:
    """|w| * ||x||, with ||x|| the Euclidean norm, over all samples, of the feature that w multiplies.

    Needs, in `stats`: `observe(..., statistics="second_moment")`. The norms are its memory.

    Raises:
      ValueError: at `init`, `stats` without second moments, or of another weight.

    Source: module docstring.
    """

    def start(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Float[Array, "*ones"]:
        del key
        squares = known(stats, "squares", path=path, how="call observe(..., statistics='second_moment')")
        return along_features(jnp.sqrt(squares), axes=stats.features, shape=tuple(value.shape), path=path)

    return Score(start, keep_memory, lambda memory, value: jnp.abs(value.astype(jnp.float32)) * memory)

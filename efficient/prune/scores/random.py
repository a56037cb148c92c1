"""Random: every weight is worth a number drawn at random; the control of every other score.

Source: Liu et al., 2022, arXiv:2202.02643, section 3 (random pruning as a baseline).
"""

from typing import Any

import jax
from jaxtyping import Array, Float

from efficient.core.transform import Key, recipe
from efficient.prune.score import Score, keep_memory


@recipe
def random() -> Score:
    """A number drawn evenly from [0, 1) for each weight, once, by the key that `init` is given; its memory.

    Raises:
      ValueError: at `init`, no key.
    """

    def start(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Float[Array, "*shape"]:
        del stats
        if key is None:
            raise ValueError(f"key must be given to score {path!r} at random, got None; pass init(key=...).")
        return jax.random.uniform(key, value.shape)

    return Score(start, keep_memory, lambda memory, value: memory)

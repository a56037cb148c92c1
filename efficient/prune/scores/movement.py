"""Movement: weights that training moves away from zero stay.

Source: Sanh et al., 2020, arXiv:2005.07683, section 4 (its STE: the gradient of a score is g w).
Differs: each step counts alike, as under a constant learning rate of the scores; `prune` never brings a
weight back; the weight in the product is that after the step.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.transform import Key, recipe
from efficient.prune.score import Score, require_gradient


@recipe
def movement() -> Score:
    """-sum over steps of g w, with g the gradient with respect to the masked weight.

    It is 0 at the start, where nothing has moved: give a schedule that begins at 0.

    Raises:
      ValueError: at `update`, no gradients.

    Source: module docstring.
    """

    def start(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Float[Array, "*shape"]:
        del path, stats, key
        return jnp.zeros(value.shape, jnp.float32)

    def track(memory: Any, value: jax.Array, grad: Any) -> Float[Array, "*shape"]:
        return memory - require_gradient(grad).astype(jnp.float32) * value

    return Score(start, track, lambda memory, value: memory, is_blank=lambda stats: True)

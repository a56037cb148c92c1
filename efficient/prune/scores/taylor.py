"""Taylor: (g w)^2, the squared change of the loss at first order when a weight goes, averaged in training.

A unit of several weights has two forms. Pooled by a pattern, the score is the mean of (g w)^2 over the unit:
weights count one by one. A gate that multiplies the whole unit has the gradient sum(g w), and the score is
its square: changes of opposite sign cancel, as they do when the unit goes whole. `axis` asks for the second.

Source: Molchanov et al., 2019, arXiv:1906.10771, section 3 (weights, sums over a unit, gates). |g w| is the
first-order term itself, as Molchanov et al., 2017, arXiv:1611.06440, section 2.2, take of feature maps.
Differs: the mean over steps is exponential; the weight in the product is that after the step.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.transform import Key, recipe
from efficient.prune.pattern import require_axis
from efficient.prune.score import Score, require_gradient


@recipe
def taylor(*, squared: bool = True, axis: int | None = None, decay: float = 0.9) -> Score:
    """The mean over steps of (g w)^2, or of |g w|.

    After each step its memory m becomes decay * m + (1 - decay) * (g w)^2. It starts at 0, or from `stats`
    (`observe_gradients(..., statistics="gradient")`) at (g w)^2 with g the mean gradient. Without them it
    knows nothing before the first step: give a schedule that begins at 0.

    Args:
      squared: True is (g w)^2, False |g w|; of a gate, sum(g w) in place of g w.
      axis: along which units lie, each with a gate: -1 is the output channel of Flax's kernels. None is a
        gate for each weight.
      decay: of the mean over steps, in [0, 1).

    Raises:
      ValueError: at once, `decay` out of range; at `init`, an array without the axis; at `update`, no
        gradients.

    Source: module docstring.
    """
    if not 0 <= decay < 1:
        raise ValueError(f"decay must be in [0, 1), got {decay!r}; 0.9 remembers about ten steps.")

    def worth(gradient: Any, value: jax.Array) -> Float[Array, "*shape"]:
        change = gradient.astype(jnp.float32) * value
        if axis is not None:
            others = tuple(i for i in range(value.ndim) if i != axis % value.ndim)
            change = jnp.broadcast_to(jnp.sum(change, axis=others, keepdims=True), value.shape)
        return jnp.square(change) if squared else jnp.abs(change)

    def start(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Float[Array, "*shape"]:
        del key
        if axis is not None:
            require_axis(axis, tuple(value.shape), path)
        gradient = getattr(stats, "mean_gradient", None)
        return jnp.zeros(value.shape, jnp.float32) if gradient is None else worth(gradient, value)

    def track(memory: Any, value: jax.Array, grad: Any) -> Float[Array, "*shape"]:
        return decay * memory + (1 - decay) * worth(require_gradient(grad), value)

    return Score(
        start,
        track,
        lambda memory, value: memory,
        is_blank=lambda stats: getattr(stats, "mean_gradient", None) is None,
    )

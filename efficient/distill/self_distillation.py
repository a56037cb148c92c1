"""Self-distillation: early exits of a network are taught by its own last one.

Source: Zhang et al., 2019, arXiv:1905.08094, equation 7 (be your own teacher). For born-again networks
(Furlanello et al., 2018, arXiv:1805.04770) the teacher is the generation before: `forward_kl` is the whole
loss.
"""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from efficient.distill.hints import hint
from efficient.distill.logits import forward_kl


def own_teacher(
    exits: Sequence[Any],
    labels: Int[Array, " batch"],
    *,
    features: Sequence[Any] = (),
    regressors: Sequence[Any] = (),
    alpha: float = 0.3,
    strength: float = 0.03,
    temperature: float = 3.0,
) -> Float[Array, ""]:
    """Sum over exits of (1 - alpha) cross entropy + alpha KL to the last + strength hint to its features.

    The last exit has its cross entropy alone.

    Args:
      exits: logits [batch, classes] of every exit, the deepest last; two or more.
      labels: classes.
      features: of every exit, channels last; empty: no hints.
      regressors: one for each exit but the last, as `hint` takes them (None where shapes are the same).
      alpha: in [0, 1].
      strength: of the hints, >= 0.
      temperature: of the KL.

    Raises:
      ValueError: fewer than two exits, an argument out of range, or features that do not go with the exits.
    """
    if len(exits) < 2 or not 0 <= alpha <= 1 or strength < 0:
        raise ValueError(
            f"exits must be two or more, alpha in [0, 1] and strength from 0, got {len(exits)}, {alpha!r} "
            f"and {strength!r}; the paper has 0.3 and 0.03."
        )
    if features and (len(features) != len(exits) or len(regressors) != len(exits) - 1):
        raise ValueError(
            f"features must be one an exit and regressors one less, got {len(features)} and "
            f"{len(regressors)} for {len(exits)} exits; pass None for a regressor that is not needed."
        )
    cross = [jnp.mean(optax.softmax_cross_entropy_with_integer_labels(z, labels)) for z in exits]
    total = cross[-1]
    for i, z in enumerate(exits[:-1]):
        total += (1 - alpha) * cross[i] + alpha * forward_kl(z, exits[-1], temperature=temperature)
        if features:
            total += strength * hint(features[i], features[-1], regressors[i])
    return total

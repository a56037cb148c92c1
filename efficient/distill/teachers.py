"""Teachers: several distributions as one.

Source: Hinton et al., 2015, arXiv:1503.02531, section 5 (an ensemble's mean); You et al., 2017, "Learning
from Multiple Teacher Networks", KDD.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mean_teacher(
    teachers: Sequence[Any], *, weights: Sequence[float] | None = None, temperature: float = 1.0
) -> Float[Array, "*lead classes"]:
    """Logits whose distribution at a temperature is the weighted mean of the teachers'.

    Args:
      teachers: logits of one shape, one or more.
      weights: one a teacher, not negative; None: all alike. They are divided by their sum.
      temperature: that of the loss: T log of the mean of softmax(z / T).

    Raises:
      ValueError: no teacher, or weights that do not go with them.
    """
    if not teachers:
        raise ValueError("teachers must be one or more, got none; pass their logits.")
    given = [1.0] * len(teachers) if weights is None else list(weights)
    if len(given) != len(teachers) or min(given) < 0 or sum(given) <= 0:
        raise ValueError(
            f"weights must be one a teacher, not negative, and not all zero, got {weights!r} for "
            f"{len(teachers)}; leave them out."
        )
    logs = jnp.stack([jax.nn.log_softmax(t.astype(jnp.float32) / temperature) for t in teachers])
    shares = jnp.asarray(given, jnp.float32) / sum(given)
    weighted = logs + jnp.log(shares).reshape([-1] + [1] * (logs.ndim - 1))
    return temperature * jax.nn.logsumexp(weighted, 0)

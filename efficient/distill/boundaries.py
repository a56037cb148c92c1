"""Boundaries: which neurons are active is matched, not by how much: the sparsity pattern of a ReLU.

Source: Heo et al., 2019, arXiv:1811.03233, equation 5 (activation boundaries).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from efficient.distill.mean import mean_over, only


def boundaries(
    student: Float[Array, "*lead channels"],
    teacher: Float[Array, "..."],
    *,
    margin: float = 1.0,
    mask: Bool[Array, "*lead"] | None = None,
    count: Any = None,
) -> Float[Array, ""]:
    """The mean over channels of (m + s)^2 where t <= 0 and s > -m, and of (m - s)^2 where t > 0 and s < m.

    Args:
      student: features before the ReLU.
      teacher: the same shape; have no gradient.
      margin: m > 0.
      mask: which positions count.
      count: see `mean_over`.

    Raises:
      ValueError: a margin out of range, or other shapes.
    """
    if not margin > 0:
        raise ValueError(f"margin must be above 0, got {margin!r}; 1 is usual.")
    if student.shape != teacher.shape:
        raise ValueError(
            f"student features must have the shape {teacher.shape}, got {student.shape}; pass them through "
            "a regressor."
        )
    s = only(student.astype(jnp.float32), mask)
    is_active = only(jax.lax.stop_gradient(teacher), mask) > 0
    loss = jnp.where(is_active, jnp.square(jax.nn.relu(margin - s)), jnp.square(jax.nn.relu(margin + s)))
    return mean_over(jnp.mean(loss, -1), mask, count=count)

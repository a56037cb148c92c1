"""Hints: the student's features are brought to the teacher's, through a regressor.

Source: Romero et al., 2015, arXiv:1412.6550, section 2.2, equation 3 (FitNets).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from efficient.distill.mean import mean_over, only


def regressor(key: Array, student: int, teacher: int) -> dict[str, Any]:
    """The params of a linear map from the student's channels to the teacher's: train them with the student.

    Args:
      key: random.
      student: channels, > 0.
      teacher: channels, > 0.

    Raises:
      ValueError: channels below 1.
    """
    if student < 1 or teacher < 1:
        raise ValueError(
            f"channels must be from 1, got {student!r} and {teacher!r}; take features' last axes."
        )
    kernel = jax.random.normal(key, (student, teacher)) / jnp.sqrt(student)
    return {"kernel": kernel, "bias": jnp.zeros(teacher)}


def hint(
    student: Float[Array, "*lead channels"],
    teacher: Float[Array, "..."],
    regress: dict[str, Any] | None = None,
    *,
    mask: Bool[Array, "*lead"] | None = None,
    count: Any = None,
) -> Float[Array, ""]:
    """The mean over channels of (r(student) - teacher)^2 / 2, r a 1x1 convolution.

    Args:
      student: features, channels last.
      teacher: features of the same leading axes; have no gradient.
      regress: params of `regressor`; None where the channels are the same.
      mask: which positions count.
      count: see `mean_over`.

    Raises:
      ValueError: other leading axes; or other channels, and no regressor.

    *Differs:* the paper's regressor is a larger convolution, so that the layers may differ in size.
    """
    mapped = only(student, mask)
    if regress is not None:
        mapped = mapped @ regress["kernel"]
        mapped = mapped + jnp.broadcast_to(regress["bias"], mapped.shape)
    if mapped.shape != teacher.shape:
        raise ValueError(
            f"student features must have the shape {teacher.shape} of the teacher's, got {mapped.shape}; "
            "pass regress=regressor(...), or resize them."
        )
    apart = only(mapped - jax.lax.stop_gradient(teacher), mask)
    return mean_over(jnp.mean(jnp.square(apart.astype(jnp.float32)), -1) / 2, mask, count=count)

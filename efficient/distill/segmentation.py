"""Segmentation: place by place, channel by channel, and pair by pair.

Source: Liu et al., 2019, arXiv:1903.04197, equations 1 and 2 (pixel-wise, pairwise); Shu et al., 2021,
arXiv:2011.13256, equation 4 (channel-wise).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from efficient.distill.logits import forward_kl

Maps = Float[Array, "batch *places channels"]


def pixelwise(
    student: Maps,
    teacher: Maps,
    *,
    temperature: float = 1.0,
    mask: Bool[Array, "batch *places"] | None = None,
) -> Float[Array, ""]:
    """T^2 KL between the classes' distributions of every place: `forward_kl`."""
    return forward_kl(student, teacher, temperature=temperature, mask=mask)


def channelwise(student: Maps, teacher: Maps, *, temperature: float = 4.0) -> Float[Array, ""]:
    """T^2 KL between every channel's distribution over the places, a mean over channels.

    Args:
      student: logits, classes last.
      teacher: the same shape; have no gradient.
      temperature: T > 0.
    """
    flat = lambda maps: jnp.swapaxes(maps.reshape(maps.shape[0], -1, maps.shape[-1]), 1, 2)  # noqa: E731
    return forward_kl(flat(student), flat(teacher), temperature=temperature)


def pairwise(student: Maps, teacher: Float[Array, "..."]) -> Float[Array, ""]:
    """The mean of (a_ij^s - a_ij^t)^2, a_ij the cosine of the features of two places.

    Args:
      student: features; their channels are free.
      teacher: the same places; have no gradient.

    Raises:
      ValueError: other places.
    """
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"student features must have the places {teacher.shape[:-1]} of the teacher's, got "
            f"{student.shape[:-1]}; pool them."
        )
    return jnp.mean(jnp.square(_cosines(student) - _cosines(jax.lax.stop_gradient(teacher))))


def _cosines(features: Any) -> Any:
    """Between all places of each example."""
    rows = features.astype(jnp.float32).reshape(features.shape[0], -1, features.shape[-1])
    squares = jnp.sum(jnp.square(rows), -1, keepdims=True)
    unit = rows / jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    return jnp.einsum("bnc,bmc->bnm", unit, unit)

"""Neuron selectivity transfer: the distributions of channels are matched, by maximum mean discrepancy.

Source: Huang and Wang, 2017, arXiv:1707.01219, section 4, equations 4 to 7 (NST).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def selectivity(
    student: Float[Array, "batch *places channels"],
    teacher: Float[Array, "..."],
    *,
    kernel: str = "polynomial",
) -> Float[Array, ""]:
    """The mean over the batch of MMD^2 between channels, each a vector over the places, of length 1.

    k(a, b) is a.b, (a.b)^2, or exp(-|a - b|^2 / (2 s^2)) with s^2 the mean squared distance of all pairs.

    Args:
      student: features, channels last; their number is free.
      teacher: the same places; have no gradient.
      kernel: which k.

    Raises:
      ValueError: an unknown kernel, or other places.
    """
    if kernel not in ("linear", "polynomial", "gaussian"):
        raise ValueError(f"kernel must be linear, polynomial or gaussian, got {kernel!r}; choose one.")
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"student features must have the places {teacher.shape[:-1]} of the teacher's, got "
            f"{student.shape[:-1]}; resize them."
        )
    a, b = _channels(student), _channels(jax.lax.stop_gradient(teacher))
    products = [jnp.einsum("bcn,bdn->bcd", x, y) for x, y in ((a, a), (b, b), (a, b))]
    if kernel == "linear":
        kernels = products
    elif kernel == "polynomial":
        kernels = [jnp.square(p) for p in products]
    else:
        distances = [2 - 2 * p for p in products]  # of vectors of length 1
        spread = jax.lax.stop_gradient(jnp.mean(distances[2])) + 1e-6
        kernels = [jnp.exp(-d / (2 * spread)) for d in distances]
    means = [jnp.mean(k, (1, 2)) for k in kernels]
    return jnp.mean(means[0] + means[1] - 2 * means[2])


def _channels(features: Float[Array, "batch *places channels"]) -> Float[Array, "batch channels n"]:
    """Each channel over the places, of length 1; zeros stay zeros."""
    rows = jnp.swapaxes(features.astype(jnp.float32).reshape(features.shape[0], -1, features.shape[-1]), 1, 2)
    squares = jnp.sum(jnp.square(rows), -1, keepdims=True)
    return rows / jnp.sqrt(jnp.where(squares > 0, squares, 1.0))

"""Attention transfer: where the student looks is brought to where the teacher looks.

Source: Zagoruyko and Komodakis, 2017, arXiv:1612.03928, section 3.1, equation 2.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def attention_map(
    features: Float[Array, "batch *places channels"], *, power: float = 2.0
) -> Float[Array, "batch n"]:
    """Sum over channels of |A|^power, flattened, of length 1; zeros stay zeros."""
    maps = jnp.sum(jnp.abs(features.astype(jnp.float32)) ** power, -1).reshape(features.shape[0], -1)
    squares = jnp.sum(jnp.square(maps), -1, keepdims=True)
    return maps / jnp.sqrt(jnp.where(squares > 0, squares, 1.0))


def attention(
    student: Float[Array, "batch *places channels"],
    teacher: Float[Array, "..."],
    *,
    power: float = 2.0,
) -> Float[Array, ""]:
    """The mean over the batch of |map(student) - map(teacher)|_2^2 / n, n places.

    Args:
      student: features, channels last; their number is free.
      teacher: the same places; have no gradient.
      power: > 0.

    Raises:
      ValueError: other places.

    *Differs:* as the authors' code, the mean of squares and not the norm.
    """
    if student.shape[:-1] != teacher.shape[:-1]:
        raise ValueError(
            f"student features must have the places {teacher.shape[:-1]} of the teacher's, got "
            f"{student.shape[:-1]}; resize them."
        )
    apart = attention_map(student, power=power) - attention_map(jax.lax.stop_gradient(teacher), power=power)
    return jnp.mean(jnp.square(apart))

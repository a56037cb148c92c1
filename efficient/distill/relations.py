"""Relations: distances and angles between the examples of a batch are matched.

Source: Park et al., 2019, arXiv:1904.05068, sections 3.2.1 and 3.2.2 (RKD).
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


def distance_relation(
    student: Float[Array, "batch features"], teacher: Float[Array, "others wide"]
) -> Float[Array, ""]:
    """Huber's loss between all pairs' distances, each divided by their mean in its own space (equation 4).

    Nothing that turns, moves or scales a whole space changes it.

    Args:
      student: embeddings; their width is free.
      teacher: of the same examples, in order; have no gradient.

    Raises:
      ValueError: other batches, or fewer than 2 examples.
    """
    _require_batch(student, teacher, 2)
    ours, theirs = _distances(student), _distances(jax.lax.stop_gradient(teacher))
    return jnp.mean(optax.losses.huber_loss(ours, theirs))


def angle_relation(
    student: Float[Array, "batch features"], teacher: Float[Array, "others wide"]
) -> Float[Array, ""]:
    """Huber's loss between the cosines of the angles at every example between every two others (equation 6).

    Args:
      student: embeddings; their width is free.
      teacher: of the same examples, in order; have no gradient.

    Raises:
      ValueError: other batches, or fewer than 3 examples.
    """
    _require_batch(student, teacher, 3)
    ours, theirs = _cosines(student), _cosines(jax.lax.stop_gradient(teacher))
    return jnp.mean(optax.losses.huber_loss(ours, theirs))


def _distances(x: Float[Array, "batch features"]) -> Float[Array, "batch batch"]:
    """All distances over their mean, those of an example to itself left out of it."""
    apart = x.astype(jnp.float32)[:, None] - x.astype(jnp.float32)[None]
    squares = jnp.sum(jnp.square(apart), -1)
    far = squares > 0
    distances = jnp.where(far, jnp.sqrt(jnp.where(far, squares, 1.0)), 0.0)
    mean = jnp.sum(distances) / jnp.maximum(jnp.sum(far), 1)
    return distances / jnp.where(mean > 0, mean, 1.0)


def _cosines(x: Float[Array, "batch features"]) -> Float[Array, "batch batch batch"]:
    """At j, the cosine between i - j and k - j."""
    apart = x.astype(jnp.float32)[None] - x.astype(jnp.float32)[:, None]  # [j, i]
    squares = jnp.sum(jnp.square(apart), -1, keepdims=True)
    unit = apart / jnp.sqrt(jnp.where(squares > 0, squares, 1.0))
    return jnp.einsum("jif,jkf->jik", unit, unit)


def _require_batch(student: Array, teacher: Array, least: int) -> None:
    """Refuses batches that do not go together."""
    if student.shape[0] != teacher.shape[0] or student.shape[0] < least:
        raise ValueError(
            f"student and teacher must embed the same {least} examples or more, got {student.shape[0]} and "
            f"{teacher.shape[0]}; give one row an example."
        )

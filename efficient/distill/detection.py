"""Detection: classes with the background weighted, boxes bounded by the teacher's error, edges by bins.

Source: Chen et al., 2017, "Learning Efficient Object Detection Models with Knowledge Distillation", NeurIPS,
equations 3 and 4; Zheng et al., 2022, arXiv:2102.12252, equation 4 (localization distillation).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from efficient.distill.logits import forward_kl
from efficient.distill.mean import mean_over, only


def weighted_classes(
    student: Float[Array, "*boxes classes"],
    teacher: Float[Array, "*boxes classes"],
    *,
    background: int = 0,
    weight: float = 1.5,
    mask: Bool[Array, "*boxes"] | None = None,
    count: Any = None,
) -> Float[Array, ""]:
    """- sum over classes of w_c p_c log q_c, w the weight of the background and 1 of the others (equation 3).

    Args:
      student: logits.
      teacher: logits; have no gradient.
      background: its class.
      weight: of the background, > 0.
      mask: which boxes count.
      count: see `mean_over`.

    Raises:
      ValueError: a weight that is not above 0, or no such class.
    """
    classes = student.shape[-1]
    if not weight > 0 or not 0 <= background < classes:
        raise ValueError(
            f"weight must be above 0 and background a class below {classes}, got {weight!r} and "
            f"{background!r}; the paper has 1.5."
        )
    p = jax.nn.softmax(only(jax.lax.stop_gradient(teacher).astype(jnp.float32), mask))
    log_q = jax.nn.log_softmax(only(student.astype(jnp.float32), mask))
    weights = jnp.ones(classes).at[background].set(weight)
    losses = -jnp.sum(jnp.broadcast_to(weights, p.shape) * p * log_q, -1)
    return mean_over(losses, mask, count=count)


def bounded_boxes(
    student: Float[Array, "*boxes 4"],
    teacher: Float[Array, "*boxes 4"],
    truth: Float[Array, "*boxes 4"],
    *,
    margin: float = 0.0,
    mask: Bool[Array, "*boxes"] | None = None,
    count: Any = None,
) -> Float[Array, ""]:
    """|s - y|^2 where |s - y|^2 + margin > |t - y|^2, else 0: only where the teacher is better (equation 4).

    Args:
      student: boxes.
      teacher: boxes; have no gradient.
      truth: boxes.
      margin: from 0.
      mask: which boxes count.
      count: see `mean_over`.

    Raises:
      ValueError: a margin below 0.
    """
    if margin < 0:
        raise ValueError(f"margin must be from 0, got {margin!r}; 0 asks for the teacher's error.")
    ours = jnp.sum(jnp.square(only(student - truth, mask).astype(jnp.float32)), -1)
    theirs = jnp.sum(jnp.square(only(jax.lax.stop_gradient(teacher) - truth, mask).astype(jnp.float32)), -1)
    return mean_over(jnp.where(ours + margin > theirs, ours, 0.0), mask, count=count)


def box_edges(
    student: Float[Array, "*boxes 4 bins"],
    teacher: Float[Array, "*boxes 4 bins"],
    *,
    temperature: float = 10.0,
    mask: Bool[Array, "*boxes"] | None = None,
    count: Any = None,
) -> Float[Array, ""]:
    """T^2 KL between the distributions of each box's four edges over bins, a mean over the edges.

    Args:
      student: logits over bins, edges second to last.
      teacher: the same; have no gradient.
      temperature: T > 0.
      mask: which boxes count.
      count: of boxes; see `mean_over`.
    """
    edges = None if mask is None else jnp.broadcast_to(mask[..., None], student.shape[:-1])
    many = None if count is None else 4 * count
    return forward_kl(student, teacher, temperature=temperature, mask=edges, count=many)

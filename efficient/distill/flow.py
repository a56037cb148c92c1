"""Flow: how features change from one layer to a later one is matched.

Source: Yim et al., 2017, "A Gift from Knowledge Distillation", CVPR, equations 1 and 2 (FSP).
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Features = Float[Array, "batch *places channels"]


def flow_matrix(first: Features, second: Float[Array, "..."]) -> Float[Array, "batch channels later"]:
    """G = sum over places of F1 F2^T / places.

    Raises:
      ValueError: the two have other places.
    """
    if first.shape[:-1] != second.shape[:-1]:
        raise ValueError(
            f"both layers must have the same places, got {first.shape[:-1]} and {second.shape[:-1]}; pool "
            "the larger."
        )
    a, b = (f.astype(jnp.float32).reshape(f.shape[0], -1, f.shape[-1]) for f in (first, second))
    return jnp.einsum("bnc,bnd->bcd", a, b) / a.shape[1]


def flow(student: tuple[Any, Any], teacher: tuple[Any, Any]) -> Float[Array, ""]:
    """The mean of (G_teacher - G_student)^2, over the batch and the entries of G.

    Args:
      student: features of an earlier and of a later layer.
      teacher: the same of the teacher, with as many channels each; have no gradient.

    Raises:
      ValueError: other channels; or as `flow_matrix`.
    """
    ours, theirs = flow_matrix(*student), flow_matrix(*jax.lax.stop_gradient(teacher))
    if ours.shape != theirs.shape:
        raise ValueError(
            f"flow matrices must have one shape, got {ours.shape[1:]} and {theirs.shape[1:]} channels; "
            "choose layers of equal width."
        )
    return jnp.mean(jnp.square(ours - theirs))

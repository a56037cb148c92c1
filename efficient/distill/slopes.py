"""Slopes: the student's gradients with respect to its inputs are matched to the teacher's.

Source: Srinivas and Fleuret, 2018, arXiv:1803.00443, equation 6 (Jacobian matching); Czarnecki et al., 2017,
arXiv:1706.04859 (Sobolev training).
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def slopes(
    student: Callable[[Any], Any], teacher: Callable[[Any], Any], x: Float[Array, "batch *rest"]
) -> Float[Array, ""]:
    """The mean over examples of |J_s/|J_s| - J_t/|J_t||^2, J the gradient of the teacher's largest output.

    One backward pass of each network: of the class that the teacher thinks most likely.

    Args:
      student: inputs -> logits [batch, classes].
      teacher: likewise; has no gradient.
      x: inputs.
    """
    best = jnp.argmax(teacher(x), -1)

    def slope(network: Callable[[Any], Any]) -> Any:
        chosen = lambda inputs: jnp.sum(jnp.take_along_axis(network(inputs), best[:, None], -1))  # noqa: E731
        rows = jax.grad(chosen)(x).astype(jnp.float32).reshape(x.shape[0], -1)
        squares = jnp.sum(jnp.square(rows), -1, keepdims=True)
        return rows / jnp.sqrt(jnp.where(squares > 0, squares, 1.0))

    return jnp.mean(jnp.sum(jnp.square(slope(student) - jax.lax.stop_gradient(slope(teacher))), -1))

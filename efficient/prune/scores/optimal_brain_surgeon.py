"""Optimal brain surgeon, layer by layer: the least rise of a layer's squared error when a weight goes.

For an output column w of a layer with inputs X, the mean of half the squared error of a change d is
d^T H d / 2 with H = X^T X / n. The least over all d that take w_q away, the others being free to make up for
it, is w_q^2 / (2 [H^-1]_qq).

Source: Hassibi and Stork, 1993, "Second order derivatives for network pruning: optimal brain surgeon",
equation 5; layer by layer: Dong et al., 2017, arXiv:1705.07565.
Differs: only the score; the other weights are not moved. H is damped.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from efficient.core.statistics import known
from efficient.core.transform import Key, recipe
from efficient.prune.score import Score, keep_memory
from efficient.prune.scores.features import along_features


@recipe
def optimal_brain_surgeon(*, damping: float = 0.01) -> Score:
    """w^2 / (2 [H^-1]_qq), with q the place among the inputs of w's output.

    H is the mean Gram matrix of what enters, plus `damping` times the mean of its diagonal on its diagonal,
    inverted by a float32 Cholesky factor. The score's memory is 1 / [H^-1]_qq, a number an input.

    Needs, in `stats`: `observe(..., statistics="gram")`.

    Args:
      damping: above 0; what makes H invertible where inputs are dependent, or never on.

    Raises:
      ValueError: at once, `damping` out of range; at `init`, `stats` without Gram matrices, or of another
        weight.

    Source: module docstring.
    """
    if not damping > 0:
        raise ValueError(f"damping must be above 0, got {damping!r}; 0.01 adds a hundredth of the mean.")

    def start(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Float[Array, "*ones"]:
        del key
        gram = known(stats, "gram", path=path, how="call observe(..., statistics='gram')")
        count = jnp.maximum(stats.gram_count, 1.0)
        lead = stats.gram_count.ndim
        free = _freedom(gram / count.reshape(*count.shape, *[1] * (gram.ndim - lead)), damping)
        flat = free.reshape(*free.shape[:lead], -1)  # group after group
        return along_features(flat, axes=stats.contracted, shape=tuple(value.shape), path=path)

    return Score(start, keep_memory, lambda memory, value: 0.5 * memory * jnp.square(value))


@jax.jit
def _freedom(
    hessian: Float[Array, "*lead n n"], damping: float | Float[Array, ""]
) -> Float[Array, "*lead n"]:
    """1 / diag((H + damping * mean diag(H) * I)^-1); of H = 0, nearly 0."""
    size = hessian.shape[-1]
    mean = jnp.trace(hessian, axis1=-2, axis2=-1) / size
    add = jnp.maximum(damping * mean, jnp.finfo(jnp.float32).tiny)
    identity = jnp.eye(size).reshape(*[1] * (hessian.ndim - 2), size, size)
    factor = jnp.linalg.cholesky(hessian + add[..., None, None] * identity)
    inverse = jax.scipy.linalg.solve_triangular(
        factor, jnp.broadcast_to(identity, hessian.shape), lower=True
    )  # H^-1 = L^-T L^-1, whose diagonal is the squares of the columns of L^-1, summed
    return 1.0 / jnp.sum(jnp.square(inverse), axis=-2)

"""Least squares: the best weights for a given mask, each output with its own normal equations.

Source: Hassibi and Stork, 1993, "Second order derivatives for network pruning: Optimal Brain Surgeon",
equations 3 to 5, for many weights at once; Frantar and Alistarh, 2023, arXiv:2301.00774, equation 2.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from efficient.core.hessian import first_finite, require_damping
from efficient.core.layer import layer
from efficient.core.paths import flatten
from efficient.core.transform import Key, State, Transform, dense_value, is_float, recipe, require_transform
from efficient.prune.corrected import Corrected, correction
from efficient.prune.mask import masked

OUTPUTS_AT_ONCE = 16  # each needs a matrix [inputs, inputs]
EXACT = jax.lax.Precision.HIGHEST


def change_of_rows(
    weights: Float[Array, "inputs outputs"],
    keep: Bool[Array, " inputs"],
    gram: Float[Array, "inputs inputs"],
    damping: float | Float[Array, ""],
) -> Float[Array, "inputs outputs"]:
    """What the inputs kept gain where all outputs lose the same inputs: D of H_kk D_k = H_kg W_g, else 0."""
    kept = keep[:, None]

    def solve(hessian: jax.Array) -> jax.Array:
        block = jnp.where(kept & keep[None, :], hessian, jnp.eye(keep.size))
        gone = jnp.matmul(hessian, jnp.where(kept, 0.0, weights), precision=EXACT)
        factor = jax.scipy.linalg.cho_factor(block, lower=True)
        return jax.scipy.linalg.cho_solve(factor, jnp.where(kept, gone, 0.0))

    return first_finite(solve, gram, damping)


@jax.jit
def change_of(
    weights: Float[Array, "inputs outputs"],
    mask: Bool[Array, "inputs outputs"],
    gram: Float[Array, "inputs inputs"],
    damping: float | Float[Array, ""] = 0.0,
) -> Float[Array, "inputs outputs"]:
    """`correct(...) - weights` where the mask is True, 0 elsewhere."""

    def one(column: tuple[jax.Array, jax.Array]) -> jax.Array:
        return change_of_rows(column[0][:, None], column[1], gram, damping)[:, 0]

    return jax.lax.map(one, (weights.T, mask.T), batch_size=OUTPUTS_AT_ONCE).T


def correct(
    weights: Float[Array, "inputs outputs"],
    mask: Bool[Array, "inputs outputs"],
    gram: Float[Array, "inputs inputs"],
    *,
    damping: float = 0.0,
) -> Float[Array, "inputs outputs"]:
    """The W' of smallest tr((W' - W)^T H (W' - W)) that is zero where the mask is False.

    H = gram + damping * mean(diag gram) * I; see `hessian.first_finite`. A cost of outputs * inputs^3.

    Args:
      weights: W, float32.
      mask: which stay.
      gram: X^T X of the inputs.
      damping: from 0, a fraction of the mean diagonal.

    Example:
      >>> # The second input is twice the first: what the first weight did, the second does at half of it.
      >>> w, mask = jnp.array([[1.0], [3.0]]), jnp.array([[False], [True]])
      >>> correct(w, mask, jnp.array([[1.0, 2.0], [2.0, 4.0]])).tolist()
      [[0.0], [3.5]]
    """
    return masked(weights + change_of(weights, mask, gram, damping), mask)


@recipe
def corrected(transform: Transform, *, damping: float = 0.01) -> Transform:
    """The mask of another transform, with the weights that stay corrected for those that go.

    `corrected(magnitude(0.9))` has the mask of magnitude pruning, and of all weights with this mask those
    whose outputs are nearest, X the inputs that `observe(..., statistics="gram")` saw. What `transform` shows
    as zero at `init` is gone; its schedule, and other changes that it makes, are not followed.

    Args:
      transform: makes zeros, such as `magnitude` or `prune`.
      damping: from 0, added to the diagonal of X^T X, as a fraction of its mean; more changes weights less.

    Raises:
      ValueError: at once, `transform` is none or `damping` negative or not finite; at `init`, no Gram matrix
        for a leaf, or one of other inputs.

    Source: module docstring.
    """
    require_transform(transform, "corrected(transform)")
    require_damping(damping)

    def over(masks: Mapping[str, jax.Array]) -> Transform:
        def solve(value: jax.Array, *, path: str, stats: Any, key: Key | None) -> Corrected:
            del key
            problem = layer(value, path=path, stats=stats)
            stays = layer(masks[path], path=path, stats=stats).weights != 0
            one = lambda w, m, g: change_of(w, m, g, damping)  # noqa: E731
            return Corrected(masks[path], problem.back(jax.vmap(one)(problem.weights, stays, problem.gram)))

        return correction(solve)

    def init(params: Any, *, stats: Any = None, key: Key | None = None) -> State:
        shown = flatten(transform.apply(params, transform.init(params, stats=stats, key=key)))[0]
        masks = {path: dense_value(value) != 0 for path, value in shown.items() if is_float(value)}
        return over(masks).init(params, stats=stats, key=key)

    return over({})._replace(init=init)

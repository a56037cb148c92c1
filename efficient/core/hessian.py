"""Hessian: of |X (W' - W)|^2 / 2 in the weights of one output, X^T X; the same for every output.

Source: Frantar and Alistarh, 2023, arXiv:2301.00774, section 3 (H = X X^T + lambda I). *Differs:* lambda is
a fraction of the mean diagonal over inputs that are not always zero, and grows if it does not suffice.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LEAST = 1e-6  # damping of the first retry after none
TRIES = 10


def require_damping(damping: float) -> None:
    """Refuses what is no fraction of the diagonal.

    Raises:
      ValueError: it is negative, infinite or NaN.
    """
    if not 0 <= damping < float("inf"):
        raise ValueError(f"damping must be finite and at least 0, got {damping!r}; 0.01 is usual.")


def is_dead(gram: Float[Array, "inputs inputs"]) -> Bool[Array, " inputs"]:
    """True of inputs that were always zero: their weights change nothing."""
    return jnp.diagonal(gram) == 0


def first_finite(
    solve: Callable[[Float[Array, "inputs inputs"]], Float[Array, "*solution"]],
    gram: Float[Array, "inputs inputs"],
    damping: float | Float[Array, ""],
) -> Float[Array, "*solution"]:
    """`solve(H)` with H = X^T X + damping * mean(diag) * I; tenfold damping until the solution is finite.

    Dead inputs have the mean on the diagonal of H and meet no other input. After `TRIES` retries the solution
    is returned as it is: a Gram matrix with NaN gives NaN.

    Args:
      solve: traceable.
      gram: X^T X.
      damping: from 0, a fraction of the mean diagonal.
    """
    dead = is_dead(gram)
    mean = jnp.trace(gram) / jnp.maximum(jnp.sum(~dead), 1)
    mean = jnp.where(mean == 0, 1.0, mean)

    def at(amount: jax.Array) -> jax.Array:
        return solve(gram + jnp.diag(jnp.where(dead, mean, amount * mean)))

    def again(carry: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
        amount, _, tries = carry
        return jnp.maximum(10 * amount, LEAST), at(amount), tries + 1

    def goes_on(carry: tuple[jax.Array, ...]) -> jax.Array:
        return ~jnp.all(jnp.isfinite(carry[1])) & (carry[2] <= TRIES)

    start = jnp.asarray(damping, jnp.float32)
    shape = jax.eval_shape(at, start)
    begin: tuple[jax.Array, ...] = (start, jnp.full(shape.shape, jnp.nan, shape.dtype), jnp.int32(0))
    return jax.lax.while_loop(goes_on, again, begin)[1]


def inverse_factor(hessian: Float[Array, "inputs inputs"]) -> Float[Array, "inputs inputs"]:
    """The upper triangular U of H^-1 = U^T U, with no inverse taken.

    With its axes reversed H has a factor L; reversed again that is an upper R with H = R R^T, and U = R^-1.
    U[j, j:] / U[j, j] is the first row of (H[j:, j:])^-1 over its first entry: the update of OBS for input j
    once those before it are done.
    """
    reverse = jnp.linalg.cholesky(hessian[::-1, ::-1])[::-1, ::-1]
    identity = jnp.eye(hessian.shape[0], dtype=hessian.dtype)
    return jax.scipy.linalg.solve_triangular(reverse, identity, lower=False)
